"""The kit's training step against a plain textbook one: three nodes, batch 64, one thread,
interleaved, medians.

The reference does what the equations say and nothing more: every node run and trained in fp32,
every edge with softmaxes of its own, one backward a node, `.item()` for every loss. Run: python
benchmarks/training_step.py
"""

import argparse
import os
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.nn.functional as F

from ktglite import Graph, Node, TrainConfig, all_through, epochs, initial_models
from ktglite.data import Data, Split, augment
from ktglite.devices import resolve_precision
from ktglite.trainer import accuracy, predict

BATCH, CLASSES = 64, 196
# Node 1 learns from its label and from node 2, which is fixed; nobody hears node 3.
ONE_LEARNER = [["through", "through", "cutoff"], ["cutoff"] * 3, ["through"] * 3]
CASES = {  # arch, image size, gates (None: all Through), precision, the ratio to reach
    "width 16, 48 px bf16": ("resnet18_w16", 48, None, "bf16", 2.0),
    "width 16, 48 px fp32": ("resnet18_w16", 48, None, "fp32", 1.1),
    "width 16, 48 px one learner, one fixed, one dead, auto": (
        "resnet18_w16",
        48,
        ONE_LEARNER,
        "auto",
        3.5,
    ),
    "resnet18 32 px auto": ("resnet18", 32, None, "auto", 1.5),
    "resnet18 64 px auto": ("resnet18", 64, None, "auto", 1.9),
    "resnet18 64 px bf16": ("resnet18", 64, None, "bf16", 1.9),
    "resnet18 96 px auto": ("resnet18", 96, None, "auto", 2.0),
}


def random_data(size: int, repeat: int = 1) -> Data:
    """A batch of noise to train on, `repeat` times, and two images to evaluate: an epoch is `repeat` steps."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=draw)
    rest = Split(images[:2], labels[:2])
    train = Split(images.repeat(repeat, 1, 1, 1), labels.repeat(repeat))
    return Data("noise", size, tuple(map(str, range(CLASSES))), train, rest, rest)


def textbook(graph: Graph, data: Data, config: TrainConfig):
    """A generator that does one plain epoch, and evaluates every node, for every `next`."""
    everyone = all_through(*graph.nodes)  # so that initial_models gives every node a network
    nets = [
        net.to(memory_format=torch.contiguous_format)
        for net in initial_models(everyone, data, config, 0)
    ]
    optimizers = [
        torch.optim.SGD(
            net.parameters(),
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
        for net in nets
    ]
    device, draw = next(nets[0].parameters()).device, torch.Generator().manual_seed(0)
    while True:
        for index in torch.randperm(len(data.train), generator=draw).split(config.batch_size):
            labels = data.train.labels[index].to(device)
            images = augment(data.train.images[index].to(device), config.augmentation, draw)
            logits = [net(images) for net in nets]
            for t, optimizer in enumerate(optimizers):
                loss = 0
                for s in range(graph.size):
                    if graph.gates[t][s] == "cutoff":
                        continue
                    if s == t:
                        edge = F.cross_entropy(logits[t], labels)
                    else:
                        p = F.softmax(logits[s].detach(), 1)
                        edge = (p * (p.log() - F.log_softmax(logits[t], 1))).sum(1).mean()
                    edge.item()
                    loss = loss + edge
                if torch.is_tensor(loss):
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                (logits[t].argmax(1) == labels).sum().item()
        yield [accuracy(predict(net, data.val), data.val.labels) for net in nets]


def compare(arch: str, size: int, gates: list | None, precision: str, rounds: int) -> dict:
    """Medians over `rounds` of the seconds of CPU and wall time that one step takes, and their ratios."""
    nodes = [Node(arch)] * 3
    graph = all_through(*nodes) if gates is None else Graph(tuple(nodes), gates)
    data = random_data(size)
    settings = {
        "batch_size": BATCH,
        "lr": 1e-3,
        "augmentation": "none",
        "device": "cpu",
        "schedule": "constant",
    }
    config = TrainConfig(
        epochs=rounds + 2, precision=precision, **settings
    )  # the last epoch would also test
    plain = textbook(graph, data, TrainConfig(precision="fp32", **settings))
    steps = {"kit": epochs(graph, data, config, 0), "reference": plain}
    times = {"kit": [], "reference": []}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            next(step)
            if turn:  # the first one warms up
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (
        {name: statistics.median(t[i] for t in taken) for name, taken in times.items()}
        for i in (0, 1)
    )
    return {
        "kit": BATCH / cpu["kit"],
        "reference": BATCH / cpu["reference"],
        "cpu": cpu["reference"] / cpu["kit"],
        "wall": wall["reference"] / wall["kit"],
    }


def ceiling(dtype: torch.dtype, side: int = 2048, rounds: int = 5) -> float:
    """GFLOP/s of one thread multiplying square matrices: what no training step exceeds."""
    a, b, taken = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype), []
    for _ in range(rounds + 1):
        start = time.process_time()
        a @ b
        taken.append(time.process_time() - start)
    return 2e-9 * side**3 / min(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rates = [
        f"{ceiling(dtype):.0f} GFLOP/s in {name}"
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]
    print(
        f"matrix products, one thread: {', '.join(rates)}; auto is {resolve_precision('auto', torch.device('cpu'))}"
    )
    print(
        f"{'3 nodes, batch 64':<52} {'kit img/s':>9} {'plain':>6} {'ratio':>6} {'wall':>6}  wanted",
        flush=True,
    )
    for name, (arch, size, gates, precision, wanted) in CASES.items():
        if args.only in name:
            r = compare(arch, size, gates, precision, args.rounds)
            verdict = "reached" if r["cpu"] >= wanted else "MISSED"
            print(
                f"{name:<52} {r['kit']:>9.1f} {r['reference']:>6.1f} {r['cpu']:>6.2f} {r['wall']:>6.2f}"
                f"  {wanted} {verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()
