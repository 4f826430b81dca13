"""VisualAtom-1k against PIL's lines and a plain renderer written here."""

import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ktglite_formulas import visualatom
from ktglite_formulas.visualatom import VisualAtom


def pnoise(bits):
    """Perlin noise of one dimension: the upper eight bits are the cell, the lower where in it."""
    cell, t = bits >> 8, (bits % 256 + 0.5) / 256
    slopes = [int(visualatom.LATTICE[k % 256], 16) for k in (cell, cell + 1)]
    slopes = [bits + 1 if bits < 8 else -1 for bits in slopes]
    before, after = slopes[0] * t, slopes[1] * (t - 1)
    return 0.4 * (before + (6 * t**5 - 15 * t**4 + 10 * t**3) * (after - before))


def plain_atom(number):
    """Line by line and vertex by vertex on 1024 px around the centre, the lines drawn by PIL."""
    draw = random.Random(number + 1)
    count, lines, noise, width = (
        draw.randint(200, 1000), draw.randint(1, 200), draw.uniform(0, 4), draw.uniform(0, 0.1),
    )  # fmt: skip
    radius, waves = draw.randint(10, 60), [draw.randint(0, 20)]
    again = iter(lambda: draw.randint(0, 20), None)
    waves.append(next(wave for wave in again if wave != waves[0] or waves[0] == 0))
    oval = draw.uniform(1, 2), draw.uniform(1, 2)
    bits = np.frombuffer(draw.randbytes(4 * lines * count), "<u2").reshape(2, lines, count).tolist()
    angle = 2 * math.pi / count
    turn = [angle * v for v in range(count)]
    ways = [*map(math.cos, turn)], [*map(math.sin, turn)]
    xy = [[way * radius * oval[axis] + 512 for way in ways[axis]] for axis in (0, 1)]
    image = Image.new("L", (1024, 1024))
    pen = ImageDraw.Draw(image)
    for line in range(lines):
        for v in range(count):
            wave = sum(0.5 * math.sin(turn[v] * turns) for turns in waves)
            for axis in (0, 1):
                inwards = noise * pnoise(bits[axis][line][v]) - noise - wave
                xy[axis][v] -= ways[axis][v] * (inwards - width)
        for v in range(count):
            after = (v + 1) % count
            pen.line((xy[0][v], xy[1][v], xy[0][after], xy[1][after]), fill=line + 1, width=1)
    return np.asarray(image)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bank")


@pytest.fixture(scope="module")
def small(cache):
    return VisualAtom(64, categories=4, cache=cache)


@pytest.mark.parametrize("number", [1, 3, 14])
def test_atoms_are_those_of_the_published_procedure(number):
    top, left, pixels = visualatom._shape(number)
    canvas = np.zeros((1024, 1024), np.uint8)
    canvas[512 + top :, 512 + left :][: pixels.shape[0], : pixels.shape[1]] = pixels
    np.testing.assert_array_equal(canvas, plain_atom(number))


def test_noise_is_distributed_as_published():
    noise = visualatom._perlin()  # the published noise has 0.0003, 0.3290, -0.9521, 0.9520
    assert noise.mean() == pytest.approx(0, abs=1e-12)
    assert noise.std() == pytest.approx(0.329, abs=5e-4)
    assert [noise.min(), noise.max()] == pytest.approx([-0.952, 0.952], abs=5e-4)


def test_an_image_is_the_canvas_averaged_down(small, cache):
    numbers = [5, 1234, 2001, 3999]
    canvas, _ = VisualAtom(512, categories=4, cache=cache).batch(numbers)
    images, _ = small.batch(numbers)
    blocks = canvas.reshape(4, 3, 64, 8, 64, 8).sum((3, 5), dtype=np.int64)
    np.testing.assert_array_equal(images, blocks // 64)
    at48 = VisualAtom(48, categories=4, cache=cache).batch(numbers)[0]  # pixels of 10 or 11 px
    np.testing.assert_allclose(at48.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=0.6)


def test_an_image_shows_its_atom_anywhere_and_in_greys(cache):
    large = VisualAtom(512, categories=4, cache=cache)
    images, _ = large.batch(np.arange(1000, 1200))  # 24 lines, 257 vertices
    assert all(len(np.unique(image)) <= 25 for image in images)
    assert (images[:, 0] == images[:, 2]).all()
    _, _, pixels = visualatom._shape(1)
    shown = (images[:, 0] > 0).sum((1, 2)) / (pixels > 0).sum()
    # all of it where the centre is inside; a grey may be 0
    assert shown.max() == pytest.approx(1, abs=0.02)
    assert shown.min() < 0.4  # about a quarter in a corner
    assert images[:, 0][images[:, 0] > 0].mean() == pytest.approx(128, abs=8)


def test_a_damaged_bank_is_refused(tmp_path):
    VisualAtom(64, categories=1, cache=tmp_path)
    (path,) = tmp_path.glob("*.bin")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged; delete it"):
        VisualAtom(64, categories=1, cache=tmp_path)
