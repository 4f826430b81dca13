"""FractalDB-1k by formula: the categories, the coverage of every orbit, and one million images drawn from a number.

Kataoka et al., "Pre-training without Natural Images" (ACCV 2020). A category is an iterated function system (IFS), a
set of affine maps; an image is where its orbit goes, filled with random patches. Categories and coverages are those
of the published set, bit for bit; the patches' random bits are our own, hashed from (seed, image number), so that any
worker draws the same image in any order.
"""

import hashlib
import math
import os
import time
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock
from numba import njit
from PIL import Image
from tqdm import tqdm

CATEGORIES, CANDIDATES = 1000, 42_655  # accepted, of so many that are drawn
SEARCH_SIZE, SEARCH_POINTS, SEARCH_RATE = 512, 100_000, 0.2
PAD = 6  # px kept free on each side
ORBIT_SEED = 100  # of the choices of maps, the same for every orbit
COUNTS, FLIPS = 10, 4  # patch fillings and mirrorings per orbit
VALUE = 127  # grey of a patch
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


def search_categories(progress: bool = True) -> tuple[np.ndarray, ...]:
    """Find the categories as the published set was found: draw maps at random, keep what fills the plane enough."""
    rng, found = np.random.RandomState(1), []
    with tqdm(total=CATEGORIES, desc="FractalDB-1k categories", disable=not progress, mininterval=1) as bar:
        while len(found) < CATEGORIES:
            maps = np.empty((rng.randint(2, 8), 7))
            for row in maps:
                row[:6] = rng.uniform(-1, 1, 6)
                row[6] = abs(row[0] * row[3] - row[1] * row[2])
            maps[:, 6] /= maps[:, 6].sum()
            choices = choose(maps[:, 6], rng.random_sample(SEARCH_POINTS))
            if covered_pixels(maps[:, :6], choices, SEARCH_SIZE, PAD) / SEARCH_SIZE**2 >= SEARCH_RATE:
                found.append(maps)
                bar.update()
    return tuple(found)


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
            maps = np.loadtxt(path, delimiter=",", ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path} is not a table of numbers ({error})") from error
        if maps.shape[1] != 7 or not np.isfinite(maps).all():
            raise ValueError(f"{path} must have rows a,b,c,d,e,f,p of finite numbers")
        found.append(maps)
    return tuple(found)


# ---- orbits


@njit(cache=True, error_model="numpy")
def choose(p, random):
    """The map of every step: the first whose cumulative probability reaches the random number. uint8 (points,)."""
    choices = np.empty(len(random), np.uint8)
    for i in range(len(random)):
        total, chosen = 0.0, len(p) - 1
        for j in range(len(p)):
            total += p[j]
            if random[i] <= total:
                chosen = j
                break
        choices[i] = chosen
    return choices


@njit(cache=True, error_model="numpy")
def orbit(maps, choices, xs, ys):
    """Fill `xs`, `ys` with the orbit of (0, 0) and return how many points count.

    An orbit that leaves the plane ends in NaN; the published code then drops the NaN and the 100 points before.
    """
    x, y = 0.0, 0.0
    count = len(xs)
    for i in range(count):
        xs[i], ys[i] = x, y
        j = choices[i]
        x, y = maps[j, 0] * x + maps[j, 1] * y + maps[j, 4], maps[j, 2] * x + maps[j, 3] * y + maps[j, 5]
    if x == x and y == y:
        return count
    for values in (xs, ys):
        for i in range(count):
            if values[i] != values[i]:
                count = max(i - 100, 1)
                break
    return count


@njit(cache=True, error_model="numpy")
def pixel(value, low, high, size, pad):
    """A coordinate in pixels, in the published order of operations; what is not finite becomes 0, as on x86."""
    scaled = (value - low) / (high - low) * (size - 2 * pad) + pad
    return np.int64(scaled) & 0xFFFF if scaled == scaled and abs(scaled) < 2**31 else 0


@njit(cache=True, error_model="numpy")
def covered_pixels(maps, choices, size, pad):
    """How many pixels of a square the orbit marks."""
    xs, ys = np.empty(len(choices)), np.empty(len(choices))
    count = orbit(maps, choices, xs, ys)
    marked = np.zeros((size, size), np.bool_)
    mark(xs, ys, count, size, pad, marked)
    return marked.sum()


