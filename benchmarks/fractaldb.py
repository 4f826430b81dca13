"""FractalDB-1k: the kit's kernel against a plain NumPy renderer of the same semantics, on the same
orbits, one core.

Prints ns per point, the ratio, the time of a whole bank, and images per second; all in seconds of
CPU time, which other programs disturb little. Run: python benchmarks/fractaldb.py
"""

import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))}
    )  # a bank is built by one thread per core

import tempfile
import time

import numpy as np

from ktglite.sources import fractaldb as formula
from ktglite.tools.fractaldb_tools import search_categories

POINTS, SIZE = 200_000, 362


def plain(maps: np.ndarray, weight: int) -> np.ndarray:
    """One orbit at a time, one point at a time; the patches' coverage stamped by slices."""
    random = np.random.RandomState(100).random_sample(POINTS)
    choices = np.searchsorted(np.cumsum(maps[:, 6]), random).clip(max=len(maps) - 1)
    table, points = maps[:, :6] * formula.WEIGHTS[weight], np.zeros((POINTS, 2))
    x = y = 0.0
    for i, j in enumerate(choices[:-1]):
        a, b, c, d, e, f = table[j]
        x, y = a * x + b * y + e, c * x + d * y + f
        points[i + 1] = x, y
    low, high = points.min(0), points.max(0)
    pixels = ((points - low) / (high - low) * (SIZE - 12) + 6).astype(np.uint16)
    image = np.zeros((SIZE, SIZE), bool)
    for px, py in np.unique(pixels, axis=0):
        image[px + 1 : px + 4, py + 1 : py + 4] = True
    return np.ascontiguousarray(image.T[::-1])


def seconds(function, *args, **options) -> float:
    """CPU time of one call."""
    start = time.process_time()
    function(*args, **options)
    return time.process_time() - start


def main() -> None:
    maps = formula.categories()
    formula._coverages(maps[0], 64, 1000)  # compile
    slow = fast = 0.0
    orbits = [(category, weight) for category in (0, 300, 999) for weight in (2, 12)]
    for category in (0, 300, 999):
        fast += seconds(formula._coverages, maps[category], SIZE, POINTS)
        together = formula._coverages(maps[category], SIZE, POINTS)
        for weight in (2, 12):
            start = time.process_time()
            expected = plain(maps[category], weight)
            slow += time.process_time() - start
            bits = np.unpackbits(
                together[weight].view(np.uint8), count=SIZE * SIZE, bitorder="little"
            )
            assert (bits.reshape(SIZE, SIZE) == expected).all(), (
                f"orbit ({category}, {weight}) differs"
            )
    ns_slow = 1e9 * slow / (len(orbits) * POINTS)
    ns_fast = 1e9 * fast / (3 * len(formula.WEIGHTS) * POINTS)
    print(
        f"plain {ns_slow:.0f} ns/point, kit {ns_fast:.2f} ns/point, ratio {ns_slow / ns_fast:.0f}, results equal"
    )
    with tempfile.TemporaryDirectory() as cache:
        for size, points in ((64, 20_000), (SIZE, POINTS), (256, POINTS), (384, POINTS)):
            took = seconds(formula.bank, size, points, cache=cache, progress=False)
            print(
                f"bank of 25,000 orbits at {size} px, {points:,} points: {took:.1f} s", flush=True
            )
        for size in (32, 48, 64, 128, 362):
            fractals = formula.FractalDB(size, cache=cache)
            numbers = np.random.default_rng(0).integers(
                0, len(fractals), (80 if size < 100 else 8, 250)
            )
            fractals.batch(numbers[0])
            best = min(
                seconds(lambda f, n: [f.batch(part) for part in n], fractals, numbers)
                for _ in range(5)
            )
            print(f"{size} px: {numbers.size / best:,.0f} images/s", flush=True)
    coloured = formula.FractalDB(362, variant="patch_color")
    print(
        f"362 px, patch_color: {20 / seconds(coloured.batch, np.arange(20) * 40_001):,.0f} images/s"
    )
    print(f"full search for the categories: {seconds(search_categories, progress=False):.1f} s")


if __name__ == "__main__":
    main()
