"""A name or a folder becomes train, validation and test images, decoded once and cached."""

import json
import logging
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision import datasets

from ktglite.data import Data, Split
from ktglite.models import file_hash
from ktglite.sources import synthcars
from ktglite.store import atomic_dir, code_hash, make_key, make_once

__all__ = ["load_data"]

log = logging.getLogger(__name__)

SYNTHCARS_IMAGES = 12_554  # as many as the paper's car set
SPLITS = ("train", "val", "test")
ANNOTATIONS = (
    "val_annotations.txt"  # in the val/ of tiny-imagenet-200 as it is downloaded: file, class, box
)
Fit = Callable[[int, int], tuple[float, float, float, float]]
# Name: torchvision's class, the argument that chooses a part, and its values with the split each of
# them is.
TORCHVISION = {
    "stanford_cars": (datasets.StanfordCars, "split", {"train": 0, "test": 2}),
    "fgvc_aircraft": (datasets.FGVCAircraft, "split", {"train": 0, "val": 1, "test": 2}),
    "flowers102": (datasets.Flowers102, "split", {"train": 0, "val": 1, "test": 2}),
    "oxford_iiit_pet": (datasets.OxfordIIITPet, "split", {"trainval": 0, "test": 2}),
    "cifar10": (datasets.CIFAR10, "train", {True: 0, False: 2}),
    "cifar100": (datasets.CIFAR100, "train", {True: 0, False: 2}),
    "imagenette": (datasets.Imagenette, "split", {"train": 0, "val": 2}),
    "imagenet": (datasets.ImageNet, "split", {"train": 0, "val": 2}),
}
# What torchvision cannot download, and which files to place where.
PLACE = {
    "stanford_cars": "stanford_cars/ with devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat",
    "imagenet": "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz",
}


def load_data(
    name_or_folder: str,
    size: int,
    limit: int | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    fit: str = "squash",
    skip_unreadable: bool = False,
    validate_on: str = "val",
    cache: str | Path = "data/cache",
    raw: str | Path = "data/raw",
) -> Data:
    """Train, validation and test images of a data set.

    - `name_or_folder`: "synthcars" (drawn by formula), a data set of torchvision (`TORCHVISION`,
      under `raw`), or a folder of class folders, optionally below train/, val/ and test/, as
      torchvision's ImageFolder has them.
    - `size`: side of the square images in pixels, 8..1024.  `fit`: "squash" the image or
      centre-"crop" it first.
    - `limit`: number of images to use in all, the same share of every class; None for all of them.
    - `split`: shares of train, val and test where the data set has no such folders; stratified,
      from `split_seed`. What a data set does split itself is kept. Without a val, one is taken out
      of its train; without a test, its val is the test set.
    - `validate_on`: "test" puts the test images in the place of val, as the released code of the
      graph selects.

    Raises ValueError or FileNotFoundError that names the file or folder at fault.
    """
    spec = {
        "name_or_folder": str(name_or_folder), "size": size, "limit": limit, "split": tuple(split),
        "split_seed": split_seed, "fit": fit, "skip_unreadable": skip_unreadable, "validate_on": validate_on,
        "cache": str(cache), "raw": str(raw),
    }  # fmt: skip
    if not 8 <= size <= 1024:
        raise ValueError(f"size is {size}: images are square, 8 to 1024 px")
    for name, allowed in {"fit": ("squash", "crop"), "validate_on": ("val", "test")}.items():
        if spec[name] not in allowed:
            raise ValueError(f"{name} is {spec[name]!r}: allowed are {', '.join(allowed)}")
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ValueError(
            f"split is {split}: it needs three positive shares of train, val and test that sum to 1"
        )
    images, labels, given, classes = _decoded(spec)
    part = assign_splits(labels, given, classes, split, split_seed, limit)
    parts = [np.flatnonzero(part == i) for i in range(3)]
    if validate_on == "test":
        parts[1] = parts[2]
    splits = [
        Split(torch.from_numpy(images[index]), torch.from_numpy(labels[index])) for index in parts
    ]
    return Data(Path(name_or_folder).name, size, tuple(classes), *splits, spec=spec)


