"""FractalDB-1k: the kit's kernel against a plain NumPy renderer of the same semantics, on the same orbits, one thread.

Prints ns per point, the ratio, the time of a whole bank, and images per second. Run: python benchmarks/fractaldb.py
"""

import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import tempfile
import time

import numpy as np

from ktglite import fractaldb as formula

POINTS, SIZE = 200_000, 362


def plain(maps: np.ndarray, weight: int) -> np.ndarray:
    """One orbit at a time, one point at a time; the patches' coverage stamped by slices."""
    random = np.random.RandomState(formula.ORBIT_SEED).random_sample(POINTS)
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


def seconds(call) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    maps = formula.categories()
    formula.coverages(maps[0], 64, 1000)  # compile
    slow = fast = 0.0
    orbits = [(category, weight) for category in (0, 300, 999) for weight in (2, 12)]
    for category in (0, 300, 999):
        start = time.perf_counter()
        together = formula.coverages(maps[category], SIZE, POINTS)
        fast += time.perf_counter() - start
        for weight in (2, 12):
            start = time.perf_counter()
            expected = plain(maps[category], weight)
            slow += time.perf_counter() - start
            packed = formula.pack(expected.reshape(1, -1).view(np.uint8))[0]
            assert (together[weight] == packed).all(), f"orbit ({category}, {weight}) differs"
    ns_slow = 1e9 * slow / (len(orbits) * POINTS)
    ns_fast = 1e9 * fast / (3 * len(formula.WEIGHTS) * POINTS)
    print(f"plain {ns_slow:.0f} ns/point, kit {ns_fast:.2f} ns/point, ratio {ns_slow / ns_fast:.0f}, results equal")
    with tempfile.TemporaryDirectory() as cache:
        options = {"cache": cache, "progress": False, "jobs": 1}
        for size, points in ((64, 20_000), (SIZE, POINTS), (256, POINTS)):
            took = seconds(lambda size=size, points=points: formula.bank(size, points, **options))
            print(f"bank of 25,000 orbits at {size} px, {points:,} points: {took:.1f} s")
        for size in (64, 32, 362):
            fractals = formula.FractalDB(size, cache=cache)
            numbers = np.random.default_rng(0).integers(0, len(fractals), 20_000 if size < 100 else 2_000)
            fractals.gray(numbers[:100])
            best = min(seconds(lambda f=fractals, n=numbers: f.gray(n)) for _ in range(5))
            print(f"{size} px: {len(numbers) / best:,.0f} images/s")
    coloured = formula.FractalDB(362, variant="patch_color")
    print(f"362 px, patch_color: {20 / seconds(lambda: coloured.batch(np.arange(20) * 40_001)):,.0f} images/s")
    print(
        f"full search of {formula.CANDIDATES:,} candidates: {seconds(lambda: formula.search_categories(False)):.1f} s"
    )


if __name__ == "__main__":
    main()
