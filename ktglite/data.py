"""A name or a folder becomes train, validation and test tensors; batches are augmented all at once."""

import hashlib
import json
import logging
import os
import struct
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import datasets

from ktglite import synthcars
from ktglite.files import whole_folder

log = logging.getLogger(__name__)

SYNTHCARS_IMAGES = 12_554  # as many as the paper's car set
TORCHVISION = {
    "stanford_cars": (datasets.StanfordCars, "split"),
    "fgvc_aircraft": (datasets.FGVCAircraft, "split"),
    "flowers102": (datasets.Flowers102, "split"),
    "oxford_iiit_pet": (datasets.OxfordIIITPet, "split"),
    "cifar10": (datasets.CIFAR10, "train"),
    "cifar100": (datasets.CIFAR100, "train"),
}
SPLITS = ("train", "val", "test")
Fit = Callable[[int, int], tuple[float, float, float, float]]
# Every node sees the same normalised batch; these are the constants torchvision's ImageNet weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (n, 3, S, S), and labels, int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready to train on. `fingerprint` is the SHA-256 of everything training can see.

    `spec` holds the arguments of `load_data` that give this object again in another process, if there are such.
    """

    name: str
    size: int
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    fingerprint: str = ""
    spec: dict | None = field(default=None, repr=False)

    def __post_init__(self):
        if not self.fingerprint:
            digest = hashlib.sha256(json.dumps([self.size, self.classes]).encode())
            for split in (self.train, self.val, self.test):
                digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
            object.__setattr__(self, "fingerprint", digest.hexdigest())


def load_data(
    name_or_folder: str,
    size: int,
    limit: int | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    split_seed: int = 0,
    fit: str = "squash",
    skip_unreadable: bool = False,
    cache: str | Path = "data/cache",
    raw: str | Path = "data/raw",
) -> Data:
    """Train, validation and test tensors of a data set, decoded once and cached.

    - `name_or_folder`: "synthcars" (drawn by formula), a data set of torchvision (`TORCHVISION`, under `raw`), or
      a folder of class folders, optionally below train/, val/ and test/.
    - `size`: side of the square images in pixels, 8..1024.  `fit`: "squash" the image or centre-"crop" it first.
    - `limit`: number of images to use in all, the same share of every class; None for all of them.
    - `split`: shares of train, val and test where the data set has no such folders; stratified, from `split_seed`.
      What a data set does split itself is kept; only a missing val is taken out of its train.

    Raises ValueError or FileNotFoundError that names the file or folder at fault.
    """
    spec = {key: value for key, value in locals().items()}
    if not 8 <= size <= 1024:
        raise ValueError(f"size is {size}: images are square, 8 to 1024 px")
    if fit not in ("squash", "crop"):
        raise ValueError(f"fit is {fit!r}: allowed are squash, crop")
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise ValueError(f"split is {split}: it needs three positive shares of train, val and test that sum to 1")
    if name_or_folder == "synthcars":
        pool = _synthcars(size, limit or SYNTHCARS_IMAGES, Path(cache))
    elif name_or_folder in TORCHVISION:
        pool = _torchvision(name_or_folder, size, fit, Path(cache), Path(raw))
    elif Path(name_or_folder).is_dir():
        pool = _folder(Path(name_or_folder), size, fit, skip_unreadable, Path(cache))
    else:
        names = ", ".join(["synthcars", *TORCHVISION])
        raise FileNotFoundError(f"{name_or_folder!r} is neither a folder nor one of {names}")
    images, labels, given, classes = pool
    part = assign_splits(labels, given, classes, split, split_seed, limit)
    parts = [np.flatnonzero(part == i) for i in range(3)]
    splits = [Split(torch.from_numpy(images[index]), torch.from_numpy(labels[index])) for index in parts]
    return Data(Path(name_or_folder).name, size, tuple(classes), *splits, spec=spec)


def assign_splits(
    labels: np.ndarray,
    given: np.ndarray,
    classes: list[str],
    shares: tuple[float, float, float],
    seed: int,
    limit: int | None = None,
) -> np.ndarray:
    """The split of every image: 0 train, 1 val, 2 test, -1 unused by `limit`. int8 (n,), stratified by class.

    `given` holds 0, 1, 2 where the data set decides and -1 where it does not. Raises ValueError naming a class
    with too few images to stand in every split.
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
        absent = [name for label, name in enumerate(classes) if not ((labels == label) & (part == i)).any()]
        if absent and i != 1:
            raise ValueError(f"class {absent[0]!r} has no image in {split}; every class needs one in train and in test")
    return part


