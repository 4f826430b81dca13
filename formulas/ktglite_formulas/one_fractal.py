"""One fractal, a little perturbed a thousand times: the classes of 1p-frac.

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

from ktglite.sources.fractaldb import mix, reach
from ktglite_formulas.base import CANVAS, CLASSES, Formula, edges, sample_system

__all__ = ["OneFractal"]

POINTS = 100_000  # of an orbit
SIGMA = (3.5, 4.0)
DELTA = 0.1
SYSTEM = 5  # the first seed of which all 1,000 pictures are more than 5 % white
WHITE = 127  # grey of a pixel that is white
ABCDEF = [0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 2, 2]  # where [[a, b, e], [c, d, f]] has them


def _choices(system: np.ndarray) -> np.ndarray:
    """Which map every step goes by, uint8 (100_000,): the same in every picture."""
    share = np.abs(np.linalg.det(system[:, :, :2]))
    random = np.random.RandomState(100).random_sample(POINTS)
    return (random > share[0] / share.sum()).astype(np.uint8)


def _perturbed(system: np.ndarray, number: int) -> np.ndarray:
    """The system of a class."""
    rng = np.random.default_rng([SYSTEM, number])
    return system * rng.uniform(1 - DELTA, 1 + DELTA, system.shape)


def _coverage(system: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The pixels that the patches of a system's orbit reach, bool (512, 512)."""
    return reach(system[:, *ABCDEF], chosen, CANVAS)


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(reached, areas, labels, keys, images):
    """Fill `images` with a random half of what is reached.

    The white ones among `reached`, (classes, pixels), are a binomial number, counted as the ones of
    so many random bits.
    """
    ones = np.uint64(0x5555555555555555)
    twos = np.uint64(0x3333333333333333)
    fours = np.uint64(0x0F0F0F0F0F0F0F0F)
    size = images.shape[2]
    for b in range(len(keys)):
        key = keys[b]
        for k in range(size * size):
            left = np.int64(reached[labels[b], k])
            white = np.int64(0)
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
    """1p-frac's classes as a sequence: `batch(numbers)` draws images, in any order the same.

    Args:
        size: 16..512 px.
        categories: the first so many of 1,000 perturbations.
    """

    def __init__(self, size: int = CANVAS, categories: int = CLASSES, seed: int = 0):
        super().__init__(size, categories, seed)
        system = sample_system(np.random.default_rng(SYSTEM), 2, *SIGMA)
        chosen = _choices(system)
        begins = edges(size)
        self.areas = np.outer(np.diff(begins), np.diff(begins)).ravel()
        counts = np.uint16 if self.areas.max() > 255 else np.uint8
        self.reached = np.empty((categories, size * size), counts)
        for number in range(categories):
            covered = _coverage(_perturbed(system, number), chosen)
            rows = np.add.reduceat(covered, begins[:-1], 0, np.uint16)
            self.reached[number] = np.add.reduceat(rows, begins[:-1], 1).ravel()

    def _draw(self, labels: np.ndarray, keys: np.ndarray, images: np.ndarray) -> None:
        _fill(self.reached, self.areas, labels, keys, images)


def open_source(config, cache: str | Path) -> OneFractal:
    """1p-frac as size, render, categories and seed of `config` ask for it; nothing is cached."""
    return OneFractal(config.render or config.size, config.categories, config.seed)
