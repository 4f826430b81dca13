"""Three ResNet18 on one GPU: images/s against the plain reference, with and without each lever, and
peak memory.

Run: python benchmarks/gpu.py --peak-tflops 312   (the card's dense bf16 matrix peak, from its data
sheet)
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode
from training_step import BATCH, random_data, textbook

from ktglite import Node, TrainConfig, all_through, captured, epochs, initial_models, trainer

STEPS = 50


def flops_of_step(size: int) -> int:
    """Floating-point operations of one forward and backward of the three networks."""
    net = initial_models(
        all_through(Node("resnet18")),
        random_data(size),
        TrainConfig(device="cpu", precision="fp32"),
        0,
    )[0]
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(2, 3, size, size)).sum().backward()
    return 3 * counter.get_total_flops() * BATCH // 2


def rate(step, steps: int, rounds: int) -> float:
    """Median images/s over `rounds`, each `next(step)` being `steps` iterations."""
    rates = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        next(step)
        torch.cuda.synchronize()
        rates.append(steps * BATCH / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def kit(
    size: int,
    rounds: int,
    precision: str = "bf16",
    graph: bool = True,
    channels_last: bool = True,
    streams: bool = True,
) -> float:
    """Images/s of `epochs` with the levers given."""
    data = random_data(size, repeat=STEPS)
    settings = {
        "batch_size": BATCH,
        "augmentation": "none",
        "device": "cuda",
        "schedule": "constant",
    }
    config = TrainConfig(epochs=rounds + 2, lr=1e-3, precision=precision, **settings)
    nodes = all_through(*[Node("resnet18")] * 3)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    nets = [net.to(memory_format=layout) for net in initial_models(nodes, data, config, 0)]
    with ExitStack() as stack:
        if not graph:
            stack.enter_context(mock.patch.object(captured, "MAX_CAPTURED_SIZE", 0))
        if not streams:
            one = mock.patch.object(trainer, "node_streams", lambda nets, _: [None] * len(nets))
            stack.enter_context(one)
        return rate(epochs(nodes, data, config, 0, models=nets), STEPS, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 96, 224], help="px")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("this torch sees no GPU: nothing is measured")
        return
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for size in args.sizes:
        config = TrainConfig(batch_size=BATCH, lr=1e-3, precision="fp32", device="cuda")
        plain = rate(
            textbook(all_through(*[Node("resnet18")] * 3), random_data(size), config), 1, STEPS
        )
        torch.cuda.reset_peak_memory_stats()
        full = kit(size, args.rounds)
        peak = torch.cuda.max_memory_allocated() / 2**30
        levers = {
            "without the CUDA graph": kit(size, args.rounds, graph=False),
            "without channels_last": kit(size, args.rounds, channels_last=False),
            "fp32": kit(size, args.rounds, precision="fp32"),
            "with one stream for all nodes": kit(size, args.rounds, streams=False),
        }
        print(
            f"{size} px: plain {plain:,.0f} images/s, kit {full:,.0f} ({full / plain:.1f} x), {peak:.2f} GiB at peak"
        )
        if args.peak_tflops:
            share = flops_of_step(size) * full / BATCH / (args.peak_tflops * 1e12)
            print(f"  {100 * share:.1f} % of the bf16 matrix peak")
        for name, images in levers.items():
            print(f"  {name}: {images:,.0f} images/s ({images / full:.2f} x)", flush=True)


if __name__ == "__main__":
    main()
