"""FractalDB-1k against its published hashes, and against a plain renderer written here."""

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ktglite.sources import fractaldb as formula
from ktglite.sources.fractaldb import FILLINGS, FLIPS, WEIGHTS, FractalDB

# SHA-256 of all maps (a .. f), and of some coverages at 362 px; (81, 16) leaves the plane.
MAPS_HASH = "ab361cd7b94c384ae22540c07d1332444db6adb4cd85203a64d2728fb7dbe07f"
# SHA-256 of a, b, c, d, e, f, p of all maps in order, as the published search finds them.
TABLE_HASH = "2d65f2678a859836c9a3d7f2c49fa3ece55f642dfb6d704e46451c8d0b70bf9a"
COVERAGE_HASHES = {
    (0, 0): "24e8293e045ace6976af20ae8373481b2465bbbffaacfaa3ae819628b791698d",
    (0, 7): "075d0cb6723611863c7ebc4dad4da6dfd3b2114b168c1bcc32ac214ba0e9f852",
    (42, 13): "b41adedc7f101039de70cdc7c555454a61255e847c3ddbdad0cd45726efe69d1",
    (999, 24): "b31c27f19b143a092f803c85b0dd60ac0036d794cc24ff79c437b83cdab941ae",
    (81, 16): "63141e2493904743f77b28cdfc2f0a95d344c26e1b0b342df224b509efd38010",
}
DIVERGENT = [(60, 4), (60, 16), (61, 16), (68, 8)]  # within 20,000 points


def plain_coverage(category, weight, size, points):
    """The published procedure in plain NumPy and Python, slow and without a kernel."""
    maps = formula.categories()[category]
    random = np.random.RandomState(100).random_sample(points)
    choices = np.searchsorted(np.cumsum(maps[:, 6]), random, side="left").clip(max=len(maps) - 1)
    table = maps[:, :6] * WEIGHTS[weight]
    xy = np.zeros((points, 2))
    x = y = 0.0
    with np.errstate(all="ignore"):
        for i, j in enumerate(choices[:-1]):
            a, b, c, d, e, f = table[j]
            x, y = a * x + b * y + e, c * x + d * y + f
            xy[i + 1] = x, y
    for column in (0, 1):
        bad = np.flatnonzero(np.isnan(xy[:, column]))
        if len(bad):
            xy = np.delete(xy, np.append(np.arange(bad[0] - 100, bad[0]), bad), axis=0)
    low, high = xy.min(0), xy.max(0)
    pixels = ((xy - low) / (high - low) * (size - 12) + 6).astype(np.uint16)
    image = np.zeros((size, size), bool)
    for px, py in np.unique(pixels, axis=0):
        image[px + 1 : px + 4, py + 1 : py + 4] = True
    return image.T[::-1]


def search_categories():
    """The 1,000 categories, found as the published ones were, among 42,655 candidates."""
    draw, found = np.random.RandomState(1), []
    while len(found) < formula.CATEGORIES:
        maps = np.empty((draw.randint(2, 8), 7))
        for row in maps:
            row[:6] = draw.uniform(-1, 1, 6)
            row[6] = abs(row[0] * row[3] - row[1] * row[2])
        maps[:, 6] /= maps[:, 6].sum()
        marked = np.zeros((512, 512), bool)
        chosen = formula.choices(maps, draw.random_sample(100_000))
        formula._mark(*formula.orbit(maps[:, :6], chosen), marked)
        if marked.mean() >= 0.2:
            found.append(maps)
    return found


def gray(fractals, numbers):
    """Images uint8 (B, size, size) of numbers."""
    return fractals.batch(numbers)[0][:, 0]


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(scope="module")
def small(banks):
    return FractalDB(64, 3, cache=banks)


# ---- the published set


