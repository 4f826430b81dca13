"""ASHA's rungs: who trains next and up to which epoch, in a search or replayed on whole curves without training."""

import bisect
import heapq
import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ktglite.experiments import stats

__all__ = ["early_rungs", "pruner_table", "replay"]


class Rungs:
    """Which trial trains next, and up to which epoch: one of the rungs, or the end."""

    def __init__(self, pruner: str, first: int, eta: int, epochs: int, trials: int):
        self.pruner, self.eta, self.trials, self.steps = pruner, eta, trials, []
        while first < epochs and pruner != "none":
            self.steps.append(first)
            first *= eta
        self.steps.append(epochs)
        if pruner == "promote" and trials < (needed := eta ** (len(self.steps) - 1)):
            raise ValueError(
                f"trials is {trials}: promotion to epoch {epochs} needs {needed}, or a later first rung"
            )
        self.goal: dict[int, int] = {}  # trial -> index of the step up to which it may train
        self.reached: list[list[tuple[float, int]]] = [
            [] for _ in self.steps
        ]  # (-value, trial), the best first
        self.over: set[int] = set()
        self.ready: deque[int] = deque()

    def until(self, trial: int) -> int:
        """The epoch up to which a trial may train."""
        return self.steps[self.goal[trial]]

    def arrive(self, trial: int, value: float) -> None:
        """It has reached that epoch, with this value."""
        bisect.insort(self.reached[self.goal[trial]], (-value, trial))

    def let_on(self, trial: int) -> None:
        """It may train up to the next step."""
        self.goal[trial] += 1
        self.ready.append(trial)

    def passes(self, trial: int, value: float) -> bool:
        """ASHA as Optuna has it: whether it is among the best floor(n / eta) that came so far, or the best of few."""
        reached = self.reached[self.goal[trial]]
        return -value <= reached[max(1, len(reached) // self.eta) - 1][0]

    def pick(self) -> int | None:
        """The trial to train next: one that was let on, one to promote, or a new one; None if there is none now."""
        if not self.ready and self.pruner == "promote":
            self._promote()
        if not self.ready and len(self.goal) < self.trials:
            self.ready.append(len(self.goal))
            self.goal[len(self.goal)] = 0
        return self.ready.popleft() if self.ready else None

    def _promote(self) -> None:
        """ASHA as published (Li et al., MLSys 2020, algorithm 2): from the highest rung that has
        one, let on the best trial that is paused there and belongs to its best floor(n / eta),
        those that went on counted."""
        for rung in reversed(range(len(self.steps) - 1)):
            for _, trial in self.reached[rung][: len(self.reached[rung]) // self.eta]:
                if self.goal[trial] == rung and trial not in self.over:
                    return self.let_on(trial)

    def hopeless(self) -> set[int]:
        """Paused trials that are never among the best floor(n / eta) of their rung, whatever the others reach."""
        found, most = set(), self.trials  # most: how many can reach the rung in the end
        for rung, reached in enumerate(self.reached[:-1]):
            paused = [
                (rank, trial) for rank, (_, trial) in enumerate(reached) if self.goal[trial] == rung
            ]
            stay = {
                trial for rank, trial in paused if rank >= most // self.eta or trial in self.over
            }
            found, most = found | stay - self.over, most - len(stay)
        return found


# ---- what the rungs would decide, replayed on whole curves


def replay(
    curves: np.ndarray, pruner: str = "asha", eta: int = 2, first_rung: int = 1, workers: int = 1
) -> np.ndarray:  # fmt: skip
    """How many epochs of each of these curves a search would train if it took them in this order;
    int (trials,).

    `curves`: the values after epochs 1, 2, .. of every trial, (trials, epochs).  `workers` train at
    the same time, and every epoch takes equally long.
    """
    (trials, epochs), clock, running = curves.shape, 0, []
    rungs, trained = Rungs(pruner, first_rung, eta, epochs, trials), np.zeros(trials, int)
    while True:
        while len(running) < workers and (trial := rungs.pick()) is not None:
            heapq.heappush(running, (clock + rungs.until(trial) - trained[trial], trial))
        if not running:
            return trained
        clock, trial = heapq.heappop(running)
        trained[trial] = epoch = rungs.until(trial)
        rungs.arrive(trial, value := curves[trial, epoch - 1])
        if pruner == "asha" and epoch < epochs and rungs.passes(trial, value):
            rungs.let_on(trial)


def _whole_curves(summary: dict) -> np.ndarray:
    if summary["search"]["pruner"] != "none":
        raise ValueError(
            f"study {summary['study']!r} was pruned: search with pruner='none' to see whole curves"
        )
    return np.array(
        [trial["values"] for trial in summary["trials"] if trial["state"] == "COMPLETE"]
    )


def _replays(curves: np.ndarray, orders: int, graphs: int | None = None, **how) -> np.ndarray:
    """`replay` in random orders, each of so many of the curves: int (orders, trials), 0 for those left out."""
    rng, trained = np.random.default_rng(0), np.zeros((orders, len(curves)), int)
    for row in trained:
        order = rng.permutation(len(curves))[:graphs]
        row[order] = replay(curves[order], **how)
    return trained


def pruner_table(
    curves: np.ndarray | dict, first_rungs: Sequence[int] = (1, 2, 4), orders: int = 200, eta: int = 2,
    graphs: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What "asha" and "promote" would keep of graphs that were all trained to the end, and what
    they would spend.

    `curves` as for `replay`, or the summary of a search with `pruner="none"`; `graphs` of them,
    drawn anew for every order, or all. Percent, by `pruner` and `first_rung`: `best_kept`, in how
    many random orders a graph of the best final value is trained to its end, with the 95 % interval
    `low` to `high` over orders (Wilson), and `epochs`, the share of all epochs that is trained.
    """
    curves, rows = _whole_curves(curves) if isinstance(curves, dict) else curves, []
    for pruner, rung in itertools.product(("asha", "promote"), first_rungs):
        trained = _replays(curves, orders, graphs, pruner=pruner, eta=eta, first_rung=rung)
        final = np.where(trained > 0, curves[:, -1], -np.inf)
        best = (final == final.max(1, keepdims=True)) & (trained == curves.shape[1])
        kept = binomtest(int(best.any(1).sum()), orders)
        low, high = kept.proportion_ci(method="wilson")
        row = {"best_kept": kept.statistic, "low": low, "high": high}
        row["epochs"] = trained[trained > 0].mean() / curves.shape[1]
        rows.append(
            {"pruner": pruner, "first_rung": rung}
            | {name: 100 * share for name, share in row.items()}
        )
    return pd.DataFrame(rows)


def early_rungs(
    summary: dict, first_rungs: Sequence[int] = (1, 2, 4), orders: int = 200
) -> pd.DataFrame:
    """Whether a first rung decides for or against a start of the target: ASHA replayed on whole
    curves.

    By `rung` and `target` (its initialisation), percent of its `n` graphs: `passed`, the chance to
    pass the first rung with its 95 % interval `low` to `high`; `deserved`, who ends among the best
    1/reduction_factor of all; `bias`, the paired difference with its interval, and in words as
    `verdict`. Raises ValueError for a search that was pruned.
    """
    curves, eta, rows = _whole_curves(summary), summary["search"]["reduction_factor"], []
    starts = [
        trial["graph"]["nodes"][0]["init"]
        for trial in summary["trials"]
        if trial["state"] == "COMPLETE"
    ]
    deserved = curves[:, -1] >= np.sort(curves[:, -1])[-max(1, len(curves) // eta)]
    for rung in [rung for rung in first_rungs if rung < curves.shape[1]]:
        passed = (_replays(curves, orders, eta=eta, first_rung=rung) > rung).mean(0)
        for target in summary["choices"]:
            own = np.array(starts) == target
            mean, bias = (
                stats.summary(100 * passed[own]),
                stats.summary(100 * (passed - deserved)[own]),
            )
            verdict = (
                "favoured"
                if bias["low"] > 0
                else "held back"
                if bias["high"] < 0
                else "not resolved"
            )
            row = {
                "rung": rung,
                "target": target,
                "n": mean["n"],
                "passed": mean["mean"],
                "low": mean["low"],
            }
            row |= {
                "high": mean["high"],
                "deserved": 100 * deserved[own].mean(),
                "bias": bias["mean"],
            }
            rows.append(
                row | {"bias_low": bias["low"], "bias_high": bias["high"], "verdict": verdict}
            )
    return pd.DataFrame(rows)
