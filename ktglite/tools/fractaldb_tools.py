"""FractalDB-1k beyond training: search its categories anew, verify the published hashes, look at it, export it."""

import hashlib
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tqdm import tqdm

from ktglite.sources import fractaldb
from ktglite.sources.fractaldb import FLIPS, FractalDB, Maps
from ktglite.store import atomic_write

__all__ = ["export", "verify"]

SEARCH_SIZE, SEARCH_POINTS, SEARCH_RATE = (
    512,
    100_000,
    0.2,
)  # px, points of an orbit, share of the pixels it must mark
# SHA-256 of all maps, and of some coverages at 362 px and 200,000 points; (81, 16) leaves the
# plane.
MAPS_HASH = "ab361cd7b94c384ae22540c07d1332444db6adb4cd85203a64d2728fb7dbe07f"
MAPS_P_HASH = "2d65f2678a859836c9a3d7f2c49fa3ece55f642dfb6d704e46451c8d0b70bf9a"
COVERAGE_HASHES = {
    (0, 0): "24e8293e045ace6976af20ae8373481b2465bbbffaacfaa3ae819628b791698d",
    (0, 7): "075d0cb6723611863c7ebc4dad4da6dfd3b2114b168c1bcc32ac214ba0e9f852",
    (42, 13): "b41adedc7f101039de70cdc7c555454a61255e847c3ddbdad0cd45726efe69d1",
    (999, 24): "b31c27f19b143a092f803c85b0dd60ac0036d794cc24ff79c437b83cdab941ae",
    (81, 16): "63141e2493904743f77b28cdfc2f0a95d344c26e1b0b342df224b509efd38010",
}


def search_categories(progress: bool = True) -> Maps:
    """The 1,000 categories, found as the published ones were: draw maps at random, keep those that
    fill enough pixels.

    42,655 candidates are drawn, which takes a minute or two on one core.
    """
    draw, found = np.random.RandomState(1), []
    with tqdm(
        total=fractaldb.CATEGORIES, desc="categories found", disable=not progress, mininterval=1
    ) as bar:
        while len(found) < fractaldb.CATEGORIES:
            maps = np.empty((draw.randint(2, 8), 7))
            for row in maps:
                row[:6] = draw.uniform(-1, 1, 6)
                row[6] = abs(row[0] * row[3] - row[1] * row[2])
            maps[:, 6] /= maps[:, 6].sum()
            points = fractaldb.orbit(maps, draw.random_sample(SEARCH_POINTS))
            marked = np.zeros(SEARCH_SIZE**2, bool)
            marked[fractaldb.pixels(*points, SEARCH_SIZE)] = True
            if np.count_nonzero(marked) >= SEARCH_RATE * SEARCH_SIZE**2:
                found.append(maps)
                bar.update()
    return tuple(found)


def maps_hash(found: Maps, columns: int = 6) -> str:
    """SHA-256 over the first `columns` of all maps in order, little-endian float64."""
    return hashlib.sha256(np.concatenate(found)[:, :columns].astype("<f8").tobytes()).hexdigest()


def _agrees(what: str, found: str, wanted: str) -> bool:
    print(f"{'ok ' if found == wanted else 'BAD'} {what}: {found}", flush=True)
    return found == wanted


def verify() -> bool:
    """Whether coverages, the categories, and those of a full search have the published hashes.

    Prints every hash as it comes, and how long the search and the banks of coverages took.
    """
    print(
        "five coverages, the categories, a search among 42,655 candidates, three banks of coverages:",
        flush=True,
    )
    good = []
    for own, wanted in COVERAGE_HASHES.items():
        digest = hashlib.sha256(fractaldb.coverage(*own).tobytes()).hexdigest()
        good.append(_agrees(f"coverage {own}", digest, wanted))
    good.append(
        _agrees(
            "packaged categories (a .. f, p)", maps_hash(fractaldb.categories(), 7), MAPS_P_HASH
        )
    )
    start = time.perf_counter()
    found = search_categories()
    print(f"    full search: {time.perf_counter() - start:.1f} s", flush=True)
    good.append(_agrees("categories of the search (a .. f)", maps_hash(found), MAPS_HASH))
    good.append(_agrees("categories of the search (a .. f, p)", maps_hash(found, 7), MAPS_P_HASH))
    for size, points in ((362, 200_000), (256, 200_000), (64, 20_000)):
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            megabytes = fractaldb.bank(size, points, cache=folder).nbytes / 1e6
        seconds = time.perf_counter() - start
        print(
            f"    bank of 25,000 orbits at {size} px, {points:,} points: {megabytes:.0f} MB, {seconds:.1f} s"
        )
    return all(good)


