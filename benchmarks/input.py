"""Cache and batched augmentation against ImageFolder and DataLoader, the same crop, flip and size.

JPEG files are written to a temporary folder from synthcars drawn at their size. Both sides give
normalised float32 batches of 64 images at 64 px, by one thread. Then random crops of the files
themselves, as pre-training reads them, against a DataLoader. Run: python benchmarks/input.py
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
from ktglite.pool import cores
from ktglite.sources.pretrain import ImageFiles
from ktglite_formulas import synthcars

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
    """The same from the kit's cache, as in `ktglite.trainer.epochs`: an epoch decodes nothing."""
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


def file_speeds(folder: Path, rounds: int, size: int = 224) -> dict[str, float]:
    """Images/s of random crops of files by one thread or process per core, wall-clock."""
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    found = datasets.ImageFolder(folder, transforms.Compose([*steps, transforms.PILToTensor()]))
    files = ImageFiles(folder, size, crop=True)
    batches = np.arange(len(files) // BATCH * BATCH).reshape(-1, BATCH)

    def by_threads() -> None:
        for batch in batches:
            files.batch(batch, 0)

    def by_loader() -> None:
        for _ in DataLoader(found, BATCH, drop_last=True, num_workers=cores()):
            pass

    best = {"threads": 0.0, "DataLoader": 0.0}
    for _ in range(rounds):
        for key, run in zip(best, (by_threads, by_loader), strict=True):
            start = time.perf_counter()
            run()
            best[key] = max(best[key], batches.size / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
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
            files = file_speeds(folder / "train", args.rounds)
        cache, plain = (statistics.median(rates[key]) for key in loaders)
        reached = "reached" if cache >= wanted * plain else "MISSED"
        print(f"{name} at {SIZE} px: cache {cache:,.0f} images/s, ImageFolder {plain:,.0f}")
        print(f"  ratio {cache / plain:.1f} (wanted {wanted}: {reached})")
        print(f"  cache of {count} built once in {built:.1f} s of CPU time")
        speeds = ", ".join(f"{key} {rate:,.0f} images/s" for key, rate in files.items())
        print(f"  pre-training on files at 224 px, {cores()} cores: {speeds}", flush=True)


if __name__ == "__main__":
    main()
