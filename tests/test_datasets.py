"""Folders and names become splits; what was understood is said; bad input is named."""

import logging
import os
import sys
import unicodedata
import weakref
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ktglite.sources import datasets
from ktglite.sources.datasets import assign_splits, image_files, load_data


def write_images(folder, count, colour, size=(20, 24), mode="RGB", suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        array = np.full((size[1], size[0], 3), colour, np.uint8)
        array[:, : i + 1] = 255 - i  # every image its own
        Image.fromarray(array).convert(mode).save(folder / f"{i:03}.{suffix}")


def write_classes(folder, count=3, colour=0, names=("audi", "bmw"), below=""):
    """Images of two classes, other ones for another colour."""
    for i, name in enumerate(names):
        write_images(folder / name / below, count, colour + 10 * i)


def sizes(data):
    return len(data.train), len(data.val), len(data.test)


@pytest.fixture
def load(tmp_path):
    """`load_data` at 16 px with a cache of its own."""

    def load(name, **options):
        return load_data(str(name), 16, **{"cache": tmp_path / "c"} | options)

    return load


@pytest.fixture
def folder(tmp_path):
    for name, colour in [("audi", 10), ("bmw", 120), ("citroën 2CV", 220)]:
        write_images(tmp_path / "cars" / name, 10, colour)
    return tmp_path / "cars"


# ---- splits


def test_one_folder_is_split_by_seed_and_stratified(folder, load, caplog):
    caplog.set_level(logging.INFO)
    data = load(folder)
    assert f"{folder}: each folder is a class" in caplog.text
    assert sizes(data) == (18, 6, 6)
    assert data.classes == ("audi", "bmw", "citroën 2CV")
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert data.train.images.shape == (18, 3, 16, 16)
    assert data.train.images.dtype == torch.uint8
    again, other = (load(folder, split_seed=seed) for seed in (0, 1))
    assert again.fingerprint == data.fingerprint != other.fingerprint


def test_given_splits_are_kept(tmp_path, load):
    write_classes(tmp_path / "d/train", 8)
    write_classes(tmp_path / "d/test", 3, 100)
    assert sizes(load(tmp_path / "d")) == (14, 2, 6)
    write_classes(tmp_path / "d/val", 2, 50)
    assert sizes(load(tmp_path / "d")) == (16, 4, 6)


SPELLINGS = [
    ("Train", "Validation", "Test"), ("TRAINING", "dev", "TESTING"), ("train", "valid", "test"),
    ("train", "eval", "test"), ("train", "val", "eval"), ("train_set", "val-set", "test set"),
    ("trainset", "valset", "testset"), ("train2017", "val2017", "test2017"),
    ("cars_train", "cars_val", "cars_test"), ("train_images", "val_images", "test_images"),
    ("images/train", "images/val", "images/test"), ("a/b/train", "a/b/val", "a/b/test"),
    ("train", "validate", "test"), ("carsTrain", "carsVal", "carsTest"),
    ("train/train", "val/val", "test/test"), ("seg_train/seg_train", "seg_val", "seg_test"),
]  # fmt: skip


@pytest.mark.parametrize("names", SPELLINGS, ids="-".join)
def test_splits_are_known_by_many_names(tmp_path, load, caplog, names):
    caplog.set_level(logging.INFO)
    for i, name in enumerate(names):
        write_classes(tmp_path / "d" / name, 3 + i, 60 * i)
    data = load(tmp_path / "d")
    assert data.classes == ("audi", "bmw")
    assert sizes(data) == (6, 8, 10)
    assert "2 classes, 6 train, 8 val, 10 test" in caplog.text
    assert f"{Path(names[0]).parts[-1]} is train" in caplog.text


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_a_val_without_a_test_is_the_test_set(tmp_path, load, caplog, name):
    """As ImageNet and Imagenette come."""
    write_classes(tmp_path / "d/train", 10)
    write_classes(tmp_path / "d" / name, 3, 100)
    assert sizes(load(tmp_path / "d")) == (16, 4, 6)
    assert "has no test set: its val is one" in caplog.text


def test_splits_may_lie_in_the_classes(tmp_path, load):
    for part, count in [("train", 4), ("val", 2), ("test", 3)]:
        write_classes(tmp_path / "d", count, 40 * count, below=part)
    data = load(tmp_path / "d")
    assert data.classes == ("audi", "bmw")
    assert sizes(data) == (8, 4, 6)


def test_a_train_alone_is_split_by_seed(tmp_path, load, caplog):
    caplog.set_level(logging.INFO)
    write_classes(tmp_path / "d/train", 10)
    assert sizes(load(tmp_path / "d")) == (12, 4, 4)
    assert f"{tmp_path / 'd/train'}: each folder is a class" in caplog.text


def test_test_images_without_classes_are_left_out(tmp_path, load, caplog):
    """As competitions have them."""
    write_classes(tmp_path / "d/train", 10)
    write_images(tmp_path / "d/test", 5, 100)
    assert sizes(load(tmp_path / "d")) == (12, 4, 4)
    assert "ignored 5 images outside the classes" in caplog.text
    assert ": test" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train", "training", "test"), "train and training are both train"),
        (("val",), "has val and no train"),
        (("val", "test"), "has test, val and no train"),
        (("images/train", "images/test", "masks/train", "masks/test"), "images, masks hold train/"),
        (("train", "test", "trainB"), "train and trainB are both train"),
    ],
)
def test_a_layout_that_is_not_clear_is_refused(tmp_path, load, names, words):
    for name in names:
        write_classes(tmp_path / "d" / name)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "d")


