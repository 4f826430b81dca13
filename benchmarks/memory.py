"""Memory: what one step of three ResNet18 keeps for its backward at 224 px, and a process over 200
trainings.

The first is counted on any machine: the bytes autograd saves, each storage once, in bf16; to these
come weights, gradients and momentum. It is a lower bound of a GPU's peak, without the work space of
its kernels. Run: python benchmarks/memory.py [saved|growth]
"""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from training_step import random_data

from ktglite import Node, TrainConfig, all_through, edge_losses, epochs, initial_models

BATCH, MEASURED = (
    64,
    4,
)  # saved activations are proportional to the batch: counted at 4, scaled to 64


def saved_bytes() -> tuple[float, float]:
    """GiB of activations at 224 px and batch 64, and GiB of weights, gradients and momentum, of three networks."""
    config = TrainConfig(precision="bf16", device="cpu")
    graph, seen = all_through(*[Node("resnet18")] * 3), {}
    nets = initial_models(graph, random_data(32), config, 0)
    owned = {
        p.untyped_storage().data_ptr() for net in nets for p in (*net.parameters(), *net.buffers())
    }

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            seen[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # held, so that no address is used twice
        return tensor

    images = torch.randn(MEASURED, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    weights = sum(p.numel() for net in nets for p in net.parameters())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            logits = [net(images) for net in nets]
        edge_losses(graph, logits, torch.zeros(MEASURED, dtype=torch.long), 1.0).sum()
    casts = 2 * weights  # the weights' bf16 copies do not grow with the batch
    activations = (sum(nbytes for nbytes, _ in seen.values()) - casts) * BATCH / MEASURED + casts
    return activations / 2**30, 3 * 4 * weights / 2**30


def resident() -> float:
    """MiB of this process in memory (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(trainings: int = 200, base: int = 50) -> tuple[float, float]:
    """MiB after `base` and after `trainings` trainings of one epoch in this process."""
    data, graph = random_data(8), all_through(*[Node("resnet18_w16")] * 3)
    for i in range(trainings):
        list(epochs(graph, data, TrainConfig(epochs=1, device="cpu", augmentation="shift"), seed=i))
        if i + 1 == base:
            before = resident()
    return before, resident()


def main() -> None:
    torch.set_num_threads(1)
    what = sys.argv[1:] or ["saved", "growth"]
    if "saved" in what:
        activations, states = saved_bytes()
        print(
            f"3 x ResNet18, 224 px, batch 64, bf16: activations {activations:.2f} GiB, states {states:.2f} GiB"
        )
    if "growth" in what:
        before, after = growth()
        print(
            f"resident after 50 trainings {before:.0f} MiB, after 200 {after:.0f} MiB ({after - before:+.1f})"
        )


if __name__ == "__main__":
    main()
