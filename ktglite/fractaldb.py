"""FractalDB-1k by formula: the categories, the coverage of every orbit, and one million images drawn from a number.

Kataoka et al., "Pre-training without Natural Images" (ACCV 2020). A category is an iterated function system (IFS), a
set of affine maps; an image is where its orbit goes, filled with random patches. Categories and coverages are those
of the published set, bit for bit; the patches' random bits are our own, hashed from (seed, image number), so that any
worker draws the same image in any order.
"""

import hashlib
import math
import time
import warnings
from colorsys import hsv_to_rgb
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from filelock import FileLock
from numba import njit
from PIL import Image
from tqdm import tqdm

from ktglite import mersenne
from ktglite.devices import cores
from ktglite.files import whole

CATEGORIES, CANDIDATES = 1000, 42_655  # accepted, of so many that are drawn
SEARCH_SIZE, SEARCH_POINTS, SEARCH_RATE = 512, 100_000, 0.2
PAD = 6  # px kept free on each side
ORBIT_SEED = 100  # of the choices of maps, the same for every orbit
COUNTS, FLIPS = 10, 4  # patch fillings and mirrorings per orbit
VALUE = 127  # grey of a patch
VARIANTS = ("patch_gray", "patch_color", "point_gray", "point_color")
BANK_SIZE = 256  # px; smaller images are averaged down from it, since a small rendering fattens the shapes

# The 25 variations of a category: what a, b, c, d, e, f of every map are multiplied by.
WEIGHTS = np.ones((25, 6))
for _i, _factor in enumerate((0.2, 0.6, 1.0, 1.4, 1.8)):
    WEIGHTS[_i, 0] = _factor
WEIGHTS[2] = 1.0
for _entry in range(1, 6):
    for _i, _factor in enumerate((0.2, 0.6, 1.4, 1.8)):
        WEIGHTS[1 + 4 * _entry + _i, _entry] = _factor

# SHA-256 of all maps, and of some coverages at 362 px and 200,000 points; (81, 16) leaves the plane.
MAPS_HASH = "ab361cd7b94c384ae22540c07d1332444db6adb4cd85203a64d2728fb7dbe07f"
MAPS_P_HASH = "2d65f2678a859836c9a3d7f2c49fa3ece55f642dfb6d704e46451c8d0b70bf9a"
COVERAGE_HASHES = {
    (0, 0): "24e8293e045ace6976af20ae8373481b2465bbbffaacfaa3ae819628b791698d",
    (0, 7): "075d0cb6723611863c7ebc4dad4da6dfd3b2114b168c1bcc32ac214ba0e9f852",
    (42, 13): "b41adedc7f101039de70cdc7c555454a61255e847c3ddbdad0cd45726efe69d1",
    (999, 24): "b31c27f19b143a092f803c85b0dd60ac0036d794cc24ff79c437b83cdab941ae",
    (81, 16): "63141e2493904743f77b28cdfc2f0a95d344c26e1b0b342df224b509efd38010",
}


# ---- categories


@cache
def categories() -> tuple[np.ndarray, ...]:
    """The 1,000 categories, each float64 (maps, 7): a, b, c, d, e, f and the probability p of every map.

    Read from `fractaldb1k.npy`, which `search_categories` wrote and gives again.
    """
    table = np.load(files("ktglite").joinpath("fractaldb1k.npy"))
    bounds = np.flatnonzero(np.diff(table[:, 0])) + 1
    return tuple(np.ascontiguousarray(part[:, 1:]) for part in np.split(table, bounds))


def first_categories(count: int) -> tuple[np.ndarray, ...]:
    """The first `count` of `categories()`."""
    return categories()[:count]