def test_a_class_called_like_the_splits_around_it_is_refused(tmp_path, load):
    for part, colour in (("train", 0), ("test", 100)):
        write_classes(tmp_path / "d" / part, 4, colour, names=("bus", "train"))
    with pytest.raises(ValueError, match="no class may be called like a split"):
        load(tmp_path / "d")


def test_classes_that_look_like_splits_are_remarked(tmp_path, load, caplog):
    write_classes(tmp_path / "d/part 1", 5)
    write_classes(tmp_path / "d/part 2", 5, 100)
    assert load(tmp_path / "d").classes == ("part 1", "part 2")
    assert "part 1, part 2 are taken for classes; if they are splits" in caplog.text


def test_a_class_may_be_called_train(tmp_path, load, caplog):
    write_classes(tmp_path / "d", 5, names=("bus", "car", "train"))
    assert load(tmp_path / "d").classes == ("bus", "car", "train")
    assert "bus, car, train are taken for classes" in caplog.text


def test_limit_keeps_every_class(folder, load):
    data = load(folder, limit=15)
    assert sum(sizes(data)) == 15
    assert data.train.labels.bincount().tolist() == [3, 3, 3]


def test_limit_is_never_exceeded():
    labels = np.repeat(np.arange(3), (300, 40, 3))
    part = assign_splits(
        labels, np.full(343, -1, np.int8), list("abc"), (0.7, 0.15, 0.15), 0, limit=20
    )
    used = [np.bincount(part[labels == i] + 1, minlength=4)[1:] for i in range(3)]
    assert np.sum(used) == 20
    assert np.min(used) == 1


def test_three_images_of_a_class_stand_in_every_split_whatever_the_shares():
    labels = np.repeat(np.arange(2), 3)
    for shares in ((1 / 3, 1 / 6, 1 / 2), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98)):
        part = assign_splits(labels, np.full(6, -1, np.int8), list("ab"), shares, 0)
        assert [np.bincount(part[labels == i]).tolist() for i in (0, 1)] == [[1, 1, 1]] * 2
        part = assign_splits(labels, np.array([0, 0, 2] * 2), list("ab"), shares, 0)
        assert np.bincount(part).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("name", "least"), [("folder", 9), ("splits", 9), ("synthcars", 60)])
def test_the_smallest_limit_is_named(tmp_path, folder, load, name, least):
    if name == "splits":
        for i, split in enumerate(("train", "val", "test")):
            write_classes(tmp_path / "d" / split, 5, 70 * i, names="abc")
    place = {"folder": folder, "splits": tmp_path / "d"}.get(name, name)
    with pytest.raises(ValueError, match=f"limit is {least - 1}: .* at least {least}"):
        load(place, limit=least - 1)
    assert sum(sizes(load(place, limit=least))) == least


def test_validating_on_test_is_another_data_set(folder, load):
    val, test = (load(folder, validate_on=split) for split in ("val", "test"))
    assert torch.equal(test.val.images, val.test.images)
    assert test.fingerprint != val.fingerprint
    assert load_data(**test.spec).fingerprint == test.fingerprint


