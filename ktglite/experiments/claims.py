"""The paper's claims put to our records and to the paper's own numbers, by one rule.

C1 to C3 are confirmatory, with Holm's correction over all of them; C0, a question of ours, is a
family of its own. All else has intervals and no verdict. docs/statistics.md says why.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pandas as pd

from ktglite.experiments import ablation, stats
from ktglite.experiments.space import CONDITIONS
from ktglite.graph import Graph
from ktglite.models import title
from ktglite.store import atomic_write

__all__ = ["claims_table", "convergence_table", "differs", "exploratory"]
__all__ += ["forest", "gate_effects", "overview", "winner_gaps", "write_tables"]

CLAIMS = {
    "C0": "the graph beats its target alone, with the same start and budget",
    "C1": "pre-training node 1 helps (mean over the states of the auxiliaries)",
    "C2": "each pre-trained auxiliary helps a target from scratch (mean gain per auxiliary)",
    "C3": "all nodes pre-trained beat none",
    "C4": "the searched graph with pre-training beats the searched graph without",
    "C5": "the searched graph of mixed sources is best",
}
PAPER = "the paper"  # its set in a forest: no profile is called so
FAMILIES = {"C0": "C0", "C1": "C1-C3", "C2": "C1-C3", "C3": "C1-C3"}  # of Table 1

BY_DESIGN = "node 2 - node 3 (0 by design)"
EFFECT = ["effect", "low", "high", "n", "pretrainings"]  # what is shown of a contrast

# ---- what is declared


def primaries(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The contrasts of C0 to C3, the same for every source, as weights over patterns (`names`);
    "alone" is the target of the graph with the same start."""
    scratch, trained = _by_target(names)
    everything = names[-1]
    return {
        "C0": {everything: 1.0, "alone": -1.0},
        "C1": dict.fromkeys(trained, 1 / len(trained)) | dict.fromkeys(scratch, -1 / len(scratch)),
        "C2": _slope(scratch),
        "C3": {everything: 1.0, "none": -1.0},
    }