def test_categories_and_weights_are_the_published_ones():
    maps = formula.categories()
    table = np.concatenate(maps)
    assert hashlib.sha256(table[:, :6].astype("<f8").tobytes()).hexdigest() == MAPS_HASH
    assert hashlib.sha256(table.astype("<f8").tobytes()).hexdigest() == TABLE_HASH
    sizes = np.bincount([len(table) for table in maps])
    assert sizes[2:].tolist() == [231, 294, 218, 146, 77, 34]
    assert maps[0][0, :2].tolist() == [0.17242232431712345, -0.731175606078728]
    assert WEIGHTS[2].tolist() == [1] * 6
    assert WEIGHTS[0].tolist() == [0.2, 1, 1, 1, 1, 1]
    assert WEIGHTS[24].tolist() == [1, 1, 1, 1, 1, 1.8]
    assert len({tuple(row) for row in WEIGHTS}) == 25


@pytest.mark.slow
def test_the_full_search_finds_them_and_so_many_orbits_diverge():
    found = np.concatenate(search_categories())
    assert hashlib.sha256(found.tobytes()).hexdigest() == TABLE_HASH
    flags = formula.divergent(formula.categories()).reshape(1000, 25)
    assert (flags.sum(), flags.any(1).sum()) == (1141, 531)


@pytest.mark.parametrize("orbit", COVERAGE_HASHES)
def test_coverages_are_the_published_ones(orbit):
    digest = hashlib.sha256(formula.coverage(*orbit).astype(np.uint8).tobytes()).hexdigest()
    assert digest == COVERAGE_HASHES[orbit]


def test_equal_to_the_plain_renderer():
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.integers(1000, size=50), rng.integers(25, size=50)], 1).tolist()
    flags = formula.divergent(formula.categories(70), points=20_000).reshape(70, 25)
    assert flags[tuple(np.transpose(DIVERGENT))].all()
    for orbit in [*DIVERGENT, *drawn]:
        plain = plain_coverage(*orbit, 128, 20_000)
        assert (formula.coverage(*orbit, 128, 20_000) == plain).all(), orbit


# ---- the bank


