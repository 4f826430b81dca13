"""One fractal, a little perturbed a thousand times: the classes of 1p-frac, and what the formula
sources share.

Nakamura et al., "Scaling Backwards: Minimal Synthetic Pre-training?" (ECCV 2024). An iterated
function system (IFS) of 2 contractive maps is drawn once; a class multiplies each of its 12
coefficients by a number from 0.9..1.1. An image is the orbit of (0, 0), 100,000 points on 512 px,
every point a random patch of 3 x 3 px in grey.

Equal to the published renderer (MIT): the sampling of a system from a seed, the perturbation, the
choices of maps, and the pixels that patches reach, pixel for pixel. Not equal: the published system
is unknown, ours is the first of which no picture is 5 % white or less, where such pictures are
published drawn again; its sum of singular values (sigma) is in 3.5..4.0, not within 0.1 of one of
these; the published set has one picture per class, ours are 1,000 fillings of it; a reached pixel
is white with probability 1/2 and not 256/511; smaller images are the canvas averaged down.
"""

from pathlib import Path

import numpy as np
from numba import njit

__all__ = ["OneFractal"]

CLASSES, INSTANCES = 1000, 1000
CANVAS, PAD, POINTS = 512, 6, 100_000  # px, px on each side, points of an orbit
SIGMA, DELTA = (3.5, 4.0), 0.1
SYSTEM = 5  # the first seed of which all 1,000 pictures are more than 5 % white
WHITE = 127  # grey of a pixel that is white


# ---- what the formula sources share


