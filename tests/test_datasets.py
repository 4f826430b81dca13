"""Folders and names become splits; bad input is named."""

import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ktglite.sources import datasets
from ktglite.sources.datasets import assign_splits, image_files, load_data, read_image


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
    first, again, other = (
        assign_splits(labels, given, list("abcd"), (0.6, 0.2, 0.2), s) for s in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert np.bincount(first).tolist() == [60, 20, 20]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "I;16"])
def test_images_of_every_mode(tmp_path, mode):
    array = np.full((12, 10, 3), 200, np.uint8)
    if mode == "I;16":
        Image.fromarray(np.full((12, 10), 200 * 256, np.uint16)).save(tmp_path / "x.png")
    else:
        Image.fromarray(array).convert(mode).save(
            tmp_path / f"x.{'jpg' if mode == 'CMYK' else 'png'}"
        )
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
        ("notes.jpg", b"not an image", "notes.jpg cannot be read as an image"),
        ("cut.png", None, "cut.png cannot be read as an image"),
    ],
)
def test_a_bad_file_is_named_or_skipped(folder, tmp_path, caplog, name, content, message):
    if content is None:
        content = (folder / "bmw" / "000.png").read_bytes()[:60]
    (folder / "bmw" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_data(str(folder), 16, cache=tmp_path / "c")
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {
        ".lock"
    }  # nothing half-written is left
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
    monkeypatch.setattr(datasets, "read_image", lambda *a: pytest.fail("decoded twice"))
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


def test_folders_are_walked_and_other_files_are_counted(tmp_path, caplog):
    for name, colour in [("audi", 10), ("bmw", 120)]:
        write_images(tmp_path / "d" / name / "2011" / "front", 6, colour)
        write_images(tmp_path / "d" / name, 4, colour + 50)
        (tmp_path / "d" / name / "SHA256SUMS").write_text("abc")
    (tmp_path / "d" / "README.md").write_text("cars")
    (tmp_path / "d" / "bmw" / "2011" / "boxes.txt").write_text("1 2 3 4")
    with caplog.at_level(logging.WARNING):
        data = load_data(str(tmp_path / "d"), 16, cache=tmp_path / "c")
    assert len(data.train) + len(data.val) + len(data.test) == 20
    assert data.classes == ("audi", "bmw")
    assert caplog.text.count("ignored 3 files") == 1


def test_a_val_without_a_test_is_the_test_set(tmp_path, caplog):
    """As ImageNet and Imagenette come."""
    for part, count in [("train", 10), ("val", 3)]:
        for name, colour in [("n01440764", 10), ("n02102040", 200)]:
            write_images(tmp_path / "imagenette2" / part / name, count, colour, suffix="JPEG")
    with caplog.at_level(logging.WARNING):
        data = load_data(str(tmp_path / "imagenette2"), 16, cache=tmp_path / "c")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)
    assert "its val/ is the test set" in caplog.text


def test_tiny_imagenet_as_it_is_downloaded(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for name, colour in [("n01443537", 10), ("n01629819", 200)]:
        write_images(root / "train" / name / "images", 10, colour, suffix="JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text("000.JPEG\t0\t0\t9\t9\n")
    write_images(root / "val" / "images", 4, 90, suffix="JPEG")
    rows = [f"{i:03}.JPEG\t{'n01443537' if i % 2 else 'n01629819'}\t0\t0\t9\t9" for i in range(4)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    write_images(root / "test" / "images", 5, 60, suffix="JPEG")
    (root / "wnids.txt").write_text("n01443537\nn01629819\n")
    data = load_data(str(root), 16, cache=tmp_path / "c")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 4)
    assert data.test.labels.tolist() == [1, 0, 1, 0]


def test_a_folder_without_train_is_named(folder, tmp_path):
    (tmp_path / "e").mkdir()
    folder.rename(tmp_path / "e" / "val")
    with pytest.raises(ValueError, match="has val and no train"):
        load_data(str(tmp_path / "e"), 16, cache=tmp_path / "c")


def test_validating_on_test_is_another_data_set(folder, tmp_path):
    val, test = (
        load_data(str(folder), 16, cache=tmp_path / "c", validate_on=split)
        for split in ("val", "test")
    )
    assert torch.equal(test.val.images, val.test.images)
    assert test.fingerprint != val.fingerprint
    assert load_data(**test.spec).fingerprint == test.fingerprint


def test_a_damaged_cache_is_named(folder, tmp_path):
    load_data(str(folder), 16, cache=tmp_path / "c")
    (images,) = (tmp_path / "c").rglob("images.npy")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        load_data(str(folder), 16, cache=tmp_path / "c")


def test_stanford_cars_says_what_to_place_where(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"place under .*raw: stanford_cars/ with devkit/, cars_train/"
    ):
        load_data("stanford_cars", 16, raw=tmp_path / "raw", cache=tmp_path / "c")


class FakeHub:
    """What is used of the library `datasets`."""

    class Image:
        pass

    class ClassLabel:
        names = ("a", "b")

    def __init__(self, **parts):
        self.parts = parts

    def load_dataset(self, name):
        kinds = {"picture": self.Image(), "kind": self.ClassLabel()}
        split = type("Split", (list,), {"features": kinds})
        grey = Image.fromarray(np.full((20, 20, 3), 100, np.uint8))
        return {
            part: split({"picture": grey, "kind": i % 2} for i in range(n))
            for part, n in self.parts.items()
        }


def test_a_hugging_face_data_set(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(train=20, validation=6))
    data = load_data("hf:user/cars", 16, cache=tmp_path / "a")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(train=20))
    data = load_data("hf:user/cars", 16, cache=tmp_path / "b")
    assert data.classes == ("a", "b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"ktglite\[hf\]"):
        load_data("hf:user/cars", 16, cache=tmp_path / "d")


def test_files_come_with_their_class(folder):
    files = image_files(folder)
    assert [name for _, name in files] == ["audi"] * 10 + ["bmw"] * 10 + ["citroën 2CV"] * 10
