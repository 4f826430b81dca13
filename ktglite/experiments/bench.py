"""A recorded benchmark of graphs, in the manner of NAS-Bench: whole curves, to query, and to replay
searches on by the search's own rungs, in simulated time.

Two splits with names: "val" is what a search may look at, "test" judges what it found. A graph is
found by its canonical form.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ktglite.experiments import stats
from ktglite.experiments.rungs import Rungs, replay, simulate
from ktglite.experiments.space import outcome
from ktglite.gates import GATES
from ktglite.graph import Graph
from ktglite.models import SOURCES, file_hash
from ktglite.store import atomic_write, from_checkout
from ktglite.trainer import check_config

__all__ = ["Rule", "best_of", "kept_best", "load", "optimism", "rank_alone"]
__all__ += ["regret", "repeated_claims"]

PATH = "data/graph_benchmark.npz"  # that which comes with the kit


@dataclass(frozen=True)
class Rule:
    """How a replayed search decides, as in `SearchConfig`, and how many `workers` train at once."""

    pruner: Literal["asha", "promote", "none"] = "asha"
    min_resource: int = 1
    reduction_factor: int = 2
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

    def of(self, condition: str) -> "Benchmark":
        """What a search in one condition would find: its runs with the seed to search on.

        Raises ValueError where there are none.
        """
        asked = (self.runs.condition == condition) & (self.runs.seed == self.about["seed"])
        rows = np.flatnonzero(asked)
        if not len(rows):
            known = ", ".join(self.conditions)
            raise ValueError(f"no graphs of condition {condition!r} are recorded, only {known}")
        graphs = [self.graphs[row] for row in rows]
        runs = self.runs.iloc[rows].reset_index(drop=True)
        return Benchmark(graphs, runs, self.val[rows], self.seconds[rows], self.about)

    @property
    def shares(self) -> np.ndarray:
        """How likely each run's graph is to be drawn, (runs,); they sum to 1."""
        return (self.runs.weight / self.runs.weight.sum()).to_numpy()

    def sample(self, rng: np.random.Generator) -> Graph:
        """A recorded graph, drawn by its weight."""
        return self.graphs[rng.choice(len(self), p=self.shares)]

    def query(self, graph: Graph, epoch: int | None = None, seed: int | None = None) -> dict:
        """What training this graph up to `epoch` (by default the last) would have shown: `val`, and
        after the last epoch `test`; `seconds` until then.

        Nothing is averaged: `seed` is that of the search unless given. Raises KeyError for a graph,
        or a seed of it, that is not recorded, ValueError for an epoch that no graph has.
        """
        row = self._row_of(graph, seed)
        if epoch is not None and not 1 <= epoch <= self.val.shape[1]:
            raise ValueError(f"epoch is {epoch}: graphs have epochs 1 to {self.val.shape[1]}")
        found = {"val": float(self.val[row, :epoch][-1])}
        found["seconds"] = float(np.nansum(self.seconds[row, :epoch]))
        if epoch in (None, self.val.shape[1]):
            found["test"] = float(self.runs.test[row])
        return found

    def trajectory(self, graph: Graph) -> np.ndarray:
        """Validation accuracy after every epoch, (epochs,). Raises KeyError as `query` does."""
        return self.val[self._row_of(graph, None)].copy()

    def _row_of(self, graph: Graph, seed: int | None) -> int:
        form = graph.canonical()
        seed = self.about["seed"] if seed is None else seed
        for row in np.flatnonzero(self.runs.seed == seed):
            if self.graphs[row] == form:
                return row
        raise KeyError(f"no run of this graph with seed {seed} is recorded: {form}")

    def draw(self, count: int, seed: int) -> np.ndarray:
        """Rows in a random order, by weight and without replacement, (count,)."""
        rng = np.random.default_rng(seed)
        return rng.choice(len(self), count, replace=False, p=self.shares)

    def replay(self, rule: Rule, trials: int | None = None, seed: int = 0) -> pd.DataFrame:
        """A search among the graphs of one condition (`of`), in simulated time.

        Args:
            trials: how many graphs, by default all.
            seed: of the order in which they are drawn, see `draw`.

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
        order = self.draw(trials, seed)
        epochs = self.val.shape[1]
        rungs = Rungs(rule.pruner, rule.min_resource, rule.reduction_factor, epochs, trials)
        curves = [(self.val[row], self.seconds[row]) for row in order]
        trained = Counter()
        best = {"val": nan, "test": nan}
        events = []
        for clock, trial, epoch in simulate(rungs, curves.__getitem__, rule.workers):
            row = order[trial]
            trained[trial] = epoch
            if epoch == epochs and not self.val[row, -1] <= best["val"]:
                best = {"val": self.val[row, -1], "test": self.runs.test[row]}
            event = {"trial": trial, "row": row, "epoch": epoch}
            events.append(event | {"epochs": trained.total(), "seconds": clock} | best)
        return pd.DataFrame(events)

    def as_searches(self) -> dict[str, dict]:
        """By condition, a search of all its graphs without pruning, as `search.study_summary` has
        it; graphs in an order drawn by weight, so that the first n are a search of n graphs."""
        found = {}
        for name in self.conditions:
            table = self.of(name)
            order = table.draw(len(table), 0)
            trials = [table._trial(row, number) for number, row in enumerate(order)]
            starts = {node.init for graph in table.graphs for node in graph.nodes}
            asked = {"condition": name, "choices": [s for s in SOURCES if s in starts]}
            asked["select_on"] = "val"
            rule = {"pruner": "none", "gates": list(GATES), "seed": self.about["seed"]}
            found[name] = {
                **asked,
                **{part: self.about[part] for part in ("training", "data", "weights")},
                "search": asked | rule,
                **outcome(trials, table.val.shape[1]),
                "reevaluated": [],
            }
        return found

    def _trial(self, row: int, number: int) -> dict:
        """A run as a trial of a search."""
        values = self.val[row][np.isfinite(self.val[row])].tolist()
        run = self.runs.iloc[row]
        return {
            "number": number,
            "graph": self.graphs[row].to_dict(),
            "values": values,
            "seed": int(run.seed),
            "state": "FAIL" if run.diverged else "COMPLETE",
            "value": None if run.diverged else values[-1],
            "test_accuracy": None if run.diverged else float(run.test),
        }

    def save(self, path: str | Path) -> str:
        """Write an .npz file without pickles; returns its SHA-256."""
        arrays = {name: self.runs[name].to_numpy() for name in self.runs}
        for name in ("condition", "processor"):
            arrays[name] = arrays[name].astype(str)
        arrays |= {"val": self.val, "seconds": self.seconds.astype(np.float16)}
        texts = {"about": dict(self.about), "graphs": [graph.to_dict() for graph in self.graphs]}
        for name, content in texts.items():
            arrays[name] = np.array(json.dumps(content, sort_keys=True))
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)
        return file_hash(Path(path))


def load(path: str | Path) -> Benchmark:
    """The benchmark in a file of `Benchmark.save`, such as that at `PATH`.

    Raises FileNotFoundError, or ValueError for a file that is not one or is damaged.
    """
    path = from_checkout(path)
    if not path.is_file():
        raise FileNotFoundError(f"no benchmark {path}: benchmarks/record_graphs.py makes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)  # the archive has a checksum of every array
        about, graphs = (json.loads(str(arrays.pop(name))) for name in ("about", "graphs"))
        val, seconds = (arrays.pop(name).astype(float) for name in ("val", "seconds"))
    except Exception as error:  # whatever is raised over a file that is something else
        raise ValueError(f"{path} is not a benchmark of graphs ({error}): restore it") from error
    return Benchmark(list(map(Graph.from_dict, graphs)), pd.DataFrame(arrays), val, seconds, about)


# ---- what the whole table tells


def best_of(
    bench: Benchmark, sizes: Sequence[int] = (1, 2, 4, 8, 16, 32), repeats: int = 1000
) -> pd.DataFrame:
    """The winner of n graphs trained to the end, against n: the winner's curse.

    By `condition`, `n` and `measure`: the mean `accuracy` of the winner over `repeats` random
    searches, with the range `low` to `high` that holds 95 % of them. Measures are "in the search"
    (validation images) and "test images" of the same run. `graphs`: how many are searched.
    """
    rng = np.random.default_rng(0)
    rows = []
    for condition in bench.conditions:
        table = bench.of(condition)
        accuracies = {"in the search": table.val[:, -1], "test images": table.runs.test.to_numpy()}
        value, _ = accuracies.values()
        whole = np.flatnonzero(np.isfinite([*accuracies.values()]).all(axis=0))
        shares = table.shares[whole] / table.shares[whole].sum()
        for n in [n for n in sizes if n <= len(whole)]:
            drawn = [rng.choice(whole, n, replace=False, p=shares) for _ in range(repeats)]
            winners = [own[np.argmax(value[own])] for own in drawn]
            for measure, accuracy in accuracies.items():
                low, high = np.quantile(accuracy[winners], [0.025, 0.975])
                mean = accuracy[winners].mean()
                rows.append((condition, n, measure, mean, low, high, len(whole)))
    columns = ["condition", "n", "measure", "accuracy", "low", "high", "graphs"]
    return pd.DataFrame(rows, columns=columns)


def optimism(bench: Benchmark, n: int = 8, repeats: int = 200) -> pd.DataFrame:
    """How much more the winner of n graphs shows in the search than on test images, beyond what
    graphs show that nobody has chosen.

    By `condition`: the mean `effect` over searches (points), and the range `low` to `high` that
    holds 95 % of it when the recorded graphs are drawn anew, with replacement, `repeats` times;
    `spread`: the standard deviation of the graphs in the search, and `noise`: that of the accuracy
    of one of them on so many images (%).
    """
    rng = np.random.default_rng(0)
    rows = []
    for condition in bench.conditions:
        table = bench.of(condition)
        value, test = table.val[:, -1], table.runs.test.to_numpy()
        whole = np.flatnonzero(np.isfinite(value) & np.isfinite(test))
        resampled = [rng.choice(whole, len(whole)) for _ in range(repeats)]
        luck = [_luck(value[own], test[own], table.shares[own], n, rng) for own in resampled]
        own = table.shares[whole] / table.shares[whole].sum()
        mean = own @ value[whole]
        spread = (own @ (value[whole] - mean) ** 2) ** 0.5
        noise = (mean * (100 - mean) / table.about["data"]["val"]) ** 0.5
        effect = _luck(value[whole], test[whole], own, n, rng, 20_000)
        rows.append((condition, effect, *np.quantile(luck, [0.025, 0.975]), spread, noise))
    return pd.DataFrame(rows, columns=["condition", "effect", "low", "high", "spread", "noise"])


def _luck(
    value: np.ndarray, test: np.ndarray, shares: np.ndarray, n: int, rng, searches: int = 300
) -> float:
    """Value minus test of the best of n graphs, mean over `searches`, minus that of all graphs."""
    keys = rng.gumbel(size=(searches, len(value))) + np.log(shares)  # the n largest: drawn by share
    drawn = np.argpartition(-keys, n - 1, axis=1)[:, :n]
    winners = drawn[np.arange(searches), value[drawn].argmax(1)]
    gap = value - test
    return float(gap[winners].mean() - shares @ gap / shares.sum())


def kept_best(
    bench: Benchmark, rule: Rule, trials: int | None = None, repeats: int = 100
) -> pd.DataFrame:
    """In how many searches the rule trains the best of their graphs to its end.

    `trials`: graphs of a search, by default all of a condition; each search draws them anew, in an
    order of its own. By `condition`: `kept` (% of `repeats` searches), `spent` (% of the epochs).
    """
    rows = []
    for condition in bench.conditions:
        table = bench.of(condition)
        count = len(table) if trials is None else min(trials, len(table))
        drawn = [table.val[table.draw(count, seed)] for seed in range(repeats)]
        settings = rule.pruner, rule.reduction_factor, rule.min_resource, rule.workers
        ends = [replay(own, *settings) for own in drawn]
        best = [np.nanargmax(own[:, -1]) for own in drawn]
        kept = [end[i] == own.shape[1] for end, i, own in zip(ends, best, drawn, strict=True)]
        rows.append((condition, 100 * np.mean(kept), 100 * np.sum(ends) / np.size(drawn)))
    return pd.DataFrame(rows, columns=["condition", "kept", "spent"])


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
        searches = [table.replay(rule, trials, seed) for seed in range(repeats)]
        for at in epochs:
            best = [search[search.epochs <= at].tail(1) for search in searches]
            found = pd.concat(best)[["val", "test"]].dropna()
            if len(found):
                row = {"rule": name, "epochs": at, **stats.summary(most - found.val)}
                rows.append(row | {"test": found.test.mean()})
    return pd.DataFrame(rows).rename(columns={"mean": "regret"}).drop(columns="std")


def rank_alone(bench: Benchmark) -> pd.DataFrame:
    """Where the target alone stands among the graphs of its condition.

    By `condition`, `start` and `gate` of its label edge: `val` and `test` of the run that a search
    sees; `better`: how many of 100 graphs of the condition's space have a higher `val`, by weight,
    from so many recorded `graphs`.
    """
    rows = []
    for condition in bench.conditions:
        table = bench.of(condition)
        values = table.val[:, -1]
        for graph, val, test in zip(table.graphs, values, table.runs.test, strict=True):
            if graph.size == 1:
                better = 100 * table.shares[values > val].sum()
                what = condition, graph.nodes[0].init, graph.gates[0][0]
                rows.append((*what, val, test, better, len(table)))
    columns = ["condition", "start", "gate", "val", "test", "better", "graphs"]
    return pd.DataFrame(rows, columns=columns)


def repeated_claims(bench: Benchmark, rule: Rule, trials: int, repeats: int = 100) -> pd.DataFrame:
    """C4 and C5 with every search repeated: test accuracy of the winner, minus that of another
    condition's.

    By `claim`, `condition` and `against`: the mean `effect`, the range `low` to `high` that holds
    95 % of the pairs of searches, and `positive`, in how many percent of them it is above 0.
    """
    winners = {}
    for condition in bench.conditions:
        table = bench.of(condition)
        count = min(trials, len(table))
        searches = [table.replay(rule, count, seed) for seed in range(repeats)]
        winners[condition] = np.array([search.test.iloc[-1] for search in searches])
    pairs = [("C4", name, "none") for name in ("imagenet1k", "fractaldb1k", "mixed")]
    pairs += [("C5", "mixed", name) for name in ("imagenet1k", "fractaldb1k")]
    rows = []
    for claim, condition, other in pairs:
        if {condition, other} <= winners.keys():
            gaps = winners[condition] - winners[other]
            ends = np.quantile(gaps, [0.025, 0.975])
            positive = 100 * (gaps > 0).mean()
            rows.append((claim, condition, other, gaps.mean(), *ends, positive, repeats))
    columns = ["claim", "condition", "against", "effect", "low", "high", "positive", "n"]
    return pd.DataFrame(rows, columns=columns)
