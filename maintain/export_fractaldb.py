"""Write FractalDB-1k as PNG files, for other kits, in the published layout.

A file is <category>/<category>_<weight>_count_<n>_flip<k>.png. What is there already is left alone.
Run: python maintain/export_fractaldb.py FOLDER [--size 362] [--categories 1000] [--instances 1000]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ktglite.sources.fractaldb import CATEGORIES, FILLINGS, FLIPS, WEIGHTS, FractalDB
from ktglite.store import atomic_write

INSTANCES = len(WEIGHTS) * FILLINGS * FLIPS  # of a category


def export(fractals: FractalDB, folder: Path, instances: int = INSTANCES) -> int:
    """Write the first `instances` images of every category; returns how many there are now."""
    if not 1 <= instances <= INSTANCES:
        raise ValueError(f"instances is {instances}: it must be 1..{INSTANCES}")
    for category, name in enumerate(tqdm(fractals.classes, "export", mininterval=1)):
        for instance in range(instances):
            orbit, flip = divmod(instance, FLIPS)
            weight, filling = divmod(orbit, FILLINGS)
            path = folder / name / f"{name}_{weight:02d}_count_{filling}_flip{flip}.png"
            if not path.exists():
                images, _ = fractals.batch([category * INSTANCES + instance])
                with atomic_write(path) as file:
                    Image.fromarray(np.moveaxis(images[0], 0, 2)).save(file, "PNG")
    return len(fractals.classes) * instances


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=362, help="side of the images in px")
    parser.add_argument("--categories", type=int, default=CATEGORIES, help="the first so many")
    parser.add_argument("--instances", type=int, default=INSTANCES, help="images of a category")
    parser.add_argument("--cache", default="data/cache")
    given = parser.parse_args()
    fractals = FractalDB(given.size, given.categories, cache=given.cache)
    print(f"{given.folder}: {export(fractals, given.folder, given.instances):,} images")


if __name__ == "__main__":
    main()
