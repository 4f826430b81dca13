"""ASHA's rungs: who trains next and up to which epoch, in a search or replayed on whole curves."""

import bisect
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np


class Rungs:
    """Which trial trains next, and up to which of the `epochs` at which graphs are judged; the last
    is `end`, at which none is.

    Raises ValueError when the first comes after the last epoch, or `trials` are too few to promote
    one graph to it.
    """

    def __init__(self, pruner: str, min_resource: int, eta: int, end: int, trials: int):
        if pruner != "none" and min_resource > end:
            found = f"min_resource is {min_resource}, but a graph has {end} epochs"
            raise ValueError(f"{found}: choose an earlier first rung, or pruner 'none'")
        self.epochs = [end]
        epoch = end if pruner == "none" else min_resource
        while epoch < end:
            self.epochs.insert(-1, epoch)
            epoch *= eta
        needed = eta ** (len(self.epochs) - 1)
        if pruner == "promote" and trials < needed:
            way_out = f"promotion to epoch {end} needs {needed}, or a later first rung"
            raise ValueError(f"trials is {trials}: {way_out}")
        self.pruner = pruner
        self.eta = eta
        self.trials = trials
        self.goal: dict[int, int] = {}  # trial -> index of the rung up to which it may train
        self.reached: list[list] = [[] for _ in self.epochs]  # by rung, (-value, trial), sorted
        self.over: set[int] = set()
        self.ready: deque[int] = deque()

    def until(self, trial: int) -> int:
        """The epoch up to which a trial may train."""
        return self.epochs[self.goal[trial]]

    def pick(self) -> int | None:
        """The trial to train next: one that may go on, one to promote, or a new one; or None."""
        if not self.ready and self.pruner == "promote":
            self._promote_best_paused()
        if not self.ready and len(self.goal) < self.trials:
            self.ready.append(len(self.goal))
            self.goal[len(self.goal)] = 0
        return self.ready.popleft() if self.ready else None

    def arrive(self, trial: int, value: float) -> None:
        """A trial has trained as far as it may, with this value: under "asha", which is as Optuna
        has it, it advances among the best floor(n / eta) that came so far, or as the best of few,
        or is over; under "promote" it pauses."""
        reached = self.reached[self.goal[trial]]
        bisect.insort(reached, (-value, trial))
        if self.pruner == "asha":
            if -value <= reached[max(1, len(reached) // self.eta) - 1][0]:
                self._advance(trial)
            else:
                self.over.add(trial)

    def _advance(self, trial: int) -> None:
        self.goal[trial] += 1
        self.ready.append(trial)

    def _promote_best_paused(self) -> None:
        """ASHA as published (Li et al., MLSys 2020, algorithm 2): from the highest rung that has
        one, advance the best trial that is paused there and belongs to its best floor(n / eta),
        those that went on counted."""
        for rung in reversed(range(len(self.epochs) - 1)):
            for _, trial in self.reached[rung][: len(self.reached[rung]) // self.eta]:
                if self.goal[trial] == rung and trial not in self.over:
                    return self._advance(trial)

    def hopeless(self) -> set[int]:
        """Paused trials that are never among the best floor(n / eta) of their rung, whatever the
        others reach."""
        found = set()
        most = self.trials  # how many can reach the rung in the end
        for rung, reached in enumerate(self.reached[:-1]):
            stay = {
                trial
                for rank, (_, trial) in enumerate(reached)
                if self.goal[trial] == rung and (rank >= most // self.eta or trial in self.over)
            }
            found |= stay - self.over
            most -= len(stay)
        return found

    def restore(self, trial: int, until: int, values: Mapping[int, float], over: bool) -> None:
        """Take up a trial that may train `until` an epoch, and its `values` by epoch, in any order
        of trials. One that has reached `until` and is not `over` is paused under "promote"; under
        "asha" it is still to be judged, and arrives once more."""
        for goal, epoch in enumerate(self.epochs[: self.epochs.index(until) + 1]):
            self.goal[trial] = goal
            if epoch in values and (over or epoch < until or self.pruner == "promote"):
                bisect.insort(self.reached[goal], (-values[epoch], trial))
        paused = self.pruner == "promote" and until in values and until < self.epochs[-1]
        if over:
            self.over.add(trial)
        elif not paused:
            self.ready.append(trial)


# ---- what the rungs would decide, replayed on whole curves


def simulate(
    rungs: Rungs, begin: Callable[[int], tuple[np.ndarray, np.ndarray]], workers: int = 1
) -> Iterator[tuple[float, int, int]]:
    """A search whose trainings are known, by `workers` at the same time: (clock, trial, epoch)
    whenever a trial has trained as far as it may.

    `begin`: the values after, and the seconds of, each epoch of a trial, when it is first picked.
    It has diverged in the epoch where its values become NaN.
    """
    curves = {}
    trained = Counter()
    running = []
    clock = 0.0
    while True:
        while len(running) < workers and (trial := rungs.pick()) is not None:
            if trial not in curves:
                curves[trial] = begin(trial)
            values, seconds = curves[trial]
            until = rungs.until(trial)
            finite = int(np.isfinite(values[:until]).sum())
            until = min(until, finite + 1)
            taken = float(np.nansum(seconds[trained[trial] : until]))
            trained[trial] = min(until, finite)
            heapq.heappush(running, (clock + taken, trial))
        if not running:
            return
        clock, trial = heapq.heappop(running)
        yield clock, trial, trained[trial]
        if trained[trial] < rungs.until(trial):
            rungs.over.add(trial)
        elif trained[trial] < rungs.epochs[-1]:
            rungs.arrive(trial, curves[trial][0][trained[trial] - 1])


def replay(
    curves: np.ndarray, pruner: str = "asha", eta: int = 2, first_rung: int = 1, workers: int = 1
) -> np.ndarray:
    """How many epochs of each trial, int (trials,), a search would train that takes them in this
    order, by `workers` at the same time; every epoch takes equally long.

    `curves`: the values after epochs 1, 2, .. of every trial, (trials, epochs).
    """
    count, epochs = curves.shape
    rungs = Rungs(pruner, first_rung, eta, epochs, count)
    trained = np.zeros(count, int)
    seconds = np.ones(epochs)
    for _, trial, epoch in simulate(rungs, lambda trial: (curves[trial], seconds), workers):
        trained[trial] = epoch
    return trained
