"""Captions and alternative texts: what a figure shows, and what is seen in it, from its numbers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ktglite.experiments import ablation, claims
from ktglite.figures import graphs, results
from ktglite.figures.japanese import translate, words
from ktglite.figures.style import mark_of
from ktglite.models import title

__all__ = ["alt_text", "caption"]


def caption(
    name: str, records: Sequence[Mapping] = (), summaries: Mapping[str, Mapping] | None = None,
    lang: str = "en", table: pd.DataFrame | Sequence[Mapping] | None = None, alt: bool = False,
) -> str:  # fmt: skip
    """What a figure shows and what is seen in it; "" for a figure that is not in words.yaml.

    Args:
        name: of the figure, as in words.yaml: that of its function without "plot_", or its file's.
        records: runs of Table 1, or of `plot_seed_pairs`.
        summaries: of searches, by condition.
        lang: "en" or "ja".
        table: what the figure was drawn from, where that is neither records nor summaries.
        alt: whether the text stands for the figure (`alt_text`), instead of below it.
    """
    if name not in words()["figures"]:
        return ""
    texts = words()["figures"][name]
    facts = SEEN[name](records, summaries or {}, table) if name in SEEN else [{}]
    if lang == "ja":
        facts = [
            {
                key: translate(value) if isinstance(value, str) else value
                for key, value in one.items()
            }
            for one in facts
        ]
    first = texts["kind" if alt else "drawn"][lang].format(**_counts(records, summaries or {}))
    seen = [texts["seen"][lang].format(**one) for one in facts]
    return (" " if lang == "en" else "").join([first, *seen])


def alt_text(name: str, *found, **more) -> str:
    """What is seen in a figure, for those who cannot see it; arguments as of `caption`."""
    return caption(name, *found, **more, alt=True)


def _counts(records: Sequence[Mapping], summaries: Mapping[str, Mapping]) -> dict[str, str]:
    """Seeds of a row, data sets, and graphs of a search."""
    seeds = sorted(set(Counter(record["label"] for record in records).values()))
    data = {r["data"]["name"] for r in (*records, *summaries.values()) if "data" in r}
    sizes = sorted({len(summary["trials"]) for summary in summaries.values()})
    ends = dict.fromkeys(str(n) for n in (*seeds[:1], *seeds[-1:]))
    return {
        "n": "–".join(ends),
        "data": ", ".join(sorted(data)),
        "graphs": "/".join(map(str, sizes)),
    }


# ---- what is seen: a dictionary per panel or series, for `seen` of words.yaml


def _forest(records, summaries, table: pd.DataFrame | None) -> list[dict]:
    if table is None:
        table = claims.forest({"this run": (records, summaries)})
    facts = []
    for name, part in table[table.effect.notna()].groupby("set", sort=False):
        found: dict[str, list[str]] = {"supported": [], "contradicted": [], "": []}
        for row in part.itertuples():
            mark = mark_of(row)
            found[mark if mark in found else ""].append(results.claim_row(row.claim, row.source))
        told = {mark: "; ".join(rows) or "none" for mark, rows in found.items() if mark}
        facts.append({"set": name, "open": len(found[""]), "all": len(part), **told})
    return facts


def _table1(records, summaries, table) -> list[dict]:
    facts = []
    for source in ablation.sources_of(records):
        means = ablation.tidy(records, [source]).groupby("pattern").accuracy.mean()
        low = {"low": means.min(), "low_at": means.idxmin()}
        facts.append(
            {"source": title(source), **low, "high": means.max(), "high_at": means.idxmax()}
        )
    return facts


def _learning_curves(records, summaries, table) -> list[dict]:
    names = ablation.patterns(ablation.count_nodes(records))
    halves = {"scratch": names[: len(names) // 2], "trained": names[len(names) // 2 :]}
    facts = []
    for source in ablation.sources_of(records):
        fact = {"source": title(source)}
        for key, half in halves.items():
            fact[key] = results.neighbours_add(results.curve_table(records, source, half), half)
        facts.append(fact)
    return facts


def _main_effects(records, summaries, table) -> list[dict]:
    found = claims.exploratory(records)
    found = found[found.contrast.str.startswith("main effect") & found.effect.notna()]
    facts = []
    for (origin, source), part in found.groupby(["from", "source"], sort=False):
        name = ablation.stands_for(source) if origin == "paper" else source
        effects = [f"node {row.contrast[-1]} {row.effect:+.1f}" for row in part.itertuples()]
        facts.append({"origin": origin, "source": name, "effects": ", ".join(effects)})
    return facts


def _knowledge(records, summaries, table: pd.DataFrame) -> list[dict]:
    facts = []
    for data, part in table.groupby("data", sort=False):
        fact = {"data": data}
        for key, rows in (("more", part.knowledge > 0), ("less", part.knowledge <= 0)):
            fact[key] = rows.sum()
            fact[f"{key}_up"] = (rows & (part.low > 0)).sum()
            fact[f"{key}_down"] = (rows & (part.high < 0)).sum()
        facts.append(fact)
    return facts


def _pairs(records, summaries, table) -> list[dict]:
    return results.pair_gains(records).to_dict("records")


def _best_graphs(records, summaries, table) -> list[dict]:
    facts = []
    for name, arm in graphs.winners(summaries).items():
        own = graphs.reevaluated(summaries[name], "independent")
        fact = {"mean": arm.mean, "alone": np.mean(own["test_accuracy"]) if own else np.nan}
        facts.append({"condition": graphs.condition_label(name, summaries), **fact})
    return facts


def _search_curves(records, summaries, table) -> list[dict]:
    facts = []
    for name in graphs.in_order(summaries):
        done = [trial for trial in summaries[name]["trials"] if trial["state"] == "COMPLETE"]
        for best in sorted(done, key=lambda trial: -trial["value"])[:1]:
            fact = {"best": best["value"], "start": title(best["graph"]["nodes"][0]["init"])}
            facts.append({"condition": graphs.condition_label(name, summaries), **fact})
    return facts


def _ends(series: str, x: str, y: str) -> Callable[..., list[dict]]:
    """Of lines: the first and the last point of each, on the x axis."""

    def find(records, summaries, table: pd.DataFrame) -> list[dict]:
        facts = []
        for name, part in table.sort_values(x, kind="stable").groupby(series, sort=False):
            fact = {"series": title(name), "first": part[y].iloc[0], "last": part[y].iloc[-1]}
            facts.append(fact | {"first_at": part[x].iloc[0], "last_at": part[x].iloc[-1]})
        return facts

    return find


def _reproduction(records, summaries, table: pd.DataFrame) -> list[dict]:
    outside = table.row[~table.inside.fillna(True).astype(bool)]
    rows = int(table.inside.count())
    fact = {"inside": rows - len(outside), "all": rows}
    return [fact | {"outside": ", ".join(outside) or "none"}]


def _sources(records, summaries, table: Sequence[Mapping]) -> list[dict]:
    facts = []
    for data, part in results.start_gains(table).groupby("data", sort=False):
        gains = [f"{row.source} {row.effect:+.1f}" for row in part.itertuples()]
        facts.append({"data": data, "gains": ", ".join(gains)})
    return facts


SEEN = {
    "forest": _forest,
    "table1": _table1,
    "learning_curves": _learning_curves,
    "main_effects": _main_effects,
    "gain_against_knowledge": _knowledge,
    "convergence": _ends("start", "train_accuracy", "effect"),
    "seed_pairs": _pairs,
    "figure2_best_graphs": _best_graphs,
    "search_curves": _search_curves,
    "best_of": _ends("measure", "n", "accuracy"),
    "regret": _ends("rule", "epochs", "regret"),
    "reproduction": _reproduction,
    "sources": _sources,
}