@njit(cache=True, error_model="numpy")
def mark(xs, ys, count, size, pad, marked):
    """Set the pixels of the first `count` points in `marked`, indexed [x, y]."""
    left, right, low, high = xs[0], xs[0], ys[0], ys[0]
    for i in range(count):
        left, right = min(left, xs[i]), max(right, xs[i])
        low, high = min(low, ys[i]), max(high, ys[i])
    for i in range(count):
        marked[pixel(xs[i], left, right, size, pad), pixel(ys[i], low, high, size, pad)] = True


LANES = 32  # the 25 variations of a category, padded to a whole number of vector registers


@njit(cache=True, error_model="numpy")
def bounds(table, choices, box, last):
    """Bounding boxes of every variation, `box` (4, LANES): left, right, low, high; and where the orbits end.

    `table` (maps, 6, LANES). The variations of a category make the same choices and advance side by side, so that one
    instruction moves several of them. LLVM does not fuse the multiplications here: the bits are the published ones.
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


@njit(cache=True, error_model="numpy")
def mark_lanes(table, choices, box, lanes, size, pad, marked):
    """Set the pixels of the variations `lanes` in `marked` (variations, size * size), indexed x * size + y."""
    x, y, left, low = np.zeros(LANES), np.zeros(LANES), box[0].copy(), box[2].copy()
    width, height, inner = box[1] - left, box[3] - low, float(size - 2 * pad)
    at = np.zeros(LANES, np.int32)
    for i in range(len(choices)):
        m = table[np.uint64(choices[i])]
        for v in range(LANES):
            xv, yv = x[v], y[v]
            px = np.int32((xv - left[v]) / width[v] * inner + pad)
            at[v] = px * np.int32(size) + np.int32((yv - low[v]) / height[v] * inner + pad)
            x[v] = m[0, v] * xv + m[1, v] * yv + m[4, v]
            y[v] = m[2, v] * xv + m[3, v] * yv + m[5, v]
        for k in range(len(lanes)):
            marked[np.uint64(lanes[k]), np.uint64(at[lanes[k]])] = 1


def dilate(marked: np.ndarray) -> np.ndarray:
    """Pixels [.., x, y] to what 3 x 3 patches at +1..+3 cover, as the published PNG shows it: [.., row, column]."""
    wide = np.zeros_like(marked)
    wide[..., 1:, :] = marked[..., :-1, :]
    wide[..., 2:, :] |= marked[..., :-2, :]
    wide[..., 3:, :] |= marked[..., :-3, :]
    both = np.zeros_like(marked)
    both[..., 1:] = wide[..., :-1]
    both[..., 2:] |= wide[..., :-2]
    both[..., 3:] |= wide[..., :-3]
    return np.swapaxes(both, -1, -2)[..., ::-1, :]


def orbit_choices(maps: np.ndarray, points: int) -> np.ndarray:
    """The maps that every orbit of a category takes, step by step."""
    random = np.random.RandomState(ORBIT_SEED).random_sample(points)
    return choose(maps[:, 6], random)


def coverage(
    category: int, weight: int, size: int = 362, points: int = 200_000, maps: np.ndarray | None = None
) -> np.ndarray:
    """Which pixels of an image its patches can reach: bool (size, size), bit for bit that of the published set.

    - `category`: 0..999, or any with `maps` of one's own.  `weight`: 0..24, see `WEIGHTS`.  `size` in px, 16 or more.

    An orbit that leaves the plane is cut as in the published code and comes out nearly blank; see `is_divergent`.
    """
    if maps is None:
        if not 0 <= category < CATEGORIES:
            raise ValueError(f"category is {category}: it must be 0..{CATEGORIES - 1}")
        maps = categories()[category]
    if not 0 <= weight < len(WEIGHTS):
        raise ValueError(f"weight is {weight}: it must be 0..{len(WEIGHTS) - 1}")
    check_size(size)
    xs, ys = np.empty(points), np.empty(points)
    count = orbit(maps[:, :6] * WEIGHTS[weight], orbit_choices(maps, points), xs, ys)
    marked = np.zeros((size, size), bool)
    mark(xs, ys, count, size, PAD, marked)
    return dilate(marked)


def is_divergent(category: int, weight: int, points: int = 200_000) -> bool:
    """Whether an orbit leaves the plane: 1,141 of the 25,000 do, since the search has no test of contraction."""
    maps = categories()[category]
    xs, ys = np.empty(points), np.empty(points)
    return orbit(maps[:, :6] * WEIGHTS[weight], orbit_choices(maps, points), xs, ys) < points


def check_size(size: int) -> None:
    """Raise ValueError for an image too small for its padding."""
    if not 16 <= size <= 4096:
        raise ValueError(f"size is {size}: fractal images are 16 to 4096 px wide")


def coverages(maps: np.ndarray, size: int, points: int) -> np.ndarray:
    """`coverage` for all 25 weights of one category: bool (25, size, size)."""
    n, choices = len(WEIGHTS), orbit_choices(maps, points)
    table, box, last = np.zeros((len(maps), 6, LANES)), np.zeros((4, LANES)), np.zeros((2, LANES))
    table[:, :, :n] = maps[:, :6, None] * WEIGHTS.T
    bounds(table, choices, box, last)
    plain = (np.abs(last) < 1e300).all(0) & (box[0] < box[1]) & (box[2] < box[3])
    box[:, ~plain] = np.array([0, 1, 0, 1])[:, None]
    table[:, :, ~plain] = 0
    marked = np.zeros((n, size * size), np.uint8)
    mark_lanes(table, choices, box, np.flatnonzero(plain[:n]).astype(np.uint64), size, PAD, marked)
    marked = marked.reshape(n, size, size).view(bool)
    for weight in np.flatnonzero(~plain[:n]):  # those that leave the plane, or stay on a line
        xs, ys = np.empty(points), np.empty(points)
        count = orbit(maps[:, :6] * WEIGHTS[weight], choices, xs, ys)
        mark(xs, ys, count, size, PAD, marked[weight])
    return dilate(marked)


# ---- the bank: every coverage once, packed


def bank(
    size: int = BANK_SIZE,
    points: int = 200_000,
    count: int = CATEGORIES,
    cache: str | Path = "data/cache",
    maps: tuple[np.ndarray, ...] | None = None,
    progress: bool = True,
) -> np.ndarray:
    """All coverages of the first `count` categories as bits: uint64 (count * 25, words), memory-mapped from `cache`.

    Pixel k of the flattened image is bit k % 64 of word k // 64. Built once; the file gets its name when it is whole.
    """
    check_size(size)
    maps = categories()[:count] if maps is None else maps
    words = -(-size * size // 64)
    key = hashlib.sha256(np.concatenate(maps).tobytes()).hexdigest()[:12]
    path = Path(cache) / f"fractaldb-{size}px-{points}points-{len(maps)}-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                shape = (len(maps) * len(WEIGHTS), words)
                out = np.lib.format.open_memmap(partial, "w+", np.uint64, shape)
                for i, table in enumerate(tqdm(maps, f"FractalDB {size} px", disable=not progress, mininterval=2)):
                    bits = np.packbits(coverages(table, size, points).reshape(len(WEIGHTS), -1), 1, "little")
                    rows = out[i * len(WEIGHTS) : (i + 1) * len(WEIGHTS)].view(np.uint8)
                    rows[:, : bits.shape[1]] = bits
                out.flush()
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


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
def count_blocks(words, side, factor, counts):
    """Ones in every factor x factor block of a square of `side` px: counts uint8 (side/factor, side/factor)."""
    per_row = side // 64
    counts[:] = 0
    if factor < 4:
        for y in range(side):
            line = counts[y >> (factor - 1)]  # factor is 1 or 2
            for x in range(side):
                k = y * side + x
                line[x >> (factor - 1)] += (words[k >> 6] >> np.uint64(k & 63)) & np.uint64(1)
        return
    fives, threes, low = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
    shrink = np.uint64(1 if factor == 8 else 0)
    for band in range(side // 4):  # four rows at a time: 16 blocks of 4 x 4 in every word
        line = counts[np.uint64(band) >> shrink]
        for w in range(per_row):
            even, odd = np.uint64(0), np.uint64(0)
            for row in range(4):
                v = words[(band * 4 + row) * per_row + w]
                v = v - ((v >> np.uint64(1)) & fives)
                v = (v & threes) + ((v >> np.uint64(2)) & threes)
                even += v & low
                odd += (v >> np.uint64(4)) & low
            for byte in range(8):
                column, shift = np.uint64(w * 16 + 2 * byte), np.uint64(8 * byte)
                line[column >> shrink] += np.uint8(even >> shift)
                line[(column + np.uint64(1)) >> shrink] += np.uint8(odd >> shift)


@njit(cache=True, error_model="numpy")
def render(packed, numbers, seed, side, factor, size, images):
    """Fill `images`, uint8 (B, size, size), with the images of these numbers."""
    filled = np.empty(packed.shape[1], np.uint64)
    counts = np.empty((size, size), np.uint8)
    levels = factor * factor
    grey = np.empty(levels + 1, np.uint8)
    for ones in range(levels + 1):
        grey[ones] = (ones * VALUE + levels // 2) // levels
    for b in range(len(numbers)):
        number = numbers[b]
        flip, row = number % FLIPS, number // (FLIPS * COUNTS)
        fill(packed[row], seed, number, filled)
        if side % 64:
            for k in range(size * size):
                counts[k // size, k % size] = (filled[k >> 6] >> np.uint64(k & 63)) & np.uint64(1)
        else:
            count_blocks(filled, side, factor, counts)
        for y in range(size):
            line = counts[size - 1 - y if flip & 1 else y]
            if flip & 2:
                for x in range(size):
                    images[b, y, x] = grey[line[size - 1 - x]]
            else:
                for x in range(size):
                    images[b, y, x] = grey[line[x]]


class FractalDB:
    """FractalDB-1k as a sequence: `batch(numbers)` draws images, in any order and on any number of workers the same.

    Image i is orbit (category, weight), patch filling and mirroring: i = ((category * 25 + weight) * 10 + filling) * 4
    + flip. `size` 32, 64 or 128 is averaged down from 256 px; any other from 16 px is drawn directly.
    """

    def __init__(
        self,
        size: int = 362,
        categories: int = CATEGORIES,
        seed: int = 0,
        cache: str | Path = "data/cache",
        maps: tuple[np.ndarray, ...] | None = None,
    ):
        if maps is None and not 1 <= categories <= CATEGORIES:
            raise ValueError(f"categories is {categories}: it must be 1..{CATEGORIES}")
        self.size, self.seed, self.cache = size, seed, cache
        self.side = BANK_SIZE if size in (32, 64, 128) else size
        self.packed = bank(self.side, count=categories, cache=cache, maps=maps)
        self.classes = tuple(f"{i:05d}" for i in range(len(self.packed) // len(WEIGHTS)))

    def __len__(self) -> int:
        return len(self.packed) * COUNTS * FLIPS

    def gray(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, size, size), 0..127, and labels int64 (B,). Raises IndexError for a number out of range."""
        numbers = np.asarray(numbers, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"image numbers go from 0 to {len(self) - 1}")
        images = np.empty((len(numbers), self.size, self.size), np.uint8)
        render(self.packed, numbers, self.seed, self.side, self.side // self.size, self.size, images)
        return images, numbers // (len(WEIGHTS) * COUNTS * FLIPS)

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `gray`, in three equal channels: uint8 (B, 3, size, size)."""
        images, labels = self.gray(numbers)
        return np.repeat(images[:, None], 3, axis=1), labels


def contact_sheet(rows: int = 8, columns: int = 16, size: int = 64, cache: str | Path = "data/cache") -> np.ndarray:
    """One image of each of rows x columns categories: uint8 (rows * size, columns * size)."""
    fractals = FractalDB(size, cache=cache)
    images, _ = fractals.gray(np.arange(rows * columns) * (len(fractals) // (rows * columns)) + 2 * COUNTS * FLIPS)
    return images.reshape(rows, columns, size, size).swapaxes(1, 2).reshape(rows * size, columns * size)


def export(
    folder: str | Path,
    size: int = 362,
    categories: int = CATEGORIES,
    instances: int = len(WEIGHTS) * COUNTS * FLIPS,
    seed: int = 0,
    cache: str | Path = "data/cache",
) -> int:
    """Write PNG files in the published layout, <category>/<category>_<weight>_count_<n>_flip<k>.png; returns how many.

    What is there already is left alone.
    """
    per_category = len(WEIGHTS) * COUNTS * FLIPS
    if not 1 <= instances <= per_category:
        raise ValueError(f"instances is {instances}: it must be 1..{per_category}")
    fractals = FractalDB(size, categories, seed, cache)
    for category, name in enumerate(tqdm(fractals.classes, "export", mininterval=1)):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        numbers = category * per_category + np.arange(instances)
        for number, image in zip(numbers % per_category, fractals.gray(numbers)[0], strict=True):
            weight, rest = divmod(int(number), COUNTS * FLIPS)
            path = Path(folder) / name / f"{name}_{weight:02d}_count_{rest // FLIPS}_flip{rest % FLIPS}.png"
            if not path.exists():
                partial = path.with_suffix(".partial")
                Image.fromarray(image).save(partial, "PNG")
                os.replace(partial, path)
    return len(fractals.classes) * instances


def verify(cache: str | Path = "data/cache") -> bool:
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
    start = time.perf_counter()
    size = bank(cache=cache).nbytes
    print(f"    bank at {BANK_SIZE} px: {size / 1e6:.0f} MB, {time.perf_counter() - start:.1f} s (0 if it was there)")
    return good
