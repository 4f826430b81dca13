"""The rule by which the quick profile's images and epochs are chosen (docs/quick_profile.md).

Of four candidates of about 20,000 images a node and run, it takes the one with the most images for
which a single network from scratch has fitted its training images for the second half of its run:
mean training accuracy over those epochs >= 99 %. No graph, no pre-trained start and no test image
has a part in it.

    python benchmarks/quick_rule.py
"""

import argparse
from pathlib import Path

import ktglite as ktg
from ktglite.experiments.stats import summary
from ktglite.store import write_json

CANDIDATES = {640: 31, 800: 25, 960: 20, 1280: 15}  # training images: epochs
VAL = 480
TEST = 1440
WANTED = 99.0  # % of the training images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("data/runs/quick_rule"))
    parser.add_argument("--save", type=Path, help="write what was found to this JSON file")
    given = parser.parse_args()

    rows = []
    for images, epochs in CANDIDATES.items():
        total = images + VAL + TEST
        split = (images / total, VAL / total, TEST / total)
        data = ktg.load_data("synthcars", 48, total, split)
        config = ktg.TrainConfig(
            epochs=epochs, batch_size=32, lr=0.01, schedule="cosine", augmentation="none"
        )
        alone = {"alone": ktg.independent(ktg.Node("resnet18_w16"))}
        runs = ktg.run_all(alone, data, config, range(given.seeds), given.out / "runs")
        curves = [[epoch["train_accuracy"][0] for epoch in run["epochs"]] for run in runs]
        halves = [sum(curve[epochs // 2 :]) / len(curve[epochs // 2 :]) for curve in curves]
        found = summary(halves)
        fits = found["mean"] >= WANTED
        rows.append(
            {
                "images": len(data.train),
                "epochs": epochs,
                "train_accuracy_second_half": [round(half, 3) for half in halves],
                "mean": round(found["mean"], 3),
                "std": round(found["std"], 3),
                "n": found["n"],
                "fitted": fits,
                "first_epoch_at_99": [
                    next((i for i, share in enumerate(curve, 1) if share >= WANTED), None)
                    for curve in curves
                ],
                "curves": [[round(share, 2) for share in curve] for curve in curves],
                "seconds": [round(run["seconds"], 1) for run in runs],
                "provenance": runs[0]["provenance"],
            }
        )
        print(
            f"{len(data.train)} images x {epochs} epochs: training accuracy over the second half "
            f"{found['mean']:.2f} ± {found['std']:.2f} % (n = {found['n']})"
            f"{', fitted' if fits else ''}",
            flush=True,
        )
    chosen = max(
        (row for row in rows if row["fitted"]), key=lambda row: row["images"], default=None
    )
    print(
        "none is fitted" if chosen is None else f"chosen: {chosen['images']} x {chosen['epochs']}"
    )
    if given.save:
        write_json(given.save, rows)


if __name__ == "__main__":
    main()
