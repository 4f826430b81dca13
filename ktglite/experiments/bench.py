"""A recorded benchmark of graphs, in the manner of NAS-Bench: whole curves, to query, and to replay
searches on by the search's own rungs, in simulated time.

Two splits with names: "val" is what a search may look at, "test" judges what it found. A graph is
found by its canonical form.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from math import inf, nan
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from scipy.stats import spearmanr

from ktglite.experiments import claims, stats
from ktglite.experiments.rungs import Rungs, rung_epochs, simulate
from ktglite.experiments.search import read_summaries
from ktglite.experiments.space import from_params, to_params
from ktglite.gates import GATES
from ktglite.graph import Graph, Node
from ktglite.store import atomic_write, from_checkout
from ktglite.trainer import check_config

__all__ = [
    "Benchmark",
    "Rule",
    "best_of",
    "from_summaries",
    "gate_effects",
    "load",
    "noise",
    "rank_alone",
    "regret",
    "repeated_claims",
]

MISSING = 2**16 - 1  # right answers of a run that has diverged


@dataclass(frozen=True)
class Rule:
    """How a replayed search decides, as in `SearchConfig`, and how many `workers` train at once.

    `sampler`: "random" takes graphs in random order; "tpe" asks Optuna's TPE, which learns from the
    graphs that were trained to the end, and takes the recorded graph that is nearest.
    """

    pruner: Literal["asha", "promote", "none"] = "asha"
    min_resource: int = 1
    reduction_factor: int = 2
    sampler: Literal["random", "tpe"] = "random"
    workers: int = 1

    def __post_init__(self):
        limits = dict.fromkeys(("min_resource", "workers"), (1, inf))
        check_config(self, limits | {"reduction_factor": (2, inf)})


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Recorded trainings, one a row; accuracies are those of node 1 in percent.

    - `graphs`: the graph of every run, in its canonical form.
    - `runs`: table of `condition` (the search space that the graph was drawn for), `seed`, `test`
      (after the last epoch), `diverged`, `processor`, and `weight`: the share of the condition's
      space that the graph stands for.
    - `val`: after every epoch, (runs, epochs); NaN from the epoch on in which a run diverged.
    - `seconds`: of every epoch, (runs, epochs).
    - `about`: the `seed` of the runs to search on, the other seeds judge; how they were trained
      (`training`, `data`, `weights`), where they come from (`origin`), and their `licence`.
    """

    graphs: Sequence[Graph]
    runs: pd.DataFrame
    val: np.ndarray
    seconds: np.ndarray
    about: Mapping

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def conditions(self) -> list[str]:
        """The conditions that there are runs of."""
        return list(dict.fromkeys(self.runs.condition))

    def where(self, chosen: np.ndarray | pd.Series) -> "Benchmark":
        """The runs for which `chosen`, bool (runs,), holds."""
        rows = np.flatnonzero(chosen)
        graphs = [self.graphs[row] for row in rows]
        runs = self.runs.iloc[rows].reset_index(drop=True)
        return Benchmark(graphs, runs, self.val[rows], self.seconds[rows], self.about)

    def of(self, condition: str) -> "Benchmark":
        """What a search in one condition would find: its runs with the seed to search on.

        Raises ValueError where there are none.
        """
        mine = (self.runs.condition == condition) & (self.runs.seed == self.about["seed"])
        if not mine.any():
            known = ", ".join(self.conditions)
            raise ValueError(
                f"no graphs of condition {condition!r} are recorded: there are {known}"
            )
        return self.where(mine)

    # ---- to ask

    def sample(self, rng: np.random.Generator) -> Graph:
        """A recorded graph, drawn by its weight."""
        return self.graphs[rng.choice(len(self), p=self.runs.weight / self.runs.weight.sum())]

    def query(self, graph: Graph, epoch: int | None = None, seed: int | None = None) -> dict:
        """What training this graph up to `epoch` (by default the last) would have shown: `val`, and
        after the last epoch `test`; `seconds` until then.

        Nothing is averaged: `seed` is that of the search unless given. Raises KeyError for a graph,
        or a seed of it, that is not recorded.
        """
        row = self._row_of(graph, seed)
        last = self.val.shape[1]
        epoch = last if epoch is None else epoch
        found = {"val": float(self.val[row, epoch - 1])}
        found["seconds"] = float(np.nansum(self.seconds[row, :epoch]))
        return found | ({"test": float(self.runs.test[row])} if epoch == last else {})

    def trajectory(self, graph: Graph, seed: int | None = None) -> np.ndarray:
        """Validation accuracy after every epoch, (epochs,). Raises KeyError as `query` does."""
        return self.val[self._row_of(graph, seed)].copy()

    def _row_of(self, graph: Graph, seed: int | None) -> int:
        form = graph.canonical()
        seed = self.about["seed"] if seed is None else seed
        for row in np.flatnonzero(self.runs.seed == seed):
            if self.graphs[row] == form:
                return row
        raise KeyError(f"no run of this graph with seed {seed} is recorded: {form}")

    # ---- to search

    def replay(
        self,
        rule: Rule,
        trials: int | None = None,
        seed: int = 0,
        order: Sequence[int] | None = None,
    ) -> pd.DataFrame:
        """A search among the graphs of one condition (`of`), in simulated time.

        Args:
            trials: how many graphs, by default all; without replacement.
            seed: of the order in which they are drawn, by weight.
            order: rows to take in this order instead.

        Returns:
            A row whenever a graph has trained as far as it may: its `trial` number, its `row` here,
            the `epoch` it has reached; the `epochs` and `seconds` that the search has spent; and of
            the best graph that was trained to the end so far `val` and `test`.

        Raises:
            ValueError: for more trials than graphs, or than `rule` can do with.
        """
        if len(self.conditions) != 1 or self.runs.seed.nunique() != 1:
            raise ValueError("a search has one condition and one seed: choose them by bench.of(..)")
        trials = len(self) if trials is None else trials
        if trials > len(self):
            raise ValueError(f"trials is {trials}, but only {len(self)} graphs are recorded")
        if order is None:
            shares = self.runs.weight / self.runs.weight.sum()
            order = np.random.default_rng(seed).choice(len(self), trials, replace=False, p=shares)
        sampler = _Tpe(self, seed) if rule.sampler == "tpe" else None
        return pd.DataFrame(_events(self, rule, order, sampler))

    def as_study(self) -> optuna.Study:
        """The runs as an Optuna study in memory, for its plots, importances and dashboard."""
        study = optuna.create_study(direction="maximize")
        params, space = _parameters(self.graphs)
        for row, own in enumerate(params):
            curve = self.val[row][np.isfinite(self.val[row])]
            diverged = bool(self.runs.diverged[row])
            trial = create_trial(
                state=TrialState.FAIL if diverged else TrialState.COMPLETE,
                value=None if diverged else float(curve[-1]),
                params=own,
                distributions=space,
                intermediate_values={i: float(value) for i, value in enumerate(curve, 1)},
                user_attrs=json.loads(self.runs.iloc[row].to_json()),
            )
            study.add_trial(trial)
        return study

    # ---- to keep

    def save(self, path: str | Path) -> str:
        """Write an .npz file without pickles; returns the SHA-256 of its content."""
        params, _ = _parameters(self.graphs)
        columns = list(params[0])
        values = sorted({value for own in params for value in own.values()})
        about = dict(self.about) | {"columns": columns, "values": values}
        arrays = {
            "graph": np.array([[values.index(own[name]) for name in columns] for own in params]),
            "size": np.array([graph.size for graph in self.graphs]),
        }
        for name in ("condition", "processor"):
            about[name] = sorted(set(self.runs[name]))
            arrays[name] = np.array([about[name].index(own) for own in self.runs[name]])
        arrays = {name: codes.astype(np.uint8) for name, codes in arrays.items()}
        for name, found in {"val": self.val, "test": self.runs.test}.items():
            right = np.asarray(found, float) * self.about["data"][name] / 100
            arrays[name] = np.where(np.isnan(right), MISSING, right.round()).astype(np.uint16)
        arrays["seed"] = self.runs.seed.to_numpy(np.uint16)
        arrays["diverged"] = self.runs.diverged.to_numpy(bool)
        arrays["weight"] = self.runs.weight.to_numpy(np.float32)
        arrays["seconds"] = self.seconds.astype(np.float16)
        arrays["about"] = np.array(json.dumps(about, sort_keys=True))
        digest = _content_hash(arrays)
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays, sha256=np.array(digest))
        return digest


