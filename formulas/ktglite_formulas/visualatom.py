"""VisualAtom-1k by formula: contours from two sine waves, drawn from a class and an image number.

Takashima et al., "Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves" (CVPR
2023). A class is an atom: up to 200 closed lines around a centre, each further out than the last by
Perlin noise and two sine waves. An image puts the centre anywhere on a black canvas of 512 px and
gives every line a grey of its own.

Equal to the published renderer (MIT): the ranges of the parameters, the distribution of the noise
(in steps of 1/256 of a lattice cell), the vertices, and the lines of 1 px, pixel for pixel. Not
equal: our classes are other draws (class k has the published parameters of class 50 k for k < 20,
where a published generator starts); the noise is drawn once per class and not anew per image;
centres lie on whole pixels; vertices left of the canvas or above it are rounded down, not towards
0; smaller images are the canvas averaged down.
"""

import math
import random
from pathlib import Path

import numpy as np
from numba import njit

from ktglite.store import atomic_write, code_hash, make_once
from ktglite_formulas.base import CANVAS, CLASSES, Formula, edges, uniform

__all__ = ["VisualAtom"]

LINES = 200  # of an atom, at most
# The last four bits of Perlin's permutation, all that noise in one dimension takes of a point.
LATTICE = (
    "709baf3d9f052971c47e5e83505a7e6478ab0a5eecbb53b09118d587e4d8b84f"
    "a576b0b6d2e73f5ac356c9c97e5846f619f118091c4b092984724cf644d6da30"
    "492acb5a636ef254feb3f0a16dcaf7a57882ca36d95b7bc9167d32cef1082908"
    "a614b221e20cf321131b9efb106f57ad84c0392df46eacdde23d883d03e27dc4"
)


# ---- atoms


def _perlin() -> np.ndarray:
    """Perlin noise in 256 steps of each of its 256 lattice cells, float64 (65536,), -0.95..0.95."""
    bits = np.array([int(digit, 16) for digit in LATTICE])
    slope = np.where(bits < 8, bits + 1.0, -1.0)[:, None]
    t = (np.arange(256) + 0.5) / 256
    fade = t**3 * (t * (6 * t - 15) + 10)
    return (0.4 * ((1 - fade) * slope * t + fade * np.roll(slope, -1) * (t - 1))).ravel()


_NOISE = _perlin()


def _vertices(number: int) -> np.ndarray:
    """Vertices of a class, float64 (2, lines, vertices): x and y in px, the centre at 0."""
    draw = random.Random(number + 1)
    count = draw.randint(200, 1000)
    lines = draw.randint(1, LINES)
    coefficient = draw.uniform(0, 4)
    width = draw.uniform(0, 0.1)
    radius = draw.randint(10, 60)
    first = draw.randint(0, 20)
    second = draw.randint(0, 20)
    while first == second != 0:
        second = draw.randint(0, 20)
    oval = np.array([draw.uniform(1, 2), draw.uniform(1, 2)])[:, None, None]
    noise = _NOISE[np.frombuffer(draw.randbytes(4 * lines * count), "<u2")].reshape(2, lines, count)
    angle = np.arange(count) * (2 * math.pi / count)
    waves = (np.sin(first * angle) + np.sin(second * angle)) / 2
    outwards = (coefficient * (1 - noise) + waves + width).cumsum(1)
    return (radius * oval + outwards) * np.stack([np.cos(angle), np.sin(angle)])[:, None]


@njit(cache=True, error_model="numpy", nogil=True)
def _draw_lines(xs, ys, canvas):
    """Draw closed lines, int64 (lines, vertices), each over those before.

    A pixel of `canvas`, a square of uint8, becomes the number of its last line, from 1.
    """
    side = canvas.shape[0]
    for line in range(xs.shape[0]):
        x0, y0 = xs[line, -1], ys[line, -1]
        for v in range(xs.shape[1]):
            x1, y1 = xs[line, v], ys[line, v]
            dx, dy = abs(x1 - x0), abs(y1 - y0)
            right = np.int64(1 if x1 > x0 else -1)
            down = np.int64(1 if y1 > y0 else -1)
            steep = dy >= dx
            long = max(dx, dy)
            short = min(dx, dy)
            x, y = x0, y0
            error = 2 * short - long
            for _ in range(long + 1):  # Bresenham's way: `error` decides when to step aside
                if 0 <= x < side and 0 <= y < side:
                    canvas[np.uint64(y), np.uint64(x)] = line + 1
                aside = error >= 0 and short > 0
                error += 2 * short - (2 * long if aside else 0)
                x += right if aside or not steep else 0
                y += down if aside or steep else 0
            x0, y0 = x1, y1


