"""The paper's claims C1 to C5, and C0, put to our records and to the paper's own numbers by one
rule.

One primary contrast per claim and source is declared in `primaries`, before any run. Holm's
correction is over the primaries of a set of records. Everything else is exploratory: effects with
intervals, and no verdict.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as distributions

from ktglite.experiments import stats
from ktglite.experiments.ablation import (
    count_nodes,
    paper,
    paper_arms,
    patterns,
    run_arms,
    sources_of,
)
from ktglite.models import title

__all__ = ["CLAIMS", "claims_table", "exploratory", "forest", "gate_effects", "search_luck"]

CLAIMS = {
    "C0": "the graph beats its target alone, with the same start and budget",
    "C1": "pre-training node 1 helps (mean over the states of the auxiliaries)",
    "C2": "each pre-trained auxiliary helps a target from scratch (slope)",
    "C3": "all nodes pre-trained beat none",
    "C4": "the searched graph with pre-training beats the searched graph without",
    "C5": "the searched graph of mixed sources is best",
}
MARGIN = 2.0  # points: C5 is also tested for equivalence within this
ONE_SEARCH = "about the graphs found by one search each"


def primaries(source: str, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The declared contrasts of Table 1 for a source, each as weights over arms; `names`: the
    patterns.

    C0 twice: the graph without pre-training ("C0 scratch"), and with all nodes pre-trained.
    """
    scratch, trained = _by_target(names)
    everything = names[-1]
    helpers = {name: 0 if name == "none" else name.count("+") + 1 for name in scratch}
    mean = np.mean(list(helpers.values()))
    spread = sum((count - mean) ** 2 for count in helpers.values())
    slope = {name: (count - mean) / spread for name, count in helpers.items()} if spread else {}
    return {
        "C0 scratch": {"none": 1.0, "alone": -1.0},
        "C0": {everything: 1.0, f"{source}/alone": -1.0},
        "C1": dict.fromkeys(trained, 1 / len(trained)) | dict.fromkeys(scratch, -1 / len(scratch)),
        "C2": slope,
        "C3": {everything: 1.0, "none": -1.0},
    }


