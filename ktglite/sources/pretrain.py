"""Step 1 of the paper: train one network on a pre-training set and keep its weights.

The same loop serves every source that is drawn by formula, and any folder of class folders,
ImageNet-1k's train/ among them, on one core or one GPU.
"""

import copy
import dataclasses
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import torch as safetensors
from torch import Tensor, nn
from tqdm import tqdm

from ktglite import store, trainer
from ktglite.captured import captured, restore
from ktglite.data import MEAN, STD, Data, augment
from ktglite.devices import numerics, resolve_device, resolve_precision
from ktglite.models import SOURCES, file_hash, head_of, initialise
from ktglite.pool import cores
from ktglite.sources.datasets import image_files, size_and_time
from ktglite.sources.images import read_image

__all__ = ["PretrainConfig", "adopt", "nearest_neighbours", "pretrain", "read_card"]

log = logging.getLogger(__name__)

SCHEMA = 2  # of a card
RANK = 0  # in the seeds of views and dropout; of a process among several, as weights were made
MILESTONES = (1 / 3, 2 / 3)  # shares of the epochs after which the step schedule divides by 10
# Settings of earlier versions, and the values with which those trained as this one does.
RETIRED = {"label_smoothing": 0.0, "accumulate": 1}


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of Step 1. The defaults are the published recipe but for `render`, 362 there.

    Raises:
        ValueError: naming the setting that is out of range.
    """

    # a source that is drawn by formula, or a name of your own for what is in `folder`
    source: str = "fractaldb1k"
    arch: str = "resnet18"  # resnet18_w8, resnet18_w16, or a classifier of torchvision
    size: int = 224  # side in px that the network sees
    # side of the images in px, each cropped to `size` at a random place; None: `size`
    render: int | None = None
    # class folders of images, below train/ if there is one
    folder: str | None = None
    epochs: int = 90  # passes over the images, or over `images_per_epoch` of them
    # None: all images; fewer are drawn anew, without repeats, in every epoch
    images_per_epoch: int | None = None
    batch_size: int = 256  # images of a step; from 2: over one, BatchNorm has no variance
    lr: float = 0.1  # learning rate of the first epoch
    momentum: float = 0.9  # of SGD
    weight_decay: float = 1e-4  # of SGD
    # step: a tenth of the learning rate after each third of the epochs; cosine: down to 0
    schedule: Literal["step", "cosine"] = "step"
    # crop: random resized crop and flip; shift: by up to 1/8, and flip; auto: crop for files
    augmentation: Literal["auto", "crop", "shift", "none"] = "auto"
    categories: int = 1000  # classes of a source that is drawn: the first so many
    standin_images: int = 20_000  # images of imagenet1k_standin
    threads: int = 1  # that draw batches ahead; more than one where a GPU waits for them
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where that is faster
    deterministic: bool = True  # the same bits again on the same device
    tf32: bool = False  # let a GPU round fp32 to TF32
    seed: int = 0  # of first weights, order, views and dropout, and of fillings of fractals
    device: str = "auto"  # auto: a GPU where there is one; or cpu, cuda, cuda:1

    def __post_init__(self):
        counts = ("size", "epochs", "threads", "categories", "standin_images")
        limits = dict.fromkeys(counts, (1, math.inf)) | {"batch_size": (2, math.inf)}
        limits |= {"lr": (0, math.inf), "momentum": (0, 1), "weight_decay": (0, math.inf)}
        trainer.check_config(self, limits)
        if self.augmentation == "auto":
            object.__setattr__(self, "augmentation", "none" if self.folder is None else "crop")
        if self.render is not None and self.render < self.size:
            raise ValueError(f"render is {self.render}: it must be size, {self.size}, or larger")
        if self.source == "scratch" or "/" in self.source:
            raise ValueError(f"source is {self.source!r}: give a name; images go into folder")
        if self.folder is None and not (self.source in SOURCES and SOURCES[self.source].open):
            raise ValueError(f"source {self.source!r} needs folder: class folders of its images")


# ---- done once: a card beside the weights says what they were made from


def pretrain(
    config: PretrainConfig,
    out: str | Path = "data/runs/pretrained",
    cache: str | Path = "data/cache",
) -> Path:
    """Train a network on a pre-training set, once: `<out>/<source>-<arch>.safetensors`.

    A `.json` card beside it holds settings, curve, seed, versions and the SHA-256 of the weights.
    With the same settings, images and code the finished file is kept; a killed run resumes from its
    last epoch to the same result. Anything else replaces the file: use another `out` to keep both.

    Args:
        config: what to train on, and how.
        out: folder of the weights.
        cache: folder for what is drawn or hashed once.

    Raises:
        FloatingPointError: when the loss or a weight is no longer finite.
    """
    path = _weights_path(config, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.acquire(FileLock(f"{path}.lock")):
        facts = _facts(config, cache)
        checkpoint = store.Checkpoint(path.with_suffix(".ckpt"), facts["key"])
        if not _is_done(path, facts["key"]):
            model, classes, curve = _train(config, cache, checkpoint)
            _write(path, config, model, classes, facts | {"curve": curve})
        checkpoint.drop()
    return path


def pretrain_all(
    configs: Sequence[PretrainConfig], out: str | Path, cache: str | Path, pool
) -> list[Path]:
    """`pretrain` for each of `configs` as tasks of a pool, see `ktglite.pool.open_pool`."""
    futures = [pool.submit(pretrain, config, str(out), str(cache)) for config in configs]
    return [future.result() for future in futures]


def find_ready(
    config: PretrainConfig, ready: str | Path, cache: str | Path = "data/cache"
) -> Path | None:
    """Finished weights of these settings and images, in `ready` or the checkout's; None without.

    They are data, known by their hash, as ImageNet's are: code that has changed since does not
    count against them.
    """
    path = store.from_checkout(_weights_path(config, ready))
    card = _finished(path)
    if card is None:
        return None
    found = RETIRED | dataclasses.asdict(PretrainConfig()) | card["settings"]
    wanted = RETIRED | _settings(config)
    same = all(found[name] == value for name, value in wanted.items())
    return path if same and card.get("images_hash") == _images_hash(config, cache) else None


def adopt(
    config: PretrainConfig,
    ready: str | Path,
    out: str | Path,
    cache: str | Path = "data/cache",
    same_code: bool = False,
) -> bool:
    """Copy what `find_ready` finds in `ready` to `out`; whether `out` now has finished weights.

    The card is given the key of today's code, so that `pretrain` takes them for done. Other weights
    there, of a pre-training by the user, are set aside. `same_code`: only weights that today's code
    has made.
    """
    target = _weights_path(config, out)
    facts = _facts(config, cache)
    if _is_done(target, facts["key"]):
        return True
    path = find_ready(config, ready, cache)
    if path is None or (same_code and read_card(path)["key"] != facts["key"]):
        return False
    before = _finished(target)
    if before and not before.get("adopted") and before["sha256"] != file_hash(path):
        unused = target.with_name(f"{target.name}.unused")
        log.warning("%s is not of these settings: it is %s now", target, unused.name)
        os.replace(target, unused)
    with store.atomic_write(target) as file:
        file.write(path.read_bytes())
    card = read_card(path) | facts | {"adopted": True}
    store.write_json(target.with_suffix(".json"), card)
    return True


def read_card(path: str | Path) -> dict:
    """The card beside a weights file. Raises ValueError naming the card when it is not one."""
    place = Path(path).with_suffix(".json")
    card = store.read_json(place, "card", "delete it and pre-train again")
    if not isinstance(card, dict) or card.get("schema") != SCHEMA:
        found = f"{place} is no card of schema {SCHEMA}"
        raise ValueError(f"{found}: delete it and pre-train again")
    return card


def _weights_path(config: PretrainConfig, folder: str | Path) -> Path:
    return Path(folder) / f"{config.source}-{config.arch}.safetensors"


def _finished(path: Path) -> dict | None:
    """The card of weights that are as they were written; None without."""
    if not (path.exists() and path.with_suffix(".json").exists()):
        return None
    card = read_card(path)
    return card if card["sha256"] == file_hash(path) else None


def _is_done(path: Path, key: str) -> bool:
    card = _finished(path)
    return card is not None and card["key"] == key


def _facts(config: PretrainConfig, cache: str | Path) -> dict:
    """For a card: a key over all that decides the result, and the hash of the image files in it."""
    images = _images_hash(config, cache)
    code = store.code_hash(*_modules(config)), store.torch_version()
    precision = resolve_precision(config.precision, resolve_device(config.device))
    key = store.make_key(SCHEMA, _settings(config), precision, images, code)
    return {"key": key, "images_hash": images}


def _settings(config: PretrainConfig) -> dict:
    """The settings that decide the result; where it is trained does not, nor where images lie."""
    unused = {"device", "threads", "folder"}
    unused.add("categories" if config.source == "imagenet1k_standin" else "standin_images")
    settings = dataclasses.asdict(config)
    return {name: value for name, value in settings.items() if name not in unused}


def _modules(config: PretrainConfig) -> list[str]:
    """Modules whose text decides the result: of a plug-in, its whole package."""
    names = ("captured", "data", "devices", "models", "trainer", "sources.pretrain")
    modules = [f"ktglite.{name}" for name in names]
    if config.folder is not None:
        return [*modules, "ktglite.sources.datasets", "ktglite.sources.images"]
    drawing = SOURCES[config.source].open.partition(":")[0]
    if drawing.startswith("ktglite."):
        return [*modules, drawing]
    own = store.package_of(drawing)
    return [*modules, "ktglite.sources.fractaldb", *own]  # `mix` is for plug-ins, too


def _images_hash(config: PretrainConfig, cache: str | Path) -> str | None:
    """A hash over names and contents of the files in `folder`; None where images are drawn.

    Contents are read once and, in `cache`, known again by place, size and times of every file.
    """
    if config.folder is None:
        return None
    root = Path(config.folder).resolve()
    files = [path for path, _ in image_files(root)]
    names = [path.relative_to(root).as_posix() for path in files]
    seen = [size_and_time(path) for path in files]

    def make(target: Path) -> None:
        with ThreadPoolExecutor(cores()) as threads:
            hashes = list(tqdm(threads.map(file_hash, files), f"reading {root}", len(files)))
        store.write_json(target, store.make_key(names, hashes))

    place = f"images-{store.make_key(str(root), names, seen)}.json"
    path = store.make_once(Path(cache) / place, make)
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, config: PretrainConfig, model: nn.Module, classes, facts: dict) -> None:
    """The weights, then the card, without which they are not taken for done."""
    header = {"source": config.source, "arch": config.arch, "classes": classes}
    header |= {"mean": MEAN, "std": STD}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with store.atomic_write(path) as file:  # one entry of metadata: several have no fixed order
        file.write(safetensors.save(state, metadata={"ktglite": json.dumps(header)}))
    settings = dataclasses.asdict(config)
    shown = ("source", "arch", "size", "epochs", "seed")
    card = {"schema": SCHEMA} | {name: settings[name] for name in shown} | facts
    card["classes"] = len(classes)
    card["standin"] = config.source.endswith("_standin")
    card["precision"] = resolve_precision(config.precision, resolve_device(config.device))
    card["images"] = sum(row["images"] for row in facts["curve"])
    card |= {"settings": settings, "sha256": file_hash(path), "provenance": store.provenance()}
    store.write_json(path.with_suffix(".json"), card)


# ---- images: anything with `classes`, a length, and `batch(numbers)`, which gives images,
# uint8 (B, 3, S, S), and labels, int64 (B,)


def open_source(config: PretrainConfig, cache: str | Path = "data/cache"):
    """The pre-training set of `config`."""
    if config.folder is None:
        module, _, function = SOURCES[config.source].open.partition(":")
        return getattr(import_module(module), function)(config, cache)
    size = config.render or config.size
    return ImageFiles(Path(config.folder), size, config.augmentation == "crop")


class ImageFiles:
    """Class folders, decoded as they are needed: ImageNet-1k would not fit into memory."""

    def __init__(self, folder: Path, size: int, crop: bool = False):
        self.found = image_files(folder)
        self.classes = tuple(sorted({name for _, name in self.found}))
        if len(self.classes) < 2:
            raise ValueError(f"{folder} has one class only: pre-training needs at least two")
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([number[name] for _, name in self.found], np.int64)
        self.size = size
        self.crop = crop
        self.pool = ThreadPoolExecutor(cores())  # PIL lets other threads run while it decodes

    def __len__(self) -> int:
        return len(self.found)

    def batch(self, numbers: np.ndarray, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Central views; with `crop` and a seed, random ones: a function of (seed, number)."""
        views = self.pool.map(lambda i: self._view(i, seed if self.crop else None), numbers)
        return np.stack(list(views)), self.labels[numbers]

    def _view(self, i: int, seed: int | None) -> np.ndarray:
        path = self.found[i][0]
        if seed is None:
            return read_image(path, self.size, _central_box)
        rng = np.random.default_rng([seed, i])
        image = read_image(path, self.size, partial(_random_box, rng))
        return image[..., ::-1] if rng.integers(2) else image


