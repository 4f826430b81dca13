"""Folders and names become splits; what was understood is said; bad input is named."""

import json
import logging
import os
import sys
import unicodedata
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ktglite.sources import datasets
from ktglite.sources.datasets import assign_splits, load_data

GREY = Image.new("RGB", (20, 20))
LABEL, PICTURE = {"label": "ClassLabel"}, {"image": "Image"}
TRAIN_AND_TEST = {"train/*": 4, "test/*": 4}


def write_images(folder, count, colour, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        array = np.full((24, 20, 3), colour, np.uint8)
        array[:, : i + 1] = 255 - i  # every image its own
        Image.fromarray(array).save(folder / f"{i:03}.{suffix}")


def write_folders(top, counts, classes=("audi", "bmw")):
    """Images in each folder; a star stands for the classes. No two folders have one colour."""
    for i, (folder, count) in enumerate(counts.items()):
        for j, name in enumerate(classes if "*" in folder else [""]):
            write_images(top / folder.replace("*", name), count, 50 * i + 10 * j)
    return top


def sizes(data):
    return len(data.train), len(data.val), len(data.test)


class Rows(list):
    """As a library has them: something with attributes."""

    classes = ("a", "b")


@pytest.fixture
def load(tmp_path, caplog):
    """`load_data` at 16 px with a cache of its own."""
    caplog.set_level(logging.INFO)

    def load(name, **options):
        return load_data(str(name), 16, **{"cache": tmp_path / "c"} | options)

    return load


@pytest.fixture
def folder(tmp_path):
    return write_folders(tmp_path / "cars", {"audi": 10, "bmw": 10, "citroën 2CV": 10})


# ---- splits


def test_one_folder_is_split_by_seed_and_stratified(folder, load, caplog):
    data = load(folder)
    assert f"{folder}: each folder is a class" in caplog.text
    assert sizes(data) == (18, 6, 6)
    assert data.classes == ("audi", "bmw", "citroën 2CV")
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert data.train.images.shape == (18, 3, 16, 16)
    assert data.train.images.dtype == torch.uint8
    again, other = (load(folder, split_seed=seed) for seed in (0, 1))
    assert again.fingerprint == data.fingerprint != other.fingerprint
    limited = load(folder, limit=15)
    assert sum(sizes(limited)) == 15
    assert limited.train.labels.bincount().tolist() == [3, 3, 3]
    assert "limit 15 leaves out 15 of 30 images" in caplog.text


SPELLINGS = [
    ("Train", "Validation", "Test"), ("TRAINING", "dev", "TESTING"), ("train", "valid", "test"),
    ("train", "eval", "test"), ("train", "val", "eval"), ("train_set", "val-set", "test set"),
    ("trainset", "valset", "testset"), ("train2017", "val2017", "test2017"),
    ("cars_train", "cars_val", "cars_test"), ("train_images", "val_images", "test_images"),
    ("images/train", "images/val", "images/test"), ("a/b/train", "a/b/val", "a/b/test"),
    ("train", "validate", "test"), ("carsTrain", "carsVal", "carsTest"),
    ("train/train", "val/val", "test/test"), ("seg_train/seg_train", "seg_val", "seg_test"),
]  # fmt: skip
LAYOUTS = [
    ({f"{name}/*": 2 + i for i, name in enumerate(names)}, (4, 6, 8), f"{Path(names[0]).name} is")
    for names in SPELLINGS
]
LAYOUTS += [
    ({"train/*": 8, "test/*": 3}, (14, 2, 6), "2 classes, 14 train, 2 val, 6 test"),
    ({"train/*": 10, "dev/*": 3}, (16, 4, 6), "has no test set: its val is one"),  # as ImageNet
    ({"*/train": 4, "*/val": 2, "*/test": 3}, (8, 4, 6), ""),
    ({"train/*": 10}, (12, 4, 4), "train: each folder is a class"),
    # as competitions have it
    ({"train/*": 10, "test": 5}, (12, 4, 4), "ignored 5 images outside the classes"),
]


@pytest.mark.parametrize(("counts", "wanted", "words"), LAYOUTS)
def test_splits_are_known_by_many_names(tmp_path, load, caplog, counts, wanted, words):
    data = load(write_folders(tmp_path / "d", counts))
    assert data.classes == ("audi", "bmw")
    assert sizes(data) == wanted
    assert words in caplog.text


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"train/*": 3, "training/*": 3, "test/*": 3}, "train and training are both train"),
        ({"train/*": 3, "test/*": 3, "trainB/*": 3}, "train and trainB are both train"),
        ({"val/*": 3}, "has val and no train"),
        ({"val/*": 3, "test/*": 3}, "has test, val and no train"),
        ({"images/train/*": 1, "images/test/*": 1, "masks/train/*": 1, "masks/test/*": 1},
         "images, masks hold train/"),
        (TRAIN_AND_TEST | {"train/train": 4, "test/train": 4}, "no class may be called like a spl"),
        (TRAIN_AND_TEST | {"train/VW": 4, "test/vw": 4}, "class 'vw' has no image in train.*capit"),
        ({"": 3}, "d has no class folders"),
        ({"only": 5}, r"one class only \(only\)"),
        ({"*": 5, "datsun": 0}, "datsun holds no images"),
        ({"*": 5, "datsun": 1}, "class 'datsun' has 1 image"),
    ],
)  # fmt: skip
def test_a_layout_that_is_not_clear_is_refused(tmp_path, load, counts, words):
    with pytest.raises(ValueError, match=words):
        load(write_folders(tmp_path / "d", counts))