def load(path: str | Path) -> Benchmark:
    """The benchmark in a file of `Benchmark.save`, or in a folder of summaries of searches without
    pruning, such as data/reference_runs/quick_searches.

    Raises FileNotFoundError, or ValueError for a file that is not one, or not as it was written.
    """
    path = from_checkout(path)
    if path.is_dir():
        return from_summaries(read_summaries(path))
    if not path.exists():
        raise FileNotFoundError(f"no benchmark {path}: benchmarks/record_graphs.py makes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        written = str(arrays.pop("sha256")) == _content_hash(arrays)
    except Exception as error:  # whatever is raised over a file that is something else
        raise ValueError(f"{path} is not a benchmark of graphs ({error}): restore it") from error
    if not written:
        raise ValueError(f"{path} is not as it was written: restore it")
    about = json.loads(str(arrays["about"]))
    kinds = {"seed": int, "diverged": bool, "weight": float}
    runs = {name: arrays[name].astype(kind) for name, kind in kinds.items()}
    for name in ("condition", "processor"):
        runs[name] = np.array(about.pop(name))[arrays[name]]
    for name in ("val", "test"):
        right = np.where(arrays[name] == MISSING, nan, arrays[name])
        runs[name] = 100 * right / about["data"][name]
    names = about.pop("columns")
    values = np.array(about.pop("values"))
    graphs = [
        _unpadded(dict(zip(names, values[codes].tolist(), strict=True)), size)
        for codes, size in zip(arrays["graph"], arrays["size"], strict=True)
    ]
    val = runs.pop("val")
    return Benchmark(graphs, pd.DataFrame(runs), val, arrays["seconds"].astype(float), about)


def from_summaries(summaries: Mapping[str, Mapping]) -> Benchmark:
    """The graphs of searches without pruning (`search.read_summaries`) as a benchmark.

    Of graphs that are equal in effect the first counts. Seconds of an epoch are an equal share of
    its graph's. Raises ValueError for a search that was pruned: its curves are not whole.
    """
    graphs, runs, val, seconds = [], [], [], []
    known = set()
    for name, summary in summaries.items():
        if summary["search"]["pruner"] != "none":
            way_out = "search with pruner='none' to see whole curves"
            raise ValueError(f"study {summary['study']!r} was pruned: {way_out}")
        epochs = summary["training"]["epochs"]
        for trial in summary["trials"]:
            graph = Graph.from_dict(trial["graph"]).canonical()
            if trial["state"] not in ("COMPLETE", "FAIL") or (name, graph) in known:
                continue
            known.add((name, graph))
            graphs.append(graph)
            run = {"condition": name, "seed": trial["seed"], "test": trial["test_accuracy"]}
            run |= {"diverged": trial["state"] == "FAIL", "processor": "", "weight": 1.0}
            runs.append(run)
            val.append([*trial["values"], *[nan] * (epochs - len(trial["values"]))])
            seconds.append([trial["seconds"] / epochs] * epochs)
    about = {part: summary[part] for part in ("training", "data", "weights")}
    about |= {"seed": summary["search"]["seed"], "origin": "summaries of searches"}
    table = pd.DataFrame(runs).astype({"test": float})
    return Benchmark(graphs, table, np.array(val, float), np.array(seconds, float), about)


def _content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _parameters(graphs: Sequence[Graph]) -> tuple[list[dict], dict[str, CategoricalDistribution]]:
    """Graphs as parameters of Optuna's trials, and these parameters' choices. Nodes that a graph
    does not have stand at its end, from scratch and cut off."""
    size = max(graph.size for graph in graphs)
    params = [to_params(_padded(graph, size)) for graph in graphs]
    space = {name: sorted({own[name] for own in params}) for name in params[0]}
    space |= {name: list(GATES) for name in space if name.startswith("gate")}
    return params, {name: CategoricalDistribution(choices) for name, choices in space.items()}


def _padded(graph: Graph, size: int) -> Graph:
    more = size - graph.size
    nodes = (*graph.nodes, *[Node(graph.nodes[0].arch)] * more)
    rows = [(*row, *["cutoff"] * more) for row in graph.gates]
    return Graph(nodes, [*rows, *[("cutoff",) * size] * more])


def _unpadded(params: dict[str, str], size: int) -> Graph:
    drawn = from_params(params)
    gates = [row[:size] for row in drawn["gates"][:size]]
    return Graph.from_dict({"nodes": drawn["nodes"][:size], "gates": gates})


def _events(
    table: Benchmark, rule: Rule, order: Sequence[int], sampler: "_Tpe | None"
) -> Iterator[dict]:
    """The rows of `Benchmark.replay`."""
    trials = len(order)
    epochs = table.val.shape[1]
    steps = rung_epochs(rule.pruner, rule.min_resource, rule.reduction_factor, epochs, trials)
    rungs = Rungs(rule.pruner, steps, rule.reduction_factor, trials)
    test = table.runs.test.to_numpy()
    rows: list[int] = []

    def begin(trial: int) -> tuple[np.ndarray, np.ndarray]:
        rows.append(order[trial] if sampler is None else sampler.draw())
        return table.val[rows[trial]], table.seconds[rows[trial]]

    trained = Counter()
    spent = 0
    best = {"val": nan, "test": nan}
    for clock, trial, epoch in simulate(rungs, begin, rule.workers):
        row = rows[trial]
        spent += epoch - trained[trial]
        trained[trial] = epoch
        if epoch == epochs:
            value = table.val[row, -1]
            if not value <= best["val"]:
                best = {"val": value, "test": test[row]}
            if sampler is not None:
                sampler.learn(row)
        event = {"trial": trial, "row": row, "epoch": epoch}
        yield event | {"epochs": spent, "seconds": clock} | best


class _Tpe:
    """Optuna's TPE, restricted to a table: of what it asks for, the nearest graph not yet taken."""

    def __init__(self, table: Benchmark, seed: int):
        self.params, self.space = _parameters(table.graphs)
        self.codes = np.array([list(own.values()) for own in self.params])
        self.values = table.val[:, -1]
        self.free = np.ones(len(table), bool)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)

    def draw(self) -> int:
        """The row to take next."""
        asked = self.study.ask(self.space)
        self.study.tell(asked, state=TrialState.FAIL)  # another is trained in its place
        far = min(self._distances(asked.params), key=lambda of: of[self.free].min())
        row = int(np.argmin(np.where(self.free, far, np.inf)))
        self.free[row] = False
        return row

    def _distances(self, params: dict[str, str]) -> Iterator[np.ndarray]:
        """In how many parameters each row differs, for every order of the auxiliary nodes."""
        drawn = from_params(params)
        for order in permutations(range(1, len(drawn["nodes"]))):
            order = (0, *order)
            nodes = [drawn["nodes"][i] for i in order]
            gates = [[drawn["gates"][t][s] for s in order] for t in order]
            names = [node["arch"] for node in nodes] + [node["init"] for node in nodes]
            yield (self.codes != np.array([*names, *chain(*gates)])).sum(1)

    def learn(self, row: int) -> None:
        """A row was trained to the end."""
        trial = create_trial(
            params=self.params[row], distributions=self.space, value=float(self.values[row])
        )
        self.study.add_trial(trial)


