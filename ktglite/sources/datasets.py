"""A name or a folder becomes train, validation and test images, decoded once and cached."""

import hashlib
import logging
import os
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import entry_points
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from ktglite import store
from ktglite.data import Data, Split
from ktglite.sources.images import READS_HEIF, SUFFIXES, UNREADABLE, read_image, to_square

__all__ = ["load_data"]

log = logging.getLogger(__name__)

SCHEMA = 1  # of cached images
SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": 0, "training": 0, "trainval": 0, "val": 1, "valid": 1, "validate": 1,
    "validation": 1, "dev": 1, "development": 1, "test": 2, "testing": 2,
    "eval": 3, "evaluation": 3,  # val or test
}  # fmt: skip
FILLER = "set|data|split|images?|imgs?"  # trainset, test_images
SPLIT_NAME = re.compile(rf"(.*[\W\d_]|)({'|'.join(SPLIT_WORDS)})(?:{FILLER})?([\W\d_].*|)", re.S)
# What a NAS, an archive or a system puts among images; hidden folders are left out anyway.
SYSTEM_FOLDERS = {
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
    "__macosx", "__pycache__", "system volume information", "lost+found", "thumbnails", "thumbs",
}  # fmt: skip
Rows = Iterator[tuple[np.ndarray, int, int]]  # image, label, and split or -1
# torchvision's class, the argument that chooses a part, and its values with the split each is.
TORCHVISION = {
    "stanford_cars": (datasets.StanfordCars, "split", {"train": 0, "test": 2}),
    "fgvc_aircraft": (datasets.FGVCAircraft, "split", {"train": 0, "val": 1, "test": 2}),
    "flowers102": (datasets.Flowers102, "split", {"train": 0, "val": 1, "test": 2}),
    "oxford_iiit_pet": (datasets.OxfordIIITPet, "split", {"trainval": 0, "test": 2}),
    "cifar10": (datasets.CIFAR10, "train", {True: 0, False: 2}),
    "cifar100": (datasets.CIFAR100, "train", {True: 0, False: 2}),
    "imagenette": (datasets.Imagenette, "split", {"train": 0, "val": 2}),
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

    What was understood is logged at level INFO, what is doubtful at WARNING.

    Args:
        name_or_folder: "synthcars" or another drawn data set (`_drawn`), one of torchvision
            (`TORCHVISION`) or of the Hugging Face hub (`_hugging_face`), or a folder of class
            folders, or of train/, val/ and test/.
        size: side of the square images in pixels, 8..1024.
        limit: number of images to use at most, the same share of every class; None for all.
        split: shares of train, val and test where the data set has no splits; stratified, from
            `split_seed`. What a data set does split itself is kept. Without a val, one is taken out
            of its train; without a test, its val is the test set.
        fit: "squash" the image or centre-"crop" it first.
        skip_unreadable: leave out files that cannot be read.
        validate_on: "test" selects by the test images, as the released code of the graph does.
        cache, raw: folders of decoded images, and of torchvision's data sets.

    Raises ValueError, FileNotFoundError naming the file, folder or setting at fault.
    """
    spec = locals() | {"split": tuple(split)}
    spec |= {name: os.path.expanduser(spec[name]) for name in ("name_or_folder", "cache", "raw")}
    _check(spec)
    for number in ("size", "split_seed", "limit"):
        spec[number] = None if spec[number] is None else int(spec[number])  # numpy's are no JSON
    images, facts = _decoded(spec)
    name, classes = spec["name_or_folder"], facts["classes"]
    labels = np.array(facts["labels"], np.int64)
    given = np.array(facts["given"], np.int8)
    if (given == 1).any() and not (given == 2).any():
        given[given == 1] = 2
        log.warning("%s has no test set: its val is one, and a new val is taken from train", name)
    part = assign_splits(labels, given, classes, split, split_seed, limit)
    if unused := int((part == -1).sum()):
        log.warning("%s: limit %d leaves out %d of %d images", name, limit, unused, len(part))
    digests = np.array(facts["digests"])
    if copies := np.isin(digests[part == 2], digests[np.isin(part, (0, 1))]).sum():
        message = "%s: %d of %d test images are in train or val, too: results on them say little"
        log.warning(message, name, copies, (part == 2).sum())
    places = [part == i for i in (0, SPLITS.index(validate_on), 2)]
    splits = [Split(torch.from_numpy(images[i]), torch.from_numpy(labels[i])) for i in places]
    short = Path(_hub_name(name)[0] if name.startswith("hf:") else name).absolute().name
    data = Data(short, spec["size"], tuple(classes), *splits).loaded_by(spec)
    kind = "as given" if (given >= 0).any() else "by seed"
    log.info("%s: %r, split %s, of %s", name, data, kind, _some(classes))
    return data


def _check(spec: dict) -> None:
    """Raise ValueError naming an argument of `load_data` that is out of range."""
    size, seed = spec["size"], spec["split_seed"]
    if not isinstance(size, Integral) or not 8 <= size <= 1024:
        raise ValueError(f"size is {size!r}: images are square, 8 to 1024 px")
    for name in ("limit", "split_seed"):
        if not isinstance(spec[name] or 0, Integral):
            raise ValueError(f"{name} is {spec[name]!r}: it must be a whole number")
    if seed < 0:
        raise ValueError(f"split_seed is {seed}: it must be at least 0")
    for name, allowed in {"fit": ("squash", "crop"), "validate_on": ("val", "test")}.items():
        if spec[name] not in allowed:
            raise ValueError(f"{name} is {spec[name]!r}: allowed are {', '.join(allowed)}")
    check_shares(spec["split"])


def check_shares(split: tuple[float, ...]) -> None:
    """Raise ValueError where these cannot be the shares of train, val and test."""
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        wanted = "three positive shares of train, val and test that sum to 1"
        raise ValueError(f"split is {split}: it needs {wanted}")


def _decoded(spec: dict) -> tuple[np.ndarray, dict]:
    """The images, uint8 (n, 3, S, S), and facts about them, kept in the cache."""
    name, size, fit = spec["name_or_folder"], spec["size"], spec["fit"]
    key = [name, size, fit, store.code_hash(__name__, "ktglite.sources.images")]
    stem = name.partition(":")[0]
    found = []
    drawn = {point.name: point for point in entry_points(group="ktglite.datasets")}
    if name in drawn:
        module = drawn[name].load()
        count = max(spec["limit"] or module.IMAGES, 3 * len(module.class_names()))
        make = partial(_drawn, module, count, size)
        key += [count, store.code_hash(*store.package_of(drawn[name].module))]
    elif name in TORCHVISION:
        make = partial(_torchvision, name, size, fit, spec["raw"])
        key.append(os.path.realpath(spec["raw"]))
    elif name.startswith("hf:"):
        make = partial(_hugging_face, name, size, fit)
        saved = Path(_hub_name(name)[0])
        key += [(str(path), *size_and_time(path)) for path in sorted(saved.rglob("*"))]
    elif os.path.isdir(name):
        found = find_images(Path(name))
        stem = "folder"
        make = partial(_folder, found, size, fit, spec["skip_unreadable"])
        key += [os.path.realpath(name), spec["skip_unreadable"], READS_HEIF]
        key += [(str(path), *size_and_time(path), *where) for path, *where in found]
    else:
        names = ", ".join([*drawn, *TORCHVISION])
        raise FileNotFoundError(f"{name!r} is neither a folder nor hf:USER/NAME nor one of {names}")
    place = Path(spec["cache"]) / f"{stem}-{store.make_key(key)[:16]}.json"
    if not found and os.path.isdir(name):
        log.warning("%s is the data set of that name; ./%s would be the folder", name, name)
    path = store.make_once(place, partial(_write, name, make))
    try:
        facts = store.read_record(path, SCHEMA)
        shape = len(facts["labels"]), 3, size, size
        images = np.memmap(path.with_suffix(".bin"), np.uint8, "r", shape=shape)
        if [digest(image) for image in images] != facts["digests"]:
            raise ValueError("its images are not as they were written")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and it is made again") from error
    if len(images) < len(found):
        log.warning("skipped %d of %d files in %s", len(found) - len(images), len(found), name)
    return images, facts


def _write(name: str, make: Callable, path: Path) -> None:
    """Keep `make() -> (classes, Rows)`: images beside `path`, one at a time, then their facts."""
    classes, rows = make()
    if len(classes) < 2:
        raise ValueError(f"{name} has one class only ({classes[0]}): it needs at least two")
    facts = []
    with store.atomic_write(path.with_suffix(".bin")) as file, closing(rows):
        for image, label, part in rows:
            file.write(image.tobytes())
            facts.append((int(label), part, digest(image.tobytes())))
        if not facts:
            raise ValueError(f"{name}: none of its files could be read as an image")
    labels, given, digests = zip(*facts, strict=True)
    record = {"classes": list(classes), "labels": labels, "given": given, "digests": digests}
    store.write_record(path, record, SCHEMA)


def digest(pixels: bytes | np.ndarray) -> str:
    """16 hex digits over the pixels of an image."""
    return hashlib.blake2b(pixels, digest_size=8).hexdigest()


# ---- splits


def split_roles(names: Iterable[str]) -> dict[str, int]:
    """Those of `names` that stand for a split, and which: 0 train, 1 val, 2 test.

    "Training", "test_images", and "cars_test" beside "cars_train" do. Raises ValueError where two
    names stand for one split.
    """
    found = {}
    for name in sorted(names):
        spaced = re.sub("(?<=[a-z])(?=[A-Z])", "_", name)  # carsTrain
        if match := SPLIT_NAME.fullmatch(spaced.casefold()):
            rest = re.sub(rf"[\W\d_]|{FILLER}", "", match[1] + match[3])
            found[name] = SPLIT_WORDS[match[2]], rest
    beside = {rest for role, rest in found.values() if role == 0} or {""}
    roles = {name: role for name, (role, rest) in found.items() if rest in beside}
    for name in [name for name in roles if roles[name] == 3]:
        roles[name] = 1 if 2 in roles.values() else 2
    for role, split in enumerate(SPLITS):
        same = [name for name in roles if roles[name] == role]
        if len(same) > 1 and 0 in roles.values():
            raise ValueError(f"{' and '.join(same)} are both {split}: move one of them away")
    return roles


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
    naming a class with too few images to stand in every split, or the smallest limit with which all
    do.
    """
    part = given.copy()
    rng = np.random.default_rng([seed, 1])
    groups = np.unique(np.stack([labels, given], 1), axis=0).tolist()
    places = [
        rng.permutation(np.flatnonzero((labels == label) & (given == source)))
        for label, source in groups
    ]
    has_val = (given == 1).any()
    least = [{-1: 3, 0: 1 if has_val else 2}.get(source, 1) for _, source in groups]
    counts = _share_out(limit, np.array([len(index) for index in places]), np.array(least))
    for (label, source), index, count in zip(groups, places, counts, strict=True):
        part[index[count:]] = -1
        if source == -1:
            n_test = max(1, min(round(shares[2] * count), count - 2))
            n_val = max(1, min(round(shares[1] * count), count - n_test - 1))
        elif source == 0 and not has_val:
            n_test = 0
            n_val = max(1, min(round(shares[1] / (shares[0] + shares[1]) * count), count - 1))
        else:
            continue
        if count < n_test + n_val + 1:
            need = "train, val and test" if n_test else "train and val"
            found = f"class {classes[label]!r} has {count} image(s): {need} need at least one each"
            raise ValueError(f"{found}; add images or remove the class")
        part[index[:count]] = np.repeat((2, 1, 0), (n_test, n_val, count - n_test - n_val))
    for i, split in enumerate(SPLITS):
        absent = sorted({*range(len(classes))} - {*labels[part == i].tolist()})
        if absent and (i != 1 or len(absent) == len(classes)):
            rule = "every class needs one in train and in test, under one name, capitals included"
            raise ValueError(f"class {classes[absent[0]]!r} has no image in {split}: {rule}")
    return part


def _share_out(limit: int | None, sizes: np.ndarray, least: np.ndarray) -> np.ndarray:
    """How many images of each group to use: the same share of all, but `least` at least."""
    if limit is None:
        return sizes
    least = np.minimum(sizes, least)
    if limit < least.sum():
        raise ValueError(f"limit is {limit}: all classes in all splits take at least {least.sum()}")
    ideal = min(1.0, limit / sizes.sum()) * sizes
    counts = np.maximum(ideal.round().astype(int), least)
    while counts.sum() > limit:
        counts[np.where(counts > least, counts - ideal, -np.inf).argmax()] -= 1
    return counts


def size_and_time(path: Path) -> tuple[int, ...]:
    """What tells that a file has changed: size, times (the system alone sets one), inode; zeros for
    a link to nothing."""
    with suppress(OSError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
    return 0, 0, 0, 0


# ---- data sets that go by a name


def _drawn(module, count: int, size: int) -> tuple[list[str], Rows]:
    """Images of a plug-in: a module with `IMAGES`, their usual number, `class_names()`, and
    `draw(count, size)`, which gives images, uint8 (count, size, size, 3), and labels, int64."""
    rows = zip(*module.draw(count, size), strict=True)
    return module.class_names(), ((np.moveaxis(image, 2, 0), i, -1) for image, i in rows)


def _torchvision(name: str, size: int, fit: str, raw: str) -> tuple[list[str], Rows]:
    kind, argument, flags = TORCHVISION[name]
    ask = name != "stanford_cars"  # whose address is dead
    try:
        found = {part: kind(raw, **{argument: f}, download=ask) for f, part in flags.items()}
    except (RuntimeError, OSError) as error:
        way = f"place its files under {raw} as torchvision expects them, or take one of the hub"
        such = f"{name} could not be had ({error}); {way}, such as hf:tanganke/stanford_cars"
        raise FileNotFoundError(such) from error
    classes = [names if isinstance(names, str) else names[0] for names in found[0].classes]
    return classes, _rows(found, size, fit, name)


def _rows(parts: dict[int, Iterable], size: int, fit: str, name: str) -> Rows:
    """The pictures and labels of every part, one at a time. Raises ValueError naming a bad one."""
    for part, found in parts.items():
        count = 0
        try:
            for picture, label in found:
                if label is None or label < 0:
                    raise ValueError("it has no label; hf:NAME,splits=NAME+NAME takes others")
                yield to_square(picture, size, fit), label, part
                count += 1
        except (*UNREADABLE, AttributeError) as error:
            where = f"image {count} of {(*SPLITS, 'all')[part]} in {name}"
            raise ValueError(f"{where} cannot be used ({error})") from error


def _hub_name(text: str) -> tuple[str, dict[str, str]]:
    """NAME and the choices of `hf:NAME,image=COLUMN,label=COLUMN,config=NAME,splits=NAME+NAME`."""
    name, *options = re.split(r",(?=\w+=)", text.removeprefix("hf:"))
    chosen = dict(option.split("=", 1) for option in options)
    if unknown := sorted(chosen.keys() - {"image", "label", "config", "splits"}):
        raise ValueError(f"{text}: {unknown[0]} is none of image, label, config and splits")
    return os.path.expanduser(name), chosen


def _hugging_face(text: str, size: int, fit: str) -> tuple[list[str], Rows]:
    """A data set of the hub, or in a folder where `save_to_disk` wrote it; see `_hub_name`, too."""
    try:
        import datasets as hub
    except ImportError as error:
        raise ValueError(f"{text} needs the library datasets: pip install 'ktglite[hf]'") from error
    name, chosen = _hub_name(text)
    saved = any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json"))
    config = [chosen["config"]] if "config" in chosen else []
    try:
        found = hub.load_from_disk(name) if saved else hub.load_dataset(name, *config)
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"hf:{name} could not be loaded ({why})") from error
    found = found if isinstance(found, dict) else {"all": found}
    columns = next(iter(found.values())).features
    for role, kind in (("image", "Image"), ("label", "ClassLabel")):
        able = [column for column in columns if type(columns[column]).__name__ == kind]
        if len(able) == 1:
            chosen.setdefault(role, able[0])
        if chosen.get(role) not in able:
            way = f"choose one by hf:{name},{role}={able[0]}" if able else "cast_column makes one"
            listed = ", ".join(f"{column} ({type(columns[column]).__name__})" for column in columns)
            raise ValueError(f"hf:{name} needs a column of kind {kind} and has {listed}: {way}")
    names = chosen["splits"].split("+") if "splits" in chosen else list(found)
    roles = split_roles(names)
    if not {*names} <= {*found} or (len(names) > 1 and 0 not in roles.values()):
        way = f"choose train and test by hf:{name},splits=NAME+NAME"
        raise ValueError(f"hf:{name} has the splits {_some(found)}: {way}")
    if len(roles) < 2:
        roles = dict.fromkeys(roles or names, -1)
    if len({tuple(found[split].features[chosen["label"]].names) for split in roles}) > 1:
        way = "cast_column makes them one"
        raise ValueError(f"hf:{name}: the class names of {_some(roles)} differ: {way}")
    if others := found.keys() - roles.keys():
        log.warning("hf:%s: left out the splits %s", name, _some(others))
    rows = {
        part: ((row[chosen["image"]], row[chosen["label"]]) for row in found[split])
        for split, part in roles.items()
    }
    return columns[chosen["label"]].names, _rows(rows, size, fit, f"hf:{name}")


# ---- folders


def image_files(root: str | Path) -> list[tuple[Path, str]]:
    """(file, class) of every image below the class folders of `root`, or of its train/; sorted.

    What is left out is said. Raises ValueError for a folder without images, and for links that lead
    nowhere.
    """
    return [(path, name) for path, name, split in find_images(Path(root)) if split < 1]


def find_images(root: Path) -> list[tuple[Path, str, int]]:
    """(file, class, split or -1) of every image, sorted.

    A split is a folder called like one; its class is the folder in it or, at its end, around it.
    Without splits, the class is the first folder that not all images share.
    """
    images, folders = walk(root)
    deep = {path[:-1] for path in images} - {()}
    common = os.path.commonprefix([*deep])  # noqa: RUF071 (of tuples, name by name)
    depth = min([len(common), *(len(parts) - 1 for parts in deep)])
    roles = _folder_roles(root, deep, common, depth)

    def place(parts: tuple[str, ...]) -> tuple[tuple[str, ...], str, int] | None:
        """The folders above, the class and the split; None outside of the classes."""
        for at, name in enumerate(parts[depth : depth + 2], depth):
            inside = [name for name in parts[at + 1 :] if name not in roles] or parts[depth:at]
            if name in roles and inside:
                return parts[:at], inside[0], roles[name]
        return None if roles or len(parts) <= depth else (parts[:depth], parts[depth], -1)

    found = [(path, *at) for path in images if (at := place(path[:-1]))]
    if not found:
        way = "put the images of each class into a folder named after it"
        raise ValueError(f"{root} has no class folders with images: {way}")
    above = {top for _, top, _, _ in found}
    if len(above) > 1 and any(top[-1:] != (name,) for _, top, name, _ in found):
        several = _some("/".join(top) or "it" for top in above)
        way = "choose one, or put it on top; no class may be called like a split"
        raise ValueError(f"{root}: {several} hold train/ each: {way}")
    classes = {tuple(at) for _, *at in found}
    for folder in folders:
        if (at := place(folder)) and at[0] in above and at not in classes:
            empty = root.joinpath(*folder)
            way = "fill it or move it away; if ktglite wrote it, run this in another folder"
            raise ValueError(f"class folder {empty} holds no images: {way}")
    names = {name for _, _, name, _ in found}
    if len({name.casefold() for name in names}) < len(names):
        log.warning("%s: some classes differ in capitals only: %s", root, _some(names))
    _tell_ignored(root, {*images} - {path for path, *_ in found}, "image", " outside the classes")
    filled = {split for *_, split in found}
    said = [f"{name} is {SPLITS[role]}" for name, role in roles.items() if role in filled]
    where = root.joinpath(*common[:depth])
    log.info("%s: %s", where, ", ".join(said) or "each folder is a class")
    alone = filled == {0}  # train/ beside a test/ without classes
    # A Mac writes é as two characters, others as one.
    return [
        (root.joinpath(*path), unicodedata.normalize("NFC", name), -1 if alone else split)
        for path, _, name, split in found
    ]


def _folder_roles(root: Path, deep: set, common: tuple[str, ...], depth: int) -> dict[str, int]:
    """Which folder names stand for which split; none where the folders are classes."""
    tops = {parts[depth] for parts in deep}
    roles = split_roles({name for parts in deep for name in parts[depth : depth + 2]} | {*common})
    if 0 in roles.values() and len(roles) > 1:
        return roles
    if roles and 0 not in roles.values() and ({*common} & roles.keys() or tops <= roles.keys()):
        raise ValueError(f"{root} has {_some(roles)} and no train: give train/ too, or classes")
    inside = [
        {parts[depth + 1] for parts in deep if parts[depth] == top and len(parts) > depth + 1}
        for top in tops
    ]
    if len(tops) > 1 and (tops & roles.keys() or len(set.intersection(*inside)) > 1):
        way = "if they are splits, call them train, val and test"
        log.warning("%s: %s are taken for classes; %s", root, _some(tops), way)
    return {}


def walk(root: Path) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The images and the folders below `root`, as tuples of names; sorted. Links are followed,
    unless they lead round. What is left out is said, hidden files aside."""
    images, inner, others, left_out = [], [], [], set()
    for where, folders, files in os.walk(root, onerror=log.warning, followlinks=True):
        where = Path(where)
        above = where.relative_to(root).parts
        around = {*where.resolve().parents, *(path.resolve() for path in (where, *where.parents))}
        for path in [where / name for name in folders]:
            known = path.name.casefold() in SYSTEM_FOLDERS
            system = known and next(os.walk(path), ())[1:] != ([], [])  # () if it may not be read
            hidden = path.name.startswith(".")
            run = (path / "profile.json").is_file()  # of ours, whose figures are no images
            if hidden or system or run or path.resolve() in around:
                folders.remove(path.name)
                left_out.update([] if hidden else [(path.name,)])
            else:
                inner.append((*above, path.name))
        for path in [where / name for name in files if not name.startswith(".")]:
            suffix = path.suffix.lower()
            if path.is_symlink() and not suffix and not path.exists():
                raise ValueError(f"{path} is a link that leads nowhere: mend it or remove it")
            if suffix in SUFFIXES and (path.is_file() or path.is_symlink()):  # or it is a pipe
                images.append((*above, path.name))
            elif above and path.is_file():
                others.append((suffix or path.name,))
    _tell_ignored(root, others, "file")
    _tell_ignored(root, left_out, "folder")
    return sorted(images), sorted(inner)


def _folder(found: list, size: int, fit: str, skip_unreadable: bool) -> tuple[list[str], Rows]:
    classes = sorted({name for _, name, _ in found})

    def rows() -> Rows:
        pool = ThreadPoolExecutor(os.cpu_count())
        images = deque(pool.submit(read_image, path, size, fit) for path, _, _ in found)
        try:
            for _, name, part in found:
                try:
                    image = images.popleft().result()
                except ValueError as error:
                    if not skip_unreadable:
                        way = "leave out what cannot be read with --set skip_unreadable=true"
                        raise ValueError(f"{error}, or {way}") from error
                    log.warning("skipped: %s", error)
                else:
                    yield image, classes.index(name), part
        finally:
            pool.shutdown(cancel_futures=True)

    return classes, rows()


def _some(names: Iterable[str]) -> str:
    """The first five of many names, in words."""
    names = sorted({*names})
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _tell_ignored(root: Path, paths: Collection[tuple[str, ...]], kind: str, why="") -> None:
    if paths:
        several = "" if len(paths) == 1 else "s"
        names = _some("/".join(path[:-1] or path) for path in paths)
        log.warning("ignored %d %s%s%s in %s: %s", len(paths), kind, several, why, root, names)
