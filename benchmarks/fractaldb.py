"""FractalDB-1k: the kit's kernels against a plain NumPy renderer, on the same orbits, one core.

Prints ns per point, the ratio, the seconds of a bank, and images per second by one thread and by
one per core. Seconds are of CPU time, which other programs disturb little, but for the last, which
are wall-clock. Run: python benchmarks/fractaldb.py
"""

import argparse
import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ktglite.pool import cores
from ktglite.sources import fractaldb as formula

POINTS = 200_000
SIZE = 362
ORBITS = [(category, weight) for category in (0, 300, 999) for weight in (2, 12)]


def plain(category: int, weight: int) -> np.ndarray:
    """One point at a time; the patches' coverage stamped by slices."""
    maps = formula.categories()[category]
    random = np.random.RandomState(100).random_sample(POINTS)
    choices = np.searchsorted(np.cumsum(maps[:, 6]), random).clip(max=len(maps) - 1)
    table = maps[:, :6] * formula.WEIGHTS[weight]
    points = np.zeros((POINTS, 2))
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
    return image.T[::-1]


def seconds(function, *arguments, clock=time.process_time) -> float:
    start = clock()
    function(*arguments)
    return clock() - start


def speeds(fractals: formula.FractalDB) -> tuple[float, float]:
    """Images per second by one thread, and by one per core."""
    batches = np.random.default_rng(0).integers(len(fractals), size=(16, 250))
    fractals.batch(batches[0])
    alone = min(seconds(lambda: [fractals.batch(b) for b in batches]) for _ in range(5))
    with ThreadPoolExecutor(cores()) as threads:

        def draw() -> None:
            list(threads.map(fractals.batch, batches))

        together = min(seconds(draw, clock=time.perf_counter) for _ in range(5))
    return batches.size / alone, batches.size / together


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    formula.coverage(0, 0, 64, 1000)  # compile
    slow = fast = 0.0
    for orbit in ORBITS:
        fast += seconds(formula.coverage, *orbit)
        slow += seconds(plain, *orbit)
        assert (formula.coverage(*orbit) == plain(*orbit)).all(), f"orbit {orbit} differs"
    per_point = 1e9 / (len(ORBITS) * POINTS)
    found = f"plain {slow * per_point:.0f} ns/point, kit {fast * per_point:.1f} ns/point"
    print(f"{found}, ratio {slow / fast:.0f}, results equal", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for size in (256, 384, SIZE):
            took = seconds(formula.bank, size, formula.categories(), cache)
            print(f"bank of 25,000 orbits at {size} px: {took:.1f} s of CPU time", flush=True)
        for size in (32, 48, 64, 128, SIZE):
            alone, together = speeds(formula.FractalDB(size, cache=cache))
            found = f"{alone:,.0f} images/s, {cores()} threads {together:,.0f}"
            print(f"{size} px: {found}", flush=True)


if __name__ == "__main__":
    main()