def _decoded(spec: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """All images of a data set, uint8 (n, 3, S, S), labels, given splits (-1 for none) and class names, cached."""
    name, size, cache = spec["name_or_folder"], spec["size"], Path(spec["cache"])
    if name == "synthcars":
        count = spec["limit"] or SYNTHCARS_IMAGES
        key = [size, count, code_hash("ktglite.sources.synthcars")]
        return _cached(cache, "synthcars", key, partial(_synthcars, count, size))
    if name in TORCHVISION:
        return _cached(
            cache,
            name,
            [size, spec["fit"]],
            partial(_torchvision, name, size, spec["fit"], spec["raw"]),
        )
    if name.startswith("hf:"):
        return _cached(
            cache,
            "hf",
            [name, size, spec["fit"]],
            partial(_hugging_face, name[3:], size, spec["fit"]),
        )
    if Path(name).is_dir():
        return _folder(Path(name), size, spec["fit"], spec["skip_unreadable"], cache)
    names = ", ".join(["synthcars", *TORCHVISION])
    raise FileNotFoundError(f"{name!r} is neither a folder nor hf:USER/NAME nor one of {names}")


def assign_splits(
    labels: np.ndarray,
    given: np.ndarray,
    classes: list[str],
    shares: tuple[float, float, float],
    seed: int,
    limit: int | None = None,
) -> np.ndarray:
    """The split of every image: 0 train, 1 val, 2 test, -1 unused by `limit`. int8 (n,), stratified
    by class.

    `given` holds 0, 1, 2 where the data set decides and -1 where it does not. Raises ValueError
    naming a class with too few images to stand in every split.
    """
    part = given.copy()
    share = 1.0 if limit is None else min(1.0, limit / len(labels))
    rng = np.random.default_rng([seed, 1])
    for label, name in enumerate(classes):
        for source in np.unique(given[labels == label]):
            index = rng.permutation(np.flatnonzero((labels == label) & (given == source)))
            keep = max(round(share * len(index)), min(len(index), 3))
            part[index[keep:]] = -1
            index = index[:keep]
            if source == -1:
                n_test, n_val = (max(1, round(s * keep)) for s in (shares[2], shares[1]))
            elif source == 0 and not (given == 1).any():
                n_test, n_val = 0, max(1, round(shares[1] / (shares[0] + shares[1]) * keep))
            else:
                continue
            if keep < n_test + n_val + 1:
                need = "train, val and test" if n_test else "train and val"
                raise ValueError(
                    f"class {name!r} has {keep} image(s): {need} need at least one each; add images or remove the class"
                )
            part[index] = 0
            part[index[:n_test]] = 2
            part[index[n_test : n_test + n_val]] = 1
    for i, split in enumerate(SPLITS):
        if not (part == i).any():
            raise ValueError(f"no image is left for {split}")
        absent = [
            name
            for label, name in enumerate(classes)
            if not ((labels == label) & (part == i)).any()
        ]
        if absent and i != 1:
            raise ValueError(
                f"class {absent[0]!r} has no image in {split}; every class needs one in train and in test"
            )
    return part


def _cached(cache: Path, stem: str, key: list, make: Callable[[], tuple]) -> tuple:
    """`make()` -> (images, labels, given, classes), done once and kept under `cache`, the images
    memory-mapped.

    Raises ValueError naming the folder when it was damaged since.
    """

    def write(folder: Path) -> None:
        images, labels, given, classes = make()
        with atomic_dir(folder) as partial_folder:
            np.save(partial_folder / "images.npy", images)
            facts = {"labels": labels.tolist(), "given": given.tolist(), "classes": list(classes)}
            facts["sha256"] = file_hash(partial_folder / "images.npy")
            (partial_folder / "facts.json").write_text(json.dumps(facts))

    folder = make_once(cache / f"{stem}-{make_key(stem, key)[:16]}", write)
    try:
        facts = json.loads((folder / "facts.json").read_text())
        if file_hash(folder / "images.npy") != facts["sha256"]:
            raise ValueError("its images are not as they were written")
        images = np.load(folder / "images.npy", mmap_mode="r")
        labels, given = np.array(facts["labels"], np.int64), np.array(facts["given"], np.int8)
        if not len(images) == len(labels) == len(given):
            raise ValueError(f"{len(images)} images, {len(labels)} labels")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} is damaged ({error}); delete it and it is made again"
        ) from error
    return images, labels, given, facts["classes"]