def test_images_of_train_in_test_are_counted(tmp_path, load, caplog):
    write_classes(tmp_path / "d/train", 6)
    write_classes(tmp_path / "d/test", 4)
    write_images(tmp_path / "d/test/bmw", 7, 200)
    load(tmp_path / "d")
    assert "4 of 11 test images are in train or val, too" in caplog.text
    caplog.clear()
    write_classes(tmp_path / "d/test", 7, 100)
    load(tmp_path / "d")
    assert "too" not in caplog.text


# ---- what is in a folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", r"empty.jpg cannot be read as an image \(it is empty, 0 bytes\)"),
        ("notes.jpg", b"not an image", "notes.jpg cannot be read as an image"),
        ("cut.png", None, "cut.png cannot be read as an image"),
    ],
)
def test_a_bad_file_is_named_or_skipped(folder, tmp_path, load, caplog, name, content, message):
    if content is None:
        content = (folder / "bmw" / "000.png").read_bytes()[:60]
    (folder / "bmw" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}.* --set skip_unreadable=true"):
        load(folder)
    # nothing half-written is left
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {".lock"}
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        assert sum(sizes(load(folder, skip_unreadable=True))) == 30
        assert "skipped 1 of 31 files" in caplog.text


def test_bad_folders_are_named(folder, tmp_path, load):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no class folders"):
        load(tmp_path / "empty")
    write_images(tmp_path / "flat", 3, 10)
    with pytest.raises(ValueError, match="flat has no class folders"):
        load(tmp_path / "flat")
    write_images(tmp_path / "single" / "only", 5, 10)
    with pytest.raises(ValueError, match=r"one class only \(only\)"):
        load(tmp_path / "single")
    (folder / "datsun").mkdir()
    with pytest.raises(ValueError, match="datsun holds no images"):
        load(folder)
    write_images(folder / "datsun", 1, 10)
    with pytest.raises(ValueError, match="class 'datsun' has 1 image"):
        load(folder)


def test_bad_settings_are_named(folder):
    with pytest.raises(ValueError, match="size"):
        load_data(str(folder), 4)
    with pytest.raises(ValueError, match="fit"):
        load_data(str(folder), 16, fit="stretch")
    with pytest.raises(ValueError, match="split"):
        load_data(str(folder), 16, split=(0.5, 0.5, 0.5))


def test_folders_are_walked_and_other_files_are_counted(tmp_path, load, caplog):
    for name, colour in [("audi", 10), ("bmw", 120)]:
        write_images(tmp_path / "d" / name / "2011" / "front", 6, colour)
        write_images(tmp_path / "d" / name, 4, colour + 50)
        (tmp_path / "d" / name / "SHA256SUMS").write_text("abc")
    (tmp_path / "d" / "README.md").write_text("cars")
    (tmp_path / "d" / "bmw" / "2011" / "boxes.txt").write_text("1 2 3 4")
    data = load(tmp_path / "d")
    assert sum(sizes(data)) == 20
    assert data.classes == ("audi", "bmw")
    assert caplog.text.count("ignored 3 files") == 1


def test_what_a_system_puts_among_images_is_no_class(folder, load, caplog):
    """Thumbnails of a NAS, what was deleted, an archive's own files, and images without a class."""
    for name in ("@eaDir", "#recycle", "__MACOSX", ".thumbnails", "bmw/@eaDir/001.png"):
        write_images(folder / name, 5, 77)
    write_images(folder, 2, 99)
    assert load(folder).classes == ("audi", "bmw", "citroën 2CV")
    assert "ignored 3 folders" in caplog.text
    assert "#recycle, @eaDir, __MACOSX" in caplog.text
    assert "ignored 2 images outside the classes" in caplog.text


def test_a_system_s_folder_that_may_not_be_read_is_left_out(folder, load, caplog, monkeypatch):
    (folder / "lost+found").mkdir()

    def refuse(read, path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, partial(refuse, getattr(os, name)))
    assert load(folder).classes == ("audi", "bmw", "citroën 2CV")
    assert "ignored 1 folder in" in caplog.text