@pytest.mark.parametrize("folders", [("part 1/*", "part 2/*"), ("bus", "train")])
def test_classes_that_look_like_splits_are_remarked(tmp_path, load, caplog, folders):
    data = load(write_folders(tmp_path / "d", dict.fromkeys(folders, 5)))
    assert data.classes == tuple(folder.removesuffix("/*") for folder in folders)
    assert f"{', '.join(data.classes)} are taken for classes; if they are splits" in caplog.text


def test_few_images_and_small_limits_leave_every_class_in_every_split():
    labels, names = np.repeat(np.arange(3), (300, 40, 3)), list("abc")
    part = assign_splits(labels, np.full(343, -1, np.int8), names, (0.7, 0.15, 0.15), 0, limit=20)
    used = [np.bincount(part[labels == i] + 1, minlength=4)[1:] for i in range(3)]
    assert np.sum(used) == 20
    assert np.min(used) == 1
    labels, names = np.repeat(np.arange(2), 3), list("ab")
    for shares in ((1 / 3, 1 / 6, 1 / 2), (0.01, 0.98, 0.01), (0.01, 0.01, 0.98)):
        part = assign_splits(labels, np.full(6, -1, np.int8), names, shares, 0)
        assert [np.bincount(part[labels == i]).tolist() for i in (0, 1)] == [[1, 1, 1]] * 2
        part = assign_splits(labels, np.array([0, 0, 2] * 2), names, shares, 0)
        assert np.bincount(part).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("name", "least"), [("folder", 9), ("splits", 9), ("synthcars", 60)])
def test_the_smallest_limit_is_named(tmp_path, folder, load, name, least):
    split = write_folders(tmp_path / "d", {"train/*": 5, "val/*": 5, "test/*": 5}, "abc")
    place = {"folder": folder, "splits": split}.get(name, name)
    with pytest.raises(ValueError, match=f"limit is {least - 1}: .* at least {least}"):
        load(place, limit=least - 1)
    assert sum(sizes(load(place, limit=least))) == least


def test_validating_on_test_is_another_data_set(folder, load):
    val, test = (load(folder, validate_on=split) for split in ("val", "test"))
    assert torch.equal(test.val.images, val.test.images)
    assert test.fingerprint != val.fingerprint
    assert load_data(**test.spec).fingerprint == test.fingerprint


