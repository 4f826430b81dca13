"""1p-frac against a plain renderer written here, and what the formula sources share."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from ktglite_formulas import coloured_fractals, one_fractal, visualatom
from ktglite_formulas.base import sample_system
from ktglite_formulas.coloured_fractals import ColouredFractals
from ktglite_formulas.one_fractal import OneFractal
from ktglite_formulas.visualatom import VisualAtom


def plain_coverage(system):
    """Every point stamped as a full patch of 3 x 3 px on 512 px, in plain NumPy and Python."""
    areas = [abs(a * d - b * c) for (a, b, _), (c, d, _) in BASE]
    random = np.random.RandomState(100).random_sample(100_000)
    points, x, y = [(0.0, 0.0)], 0.0, 0.0
    for r in random[:-1]:
        (a, b, e), (c, d, f) = system[0 if r <= areas[0] / sum(areas) else 1]
        x, y = x * a + y * b + e, x * c + y * d + f
        points.append((x, y))
    points = np.array(points)
    points -= points.min(0)
    pixels = (points / points.max(0) * 500.0 + 6.0).astype(np.uint16)
    image = np.zeros((512, 512), np.uint8)
    for column, row in pixels:
        image[row + 1 : row + 4, column + 1 : column + 4] = 1
    return image[::-1]


BASE = sample_system(np.random.default_rng(5), 2, 3.5, 4.0)


@pytest.fixture(scope="module")
def small():
    return OneFractal(64, categories=4)


@pytest.mark.parametrize("number", [0, 777])
def test_the_pixels_are_those_of_the_published_procedure(number):
    system = one_fractal._perturbed(BASE, number)
    assert (np.abs(system / BASE - 1) <= 0.1).all()
    assert len(np.unique(system / BASE)) == 12
    covered = one_fractal._coverage(system, one_fractal._choices(BASE))
    np.testing.assert_array_equal(covered, plain_coverage(system))


def test_systems_are_the_published_ones():
    # Of four maps with this seed; numbers printed by the published sampler.
    rng = np.random.default_rng(0)
    system = sample_system(rng, int(rng.integers(2, 5)), 4.5, 5.0)
    first = [[0.50706549, -0.85720928, 0.44297668], [0.8477069, 0.4904841, 0.05070864]]
    np.testing.assert_allclose(system[0], first)
    np.testing.assert_allclose(system[3, 1], [0.01050607, 0.00515881, 0.14305966], rtol=1e-6)


@pytest.mark.parametrize("maps", [2, 3, 4, 6])
def test_systems_are_contractive_and_as_full_as_asked(maps):
    for seed in range(50):
        low = (5 + maps) / 2
        system = sample_system(np.random.default_rng(seed), maps, low, low + 0.5)
        values = np.linalg.svd(system[:, :, :2], compute_uv=False)
        assert values.max() < 1
        assert low <= (values @ [1, 2]).sum() <= low + 0.5
        assert np.abs(system[:, :, 2]).max() <= 1


def test_every_class_is_more_than_five_percent_white():
    fractal = OneFractal(32)
    assert len(fractal.classes) == 1000
    assert len(fractal) == 1_000_000
    assert fractal.reached.sum(1).min() / 512**2 * 256 / 511 > 0.05
    assert len(np.unique(fractal.reached, axis=0)) == 1000


def test_an_image_is_a_random_half_of_what_is_reached(small):
    large = OneFractal(512, categories=1)
    images, labels = large.batch([0, 1])
    covered = one_fractal._coverage(one_fractal._perturbed(BASE, 0), one_fractal._choices(BASE))
    assert labels.tolist() == [0, 0]
    assert set(np.unique(images)) == {0, 127}
    assert not images[:, :, covered == 0].any()
    white = (images[:, 0, covered == 1] > 0).mean()  # ours is 1/2
    assert white == pytest.approx(256 / 511, abs=0.005)
    images = small.batch(np.arange(400))[0][:, 0]
    share = covered.reshape(64, 8, 64, 8).mean((1, 3))
    np.testing.assert_allclose(images.mean(0), 127 * share / 2, atol=2.5)  # six standard errors
    # Of 64 px; rounding takes 4 % of it.
    assert images[:, share == 1].std() == pytest.approx(127 / 2 / 8, rel=0.06)


# ---- what the formula sources share


@pytest.mark.parametrize(
    ("module", "kind", "size", "categories", "pixels"),
    [
        (one_fractal, OneFractal, 64, 4, "cb28e6266d394fc9"),
        (coloured_fractals, ColouredFractals, 48, 1000, "9002c3c72d37d726"),
        (visualatom, VisualAtom, 64, 4, "274f9ded3cb477a1"),
    ],
)
def test_an_image_is_a_function_of_seed_and_number(
    tmp_path, module, kind, size, categories, pixels
):
    options = {"cache": tmp_path} if kind is VisualAtom else {}
    source = kind(size, categories=categories, **options)
    last = len(source) - 1
    images, labels = source.batch([last, 0, 1500, 3])
    assert images.shape == (4, 3, size, size)
    assert images.dtype == np.uint8
    assert labels.tolist() == [categories - 1, 0, 1, 0]
    np.testing.assert_array_equal(source.batch([3, last])[0], images[[3, 0]])
    fewer, other = kind(size, categories=2, **options), kind(size, seed=1, categories=2, **options)
    np.testing.assert_array_equal(fewer.batch([1500])[0], images[2:3])
    assert (other.batch([0])[0] != images[1]).any()
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == pixels
    config = SimpleNamespace(size=32, render=48, seed=2, categories=3)
    found = module.open_source(config, tmp_path)
    assert (found.size, found.seed, len(found)) == (48, 2, 3000)


def test_what_is_out_of_range_is_refused(small, tmp_path):
    assert small.batch([])[0].shape == (0, 3, 64, 64)
    with pytest.raises(IndexError, match="from 0 to 3999"):
        small.batch([4000])
    for make, words in (
        (lambda: OneFractal(8), "size is 8"),
        (lambda: OneFractal(64, categories=0), "categories is 0"),
        (lambda: VisualAtom(600, cache=tmp_path), "size is 600"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
