"""Coloured fractals by formula: contractive systems of 2 to 4 maps on coloured clouds, one or
several in a picture.

Anderson and Farrell, "Improving Fractal Pre-training" (WACV 2022). A class is an iterated function
system (IFS) whose sum of s1 + 2 s2, the singular values of its n maps, is in (5 + n) / 2 .. (6 + n)
/ 2. An image is 100,000 points of its orbit, each a patch of 3 x 3 px; how many fall on a px is its
hue. Behind it is a cloud made by diamonds and squares.

Equal to the published code (no licence given): the system that a seed of the search gives, and that
those which mark 5 % of 256 px or less are left out; the ranges of jitter, window, patch, colours,
roughness and blur; mean, contrast and edges of images of 224 px. Not equal: we take the first 1,000
systems of the search, not the densest; images of up to 112 px are drawn at twice their size with as
many points per px as published and averaged down, so that a patch is larger in them than in one of
224 px, and edges at 64 px are 7 % stronger; the points come from four orbits; a fractal among
several is drawn at its size, not at 112 px and resized, and has no dark rim; a cloud's value stops
at 0.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numba import njit

from ktglite.sources.one_fractal import CLASSES, Formula, mix, sample_system, uniform

__all__ = ["ColouredFractals", "open_many"]

POINTS, PUBLISHED = 100_000, 224  # points of an orbit, and the side of the published image in px
MAPS, FRACTALS = 4, 5  # at most, of a system and of a picture
ONES, BYTES = np.uint64(0x000100010001), np.uint64(0x00FF00FF00FF)
_SEXTANT = (np.array([5, 3, 1]) + np.arange(256)[:, None] / 30) % 6
WHEEL = np.clip(
    np.minimum(_SEXTANT, 4 - _SEXTANT), 0, 1
)  # what hue 0..255 takes away from red, green and blue


# ---- systems


@njit(cache=True, error_model="numpy")
def _step(maps, k, x, y):
    return maps[k, 0] * x + maps[k, 1] * y + maps[k, 2], maps[k, 3] * x + maps[k, 4] * y + maps[
        k, 5
    ]


@njit(cache=True, error_model="numpy")
def _orbit(maps, key, xs, ys):
    """Fill `xs`, `ys`, 4 n of them, with points of a system, float64 (4, 6), and return left, low,
    right and high.

    A map is as likely as its determinant is large. There are four orbits, so that none has to wait
    for its last point.
    """
    areas = np.abs(maps[:, 0] * maps[:, 4] - maps[:, 1] * maps[:, 3])
    ends, choice, m = np.cumsum(areas) / areas.sum() * 4096 + 0.5, np.zeros(4096, np.uint8), maps[0]
    for k in range(1, MAPS):
        choice[int(ends[k - 1]) : int(ends[k])] = k
    scale = 1 / ((1 - m[0]) * (1 - m[4]) - m[1] * m[3])
    x0 = x1 = x2 = x3 = ((1 - m[4]) * m[2] + m[1] * m[5]) * scale
    y0 = y1 = y2 = y3 = ((1 - m[0]) * m[5] + m[3] * m[2]) * scale
    left, low, right, high, bits12 = x0, y0, x0, y0, np.uint64(4095)
    for i in range(0, len(xs), 4):
        bits = mix(key + np.uint64(i))
        x0, y0 = _step(maps, choice[bits & bits12], x0, y0)
        x1, y1 = _step(maps, choice[bits >> np.uint64(16) & bits12], x1, y1)
        x2, y2 = _step(maps, choice[bits >> np.uint64(32) & bits12], x2, y2)
        x3, y3 = _step(maps, choice[bits >> np.uint64(48) & bits12], x3, y3)
        xs[i], xs[i + 1], xs[i + 2], xs[i + 3] = x0, x1, x2, x3
        ys[i], ys[i + 1], ys[i + 2], ys[i + 3] = y0, y1, y2, y3
        left, right = min(left, x0, x1, x2, x3), max(right, x0, x1, x2, x3)
        low, high = min(low, y0, y1, y2, y3), max(high, y0, y1, y2, y3)
    return left, low, right, high


@njit(cache=True, error_model="numpy")
def _count(xs, ys, window, counts):
    """Count the points on every px of a window (left, low, right, high), in int32 (side + 4, side +
    4): the inner border has those whose patch may still reach in, the outer one all the others.
    `xs` is used up. From right to left or from high to low, the window mirrors."""
    size, last, flat = float(len(counts)), float(len(counts) - 1), counts.reshape(-1)
    wide, tall = (last - 4) / (window[2] - window[0]), (last - 4) / (window[3] - window[1])
    for i in range(len(xs)):
        row, column = (xs[i] - window[0]) * wide + 2, (ys[i] - window[1]) * tall + 2
        xs[i] = np.floor(min(max(row, 0.0), last)) * size + min(max(column, 0.0), last)
    counts[:] = 0
    for x in xs:
        flat[np.uint64(x)] += 1


@cache
def _systems(count: int) -> np.ndarray:
    """The first systems that fill enough, float64 (count, 4, 6): a, b, e, c, d, f of up to four maps, then zeros."""
    found, seed = np.zeros((count, MAPS, 6)), 0
    xs, ys, counts = np.empty(50_000), np.empty(50_000), np.empty((260, 260), np.int32)
    for system in found:
        fill = 0.0
        while fill <= 0.05:
            rng = np.random.default_rng(seed)
            maps = int(rng.integers(2, MAPS + 1))
            system[:] = 0
            system[:maps] = sample_system(rng, maps, (5 + maps) / 2, (6 + maps) / 2).reshape(
                maps, 6
            )
            _count(xs, ys, _orbit(system, np.uint64(seed), xs, ys), counts)
            fill, seed = np.count_nonzero(counts) / 256**2, seed + 1
    return found


@njit(cache=True, error_model="numpy")
def _jitter(system, key):
    """Scale one map of a system by 0.8..1.1, in place; none if four tries leave no contraction."""
    maps = np.count_nonzero(system[:, 0])
    for k in range(4):
        m, factor = system[int(uniform(key, k, 0, maps))], uniform(key, 4 + k, 0.8, 1.1)
        a, b, c, d = m[0], m[1], m[3], m[4]
        if (
            factor * (np.hypot(a + d, b - c) + np.hypot(a - d, b + c)) / 2 <= 1
        ):  # the larger singular value
            m *= factor
            return


# ---- pictures: a colour is one integer, 16 bits each for red, green and blue, so that sums need no
# unpacking


@njit(cache=True, error_model="numpy")
def _colour(hue, saturation, value):
    """A colour of hue 0..255 in steps of 2 degrees, saturation and value 0..255 and cut off there."""
    saturation, value, packed = (
        min(max(saturation, 0.0), 255.0) / 255,
        min(max(value, 0.0), 255.0),
        np.uint64(0),
    )
    for channel in range(3):
        level = value * (1 - saturation * WHEEL[np.int64(np.floor(hue)) & 255, channel])
        packed |= np.uint64(level + 0.5) << np.uint64(16 * channel)
    return packed


@njit(cache=True, error_model="numpy")
def _heights(key, heights):
    """Fill a square of 2^n + 1 points by diamonds and squares: the point amid four others is their
    mean and some noise, less at every level; beyond an edge comes the opposite one."""
    side, h, noise = len(heights) - 1, (len(heights) - 1) // 2, 0.5
    fade, drawn = np.exp(-uniform(key, 0, 0.4, 0.8)), np.uint64(20)
    for corner in range(4):
        heights[side * (corner // 2), side * (corner % 2)] = uniform(key, 1 + corner, 0, 1)
    while h:
        for r in range(h, side, 2 * h):
            for c in range(h, side, 2 * h):
                around = (
                    heights[r - h, c - h]
                    + heights[r - h, c + h]
                    + heights[r + h, c - h]
                    + heights[r + h, c + h]
                )
                heights[r, c] = around / 4 + uniform(key, drawn, -noise, noise)
                drawn += np.uint64(1)
        for r in range(0, side + 1, h):
            up, down = (r if r else side) - h, (r if r < side else 0) + h
            for c in range(0 if r // h % 2 else h, side + 1, 2 * h):
                left, right = (c if c else side) - h, (c if c < side else 0) + h
                around = heights[up, c] + heights[down, c] + heights[r, left] + heights[r, right]
                heights[r, c] = around / 4 + uniform(key, drawn, -noise, noise)
                drawn += np.uint64(1)
        h, noise = h // 2, noise * fade


@njit(cache=True, error_model="numpy")
def _cloud(key, factor, canvas):
    """Cover `canvas`, uint64 (side, side), with a cloud; `factor` x `factor` px have the same colour."""
    size = len(canvas) // factor
    points = 2 ** int(np.ceil(np.log2(size))) + 1
    heights = np.empty((points, points))
    _heights(key, heights)
    hue, saturation, value = (
        uniform(key, 5, 64, 255),
        uniform(key, 6, 25, 77),
        uniform(key, 7, 77, 153),
    )
    hue0, saturation0, value0 = (
        uniform(key, 8, 0, 255),
        uniform(key, 9, 102, 153),
        uniform(key, 10, 102, 153),
    )
    colours = np.empty(768, np.uint64)  # of heights from -1 to 2
    for k in range(768):
        h = k / 256 - 1
        colours[k] = _colour(h * hue + hue0, h * saturation + saturation0, h * value + value0)
    for r in range(size):
        for c in range(size):
            k = np.int64(min(max(heights[r, c] * 256 + 256, 0.0), 767.0))
            canvas[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor] = colours[k]


@njit(cache=True, error_model="numpy")
def _paint(counts, key, top, left, canvas):
    """Lay a fractal over `canvas`, its corner at (top, left), by the number of points on every px."""
    side = len(counts) - 4
    grades, most = np.zeros((side, side), np.int32), np.int32(1)
    for r in range(side):
        for k in range(9):  # the patch, the same for all points: each of its px or not
            if uniform(key, k, 0, 2) < 1:
                for c in range(side):
                    grades[r, c] += counts[r + 1 + k // 3, c + 1 + k % 3]
        for c in range(side):
            most = max(most, grades[r, c])
    hue, saturation, value = (
        uniform(key, 9, 0, 255),
        uniform(key, 10, 77, 255),
        uniform(key, 11, 128, 255),
    )
    colours, scale = np.empty(256, np.uint64), 255.0 / most
    for k in range(256):
        colours[k] = _colour(k + hue, saturation, value)
    for r in range(max(0, -top), min(side, len(canvas) - top)):
        for c in range(max(0, -left), min(side, len(canvas) - left)):
            if grades[r, c] > 0:
                canvas[top + r, left + c] = colours[np.uint8(grades[r, c] * scale)]


@njit(cache=True, error_model="numpy")
def _finish(canvas, aside, image):
    """Average `canvas` down to uint8 (3, size, size) and blur it: a neighbour weighs `aside` / 256 along an axis."""
    size, factor = image.shape[1], len(canvas) // image.shape[1]
    small, half = (
        np.full((size, size), ONES * np.uint64(factor * factor // 2)),
        ONES * np.uint64(128),
    )
    for k in range(factor * factor):
        small += canvas[k // factor :: factor, k % factor :: factor]
    shift, lines = (
        np.uint64(2 * (factor - 1)),
        np.empty((size, size), np.uint64),
    )  # factor is 1 or 2
    for r in range(size):
        for c in range(size):
            small[r, c] = (small[r, c] >> shift) & BYTES
    a, b, last = np.uint64(aside), np.uint64(256 - 2 * aside), size - 1
    for r in range(size):
        up, down = abs(r - 1), last - abs(last - 1 - r)  # beyond an edge the image is mirrored
        for c in range(size):
            lines[r, c] = (
                (a * (small[up, c] + small[down, c]) + b * small[r, c] + half) >> np.uint64(8)
            ) & BYTES
    for r in range(size):
        for c in range(size):
            beside = lines[r, abs(c - 1)] + lines[r, last - abs(last - 1 - c)]
            colour = (a * beside + b * lines[r, c] + half) >> np.uint64(8)
            for channel in range(3):
                image[channel, r, c] = colour >> np.uint64(16 * channel)


@njit(cache=True, error_model="numpy", nogil=True)
def _draw(systems, labels, keys, factor, many, images, targets):
    """Fill `images`, uint8 (B, 3, size, size), with a fractal of class `labels` each; or, `many`,
    with up to five of any class, where `targets`, float32 (B, classes), becomes 1."""
    side = images.shape[2] * factor
    canvas, xs, ys = np.empty((side, side), np.uint64), np.empty(POINTS), np.empty(POINTS)
    for b in range(len(keys)):
        _cloud(mix(keys[b]), factor, canvas)
        for k in range(int(uniform(keys[b], 0, 1, FRACTALS + 1)) if many else 1):
            key = mix(keys[b] + np.uint64(10 + k))
            label, width, density, top, left = labels[b], side, POINTS / PUBLISHED**2, 0, 0
            if many:
                label, width = (
                    int(uniform(key, 20, 0, len(systems))),
                    int(uniform(key, 21, 0.15, 0.6) * side),
                )
                top, left = (
                    int(uniform(key, 22, 0, side)) - width // 2,
                    int(uniform(key, 23, 0, side)) - width // 2,
                )
                density *= 4  # published at half the side
                targets[b, label] = 1
            system, points = systems[label].copy(), min(int(density * width**2), POINTS) // 4 * 4
            if not many:
                _jitter(system, mix(key))
            window = np.array(_orbit(system, mix(key + np.uint64(1)), xs[:points], ys[:points]))
            if not many:
                for axis in range(2):
                    length = window[2 + axis] - window[axis]
                    middle = window[axis] + length * uniform(key, 24 + axis, 0.3, 0.7)
                    length *= uniform(key, 26 + axis, 0.5, 2)
                    window[axis], window[2 + axis] = middle - length / 2, middle + length / 2
            counts = np.empty((width + 4, width + 4), np.int32)
            flips = int(uniform(key, 28, 0, 8))
            for axis in range(2):
                if flips >> axis & 1:
                    window[axis], window[2 + axis] = window[2 + axis], window[axis]
            if flips & 4:
                _count(xs[:points], ys[:points], window, counts)
            else:
                _count(ys[:points], xs[:points], window[np.array([1, 0, 3, 2])], counts)
            _paint(counts, key, top, left, canvas)
        aside = np.exp(-0.5 / uniform(keys[b], 1, 0.5, 1) ** 2)
        _finish(
            canvas,
            int(256 * aside / (1 + 2 * aside) + 0.5) if uniform(keys[b], 2, 0, 2) < 1 else 0,
            images[b],
        )


class ColouredFractals(Formula):
    """Coloured fractals of 1,000 classes as a sequence: `batch(numbers)` draws images, in any order
    and on any worker the same, one fractal in each.

    - `size`: 16..512 px.  `categories`: the first so many of 1,000 systems.
    - `many`: 1 to 5 fractals of any class instead, each 0.15 to 0.6 of the image's side and
      anywhere in it. `batch` then gives float32 (B, categories) of 0 and 1 in place of labels, for
      a loss of several labels.
    """

    def __init__(
        self, size: int = PUBLISHED, categories: int = CLASSES, seed: int = 0, many: bool = False
    ):
        super().__init__(size, categories, seed)
        self.systems, self.many = _systems(categories), many

    def _draw(self, labels: np.ndarray, keys: np.ndarray, images: np.ndarray) -> np.ndarray:
        targets = np.zeros((len(labels), len(self.classes) if self.many else 0), np.float32)
        factor = 2 if self.size <= PUBLISHED // 2 else 1
        _draw(self.systems, labels, keys, factor, self.many, images, targets)
        return targets if self.many else labels


def open_source(config, cache: str | Path, many: bool = False) -> ColouredFractals:
    """Coloured fractals as `config` asks: size, render, seed and, where it has it, categories; `cache` is not used."""
    return ColouredFractals(
        config.render or config.size, getattr(config, "categories", CLASSES), config.seed, many
    )


def open_many(config, cache: str | Path) -> ColouredFractals:
    """Several fractals in a picture and targets of several labels, as `config` asks."""
    return open_source(config, cache, many=True)