# ---- what the whole table tells


def _judged(bench: Benchmark, condition: str) -> pd.DataFrame:
    """The graphs a search in `condition` would find: `val` and `test` of the run that it sees, and
    `val_again`, `test_again`, the means over the other seeds; NaN where there are none."""
    table = bench.of(condition)
    again = defaultdict(list)
    for row in np.flatnonzero(bench.runs.seed != bench.about["seed"]):
        again[bench.graphs[row]].append((bench.val[row, -1], bench.runs.test[row]))
    means = [np.mean(again.get(graph, [(nan, nan)]), axis=0) for graph in table.graphs]
    found = pd.DataFrame(means, columns=["val_again", "test_again"])
    return table.runs.assign(val=table.val[:, -1], **found)


def best_of(
    bench: Benchmark,
    sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    repeats: int = 1000,
    new_seeds: bool = False,
) -> pd.DataFrame:
    """The winner of n graphs trained to the end, against n: the winner's curse.

    Args:
        new_seeds: only search among the graphs that were trained with other seeds, too, which then
            say what the winner is worth.

    Returns:
        By `condition`, `n` and `measure`: the mean `accuracy` of the winner over `repeats` random
        searches, with the range `low` to `high` that holds 95 % of them. Measures are "in the
        search" (validation images), "test images" of the same run, and "new seeds" (validation
        images again). `graphs`: how many are searched.
    """
    measures = {"val": "in the search", "test": "test images"}
    if new_seeds:
        measures["val_again"] = "new seeds"
    rng = np.random.default_rng(0)
    rows = []
    for condition in bench.conditions:
        pool = _judged(bench, condition).dropna(subset=list(measures))
        shares = pool.weight / pool.weight.sum()
        value = pool.val.to_numpy()
        for n in [n for n in sizes if n <= len(pool)]:
            drawn = [rng.choice(len(pool), n, replace=False, p=shares) for _ in range(repeats)]
            winners = pool.iloc[[own[np.argmax(value[own])] for own in drawn]]
            for column, measure in measures.items():
                low, high = winners[column].quantile([0.025, 0.975])
                row = {"condition": condition, "n": n, "measure": measure}
                row |= {"accuracy": winners[column].mean(), "low": low, "high": high}
                rows.append(row | {"graphs": len(pool)})
    return pd.DataFrame(rows)