def _synthcars(count: int, size: int) -> tuple:
    images, labels = synthcars.draw(count, size)
    images = np.ascontiguousarray(np.moveaxis(images, 3, 1))
    return images, labels, np.full(len(labels), -1, np.int8), synthcars.class_names()


def _torchvision(name: str, size: int, fit: str, raw: str) -> tuple:
    kind, argument, flags = TORCHVISION[name]
    images, labels, given = [], [], []
    for flag, part in flags.items():
        have = (
            (Path(raw) / "imagenette2").exists() if name == "imagenette" else False
        )  # it refuses to download twice
        download = {} if name == "imagenet" else {"download": name not in PLACE and not have}
        try:
            source = kind(raw, **{argument: flag}, **download)
        except (RuntimeError, OSError) as error:
            wanted = PLACE.get(name, "its files as torchvision expects them")
            raise FileNotFoundError(
                f"{name} could not be had ({error}); place under {raw}: {wanted}"
            ) from error
        for picture, label in source:
            images.append(to_square(picture, size, fit))
            labels.append(label)
            given.append(part)
    classes = [
        kind if isinstance(kind, str) else kind[0] for kind in source.classes
    ]  # ImageNet's have synonyms
    return np.stack(images), np.array(labels), np.array(given, np.int8), classes


def _hugging_face(name: str, size: int, fit: str) -> tuple:
    """A data set with columns of images and class labels, by the library `datasets`."""
    try:
        import datasets as hub
    except ImportError as error:
        raise ValueError(
            "hf: data sets need the library datasets: pip install 'ktglite[hf]'"
        ) from error
    found = hub.load_dataset(name)
    kinds = next(iter(found.values())).features
    columns = {type(kind).__name__: column for column, kind in kinds.items()}
    if not {"Image", "ClassLabel"} <= set(columns):
        raise ValueError(
            f"hf:{name} has columns {', '.join(kinds)}: it needs one of images and one of class labels"
        )
    image, label = columns["Image"], columns["ClassLabel"]
    parts = {"train": 0, "validation": 1, "valid": 1, "test": 2}
    if "test" not in found:
        parts |= {"validation": 2, "valid": 2}
    alone = len(found) == 1
    rows = [
        (row, -1 if alone else parts[part])
        for part in found
        if alone or part in parts
        for row in found[part]
    ]
    images = np.stack([to_square(row[image], size, fit) for row, _ in rows])
    given = np.array([part for _, part in rows], np.int8)
    return images, np.array([row[label] for row, _ in rows]), given, kinds[label].names