def _central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The square that torchvision's recipe validates on, 224 / 256 of the shorter side."""
    half = min(width, height) * 224 / 256 / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def _random_box(rng: np.random.Generator, width: int, height: int) -> tuple[float, ...]:
    """8..100 % of the area, sides 3:4 to 4:3, as torchvision's RandomResizedCrop draws them.

    That one draws from a state that all threads share, so that no view could be drawn again.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return _central_box(width, height)


def random_crop(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """A random place for each image, as published: uint8 (B, 3, S, S) to (B, 3, size, size)."""
    room = images.shape[-1] - size + 1
    if room == 1:
        return images
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (B, 3, room, room, size, size), a view
    y, x = torch.randint(room, (2, len(images)), generator=rng).to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, y, x]


# ---- the loop


def _train(
    config: PretrainConfig, cache: str | Path, checkpoint: store.Checkpoint
) -> tuple[nn.Module, tuple[str, ...], list[dict]]:
    """All epochs, with a checkpoint after each; the network, its classes, and a row per epoch."""
    device = resolve_device(config.device)
    source = open_source(config, cache)
    batch_size = _order(config, source, 1).shape[1]
    with numerics(device, config.deterministic, config.tf32):
        start = trainer.derive(config.seed, "init")
        model = initialise(config.arch, "scratch", len(source.classes), start)
        model = model.to(device, memory_format=torch.channels_last)
        optimizer = trainer.sgd(model, config)
        curve = []
        if saved := checkpoint.load(device):
            curve = saved["curve"]
            model.load_state_dict(saved["model"])
            restore(optimizer, saved["optimizer"])
        step = partial(_step, model, optimizer, config.precision, batch_size)
        step = captured(step, device, config.size)
        for epoch in range(len(curve) + 1, config.epochs + 1):
            lr = trainer.learning_rate(config, epoch, MILESTONES)
            trainer.set_learning_rate([optimizer], lr)
            curve.append({"epoch": epoch, "lr": lr})
            curve[-1] |= _train_epoch(step, model, source, config, epoch)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save({"curve": curve, **state})
    return model, source.classes, curve


def _order(config: PretrainConfig, source, epoch: int) -> np.ndarray:
    """The images of every batch of an epoch, (batches, images); the last partial one is dropped.

    Raises ValueError for a batch of one image, over which BatchNorm has no variance.
    """
    count = min(config.images_per_epoch or len(source), len(source))
    size = min(config.batch_size, count)
    if size < 2:
        raise ValueError(f"a batch of {size} images: raise batch_size, or take more images")
    rng = np.random.default_rng(trainer.derive(config.seed, "images", epoch))
    return rng.permutation(len(source))[: count // size * size].reshape(-1, size)


def _train_epoch(
    step: Callable, model: nn.Module, source, config: PretrainConfig, epoch: int
) -> dict:
    """One pass over the images of an epoch: its loss, accuracy (%, on the views), and speed."""
    started = time.perf_counter()
    device = next(model.parameters()).device
    order = _order(config, source, epoch)
    batches = _draw_ahead(source, config, epoch, order)
    name = f"pretrain {config.source} epoch {epoch}/{config.epochs}"
    model.train()
    rows = []  # of every batch; looked at when the epoch is over, so that a GPU never waits
    for k, (images, labels) in enumerate(tqdm(batches, name, len(order), mininterval=5), 1):
        views = trainer.generator(config.seed, "views", epoch, k, RANK)
        with trainer.seeded(device, config.seed, "dropout", epoch, k, RANK):
            view = _view_of(images.to(device), config, views)
            rows.append(torch.stack(step(view, labels.to(device))))
    rows = torch.stack(rows).cpu().double()
    _check_finite(model, rows[:, 0], config.source, epoch)
    loss, right = (rows.sum(0) / order.size).tolist()
    seconds = time.perf_counter() - started
    row = {"loss": loss, "accuracy": 100 * right, "images": order.size, "seconds": seconds}
    return row | {"images_per_second": order.size / seconds}


def _draw_ahead(
    source, config: PretrainConfig, epoch: int, order: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of every batch; threads draw the next ones."""
    draw = source.batch
    if isinstance(source, ImageFiles):
        draw = partial(draw, seed=trainer.derive(config.seed, "files", epoch))
    with ThreadPoolExecutor(config.threads) as threads:
        futures = (threads.submit(draw, numbers) for numbers in order)
        ahead = deque(islice(futures, config.threads))
        while ahead:
            images, labels = ahead.popleft().result()
            ahead.extend(islice(futures, 1))
            yield torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)


