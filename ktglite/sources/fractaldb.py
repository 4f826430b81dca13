"""FractalDB-1k by formula (Kataoka et al., "Pre-training without Natural Images", ACCV 2020).

A category is an iterated function system (IFS), a set of affine maps. An image shows where the
orbit of (0, 0) goes when maps are chosen at random: every point is a random patch of 3 x 3 px.
Categories and the pixels that patches reach are the published ones, bit for bit. Which of those are
grey is our own draw, a function of (seed, image number), with the published probability 256/511.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import numpy as np
from numba import njit
from tqdm import tqdm

from ktglite.models import file_hash
from ktglite.pool import cores
from ktglite.store import atomic_write, code_hash, make_key, make_once

__all__ = ["FractalDB"]

CATEGORIES = 1000
TABLE = "477071352e651ee59d890046af2454bfcd2b736b2c2cd5f7cca8bd69f562f157"  # its SHA-256
POINTS = 200_000  # of an orbit
FILLINGS = 10  # images of an orbit that differ in their random patches ..
FLIPS = 4  # .. each as it is, upside down, mirrored, and both
PAD = 6  # px kept free on each side
GREY = 127  # value of a grey pixel
# Small images are averaged down from these: drawn directly, patches of 3 px fatten the shapes.
DRAWN_AT = {32: 256, 48: 384, 64: 256, 96: 384, 128: 256}
# The 25 variations of a category: what a, b, c, d, e, f of every map are multiplied by.
_ONE_CHANGED = [np.where(np.arange(6) == k, f, 1.0) for k in range(6) for f in (0.2, 0.6, 1.4, 1.8)]
WEIGHTS = np.insert(np.array(_ONE_CHANGED), 2, 1.0, axis=0)
ONES = np.array([byte.bit_count() for byte in range(256)])


@cache
def categories(count: int = CATEGORIES) -> tuple[np.ndarray, ...]:
    """The first `count` categories, each float64 (maps, 7): a, b, c, d, e, f and the probability p.

    Raises ValueError if there are not so many, or where their table was changed.
    """
    if not 1 <= count <= CATEGORIES:
        raise ValueError(f"categories is {count}: it must be 1..{CATEGORIES}")
    path = Path(__file__).with_name("fractaldb1k.npy")
    if file_hash(path) != TABLE:
        raise ValueError(f"{path} is not the published table: install ktglite again")
    table = np.load(path)  # the category in front of a row
    return tuple(np.ascontiguousarray(table[table[:, 0] == i, 1:]) for i in range(count))


# ---- orbits


@cache
def _random(points: int) -> np.ndarray:
    """The published random numbers, the same for every orbit."""
    return np.random.RandomState(100).random_sample(points)


def choices(maps: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Which map every step goes by, uint8 (points,): the first whose summed p reaches `random`."""
    return sum(random > total for total in np.cumsum(maps[:, 6])[:-1]).astype(np.uint8)


@njit(cache=True, error_model="numpy", nogil=True)
def _walk(maps, chosen, xs, ys):
    x = y = 0.0
    for i in range(len(chosen)):
        xs[i], ys[i] = x, y
        m = maps[np.uint64(chosen[i])]
        x, y = m[0] * x + m[1] * y + m[4], m[2] * x + m[3] * y + m[5]