def test_a_name_is_one_class_however_its_letters_are_composed(tmp_path, load):
    names = [unicodedata.normalize(form, "citroën") for form in ("NFC", "NFD")]
    if names[0] == names[1]:
        pytest.skip("one form")
    for part, name, colour in zip(("train", "test"), names, (0, 100), strict=True):
        write_classes(tmp_path / "d" / part, 4, colour, names=("audi", name))
    assert load(tmp_path / "d").classes == ("audi", names[0])


def test_capitals_make_another_class(tmp_path, load):
    write_classes(tmp_path / "d/train", 4, names=("audi", "BMW"))
    write_classes(tmp_path / "d/test", 4, 100, names=("audi", "bmw"))
    with pytest.raises(ValueError, match="class 'bmw' has no image in train.*capitals"):
        load(tmp_path / "d")


def test_links_are_followed_and_never_round(tmp_path, folder, load, caplog):
    real = folder.rename(tmp_path / "real")
    folder.mkdir()
    (folder / "audi").symlink_to(real / "audi")
    (folder / "mixed").mkdir()
    (folder / "mixed" / "more").symlink_to(real / "bmw")
    (folder / "mixed" / "one.png").symlink_to(real / "citroën 2CV" / "000.png")
    for loop, target in [("up", ".."), ("self", "."), ("again", "../mixed")]:
        (folder / "mixed" / loop).symlink_to(target)
    (tmp_path / "root").symlink_to("cars")
    data = load(tmp_path / "root")
    assert data.classes == ("audi", "mixed")
    assert sum(sizes(data)) == 21
    assert "ignored 3 folders" in caplog.text
    assert "again, self, up" in caplog.text


def test_files_come_with_their_class(folder, monkeypatch):
    found = [name for _, name in image_files(folder)]
    assert found == ["audi"] * 10 + ["bmw"] * 10 + ["citroën 2CV"] * 10
    monkeypatch.chdir(folder)
    assert [name for _, name in image_files(".")] == found


# ---- the cache


def test_a_changed_folder_is_decoded_again(folder, load):
    before = load(folder)
    write_images(folder / "audi", 11, 60)
    assert load(folder).fingerprint != before.fingerprint


