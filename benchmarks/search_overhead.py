"""What the coordinator costs a search: milliseconds per graph with a journal, and with PostgreSQL
if $KTGLITE_STORAGE names one, beside the time of training such a graph here. Processor time, which
other programs do not lengthen.

Run: KTGLITE_STORAGE=postgresql+psycopg://USER@HOST/DB TRIALS=100 python
benchmarks/search_overhead.py
"""

import os
import tempfile
import time
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import optuna
import torch

from ktglite import TrainConfig, epochs, load_data
from ktglite.experiments import search
from ktglite.experiments.rungs import replay
from ktglite.experiments.space import SearchConfig, sample_graphs

TRIALS = int(os.environ.get("TRIALS", 100))
CONFIG = TrainConfig(epochs=12, batch_size=64, lr=0.03, schedule="cosine", augmentation="shift")
SETTINGS = SearchConfig("none", arch="resnet18_w16", trials=TRIALS)
WORKERS = 4


class Untrained:
    """A pool whose tasks are done at once, with random curves in place of trainings."""

    size = WORKERS

    def __init__(self, curves: np.ndarray):
        self.curves = curves

    def submit(self, function, graph, source, config, seed, store, weights, epoch, label) -> Future:
        values = self.curves[int(label.split()[-1]), :epoch]
        history = [
            {"epoch": i, "val_accuracy": [float(value)]} for i, value in enumerate(values, 1)
        ]
        history[-1] |= {"reported_epoch": epoch, "test_accuracy": [0.0]}
        future = Future()
        future.set_result(history)
        return future


def storage_seconds(
    storage: str | None, pruner: str, data, curves: np.ndarray
) -> tuple[float, float]:
    """Wall and processor seconds per graph of a whole search without its trainings."""
    with tempfile.TemporaryDirectory() as out:
        wall, own = time.perf_counter(), time.process_time()
        settings, name = replace(SETTINGS, pruner=pruner), f"overhead {time.time_ns()}"
        search.search(settings, data, CONFIG, out, storage, pool=Untrained(curves), name=name)
        return (time.perf_counter() - wall) / TRIALS, (time.process_time() - own) / TRIALS


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    data = load_data("synthcars", 48, limit=2560)
    curves = np.random.default_rng(0).normal(size=(TRIALS, CONFIG.epochs)).cumsum(1)
    start = time.process_time()
    trained = len(list(epochs(sample_graphs(SETTINGS, 1)[0], data, replace(CONFIG, epochs=2), 0)))
    epoch = (time.process_time() - start) / trained
    print(f"training: {epoch:.2f} s per epoch of {len(data.train)} images (processor)")
    for pruner in ("asha", "promote"):
        trial = epoch * replay(curves, pruner, workers=WORKERS).mean()
        for name, storage in {
            "journal": None,
            "database": os.environ.get("KTGLITE_STORAGE"),
        }.items():
            if storage or name == "journal":
                wall, own = storage_seconds(storage, pruner, data, curves)
                print(
                    f"{pruner}, {name}: {1000 * own:.1f} ms per graph (wall {1000 * wall:.1f}), ",
                    end="",
                )
                print(f"{100 * own / trial:.2f} % of {trial:.1f} s of training")
            else:
                print(f"{pruner}, {name}: not measured, KTGLITE_STORAGE is not set")


if __name__ == "__main__":
    main()