@njit(cache=True, error_model="numpy")
def mix(z):
    """One step of splitmix64: 64 well-mixed bits from any 64 bits."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, error_model="numpy")
def uniform(key, k, low, high):
    """The k-th random number of a key, low..high."""
    return low + (high - low) * (float(mix(key + np.uint64(k)) >> np.uint64(11)) * 2.0**-53)


@njit(cache=True, error_model="numpy")
def _keys(seed, numbers):
    """A key for the random numbers of every image."""
    keys = np.empty(len(numbers), np.uint64)
    for b in range(len(numbers)):
        keys[b] = mix(mix(np.uint64(seed)) ^ np.uint64(numbers[b]))
    return keys


class Formula:
    """A source of 1,000 images per class: image i, a function of (seed, i), is of class i // 1000.

    A subclass fills `images`, uint8 (B, 3, size, size), in `_draw(labels, keys, images)` and
    returns the labels.
    """

    def __init__(self, size: int, categories: int, seed: int):
        if not 16 <= size <= CANVAS:
            raise ValueError(f"size is {size}: images drawn by formula are 16 to {CANVAS} px wide")
        if not 1 <= categories <= CLASSES:
            raise ValueError(f"categories is {categories}: it must be 1..{CLASSES}")
        self.size, self.seed, self.classes = (
            size,
            seed,
            tuple(f"{i:05d}" for i in range(categories)),
        )

    def __len__(self) -> int:
        return len(self.classes) * INSTANCES

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, 3, size, size) and labels int64 (B,). Raises IndexError for a number out of range."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        images = np.empty((len(numbers), 3, self.size, self.size), np.uint8)
        return images, self._draw(numbers // INSTANCES, _keys(self.seed, numbers), images)


def sample_system(rng: np.random.Generator, maps: int, low: float, high: float) -> np.ndarray:
    """A random IFS of contractions: [[a, b, e], [c, d, f]] of each map, float64 (maps, 2, 3).

    The sum over its maps of s1 + 2 s2, their singular values, is in low..high: Anderson and
    Farrell's measure of how much of the plane it fills. Everything is drawn in the published order:
    the same seed gives the same system.
    """
    signs = np.sign(rng.random((2 * maps, 2)) - 0.5)
    angles = rng.uniform(-np.pi, np.pi, 2 * maps)
    sines, cosines = np.sin(angles), np.cos(angles)
    turns = np.array([[cosines, -sines], [sines, cosines]]).transpose(2, 0, 1) * signs[:, None]
    left, values = rng.uniform(low, high), np.empty((maps, 2))
    for k in range(maps):
        later = 3 * (maps - 1 - k)  # what the maps to come can take at most
        if later:
            first = rng.uniform(max(0, (left - later) / 3), min(1, left))
            left -= first
            second = rng.uniform(max(0, (left - later) / 2), min(first, left / 2))
        else:
            second = rng.uniform(max(0, (left - 1) / 2), left / 3)
            first = left - 2 * second
        left -= 2 * second
        values[k] = first, second
    linear = turns[:maps] * values[:, None] @ turns[maps:]
    return np.concatenate([linear, rng.uniform(-1, 1, (maps, 2, 1))], 2)


# ---- the fractal


def _first_map(system: np.ndarray) -> np.ndarray:
    """Which points of the orbit go by the first map, bool (100_000,): the same in every picture."""
    share = np.abs(np.linalg.det(system[:, :, :2]))
    return np.random.RandomState(100).random_sample(POINTS) <= share[0] / share.sum()


def _perturbed(system: np.ndarray, number: int) -> np.ndarray:
    """The system of a class."""
    return system * np.random.default_rng([SYSTEM, number]).uniform(
        1 - DELTA, 1 + DELTA, system.shape
    )


@njit(cache=True, error_model="numpy", nogil=True)
def _mark(system, first, pad, marked):
    """Set the pixels of the orbit of (0, 0) to 1 in `marked`, uint8 (size, size), `pad` px from its edges."""
    xs, ys, size = np.zeros(len(first)), np.zeros(len(first)), len(marked)
    for i in range(len(first) - 1):
        m = system[0 if first[i] else 1]
        xs[i + 1] = xs[i] * m[0, 0] + ys[i] * m[0, 1] + m[0, 2]
        ys[i + 1] = xs[i] * m[1, 0] + ys[i] * m[1, 1] + m[1, 2]
    left, low = xs.min(), ys.min()
    width, height, inner = xs.max() - left, ys.max() - low, float(size - 2 * pad)
    for i in range(len(first)):
        x, y = (xs[i] - left) / width * inner + pad, (ys[i] - low) / height * inner + pad
        marked[size - 1 - int(y), int(x)] = 1


def _coverage(system: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The pixels that the patches of a system's orbit reach, uint8 (512, 512) of 0 and 1."""
    marked = np.zeros((CANVAS, CANVAS), np.uint8)
    _mark(system, first, PAD, marked)
    for axis, way in (
        (0, -1),
        (1, 1),
    ):  # a patch lies 1 to 3 px above and to the right of its point
        marked = (
            np.roll(marked, way, axis)
            | np.roll(marked, 2 * way, axis)
            | np.roll(marked, 3 * way, axis)
        )
    return marked


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(reached, areas, labels, keys, images):
    """Fill `images` with a random half of what is reached: a binomial number of white ones among
    `reached`, (classes, pixels), counted as the ones of so many random bits."""
    ones, twos, fours = (
        np.uint64(0x5555555555555555),
        np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F),
    )
    for b in range(len(keys)):
        key, size = keys[b], images.shape[2]
        for k in range(size * size):
            left, white = np.int64(reached[labels[b], k]), np.int64(0)
            while left > 0:
                key += np.uint64(1)
                bits = mix(key)
                if left < 64:
                    bits &= (np.uint64(1) << np.uint64(left)) - np.uint64(1)
                bits -= (bits >> np.uint64(1)) & ones
                bits = (bits & twos) + ((bits >> np.uint64(2)) & twos)
                bits = (bits + (bits >> np.uint64(4))) & fours
                white += np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))
                left -= 64
            images[b, :, k // size, k % size] = (2 * WHITE * white + areas[k]) // (2 * areas[k])


class OneFractal(Formula):
    """1p-frac's classes as a sequence: `batch(numbers)` draws images, in any order and on any
    worker the same.

    - `size`: 16..512 px.  `categories`: the first so many of 1,000 perturbations.
    """

    def __init__(self, size: int = CANVAS, categories: int = CLASSES, seed: int = 0):
        super().__init__(size, categories, seed)
        system = sample_system(np.random.default_rng(SYSTEM), 2, *SIGMA)
        first = _first_map(system)
        edges = (
            np.arange(size + 1) * CANVAS + size - 1
        ) // size  # a canvas pixel belongs to where its corner lies
        wide = np.diff(edges)
        self.areas = np.outer(wide, wide).ravel()
        self.reached = np.empty(
            (categories, size * size), np.uint16 if self.areas.max() > 255 else np.uint8
        )
        for number in range(categories):
            covered = _coverage(_perturbed(system, number), first)
            rows = np.add.reduceat(covered, edges[:-1], 0, np.uint16)
            self.reached[number] = np.add.reduceat(rows, edges[:-1], 1).ravel()

    def _draw(self, labels: np.ndarray, keys: np.ndarray, images: np.ndarray) -> np.ndarray:
        _fill(self.reached, self.areas, labels, keys, images)
        return labels


def open_source(config, cache: str | Path) -> OneFractal:
    """1p-frac as `config` asks for it: size, render, seed and, where it has it, categories. `cache` stays as it is."""
    return OneFractal(
        config.render or config.size, getattr(config, "categories", CLASSES), config.seed
    )