def _by_target(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Patterns whose target starts from scratch, and those whose target is pre-trained."""
    trained = [name for name in names if name.split("+")[0] == "1"]
    return [name for name in names if name not in trained], trained


def _slope(names: Sequence[str]) -> dict[str, float]:
    """Gain per pre-trained auxiliary over patterns that have their target's start in common."""
    counts = np.array([len(set(name.split("+")) - {"none", "1"}) for name in names], float)
    off = counts - counts.mean()
    return dict(zip(names, (off / (off @ off)).tolist(), strict=True))


def _explored(sources: Sequence[str], names: Sequence[str]) -> Iterator[tuple]:
    """All that `exploratory` shows: (claim, kind of value, source, contrast, weights)."""
    scratch, trained = _by_target(names)
    everything = names[-1]
    weight = 2 / len(names)
    main = {
        node: {name: weight if node in name.split("+") else -weight for name in names}
        for node in everything.split("+")
    }
    pairs = zip(scratch, trained, strict=True)  # in the same order of auxiliaries
    shared = {f"node 1, when {name}": {flipped: 1.0, name: -1.0} for name, flipped in pairs}
    shared |= {f"only {name}": {name: 1.0, "none": -1.0} for name in scratch[1:]}
    shared |= {f"main effect of node {node}": weights for node, weights in main.items()}
    if len(main) == 3:
        same = {name: main["2"][name] - main["3"][name] for name in names}
        shared[BY_DESIGN] = same
    for source in sources:
        for what, weights in shared.items():
            yield "", "node 1", title(source), what, _of(source, weights)
        for name in names:
            own = source if name in trained else "scratch"
            weights = {(source, name): 1.0, (own, "alone"): -1.0}
            yield "", "node 1", title(source), f"{name} minus its target alone", weights
    # S1 to S3, and C0 and C3 by the mean over nodes
    interaction = _slope(trained) | {name: -weight for name, weight in _slope(scratch).items()}
    alone = "minus its target alone, mean over nodes"
    weights = _of("scratch", {"none": 1.0, "alone": -1.0})
    yield "", "nodes", title("scratch"), f"none {alone}", weights
    for source in sources:
        of = title(source)
        less_none = _of(source, {everything: 1.0, "none": -1.0})
        weights = _of(source, {everything: 1.0, "alone": -1.0})
        yield "", "nodes", of, f"{everything} {alone}", weights
        yield "", "nodes", of, f"{everything} minus none, mean over nodes", less_none
        what = "gain per pre-trained auxiliary, node 1 pre-trained minus from scratch"
        yield "S1", "node 1", of, what, _of(source, interaction)
        weights = {(source, "alone"): 1.0, ("scratch", "alone"): -1.0}
        yield "S3", "epochs", of, "one network, pre-trained minus from scratch", weights
        yield "S3", "epochs", of, f"graph, {everything} minus none", less_none
    rivals = [source for source in sources if ablation.paper_source(source) == "imagenet1k"][:1]
    for rival, source in product(rivals, sources):
        for what, pattern in (("start of node 1", "1"), ("auxiliaries", scratch[-1])):
            if source != rival:
                weights = {(source, pattern): 1.0, (rival, pattern): -1.0}
                of = f"{title(source)} minus {title(rival)}"
                yield "S2", "node 1", of, f"as {what}: row {pattern}", weights


def _of(source: str, weights: Mapping[str, float]) -> dict[tuple[str, str], float]:
    return {(source, pattern): weight for pattern, weight in weights.items()}


# ---- verdicts


def claims_table(
    records: ablation.Records,
    summaries: ablation.Summaries | None = None,
    sources: ablation.Sources = None,
    scale: str = "",
) -> pd.DataFrame:
    """A row per claim and source, ours with the paper's beside it by the same rule.

    Args:
        records: of Table 1.
        summaries: `search.study_summary` by condition, re-evaluated, for C4, C5 and C0 of
            searched graphs.
        sources: which to show, in this order; the family of tests is that of all in `records`.
        scale: the profile of the numbers: a verdict holds at that scale only.

    Returns:
        Columns `claim`, `says`, `source`, those of `stats.contrast`, `low_pretrainings` and
        `high_pretrainings` (the interval with a pre-training as the unit, where several took
        turns), `family`, `p_holm`, `verdict`, `paper effect`, `paper low`, `paper high`,
        `paper verdict`, `scale`.
    """
    n = ablation.count_nodes(records)
    sources = list(sources or ablation.sources_of(records))
    family = list(dict.fromkeys([*sources, *ablation.sources_of(records)]))
    arms = ablation.run_arms(records, family)
    ours = _judge(_table1_rows(arms, family, n) + _search_rows(summaries or {}, records))
    hidden = [title(source) for source in family if source not in sources]
    ours = ours[~ours.source.isin(hidden)].reset_index(drop=True)
    theirs = _judge(_table1_rows(ablation.paper_arms(family, n), family, n))
    theirs = theirs.set_index(["claim", "source"])[["effect", "low", "high", "verdict"]]
    ours = ours.join(theirs.add_prefix("paper "), on=["claim", "source"])
    # of a search the paper gives one run each, and no spread
    ours["paper effect"] = ours["paper effect"].fillna(ours["published"])
    ours["paper verdict"] = ours["paper verdict"].fillna("not measured")
    return ours.drop(columns=["error", "published"]).assign(scale=scale)


def _table1_rows(arms: stats.Arms, sources: Sequence[str], n: int) -> list[dict]:
    """C0 to C3 from the arms of a Table 1, one row per claim and source; C0 also from scratch."""
    declared = primaries(ablation.patterns(n)).items()
    rows = [("C0", "scratch", {"none": 1.0, "alone": -1.0})]
    rows += [(claim, source, weights) for source in sources for claim, weights in declared]
    found = []
    for claim, source, weights in rows:
        weights = _of(source, weights)
        row = {"claim": claim, "says": CLAIMS[claim], "source": title(source)}
        row |= stats.contrast(arms, weights)
        over = stats.over_pretrainings(arms, weights)
        row |= {f"{end}_pretrainings": over[end] for end in ("low", "high")}
        found.append(row | {"family": FAMILIES[claim], "published": np.nan})
    return found


def _judge(rows: list[dict]) -> pd.DataFrame:
    """Holm's p within each family, and verdicts; what is in no family is descriptive."""
    table = pd.DataFrame(rows)
    tested = table.family != ""
    families = table[tested].groupby("family").p
    table["p_holm"] = families.transform(lambda p: pd.Series(stats.holm(p), p.index))
    verdicts = list(map(stats.verdict, table.effect, table.p_holm))
    table["verdict"] = np.where(tested | table.effect.isna(), verdicts, "descriptive")
    return table


def forest(sets: Mapping[str, tuple[ablation.Records, ablation.Summaries]]) -> pd.DataFrame:
    """Primaries of several sets of records for one forest plot, the paper's beside them.

    `sets`: {"quick": (records of Table 1, summaries), ..}. Columns `set`, `claim`, `source`,
    `effect`, `low`, `high`, `n`, `verdict`. The paper's searches, shown beside searches of our own,
    are one run each: without interval.
    """
    columns = ["set", "claim", "source", "effect", "low", "high", "n", "verdict"]
    sources = ["imagenet1k", "fractaldb1k"]
    published = _judge(_table1_rows(ablation.paper_arms(sources), sources, 3))
    if any(summaries for _, summaries in sets.values()):
        gains = ablation.paper()["search_gain"]
        names = {name: f"searched: {condition_title(name, {})}" for name in gains}
        found = [("C4", names[name], gain) for name, gain in gains.items()]
        for rival in sources:
            against = f"{names['mixed']}, against {condition_title(rival, {})}"
            found.append(("C5", against, gains["mixed"] - gains[rival]))
        once = pd.DataFrame(found, columns=["claim", "source", "effect"])
        published = pd.concat([published, once.assign(n=1, verdict="descriptive")])
    tables = {name: claims_table(*given) for name, given in sets.items()} | {PAPER: published}
    parts = [table.assign(set=name)[columns] for name, table in tables.items()]
    return pd.concat(parts, ignore_index=True)


def exploratory(records: ablation.Records, sources: ablation.Sources = None) -> pd.DataFrame:
    """Effects that no verdict rests on, with intervals; of this run and of the paper (`from`).

    Per source: each flip of node 1, each pattern of auxiliaries against none, main effects of the
    nodes, node 2 minus node 3, which stand in the same place of the graph, so that it must be 0 by
    design, and each graph minus its target alone. What takes nodes for exchangeable is left out
    where they have several architectures. Then, declared before the runs, the secondary claims
    (`claim`):

    - S1: the interaction of node 1's start and the auxiliaries.
    - S2: FractalDB-1k against ImageNet-1k or its stand-in, as a start and as a teacher.
    - S3: high accuracy in a short time: epochs until the validation accuracy of node 1 first
      reaches what the median network from scratch, alone, ends with; a run that never does counts
      with all of its epochs.

    Columns `from`, `claim`, `source`, `contrast`, `unit` (points or epochs), `effect`, `low`,
    `high`, `n`, `pretrainings`.
    """
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    declared = list(_explored(sources, ablation.patterns(n)))
    ours = {
        "node 1": ablation.run_arms(records, sources),
        "epochs": ablation.run_arms(records, sources, _epochs_to_level(records)),
    }
    alike = ablation.share_architecture(records)
    if alike:
        ours["nodes"] = ablation.run_arms(records, sources, ablation.nodes_accuracy)
    found = {"this run": ours, "paper": {"node 1": ablation.paper_arms(sources, n)}}
    rows = []
    for (origin, arms), (claim, kind, source, what, weights) in product(found.items(), declared):
        if kind in arms and (alike or origin == "paper" or what != BY_DESIGN):
            row = {"from": origin, "claim": claim, "source": source, "contrast": what}
            row["unit"] = "epochs" if kind == "epochs" else "points"
            rows.append(row | stats.contrast(arms[kind], weights))
    return pd.DataFrame(rows, columns=["from", "claim", "source", "contrast", "unit", *EFFECT])


def _epochs_to_level(records: ablation.Records) -> Callable[[Mapping], float]:
    """A function of a record: epochs until node 1 has the accuracy that S3 asks for."""
    ends = [r["epochs"][-1]["val_accuracy"][0] for r in records if r["label"] == "alone"]

    def count(record: Mapping) -> float:
        curve = [epoch["val_accuracy"][0] for epoch in record["epochs"]]
        reached = (epoch for epoch, value in enumerate(curve, 1) if value >= np.median(ends))
        return float(next(reached, len(curve))) if ends else np.nan

    return count


def convergence_table(records: ablation.Records) -> pd.DataFrame:
    """C0 against how far the target alone has come: when does mutual learning help?

    `records`: of starts alone ("alone", "<source>/alone") and of the all-Through graphs of that
    start ("none", "<source>/1+2+3"), at any numbers of epochs and images. A row per `start`,
    `images` (to train) and `epochs`: `train_accuracy` of the target alone (%, last epoch, mean),
    `effect`, `low`, `high`, `n`: graph minus alone on the test images (points, node 1).
    """
    sources = ["scratch", *ablation.sources_of(records)]
    rows = []
    for (images, epochs), found in groupby(sorted(records, key=_size), _size):
        own = list(found)
        everything = ablation.patterns(ablation.count_nodes(own))[-1]
        target = ablation.run_arms(own, sources)
        fit = ablation.run_arms(own, sources, lambda r: r["epochs"][-1]["train_accuracy"][0])
        for source in sources:
            pattern = "none" if source == "scratch" else everything
            gain = stats.contrast(target, _of(source, {pattern: 1.0, "alone": -1.0}))
            row = {"start": title(source), "images": images, "epochs": epochs}
            if gain["n"]:
                row["train_accuracy"] = fit[source, "alone"].mean
                rows.append(row | gain)
    return pd.DataFrame(rows, columns=["start", "images", "epochs", "train_accuracy", *EFFECT])


def _size(record: Mapping) -> tuple[int, int]:
    return record["data"]["train"], record["config"]["epochs"]


def write_tables(
    records: ablation.Records, folder: str | Path, sources: ablation.Sources = None, scale: str = ""
) -> list[Path]:
    """All tables of a Table 1 as files: `write_table`'s three, `claims.csv`, `exploratory.csv`;
    the same records give the same bytes. Arguments are those of `claims_table`."""
    paths = ablation.write_table(ablation.ablation_table(records, sources), folder)
    tables = {"claims": claims_table(records, sources=sources, scale=scale)}
    tables["exploratory"] = exploratory(records, sources)
    for name, table in tables.items():
        paths.append(Path(folder, f"{name}.csv"))
        with atomic_write(paths[-1]) as file:
            file.write(table.to_csv(index=False, float_format="%.6g").encode())
    return paths


# ---- searches


def search_arms(
    summaries: ablation.Summaries, table1: ablation.Records
) -> dict[tuple[str, str], stats.Arm]:
    """Graphs that were trained again with new seeds as arms by (condition, label), such as "top 1";
    "independent" is the winner's target alone: the runs in `table1` of that node, with the images
    and settings of the search."""
    arms = {}
    for name, summary in summaries.items():
        if summary["best"]:
            target = summary["best"]["graph"]["nodes"][:1]
            searched = {"data": summary["data"], "config": summary["training"]}
            alone = [run for run in table1 if run["graph"]["nodes"] == target]
            alone = [run for run in alone if ablation.same_training(run, searched)]
            found = {run["seed"]: ablation.target_accuracy(run) for run in alone}
            arms[name, "independent"] = stats.arm(found)
        for entry in summary["reevaluated"]:
            values = dict(zip(entry["seeds"], entry["test_accuracy"], strict=True))
            arms[name, entry["label"]] = stats.arm(values)
    return arms


def _search_rows(summaries: ablation.Summaries, table1: ablation.Records) -> list[dict]:
    """C0, C4 and C5 from searches whose best graphs were trained again with fresh seeds."""
    arms = search_arms(summaries, table1)
    declared = [("C0", name, "independent", name) for name in summaries]
    pretrained = [name for name in ("imagenet1k", "fractaldb1k", "mixed") if name in summaries]
    if "none" in summaries:
        declared += [("C4", name, "top 1", "none") for name in pretrained]
    if "mixed" in summaries:
        declared += [("C5", "mixed", "top 1", name) for name in pretrained if name != "mixed"]
    rows = []
    for claim, name, label, rival in declared:
        best = summaries[name]["best"]
        caveat = "about the graphs found by one search each"
        if best and len(Graph.from_dict(best["graph"]).reaching_target()) == 1:
            caveat += "; the winner is a single network"
        source = f"searched: {condition_title(name, summaries)}"
        source += f", against {condition_title(rival, summaries)}" if claim == "C5" else ""
        row = {"claim": claim, "says": f"{CLAIMS[claim]} ({caveat})", "source": source}
        row |= stats.contrast(arms, {(name, "top 1"): 1.0, (rival, label): -1.0})
        published = ablation.paper()["search_gain"][name] if claim == "C4" else np.nan
        rows.append(row | {"family": "", "published": published})
    return rows


def winner_gaps(
    summaries: ablation.Summaries, table1: ablation.Records
) -> dict[str, dict[str, float]]:
    """By condition whose winner was trained again: the winner minus its target alone, as
    `stats.contrast` of `search_arms`, with the numbers of runs of both, `winner` and `alone`."""
    arms = search_arms(summaries, table1)
    found = {}
    for name in summaries:
        winner, alone = (name, "top 1"), (name, "independent")
        gap = stats.contrast(arms, {winner: 1.0, alone: -1.0})
        if gap["n"]:
            found[name] = gap | {"winner": arms[winner].n, "alone": arms[alone].n}
    return found


def gate_effects(summary: Mapping) -> pd.DataFrame:
    """What starts and gates are worth to node 1: least squares on all graphs of a search that were
    trained to the end, in canonical form. Exploratory. Raises ValueError where there are too few.

    value = constant + start of node 1 + starts of the auxiliaries + gate on its label edge + gates
    on its other edges; auxiliaries stand in equal places, so that each counts alike. Points of the
    split that the search selects on, against scratch and against Cutoff, by `term`, with 95 % t
    intervals and the number `n` of graphs.
    """
    done = [trial for trial in summary["trials"] if trial["state"] == "COMPLETE"]
    graphs = [Graph.from_dict(trial["graph"]).canonical() for trial in done]
    starts = [[node.init for node in graph.nodes] for graph in graphs]
    gates = [graph.gates[0] for graph in graphs]
    columns = {"constant": np.ones(len(done))}
    for gate in [gate for gate in summary["search"]["gates"] if gate != "cutoff"]:
        columns[f"label edge: {gate.title()}"] = [row[0] == gate for row in gates]
    for gate in [gate for gate in summary["search"]["gates"] if gate != "cutoff"]:
        columns[f"edge from an auxiliary: {gate.title()}"] = [row[1:].count(gate) for row in gates]
    pretrained = [choice for choice in summary["choices"] if choice != "scratch"]
    for start in pretrained:
        columns[f"node 1 from {title(start)}"] = [own[0] == start for own in starts]
    for start in pretrained:
        columns[f"an auxiliary from {title(start)}"] = [own[1:].count(start) for own in starts]
    table = pd.DataFrame(columns, dtype=float)
    table = table.loc[:, table.any()]  # of canonical graphs no label edge is Correct
    free = len(table) - len(table.columns)
    if free < 1 or np.linalg.matrix_rank(table) < len(table.columns):
        needed = f"too few for {len(table.columns)} effects"
        raise ValueError(f"{len(done)} graphs were trained to the end: {needed}")
    effect, (squares,), *_ = np.linalg.lstsq(table, [trial["value"] for trial in done])
    error = np.sqrt(np.diag(np.linalg.inv(table.T @ table)) * squares / free)
    half = stats.quantile(free) * error
    found = pd.DataFrame({"term": table.columns, "effect": effect, "low": effect - half})
    found = found.assign(high=effect + half, n=len(done))
    return found[found.term != "constant"].reset_index(drop=True)


def condition_title(condition: str, summaries: ablation.Summaries) -> str:
    """A condition for readers, with its stand-in named: "ImageNet-1k stand-in + FractalDB-1k"."""
    searched = summaries.get(condition, {"choices": CONDITIONS.get(condition, ())})
    pretrained = [title(choice) for choice in searched["choices"] if choice != "scratch"]
    return " + ".join(pretrained) or title("scratch")


def effect_text(found: Mapping) -> str:
    """An effect with its interval, "+2.4 [+1.1, +3.7]" points; without one the effect alone."""
    if np.isnan(found["effect"]):
        return "not measured"
    text = "{effect:+.1f}" if np.isnan(found["low"]) else "{effect:+.1f} [{low:+.1f}, {high:+.1f}]"
    rounded = {name: round(found[name], 1) + 0.0 for name in ("effect", "low", "high")}  # no -0.0
    return text.format_map(rounded).replace("-", "−")


def differs(found: Mapping) -> str:
    """An effect in points as words: "8.5 points better [6.1, 10.9]", or that none is shown.

    `found`: `effect`, `low` and `high`, as from `stats.difference` or `stats.contrast`.
    """
    effect, low, high = (found[name] for name in ("effect", "low", "high"))
    if np.isnan(effect):
        return "not measured"
    size = f"{abs(effect):.1f} points {'better' if effect > 0 else 'worse'}"
    if np.isnan(low):
        return f"{size} (no interval from so few runs)" if effect else "no different"
    if low <= 0 <= high:
        text = effect_text(found).replace(" [", " points [")
        return f"not shown to be better or worse ({text})"
    ends = sorted((abs(low), abs(high)))
    return f"{size} [{ends[0]:.1f}, {ends[1]:.1f}]"


def overview(frame: pd.DataFrame) -> pd.DataFrame:
    """A `forest` as words: a row per claim, a column per set of records, with all its sources."""
    frame = frame[frame.effect.notna()].copy()
    short = frame.source.str.removeprefix("searched: ")
    names = frame.source.where(frame.claim == "C0", short)  # C4 and C5 are of searched graphs only
    frame["text"] = names + ": " + frame.apply(effect_text, axis=1) + ", " + frame.verdict
    return frame.groupby(["claim", "set"]).text.agg("; ".join).unstack()