def orbit(maps: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the points that are drawn, (0, 0) the first.

    An orbit that leaves the plane ends in NaN: as published, neither those points are drawn nor the
    100 before them.
    """
    xs, ys = np.empty((2, len(chosen)))
    _walk(maps, chosen, xs, ys)
    lost = np.isnan(xs if np.isnan(xs[-1]) else ys)  # once there, NaN stays
    end = max(int(lost.argmax()) - 100, 1) if lost[-1] else len(chosen)
    return xs[:end], ys[:end]


@njit(cache=True, error_model="numpy", nogil=True)
def _mark(xs, ys, marked):
    """Set the pixel of every point, row 0 at the top; in the published order of operations."""
    size = len(marked)
    left, low, right, high = xs[0], ys[0], xs[0], ys[0]
    for i in range(len(xs)):
        left, right = min(left, xs[i]), max(right, xs[i])
        low, high = min(low, ys[i]), max(high, ys[i])
    width, height, inner = right - left, high - low, float(size - 2 * PAD)
    for i in range(len(xs)):
        x, y = (xs[i] - left) / width * inner + PAD, (ys[i] - low) / height * inner + PAD
        # What is not finite becomes 0, as on x86.
        column = np.int64(x) if abs(x) < 65536.0 else 0
        row = np.int64(y) if abs(y) < 65536.0 else 0
        marked[np.uint64(size - 1 - row), np.uint64(column)] = True


def reach(maps: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """Which pixels the patches of an orbit can reach, bool (size, size)."""
    marked = np.zeros((size, size), bool)
    _mark(*orbit(maps, chosen), marked)
    for axis, way in ((0, -1), (1, 1)):  # a patch lies 1 to 3 px above its point and to the right
        one, two, three = (np.roll(marked, step * way, axis) for step in (1, 2, 3))
        marked = one | two | three
    return marked


def coverage(category: int, weight: int, size: int = 362, points: int = POINTS) -> np.ndarray:
    """The pixels of an image that are grey or could be, bool (size, size), as published.

    Args:
        category: 0..999.
        weight: the variation, 0..24, see `WEIGHTS`; 2 leaves the maps as they are.
        size: in px, from 16.
        points: of the orbit, so many.

    Raises:
        IndexError: for a category or weight that there is not.
    """
    maps = categories()[category]
    return reach(maps[:, :6] * WEIGHTS[weight], choices(maps, _random(points)), size)


def divergent(maps: Sequence[np.ndarray], points: int = POINTS) -> np.ndarray:
    """Which orbits of these categories leave the plane, bool (categories * 25,).

    1,141 of the published 25,000 do, as the search for categories had no test of contraction.
    """
    lost = []
    for table in maps:
        chosen = choices(table, _random(points))
        lost += [len(orbit(table[:, :6] * weight, chosen)[0]) < points for weight in WEIGHTS]
    return np.array(lost)


def bank(size: int, maps: Sequence[np.ndarray], cache: str | Path = "data/cache") -> np.ndarray:
    """What the patches of all orbits reach, as bits: uint64 (categories * 25, words).

    Made once, by one thread per core, and memory-mapped from the folder `cache`. Pixel k is bit
    k % 64 of word k // 64.
    """

    def make(path: Path) -> None:
        shape = len(maps) * len(WEIGHTS), -(-size * size // 64)
        header = {"descr": "<u8", "fortran_order": False, "shape": shape}
        with (
            atomic_write(path) as file,
            ThreadPoolExecutor(cores()) as threads,
            closing(threads.map(partial(_reach_all, size=size), maps)) as drawn,  # or it goes on
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for rows in tqdm(drawn, f"FractalDB {size} px", len(maps), mininterval=2):
                file.write(rows.data)

    table = hashlib.sha256(np.concatenate(maps).tobytes()).hexdigest()
    key = make_key(size, len(maps), table, code_hash(__name__))
    path = make_once(Path(cache) / f"fractaldb-{size}px-{len(maps)}-{key[:12]}.npy", make)
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made again") from error


def _reach_all(maps: np.ndarray, size: int) -> np.ndarray:
    """The rows of a category in the bank, uint64 (25, words)."""
    rows = np.zeros((len(WEIGHTS), -(-size * size // 64) * 8), np.uint8)
    chosen = choices(maps, _random(POINTS))
    for row, weight in zip(rows, WEIGHTS, strict=True):
        bits = np.packbits(reach(maps[:, :6] * weight, chosen, size), bitorder="little")
        row[: len(bits)] = bits
    return rows.view("<u8")


# ---- images


@njit(cache=True, error_model="numpy")
def mix(z):
    """One step of splitmix64: 64 well-mixed bits from any 64 bits."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, error_model="numpy")
def _fill(reached, key, grey):
    """Set in `grey` a random part of the bits of `reached`, each with probability 256/511.

    A patch is any of 511 masks but the empty one. Half of the bits come 64 at a time; 1/511 of the
    other half is added singly, the gaps between them being geometric.
    """
    for k in range(len(reached)):
        grey[k] = reached[k] & mix(key + np.uint64(k))
    at, scale = -1, 1.0 / math.log(1.0 - 1.0 / 511.0)
    while True:
        key = mix(key)
        at += 1 + int(math.log((float(key >> np.uint64(11)) + 1.0) * 2.0**-53) * scale)
        if at >= len(reached) * 64:
            return
        grey[at >> 6] |= reached[at >> 6] & (np.uint64(1) << np.uint64(at & 63))


@njit(cache=True, error_model="numpy", nogil=True)
def _render(packed, numbers, seed, factor, images):
    """Fill `images`, uint8 (B, 3, size, size); a pixel is the mean of `factor` x `factor`."""
    size = images.shape[2]
    mask = np.uint64((1 << factor) - 1)
    means = (2 * GREY * np.arange(factor**2 + 1) + factor**2) // (2 * factor**2)
    grey = np.empty(packed.shape[1], np.uint64)
    for b in range(len(numbers)):
        number = numbers[b]
        orbit = number // (FILLINGS * FLIPS)
        _fill(packed[orbit], mix(mix(np.uint64(seed)) ^ np.uint64(number)), grey)
        for y in range(size):
            line = images[b, 0, size - 1 - y if number & 1 else y]
            for x in range(size):
                count = 0
                for row in range(y * factor, (y + 1) * factor):
                    at = np.uint64((row * size + x) * factor)
                    count += ONES[(grey[at >> np.uint64(6)] >> (at & np.uint64(63))) & mask]
                line[size - 1 - x if number & 2 else x] = means[count]
        images[b, 1:] = images[b, 0]


class FractalDB:
    """FractalDB-1k as a sequence: `batch(numbers)` draws images, in any order the same.

    Image ((category * 25 + weight) * 10 + filling) * 4 + flip is of class `category`.

    Args:
        size: in px, 16..4096; small images are averaged down, see `DRAWN_AT`.
        count: of the 1,000 categories, the first so many.
        seed: of the random patches.
        cache: folder of the bank, 205 MB for 256 px, which is made at the first call.
    """

    def __init__(self, size=362, count=CATEGORIES, seed=0, cache: str | Path = "data/cache"):
        if not 16 <= size <= 4096:
            raise ValueError(f"size is {size}: fractal images are 16 to 4096 px wide")
        self.size = size
        self.seed = seed
        self.factor = DRAWN_AT.get(size, size) // size
        self.packed = bank(size * self.factor, categories(count), cache)
        self.classes = tuple(f"{i:05d}" for i in range(count))

    def __len__(self) -> int:
        return len(self.packed) * FILLINGS * FLIPS

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, 3, size, size) and labels int64 (B,). Raises IndexError out of range."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        images = np.empty((len(numbers), 3, self.size, self.size), np.uint8)
        _render(self.packed, numbers, self.seed, self.factor, images)
        return images, numbers // (len(WEIGHTS) * FILLINGS * FLIPS)


def open_source(config, cache: str | Path) -> FractalDB:
    """FractalDB-1k as the fields size, render, categories and seed of `config` ask for it."""
    return FractalDB(config.render or config.size, config.categories, config.seed, cache)
