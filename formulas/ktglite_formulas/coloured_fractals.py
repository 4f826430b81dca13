"""Coloured fractals by formula: contractive systems of 2 to 4 maps on coloured clouds.

Anderson and Farrell, "Improving Fractal Pre-training" (WACV 2022). A class is an iterated function
system (IFS) whose sum of s1 + 2 s2, the singular values of its n maps, is in (5 + n) / 2 .. (6 + n)
/ 2. An image is 100,000 points of its orbit, each a patch of 3 x 3 px; how many fall on a px is its
hue. Behind it is a cloud made by diamonds and squares.

Equal to the published code (no licence given): the system that a seed of the search gives, and that
those which mark 5 % of 256 px or less are left out; the ranges of jitter, window, patch, colours,
roughness and blur; mean, contrast and edges of images of 224 px. Not equal: we take the first 1,000
systems of the search, not the densest; images of up to 112 px are drawn at twice their size with as
many points per px as published and averaged down, so that a patch is larger in them than in one of
224 px, and edges at 64 px are 7 % stronger; the points come from four orbits; a cloud's value stops
at 0. Left out: the published pictures of several fractals, learned with several labels.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numba import njit

from ktglite.sources.fractaldb import mix
from ktglite_formulas.base import CLASSES, Formula, sample_system, uniform

__all__ = ["ColouredFractals"]

POINTS = 100_000  # of an orbit
PUBLISHED = 224  # side of the published image in px
MAPS = 4  # of a system, at most
ONES = np.uint64(0x000100010001)
BYTES = np.uint64(0x00FF00FF00FF)
_SEXTANT = (np.array([5, 3, 1]) + np.arange(256)[:, None] / 30) % 6
# What hue 0..255 takes away from red, green and blue.
WHEEL = np.clip(np.minimum(_SEXTANT, 4 - _SEXTANT), 0, 1)


# ---- systems


@njit(cache=True, error_model="numpy")
def _step(maps, k, x, y):
    m = maps[k]
    return m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]


@njit(cache=True, error_model="numpy")
def _orbit(maps, key, xs, ys):
    """Fill `xs`, `ys`, 4 n of them, with points of a system; return left, low, right and high.

    `maps` are float64 (4, 6). A map is as likely as its determinant is large. There are four
    orbits, so that none has to wait for its last point.
    """
    areas = np.abs(maps[:, 0] * maps[:, 4] - maps[:, 1] * maps[:, 3])
    ends = np.cumsum(areas) / areas.sum() * 4096 + 0.5
    choice = np.zeros(4096, np.uint8)
    m = maps[0]
    for k in range(1, MAPS):
        choice[int(ends[k - 1]) : int(ends[k])] = k
    scale = 1 / ((1 - m[0]) * (1 - m[4]) - m[1] * m[3])
    x0 = x1 = x2 = x3 = ((1 - m[4]) * m[2] + m[1] * m[5]) * scale
    y0 = y1 = y2 = y3 = ((1 - m[0]) * m[5] + m[3] * m[2]) * scale
    left, low, right, high = x0, y0, x0, y0
    bits12 = np.uint64(4095)
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
    """Count the points on every px of a window (left, low, right, high).

    `counts` are int32 (side + 4, side + 4): the inner border has those whose patch may still reach
    in, the outer one all the others. `xs` is used up. From right to left or from high to low, the
    window mirrors.
    """
    size = float(len(counts))
    last = size - 1
    flat = counts.reshape(-1)
    wide = (last - 4) / (window[2] - window[0])
    tall = (last - 4) / (window[3] - window[1])
    for i in range(len(xs)):
        row = (xs[i] - window[0]) * wide + 2
        column = (ys[i] - window[1]) * tall + 2
        xs[i] = np.floor(min(max(row, 0.0), last)) * size + min(max(column, 0.0), last)
    counts[:] = 0
    for x in xs:
        flat[np.uint64(x)] += 1


@cache
def _systems(count: int) -> np.ndarray:
    """The first systems that fill enough, float64 (count, 4, 6), zeros where a map is missing.

    A map is a, b, e, c, d, f.
    """
    found = np.zeros((count, MAPS, 6))
    xs, ys = np.empty((2, 50_000))
    counts = np.empty((260, 260), np.int32)
    seed = 0
    for system in found:
        fill = 0.0
        while fill <= 0.05:
            rng = np.random.default_rng(seed)
            maps = int(rng.integers(2, MAPS + 1))
            drawn = sample_system(rng, maps, (5 + maps) / 2, (6 + maps) / 2)
            system[:] = 0
            system[:maps] = drawn.reshape(maps, 6)
            _count(xs, ys, _orbit(system, np.uint64(seed), xs, ys), counts)
            fill = np.count_nonzero(counts) / 256**2
            seed += 1
    return found


@njit(cache=True, error_model="numpy")
def _jitter(system, key):
    """Scale one map of a system by 0.8..1.1, in place; none if four tries leave no contraction."""
    maps = np.count_nonzero(system[:, 0])
    for k in range(4):
        m = system[int(uniform(key, k, 0, maps))]
        factor = uniform(key, 4 + k, 0.8, 1.1)
        a, b, c, d = m[0], m[1], m[3], m[4]
        larger = (np.hypot(a + d, b - c) + np.hypot(a - d, b + c)) / 2  # singular value
        if factor * larger <= 1:
            m *= factor
            return


# ---- pictures: a colour is one integer, 16 bits each for red, green and blue, so that colours add


@njit(cache=True, error_model="numpy")
def _colour(hue, saturation, value):
    """A colour of hue 0..255 in steps of 2 degrees, saturation and value cut off at 0 and 255."""
    saturation = min(max(saturation, 0.0), 255.0) / 255
    value = min(max(value, 0.0), 255.0)
    packed = np.uint64(0)
    for channel in range(3):
        level = value * (1 - saturation * WHEEL[np.int64(np.floor(hue)) & 255, channel])
        packed |= np.uint64(level + 0.5) << np.uint64(16 * channel)
    return packed


@njit(cache=True, error_model="numpy")
def _heights(key, heights):
    """Fill a square of 2^n + 1 points by diamonds and squares.

    The point amid four others is their mean and some noise, less at every level; beyond an edge
    comes the opposite one.
    """
    side = len(heights) - 1
    h = side // 2
    noise = 0.5
    fade = np.exp(-uniform(key, 0, 0.4, 0.8))
    drawn = np.uint64(20)
    for corner in range(4):
        heights[side * (corner // 2), side * (corner % 2)] = uniform(key, 1 + corner, 0, 1)
    while h:
        for r in range(h, side, 2 * h):
            for c in range(h, side, 2 * h):
                above = heights[r - h, c - h] + heights[r - h, c + h]
                around = above + heights[r + h, c - h] + heights[r + h, c + h]
                heights[r, c] = around / 4 + uniform(key, drawn, -noise, noise)
                drawn += np.uint64(1)
        for r in range(0, side + 1, h):
            up, down = (r if r else side) - h, (r if r < side else 0) + h
            for c in range(0 if r // h % 2 else h, side + 1, 2 * h):
                left, right = (c if c else side) - h, (c if c < side else 0) + h
                around = heights[up, c] + heights[down, c] + heights[r, left] + heights[r, right]
                heights[r, c] = around / 4 + uniform(key, drawn, -noise, noise)
                drawn += np.uint64(1)
        h //= 2
        noise *= fade


@njit(cache=True, error_model="numpy")
def _cloud(key, factor, canvas):
    """Cover `canvas`, uint64 (side, side), with a cloud, `factor` x `factor` px of one colour."""
    size = len(canvas) // factor
    points = 2 ** int(np.ceil(np.log2(size))) + 1
    heights = np.empty((points, points))
    _heights(key, heights)
    hue = uniform(key, 5, 64, 255)
    saturation = uniform(key, 6, 25, 77)
    value = uniform(key, 7, 77, 153)
    hue0 = uniform(key, 8, 0, 255)
    saturation0 = uniform(key, 9, 102, 153)
    value0 = uniform(key, 10, 102, 153)
    colours = np.empty(768, np.uint64)  # of heights from -1 to 2
    for k in range(768):
        h = k / 256 - 1
        colours[k] = _colour(h * hue + hue0, h * saturation + saturation0, h * value + value0)
    for r in range(size):
        for c in range(size):
            k = np.int64(min(max(heights[r, c] * 256 + 256, 0.0), 767.0))
            canvas[r * factor : (r + 1) * factor, c * factor : (c + 1) * factor] = colours[k]


@njit(cache=True, error_model="numpy")
def _paint(counts, key, canvas):
    """Lay a fractal over `canvas` by the number of points on every px."""
    side = len(canvas)
    grades = np.zeros((side, side), np.int32)
    most = np.int32(1)
    for r in range(side):
        for k in range(9):  # the patch, the same for all points: each of its px or not
            if uniform(key, k, 0, 2) < 1:
                for c in range(side):
                    grades[r, c] += counts[r + 1 + k // 3, c + 1 + k % 3]
        for c in range(side):
            most = max(most, grades[r, c])
    hue = uniform(key, 9, 0, 255)
    saturation = uniform(key, 10, 77, 255)
    value = uniform(key, 11, 128, 255)
    colours = np.empty(256, np.uint64)
    for k in range(256):
        colours[k] = _colour(k + hue, saturation, value)
    scale = 255.0 / most
    for r in range(side):
        for c in range(side):
            if grades[r, c] > 0:
                canvas[r, c] = colours[np.uint8(grades[r, c] * scale)]


@njit(cache=True, error_model="numpy")
def _finish(canvas, aside, image):
    """Average `canvas` down to uint8 (3, size, size) and blur it.

    A neighbour along an axis weighs `aside` / 256; beyond an edge the image is mirrored.
    """
    size = image.shape[1]
    factor = len(canvas) // size  # 1 or 2
    small = np.full((size, size), ONES * np.uint64(factor * factor // 2))
    for k in range(factor * factor):
        small += canvas[k // factor :: factor, k % factor :: factor]
    shift = np.uint64(2 * (factor - 1))
    for r in range(size):
        for c in range(size):
            small[r, c] = (small[r, c] >> shift) & BYTES
    a = np.uint64(aside)
    b = np.uint64(256 - 2 * aside)
    half = ONES * np.uint64(128)
    last = size - 1
    lines = np.empty((size, size), np.uint64)
    for r in range(size):
        up, down = abs(r - 1), last - abs(last - 1 - r)
        for c in range(size):
            beside = small[up, c] + small[down, c]
            lines[r, c] = ((a * beside + b * small[r, c] + half) >> np.uint64(8)) & BYTES
    for r in range(size):
        for c in range(size):
            beside = lines[r, abs(c - 1)] + lines[r, last - abs(last - 1 - c)]
            colour = (a * beside + b * lines[r, c] + half) >> np.uint64(8)
            for channel in range(3):
                image[channel, r, c] = colour >> np.uint64(16 * channel)


@njit(cache=True, error_model="numpy")
def _window(box, key):
    """The part of the plane that is shown of an orbit in `box` (left, low, right, high)."""
    window = np.array(box)
    for axis in range(2):
        length = window[2 + axis] - window[axis]
        middle = window[axis] + length * uniform(key, 24 + axis, 0.3, 0.7)
        length *= uniform(key, 26 + axis, 0.5, 2)
        window[axis], window[2 + axis] = middle - length / 2, middle + length / 2
    return window


@njit(cache=True, error_model="numpy", nogil=True)
def _draw(systems, keys, factor, images):
    """Fill `images`, uint8 (B, 3, size, size), with a fractal of `systems`, (B, 4, 6), each."""
    side = images.shape[2] * factor
    points = min(int(POINTS / PUBLISHED**2 * side**2), POINTS) // 4 * 4
    xs, ys = np.empty(points), np.empty(points)
    canvas = np.empty((side, side), np.uint64)
    counts = np.empty((side + 4, side + 4), np.int32)
    for b in range(len(keys)):
        _cloud(mix(keys[b]), factor, canvas)
        key = mix(keys[b] + np.uint64(10))
        system = systems[b].copy()
        _jitter(system, mix(key))
        window = _window(_orbit(system, mix(key + np.uint64(1)), xs, ys), key)
        flips = int(uniform(key, 28, 0, 8))
        for axis in range(2):
            if flips >> axis & 1:
                window[axis], window[2 + axis] = window[2 + axis], window[axis]
        if flips & 4:
            _count(xs, ys, window, counts)
        else:
            _count(ys, xs, window[np.array([1, 0, 3, 2])], counts)
        _paint(counts, key, canvas)
        blurred = uniform(keys[b], 2, 0, 2) < 1
        aside = np.exp(-0.5 / uniform(keys[b], 1, 0.5, 1) ** 2)
        _finish(canvas, int(256 * aside / (1 + 2 * aside) + 0.5) if blurred else 0, images[b])


class ColouredFractals(Formula):
    """Coloured fractals of 1,000 classes as a sequence: `batch(numbers)` draws them, in any order.

    Args:
        size: 16..512 px.
        categories: the first so many of 1,000 systems.
    """

    def __init__(self, size: int = PUBLISHED, categories: int = CLASSES, seed: int = 0):
        super().__init__(size, categories, seed)
        self.systems = _systems(categories)

    def _draw(self, labels: np.ndarray, keys: np.ndarray, images: np.ndarray) -> None:
        _draw(self.systems[labels], keys, 2 if self.size <= PUBLISHED // 2 else 1, images)


def open_source(config, cache: str | Path) -> ColouredFractals:
    """Coloured fractals as size, render, categories and seed of `config` ask; nothing is cached."""
    return ColouredFractals(config.render or config.size, config.categories, config.seed)
