"""Coloured fractals against plain renderers written here, and numbers of the published one."""

import colorsys

import numpy as np
import pytest

from ktglite_formulas import coloured_fractals as coloured
from ktglite_formulas.base import uniform
from ktglite_formulas.coloured_fractals import ColouredFractals

KEY = np.uint64(123456789)


def unpack(canvas):
    """Red, green and blue of packed colours."""
    channels = [canvas >> np.uint64(16 * k) & np.uint64(255) for k in range(3)]
    return np.stack(channels, -1).astype(int)


def plain_grades(points, window, patch, side):
    """How many patches cover a px, point by point, as the published renderer counts them."""
    grades = np.zeros((side, side), int)
    for x, y in points:
        row = int(np.floor((x - window[0]) / (window[2] - window[0]) * (side - 1)))
        column = int(np.floor((y - window[1]) / (window[3] - window[1]) * (side - 1)))
        for k in patch:
            r, c = row + k // 3 - 1, column + k % 3 - 1
            if 0 <= r < side and 0 <= c < side:
                grades[r, c] += 1
    return grades


def look(images):
    """Mean, contrast (standard deviation of a channel) and edges (step along a row) of images."""
    images = images.astype(float)
    return images.mean(), images.std((2, 3)).mean(), np.abs(np.diff(images, axis=3)).mean()


def test_systems_are_contractive_full_and_those_of_the_published_search():
    systems = coloured._systems(300)
    # printed by the published code
    first = [[0.50706549, -0.85720928, 0.44297668, 0.8477069, 0.4904841, 0.05070864]]
    np.testing.assert_allclose(systems[0, :1], first)
    np.testing.assert_array_equal(coloured._systems(20), systems[:20])
    maps = np.count_nonzero(systems[:, :, 0], 1)
    assert set(maps) == {2, 3, 4}
    values = np.linalg.svd(systems.reshape(300, 4, 2, 3)[..., :2], compute_uv=False)
    assert values.max() < 1
    sums = (values @ [1, 2]).sum(1)
    assert ((5 + maps) / 2 <= sums).all()
    assert (sums <= (6 + maps) / 2).all()


def test_a_fractal_is_painted_as_counted_point_by_point():
    system, side = coloured._systems(3)[2], 60
    xs, ys = np.empty((2, 4000))
    left, low, right, high = coloured._orbit(system, KEY, xs, ys)
    window = np.array([left + 0.1, low - 0.2, right - 0.2, high])  # some points are out of it
    patch = [8 - k for k in range(9) if uniform(KEY, k, 0, 2) < 1]
    grades = plain_grades(np.stack([xs, ys], 1), window, patch, side)
    counts, canvas = np.empty((side + 4, side + 4), np.int32), np.zeros((side, side), np.uint64)
    coloured._count(xs, ys, window, counts)
    coloured._paint(counts, KEY, canvas)
    np.testing.assert_array_equal(canvas > 0, grades > 0)
    hue = uniform(KEY, 9, 0, 255)
    saturation = uniform(KEY, 10, 77, 255)
    value = uniform(KEY, 11, 128, 255)
    for r, c in np.argwhere(grades > 0)[::29]:
        step = int(int(grades[r, c] / grades.max() * 255) + hue) % 256
        wanted = colorsys.hsv_to_rgb(step * 2 / 360 % 1, saturation / 255, 1)
        np.testing.assert_allclose(unpack(canvas)[r, c], np.array(wanted) * value, atol=0.51)


@pytest.mark.parametrize(
    ("size", "published", "tolerance"),  # numbers of 600 images of the published renderer
    [
        (224, (127.0, 40.9, 6.41), (2.5, 2, 0.5)),
        (64, (127.1, 37.7, 9.42), (2.5, 2.5, 1.1)),  # averaged down: ours has larger patches
    ],
)
def test_images_look_as_published(size, published, tolerance):
    images, _ = ColouredFractals(size).batch(np.arange(0, 10**6, 3331))
    found = look(images)
    assert (np.abs(np.subtract(found, published)) < tolerance).all(), found