def test_images_of_train_in_test_are_counted(tmp_path, load, caplog):
    load(write_folders(tmp_path / "d", {"train/*": 6, "test/*": 7}))
    assert "too" not in caplog.text
    for path in (tmp_path / "d/train/audi").iterdir():
        path.rename(tmp_path / "d/test/audi" / path.name)
        write_images(tmp_path / "d/train/audi", 4, 0)
    load(tmp_path / "d")
    assert "4 of 14 test images are in train or val, too" in caplog.text


# ---- what is in a folder


def test_a_bad_file_is_named_or_skipped(folder, tmp_path, load, caplog):
    (folder / "bmw/cut.png").write_bytes((folder / "bmw/000.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read.*--set skip_unreadable=true"):
        load(folder)
    # nothing half-written is left
    assert {path.suffix for path in (tmp_path / "c").iterdir()} <= {".lock"}
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        assert sum(sizes(load(folder, skip_unreadable=True))) == 30
        assert "skipped 1 of 31 files" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 4}, "size is 4"),
        ({"size": "24"}, "size is '24'"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"fit": "stretch"}, "fit is 'stretch'"),
        ({"validate_on": "train"}, "validate_on is 'train'"),
        ({"split": (0.5, 0.5, 0.5)}, "split is"),
        ({"name_or_folder": "nowhere"}, "'nowhere' is neither a folder nor hf:USER/NAME nor one"),
    ],
)
def test_bad_arguments_are_named(folder, given, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load_data(**{"name_or_folder": str(folder), "size": 16} | given)


def test_folders_are_walked_and_what_is_no_image_of_a_class_is_counted(folder, load, caplog):
    """Thumbnails of a NAS, what was deleted, an archive's own files, and images without a class."""
    write_images(folder / "audi/2011/front", 6, 200)
    for name in ("@eaDir", "#recycle", "__MACOSX", ".thumbnails", "bmw/@eaDir/001.png"):
        write_images(folder / name, 5, 77)
    write_images(folder, 2, 99)
    for name in ("README.md", "bmw/SHA256SUMS", "audi/boxes"):
        (folder / name).write_text("1 2 3 4")
    data = load(folder)
    assert data.classes == ("audi", "bmw", "citroën 2CV")
    assert sum(sizes(data)) == 36
    for words in ("2 files", "3 folders", "2 images outside the classes"):
        assert caplog.text.count(f"ignored {words}") == 1
    assert "#recycle, @eaDir, __MACOSX" in caplog.text


def test_a_name_is_one_class_however_its_letters_are_composed(tmp_path, load):
    names = [unicodedata.normalize(form, "citroën") for form in ("NFC", "NFD")]
    counts = TRAIN_AND_TEST | {f"train/{names[0]}": 4, f"test/{names[1]}": 4}
    assert load(write_folders(tmp_path / "d", counts)).classes == ("audi", "bmw", names[0])


def test_classes_that_differ_in_capitals_only_are_told(tmp_path, load, caplog):
    assert len(load(write_folders(tmp_path, {"Cat": 4, "cat": 4, "dog": 4})).classes) == 3
    assert "some classes differ in capitals only: Cat, cat, dog" in caplog.text


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


# ---- the cache


def test_a_folder_is_decoded_again_when_it_has_changed_and_only_then(folder, load, monkeypatch):
    first = load(folder)
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "read_image", lambda *given: pytest.fail("decoded twice"))
        assert load(folder).fingerprint == first.fingerprint
    write_images(folder / "audi", 11, 60)
    assert load(folder).fingerprint != first.fingerprint