def search_categories(progress: bool = True) -> tuple[np.ndarray, ...]:
    """Find the categories as the published set was found: draw maps at random, keep what fills the plane enough."""
    bits = np.random.MT19937()
    bits.state = np.random.RandomState(1).get_state(legacy=False)
    draw = np.random.RandomState(bits)  # shares its state with `bits`
    random, found = np.empty(SEARCH_POINTS), []
    tables, choices = np.zeros((ABREAST, 7, 6)), np.empty((ABREAST, SEARCH_POINTS), np.uint8)
    xs, ys = np.empty((2, ABREAST, SEARCH_POINTS))
    at, marked = np.empty(SEARCH_POINTS, np.int32), np.empty(SEARCH_SIZE**2, np.uint8)
    words = mersenne.room(SEARCH_POINTS)
    with tqdm(total=CATEGORIES, desc="FractalDB-1k categories", disable=not progress, mininterval=1) as bar:
        while len(found) < CATEGORIES:
            candidates = []
            for k in range(ABREAST):
                maps = np.empty((draw.randint(2, 8), 7))
                for row in maps:
                    row[:6] = draw.uniform(-1, 1, 6)
                    row[6] = abs(row[0] * row[3] - row[1] * row[2])
                maps[:, 6] /= maps[:, 6].sum()
                mersenne.random(bits, random, words)
                choose(maps[:, 6], random, choices[k])
                tables[k, : len(maps)] = maps[:, :6]
                candidates.append(maps)
            orbits_abreast(tables, choices, xs, ys)
            for maps, x, y in zip(candidates, xs, ys, strict=True):
                if is_filled(x, y, at, marked):
                    found.append(maps)
                    bar.update()
    return tuple(found[:CATEGORIES])


