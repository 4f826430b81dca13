"""FractalDB-1k against its published hashes, and against a plain renderer written here."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ktglite.sources import fractaldb as formula
from ktglite.sources.fractaldb import COUNTS, FLIPS, WEIGHTS, FractalDB
from ktglite.tools import fractaldb_tools as tools

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
def banks(tmp_path_factory):
    return tmp_path_factory.mktemp("banks")


@pytest.fixture(scope="module")
def small(banks):
    return FractalDB(64, 3, cache=banks)


def gray(fractals, numbers):
    """Images uint8 (B, size, size) of numbers."""
    return fractals.batch(numbers)[0][:, 0]


def test_categories_are_the_published_ones():
    maps = formula.categories()
    assert tools.maps_hash(maps) == tools.MAPS_HASH
    assert tools.maps_hash(maps, 7) == tools.MAPS_P_HASH
    sizes = np.bincount([len(table) for table in maps])
    assert sizes[2:].tolist() == [231, 294, 218, 146, 77, 34]
    assert maps[0][0, :2].tolist() == [0.17242232431712345, -0.731175606078728]


@pytest.mark.slow
def test_the_full_search_finds_them():
    found = tools.search_categories(progress=False)
    assert tools.maps_hash(found, 7) == tools.MAPS_P_HASH


@pytest.mark.parametrize("orbit", tools.COVERAGE_HASHES)
def test_coverages_are_the_published_ones(orbit):
    digest = hashlib.sha256(formula.coverage(*orbit).astype(np.uint8).tobytes()).hexdigest()
    assert digest == tools.COVERAGE_HASHES[orbit]


def test_equal_to_the_plain_renderer():
    rng = np.random.default_rng(0)
    drawn = zip(
        rng.integers(1000, size=50).tolist(), rng.integers(25, size=50).tolist(), strict=True
    )
    flags = formula.divergent(formula.categories(70), points=20_000).reshape(70, 25)
    assert flags[tuple(np.transpose(DIVERGENT))].all()
    for category, weight in [*DIVERGENT, *drawn]:
        expected = plain_coverage(category, weight, 128, 20_000)
        assert (formula.coverage(category, weight, 128, 20_000) == expected).all(), (
            category,
            weight,
        )


@pytest.mark.parametrize("category", [0, 81, 500])
def test_the_bank_s_kernel_is_equal_to_single_orbits(category):
    together = formula._coverages(formula.categories()[category], 96, 4000)
    for weight in range(25):
        bits = np.unpackbits(together[weight].view(np.uint8), count=96 * 96, bitorder="little")
        assert (bits.reshape(96, 96) == formula.coverage(category, weight, 96, 4000)).all()


def test_weights_in_the_published_order():
    assert WEIGHTS.shape == (25, 6)
    assert WEIGHTS[2].tolist() == [1] * 6
    assert WEIGHTS[0].tolist() == [0.2, 1, 1, 1, 1, 1]
    assert WEIGHTS[24].tolist() == [1, 1, 1, 1, 1, 1.8]
    assert len({tuple(row) for row in WEIGHTS}) == 25


def test_an_image_depends_on_its_number_alone(small, banks):
    numbers = np.random.default_rng(1).permutation(len(small))[:50]
    images = gray(small, numbers)
    assert (images[::-1] == gray(small, numbers[::-1])).all()
    assert (images[7] == gray(small, numbers[7:8])[0]).all()
    assert (gray(FractalDB(64, 3, seed=1, cache=banks), numbers) != images).any()


@pytest.mark.parametrize(
    ("size", "variant", "digest"),
    [
        (32, "patch_gray", "7937742b8a9bec24"),
        (64, "patch_gray", "c06c1668e2843e35"),
        (128, "patch_gray", "eb55e6e94f3bf4fc"),
        (256, "patch_gray", "ebe4586f23759004"),
        (362, "patch_gray", "56aa37b8553499d9"),
        (64, "patch_color", "9d1addfa8659682c"),
        (64, "point_gray", "17b3b58bd49ec70a"),
        (64, "point_color", "2a21f1f50096cc8f"),
    ],
)
def test_images_are_those_of_version_0_1(size, variant, digest, banks):
    fractals = FractalDB(size, 3, seed=5, cache=banks, variant=variant)
    images, _ = fractals.batch(np.arange(0, min(len(fractals), 3000), 101))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == digest


def test_images_for_pre_training(banks):
    config = SimpleNamespace(size=32, render=64, categories=3, seed=5)
    source = formula.open_source(config, banks)
    assert (source.size, source.seed, len(source.classes)) == (64, 5, 3)
    assert (
        formula.open_source(SimpleNamespace(**(vars(config) | {"render": None})), banks).size == 32
    )


def test_labels_orbits_and_mirrors(banks):
    direct = FractalDB(256, 3, cache=banks)
    per_category = 25 * COUNTS * FLIPS
    images, labels = direct.batch(np.arange(per_category, per_category + FLIPS))
    assert labels.tolist() == [1] * FLIPS
    covered = formula.coverage(1, 0, 256)
    for image, mirrored in zip(
        images[:, 0], (covered, covered[::-1], covered[:, ::-1], covered[::-1, ::-1]), strict=True
    ):
        assert set(np.unique(image)) <= {0, formula.VALUE}
        assert not (image.astype(bool) & ~mirrored).any()


def test_patches_fill_256_of_511(banks):
    direct = FractalDB(256, 3, cache=banks)
    numbers = np.arange(0, 60 * FLIPS, FLIPS)
    ones = pixels = 0
    for number in numbers:
        covered = formula.coverage(0, number // (COUNTS * FLIPS), 256)
        image = gray(direct, [number])[0] > 0
        ones, pixels = ones + image[covered].sum(), pixels + covered.sum()
    assert abs(ones / pixels - 256 / 511) < 4 * 0.5 / pixels**0.5


@pytest.mark.parametrize(
    ("size", "large"), [(32, 256), (48, 384), (64, 256), (96, 384), (128, 256)]
)
def test_small_images_are_averages_of_the_large(banks, size, large):
    factor, numbers = large // size, np.array([0, 123, 1001, 2999])
    ones = gray(FractalDB(large, 3, cache=banks), numbers) > 0
    share = ones.reshape(4, size, factor, size, factor).mean((2, 4))
    expected = np.floor(share * formula.VALUE + 0.5)
    assert (gray(FractalDB(size, 3, cache=banks), numbers) == expected).all()


@pytest.mark.parametrize(("size", "most"), [(32, 0.1), (48, 0.04), (64, 0.1), (96, 0.06)])
def test_small_images_have_the_shapes_of_the_published(size, most):
    def distance(drawn_at):
        off = []
        for category in range(0, 1000, 100):
            published, ours = (
                np.asarray(
                    Image.fromarray(np.float32(formula.coverage(category, 2, px))).resize(
                        (size, size), Image.BOX
                    )
                )
                for px in (362, drawn_at)
            )
            off.append(np.mean((published - ours) ** 2))
        return np.mean(off) ** 0.5

    assert (
        distance(formula.DRAWN_AT[size]) < most < 0.2 < distance(size)
    )  # drawn directly, shapes are fat


def test_batches_for_training(small):
    images, labels = small.batch([0, 1000, 2000])
    assert images.shape == (3, 3, 64, 64)
    assert images.dtype == np.uint8
    assert (images[:, 0] == images[:, 2]).all()
    assert labels.tolist() == [0, 1, 2]
    assert len(small) == 3000


def plain_drawing(category, weight, variant, size, points, mask):
    """The published drawing, patch after patch; `mask` bool (size, size) says which bits of the patches are set."""
    xs, ys = formula.orbit(
        formula.categories()[category], np.random.RandomState(100).random_sample(points), weight
    )
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
    falling, rising = (
        int(value * (1 - 0.75 * part) * 255),
        int(value * (1 - 0.75 * (1 - part)) * 255),
    )
    return [
        (low, rising, high),
        (low, high, falling),
        (rising, high, low),
        (high, falling, low),
        (high, low, rising),
        (falling, low, high),
    ][sector]


@pytest.mark.parametrize("variant", formula.VARIANTS)
def test_every_variant_is_drawn_as_published(variant, tmp_path):
    fractals = FractalDB(60, maps=formula.categories()[3:4], variant=variant, cache=tmp_path)
    image = np.moveaxis(fractals._paint(7, number=12, points=3000), 0, 2)
    expected = plain_drawing(3, 7, variant, 60, 3000, mask=image.any(2))
    assert (image == expected).all()
    assert image.any()


def test_variants_as_a_sequence(small):
    coloured = FractalDB(64, 2, variant="patch_color")
    images, labels = coloured.batch([1013])
    assert labels.tolist() == [1]
    assert (images.any(1) == small.batch([1013])[0].any(1)).all()
    assert not (images[:, 0] == images[:, 2]).all()
    points = FractalDB(128, 2, variant="point_gray")
    assert len(points) == 2 * 25 * FLIPS
    first, second = points.batch([100, 101])[0]
    assert (first == second[:, ::-1]).all()
    with pytest.raises(ValueError, match="allowed are patch_gray"):
        FractalDB(64, variant="grey")


def test_a_clean_sequence_leaves_divergent_orbits_out():
    maps = formula.categories()[60:62]
    clean, wild = (
        FractalDB(64, maps=maps, variant="point_gray", clean=True),
        formula.divergent(maps),
    )
    alone = [
        len(formula.orbit(maps[i // 25], formula._orbit_random(200_000), i % 25)[0]) < 200_000
        for i in range(50)
    ]
    assert wild.tolist() == alone
    assert len(clean) == (50 - sum(wild)) * FLIPS < 50 * FLIPS
    assert set(clean.orbits) == set(np.flatnonzero(~wild))


@pytest.mark.slow
def test_so_many_orbits_diverge():
    flags = formula.divergent(formula.categories()).reshape(1000, 25)
    assert (flags.sum(), flags.any(1).sum()) == (1141, 531)


def test_a_size_that_is_no_power_of_two(tmp_path):
    images = gray(FractalDB(50, 1, cache=tmp_path), [0, 3])
    assert images.shape == (2, 50, 50)
    assert not ((images[0] > 0) & ~formula.coverage(0, 0, 50)).any()


def test_csv_folders(tmp_path):
    for i, table in enumerate(formula.categories(2)):
        np.savetxt(tmp_path / f"{i:05d}.csv", table, delimiter=",", fmt="%.17g")
    found = tools.read_csv_folder(tmp_path)
    assert all((a == b).all() for a, b in zip(found, formula.categories(2), strict=True))
    assert len(FractalDB(32, maps=found, cache=tmp_path).classes) == 2
    (tmp_path / "00001.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"00001\.csv"):
        tools.read_csv_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no \.csv files"):
        tools.read_csv_folder(tmp_path / "nowhere")


def test_export_writes_the_same_images(tmp_path, small, banks):
    assert tools.export(tmp_path / "png", 64, count=1, instances=8, cache=banks) == 8
    files = sorted((tmp_path / "png/00000").glob("*.png"))
    assert files[5].name == "00000_00_count_1_flip1.png"
    assert (np.asarray(Image.open(files[5])) == gray(small, [5])[0][:, :, None]).all()


def test_export_and_contact_sheet_of_categories_of_one_s_own(tmp_path):
    own = {"maps": formula.categories()[3:4], "variant": "point_color", "cache": tmp_path}
    assert tools.export(tmp_path / "png", 64, instances=4, **own) == 4
    image = np.asarray(Image.open(tmp_path / "png/00000/00000_00_count_0_flip0.png"))
    assert (np.moveaxis(image, 2, 0) == FractalDB(64, **own).batch([0])[0][0]).all()
    sheet = tools.contact_sheet(2, 3, 64, **own)
    assert sheet.shape == (128, 192, 3)
    assert (
        np.moveaxis(sheet[64:, :64], 2, 0) == FractalDB(64, **own).batch([2 * FLIPS])[0][0]
    ).all()


def test_verify_fails_on_a_wrong_hash(monkeypatch, capsys):
    monkeypatch.setattr(tools, "search_categories", formula.categories)
    monkeypatch.setattr(formula, "bank", lambda *args, **options: np.zeros((1, 1)))
    assert tools.verify()
    printed = capsys.readouterr().out
    assert "42,655 candidates" in printed.splitlines()[0]
    assert printed.count("ok ") == 8
    wrong = [*formula.categories()]
    wrong[7] = wrong[7] + 1e-16
    monkeypatch.setattr(tools, "search_categories", lambda: tuple(wrong))
    assert not tools.verify()
    assert "BAD categories of the search (a .. f)" in capsys.readouterr().out
    monkeypatch.setattr(tools, "search_categories", formula.categories)
    monkeypatch.setitem(tools.COVERAGE_HASHES, (0, 7), "0")
    assert not tools.verify()


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
        small.batch([3000])


def test_no_half_bank_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(
        formula, "_coverages", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        formula.bank(64, 100, formula.categories(2), tmp_path, progress=False)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_damaged_bank_is_named(tmp_path):
    whole = np.array(formula.bank(32, 100, formula.categories(2), tmp_path, progress=False))
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*delete it"):
        formula.bank(32, 100, formula.categories(2), tmp_path, progress=False)
    path.unlink()
    assert (formula.bank(32, 100, formula.categories(2), tmp_path, progress=False) == whole).all()