def test_a_change_shows_where_sizes_and_times_stay(tmp_path, load):
    """As archives with one time for all files, and copies that keep their times, have them."""
    for root, colour in (("a", 10), ("b", 90)):
        for i, name in enumerate(("audi", "bmw")):
            write_images(tmp_path / root / name, 5, colour + 10 * i, "bmp")
        for path in (tmp_path / root).rglob("*.bmp"):
            os.utime(path, (1, 1))
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    assert a.fingerprint != b.fingerprint
    assert a.train.images.float().mean() < b.train.images.float().mean()
    for path in (tmp_path / "a").rglob("*.bmp"):
        path.write_bytes((tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes())
        os.utime(path, (1, 1))
    assert load(tmp_path / "a").fingerprint == b.fingerprint


@pytest.mark.parametrize("kind", ["bin", "json"])
def test_a_damaged_cache_is_named(folder, tmp_path, load, kind):
    load(folder)
    (path,) = (tmp_path / "c").glob(f"*.{kind}")
    content = path.read_bytes()
    changed = content.replace(b'"bmw"', b'"mbw"') if kind == "json" else content[:-1] + b"\1"
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        load(folder, split_seed=1)


# ---- names

PLUG_IN = """
import numpy as np
IMAGES = 12
def class_names(): return ["dark", "light"]
def draw(count, size):
    labels = np.arange(count) % 2
    pixels = np.repeat(255 * labels, size * size * 3)
    return pixels.astype(np.uint8).reshape(count, size, size, 3), labels
"""


def test_a_data_set_of_a_plug_in(tmp_path, load, monkeypatch):
    (tmp_path / "my_shapes.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("shapes", "my_shapes", "ktglite.datasets")
    monkeypatch.setattr(datasets, "entry_points", lambda group: [point])
    data = load("shapes")
    assert data.classes == ("dark", "light")
    assert sum(sizes(data)) == 12
    assert (data.train.images == 255 * data.train.labels.reshape(-1, 1, 1, 1)).all()
    with pytest.raises(FileNotFoundError, match="nor one of shapes, stanford_cars"):
        load("other")


def test_the_folder_of_torchvision_s_files_counts(tmp_path, load, monkeypatch):
    def fake(raw, split, download):
        picture = Image.new("RGB", (16, 16), (len(str(raw)), 0, 0))
        return Rows((picture, i % 2) for i in range(6))

    entry = fake, "split", {"train": 0, "test": 2}
    monkeypatch.setitem(datasets.TORCHVISION, "flowers102", entry)
    one, other = (load("flowers102", raw=tmp_path / raw) for raw in ("a", "bb"))
    assert one.fingerprint != other.fingerprint


def test_synthcars_by_name_and_not_the_folder_called_so(tmp_path, load, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "synthcars", {"*": 10})
    data = load("synthcars", limit=120)
    assert "synthcars is the data set of that name; ./synthcars would be the folder" in caplog.text
    assert len(data.classes) >= 20
    assert sum(sizes(data)) == 120
    assert data.fingerprint.startswith("0a32ae81")  # records of finished trainings have it
    assert load("./synthcars").classes == ("audi", "bmw")


def test_stanford_cars_says_what_to_place_where(tmp_path, load):
    words = r"place its files under .*raw as torchvision .* such as hf:tanganke/stanford_cars"
    with pytest.raises(FileNotFoundError, match=words):
        load("stanford_cars", raw=tmp_path / "raw")


@pytest.fixture
def hub(monkeypatch):
    """What is used of the library `datasets`: parts of so many rows, of so many columns."""

    def hub(columns=PICTURE | LABEL, **counts):
        features = {name: type(kind, (), {"names": "ab"})() for name, kind in columns.items()}
        numbers = iter(range(1000))
        parts = {}
        for name, count in counts.items():
            rows = [{"image": GREY, "img": GREY, "label": next(numbers) % 2} for _ in range(count)]
            parts[name] = Rows(rows)
            parts[name].features = features
        fake = SimpleNamespace(parts=parts, asked=[])
        fake.load_dataset = lambda *given: fake.asked.append(given) or parts
        fake.load_from_disk = partial(fake.load_dataset, "disk")
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return fake

    return hub


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"train": 20, "validation": 6}, (16, 4, 6)),
        ({"Training": 20, "dev": 6, "eval": 8}, (20, 6, 8)),
        ({"full": 20}, (12, 4, 4)),
        ({"train": 20, "unlabelled": 6}, (12, 4, 4)),
        # a hundredth of Stanford Cars, with test sets of other kinds
        ({"train": 82, "test": 80, "contrast": 80, "motion_blur": 80}, (68, 14, 80)),
    ],
)
def test_a_hugging_face_data_set(load, hub, caplog, parts, wanted):
    hub(**parts)
    data = load("hf:user/cars")
    assert data.name == "cars"
    assert data.classes == ("a", "b")
    assert sizes(data) == wanted
    assert ("left out the splits contrast, motion_blur" in caplog.text) == ("contrast" in parts)