def _cached(cache: Path, stem: str, key: object, make) -> tuple:
    """`make()` -> (images, labels, given, classes), done once and kept under `cache` as memory-mapped arrays.

    The folder is renamed into place when it is complete, so that a killed build leaves nothing behind that a
    later run would take for good. Processes that want the same wait for the one that makes it. Raises ValueError
    naming the folder when it was damaged since.
    """
    digest = hashlib.sha256(json.dumps([1, stem, key]).encode()).hexdigest()[:16]
    folder = cache / f"{stem}-{digest}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                images, labels, given, classes = make()
                with whole_folder(folder) as partial:
                    np.save(partial / "images.npy", images)
                    np.savez(partial / "labels.npz", labels=labels, given=given)
                    (partial / "classes.json").write_text(json.dumps(list(classes)))
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        arrays = np.load(folder / "labels.npz")
        labels, given = arrays["labels"], arrays["given"]
        classes = json.loads((folder / "classes.json").read_text())
        if not len(images) == len(labels) == len(given):
            raise ValueError(f"{len(images)} images, {len(labels)} labels")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete it and it is made again") from error
    return images, labels, given, classes


def _synthcars(size: int, count: int, cache: Path) -> tuple:
    def make():
        images, labels = synthcars.draw(count, size)
        images = np.ascontiguousarray(np.moveaxis(images, 3, 1))
        return images, labels, np.full(len(labels), -1, np.int8), synthcars.class_names()

    source = hashlib.sha256(Path(synthcars.__file__).read_bytes()).hexdigest()
    return _cached(cache, "synthcars", [size, count, source], make)


def _torchvision(name: str, size: int, fit: str, cache: Path, raw: Path) -> tuple:
    kind, argument = TORCHVISION[name]
    flags = {"train": [("train", 0), ("val", 1), ("test", 2)], "cifar": [(True, 0), (False, 2)]}

    def make():
        images, labels, given = [], [], []
        for flag, part in flags["cifar" if argument == "train" else "train"]:
            if flag == "val" and name not in ("fgvc_aircraft", "flowers102"):
                continue
            flag = "trainval" if (name, flag) == ("oxford_iiit_pet", "train") else flag
            try:
                # torchvision's address for Stanford Cars is dead: its files have to be placed by hand
                source = kind(raw, **{argument: flag}, download=name != "stanford_cars")
            except (RuntimeError, OSError) as error:
                raise FileNotFoundError(
                    f"{name} could not be had ({error}); place its files under {raw} as torchvision expects them"
                ) from error
            for picture, label in source:
                images.append(to_square(picture, size, fit))
                labels.append(label)
                given.append(part)
        return np.stack(images), np.array(labels), np.array(given, np.int8), list(source.classes)

    return _cached(cache, name, [size, fit], make)


def _folder(root: Path, size: int, fit: str, skip_unreadable: bool, cache: Path) -> tuple:
    roots = {part: root / part for part in SPLITS if (root / part).is_dir()}
    if roots and set(roots) not in ({"train", "val", "test"}, {"train", "test"}):
        raise ValueError(f"{root} has {', '.join(roots)}: give train/val/test, train/test, or class folders alone")
    found = [(path, SPLITS.index(part)) for part in roots for path in image_files(roots[part])]
    found = found or [(path, -1) for path in image_files(root)]
    classes = sorted({path.parent.name for path, _ in found})
    if len(classes) < 2:
        raise ValueError(f"{root} has images of one class only ({classes[0]}): classification needs at least two")

    def decode(entry: tuple[Path, int]) -> np.ndarray | None:
        try:
            return read_image(entry[0], size, fit)
        except ValueError as error:
            if not skip_unreadable:
                raise
            log.warning("skipped: %s", error)
            return None

    def make():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(decode, found))
        good = [i for i, picture in enumerate(pictures) if picture is not None]
        if len(good) < len(found):
            log.warning("skipped %d of %d files in %s", len(found) - len(good), len(found), root)
        if not good:
            raise ValueError(f"{root}: none of its {len(found)} files could be read as an image")
        labels = np.array([classes.index(found[i][0].parent.name) for i in good])
        given = np.array([found[i][1] for i in good], np.int8)
        return np.stack([pictures[i] for i in good]), labels, given, classes

    facts = [(str(path.relative_to(root)), *size_and_time(path)) for path, _ in found]
    return _cached(cache, "folder", [facts, size, fit, skip_unreadable], make)