def is_filled(x: np.ndarray, y: np.ndarray, at: np.ndarray, marked: np.ndarray) -> bool:
    """Whether an orbit marks enough of the search's square; most mark so little that half of the points tell.

    `at`, int32 (points,), and `marked`, uint8 (size * size), are room to work in.
    """
    count, needed = points_that_count(x, y), SEARCH_RATE * SEARCH_SIZE**2
    box, begin, found = (x[:count].min(), x[:count].max(), y[:count].min(), y[:count].max()), 0, 0
    marked[:] = 0
    for end in (count * 55 // 100, count):
        locate(x[begin:end], y[begin:end], *box, SEARCH_SIZE, PAD, at[begin:end])
        found += count_new(at[begin:end], marked)
        if found + count - end < needed:
            return False
        begin = end
    return True


@njit(cache=True, error_model="numpy")
def count_new(at, marked):
    """Mark pixels; returns how many were not marked before."""
    found = np.int64(0)
    for pixel in at:
        k = np.uint64(pixel)
        found += 1 - marked[k]
        marked[k] = 1
    return found


def maps_hash(found: tuple[np.ndarray, ...], columns: int = 6) -> str:
    """SHA-256 over the first `columns` of all maps in order, little-endian float64."""
    return hashlib.sha256(np.concatenate([maps[:, :columns] for maps in found]).astype("<f8").tobytes()).hexdigest()


def read_csv_folder(folder: str | Path) -> tuple[np.ndarray, ...]:
    """Categories from the published layout: one CSV per category, a row a, b, c, d, e, f, p per map.

    Raises ValueError naming the file that is not of this form.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        raise ValueError(f"{folder} has no .csv files: give the folder of category files")
    found = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of no rows, which are an error below
                maps = np.loadtxt(path, delimiter=",", ndmin=2)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not a table of numbers ({error}); get it again, or remove it") from error
        if maps.shape[1] != 7 or not np.isfinite(maps).all():
            raise ValueError(f"{path} must have rows a,b,c,d,e,f,p of finite numbers; get it again, or remove it")
        if len(maps) > 255 or (maps[:, 6] < 0).any() or abs(maps[:, 6].sum() - 1) > 0.01:
            raise ValueError(f"{path} must have at most 255 maps, their probabilities p summing to 1; is it cut short?")
        found.append(maps)
    return tuple(found)


# ---- orbits


@njit(cache=True, error_model="numpy", nogil=True)
def choose(p, random, choices):
    """The map of every step: the first whose cumulative probability reaches the random number; into uint8 (points,).

    Counted without a branch, map by map, which is many times faster than looking for it number by number.
    """
    choices[:] = 0
    total = 0.0
    for j in range(len(p) - 1):
        total += p[j]
        for i in range(len(random)):
            choices[i] += np.uint8(random[i] > total)


def orbit_choices(maps: np.ndarray, points: int) -> np.ndarray:
    """The maps that every orbit of a category takes, step by step."""
    choices = np.empty(points, np.uint8)
    choose(maps[:, 6], orbit_random(points), choices)
    return choices


@cache
def orbit_random(points: int) -> np.ndarray:
    """The random numbers that all orbits share."""
    return np.random.RandomState(ORBIT_SEED).random_sample(points)


@njit(cache=True, error_model="numpy")
def orbit(maps, choices, xs, ys):
    """Fill `xs`, `ys` with the orbit of (0, 0)."""
    x, y = 0.0, 0.0
    for i in range(len(choices)):
        xs[i], ys[i] = x, y
        m = maps[np.uint64(choices[i])]
        x, y = m[0] * x + m[1] * y + m[4], m[2] * x + m[3] * y + m[5]


ABREAST = 4


@njit(cache=True, error_model="numpy")
def orbits_abreast(tables, choices, xs, ys):
    """Four orbits at once, `tables` (4, maps, 6), `choices`, `xs`, `ys` (4, points): each waits for its own last
    point, so the processor works on the others meanwhile."""
    x0 = y0 = x1 = y1 = x2 = y2 = x3 = y3 = 0.0
    for i in range(choices.shape[1]):
        xs[0, i], xs[1, i], xs[2, i], xs[3, i] = x0, x1, x2, x3
        ys[0, i], ys[1, i], ys[2, i], ys[3, i] = y0, y1, y2, y3
        m = tables[0, np.uint64(choices[0, i])]
        x0, y0 = m[0] * x0 + m[1] * y0 + m[4], m[2] * x0 + m[3] * y0 + m[5]
        m = tables[1, np.uint64(choices[1, i])]
        x1, y1 = m[0] * x1 + m[1] * y1 + m[4], m[2] * x1 + m[3] * y1 + m[5]
        m = tables[2, np.uint64(choices[2, i])]
        x2, y2 = m[0] * x2 + m[1] * y2 + m[4], m[2] * x2 + m[3] * y2 + m[5]
        m = tables[3, np.uint64(choices[3, i])]
        x3, y3 = m[0] * x3 + m[1] * y3 + m[4], m[2] * x3 + m[3] * y3 + m[5]


def points_that_count(xs: np.ndarray, ys: np.ndarray) -> int:
    """How many points of an orbit are drawn: all, unless it leaves the plane and ends in NaN.

    The published code then drops every NaN and the 100 points before the first.
    """
    for values in (xs, ys):
        if np.isnan(values[-1]):  # once there, NaN stays
            return max(int(np.isnan(values).argmax()) - 100, 1)
    return len(xs)


def mark(xs: np.ndarray, ys: np.ndarray, size: int, marked: np.ndarray) -> None:
    """Set the pixels of an orbit to 1 in `marked`, uint8 (size * size), the rows from the top."""
    marked[pixels(xs, ys, size)] = 1


def pixels(xs: np.ndarray, ys: np.ndarray, size: int) -> np.ndarray:
    """Which pixel of a flattened image every point falls on, int32 (points,), the rows from the top."""
    at = np.empty(len(xs), np.int32)
    locate(xs, ys, xs.min(), xs.max(), ys.min(), ys.max(), size, PAD, at)
    return at


@njit(cache=True, error_model="numpy")
def locate(xs, ys, left, right, low, high, size, pad, at):
    """Fill `at` with pixel numbers, in the published order of operations; what is not finite becomes 0, as on x86."""
    width, height, inner = right - left, high - low, float(size - 2 * pad)
    for i in range(len(xs)):
        x, y = (xs[i] - left) / width * inner + pad, (ys[i] - low) / height * inner + pad
        column = np.int32(x) if abs(x) < 65536.0 else np.int32(0)
        row = np.int32(y) if abs(y) < 65536.0 else np.int32(0)
        at[i] = (np.int32(size - 1) - row) * np.int32(size) + column


LANES = len(WEIGHTS)  # the variations of a category make the same choices and advance side by side


@njit(cache=True, error_model="numpy", nogil=True)
def bounds(table, choices, box, last):
    """Bounding boxes of every variation, `box` (4, LANES): left, right, low, high; and where the orbits end.

    `table` (maps, 6, LANES). One instruction moves several variations. LLVM does not fuse the multiplications with
    the additions here: the bits are the published ones.
    """
    x, y = np.zeros(LANES), np.zeros(LANES)
    left, right, low, high = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for i in range(len(choices)):
        m = table[np.uint64(choices[i])]
        for v in range(LANES):
            xv, yv = x[v], y[v]
            left[v], right[v] = min(left[v], xv), max(right[v], xv)
            low[v], high[v] = min(low[v], yv), max(high[v], yv)
            x[v] = m[0, v] * xv + m[1, v] * yv + m[4, v]
            y[v] = m[2, v] * xv + m[3, v] * yv + m[5, v]
    box[0], box[1], box[2], box[3] = left, right, low, high
    last[0], last[1] = x, y


@njit(cache=True, error_model="numpy", nogil=True)
def mark_lanes(table, choices, box, size, pad, marked):
    """Set the pixels of all variations to 1 in `marked`, uint8 (LANES, size * size), the rows from the top."""
    x, y, left, low = np.zeros(LANES), np.zeros(LANES), box[0].copy(), box[2].copy()
    width, height, inner = box[1] - left, box[3] - low, float(size - 2 * pad)
    at, corner = np.zeros(LANES, np.int32), np.int32((size - 1) * size)
    for i in range(len(choices)):
        m = table[np.uint64(choices[i])]
        for v in range(LANES):
            xv, yv = x[v], y[v]
            column = np.int32((xv - left[v]) / width[v] * inner + pad)
            at[v] = corner + column - np.int32(size) * np.int32((yv - low[v]) / height[v] * inner + pad)
            x[v] = m[0, v] * xv + m[1, v] * yv + m[4, v]
            y[v] = m[2, v] * xv + m[3, v] * yv + m[5, v]
        for v in range(LANES):
            marked[v, np.uint64(at[v])] = 1


def pack(marked: np.ndarray) -> np.ndarray:
    """Images uint8 (N, pixels) of 0 and 1 to bits, uint64 (N, words): pixel k is bit k % 64 of word k // 64."""
    bits = np.packbits(marked, axis=1, bitorder="little")
    words = np.zeros((len(bits), -(-marked.shape[1] // 64) * 8), np.uint8)
    words[:, : bits.shape[1]] = bits
    return words.view("<u8")


@njit(cache=True, error_model="numpy", nogil=True)
def dilate(marked, size, out):
    """Points to what their 3 x 3 patches cover, 1 to 3 px to the right and 1 to 3 px up; uint64 (words,) into `out`.

    On the flattened bits both are plain shifts: the padding keeps every patch inside its row.
    """
    n = len(marked)
    wide = np.zeros(n, np.uint64)
    for k in range(n):
        word, before = marked[k], marked[k - 1] if k else np.uint64(0)
        for shift in (np.uint64(1), np.uint64(2), np.uint64(3)):
            wide[k] |= (word << shift) | (before >> (np.uint64(64) - shift))
    for rows in range(1, 4):
        skip, shift = rows * size // 64, np.uint64(rows * size % 64)
        for k in range(n - skip):
            out[k] |= wide[k + skip] >> shift
            if shift and k + skip + 1 < n:
                out[k] |= wide[k + skip + 1] << (np.uint64(64) - shift)


def coverage(
    category: int, weight: int, size: int = 362, points: int = 200_000, maps: np.ndarray | None = None
) -> np.ndarray:
    """Which pixels of an image its patches can reach: bool (size, size), bit for bit that of the published set.

    - `category`: 0..999, or any with `maps` of one's own.  `weight`: 0..24, see `WEIGHTS`.  `size` in px, 16 or more.

    An orbit that leaves the plane is cut as in the published code and comes out nearly blank; see `is_divergent`.
    """
    xs, ys = orbit_points(category, weight, points, maps)
    check_size(size)
    marked = np.zeros((1, size * size), np.uint8)
    mark(xs, ys, size, marked[0])
    bits = np.zeros((1, -(-size * size // 64)), np.uint64)
    dilate(pack(marked)[0], size, bits[0])
    return np.unpackbits(bits.view(np.uint8), count=size * size, bitorder="little").reshape(size, size).astype(bool)


def orbit_points(
    category: int, weight: int, points: int = 200_000, maps: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The points of an orbit that are drawn: x and y, float64, fewer than `points` if it leaves the plane.

    Raises ValueError for a category or weight that does not exist.
    """
    if maps is None:
        if not 0 <= category < CATEGORIES:
            raise ValueError(f"category is {category}: it must be 0..{CATEGORIES - 1}")
        maps = categories()[category]
    if not 0 <= weight < len(WEIGHTS):
        raise ValueError(f"weight is {weight}: it must be 0..{len(WEIGHTS) - 1}")
    xs, ys = np.empty((2, points))
    orbit(maps[:, :6] * WEIGHTS[weight], orbit_choices(maps, points), xs, ys)
    count = points_that_count(xs, ys)
    return xs[:count], ys[:count]


def is_divergent(category: int, weight: int, points: int = 200_000, maps: np.ndarray | None = None) -> bool:
    """Whether an orbit leaves the plane: 1,141 of the 25,000 do, since the search has no test of contraction."""
    return len(orbit_points(category, weight, points, maps)[0]) < points


def check_size(size: int) -> None:
    """Raise ValueError for an image too small for its padding."""
    if not 16 <= size <= 4096:
        raise ValueError(f"size is {size}: fractal images are 16 to 4096 px wide")


def divergent(maps: tuple[np.ndarray, ...], points: int = 200_000) -> np.ndarray:
    """`is_divergent` for all orbits of these categories: bool (categories * 25,)."""
    flags, box, last = [], np.zeros((4, LANES)), np.zeros((2, LANES))
    for table in maps:
        bounds(lanes(table), orbit_choices(table, points)[:-1], box, last)
        flags.append(np.isnan(last).any(0))
    return np.concatenate(flags)


def lanes(maps: np.ndarray) -> np.ndarray:
    """The maps of all variations of a category: (maps, 6, LANES)."""
    return np.ascontiguousarray(maps[:, :6, None] * WEIGHTS.T)


def coverages(maps: np.ndarray, size: int, points: int) -> np.ndarray:
    """`coverage` for all 25 weights of one category, as bits: uint64 (25, words), see `pack`."""
    choices = orbit_choices(maps, points)
    table, box, last = lanes(maps), np.zeros((4, LANES)), np.zeros((2, LANES))
    bounds(table, choices, box, last)
    plain = (np.abs(last) < 1e300).all(0) & (box[0] < box[1]) & (box[2] < box[3])
    box[:, ~plain] = np.array([0, 1, 0, 1])[:, None]
    table[:, :, ~plain] = 0
    marked = np.zeros((LANES, size * size), np.uint8)
    mark_lanes(table, choices, box, size, PAD, marked)
    marked[~plain] = 0
    for weight in np.flatnonzero(~plain):  # those that leave the plane, or stay on a line
        mark(*orbit_points(-1, int(weight), points, maps), size, marked[weight])
    bits = pack(marked)
    out = np.zeros_like(bits)
    for points_of_one, patches in zip(bits, out, strict=True):
        dilate(points_of_one, size, patches)
    return out


# ---- the bank: every coverage once, packed


def bank(
    size: int = BANK_SIZE,
    points: int = 200_000,
    count: int = CATEGORIES,
    cache: str | Path = "data/cache",
    maps: tuple[np.ndarray, ...] | None = None,
    progress: bool = True,
    jobs: int | None = None,
) -> np.ndarray:
    """All coverages of the first `count` categories as bits: uint64 (count * 25, words), memory-mapped from `cache`.

    Built once, by `jobs` threads (one per core); the file gets its name when it is whole. Raises ValueError naming
    one that was cut short since.
    """
    check_size(size)
    maps = categories()[:count] if maps is None else maps
    words = -(-size * size // 64)
    key = hashlib.sha256(np.concatenate(maps).tobytes()).hexdigest()[:12]
    path = Path(cache) / f"fractaldb-{size}px-{points}points-{len(maps)}-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if path.exists() else FileLock(f"{path}.lock"):  # a finished bank may lie in a read-only place
        if not path.exists():
            header = {"descr": "<u8", "fortran_order": False, "shape": (len(maps) * LANES, words)}
            with whole(path) as out:  # written, not mapped: a full disk is an error then, and not the end by SIGBUS
                np.lib.format.write_array_header_1_0(out, header)
                threads = ThreadPoolExecutor(jobs or cores())  # the compiled loops let go of the interpreter's lock
                try:
                    drawn = threads.map(partial(coverages, size=size, points=points), maps)
                    for bits in tqdm(drawn, f"FractalDB {size} px", len(maps), disable=not progress, mininterval=2):
                        out.write(bits.astype("<u8", copy=False).data)
                finally:
                    threads.shutdown(cancel_futures=True)
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made again") from error


# ---- images


@njit(cache=True, error_model="numpy")
def mix(z):
    """One step of splitmix64: 64 well-mixed bits from any 64 bits."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, error_model="numpy")
def fill(covered, seed, number, out):
    """AND the coverage with random bits that are 1 with probability 256/511, hashed from (seed, number).

    A patch is any of 511 masks, so a bit is 1 a little more often than 1/2. Half of the ones come 64 at a time from a
    hash; the remaining 1/511 of the zeros are placed one by one, the gaps between them being geometric.
    """
    base = mix(mix(np.uint64(seed)) ^ np.uint64(number))
    for k in range(len(covered)):
        out[k] = covered[k] & mix(base + np.uint64(k))
    pixels, k, draw = len(covered) * 64, 0, base
    scale = 1.0 / math.log(1.0 - 1.0 / 511.0)
    while True:
        draw = mix(draw)
        k += 1 + int(math.log((float(draw >> np.uint64(11)) + 1.0) / 9007199254740992.0) * scale)
        if k > pixels:
            break
        word, bit = (k - 1) >> 6, np.uint64(1) << np.uint64((k - 1) & 63)
        out[word] |= covered[word] & bit


@njit(cache=True, error_model="numpy")
def unpack(words, size, counts):
    """The bits of an image of any size as `counts` uint8 (size, size) of 0 and 1."""
    flat, whole = counts.reshape(-1), size * size // 64
    for w in range(whole):
        for k in range(64):
            flat[64 * w + k] = np.uint8((words[w] >> np.uint64(k)) & np.uint64(1))
    for k in range(64 * whole, size * size):
        flat[k] = np.uint8((words[whole] >> np.uint64(k & 63)) & np.uint64(1))


@njit(cache=True, error_model="numpy")
def sum_pairs(words, side, counts):
    """Ones in every 2 x 2 block of a square of `side` px: `counts` uint8 (side / 2, side / 2)."""
    bits = np.empty((side, side), np.uint8)
    unpack(words, side, bits)
    for y in range(side // 2):
        for x in range(side // 2):
            counts[y, x] = (
                bits[2 * y, 2 * x] + bits[2 * y, 2 * x + 1] + bits[2 * y + 1, 2 * x] + bits[2 * y + 1, 2 * x + 1]
            )


@njit(cache=True, error_model="numpy")
def sum_fours(words, side, counts):
    """As `sum_pairs` for 4 x 4 blocks, counted within the words: 16 sums of four neighbours at once, then four rows."""
    fives, threes, low = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    per_row, two, four = side // 64, np.uint64(2), np.uint64(4)
    even, odd = np.empty(per_row, np.uint64), np.empty(per_row, np.uint64)
    even_bytes, odd_bytes = even.view(np.uint8), odd.view(np.uint8)
    for band in range(side // 4):
        even[:], odd[:] = 0, 0
        for row in range(4 * band, 4 * band + 4):
            for w in range(per_row):
                v = words[row * per_row + w]
                v = v - ((v >> np.uint64(1)) & fives)
                v = (v & threes) + ((v >> two) & threes)
                even[w] += v & low
                odd[w] += (v >> four) & low
        line = counts[band]
        for x in range(side // 8):
            line[2 * x], line[2 * x + 1] = even_bytes[x], odd_bytes[x]


@njit(cache=True, error_model="numpy")
def render(packed, rows, numbers, seed, side, factor, size, images):
    """Fill `images`, uint8 (B, size, size), with the images of these numbers, their orbits in `rows` of `packed`."""
    filled = np.empty(packed.shape[1], np.uint64)
    counts, fours = np.empty((size, size), np.uint8), np.empty((side // 4, side // 4), np.uint8)
    shift = np.uint16(round(math.log2(factor * factor)))
    half = np.uint16(factor * factor // 2)
    for b in range(len(numbers)):
        flip = numbers[b] % FLIPS
        fill(packed[rows[b]], seed, numbers[b], filled)
        if factor == 1:
            unpack(filled, size, counts)
        elif factor == 2:
            sum_pairs(filled, side, counts)
        elif factor == 4:
            sum_fours(filled, side, counts)
        else:
            sum_fours(filled, side, fours)
            for y in range(size):
                for x in range(size):
                    counts[y, x] = (
                        fours[2 * y, 2 * x]
                        + fours[2 * y, 2 * x + 1]
                        + fours[2 * y + 1, 2 * x]
                        + fours[2 * y + 1, 2 * x + 1]
                    )
        for y in range(size):
            line, out = counts[size - 1 - y if flip & 1 else y], images[b, y]
            if flip & 2:
                for x in range(size):
                    out[x] = (np.uint16(line[size - 1 - x]) * np.uint16(VALUE) + half) >> shift
            else:
                for x in range(size):
                    out[x] = (np.uint16(line[x]) * np.uint16(VALUE) + half) >> shift


# The hue runs through 128 steps along the orbit, in the published order of the channels.
PALETTE = np.array([[int(255 * v) for v in hsv_to_rgb(i / 128, 0.75, 0.75)[::-1]] for i in range(128)], np.uint8)


def draw(
    category: int,
    weight: int,
    variant: str = "patch_color",
    number: int = 0,
    size: int = 362,
    points: int = 200_000,
    seed: int = 0,
    maps: np.ndarray | None = None,
) -> np.ndarray:
    """One image of any of the published `VARIANTS`, unmirrored: uint8 (size, size, 3).

    Every point of the orbit paints itself or a random 3 x 3 patch over what was there before, in grey or in the hue
    of its step. `number` is hashed with `seed` for the patches' bits. Slow, since the orbit is run: a bank of hues
    would be eight times that of the coverages. Raises ValueError for an unknown variant, category or weight.
    """
    check_variant(variant)
    xs, ys = orbit_points(category, weight, points, maps)
    check_size(size)
    latest = np.full(size * size, -1, np.int32)  # the last point that painted a pixel
    latest[pixels(xs, ys, size)] = np.arange(len(xs), dtype=np.int32)
    if variant.startswith("patch"):
        shifts = [right - up * size for right in (1, 2, 3) for up in (1, 2, 3)]
        latest = np.max([np.roll(latest, shift) for shift in shifts], axis=0)
        bits = np.empty(-(-size * size // 64), np.uint64)
        fill(pack((latest >= 0)[None].view(np.uint8))[0], seed, number, bits)
        kept = np.unpackbits(bits.view(np.uint8), count=size * size, bitorder="little")
        latest[kept == 0] = -1
    colour = PALETTE[latest % len(PALETTE)] if variant.endswith("color") else np.full(3, VALUE, np.uint8)
    return np.where((latest >= 0)[:, None], colour, np.uint8(0)).reshape(size, size, 3)


def check_variant(variant: str) -> None:
    """Raise ValueError for a variant that was never published."""
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}: allowed are {', '.join(VARIANTS)}")


class FractalDB:
    """FractalDB-1k as a sequence: `batch(numbers)` draws images, in any order and on any number of workers the same.

    Image i is orbit (category, weight), patch filling and mirroring: i = ((category * 25 + weight) * 10 + filling) * 4
    + flip; the point variants have nothing to fill, so i = (category * 25 + weight) * 4 + flip.

    - `size` in px: 32, 64 or 128 is averaged down from 256 px; any other from 16 px is drawn directly.
    - `variant`: one of `VARIANTS`; all but "patch_gray" are drawn orbit by orbit, some hundred times slower.
    - `clean`: leave out the orbits that leave the plane, `left_out` says how many; the numbers then count the others.
    - `maps`: other categories than the published, see `read_csv_folder`.
    """

    def __init__(
        self,
        size: int = 362,
        categories: int = CATEGORIES,
        seed: int = 0,
        cache: str | Path = "data/cache",
        maps: tuple[np.ndarray, ...] | None = None,
        variant: str = "patch_gray",
        clean: bool = False,
    ):
        if maps is None and not 1 <= categories <= CATEGORIES:
            raise ValueError(f"categories is {categories}: it must be 1..{CATEGORIES}")
        check_size(size)
        check_variant(variant)
        self.size, self.seed, self.cache, self.variant = size, seed, cache, variant
        self.side = BANK_SIZE if size in (32, 64, 128) else size
        self.maps = first_categories(categories) if maps is None else maps
        self.packed = bank(self.side, cache=cache, maps=self.maps) if variant == "patch_gray" else None
        self.orbits = np.flatnonzero(~divergent(self.maps)) if clean else np.arange(len(self.maps) * LANES)
        self.left_out = len(self.maps) * LANES - len(self.orbits)
        self.per_orbit = COUNTS * FLIPS if variant.startswith("patch") else FLIPS
        self.classes = tuple(f"{i:05d}" for i in range(len(self.maps)))

    def __len__(self) -> int:
        return len(self.orbits) * self.per_orbit

    def orbits_of(self, numbers: np.ndarray) -> np.ndarray:
        """The orbit of every image, category * 25 + weight. Raises IndexError for a number out of range."""
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        return self.orbits[numbers // self.per_orbit]

    def gray(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images of the variant "patch_gray", uint8 (B, size, size), 0..127, and labels int64 (B,)."""
        numbers = np.asarray(numbers, np.int64)
        orbits = self.orbits_of(numbers)
        images = np.empty((len(numbers), self.size, self.size), np.uint8)
        render(self.packed, orbits, numbers, self.seed, self.side, self.side // self.size, self.size, images)
        return images, orbits // LANES

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images of any variant, uint8 (B, 3, size, size), and labels int64 (B,)."""
        if self.variant == "patch_gray":
            images, labels = self.gray(numbers)
            return np.repeat(images[:, None], 3, axis=1), labels
        numbers = np.asarray(numbers, np.int64)
        orbits = self.orbits_of(numbers)
        images = [self.image(int(orbit), int(number)) for orbit, number in zip(orbits, numbers, strict=True)]
        return np.stack(images), orbits // LANES

    def image(self, orbit: int, number: int) -> np.ndarray:
        """One image, drawn from its orbit: uint8 (3, size, size)."""
        category, weight = divmod(orbit, LANES)
        image = draw(category, weight, self.variant, number, self.side, 200_000, self.seed, self.maps[category])
        image = image[::-1] if number & 1 else image
        image = image[:, ::-1] if number & 2 else image
        factor = self.side // self.size
        blocks = image.reshape(self.size, factor, self.size, factor, 3).sum((1, 3), dtype=np.uint16)
        return np.moveaxis((blocks + factor**2 // 2) // factor**2, 2, 0).astype(np.uint8)


def contact_sheet(
    rows: int = 8,
    columns: int = 16,
    size: int = 64,
    cache: str | Path = "data/cache",
    variant: str = "patch_gray",
    maps: tuple[np.ndarray, ...] | None = None,
) -> np.ndarray:
    """One image of each of rows x columns categories, or of as many as there are: uint8 (height, width, 3)."""
    fractals = FractalDB(size, cache=cache, variant=variant, maps=maps)
    per_category = LANES * fractals.per_orbit
    chosen = np.linspace(0, len(fractals.maps), rows * columns, endpoint=False).astype(np.int64)
    images, _ = fractals.batch(chosen * per_category + 2 * fractals.per_orbit)  # weight 2: the category itself
    grid = np.moveaxis(images, 1, 3).reshape(rows, columns, size, size, 3)
    return grid.swapaxes(1, 2).reshape(rows * size, columns * size, 3)


def export(
    folder: str | Path,
    size: int = 362,
    categories: int = CATEGORIES,
    instances: int | None = None,
    seed: int = 0,
    cache: str | Path = "data/cache",
    variant: str = "patch_gray",
    maps: tuple[np.ndarray, ...] | None = None,
) -> int:
    """Write PNG files in the published layout, <category>/<category>_<weight>_count_<n>_flip<k>.png; returns how many.

    - `instances`: how many per category; None for all, 1,000 of the patch variants and 100 of the point variants.

    What is there already is left alone.
    """
    fractals = FractalDB(size, categories, seed, cache, maps, variant)
    fillings, per_category = fractals.per_orbit // FLIPS, LANES * fractals.per_orbit
    instances = per_category if instances is None else instances
    if not 1 <= instances <= per_category:
        raise ValueError(f"instances is {instances}: it must be 1..{per_category}")
    for category, name in enumerate(tqdm(fractals.classes, "export", mininterval=1)):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for instance in range(instances):
            orbit, flip = divmod(instance, FLIPS)
            weight, filling = divmod(orbit, fillings)
            path = Path(folder) / name / f"{name}_{weight:02d}_count_{filling}_flip{flip}.png"
            if not path.exists():
                image = fractals.batch([category * per_category + instance])[0][0]
                with whole(path) as file:
                    Image.fromarray(np.moveaxis(image, 0, 2)).save(file, "PNG")
    return len(fractals.classes) * instances


def verify() -> bool:
    """Print the hashes of the full search and of some coverages beside the published ones, and the times they took."""
    good = True

    def line(what: str, found: str, wanted: str) -> None:
        nonlocal good
        good &= found == wanted
        print(f"{'ok ' if found == wanted else 'BAD'} {what}: {found}")

    start = time.perf_counter()
    found = search_categories()
    seconds = time.perf_counter() - start
    line("1,000 categories (a .. f)", maps_hash(found), MAPS_HASH)
    line("1,000 categories (a .. f, p)", maps_hash(found, 7), MAPS_P_HASH)
    line("packaged categories", maps_hash(categories(), 7), MAPS_P_HASH)
    print(f"    full search of {CANDIDATES:,} candidates: {seconds:.1f} s")
    for (category, weight), wanted in COVERAGE_HASHES.items():
        digest = hashlib.sha256(coverage(category, weight).astype(np.uint8).tobytes()).hexdigest()
        line(f"coverage ({category}, {weight})", digest, wanted)
    for size, points in ((362, 200_000), (BANK_SIZE, 200_000), (64, 20_000)):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            megabytes = bank(size, points, cache=folder).nbytes / 1e6
            seconds = time.perf_counter() - start
        print(f"    bank of 25,000 orbits at {size} px, {points:,} points: {megabytes:.0f} MB, {seconds:.1f} s")
    return good