def test_a_bank_holds_every_orbit(tmp_path):
    packed = formula.bank(100, formula.categories(3), tmp_path)
    for row, bits in enumerate(np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little")):
        expected = formula.coverage(row // 25, row % 25, 100)
        assert (bits[:10_000].reshape(100, 100) == expected).all()


def test_a_damaged_bank_is_named_and_one_of_other_code_is_not_used(tmp_path, monkeypatch):
    whole = np.array(formula.bank(32, formula.categories(2), tmp_path))
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*delete it"):
        formula.bank(32, formula.categories(2), tmp_path)
    path.unlink()
    assert (formula.bank(32, formula.categories(2), tmp_path) == whole).all()
    monkeypatch.setattr(formula, "code_hash", lambda *modules: "other code")
    formula.bank(32, formula.categories(2), tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


# ---- images


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (32, "7937742b8a9bec24"),
        (64, "c06c1668e2843e35"),
        (128, "eb55e6e94f3bf4fc"),
        (256, "ebe4586f23759004"),
        (362, "56aa37b8553499d9"),
    ],
)
def test_images_are_those_that_the_kit_s_weights_have_seen(size, digest, banks):
    images, _ = FractalDB(size, 3, seed=5, cache=banks).batch(np.arange(0, 3000, 101))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == digest


def test_an_image_depends_on_its_number_alone(small, banks):
    numbers = np.random.default_rng(1).permutation(len(small))[:50]
    images = gray(small, numbers)
    assert (images[::-1] == gray(small, numbers[::-1])).all()
    assert (images[7] == gray(small, numbers[7:8])[0]).all()
    assert (gray(FractalDB(64, 3, seed=1, cache=banks), numbers) != images).any()


def test_labels_orbits_and_mirrors(banks):
    direct = FractalDB(256, 3, cache=banks)
    per_category = 25 * FILLINGS * FLIPS
    images, labels = direct.batch(np.arange(per_category, per_category + FLIPS))
    assert labels.tolist() == [1] * FLIPS
    covered = formula.coverage(1, 0, 256)
    views = covered, covered[::-1], covered[:, ::-1], covered[::-1, ::-1]
    for image, mirrored in zip(images[:, 0], views, strict=True):
        assert set(np.unique(image)) <= {0, formula.GREY}
        assert not (image.astype(bool) & ~mirrored).any()


def test_patches_fill_256_of_511(banks):
    direct = FractalDB(256, 3, cache=banks)
    ones = pixels = 0
    for number in np.arange(0, 60 * FLIPS, FLIPS):
        covered = formula.coverage(0, number // (FILLINGS * FLIPS), 256)
        ones += (gray(direct, [number])[0] > 0)[covered].sum()
        pixels += covered.sum()
    assert abs(ones / pixels - 256 / 511) < 4 * 0.5 / pixels**0.5


@pytest.mark.parametrize(
    ("size", "large"), [(32, 256), (48, 384), (64, 256), (96, 384), (128, 256)]
)
def test_small_images_are_averages_of_the_large(banks, size, large):
    factor, numbers = large // size, np.array([0, 123, 1001, 2999])
    ones = gray(FractalDB(large, 3, cache=banks), numbers) > 0
    share = ones.reshape(4, size, factor, size, factor).mean((2, 4))
    expected = np.floor(share * formula.GREY + 0.5)
    assert (gray(FractalDB(size, 3, cache=banks), numbers) == expected).all()


@pytest.mark.parametrize(("size", "most"), [(32, 0.1), (48, 0.04), (64, 0.1), (96, 0.06)])
def test_small_images_have_the_shapes_of_the_published(size, most):
    def shown(category, px):
        image = Image.fromarray(np.float32(formula.coverage(category, 2, px)))
        return np.asarray(image.resize((size, size), Image.BOX))

    def distance(px):
        off = [np.mean((shown(k, 362) - shown(k, px)) ** 2) for k in range(0, 1000, 100)]
        return np.mean(off) ** 0.5

    # drawn directly, shapes are fat
    assert distance(formula.DRAWN_AT[size]) < most < 0.2 < distance(size)


def test_batches_for_training(small):
    images, labels = small.batch([0, 1000, 2000])
    assert images.shape == (3, 3, 64, 64)
    assert images.dtype == np.uint8
    assert (images[:, 0] == images[:, 2]).all()
    assert labels.tolist() == [0, 1, 2]
    assert len(small) == 3000
    assert small.batch([])[0].shape == (0, 3, 64, 64)


@pytest.mark.parametrize("render", [64, None])
def test_a_config_opens_it(banks, render):
    config = SimpleNamespace(size=32, render=render, categories=3, seed=5)
    source = formula.open_source(config, banks)
    assert (source.size, source.seed, len(source.classes)) == (render or 32, 5, 3)


def test_a_size_that_is_no_power_of_two(tmp_path):
    images = gray(FractalDB(50, 1, cache=tmp_path), [0, 3])
    assert images.shape == (2, 50, 50)
    assert not ((images[0] > 0) & ~formula.coverage(0, 0, 50)).any()


def test_wrong_arguments_are_named(small):
    with pytest.raises(ValueError, match="size is 8"):
        FractalDB(8)
    with pytest.raises(ValueError, match="categories is 0"):
        FractalDB(64, 0)
    with pytest.raises(IndexError, match="0 to 2999"):
        small.batch([3000])


def test_export_writes_the_same_images(tmp_path, banks):
    script = Path(__file__).parents[1] / "maintain/export_fractaldb.py"
    spec = importlib.util.spec_from_file_location("export_fractaldb", script)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    one = FractalDB(64, 1, cache=banks)
    assert module.export(one, tmp_path, instances=8) == 8
    files = sorted((tmp_path / "00000").glob("*.png"))
    assert files[5].name == "00000_00_count_1_flip1.png"
    assert (np.asarray(Image.open(files[5])) == gray(one, [5])[0][:, :, None]).all()