def _folder(root: Path, size: int, fit: str, skip_unreadable: bool, cache: Path) -> tuple:
    roots = {part: root / part for part in SPLITS if (root / part).is_dir()}
    if roots and "train" not in roots:
        raise ValueError(
            f"{root} has {', '.join(roots)} and no train: give train/ with val/ or test/, or classes"
        )
    if (root / "val" / ANNOTATIONS).is_file():
        roots.pop("test", None)  # tiny-imagenet's test images have no labels
    number = {part: i for i, part in enumerate(SPLITS)}
    if roots and "test" not in roots:
        number["val"] = 2
        log.warning(
            "%s has no test/: its val/ is the test set, and a validation set is taken from train/",
            root,
        )
    found = [
        (path, name, number[part]) for part in roots for path, name in image_files(roots[part])
    ]
    found = found or [(path, name, -1) for path, name in image_files(root)]
    classes = sorted({name for _, name, _ in found})
    if len(classes) < 2:
        raise ValueError(
            f"{root} has images of one class only ({classes[0]}): classification needs at least two"
        )

    def decode(path: Path) -> np.ndarray | None:
        try:
            return read_image(path, size, fit)
        except ValueError as error:
            if not skip_unreadable:
                raise
            log.warning("skipped: %s", error)
            return None

    def make() -> tuple:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(decode, [path for path, _, _ in found]))
        good = [i for i, picture in enumerate(pictures) if picture is not None]
        if len(good) < len(found):
            log.warning("skipped %d of %d files in %s", len(found) - len(good), len(found), root)
        if not good:
            raise ValueError(f"{root}: none of its {len(found)} files could be read as an image")
        labels = np.array([classes.index(found[i][1]) for i in good])
        given = np.array([found[i][2] for i in good], np.int8)
        return np.stack([pictures[i] for i in good]), labels, given, classes

    facts = [(str(path.relative_to(root)), *size_and_time(path)) for path, _, _ in found]
    return _cached(cache, "folder", [facts, size, fit, skip_unreadable], make)


def size_and_time(path: Path) -> tuple[int, int]:
    """Size and mtime, used to detect changes; (0, 0) for a broken link, which reading it will name."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def image_files(root: Path) -> list[tuple[Path, str]]:
    """(file, class) for every image below the class folders of `root`, which are walked
    recursively; sorted.

    Hidden files are left out, and files without an image's extension are ignored and counted.
    Raises ValueError for a folder without images, and for links that lead nowhere.
    """
    if (root / ANNOTATIONS).is_file():
        named = sorted(
            line.split("\t")[:2] for line in (root / ANNOTATIONS).read_text().splitlines()
        )
        return [(root / "images" / file, label) for file, label in named]
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    for path in entries:
        if _leads_nowhere(path):
            raise ValueError(f"{path} is a link that leads nowhere: mend it or remove it")
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        what = "has no class folders" if entries else "is empty"
        raise ValueError(
            f"{root} {what}: put the images of each class into a folder named after it"
        )
    known, files, ignored = Image.registered_extensions(), [], 0
    for folder in folders:
        inside = [
            path
            for path in sorted(folder.rglob("*"))
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and (path.is_file() or _leads_nowhere(path))
        ]
        images = [path for path in inside if path.suffix.lower() in known]
        ignored += len(inside) - len(images)
        if not images:
            raise ValueError(f"class folder {folder} holds no images: fill it or remove it")
        files += [(path, folder.name) for path in images]
    if ignored:
        log.warning("ignored %d files in %s that have no image's extension", ignored, root)
    return files


def _leads_nowhere(path: Path) -> bool:
    """Whether `path` is a link to what is not there, or to itself."""
    return path.is_symlink() and not path.exists()


def read_image(path: str | Path, size: int, fit: str | Fit = "squash") -> np.ndarray:
    """One image file as uint8 (3, size, size), see `to_square`.

    Raises ValueError naming the file when it cannot be read.
    """
    try:
        if Path(path).stat().st_size == 0:
            raise ValueError("it is empty, 0 bytes")
        with Image.open(path) as picture:
            return to_square(picture, size, fit)
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); replace it, or pass skip_unreadable"
        ) from error


def to_square(picture: Image.Image, size: int, fit: str | Fit) -> np.ndarray:
    """A PIL image as uint8 RGB (3, size, size): upright, on white where it is transparent.

    `fit`: "squash", "crop", or a function of (width, height) that gives the box to show: left, top,
    right, bottom. Raises ValueError for 32-bit pixels, whose range nothing tells.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        # PIL would clip 16 bits to 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(
            "32 bits a pixel have no agreed white: save it with 8 or 16 bits a channel"
        )
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = Image.alpha_composite(
            Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
        )
    picture = picture.convert("RGB")
    if callable(fit):
        picture = picture.resize(
            (size, size), Image.Resampling.BILINEAR, fit(*picture.size), reducing_gap=3
        )
    elif fit == "crop":
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    else:
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3)
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), 2, 0))