@pytest.mark.parametrize(
    ("columns", "parts", "words"),
    [
        ({"img": "Image", "fine": "ClassLabel", "coarse": "ClassLabel"}, ["train"],
         r"has img \(Image\), fine .*choose .*hf:u/c,label=fine"),
        (PICTURE | LABEL | {"mask": "Image"}, ["train"], "choose one by hf:u/c,image=image"),
        (PICTURE | {"label": "Value"}, ["train"], "a column of kind ClassLabel"),
        (PICTURE | LABEL, ["one", "two"], "has the splits one, two: choose"),
    ],
)  # fmt: skip
def test_a_column_or_split_is_chosen_not_guessed(load, hub, columns, parts, words):
    hub(columns, **dict.fromkeys(parts, 20))
    with pytest.raises(ValueError, match=words):
        load("hf:u/c")


def test_splits_whose_classes_are_in_another_order_are_refused(load, hub):
    fake = hub(train=20, test=8)
    other = type("ClassLabel", (), {"names": "ba"})()
    fake.parts["test"].features = fake.parts["test"].features | {"label": other}
    with pytest.raises(ValueError, match="class names of test, train differ"):
        load("hf:u/c")


def test_columns_splits_and_configurations_are_chosen(load, hub):
    fake = hub({"img": "Image", "fine": "ClassLabel"} | LABEL, train=20, val=6, test=8)
    found = load("hf:u/c,config=small,splits=train+test,label=label")
    assert sizes(found) == (16, 4, 8)
    assert fake.asked == [("u/c", "small")]
    with pytest.raises(ValueError, match="lable is none of image, label, config and splits"):
        load("hf:u/c,lable=x")


def test_rows_that_cannot_be_used_are_named(load, hub):
    hub(train=20, test=6).parts["test"][2]["label"] = -1
    with pytest.raises(ValueError, match=r"image 2 of test in hf:u/c .*no label.*splits=NAME"):
        load("hf:u/c")
    hub(train=20).parts["train"][0]["image"] = None
    with pytest.raises(ValueError, match="image 0 of all in hf:u/d cannot be used"):
        load("hf:u/d")


def test_what_the_library_says_is_passed_on(load, monkeypatch):
    def fail(name):
        raise ValueError("Config name is missing.\nPick one of: ['a']")

    for fake, words in ((SimpleNamespace(load_dataset=fail), "missing. P"), (None, "ktglite.hf")):
        monkeypatch.setitem(sys.modules, "datasets", fake)
        with pytest.raises(ValueError, match=words):
            load("hf:u/c")


def test_a_saved_data_set_is_read_again_when_it_changes(load, hub, tmp_path):
    saved = tmp_path / "saved"
    saved.mkdir()
    fake = hub(train=20, test=6)
    (saved / "dataset_dict.json").write_text("{}")
    assert sizes(load(f"hf:{saved}")) == (16, 4, 6)
    assert fake.asked == [("disk", str(saved))]
    hub(train=40, test=6)
    assert sizes(load(f"hf:{saved}")) == (16, 4, 6)
    (saved / "data.arrow").write_text("more")
    assert sizes(load(f"hf:{saved}")) == (32, 8, 6)


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
    found = load(folder, **{name: np.int64(20)})  # as numpy's are
    assert json.loads(json.dumps(found.spec))[name] == 20