def _view_of(images: Tensor, config: PretrainConfig, views: torch.Generator) -> Tensor:
    """A random view of a batch; files were cropped when they were read."""
    cropped = config.folder is not None and config.augmentation == "crop"
    kind = "none" if cropped else config.augmentation
    view = augment(random_crop(images, config.size, views), kind, views)
    return view.contiguous(memory_format=torch.channels_last)


def _step(
    net: nn.Module, optimizer, precision: str, batch_size: int, view: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One iteration; the summed loss, and how many answers were right."""
    with trainer.autocast(view.device, precision):
        logits = net(view)
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    (loss * (1 / batch_size)).backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), (logits.detach().argmax(1) == labels).sum()


def _check_finite(net: nn.Module, losses: Tensor, source: str, epoch: int) -> None:
    """Raise FloatingPointError where a loss, or a weight after the last step, is not finite."""
    bad = (~losses.isfinite()).nonzero().flatten().tolist()
    found = [f"the loss is {losses[k].item()} in iteration {k + 1}" for k in bad]
    found += [f"{k} is not finite" for k, v in net.state_dict().items() if not v.isfinite().all()]
    if found:
        where = f"pre-training on {source}, epoch {epoch}"
        raise FloatingPointError(f"{where}: {found[0]}; lower lr")


@torch.no_grad()
def nearest_neighbours(model: nn.Module, data: Data, k: int = 5) -> float:
    """Percent of the validation images whose nearest training images vote for their class.

    The `k` nearest by cosine of the features before the head; nothing is trained, so it tells what
    the features hold already.
    """
    headless = copy.deepcopy(model)
    headless.set_submodule(head_of(model), nn.Identity())
    features = [trainer.predict(headless, split).flatten(1) for split in (data.train, data.val)]
    train, val = map(F.normalize, features)
    nearest = (val @ train.T).topk(min(k, len(train)), dim=1).indices
    votes = data.train.labels[nearest].mode(dim=1).values
    return 100 * (votes == data.val.labels).float().mean().item()


def main(arguments: Sequence[str] | None = None) -> None:
    """`ktglite pretrain`: settings as options."""
    import tyro

    options = (tyro.conf.OmitArgPrefixes,)
    path = tyro.cli(pretrain, args=arguments, prog="ktglite pretrain", config=options)
    last = read_card(path)["curve"][-1]
    found = f"loss {last['loss']:.3f}, accuracy {last['accuracy']:.1f} %"
    print(f"{path}: epoch {last['epoch']}, {found}")
