"""FractalDB-1k by formula: the categories, the coverage of every orbit, and one million images
drawn from a number.

Kataoka et al., "Pre-training without Natural Images" (ACCV 2020). A category is an iterated
function system (IFS), a set of affine maps; an image is where its orbit goes, filled with random
patches. Categories and coverages are the published ones, bit for bit; the patches' bits are our
own, a function of (seed, image number).
"""

import hashlib
import math
from colorsys import hsv_to_rgb
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit
from tqdm import tqdm

from ktglite.pool import cores
from ktglite.sources.one_fractal import mix
from ktglite.store import atomic_write, make_once

__all__ = ["FractalDB"]

CATEGORIES, POINTS, COUNTS, FLIPS = (
    1000,
    200_000,
    10,
    4,
)  # points, patch fillings and mirrorings of an orbit
PAD, VALUE = 6, 127  # px kept free on each side; grey of a patch
VARIANTS = ("patch_gray", "patch_color", "point_gray", "point_color")
# Small images are averaged down from these sizes: rendered directly, patches of 3 px would fatten
# the shapes.
DRAWN_AT = {32: 256, 48: 384, 64: 256, 96: 384, 128: 256}
# The 25 variations of a category: what a, b, c, d, e, f of every map are multiplied by.
WEIGHTS = np.array(
    [np.where(np.arange(6) == k, f, 1.0) for k in range(6) for f in (0.2, 0.6, 1.4, 1.8)]
)
WEIGHTS = np.insert(WEIGHTS, 2, 1.0, axis=0)
LANES = len(WEIGHTS)
# The hue runs through 128 steps along the orbit, in the published order of the channels; at last
# black, for no point.
PALETTE = np.uint8(
    [[255 * v for v in hsv_to_rgb(i / 128, 0.75, 0.75)[::-1]] for i in range(128)] + [[0, 0, 0]]
)
Maps = tuple[np.ndarray, ...]
_orbit_random = cache(
    lambda points: np.random.RandomState(100).random_sample(points)
)  # the same for every orbit


@cache
def categories(count: int = CATEGORIES) -> Maps:
    """The first `count` of the 1,000 categories, each float64 (maps, 7): a, b, c, d, e, f and p,
    the probability of every map. Raises ValueError if there are not so many."""
    if not 1 <= count <= CATEGORIES:
        raise ValueError(f"categories is {count}: it must be 1..{CATEGORIES}")
    table = np.load(
        Path(__file__).with_name("fractaldb1k.npy")
    )  # in front of each row, the number of its category
    return tuple(np.ascontiguousarray(table[table[:, 0] == i, 1:]) for i in range(count))


def _choices(maps: np.ndarray, random: np.ndarray) -> np.ndarray:
    """The map of every step: the first whose cumulative probability reaches the random number; uint8 (points,)."""
    choices = np.zeros(len(random), np.uint8)
    for total in np.cumsum(maps[:, 6])[:-1]:
        choices += random > total
    return choices


@njit(cache=True, error_model="numpy", nogil=True)
def _walk(table, choices):
    xs, ys, x, y = np.empty(len(choices)), np.empty(len(choices)), 0.0, 0.0
    for i in range(len(choices)):
        xs[i], ys[i] = x, y
        m = table[np.uint64(choices[i])]
        x, y = m[0] * x + m[1] * y + m[4], m[2] * x + m[3] * y + m[5]
    return xs, ys


