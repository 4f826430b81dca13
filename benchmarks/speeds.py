"""Images a second by network, image size and number of nodes, in training: what a run will take.

Every node learns from its label and from all others; fp32, one thread, CPU time, medians. Prints
rows of the first table of benchmarks/RESULTS.md.

    python benchmarks/speeds.py [--only resnet18_w16]
"""

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from training_step import BATCH, ceiling, random_data

from ktglite import Node, TrainConfig, all_through, epochs

CASES = {  # architecture, image size: batch size, steps to time
    ("resnet18_w16", 48): (32, 9),
    ("resnet18", 64): (64, 3),
    ("resnet18", 128): (64, 2),
    ("resnet18", 224): (64, 1),
}


def images_per_second(arch: str, size: int, nodes: int, batch_size: int, rounds: int) -> float:
    """Images that a graph of `nodes` nodes trains on in a second of CPU time."""
    config = TrainConfig(
        epochs=rounds + 2,  # the last epoch also tests
        batch_size=batch_size,
        lr=1e-3,
        schedule="constant",
        augmentation="none",
        precision="fp32",
        device="cpu",
    )
    steps = epochs(all_through(*[Node(arch)] * nodes), random_data(size), config, 0)
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        next(steps)
        taken.append(time.process_time() - start)
    return BATCH / statistics.median(taken[1:])  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread: {ceiling(torch.float32):.0f} GFLOP/s in fp32 (matrix products)")
    for (arch, size), timing in CASES.items():
        if args.only in arch:
            one, three = (images_per_second(arch, size, nodes, *timing) for nodes in (1, 3))
            print(f"| `{arch}` | {size} px | {one:.3g} | {three:.3g} | {1000 / three:.3g} |")


if __name__ == "__main__":
    main()
