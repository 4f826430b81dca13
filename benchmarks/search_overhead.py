"""What the coordinator costs a search, and whether that grows with the number of graphs.

A whole search whose trainings are random curves, ready at once: milliseconds per graph for each
fifth of the trials, the same when it is killed after half of them and goes on, and the size of
journal and summary.

    python benchmarks/search_overhead.py --trials 1500
"""

import argparse
import contextlib
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import optuna
from safetensors.torch import save_file

from ktglite import TrainConfig, load_data
from ktglite.experiments import search
from ktglite.experiments.space import SearchConfig
from ktglite.models import initialise

ARCH = "resnet18_w16"
SOURCES = ("imagenet1k_standin", "fractaldb1k")
EPOCHS = 15
WORKERS = 4


class Untrained:
    """A pool whose tasks are done at once, with random curves in place of trainings."""

    size = WORKERS

    def __init__(self, curves: np.ndarray, limit: float = np.inf):
        self.curves = curves
        self.limit = limit
        self.begun: dict[int, float] = {}  # when each graph was first submitted

    def submit(self, function, task, store: str, epoch: int) -> Future:
        number = int(task.label.split()[-1])
        self.begun.setdefault(number, time.perf_counter())
        if number > self.limit:
            raise KeyboardInterrupt
        values = self.curves[number, :epoch]
        history = [{"epoch": i, "val_accuracy": [float(v)]} for i, v in enumerate(values, 1)]
        history[-1] |= {"reported_epoch": epoch, "test_accuracy": [0.0]}
        future = Future()
        future.set_result(history)
        return future


def write_weights(out: Path) -> Path:
    """Weights that are hashed and not read otherwise: random ones."""
    for source in SOURCES:
        state = initialise(ARCH, "scratch", 3, 0).state_dict()
        save_file(state, out / f"{source}-{ARCH}.safetensors")
    return out


def measure(settings: SearchConfig, data, curves: np.ndarray, out: Path) -> None:
    """Run one search, and print what it took."""
    config = TrainConfig(epochs=EPOCHS)
    pool = Untrained(curves)
    study = search.search(settings, data, config, out, write_weights(out), pool)
    times = [pool.begun[number] for number in sorted(pool.begun)]
    fifths = np.array_split(np.diff(times), 5)
    told = ", ".join(f"{1000 * part.mean():.1f}" for part in fifths)
    journal = (out / "search" / "mixed.log").stat().st_size / 1e6
    search.write_summary(study, out)
    summary = (out / "search" / "mixed.json").stat().st_size / 1e6
    print(
        f"{settings.pruner}: {told} ms per graph by fifths of {settings.trials}, "
        f"{sum(len(t.intermediate_values) for t in study.trials)} epochs; "
        f"journal {journal:.2f} MB, summary {summary:.2f} MB"
    )


def resume(settings: SearchConfig, data, curves: np.ndarray, out: Path) -> None:
    """Stop a search after half of its graphs, and print what it takes to take it up again."""
    config = TrainConfig(epochs=EPOCHS)
    weights = write_weights(out)
    with contextlib.suppress(KeyboardInterrupt):
        stopped = Untrained(curves, settings.trials // 2)
        search.search(settings, data, config, out, weights, stopped)
    pool = Untrained(curves)
    started = time.perf_counter()
    search.search(settings, data, config, out, weights, pool)
    print(f"{settings.pruner}: taken up half-way in {min(pool.begun.values()) - started:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1500)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = load_data("synthcars", 16, limit=90)
    curves = np.random.default_rng(0).normal(size=(given.trials, EPOCHS)).cumsum(1) + 50
    for pruner in ("asha", "promote"):
        settings = SearchConfig("mixed", SOURCES, ARCH, trials=given.trials, pruner=pruner)
        for part in (measure, resume):
            with tempfile.TemporaryDirectory() as out:
                part(settings, data, curves, Path(out))


if __name__ == "__main__":
    main()
