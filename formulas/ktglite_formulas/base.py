"""What sources drawn by formula share: numbered images, random numbers, random systems."""

import numpy as np
from numba import njit

from ktglite.sources.fractaldb import mix

__all__ = ["Formula", "sample_system"]

CLASSES = 1000
INSTANCES = 1000  # images of a class
CANVAS = 512  # px of the published images, and at most


class Formula:
    """A source of 1,000 images per class: image i, a function of (seed, i), is of class i // 1000.

    A subclass fills `images`, uint8 (B, 3, size, size), in `_draw(labels, keys, images)`; `keys`
    are the images' own random numbers, see `uniform`.

    Args:
        size: of the images, 16..512 px.
        categories: the first so many of 1,000 classes.
    """

    def __init__(self, size: int, categories: int, seed: int):
        if not 16 <= size <= CANVAS:
            raise ValueError(f"size is {size}: images drawn by formula are 16 to {CANVAS} px wide")
        if not 1 <= categories <= CLASSES:
            raise ValueError(f"categories is {categories}: it must be 1..{CLASSES}")
        self.size = size
        self.seed = seed
        self.classes = tuple(f"{i:05d}" for i in range(categories))

    def __len__(self) -> int:
        return len(self.classes) * INSTANCES

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, 3, size, size) and labels int64 (B,). Raises IndexError out of range."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        images = np.empty((len(numbers), 3, self.size, self.size), np.uint8)
        labels = numbers // INSTANCES
        self._draw(labels, _keys(self.seed, numbers), images)
        return images, labels


@njit(cache=True, error_model="numpy")
def _keys(seed, numbers):
    keys = np.empty(len(numbers), np.uint64)
    for b in range(len(numbers)):
        keys[b] = mix(mix(np.uint64(seed)) ^ np.uint64(numbers[b]))
    return keys


@njit(cache=True, error_model="numpy")
def uniform(key, k, low, high):
    """The k-th random number of a key, low..high."""
    return low + (high - low) * (float(mix(key + np.uint64(k)) >> np.uint64(11)) * 2.0**-53)


@njit(cache=True, error_model="numpy")
def edges(size):
    """Where the pixels of an image begin on the canvas, and its end, int64 (size + 1,).

    A pixel of the canvas belongs to where its corner lies.
    """
    return (np.arange(size + 1) * CANVAS + size - 1) // size


def sample_system(rng: np.random.Generator, maps: int, low: float, high: float) -> np.ndarray:
    """A random IFS of contractions: [[a, b, e], [c, d, f]] of each map, float64 (maps, 2, 3).

    The sum over its maps of s1 + 2 s2, their singular values, is in low..high: Anderson and
    Farrell's measure of how much of the plane it fills. Everything is drawn in the published order:
    the same seed gives the same system.
    """
    signs = np.sign(rng.random((2 * maps, 2)) - 0.5)
    angles = rng.uniform(-np.pi, np.pi, 2 * maps)
    sines = np.sin(angles)
    cosines = np.cos(angles)
    turns = np.array([[cosines, -sines], [sines, cosines]]).transpose(2, 0, 1) * signs[:, None]
    left = rng.uniform(low, high)
    values = np.empty((maps, 2))
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