def regret(
    table: Benchmark,
    rules: Mapping[str, Rule],
    epochs: Sequence[int],
    trials: int | None = None,
    repeats: int = 100,
) -> pd.DataFrame:
    """How far the best graph that a search has found is behind the best it could find, against the
    `epochs` it has spent.

    Args:
        table: the graphs of one condition (`Benchmark.of`).
        rules: by name.
        trials: graphs of a search, by default all.

    Returns:
        By `rule` and `epochs`: the mean `regret` in points of validation accuracy with its 95 %
        interval `low` to `high`, the mean `test` of the graph found, and of how many searches `n`:
        those that have trained a graph to its end by then.
    """
    most = np.nanmax(table.val[:, -1])
    rows = []
    for name, rule in rules.items():
        found = {at: [] for at in epochs}
        for seed in range(repeats):
            events = table.replay(rule, trials, seed)
            ends = np.searchsorted(events.epochs, epochs, side="right") - 1
            for at, end in zip(epochs, ends, strict=True):
                if end >= 0 and np.isfinite(events.val[end]):
                    found[at].append((most - events.val[end], events.test[end]))
        for at, pairs in found.items():
            if pairs:
                gaps, tests = zip(*pairs, strict=True)
                mean = stats.summary(gaps)
                row = {"rule": name, "epochs": at, "regret": mean["mean"], "low": mean["low"]}
                row |= {"high": mean["high"], "test": np.mean(tests), "n": mean["n"]}
                rows.append(row)
    return pd.DataFrame(rows)


