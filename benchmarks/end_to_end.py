"""A reduced quick ablation: `run_all` in two processes of one thread each, against the plain
reference in two threads.

Also one process against two. Wall time, rounds interleaved, medians; what else runs on the machine
matters, so the load is printed. Run: python benchmarks/end_to_end.py [--rounds 3]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from training_step import textbook

from ktglite import Graph, Node, TrainConfig, all_through, load_data
from ktglite.data import Data
from ktglite.experiments.runs import run_all

# The quick profile's data, network and training, with fewer epochs; where the weights come from
# changes no time.
DATA = {"name_or_folder": "synthcars", "size": 48, "limit": 3200, "split": (0.4, 0.15, 0.45)}
TRAINING = {
    "batch_size": 64,
    "lr": 0.03,
    "schedule": "cosine",
    "augmentation": "shift",
    "device": "cpu",
}
RUNS = 4


def reference(graph: Graph, data: Data, epochs: int) -> None:
    """One run after the other, in this process."""
    config = TrainConfig(epochs=epochs, precision="fp32", **TRAINING)
    for _ in range(RUNS):
        plain = textbook(graph, data, config)
        for _ in range(epochs):
            next(plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--cache", default="data/cache")
    args = parser.parse_args()
    data = load_data(**DATA, cache=args.cache)
    graph = all_through(*[Node("resnet18_w16")] * 3)
    config = TrainConfig(epochs=args.epochs, precision=args.precision, **TRAINING)
    times = {"reference, 2 threads": [], "jobs 1": [], "jobs 2": []}
    for _ in range(args.rounds):
        for name, taken in times.items():
            torch.set_num_threads(2)
            with tempfile.TemporaryDirectory() as root:
                start = time.perf_counter()
                if name.startswith("jobs"):
                    run_all(
                        {"graph": graph},
                        data,
                        config,
                        range(RUNS),
                        Path(root) / "runs.jsonl",
                        jobs=int(name[-1]),
                        what=name,
                    )
                else:
                    reference(graph, data, args.epochs)
                taken.append(time.perf_counter() - start)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    print(
        f"{RUNS} runs of {args.epochs} epochs, load average {os.getloadavg()[1]:.1f} over 5 minutes"
    )
    for name, seconds in median.items():
        print(f"{name}: {seconds:.1f} s")
    gain = median["reference, 2 threads"] / median["jobs 2"]
    print(
        f"jobs 2 against the reference: {gain:.2f} (wanted 2.2: {'reached' if gain >= 2.2 else 'MISSED'})"
    )
    print(f"jobs 2 against jobs 1: {median['jobs 1'] / median['jobs 2']:.2f}")


if __name__ == "__main__":
    main()