def read_csv_folder(folder: str | Path) -> Maps:
    """Categories from the published layout: one CSV per category, a row a, b, c, d, e, f, p per
    map.

    Raises ValueError naming the file that is not of this form.
    """
    found = []
    for path in sorted(Path(folder).glob("*.csv")):
        try:
            with warnings.catch_warnings(action="ignore"):  # of no rows, which are an error below
                maps = np.loadtxt(path, delimiter=",", ndmin=2)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} is not a table of numbers ({error}); get it again, or remove it"
            ) from error
        if maps.shape[1] != 7 or not np.isfinite(maps).all():
            raise ValueError(
                f"{path} must have rows a,b,c,d,e,f,p of finite numbers; get it again, or remove it"
            )
        if len(maps) > 255 or (maps[:, 6] < 0).any() or abs(maps[:, 6].sum() - 1) > 0.01:
            raise ValueError(
                f"{path} must have at most 255 maps, their probabilities p summing to 1; is it cut short?"
            )
        found.append(maps)
    if not found:
        raise ValueError(f"{folder} has no .csv files: give the folder of category files")
    return tuple(found)


def contact_sheet(
    rows: int = 8, columns: int = 16, size: int = 64, cache: str | Path = "data/cache", variant: str = "patch_gray",
    maps: Maps | None = None,
) -> np.ndarray:  # fmt: skip
    """One image of each of rows x columns categories, or of as many as there are: uint8 (height, width, 3)."""
    fractals = FractalDB(size, cache=cache, variant=variant, maps=maps)
    chosen = np.linspace(0, len(fractals.classes), rows * columns, endpoint=False).astype(np.int64)
    images, _ = fractals.batch(
        (chosen * fractaldb.LANES + 2) * fractals.per_orbit
    )  # weight 2: the category itself
    return (
        images.reshape(rows, columns, 3, size, size)
        .transpose(0, 3, 1, 4, 2)
        .reshape(rows * size, columns * size, 3)
    )


def export(
    folder: str | Path, size: int = 362, count: int = fractaldb.CATEGORIES, instances: int | None = None,
    cache: str | Path = "data/cache", variant: str = "patch_gray", maps: Maps | None = None,
) -> int:  # fmt: skip
    """Write PNG files in the published layout,
    <category>/<category>_<weight>_count_<n>_flip<k>.png; returns how many.

    - `count`, `maps`, `variant`: see `FractalDB`.
    - `instances`: images per category; None for all, 1,000 of the patch variants and 100 of the
      point variants.

    What is there already is left alone. Raises ValueError for more instances than there are.
    """
    fractals = FractalDB(size, count, 0, cache, maps, variant)
    per_category = len(fractals) // len(fractals.classes)
    instances = per_category if instances is None else instances
    if not 1 <= instances <= per_category:
        raise ValueError(f"instances is {instances}: it must be 1..{per_category}")
    for category, name in enumerate(tqdm(fractals.classes, "export", mininterval=1)):
        for instance in range(instances):
            weight, filling = divmod(instance // FLIPS, fractals.per_orbit // FLIPS)
            path = (
                Path(folder)
                / name
                / f"{name}_{weight:02d}_count_{filling}_flip{instance % FLIPS}.png"
            )
            if not path.exists():
                image = fractals.batch([category * per_category + instance])[0][0]
                with atomic_write(path) as file:
                    Image.fromarray(np.moveaxis(image, 0, 2)).save(file, "PNG")
    return len(fractals.classes) * instances