def leads_nowhere(path: Path) -> bool:
    """Whether `path` is a link to what is not there, or to itself."""
    return path.is_symlink() and not path.exists()


def size_and_time(path: Path) -> tuple[int, int]:
    """By which a changed file is known; zeros for a link that leads nowhere, which reading it will name."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def image_files(root: Path) -> list[Path]:
    """Every file in the class folders of `root`, sorted; hidden files are left out, as `ls` does. Links that lead
    nowhere or in a circle are among them: reading them says so.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for path in filter(leads_nowhere, sorted(root.iterdir())):
        raise ValueError(f"{path} is a link that leads nowhere: mend it or remove it")
    if not folders:
        what = "is empty" if not any(root.iterdir()) else "has no class folders"
        raise ValueError(f"{root} {what}: put the images of each class into a folder named after it")
    files = []
    for folder in folders:
        seen = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        inside = [path for path in seen if path.is_file() or leads_nowhere(path)]
        if not inside:
            raise ValueError(f"class folder {folder} holds no images: fill it or remove it")
        files += inside
    return files


def read_image(path: str | Path, size: int, fit: str | Fit = "squash") -> np.ndarray:
    """One image file as uint8 (3, size, size), see `to_square`.

    Raises ValueError naming the file when it cannot be read.
    """
    try:
        if Path(path).stat().st_size == 0:
            raise ValueError("it is empty, 0 bytes")
        with Image.open(path) as picture:
            return to_square(picture, size, fit)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}); replace it, or pass skip_unreadable") from error


def to_square(picture: Image.Image, size: int, fit: str | Fit) -> np.ndarray:
    """A PIL image as uint8 RGB (3, size, size): upright, on white where it is transparent.

    `fit`: "squash", "crop", or a function of (width, height) that gives the box to show: left, top, right, bottom.
    Raises ValueError for 32-bit pixels, whose range nothing tells.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        # PIL would clip 16 bits to 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a pixel have no agreed white: save it with 8 or 16 bits a channel")
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert("RGB")
    if callable(fit):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, fit(*picture.size), reducing_gap=3)
    elif fit == "crop":
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    else:
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3)
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), 2, 0))


@cache
def _scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in units of uint8 on `device`, put there once: every copy would stall a GPU."""
    return tuple(255 * torch.tensor(numbers, device=device).view(3, 1, 1) for numbers in (MEAN, STD))


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) to float32 with ImageNet's mean and standard deviation per channel."""
    mean, std = _scale(images.device)
    return (images.float() - mean) / std


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A random view of each image of a batch: uint8 (B, 3, S, S) to normalised float32 (B, 3, S, S).

    `kind`: "crop" (random resized crop, area 25..100 %, aspect 3/4..4/3, and flip), "shift" (pad by S/8, crop back,
    and flip) or "none". The random numbers are drawn on the CPU, so that every device sees the same views.
    """
    views = draw_views(len(images), images.shape[-1], kind, generator)
    return see(images, None if views is None else views.to(images.device))


def draw_views(n: int, size: int, kind: str, generator: torch.Generator) -> Tensor | None:
    """The views `augment` takes of `n` images of `size` px, as affine maps (n, 2, 3) on the CPU; None for "none"."""
    if kind == "none":
        return None
    flip = 1 - 2 * torch.randint(2, (n,), generator=generator).float()
    if kind == "shift":
        steps = size // 8
        reach = 2 * steps / size  # in grid units: the image spans -1..1
        scale = torch.ones(n, 2)
        offset = torch.randint(-steps, steps + 1, (n, 2), generator=generator) * (reach / max(steps, 1))
    else:
        area = torch.empty(n).uniform_(0.25, 1, generator=generator)
        aspect = torch.exp(torch.empty(n).uniform_(-0.2877, 0.2877, generator=generator))
        scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
        offset = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale)
    views = torch.zeros(n, 2, 3)
    views[:, 0, 0], views[:, 1, 1] = flip * scale[:, 0], scale[:, 1]
    views[:, :, 2] = offset
    return views


def see(images: Tensor, views: Tensor | None) -> Tensor:
    """Normalised float32 images, each through its view (B, 2, 3) of `draw_views` on the same device."""
    images = normalise(images)
    if views is None:
        return images
    grid = F.affine_grid(views, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
