"""Folders and names become splits; bad input is named; augmentation keeps its promises."""

import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ktglite.data import assign_splits, augment, draw_views, load_data, normalise, read_image, see


def write_images(folder, count, colour, size=(20, 24), mode="RGB", suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        array = np.full((size[1], size[0], 3), colour, np.uint8)
        array[:, : i + 1] = 255 - i  # every image its own
        Image.fromarray(array).convert(mode).save(folder / f"{i:03}.{suffix}")


@pytest.fixture
def folder(tmp_path):
    for name, colour in [("audi", 10), ("bmw", 120), ("citroën 2CV", 220)]:
        write_images(tmp_path / "cars" / name, 10, colour)
    return tmp_path / "cars"


def test_one_folder_is_split_by_seed_and_stratified(folder, tmp_path):
    data = load_data(str(folder), 16, cache=tmp_path / "c")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)
    assert data.classes == ("audi", "bmw", "citroën 2CV")
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert data.train.images.shape == (18, 3, 16, 16)
    assert data.train.images.dtype == torch.uint8
    again, other = (load_data(str(folder), 16, cache=tmp_path / "c", split_seed=s) for s in (0, 1))
    assert again.fingerprint == data.fingerprint != other.fingerprint


def test_given_splits_are_kept(tmp_path):
    for part, count in [("train", 8), ("test", 3)]:
        for name, colour in [("a", 10), ("b", 200)]:
            write_images(tmp_path / "d" / part / name, count, colour)
    data = load_data(str(tmp_path / "d"), 16, cache=tmp_path / "c")
    assert (len(data.train), len(data.val), len(data.test)) == (14, 2, 6)
    for name, colour in [("a", 10), ("b", 200)]:
        write_images(tmp_path / "d" / "val" / name, 2, colour)
    data = load_data(str(tmp_path / "d"), 16, cache=tmp_path / "c")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)


def test_limit_keeps_every_class(folder, tmp_path):
    data = load_data(str(folder), 16, limit=15, cache=tmp_path / "c")
    assert len(data.train) + len(data.val) + len(data.test) == 15
    assert data.train.labels.bincount().tolist() == [3, 3, 3]


def test_splits_are_disjoint_and_seeded():
    labels = np.repeat(np.arange(4), 25)
    given = np.full(100, -1, np.int8)
    first, again, other = (assign_splits(labels, given, list("abcd"), (0.6, 0.2, 0.2), s) for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert np.bincount(first).tolist() == [60, 20, 20]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
def test_images_of_every_mode(tmp_path, mode):
    array = np.full((12, 10, 3), 200, np.uint8)
    if mode == "I;16":
        Image.fromarray(np.full((12, 10), 200 * 256, np.uint16)).save(tmp_path / "x.png")
    else:
        Image.fromarray(array).convert(mode).save(tmp_path / f"x.{'jpg' if mode == 'CMYK' else 'png'}")
    image = read_image(next(tmp_path.glob("x.*")), 8)
    assert image.shape == (3, 8, 8)
    assert abs(int(image.mean()) - 200) <= 56 if mode == "1" else abs(int(image.mean()) - 200) < 8


def test_transparent_is_white(tmp_path):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 8).min() == 255


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", r"empty.jpg cannot be read as an image \(it is empty, 0 bytes\)"),
        ("notes.txt", b"not an image", "notes.txt cannot be read as an image"),
        ("cut.png", None, "cut.png cannot be read as an image"),
    ],
)
def test_a_bad_file_is_named_or_skipped(folder, tmp_path, caplog, name, content, message):
    if content is None:
        content = (folder / "bmw" / "000.png").read_bytes()[:60]
    (folder / "bmw" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_data(str(folder), 16, cache=tmp_path / "c")
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {".lock"}  # nothing half-written is left
    with caplog.at_level(logging.WARNING):
        data = load_data(str(folder), 16, cache=tmp_path / "c", skip_unreadable=True)
    assert len(data.train) + len(data.val) + len(data.test) == 30
    assert name in caplog.text
    assert "skipped 1 of 31 files" in caplog.text


def test_bad_folders_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_data(str(tmp_path / "nowhere"), 16, cache=tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is empty"):
        load_data(str(tmp_path / "empty"), 16, cache=tmp_path / "c")
    write_images(tmp_path / "flat", 3, 10)
    with pytest.raises(ValueError, match="flat has no class folders"):
        load_data(str(tmp_path / "flat"), 16, cache=tmp_path / "c")
    write_images(tmp_path / "single" / "only", 5, 10)
    with pytest.raises(ValueError, match="one class only"):
        load_data(str(tmp_path / "single"), 16, cache=tmp_path / "c")
    (folder / "datsun").mkdir()
    with pytest.raises(ValueError, match="datsun holds no images"):
        load_data(str(folder), 16, cache=tmp_path / "c")
    write_images(folder / "datsun", 1, 10)
    with pytest.raises(ValueError, match="class 'datsun' has 1 image"):
        load_data(str(folder), 16, cache=tmp_path / "c")


def test_a_changed_folder_is_decoded_again(folder, tmp_path):
    before = load_data(str(folder), 16, cache=tmp_path / "c")
    write_images(folder / "audi", 11, 60)
    after = load_data(str(folder), 16, cache=tmp_path / "c")
    assert before.fingerprint != after.fingerprint


def test_a_cached_folder_is_not_decoded_again(folder, tmp_path, monkeypatch):
    first = load_data(str(folder), 16, cache=tmp_path / "c")
    monkeypatch.setattr(sys.modules["ktglite.data"], "read_image", lambda *a: pytest.fail("decoded twice"))
    assert load_data(str(folder), 16, cache=tmp_path / "c").fingerprint == first.fingerprint


def test_bad_settings_are_named(folder):
    with pytest.raises(ValueError, match="size"):
        load_data(str(folder), 4)
    with pytest.raises(ValueError, match="fit"):
        load_data(str(folder), 16, fit="stretch")
    with pytest.raises(ValueError, match="split"):
        load_data(str(folder), 16, split=(0.5, 0.5, 0.5))


def test_synthcars_by_name(tmp_path):
    data = load_data("synthcars", 16, limit=120, cache=tmp_path)
    assert len(data.classes) >= 20
    assert len(data.train) + len(data.val) + len(data.test) == 120
    assert data.fingerprint == load_data("synthcars", 16, limit=120, cache=tmp_path).fingerprint


def test_augmentation_is_seeded_and_keeps_the_shape():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for kind in ("crop", "shift"):
        first, again, other = (augment(images, kind, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert first.shape == images.shape
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(augment(images, "none", None), normalise(images))


def test_shift_moves_whole_pixels():
    """Every row of a shifted image is a row of the original, moved, flipped or the padding: nothing is blurred."""
    image = torch.randint(1, 256, (1, 3, 16, 16), dtype=torch.uint8)
    known = torch.unique(torch.cat([normalise(image).flatten(), torch.zeros(1)]))
    for seed in range(20):
        view = augment(image, "shift", torch.Generator().manual_seed(seed)).flatten()
        nearest = (view[:, None] - known[None, :]).abs().min(1).values
        assert nearest.max() < 1e-3


def test_views_come_from_their_generator_alone_and_belong_to_their_image():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for kind in ("crop", "shift"):
        torch.manual_seed(0)
        views = draw_views(8, 16, kind, torch.Generator().manual_seed(5))
        torch.manual_seed(1)  # whatever else draws from the global generator
        assert torch.equal(views, draw_views(8, 16, kind, torch.Generator().manual_seed(5)))
        torch.testing.assert_close(see(images, views)[3:5], see(images[3:5], views[3:5]))
