"""FractalDB-1k against its published hashes, and against a plain renderer written here."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from ktglite import cli, mersenne
from ktglite import fractaldb as formula
from ktglite.fractaldb import COUNTS, FLIPS, WEIGHTS, FractalDB

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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return FractalDB(64, categories=3, cache=tmp_path_factory.mktemp("bank"))


def test_categories_are_the_published_ones():
    maps = formula.categories()
    assert formula.maps_hash(maps) == formula.MAPS_HASH
    assert formula.maps_hash(maps, 7) == formula.MAPS_P_HASH
    sizes = np.bincount([len(table) for table in maps])
    assert sizes[2:].tolist() == [231, 294, 218, 146, 77, 34]
    assert maps[0][0, :2].tolist() == [0.17242232431712345, -0.731175606078728]


@pytest.mark.slow
def test_the_full_search_finds_them():
    found = formula.search_categories(progress=False)
    assert formula.maps_hash(found, 7) == formula.MAPS_P_HASH


@pytest.mark.parametrize("orbit", formula.COVERAGE_HASHES)
def test_coverages_are_the_published_ones(orbit):
    digest = hashlib.sha256(formula.coverage(*orbit).astype(np.uint8).tobytes()).hexdigest()
    assert digest == formula.COVERAGE_HASHES[orbit]


def test_equal_to_the_plain_renderer():
    rng = np.random.default_rng(0)
    drawn = zip(rng.integers(1000, size=50).tolist(), rng.integers(25, size=50).tolist(), strict=True)
    assert all(formula.is_divergent(*orbit, points=20_000) for orbit in DIVERGENT)
    for category, weight in [*DIVERGENT, *drawn]:
        expected = plain_coverage(category, weight, 128, 20_000)
        assert (formula.coverage(category, weight, 128, 20_000) == expected).all(), (category, weight)


@pytest.mark.parametrize("category", [0, 81, 500])
def test_the_bank_s_kernel_is_equal_to_single_orbits(category):
    together = formula.coverages(formula.categories()[category], 96, 4000)
    for weight in range(25):
        alone = formula.coverage(category, weight, 96, 4000).reshape(1, -1).view(np.uint8)
        assert (together[weight] == formula.pack(alone)[0]).all()


def test_weights_in_the_published_order():
    assert WEIGHTS.shape == (25, 6)
    assert WEIGHTS[2].tolist() == [1] * 6
    assert WEIGHTS[0].tolist() == [0.2, 1, 1, 1, 1, 1]
    assert WEIGHTS[24].tolist() == [1, 1, 1, 1, 1, 1.8]
    assert len({tuple(row) for row in WEIGHTS}) == 25


def test_an_image_depends_on_its_number_alone(small):
    numbers = np.random.default_rng(1).permutation(len(small))[:50]
    whole = small.gray(numbers)[0]
    assert (whole[::-1] == small.gray(numbers[::-1])[0]).all()
    assert (whole[7] == small.gray(numbers[7:8])[0][0]).all()
    other = FractalDB(64, 3, seed=1, cache=small.cache)
    assert (other.gray(numbers)[0] != whole).any()


def test_labels_orbits_and_mirrors(small, tmp_path):
    direct = FractalDB(256, 3, cache=small.cache)
    per_category = 25 * COUNTS * FLIPS
    images, labels = direct.gray(np.arange(per_category, per_category + FLIPS))
    assert labels.tolist() == [1] * FLIPS
    covered = formula.coverage(1, 0, 256)
    for image, mirrored in zip(images, (covered, covered[::-1], covered[:, ::-1], covered[::-1, ::-1]), strict=True):
        assert set(np.unique(image)) <= {0, formula.VALUE}
        assert not (image.astype(bool) & ~mirrored).any()


def test_patches_fill_256_of_511(small):
    direct = FractalDB(256, 3, cache=small.cache)
    numbers = np.arange(0, 60 * FLIPS, FLIPS)
    ones = pixels = 0
    for number in numbers:
        covered = formula.coverage(0, number // (COUNTS * FLIPS), 256)
        image = direct.gray([number])[0][0] > 0
        ones, pixels = ones + image[covered].sum(), pixels + covered.sum()
    assert abs(ones / pixels - 256 / 511) < 4 * 0.5 / pixels**0.5


@pytest.mark.parametrize("size", [32, 64, 128])
def test_small_images_are_averages_of_the_large(small, size):
    factor = 256 // size
    numbers = np.array([0, 123, 1001, 2999])
    large = FractalDB(256, 3, cache=small.cache).gray(numbers)[0] > 0
    share = large.reshape(4, size, factor, size, factor).mean((2, 4))
    expected = np.floor(share * formula.VALUE + 0.5)
    assert (FractalDB(size, 3, cache=small.cache).gray(numbers)[0] == expected).all()


def test_batches_for_training(small):
    images, labels = small.batch([0, 1000, 2000])
    assert images.shape == (3, 3, 64, 64)
    assert images.dtype == np.uint8
    assert (images[:, 0] == images[:, 2]).all()
    assert labels.tolist() == [0, 1, 2]
    assert len(small) == 3000


def plain_drawing(category, weight, variant, size, points, mask):
    """The published drawing, patch after patch; `mask` bool (size, size) says which bits of the patches are set."""
    xs, ys = formula.orbit_points(category, weight, points)
    column = np.uint16((xs - xs.min()) / (xs.max() - xs.min()) * (size - 12) + 6)
    row = np.uint16((ys - ys.min()) / (ys.max() - ys.min()) * (size - 12) + 6)
    image = np.zeros((size, size, 3), np.uint8)
    for i in range(len(xs)):
        colour = published_hue(i) if variant.endswith("color") else (127, 127, 127)
        if variant.startswith("point"):
            image[row[i], column[i]] = colour
        else:
            image[row[i] + 1 : row[i] + 4, column[i] + 1 : column[i] + 4] = colour
    if variant.startswith("patch"):
        image[~mask[::-1]] = 0
    return image[::-1]


def published_hue(step):
    """Hue, saturation and intensity of a step as the published code has them, channels in its order."""
    hue, value = 2 * np.pi * (step % 128) / 128, 0.75
    sector = int(np.floor(3 / np.pi * hue))
    part = 3 / np.pi * hue - sector
    high, low = int(value * 255), int(value * 0.25 * 255)
    falling, rising = int(value * (1 - 0.75 * part) * 255), int(value * (1 - 0.75 * (1 - part)) * 255)
    return [
        (low, rising, high),
        (low, high, falling),
        (rising, high, low),
        (high, falling, low),
        (high, low, rising),
        (falling, low, high),
    ][sector]


@pytest.mark.parametrize("variant", formula.VARIANTS)
def test_every_variant_is_drawn_as_published(variant):
    image = formula.draw(3, 7, variant, number=12, size=64, points=3000)
    expected = plain_drawing(3, 7, variant, 64, 3000, mask=image.any(2))
    assert (image == expected).all()
    assert image.any()


def test_variants_as_a_sequence(small):
    coloured = FractalDB(64, categories=2, variant="patch_color", cache=small.cache)
    images, labels = coloured.batch([1013])
    assert labels.tolist() == [1]
    assert (images.any(1) == small.batch([1013])[0].any(1)).all()
    assert not (images[:, 0] == images[:, 2]).all()
    points = FractalDB(128, categories=2, variant="point_gray", cache=small.cache)
    assert len(points) == 2 * 25 * FLIPS
    first, second = points.batch([100, 101])[0]
    assert (first == second[:, ::-1]).all()
    with pytest.raises(ValueError, match="allowed are patch_gray"):
        FractalDB(64, variant="grey")


def test_a_clean_sequence_leaves_divergent_orbits_out():
    maps = formula.categories()[60:62]
    clean = FractalDB(64, maps=maps, variant="point_gray", clean=True)
    wild = [formula.is_divergent(60 + i // 25, i % 25) for i in range(50)]
    assert clean.left_out == sum(wild) > 0
    assert len(clean) == (50 - sum(wild)) * FLIPS
    assert set(clean.orbits) == set(np.flatnonzero(~np.array(wild)))


@pytest.mark.parametrize("before", [0, 1, 311, 624, 1000])
def test_random_numbers_are_numpy_s(before):
    ours, theirs = np.random.MT19937(5), np.random.MT19937(5)
    np.random.RandomState(ours).randint(0, 7, before), np.random.RandomState(theirs).randint(0, 7, before)
    numbers = np.empty(1500)
    for _ in range(3):
        mersenne.random(ours, numbers, mersenne.room(1500))
        assert (numbers == np.random.Generator(theirs).random(1500)).all()
    assert np.random.RandomState(ours).uniform() == np.random.RandomState(theirs).uniform()


@pytest.mark.slow
def test_so_many_orbits_diverge():
    flags = formula.divergent(formula.categories()).reshape(1000, 25)
    assert (flags.sum(), flags.any(1).sum()) == (1141, 531)


def test_a_size_that_is_no_power_of_two(tmp_path):
    images, _ = FractalDB(50, 1, cache=tmp_path).gray([0, 3])
    assert images.shape == (2, 50, 50)
    covered = np.zeros((50, 50), bool)
    covered |= formula.coverage(0, 0, 50)
    assert not ((images[0] > 0) & ~covered).any()


def test_csv_folders(tmp_path):
    for i, table in enumerate(formula.categories()[:2]):
        np.savetxt(tmp_path / f"{i:05d}.csv", table, delimiter=",", fmt="%.17g")
    found = formula.read_csv_folder(tmp_path)
    assert all((a == b).all() for a, b in zip(found, formula.categories(), strict=False))
    assert len(FractalDB(32, maps=found, cache=tmp_path).classes) == 2
    (tmp_path / "00001.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"00001\.csv"):
        formula.read_csv_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no \.csv files"):
        formula.read_csv_folder(tmp_path / "nowhere")


def test_categories_of_one_s_own_from_the_command_line(tmp_path, monkeypatch):
    np.savetxt(tmp_path / "00000.csv", formula.categories()[3], delimiter=",", fmt="%.17g")
    monkeypatch.chdir(tmp_path)
    app = ["fractaldb", "export", "png", "--csv", ".", "--size", "64", "--instances", "4", "--variant", "point-color"]
    with pytest.raises(SystemExit, match="allowed are patch_gray"):
        command_line(monkeypatch, *app)
    command_line(monkeypatch, *app[:-1], "point_color")
    image = np.asarray(Image.open("png/00000/00000_00_count_0_flip0.png"))
    own = FractalDB(64, maps=formula.categories()[3:4], variant="point_color")
    assert (np.moveaxis(image, 2, 0) == own.batch([0])[0][0]).all()
    command_line(monkeypatch, "fractaldb", "show", "sheet", "--csv", ".")
    assert Image.open("sheet/contact_sheet.png").size == (16 * 64, 8 * 64)


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["ktglite", *arguments])
    cli.main()


def test_export_writes_the_same_images(tmp_path, small):
    assert formula.export(tmp_path / "png", 64, categories=1, instances=8, cache=small.cache) == 8
    files = sorted((tmp_path / "png/00000").glob("*.png"))
    assert files[5].name == "00000_00_count_1_flip1.png"
    assert (np.asarray(Image.open(files[5])) == small.gray([5])[0][0][:, :, None]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: formula.coverage(1000, 0), "category is 1000"),
        (lambda: formula.coverage(0, 25), "weight is 25"),
        (lambda: formula.coverage(0, 0, size=8), "size is 8"),
        (lambda: FractalDB(64, 0), "categories is 0"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_numbers_out_of_range(small):
    with pytest.raises(IndexError, match="0 to 2999"):
        small.gray([3000])


def test_no_half_bank_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(formula, "coverages", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        formula.bank(64, 100, 2, tmp_path, progress=False)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