def _by_target(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Patterns whose target starts from scratch, and those whose target is pre-trained."""
    trained = [name for name in names if name.split("+")[0] == "1"]
    return [name for name in names if name not in trained], trained


def _arms_of(arms: Mapping[tuple[str, str], stats.Arm], source: str) -> dict[str, stats.Arm]:
    """The arms of one source by pattern, with "alone" and "<source>/alone"."""
    found = {
        pattern: arm for (of, pattern), arm in arms.items() if of == source and pattern != "alone"
    }
    found |= {"alone": arms["scratch", "alone"]} if ("scratch", "alone") in arms else {}
    return found | ({f"{source}/alone": arms[source, "alone"]} if (source, "alone") in arms else {})


def _table1_rows(
    arms: Mapping[tuple[str, str], stats.Arm], sources: Sequence[str], n: int
) -> list[dict]:
    """C0 to C3 from the arms of a Table 1, one row per claim and source."""
    rows, names = [], patterns(n)
    for i, source in enumerate(sources):
        for claim, weights in primaries(source, names).items():
            if claim == "C0 scratch" and i:
                continue  # one arm for all sources
            found = stats.contrast(_arms_of(arms, source), weights, _by_target(names))
            of = title("scratch") if claim == "C0 scratch" else title(source)
            rows.append({"claim": claim[:2], "says": CLAIMS[claim[:2]], "source": of, **found})
    return rows


def _search_arms(summaries: Mapping[str, Mapping]) -> dict[tuple[str, str], stats.Arm]:
    """Re-evaluated graphs as arms by (condition, label).

    Searches that maximised the ensemble have none: the claims, and the paper's numbers, are of node
    1.
    """
    return {
        (name, entry["label"]): stats.arm(
            dict(zip(entry["seeds"], entry["test_accuracy"], strict=True))
        )
        for name, summary in summaries.items()
        if summary.get("search", {}).get("objective", "target") == "target"
        for entry in summary["reevaluated"]
    }


def is_single(graph: Mapping) -> bool:
    """Whether no other node can reach node 1 of a graph (`Graph.to_dict`): then it is a single network."""
    reached, frontier = {0}, [0]
    while frontier:
        heard = {
            s for s, gate in enumerate(graph["gates"][frontier.pop()]) if gate != "cutoff"
        } - reached
        reached |= heard
        frontier += heard
    return len(reached) == 1


def _search_rows(summaries: Mapping[str, Mapping]) -> list[dict]:
    """C0, C4 and C5 from searches whose best graphs were trained again with fresh seeds."""
    arms, rows = _search_arms(summaries), []

    def add(
        claim: str, condition: str, weights: dict[tuple[str, str], float], rival: str = ""
    ) -> None:
        found = stats.contrast(arms, weights)
        single = condition in summaries and summaries[condition]["best"] is not None
        single = single and is_single(summaries[condition]["best"]["graph"])
        says = (
            f"{CLAIMS[claim]} ({ONE_SEARCH}{'; the winner is a single network' if single else ''})"
        )
        source = f"searched: {condition_title(condition, summaries)}"
        source += f", against {condition_title(rival, summaries)}" if rival else ""
        row = {"claim": claim, "says": says, "source": source, **found}
        row |= {"published": paper()["search_gain"][condition]} if claim == "C4" else {}
        rows.append(
            row | ({"p_equivalent": stats.equivalence(found, MARGIN)} if claim == "C5" else {})
        )

    for name in summaries:
        add("C0", name, {(name, "top 1"): 1.0, (name, "independent"): -1.0})
    for name in ("imagenet1k", "fractaldb1k", "mixed"):
        if name in summaries and "none" in summaries:
            add("C4", name, {(name, "top 1"): 1.0, ("none", "top 1"): -1.0})
    for name in ("imagenet1k", "fractaldb1k"):
        if name in summaries and "mixed" in summaries:
            add("C5", "mixed", {("mixed", "top 1"): 1.0, (name, "top 1"): -1.0}, name)
    return rows


def split_gain(summaries: Mapping[str, Mapping]) -> pd.DataFrame:
    """C4 in two parts, exploratory: what the start gives (independent against independent), what the graph adds."""
    arms, rows = _search_arms(summaries), []
    for name in [name for name in summaries if name != "none" and "none" in summaries]:
        start = {(name, "independent"): 1.0, ("none", "independent"): -1.0}
        adds = {(name, "top 1"): 1.0, ("none", "top 1"): -1.0} | {
            arm: -weight for arm, weight in start.items()
        }
        for part, weights in {"the start gives": start, "the graph adds": adds}.items():
            row = {"condition": condition_title(name, summaries), "part": part}
            rows.append(row | _brief(stats.contrast(arms, weights)))
    return pd.DataFrame(rows)


def _brief(found: Mapping[str, float]) -> dict[str, float]:
    return {name: found[name] for name in ("effect", "low", "high", "n")}


def _judge(rows: list[dict]) -> pd.DataFrame:
    """Holm's p over these primaries, and their verdicts."""
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["p_holm"] = stats.holm(table["p"])
    table["verdict"] = [
        stats.verdict(*pair) for pair in zip(table["effect"], table["p_holm"], strict=True)
    ]
    return table


def claims_table(
    records: Sequence[Mapping],
    summaries: Mapping[str, Mapping] | None = None,
    sources: Sequence[str] | None = None,
    scale: str = "",
) -> pd.DataFrame:
    """A row per claim and source: `claim`, `says`, `source`, `effect`, `low`, `high`, `p_holm`,
    `n`, `verdict`, and the paper's `paper effect`, `paper low`, `paper high`, `paper verdict` by
    the same rule.

    - `records`: of Table 1.  `summaries`: `search.study_summary` by condition, re-evaluated, for
      C0, C4 and C5.
    - `scale`: the profile the numbers come from, which every row names: a verdict holds at that
      scale only.
    """
    sources = list(sources or sources_of(records))
    n = count_nodes(records)
    rows = _table1_rows(run_arms(records, sources), sources, n) + _search_rows(summaries or {})
    ours, theirs = (
        _judge(rows),
        _judge(_table1_rows(paper_arms(sources, n), sources, n)) if n == 3 else pd.DataFrame(),
    )
    if not theirs.empty:
        theirs = theirs.set_index(["claim", "source"])[
            ["effect", "low", "high", "verdict"]
        ].add_prefix("paper ")
        ours = ours.join(theirs, on=["claim", "source"])
    # of a search the paper gives one run each, and no spread; of other numbers of nodes nothing
    for column, missing in {
        "paper effect": ours.get("published", np.nan),
        "paper verdict": "not measured",
    }.items():
        ours[column] = ours[column].fillna(missing) if column in ours else missing
    return ours.drop(columns=["p", "df", "error", "published"], errors="ignore").assign(scale=scale)


def forest(sets: Mapping[str, tuple[Sequence[Mapping], Mapping[str, Mapping]]]) -> pd.DataFrame:
    """Primaries of several sets of records for one forest plot, the paper's beside them.

    `sets`: {"quick": (records of Table 1, summaries), ..}. Columns `set`, `claim`, `source`,
    `effect`, `low`, `high`, `n`, `verdict`; `source` keeps apart a stand-in and what it stands for.
    The paper's searches, shown beside searches of our own, are one run each: without interval.
    """
    parts, columns = [], ["claim", "source", "effect", "low", "high", "n", "verdict"]
    for name, (records, summaries) in sets.items():
        parts.append(claims_table(records, summaries)[columns].assign(set=name))
    sources = ["imagenet1k", "fractaldb1k"]
    parts.append(_judge(_table1_rows(paper_arms(sources), sources, 3))[columns].assign(set="paper"))
    if any(summaries for _, summaries in sets.values()):
        parts.append(pd.DataFrame(_published_searches(), columns=columns).assign(set="paper"))
    return pd.concat(parts, ignore_index=True)[["set", *columns]]


def _published_searches() -> list[dict]:
    """C4 and C5 as the paper has them: gains over its search without pre-training, and differences of those."""
    gains, once = paper()["search_gain"], {"n": 1, "verdict": "not measured"}
    own = {name: f"searched: {condition_title(name, {})}" for name in gains}
    rows = [
        {"claim": "C4", "source": own[name], "effect": gain, **once} for name, gain in gains.items()
    ]
    for rival in ("imagenet1k", "fractaldb1k"):
        source = f"{own['mixed']}, against {condition_title(rival, {})}"
        rows.append(
            {"claim": "C5", "source": source, "effect": gains["mixed"] - gains[rival], **once}
        )
    return rows


def exploratory(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> pd.DataFrame:
    """Effects that no claim rests on, with intervals and without verdicts; of this run and of the
    paper (`from`).

    Per source: each flip of node 1, each pattern of auxiliaries against none, each graph less its
    target alone, main effects of the nodes, and node 2 minus node 3, which stand in the same place
    of the graph, so that it must be 0 by design. The paper has no network alone.
    """
    sources, rows = list(sources or sources_of(records)), []
    n = count_nodes(records)
    names = patterns(n)
    for origin, arms in (
        ("this run", run_arms(records, sources)),
        ("paper", paper_arms(sources, n)),
    ):
        for source in sources:
            own = _arms_of(arms, source)
            for what, weights in _explored(names, source).items():
                found = stats.contrast(own, weights, _by_target(names))
                rows.append(
                    {"from": origin, "source": title(source), "contrast": what, **_brief(found)}
                )
    return pd.DataFrame(rows)


def _explored(names: Sequence[str], source: str) -> dict[str, dict[str, float]]:
    """The exploratory contrasts of a source as weights over patterns."""
    scratch, trained = _by_target(names)
    found = {f"node 1, when {name}": {_add(name, "1"): 1.0, name: -1.0} for name in scratch}
    found |= {f"only {name}": {name: 1.0, "none": -1.0} for name in scratch if name != "none"}
    found |= {f"{name} less its target alone": {name: 1.0, "alone": -1.0} for name in scratch}
    found |= {
        f"{name} less its target alone": {name: 1.0, f"{source}/alone": -1.0} for name in trained
    }
    nodes = sorted({node for name in names if name != "none" for node in name.split("+")})
    main = {node: _main_effect(names, node) for node in nodes}
    found |= {f"main effect of node {node}": weights for node, weights in main.items()}
    if len(nodes) == 3:
        found["node 2 - node 3 (0 by design)"] = {
            name: main["2"][name] - main["3"][name] for name in names
        }
    return found


def _add(pattern: str, node: str) -> str:
    return node if pattern == "none" else "+".join(sorted({*pattern.split("+"), node}))


def _main_effect(names: Sequence[str], node: str) -> dict[str, float]:
    return {name: (1.0 if node in name.split("+") else -1.0) / (len(names) / 2) for name in names}


def search_luck(summary: Mapping, size: int, repeats: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What other searches of `size` graphs would have found: drawn without replacement from a
    recorded search.

    A row per repeat: `selection` (validation accuracy of the winner), `test` (its test accuracy),
    `target` (what its node 1 starts from), `single` (whether it is a single network). Only graphs
    trained to the end count.
    """
    done = [
        trial
        for trial in summary["trials"]
        if trial["state"] == "COMPLETE" and trial.get("test_accuracy") is not None
    ]
    if size > len(done):
        raise ValueError(f"size is {size}, but only {len(done)} graphs were trained to the end")
    rng, rows = np.random.default_rng(seed), []
    for _ in range(repeats):
        best = max(
            (done[i] for i in rng.permutation(len(done))[:size]), key=lambda trial: trial["value"]
        )
        start = best["graph"]["nodes"][0]["init"]
        row = {"selection": best["value"], "test": best["test_accuracy"], "target": start}
        rows.append(row | {"single": is_single(best["graph"])})
    return pd.DataFrame(rows)


def gate_effects(summary: Mapping) -> pd.DataFrame:
    """What starts and gates are worth to node 1: least squares on all graphs of a search that were
    trained to the end.

    value = constant + start of node 1 + starts of the auxiliaries + gate on its label edge + gates
    on its other edges; auxiliaries stand in equal places, so that each counts alike. Points of the
    split that the search selects on, against scratch and against Cutoff, by `term`, with 95 % t
    intervals and the number `n` of graphs. Exploratory. Raises ValueError where there are too few
    graphs.
    """
    done = [trial for trial in summary["trials"] if trial["state"] == "COMPLETE"]
    starts = [[node["init"] for node in trial["graph"]["nodes"]] for trial in done]
    gates = [trial["graph"]["gates"][0] for trial in done]
    columns = {"constant": np.ones(len(done))}
    for start in [choice for choice in summary["choices"] if choice != "scratch"]:
        columns[f"node 1 from {title(start)}"] = [own[0] == start for own in starts]
        columns[f"an auxiliary from {title(start)}"] = [own[1:].count(start) for own in starts]
    for gate in [gate for gate in summary["search"]["gates"] if gate != "cutoff"]:
        columns[f"label edge: {gate}"] = [row[0] == gate for row in gates]
        columns[f"edge from an auxiliary: {gate}"] = [row[1:].count(gate) for row in gates]
    table, values = pd.DataFrame(columns, dtype=float), np.array([trial["value"] for trial in done])
    table = table.loc[:, table.any()]  # of canonical graphs no label edge is Correct
    free = len(table) - len(table.columns)
    if free < 1 or np.linalg.matrix_rank(table) < len(table.columns):
        raise ValueError(
            f"{len(done)} graphs were trained to the end: too few for {len(table.columns)} effects"
        )
    effects, (squares,), *_ = np.linalg.lstsq(table, values)
    error = np.sqrt(np.diag(np.linalg.inv(table.T @ table)) * squares / free)
    half = distributions.t.ppf((1 + stats.LEVEL) / 2, free) * error
    rows = {
        "term": table.columns,
        "effect": effects,
        "low": effects - half,
        "high": effects + half,
        "n": len(done),
    }
    return pd.DataFrame(rows)[1:].sort_values("term", ignore_index=True)


def condition_title(condition: str, summaries: Mapping[str, Mapping]) -> str:
    """A condition for readers, with its stand-in named: "ImageNet-1k stand-in + FractalDB-1k"."""
    known = {"none": [], "imagenet1k": ["imagenet1k"], "fractaldb1k": ["fractaldb1k"]}
    known["mixed"] = known["imagenet1k"] + known["fractaldb1k"]
    choices = (
        summaries[condition]["choices"] if condition in summaries else known.get(condition, [])
    )
    names = " + ".join(title(choice) for choice in choices if choice != "scratch")
    return names or "no pre-training"
