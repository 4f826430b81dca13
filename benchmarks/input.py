"""Cache and batched augmentation against ImageFolder and DataLoader, one thread, the same crop,
flip and size.

JPEG files are written to a temporary folder from synthcars drawn at their size. Both sides give
normalised float32 batches of 64 images at 64 px. Run: python benchmarks/input.py
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from ktglite import load_data
from ktglite.data import MEAN, STD, apply_views, draw_views
from ktglite.sources import synthcars

SIZE, BATCH = 64, 64
CASES = {"128 px JPEGs": ((128, 128), 512, 4), "500x375 photos": ((500, 375), 256, 10)}


def write_jpegs(folder: Path, count: int, shape: tuple[int, int]) -> None:
    """`count` synthcars as JPEGs of `shape` (width, height), three quarters of them in train/."""
    images, labels = synthcars.draw(count, max(shape))
    for i, (image, label) in enumerate(zip(np.asarray(images), labels, strict=True)):
        path = folder / ("test" if i // 4 % 4 == 3 else "train") / f"{label % 4}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).crop((0, 0, *shape)).save(path, quality=90)


def folder_loader(folder: Path):
    """A function that goes through one epoch and returns its number of images."""
    steps = [
        transforms.RandomResizedCrop(SIZE, (0.25, 1)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
    ]
    found = datasets.ImageFolder(
        folder / "train", transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    )
    return lambda: sum(len(labels) for _, labels in DataLoader(found, BATCH, shuffle=True))


def cached_loader(folder: Path):
    """The same from the kit's cache, as `ktglite.trainer.epochs` does it; decoding is not part of an epoch."""
    train = load_data(str(folder), SIZE, split=(0.6, 0.2, 0.2), cache=folder.parent / "cache").train

    def epoch(repeat: int = 8) -> int:
        for seed in range(repeat):
            draw = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(train), generator=draw)
            views = draw_views(len(train), SIZE, "crop", draw)
            for index, view in zip(order.split(BATCH), views.split(BATCH), strict=True):
                apply_views(train.images[index], view)
        return repeat * len(train)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (shape, count, wanted) in CASES.items():
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "images"
            write_jpegs(folder, count, shape)
            start = time.process_time()
            loaders = {"cache": cached_loader(folder), "ImageFolder": folder_loader(folder)}
            built = time.process_time() - start
            rates = {key: [] for key in loaders}
            for _ in range(args.rounds):
                for key, epoch in loaders.items():
                    start = time.process_time()
                    images = epoch()
                    rates[key].append(images / (time.process_time() - start))
        cache, plain = (statistics.median(rates[key]) for key in loaders)
        print(
            f"{name} at {SIZE} px: cache {cache:,.0f} images/s, ImageFolder {plain:,.0f}, ratio {cache / plain:.1f} "
            f"(wanted {wanted}: {'reached' if cache >= wanted * plain else 'MISSED'}); "
            f"cache of {count} built once in {built:.1f} s of CPU time",
            flush=True,
        )


if __name__ == "__main__":
    main()