def rank_alone(bench: Benchmark) -> pd.DataFrame:
    """Where the target alone stands among the graphs of its condition.

    By `condition`, `start` and `gate` of its label edge: `val` and `test` of the run that a search
    sees, its `rank` by `val` (1 is the best) `of` how many; the mean `val_mean` over `seeds` seeds.
    """
    rows = []
    for condition in bench.conditions:
        table = bench.of(condition)
        for row in [row for row, graph in enumerate(table.graphs) if graph.size == 1]:
            graph = table.graphs[row]
            same = np.array([own == graph for own in bench.graphs])
            same &= bench.runs.condition == condition
            value = table.val[row, -1]
            found = {"condition": condition, "start": graph.nodes[0].init}
            found |= {"gate": graph.gates[0][0], "val": value, "test": table.runs.test[row]}
            found |= {"rank": 1 + int((table.val[:, -1] > value).sum()), "of": len(table)}
            rows.append(found | {"val_mean": bench.val[same, -1].mean(), "seeds": int(same.sum())})
    return pd.DataFrame(rows)


def gate_effects(bench: Benchmark, condition: str) -> pd.DataFrame:
    """What starts and gates are worth to node 1, see `claims.gate_effects`."""
    table = bench.of(condition)
    trials = [
        {"state": "COMPLETE", "graph": graph.to_dict(), "value": value}
        for graph, value in zip(table.graphs, table.val[:, -1], strict=True)
        if np.isfinite(value)
    ]
    choices = sorted({node.init for graph in table.graphs for node in graph.nodes})
    summary = {"trials": trials, "choices": choices, "search": {"gates": list(GATES)}}
    return claims.gate_effects(summary)