def test_a_change_shows_where_sizes_and_times_stay(folder, tmp_path, load):
    """As archives with one time for all files, and copies that keep their times, have them."""
    for root, colour in (("a", 10), ("b", 90)):
        write_classes(tmp_path / root, 5, colour)
        for path in (tmp_path / root).rglob("*.png"):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
            os.utime(path.with_suffix(".bmp"), (1, 1))
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    assert a.fingerprint != b.fingerprint
    assert a.train.images.float().mean() < b.train.images.float().mean()
    for path in (tmp_path / "a").rglob("*.bmp"):
        path.write_bytes((tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes())
        os.utime(path, (1, 1))
    assert load(tmp_path / "a").fingerprint == b.fingerprint


def test_a_cached_folder_is_not_decoded_again(folder, load, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(datasets, "read_image", lambda *a: pytest.fail("decoded twice"))
    assert load(folder).fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", ["bin", "json"])
def test_a_damaged_cache_is_named(folder, tmp_path, load, kind):
    load(folder)
    (path,) = (tmp_path / "c").glob(f"*.{kind}")
    content = path.read_bytes()
    changed = content.replace(b'"bmw"', b'"mbw"') if kind == "json" else content[:-1] + b"\1"
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        load(folder, split_seed=1)


def test_home_is_expanded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data = load_data("~/cars", 16, cache="~/c")
    assert sum(sizes(data)) == 30
    assert (tmp_path / "c").is_dir()
    assert data.spec["name_or_folder"] == str(folder)


# ---- names


def test_a_data_set_of_a_plug_in(tmp_path, monkeypatch):
    lines = [
        "import numpy as np",
        "IMAGES = 12",
        "def class_names(): return ['dark', 'light']",
        "def draw(count, size):",
        "    labels = np.arange(count) % 2",
        "    images = np.full((count, size, size, 3), 255, np.uint8) * labels[:, None, None, None]",
        "    return images.astype(np.uint8), labels",
    ]
    (tmp_path / "my_shapes.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("shapes", "my_shapes", "ktglite.datasets")
    monkeypatch.setattr(datasets, "entry_points", lambda group: [point])
    data = datasets.load_data("shapes", 16, cache=tmp_path / "cache")
    assert data.classes == ("dark", "light")
    assert sum(map(len, (data.train, data.val, data.test))) == 12
    assert (data.train.images[data.train.labels == 1] == 255).all()
    assert not data.train.images[data.train.labels == 0].any()
    with pytest.raises(FileNotFoundError, match="nor one of shapes, stanford_cars"):
        datasets.load_data("other", 16, cache=tmp_path / "cache")


def test_a_folder_called_like_a_data_set_and_images_beyond_a_limit_are_told(
    tmp_path, load, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "synthcars", count=10)
    load_data("synthcars", 16, limit=60, cache=tmp_path / "c")
    assert "synthcars is the data set of that name; ./synthcars would be the folder" in caplog.text
    load("./synthcars", limit=12)
    assert "./synthcars: limit 12 leaves out 8 of 20 images" in caplog.text
    for wrong in ({"size": "24"}, {"size": 24, "split_seed": -1}):
        with pytest.raises(ValueError, match=f"{[*wrong][-1]} is "):
            load_data("synthcars", cache=tmp_path / "c", **wrong)


def test_the_folder_of_torchvision_s_files_counts(tmp_path, monkeypatch):
    def fake(raw, split, download):
        picture = Image.new("RGB", (16, 16), (len(str(raw)), 0, 0))
        return Rows((picture, i % 2) for i in range(6))

    class Rows(list):
        classes = ("a", "b")

    entry = fake, "split", {"train": 0, "test": 2}
    monkeypatch.setitem(datasets.TORCHVISION, "flowers102", entry)
    one, other = (
        load_data("flowers102", 16, cache=tmp_path / "c", raw=tmp_path / raw) for raw in ("a", "bb")
    )
    assert one.fingerprint != other.fingerprint


def test_synthcars_by_name(tmp_path):
    data = load_data("synthcars", 16, limit=120, cache=tmp_path)
    assert len(data.classes) >= 20
    assert sum(sizes(data)) == 120
    assert data.fingerprint == load_data("synthcars", 16, limit=120, cache=tmp_path).fingerprint
    assert data.fingerprint.startswith("0a32ae81")  # records of finished trainings have it


def test_stanford_cars_says_what_to_place_where(tmp_path, load):
    words = r"place its files under .*raw as torchvision .* such as hf:tanganke/stanford_cars"
    with pytest.raises(FileNotFoundError, match=words):
        load("stanford_cars", raw=tmp_path / "raw")


class FakeHub:
    """What is used of the library `datasets`: rows are made as they are read."""

    def __init__(self, columns=None, row=None, **parts):
        names = ["a", "b"]
        kinds = {"Image": type("Image", (), {}), "Value": type("Value", (), {})}
        kinds["ClassLabel"] = type("ClassLabel", (), {"names": names})
        columns = columns or {"image": "Image", "label": "ClassLabel"}
        features = {column: kinds[kind]() for column, kind in columns.items()}
        self.alive = []

        def default(i):
            grey = Image.fromarray(np.full((20, 20, 3), i, np.uint8))
            assert sum(picture() is not None for picture in self.alive) <= 1  # the last one
            self.alive.append(weakref.ref(grey))
            return {column: grey if kind == "Image" else i % 2 for column, kind in columns.items()}

        class Part:
            def __init__(self, start, count):
                self.features, self.numbers = features, range(start, start + count)

            def __iter__(self):
                return map(row or default, self.numbers)

        self.found = {
            part: Part(sum(list(parts.values())[:i]), count)
            for i, (part, count) in enumerate(parts.items())
        }

    def load_dataset(self, name, *config):
        self.loaded = name, *config
        return self.found

    def load_from_disk(self, name):
        self.loaded = "disk", name
        return self.found


@pytest.fixture
def hub(monkeypatch):
    def hub(*given, **parts):
        fake = FakeHub(*given, **parts)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return fake

    return hub


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"train": 20, "validation": 6}, (16, 4, 6)),
        ({"train": 20, "val": 6, "test": 8}, (20, 6, 8)),
        ({"Training": 20, "dev": 6, "eval": 8}, (20, 6, 8)),
        ({"train": 20}, (12, 4, 4)),
        ({"full": 20}, (12, 4, 4)),
        ({"train": 20, "unlabelled": 6}, (12, 4, 4)),
    ],
)
def test_a_hugging_face_data_set(load, hub, parts, wanted):
    hub(**parts)
    data = load("hf:user/cars")
    assert data.name == "cars"
    assert data.classes == ("a", "b")
    assert sizes(data) == wanted


