"""Is bf16 harmless? Paired seeds in fp32 and bf16 on synthcars, the interval of the difference in
test accuracy.

Writes bf16_parity.json beside the other results. Run: python benchmarks/bf16_parity.py [--seeds 5]
[--out FILE]
"""

import argparse
import json
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from ktglite import Node, TrainConfig, all_through, epochs, load_data
from ktglite.experiments import stats

MARGIN = 2.0  # points: harmless is an interval within -MARGIN..MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--arch", nargs="+", default=["resnet18_w16", "resnet18"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/bf16_parity.json"))
    parser.add_argument("--cache", default="data/cache")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("synthcars", 48, limit=3200, split=(0.4, 0.15, 0.45), cache=args.cache)
    settings = {
        "batch_size": 64,
        "lr": 0.03,
        "schedule": "cosine",
        "augmentation": "shift",
        "device": "cpu",
    }
    results = {
        "settings": settings | {"epochs": args.epochs},
        "data": data.fingerprint,
        "torch": torch.__version__,
    }
    for arch in args.arch:
        graph, accuracies = all_through(Node(arch), Node(arch)), {}
        for precision in ("fp32", "bf16"):
            config = TrainConfig(epochs=args.epochs, precision=precision, **settings)
            accuracies[precision] = {
                seed: list(epochs(graph, data, config, seed))[-1]["test_accuracy"][0]
                for seed in range(args.seeds)
            }
        gap = stats.difference(accuracies["bf16"], accuracies["fp32"])
        if gap["low"] > -MARGIN and gap["high"] < MARGIN:
            verdict = "harmless"
        elif gap["high"] < 0:
            verdict = "harmful"
        else:
            verdict = "unresolved"
        results[arch] = accuracies | {"bf16 - fp32": gap, "verdict": verdict}
        args.out.write_text(json.dumps(results, indent=1) + "\n")  # nothing computed is lost
        mean = {
            key: stats.summary(list(values.values()))["mean"] for key, values in accuracies.items()
        }
        print(
            f"{arch}: fp32 {mean['fp32']:.2f} %, bf16 {mean['bf16']:.2f} %, difference {gap['effect']:+.2f} "
            f"[{gap['low']:+.2f}, {gap['high']:+.2f}] points, {args.seeds} seeds: {verdict} (margin {MARGIN})",
            flush=True,
        )


if __name__ == "__main__":
    main()