def orbit(maps: np.ndarray, random: np.ndarray, weight: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The points that are drawn of the orbit of (0, 0): x and y, float64. An orbit that leaves the
    plane ends in NaN: these points and the 100 before them are left out, as in the published code.

    - `maps`: (maps, 7) as in `categories`.  `random`: for every point a number in [0, 1) that
      chooses the next map.
    - `weight`: the variation, 0..24, see `WEIGHTS`; 2 leaves the maps as they are.
    """
    xs, ys = _walk(maps[:, :6] * WEIGHTS[weight], _choices(maps, random))
    lost = np.isnan(xs if np.isnan(xs[-1]) else ys)  # once there, NaN stays
    end = max(int(lost.argmax()) - 100, 1) if lost[-1] else len(xs)
    return xs[:end], ys[:end]


@njit(cache=True, error_model="numpy", nogil=True)
def pixels(xs, ys, size):
    """Which pixel of a flattened image of `size` px every point falls on, int32 (points,); rows from the top."""
    left, low, at = xs.min(), ys.min(), np.empty(len(xs), np.int32)
    width, height, inner = xs.max() - left, ys.max() - low, float(size - 2 * PAD)
    for i in range(
        len(xs)
    ):  # in the published order of operations; what is not finite becomes 0, as on x86
        x, y = (xs[i] - left) / width * inner + PAD, (ys[i] - low) / height * inner + PAD
        column = np.int32(x) if abs(x) < 65536.0 else np.int32(0)
        row = np.int32(y) if abs(y) < 65536.0 else np.int32(0)
        at[i] = (np.int32(size - 1) - row) * np.int32(size) + column
    return at


def _check_size(size: int) -> None:
    if not 16 <= size <= 4096:
        raise ValueError(f"size is {size}: fractal images are 16 to 4096 px wide")


def _patches(marked: np.ndarray, size: int) -> np.ndarray:
    """What patches reach, 1 to 3 px to the right of their points and 1 to 3 px up. `marked` uint8
    (N, size * size) of 0 and 1; the result uint64 (N, words), where pixel k is bit k % 64 of word k
    // 64: on the flattened bits both are plain shifts, since the padding keeps every patch inside
    its row."""
    images = []
    for bits in np.packbits(marked, axis=1, bitorder="little"):
        points = int.from_bytes(bits.tobytes(), "little")
        wide = points << 1 | points << 2 | points << 3
        high = wide >> size | wide >> 2 * size | wide >> 3 * size
        images.append(high.to_bytes(-(-size * size // 64) * 8, "little"))
    return np.frombuffer(b"".join(images), "<u8").reshape(len(marked), -1)


def coverage(category: int, weight: int, size: int = 362, points: int = POINTS) -> np.ndarray:
    """Which pixels of an image its patches can reach: bool (size, size), bit for bit that of the
    published set.

    - `category`: 0..999.  `weight`: the variation, 0..24, see `WEIGHTS`.  `size`: 16..4096 px.

    Nearly blank if the orbit leaves the plane, see `divergent`. Raises ValueError for what is out
    of range.
    """
    for name, value, count in (("category", category, CATEGORIES), ("weight", weight, LANES)):
        if not 0 <= value < count:
            raise ValueError(f"{name} is {value}: it must be 0..{count - 1}")
    _check_size(size)
    marked = np.zeros((1, size * size), np.uint8)
    marked[0, pixels(*orbit(categories()[category], _orbit_random(points), weight), size)] = 1
    bits = _patches(marked, size).view(np.uint8)
    return np.unpackbits(bits, count=size * size, bitorder="little").view(bool).reshape(size, size)


@njit(cache=True, error_model="numpy", nogil=True)
def _advance(maps, weights, choices, box, size, marked):
    """Run the orbits of all variations: find their bounding boxes or, given `marked`, set their
    pixels there to 1.

    `weights` (LANES, 6); `box` (4, LANES): left, right, low, high; `marked` uint8 (LANES, size *
    size), rows from the top. Returns the points they end at, (2, LANES). The variations make the
    same choices and advance side by side, several by one instruction; LLVM does not fuse
    multiplications with additions here: the bits are the published ones.
    """
    table = np.ascontiguousarray(np.expand_dims(maps[:, :6], 2) * weights.T)
    x, y, at = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES, np.int32)
    left, right, low, high = box[0].copy(), box[1].copy(), box[2].copy(), box[3].copy()
    width, height, inner, corner = (
        right - left,
        high - low,
        float(size - 2 * PAD),
        np.int32((size - 1) * size),
    )
    for i in range(len(choices)):
        m = table[np.uint64(choices[i])]
        for v in range(LANES):
            xv, yv = x[v], y[v]
            if marked is None:
                left[v], right[v] = min(left[v], xv), max(right[v], xv)
                low[v], high[v] = min(low[v], yv), max(high[v], yv)
            else:
                column = np.int32((xv - left[v]) / width[v] * inner + PAD)
                at[v] = (
                    corner
                    + column
                    - np.int32(size) * np.int32((yv - low[v]) / height[v] * inner + PAD)
                )
            x[v] = m[0, v] * xv + m[1, v] * yv + m[4, v]
            y[v] = m[2, v] * xv + m[3, v] * yv + m[5, v]
        if marked is not None:
            for v in range(LANES):
                marked[v, np.uint64(at[v])] = 1
    box[0], box[1], box[2], box[3] = left, right, low, high
    return np.stack((x, y))


def divergent(maps: Maps, points: int = POINTS) -> np.ndarray:
    """Which orbits of these categories leave the plane, bool (categories * 25,): 1,141 of the
    published 25,000, as the search for categories had no test of contraction."""
    box, random = np.zeros((4, LANES)), _orbit_random(points)
    ends = [_advance(table, WEIGHTS, _choices(table, random)[:-1], box, 0, None) for table in maps]
    return np.isnan(ends).any(1).ravel()


def _coverages(maps: np.ndarray, size: int, points: int) -> np.ndarray:
    """The coverages of one category, all 25 weights, as bits like those of `_patches`."""
    box, marked, random = (
        np.zeros((4, LANES)),
        np.zeros((LANES, size * size), np.uint8),
        _orbit_random(points),
    )
    choices = _choices(maps, random)
    last = _advance(maps, WEIGHTS, choices, box, size, None)
    plain = (np.abs(last) < 1e300).all(0) & (box[0] < box[1]) & (box[2] < box[3])
    box[:, ~plain] = np.array([0, 1, 0, 1])[:, None]
    _advance(maps, WEIGHTS * plain[:, None], choices, box, size, marked)
    for weight in np.flatnonzero(~plain):  # those that leave the plane, or stay on a line
        marked[weight] = 0
        marked[weight, pixels(*orbit(maps, random, weight), size)] = 1
    return _patches(marked, size)


def bank(
    size: int = 256, points: int = POINTS, maps: Maps | None = None, cache: str | Path = "data/cache",
    progress: bool = True,
) -> np.ndarray:  # fmt: skip
    """The coverages of all orbits as bits: uint64 (categories * 25, words), memory-mapped from the
    folder `cache`.

    Built once, by one thread per core. Raises ValueError naming a file that was cut short since.
    """
    _check_size(size)
    maps = categories() if maps is None else maps
    key = hashlib.sha256(np.concatenate(maps).tobytes()).hexdigest()[:12]

    def write(path: Path) -> None:
        header = {
            "descr": "<u8",
            "fortran_order": False,
            "shape": (len(maps) * LANES, -(-size * size // 64)),
        }
        with atomic_write(
            path
        ) as out:  # written, not mapped: a full disk is an error then, and not the end by SIGBUS
            np.lib.format.write_array_header_1_0(out, header)
            threads = ThreadPoolExecutor(
                cores()
            )  # the compiled loops let go of the interpreter's lock
            try:
                drawn = threads.map(lambda table: _coverages(table, size, points), maps)
                for bits in tqdm(
                    drawn, f"FractalDB {size} px", len(maps), disable=not progress, mininterval=2
                ):
                    out.write(bits.data)
            finally:
                threads.shutdown(cancel_futures=True)

    path = make_once(
        Path(cache) / f"fractaldb-{size}px-{points}points-{len(maps)}-{key}.npy", write
    )
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made again") from error


@njit(cache=True, error_model="numpy")
def _fill(covered, seed, number, out):
    """AND the coverage with random bits, hashed from (seed, number), that are 1 with probability
    256/511, since a patch is any of 511 masks. Half of the ones come 64 at a time, 1/511 of the
    zeros singly, their gaps being geometric."""
    base = mix(mix(np.uint64(seed)) ^ np.uint64(number))
    for k in range(len(covered)):
        out[k] = covered[k] & mix(base + np.uint64(k))
    k, draw, scale = 0, base, 1.0 / math.log(1.0 - 1.0 / 511.0)
    while True:
        draw = mix(draw)
        k += 1 + int(math.log((float(draw >> np.uint64(11)) + 1.0) / 9007199254740992.0) * scale)
        if k > len(covered) * 64:
            break
        word, bit = (k - 1) >> 6, np.uint64(1) << np.uint64((k - 1) & 63)
        out[word] |= covered[word] & bit


@njit(cache=True, error_model="numpy")
def _sum_fours(words, counts):
    """Ones in every 4 x 4 block of a square, its side a multiple of 64: `counts` uint8 (side / 4,
    side / 4). Within the words, 16 sums of four neighbours are formed at once, then four rows
    added."""
    fives, threes, low = (
        np.uint64(0x5555555555555555),
        np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F),
    )
    per_row, one, two, four = len(counts) // 16, np.uint64(1), np.uint64(2), np.uint64(4)
    for band in range(len(counts)):
        for w in range(per_row):
            even, odd = np.uint64(0), np.uint64(0)
            for row in range(4 * band, 4 * band + 4):
                v = words[row * per_row + w]
                v -= (v >> one) & fives
                v = (v & threes) + ((v >> two) & threes)
                even, odd = even + (v & low), odd + ((v >> four) & low)
            for k in range(16):
                counts[band, 16 * w + k] = np.uint8(
                    (odd if k & 1 else even) >> np.uint64(k // 2 * 8)
                )


@njit(cache=True, error_model="numpy", nogil=True)
def _render(packed, rows, numbers, seed, factor, images):
    """Fill `images`, uint8 (B, 3, size, size), with the images of these numbers, their orbits in
    `rows` of `packed`: a pixel is the mean of `factor` x `factor`, which are 1, 2, 4 or 8."""
    filled, size, cell = (
        np.empty(packed.shape[1], np.uint64),
        images.shape[2],
        4 if factor >= 4 else 1,
    )
    half, shift, side = (
        np.uint16(factor * factor // 2),
        np.uint16(2 * round(math.log2(factor))),
        size * factor // cell,
    )
    flat = np.empty(len(filled) * 64, np.uint8)
    counts, pairs = flat[: side * side].reshape(side, side), np.empty((size, size), np.uint8)
    for b in range(len(numbers)):
        _fill(packed[rows[b]], seed, numbers[b], filled)
        if cell == 4:
            _sum_fours(filled, counts)
        else:
            for w in range(len(filled)):
                for k in range(64):
                    flat[64 * w + k] = (filled[w] >> np.uint64(k)) & np.uint64(1)
        if factor == 2 * cell:
            for y in range(size):
                upper, lower = counts[2 * y], counts[2 * y + 1]
                for x in range(size):
                    pairs[y, x] = upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1]
        sums, top_down, left_right = (
            pairs if factor == 2 * cell else counts,
            numbers[b] & 1,
            numbers[b] & 2,
        )
        for y in range(size):
            line, out = sums[size - 1 - y if top_down else y], images[b, 0, y]
            for x in range(size):
                out[x] = (
                    np.uint16(line[size - 1 - x if left_right else x]) * np.uint16(VALUE) + half
                ) >> shift
        images[b, 1:] = images[b, 0]


class FractalDB:
    """FractalDB-1k as a sequence: `batch(numbers)` draws images, in any order and on any number of
    workers the same.

    Image i is orbit (category, weight), patch filling and mirroring: i = ((category * 25 + weight)
    * 10 + filling) * 4 + flip; the point variants have nothing to fill, so i = (category * 25 +
    weight) * 4 + flip.

    - `size` in px, from 16: 32, 64 and 128 are averaged down from 256, 48 and 96 from 384; others
      are drawn directly.
    - `count`: of the 1,000 categories, the first so many.  `maps`: categories of one's own instead.
    - `variant`: one of `VARIANTS`; all but "patch_gray" are drawn orbit by orbit, some hundred
      times slower.
    - `clean`: leave out the orbits that leave the plane; the numbers then count the others.
    """

    def __init__(
        self, size: int = 362, count: int = CATEGORIES, seed: int = 0, cache: str | Path = "data/cache",
        maps: Maps | None = None, variant: str = "patch_gray", clean: bool = False,
    ):  # fmt: skip
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}: allowed are {', '.join(VARIANTS)}")
        _check_size(size)
        self.size, self.seed, self.variant, self.factor = (
            size,
            seed,
            variant,
            DRAWN_AT.get(size, size) // size,
        )
        self.maps = categories(count) if maps is None else maps
        self.packed = (
            bank(size * self.factor, POINTS, self.maps, cache) if variant == "patch_gray" else None
        )
        self.orbits = (
            np.flatnonzero(~divergent(self.maps)) if clean else np.arange(len(self.maps) * LANES)
        )
        self.per_orbit = COUNTS * FLIPS if variant.startswith("patch") else FLIPS
        self.classes = tuple(f"{i:05d}" for i in range(len(self.maps)))

    def __len__(self) -> int:
        return len(self.orbits) * self.per_orbit

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, 3, size, size) and labels int64 (B,). Raises IndexError for a number out of range."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        rows = self.orbits[numbers // self.per_orbit]
        images = np.empty((len(numbers), 3, self.size, self.size), np.uint8)
        if self.packed is None:
            return np.stack(
                [self._paint(row, n) for row, n in zip(rows, numbers, strict=True)]
            ), rows // LANES
        _render(self.packed, rows, numbers, self.seed, self.factor, images)
        return images, rows // LANES

    def _paint(self, row: int, number: int, points: int = POINTS) -> np.ndarray:
        """One image of any variant, uint8 (3, size, size). Every point of the orbit paints itself
        or a random 3 x 3 patch over what was there, in grey or in the hue of its step: a bank of
        hues would be eight times as large."""
        factor, size = self.factor, self.size * self.factor
        at = pixels(*orbit(self.maps[row // LANES], _orbit_random(points), row % LANES), size)
        latest = np.full((1, size * size), -1, np.int32)  # the last point that painted a pixel
        latest[0, at] = np.arange(len(at), dtype=np.int32)
        if self.variant.startswith("patch"):
            covered = _patches((latest >= 0).view(np.uint8), size)
            bits = np.empty_like(covered)
            _fill(covered[0], self.seed, number, bits[0])
            latest = np.max(
                [np.roll(latest, right - up * size) for right in (1, 2, 3) for up in (1, 2, 3)],
                axis=0,
            )
            latest[
                0, np.unpackbits(bits.view(np.uint8), count=size * size, bitorder="little") == 0
            ] = -1
        colours = (
            PALETTE
            if self.variant.endswith("color")
            else np.where(PALETTE, np.uint8(VALUE), np.uint8(0))
        )
        image = colours.take(np.where(latest < 0, -1, latest % 128), axis=0).reshape(size, size, 3)
        image = image[:: -1 if number & 1 else 1, :: -1 if number & 2 else 1]
        sums = sum(
            image[i::factor, j::factor].astype(np.uint16)
            for i in range(factor)
            for j in range(factor)
        )
        return np.moveaxis((sums + factor**2 // 2) // factor**2, 2, 0).astype(np.uint8)


def open_source(config, cache: str | Path) -> FractalDB:
    """FractalDB-1k as the fields size, render, categories and seed of `config` ask for it."""
    return FractalDB(config.render or config.size, config.categories, config.seed, cache)
