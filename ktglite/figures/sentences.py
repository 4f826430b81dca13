"""What records show in sentences and small tables: the notebooks print them, and they say no more
than the intervals do. Each has its Japanese in words.yaml."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ktglite.experiments import ablation
from ktglite.experiments.claims import PAPER, differs, effect_text
from ktglite.figures.graphs import LETTERS, SPLITS, condition_label, in_order

__all__ = ["best_graphs", "by_question", "claim_table", "early_stopping", "luck"]
__all__ += ["repeated_claims", "searches", "sources_matter", "symmetry", "winners"]

# ---- Table 1


def claim_table(primary: pd.DataFrame, lines: Mapping[str, str]) -> pd.DataFrame:
    """Claims x sources, each cell "+2.4 [+1.1, +3.7], supported".

    `primary`: from `claims.claims_table`. `lines`: what each claim asks, in this order.
    """
    texts = primary.apply(effect_text, axis=1) + ", " + primary.verdict
    table = primary.assign(text=texts).pivot(index="claim", columns="source", values="text")
    columns = list(dict.fromkeys(primary.source.sort_index(ascending=False)))[::-1]
    table = table.reindex(index=list(lines), columns=columns).fillna("")
    return table.set_axis([f"{claim}: {what}" for claim, what in lines.items()])


def sources_matter(primary: pd.DataFrame) -> str:
    """A sentence per source: what its weights do on node 1 and on each neighbour; and whether the
    sources differ on node 1, which they do where their intervals are apart."""
    rows = primary.set_index(["claim", "source"])
    told = []
    for source in rows.loc["C1"].index:
        own = _adds("pre-training node 1", rows.loc["C1", source])
        others = _adds("each pre-trained neighbour", rows.loc["C2", source])
        told.append(f"With {source}, {own}, and {others}.")
    found = rows.loc["C1"]
    if found.low.max() > found.high.min():
        told.append("So the source matters.")
    return "\n".join(told)


def _adds(what: str, row: Mapping) -> str:
    """What an effect with a verdict is: "node 1 adds 2.4 points [1.1, 3.7]"."""
    if row["verdict"] not in ("supported", "contradicted"):
        return f"{what} is not resolved ({effect_text(row)})"
    ends = sorted(abs(row[end]) for end in ("low", "high"))
    verb = "adds" if row["effect"] > 0 else "costs"
    return f"{what} {verb} {abs(row['effect']):.1f} points [{ends[0]:.1f}, {ends[1]:.1f}]"


def symmetry(table: pd.DataFrame) -> str:
    """Node 2 minus node 3 of every source, which is 0 by design; from `claims.exploratory`."""
    told = []
    rows = table[table.contrast.str.contains("node 2 - node 3") & table.low.notna()]
    for row in rows.to_dict("records"):
        paper = row["from"] == "paper"
        source = ablation.stands_for(row["source"]) if paper else row["source"]
        whose = "the paper's runs" if paper else "these runs"
        inside = row["low"] <= 0 <= row["high"]
        told.append(f"{whose}, {source}: node 2 minus node 3 {effect_text(row)}, the interval ")
        told[-1] += "contains 0, as it should" if inside else "excludes 0"
    return "\n".join(told)


# ---- searches


def searches(summaries: ablation.Summaries, recorded: Iterable[str]) -> str:
    """What every search trained, saved and found; those named in `recorded` come with the kit."""
    told = []
    for name, summary in summaries.items():
        how = "recorded" if name in recorded else "searched here"
        done = summary["states"].get("COMPLETE", 0)
        text = f"{condition_label(name, summaries)} ({how}): {len(summary['trials'])} graphs, "
        text += f"{done} to the end; {_saved([summary])} % of the epochs saved; "
        if summary["best"]:
            split = SPLITS[summary["select_on"]]
            text += f"the winner has {summary['selection_value']:.1f} % ({split})"
        else:
            text += "no winner"
        told.append(text)
    return "\n".join(told)


def _saved(summaries: Iterable[Mapping]) -> str:
    """Mean share of the epochs that searches did not train (%)."""
    spent = [summary["epochs_run"] / summary["epochs_full"] for summary in summaries]
    return f"{100 * (1 - np.mean(spent)):.0f}"


def best_graphs(summaries: ablation.Summaries) -> str:
    """The best graph of every condition by its value in the search, one run each."""
    won = {name: summaries[name] for name in in_order(summaries) if summaries[name]["best"]}
    if not won:
        return "no graph was trained to the end"
    found = [
        f"{condition_label(name, summaries)} {own['selection_value']:.1f} %"
        for name, own in won.items()
    ]
    splits = ", ".join(dict.fromkeys(SPLITS[own["select_on"]] for own in won.values()))
    return f"best recorded graph, one run each ({splits}): {'; '.join(found)}"


def early_stopping(
    kept: pd.DataFrame, graphs: int, summaries: ablation.Summaries | None = None
) -> str:
    """In how many of a hundred searches of `graphs` the rule keeps the best, from
    `bench.kept_best`; and what it saved in `summaries`."""
    found = [f"{row.kept:.0f} ({LETTERS[row.condition]})" for row in kept.itertuples()]
    told = ""
    if summaries:
        told = f"early stopping saved {_saved(summaries.values())} % of the epochs; "
    return f"{told}of 100 searches of {graphs} graphs the best is kept in {', '.join(found)}"


def luck(table: pd.DataFrame, n: int = 8) -> str:
    """What choosing the best of n adds to its value in the search, from `bench.optimism`."""
    rows = table.to_dict("records")
    found = [f"{effect_text(row)} ({LETTERS[row['condition']]})" for row in rows]
    shown = int((table.low > 0).sum())
    told = f"from one graph to the best of {n}, validation rises by {', '.join(found)} points more "
    told += "than test accuracy"
    if not shown:
        return f"{told}: none is distinguishable from 0"
    return f"{told}: {shown} of {len(table)} are above 0"


def winners(gaps: Mapping[str, Mapping], summaries: ablation.Summaries) -> str:
    """Each winner, trained again, against its target alone, from `claims.winner_gaps`."""
    if not gaps:
        missing = "there is no Table 1 (notebook 02) to compare it with"
        return f"no winner was trained again, or {missing}"
    told = []
    for name in in_order(gaps):
        gap = gaps[name]
        n = f"n = {gap['winner']} and {gap['alone']}"
        words = f"against its target alone the winner is {differs(gap)}, {n}"
        end = "" if gap["low"] > 0 else ": that a graph was needed is not shown"
        told.append(f"{condition_label(name, summaries)}: {words}{end}")
    return "\n".join(told)


# ---- all of it


def repeated_claims(repeated: pd.DataFrame, summaries: ablation.Summaries) -> dict[str, str]:
    """C4 and C5 of repeated searches, from `bench.repeated_claims`, a cell of a page for each."""
    found = {claim: [] for claim in dict.fromkeys(repeated.claim)}
    for row in repeated.to_dict("records"):
        name = condition_label(row["condition" if row["claim"] == "C4" else "against"], summaries)
        less = f"({LETTERS[row['condition']]}) − " * (row["claim"] == "C5")
        found[row["claim"]].append(f"{less}{name}: {effect_text(row)}")
    return {claim: "; ".join(texts) for claim, texts in found.items()}


def by_question(forest: pd.DataFrame, repeated: pd.DataFrame, lines: Mapping[str, str]) -> str:
    """The answer of notebook 04: a line per question, with every effect under its verdict.

    `forest`: from `claims.forest`; the paper's own numbers are left out. `repeated`: C4 and C5 from
    `bench.repeated_claims`. `lines`: the questions of C0 to C3 by claim, in this order.
    """
    ours = forest[(forest["set"] != PAPER) & forest.effect.notna()]
    words = {"supported": "it helps with", "contradicted": "it lowers accuracy with"}
    words["not resolved at this n"] = "not resolved with"
    told = []
    for claim, what in lines.items():
        parts = []
        for verdict, verb in words.items():
            rows = ours[(ours.claim == claim) & (ours.verdict == verdict)].to_dict("records")
            found = [f"{r['source']} ({r['set']}, {effect_text(r)}, n = {r['n']})" for r in rows]
            parts += [f"{verb} {', '.join(found)}"] if found else []
        told.append(f"{what}: {'; '.join(parts)}")
    for claim, part in repeated.groupby("claim", sort=False):
        what = "Searching with pre-trained starts" if claim == "C4" else "Mixing both sources"
        beats, unclear = [], []
        for row in part.to_dict("records"):
            name, other = (f"({LETTERS[row[of]]})" for of in ("condition", "against"))
            beats.append(f"{name} beats {other} in {row['positive']:.0f} ({effect_text(row)})")
            unclear += [f"{name} over {other}"] if row["low"] <= 0 else []
        told.append(f"{what}: of {part.n.max()} pairs of winners {', '.join(beats)}")
        told[-1] += f"; not shown for {', '.join(unclear)}" if unclear else ""
    return "\n".join(told)