def _shape(number: int) -> tuple[int, int, np.ndarray]:
    """A class: its top and left edge from the centre, in px, and which line covers a pixel.

    Lines are uint8 (height, width), 0 for none. What no image can show, more than 512 px from the
    centre, is cut off.
    """
    xs, ys = np.floor(_vertices(number) + CANVAS).astype(np.int64)
    canvas = np.zeros((2 * CANVAS, 2 * CANVAS), np.uint8)
    _draw_lines(xs, ys, canvas)
    rows, columns = np.flatnonzero(canvas.any(1)), np.flatnonzero(canvas.any(0))
    top, left = rows[0], columns[0]
    return top - CANVAS, left - CANVAS, canvas[top : rows[-1] + 1, left : columns[-1] + 1]


def _bank(count: int, cache: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` shapes, drawn once into `cache` and memory-mapped, 462 MB for all.

    Returns their pixels, uint8, one shape after the other, and int64 (count, 5): begin, top, left,
    height, width. Raises ValueError naming a damaged file.
    """

    def make(path: Path) -> None:
        table = np.zeros((count, 5), "<i8")
        begin = 0
        with atomic_write(path) as file:
            for number in range(count):
                top, left, pixels = _shape(number)
                table[number] = begin, top, left, *pixels.shape
                begin += pixels.size
                file.write(pixels.tobytes())
            file.write(table.tobytes())

    code = code_hash(__name__, Formula.__module__)
    path = make_once(Path(cache) / f"visualatom-{count}-{code[:12]}.bin", make)
    content = np.memmap(path, np.uint8, "r")
    table = np.frombuffer(content[-40 * count :].tobytes(), "<i8").reshape(-1, 5)
    begin, _, _, height, width = table[-1]
    if len(table) != count or begin + height * width + table.nbytes != len(content):
        raise ValueError(f"{path} is damaged; delete it and it is made again")
    return content, table


# ---- images


@njit(cache=True, error_model="numpy", nogil=True)
def _render(content, table, keys, images):
    """Fill `images`, uint8 (B, 3, size, size), with the shapes in `table`, averaged down."""
    size = images.shape[2]
    begins = edges(size)
    greys = np.zeros(LINES + 1, np.uint32)
    sums = np.empty(size, np.uint32)
    for b in range(len(keys)):
        begin, top, left, height, width = table[b]
        top += int(uniform(keys[b], 0, 0, CANVAS + 1))
        left += int(uniform(keys[b], LINES + 1, 0, CANVAS + 1))
        for line in range(1, LINES + 1):
            greys[line] = int(uniform(keys[b], line, 0, 256))
        for row in range(size):
            sums[:] = 0
            for y in range(max(begins[row], top), min(begins[row + 1], top + height)):
                start = begin + (y - top) * width - left
                for column in range(size):
                    total = np.uint32(0)
                    end = min(begins[column + 1], left + width)
                    for x in range(max(begins[column], left), end):
                        total += greys[content[np.uint64(start + x)]]
                    sums[column] += total
            for column in range(size):
                area = (begins[row + 1] - begins[row]) * (begins[column + 1] - begins[column])
                images[b, :, row, column] = sums[column] // np.uint32(area)


class VisualAtom(Formula):
    """VisualAtom-1k as a sequence: `batch(numbers)` draws images, in any order the same.

    Args:
        size: 16..512 px.
        categories: the first so many of 1,000 classes.
    """

    def __init__(
        self,
        size: int = CANVAS,
        categories: int = CLASSES,
        seed: int = 0,
        cache: str | Path = "data/cache",
    ):
        super().__init__(size, categories, seed)
        self.content, self.table = _bank(categories, cache)

    def _draw(self, labels: np.ndarray, keys: np.ndarray, images: np.ndarray) -> None:
        _render(self.content, self.table[labels], keys, images)


def open_source(config, cache: str | Path) -> VisualAtom:
    """VisualAtom-1k as the fields size, render, categories and seed of `config` ask for it."""
    return VisualAtom(config.render or config.size, config.categories, config.seed, cache)