def repeated_claims(
    bench: Benchmark, rule: Rule, trials: int, repeats: int = 100, new_seeds: bool = False
) -> pd.DataFrame:
    """C4 and C5 with every search repeated: test accuracy of the winner, minus that of another
    condition's.

    By `claim`, `condition` and `against`: the mean `effect`, the range `low` to `high` that holds
    95 % of the pairs of searches, and `positive`, in how many percent of them it is above 0. With
    `new_seeds` searches are among the graphs that were trained with other seeds, too, and those
    judge the winner.
    """
    winners = {}
    for condition in bench.conditions:
        judged = _judged(bench, condition)
        chosen = judged.val_again.notna() if new_seeds else np.full(len(judged), True)
        table = bench.of(condition).where(chosen)
        tests = judged["test_again" if new_seeds else "test"][chosen].to_numpy()
        winners[condition] = []
        for seed in range(repeats):
            events = table.replay(rule, min(trials, len(table)), seed)
            whole = events[events.epoch == table.val.shape[1]]
            best = whole.row.iloc[np.argmax(table.val[whole.row, -1])]
            winners[condition].append(tests[best])
    pairs = [("C4", name, "none") for name in ("imagenet1k", "fractaldb1k", "mixed")]
    pairs += [("C5", "mixed", name) for name in ("imagenet1k", "fractaldb1k")]
    rows = []
    for claim, condition, other in pairs:
        if {condition, other} <= winners.keys():
            gaps = np.array(winners[condition]) - winners[other]
            low, high = np.quantile(gaps, [0.025, 0.975])
            row = {"claim": claim, "condition": condition, "against": other}
            row |= {"effect": gaps.mean(), "low": low, "high": high}
            rows.append(row | {"positive": 100 * (gaps > 0).mean(), "n": repeats})
    return pd.DataFrame(rows)


def noise(bench: Benchmark) -> pd.DataFrame:
    """How well one run tells graphs apart, by `condition`: `std`, the pooled standard deviation of
    final validation accuracy between seeds; Spearman's rank correlation `between_seeds`, of the
    graphs that have both, and `with_the_end`, of each epoch with the last."""
    rows = []
    for condition in bench.conditions:
        mine = bench.where(bench.runs.condition == condition)
        last = pd.DataFrame({"graph": mine.graphs, "seed": mine.runs.seed, "val": mine.val[:, -1]})
        by_graph = last.pivot_table("val", "graph", "seed", sort=False)
        several = by_graph[by_graph.count(axis=1) > 1]
        pairs = several[several.columns[:2]].dropna() if len(several.columns) > 1 else several[:0]
        table = mine.of(condition)
        whole = np.isfinite(table.val[:, -1])
        curves = table.val[whole]
        ranks = [spearmanr(own, curves[:, -1]).statistic for own in curves.T]
        row = {"condition": condition, "std": several.var(axis=1).mean() ** 0.5}
        row["between_seeds"] = spearmanr(*pairs.to_numpy().T).statistic if len(pairs) > 2 else nan
        rows.append(row | {"graphs": len(several), "with_the_end": np.round(ranks, 2).tolist()})
    return pd.DataFrame(rows)