def test_stanford_cars_of_the_hub(load, hub, caplog):
    """A hundredth of 8,144 training and 8,041 test images, and of test sets of other kinds."""
    hub(train=82, test=80, contrast=80, motion_blur=80)
    assert sizes(load("hf:tanganke/stanford_cars")) == (68, 14, 80)
    assert "left out the splits contrast, motion_blur" in caplog.text


def test_a_column_is_chosen_not_guessed(load, hub):
    columns = {"img": "Image", "fine": "ClassLabel", "coarse": "ClassLabel"}
    hub(columns, train=20)
    with pytest.raises(ValueError, match=r"has img \(Image\), fine .*choose .*hf:u/c,label=fine"):
        load("hf:u/c")
    assert load("hf:u/c,label=coarse").classes == ("a", "b")
    hub({"image": "Image", "mask": "Image", "label": "ClassLabel"}, train=20)
    with pytest.raises(ValueError, match="choose one by hf:u/c,image=image"):
        load("hf:u/c")
    hub({"image": "Image", "label": "Value"}, train=20)
    with pytest.raises(ValueError, match=r"a column of kind ClassLabel .*label \(Value\)"):
        load("hf:u/c")
    with pytest.raises(ValueError, match="lable is none of image, label, config and splits"):
        load("hf:u/c,lable=x")


def test_splits_and_configurations_are_chosen(load, hub):
    fake = hub(train=20, validation=6, test=8)
    assert sizes(load("hf:u/c,config=small,splits=train+test")) == (16, 4, 8)
    assert fake.loaded == ("u/c", "small")
    hub(one=20, two=8)
    with pytest.raises(ValueError, match="has the splits one, two: choose"):
        load("hf:u/c")
    assert sizes(load("hf:u/c,splits=one")) == (12, 4, 4)


def test_rows_that_cannot_be_used_are_named(load, hub):
    grey = Image.new("RGB", (20, 20))
    hub(None, lambda i: {"image": grey, "label": -1 if i == 22 else i % 2}, train=20, test=6)
    with pytest.raises(ValueError, match=r"image 2 of test in hf:u/c .*no label.*splits=NAME"):
        load("hf:u/c")
    hub(None, lambda i: {"image": None, "label": 0}, train=20)
    with pytest.raises(ValueError, match="image 0 of all in hf:u/d cannot be used"):
        load("hf:u/d")


def test_a_saved_data_set_is_read_again_when_it_changes(load, hub, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    fake = hub(train=20, test=6)
    name = f"hf:{tmp_path / 'saved'}"
    assert sizes(load(name)) == (16, 4, 6)
    assert fake.loaded == ("disk", str(tmp_path / "saved"))
    hub(train=40, test=6)
    assert sizes(load(name)) == (16, 4, 6)
    (tmp_path / "saved" / "data.arrow").write_text("more")
    assert sizes(load(name)) == (32, 8, 6)


def test_what_the_library_says_is_passed_on(load, hub, monkeypatch):
    fake = hub(train=20)

    def fail(name):
        raise ValueError("Config name is missing.\nPick one of: ['a']")

    fake.load_dataset = fail
    with pytest.raises(ValueError, match=r"hf:u/c could not be loaded \(Config name is missing. P"):
        load("hf:u/c")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"ktglite\[hf\]"):
        load("hf:u/c")


def test_a_run_among_the_classes_is_no_class(folder, load, caplog):
    """Its figures are no images; the cache beside them is told where it is taken for a class."""
    write_images(folder / "my run" / "figures", 5, 77)
    (folder / "my run/profile.json").write_text('{"profile": "quick"}')
    assert load(folder).classes == ("audi", "bmw", "citroën 2CV")
    assert "ignored 1 folder in" in caplog.text
    (folder / "data/cache").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data holds no images: .* run this in another folder"):
        load(folder)


@pytest.mark.parametrize("name", ["limit", "split_seed"])
@pytest.mark.parametrize("value", ["10", 10.5])
def test_numbers_of_load_data_are_whole(folder, load, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}: it must be a whole number"):
        load(folder, **{name: value})
