"""Step 1 of the paper: train a single model on a pre-training set and keep its weights, with a card
beside them.

The same loop serves every source that is drawn by formula, and any folder of class folders,
ImageNet-1k's train/ among them; on one core, one GPU, or several processes under `torchrun
--nproc_per_node=K -m ktglite.sources.pretrain --source fractaldb1k ...`.
"""

import dataclasses
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ktglite.captured import captured, restore
from ktglite.data import MEAN, STD, Data, augment, normalise
from ktglite.devices import numerics, resolve_device, resolve_precision
from ktglite.models import SOURCES, build, file_hash, head_of
from ktglite.sources.datasets import image_files, read_image
from ktglite.store import (  # fmt: skip
    CORE,
    Checkpoint,
    atomic_write,
    code_hash,
    from_checkout,
    make_key,
    provenance,
    write_json,
)
from ktglite.trainer import check_config, derive, generator

__all__ = ["PretrainConfig", "adopt", "nearest_neighbours", "pretrain", "pretrain_all", "read_card"]

SCHEMA = 2
LOOK = 50  # batches between two looks at the clock


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of Step 1. The defaults are the published recipe: ResNet18, 90 epochs, SGD, batches
    of 256.

    - `source`: one of `ktglite.models.SOURCES` that is drawn, or a name of your own for what is in
      `folder`.
    - `folder`: class folders, optionally below train/ and val/; "imagenet1k" needs it. With a val/,
      every epoch is validated on it.
    - `size`: side in px that the network sees.  `render`: side of the images themselves, each
      cropped to `size` at a random place of its own; None for `size`. The published FractalDB
      recipe crops 224 out of 362.
    - `images_per_epoch`: None for the whole set; fewer are drawn anew, without repeats, in every
      epoch.
    - `lr` falls to a tenth after each third of the epochs ("step"), or along a "cosine" to 0.
    - `categories`: of a drawn source, the first so many classes.  `standin_images`: how many cars
      the stand-in has.
    - `augmentation`: "crop", "shift" or "none", see `ktglite.data.augment`; of image files, "crop"
      is torchvision's random resized crop (area 8..100 %) and flip. "auto" is the published recipe:
      "crop" for files, else "none".
    - `accumulate`: gradients of so many parts of a batch are summed, for GPUs that cannot hold a
      whole one.
    - `threads`: that draw or read images ahead of the network; more than one where a GPU waits for
      them.
    - `checkpoint_minutes`: within an epoch, too, training can be resumed from the last so many
      minutes.
    - `deterministic`, `tf32`: as in `TrainConfig`.

    Raises ValueError naming the setting that is out of range.
    """

    source: str = "fractaldb1k"
    arch: str = "resnet18"
    size: int = 224
    render: int | None = None
    folder: str | None = None
    epochs: int = 90
    images_per_epoch: int | None = None
    batch_size: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    schedule: Literal["step", "cosine"] = "step"
    augmentation: Literal["auto", "crop", "shift", "none"] = "auto"
    categories: int = 1000
    standin_images: int = 20_000
    accumulate: int = 1
    threads: int = 1
    checkpoint_minutes: float = 10.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    deterministic: bool = True
    tf32: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        counts = ("size", "epochs", "batch_size", "accumulate", "threads", "categories")
        check_config(self, dict.fromkeys(counts, (1, float("inf"))) | {"label_smoothing": (0, 1)})
        if self.augmentation == "auto":
            object.__setattr__(self, "augmentation", "none" if self.folder is None else "crop")
        if self.render is not None and self.render < self.size:
            raise ValueError(
                f"render is {self.render}: it must not be smaller than size, {self.size}"
            )
        if self.source == "scratch" or "/" in self.source:
            raise ValueError(
                f"source is {self.source!r}: give a name for it; images of your own go into folder"
            )
        if self.folder is None and not (self.source in SOURCES and SOURCES[self.source].open):
            raise ValueError(
                f"source {self.source!r} needs folder: the class folders of its images"
            )


def pretrain(config: PretrainConfig, out: str | Path, cache: str | Path = "data/cache") -> Path:
    """Pre-train once and remember: writes and returns `<out>/<source>-<arch>.safetensors`, and a
    `.json` card.

    With the same settings and code the finished file is kept; a killed run resumes from its last
    epoch to the same result. Other settings replace the file: use another `out` to keep both. The
    card holds settings, curve, seed, versions and the SHA-256 of the weights. Raises
    FloatingPointError when the loss is no longer finite.
    """
    path = Path(out) / f"{config.source}-{config.arch}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(path.with_suffix(".ckpt"), _key(config))
    with FileLock(f"{path}.lock") if _rank() == 0 else nullcontext():
        if not _is_done(config, path):
            _train(config, path, Path(cache), checkpoint)
        if _rank() == 0:
            checkpoint.drop()
    if dist.is_initialized():
        dist.barrier()
    return path


def pretrain_all(
    configs: Sequence[PretrainConfig], out: str | Path, cache: str | Path, pool
) -> list[Path]:
    """`pretrain` for each of `configs` as tasks of a pool, see `ktglite.pool.open_pool`."""
    futures = [pool.submit(pretrain, config, str(out), str(cache)) for config in configs]
    return [future.result() for future in futures]


def find_ready(config: PretrainConfig, ready: str | Path) -> Path | None:
    """Finished weights made with these settings, in the folder `ready` or that of the package's
    checkout, or None.

    They are data, known by their hash, as ImageNet's are: code that has changed since does not
    count against them.
    """
    path = from_checkout(Path(ready) / f"{config.source}-{config.arch}.safetensors")
    if not (path.exists() and path.with_suffix(".json").exists()):
        return None
    card = read_card(path)
    return (
        path
        if card["settings_key"] == _settings_key(config) and card["sha256"] == file_hash(path)
        else None
    )


def adopt(config: PretrainConfig, ready: str | Path, out: str | Path) -> bool:
    """Copy finished weights and card from `ready` to `out`, see `find_ready`; whether `out` now has
    them.

    The card is given the key of today's code, so that `pretrain` takes them for done.
    """
    target = Path(out) / f"{config.source}-{config.arch}.safetensors"
    if _is_done(config, target):
        return True
    path = find_ready(config, ready)
    if path is None:
        return False
    with atomic_write(target) as file:
        file.write(path.read_bytes())
    write_json(
        target.with_suffix(".json"), read_card(path) | {"key": _key(config), "adopted": True}
    )
    return True


def read_card(path: str | Path) -> dict:
    """The card beside a weights file. Raises ValueError naming the card when it is not one."""
    card_path = Path(path).with_suffix(".json")
    try:
        card = json.loads(card_path.read_text())
        if card["schema"] != SCHEMA:
            raise ValueError(f"schema {card['schema']}, this version reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{card_path} is not a readable card ({error}); delete it and pre-train again"
        ) from error
    return card


def _is_done(config: PretrainConfig, path: Path) -> bool:
    """Whether `path` holds what `config` would give, untouched since."""
    if not (path.exists() and path.with_suffix(".json").exists()):
        return False
    card = read_card(path)
    return card["key"] == _key(config) and card["sha256"] == file_hash(path)


def _settings_key(config: PretrainConfig) -> str:
    """Hex key over the settings that decide the result; where it is trained does not.

    A precision of "auto" is a key of its own, whatever it stands for on a device: finished weights
    keep their key when they are carried to another, and a graph's record knows them by their hash.
    """
    settings = dataclasses.asdict(config)
    unused = {"device", "compile", "threads", "checkpoint_minutes"}
    unused |= {"standin_images"} if config.source != "imagenet1k_standin" else {"categories"}
    settings = {name: value for name, value in settings.items() if name not in unused}
    if config.folder is not None:
        settings["folder"] = str(Path(config.folder).resolve())
    return make_key(SCHEMA, settings)


def _key(config: PretrainConfig) -> str:
    """Hex key over the settings and the code that decide the result."""
    drawn = SOURCES[config.source].open if config.folder is None else None
    modules = [
        *CORE,
        "ktglite.sources.pretrain",
        *([drawn.split(":")[0]] if drawn else ["ktglite.sources.datasets"]),
    ]
    return make_key(_settings_key(config), code_hash(*modules))


# ---- where images come from: anything with `classes`, a length, and batch(indices) -> uint8 (B, 3,
# S, S), int64 (B,)


def open_source(config: PretrainConfig, cache: str | Path = "data/cache"):
    """The pre-training set of `config`."""
    if config.folder is not None:
        folder, side = Path(config.folder), config.render or config.size
        return ImageFiles(
            folder / "train" if (folder / "train").is_dir() else folder, side, config.augmentation
        )
    module, _, function = SOURCES[config.source].open.partition(":")
    return getattr(import_module(module), function)(config, cache)


def _open_validation(config: PretrainConfig):
    """The val/ beside a train/ of image files; None where there is none. Raises ValueError for other classes in it."""
    folder = Path(config.folder or "")
    if config.folder is None or not ((folder / "train").is_dir() and (folder / "val").is_dir()):
        return None
    train, val = ({name for _, name in image_files(folder / part)} for part in ("train", "val"))
    if train != val:
        raise ValueError(f"{folder}: class {min(train ^ val)!r} is not in both train/ and val/")
    return ImageFiles(folder / "val", config.size)


class ImageFiles:
    """Class folders, decoded as they are needed: ImageNet-1k would not fit into memory."""

    def __init__(self, folder: Path, size: int, augmentation: str = "none"):
        found = image_files(folder)
        self.files, names = zip(*found, strict=True)
        self.size, self.augmentation = size, augmentation
        self.classes = tuple(sorted(set(names)))
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([number[name] for name in names])
        self.pool = ThreadPoolExecutor(
            os.cpu_count()
        )  # PIL lets other threads run while it decodes

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: np.ndarray, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Central views, or random ones that are a function of (seed, image)."""
        pictures = self.pool.map(lambda i: self._view(i, seed), indices)
        return np.stack(list(pictures)), self.labels[indices]

    def _view(self, i: int, seed: int | None) -> np.ndarray:
        if seed is None or self.augmentation != "crop":
            return read_image(self.files[i], self.size, _central_box)
        rng = np.random.default_rng([seed, i])
        picture = read_image(
            self.files[i], self.size, lambda width, height: _random_box(width, height, rng)
        )
        return picture[..., ::-1] if rng.integers(2) else picture


def _central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square that torchvision's recipe validates on, 224 / 256 of the shorter side."""
    half = min(width, height) * 224 / 256 / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def _random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """A rectangle of 8..100 % of the area with sides 3:4 to 4:3, as torchvision's RandomResizedCrop
    draws it.

    Ours takes its random numbers from `rng`, since torchvision's takes them from one state for all
    threads.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return _central_box(width, height)


def _batches(
    source, config: PretrainConfig, epoch: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch from number `first` on, the next ones made meanwhile."""
    count = min(config.images_per_epoch or len(source), len(source))
    order = np.random.default_rng(derive(config.seed, "images", epoch)).permutation(len(source))[
        :count
    ]
    size = min(config.batch_size, count)
    parts = [
        order[start : start + size][_rank() :: _world()]
        for start in range(0, count - size + 1, size)
    ][first:]
    views = {"seed": derive(config.seed, "files", epoch)} if isinstance(source, ImageFiles) else {}
    with ThreadPoolExecutor(config.threads) as pool:
        ahead = deque(pool.submit(source.batch, part, **views) for part in parts[: config.threads])
        for k in range(len(parts)):
            images, labels = ahead.popleft().result()
            if k + config.threads < len(parts):
                ahead.append(pool.submit(source.batch, parts[k + config.threads], **views))
            yield torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)


def random_crop(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """A random place for each image, as published: uint8 (B, 3, S, S) to (B, 3, size, size)."""
    count, room = len(images), images.shape[-1] - size + 1
    if room == 1:
        return images
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (B, 3, room, room, size, size), a view
    y, x = torch.randint(room, (2, count), generator=rng).to(images.device)
    return windows[torch.arange(count, device=images.device), :, y, x]


# ---- the loop


def _train(config: PretrainConfig, path: Path, cache: Path, checkpoint: Checkpoint) -> None:
    """All epochs, then weights and card; a checkpoint after every epoch, and within one every few minutes."""
    device = resolve_device(
        f"cuda:{_local_rank()}" if _world() > 1 and torch.cuda.is_available() else config.device
    )
    source, validation = open_source(config, cache), _open_validation(config)
    with numerics(device, config.deterministic, config.tf32):
        model = _initial_model(config, len(source.classes)).to(
            device, memory_format=torch.channels_last
        )
        lr = (
            torch.tensor(config.lr, device=device) if device.type == "cuda" else config.lr
        )  # see `captured`
        options = {"weight_decay": config.weight_decay, "fused": True}
        optimizer = torch.optim.SGD(model.parameters(), lr, config.momentum, **options)
        curve, step, totals = [], 0, torch.zeros(3, device=device)
        saved = checkpoint.load(device)
        if saved is not None:
            curve, step = saved["curve"], saved["step"]
            totals += saved["totals"] * (_rank() == 0)  # they are the sum over all processes
            model.load_state_dict(saved["model"])
            restore(optimizer, saved["optimizer"])
        save = partial(_save, checkpoint, model, optimizer, curve)
        net = DistributedDataParallel(model) if _world() > 1 else model
        step_of = partial(_step, torch.compile(net) if config.compile else net, optimizer, config)
        if _world() == 1 and not config.compile:
            step_of = captured(step_of, device, config.size)
        for epoch in range(len(curve) + 1, config.epochs + 1):
            row = _train_epoch(step_of, model, optimizer, source, config, epoch, step, totals, save)
            if validation is not None:
                row["val_accuracy"] = _validate(model, validation, config, device)
            curve.append(row)
            step, totals = 0, torch.zeros_like(totals)
            save(step, totals)
    if _rank() == 0:
        _write_weights(model, source, config, curve, path)


def _save(
    checkpoint: Checkpoint, model, optimizer, curve: list[dict], step: int, totals: Tensor
) -> None:
    """All that a killed pre-training needs to go on, summed over processes and written by the first."""
    totals = totals.clone()
    if _world() > 1:
        dist.all_reduce(totals)
    if _rank() == 0:
        state = {"curve": curve, "step": step, "totals": totals, "model": model.state_dict()}
        checkpoint.save(state | {"optimizer": optimizer.state_dict()})


def _initial_model(config: PretrainConfig, classes: int) -> nn.Module:
    """Random numbers from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        return build(config.arch, classes)


def _train_epoch(
    step_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source,
    config: PretrainConfig,
    epoch: int,
    first: int,
    totals: Tensor,
    save: Callable[[int, Tensor], None],
) -> dict:
    """One pass; returns {"epoch", "lr", "loss", "accuracy" (%, on the training views), "images",
    "seconds", ..}.

    It begins at batch number `first`; `totals` holds the summed loss, right answers and images
    before it.
    """
    started = saved = time.perf_counter()
    device = totals.device
    lr, group = _learning_rate(config, epoch), optimizer.param_groups[0]
    group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr
    model.train()
    losses = []  # of every batch, looked at when the epoch is over
    count = min(config.images_per_epoch or len(source), len(source))
    what, steps = (
        f"pretrain {config.source} epoch {epoch}/{config.epochs}",
        count // min(config.batch_size, count),
    )
    bar = tqdm(total=steps, initial=first, desc=what, mininterval=5, disable=_rank() > 0)
    for step, (images, labels) in enumerate(_batches(source, config, epoch, first), first + 1):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(derive(config.seed, "dropout", epoch, step, _rank()))
            views = generator(config.seed, "views", epoch, step, _rank())
            view = _view_of(images.to(device), config, views).contiguous(
                memory_format=torch.channels_last
            )
            loss, right = step_of(view, labels.to(device))
        totals += torch.stack([loss * len(labels), right, torch.full_like(right, len(labels))])
        losses.append(loss.clone())  # a captured step overwrites it
        bar.update()
        look = step % LOOK == 0 and step < steps
        if look and _agreed(time.perf_counter() - saved >= 60 * config.checkpoint_minutes, device):
            save(step, totals)
            saved = time.perf_counter()
    bar.close()
    if _world() > 1:
        dist.all_reduce(totals)
    loss, right, images = totals.tolist()
    _check_finite(model, loss, losses, first, config, epoch)
    seconds = time.perf_counter() - started
    row = {
        "epoch": epoch,
        "lr": lr,
        "loss": loss / images,
        "accuracy": 100 * right / images,
        "images": int(images),
    }
    return row | {
        "seconds": seconds,
        "images_per_second": (steps - first) / steps * images / seconds,
    }


def _step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    view: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """One iteration; returns the batch's mean loss and how many of it the network classified correctly."""
    loss, right = _accumulate(net, view, labels, config)
    optimizer.step()
    optimizer.zero_grad()
    return loss, right


def _accumulate(
    net: nn.Module, view: Tensor, labels: Tensor, config: PretrainConfig
) -> tuple[Tensor, Tensor]:
    """Gradients of a batch in `accumulate` parts; its mean loss and how many it classified
    correctly.

    Processes exchange gradients once a batch, with its last part.
    """
    parts = list(zip(view.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True))
    bf16 = resolve_precision(config.precision, labels.device) == "bf16"
    loss = right = torch.zeros((), device=labels.device)
    for i, (part, truth) in enumerate(parts):
        alone = isinstance(net, DistributedDataParallel) and i + 1 < len(parts)
        with net.no_sync() if alone else nullcontext():
            with torch.autocast(
                labels.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False
            ):
                logits = net(part)
            mean = F.cross_entropy(logits.float(), truth, label_smoothing=config.label_smoothing)
            (mean * len(truth) / len(labels)).backward()
        loss = loss + mean.detach() * len(truth) / len(labels)
        right = right + (logits.detach().argmax(1) == truth).sum()
    return loss, right


def _check_finite(
    net: nn.Module,
    loss: float,
    losses: list[Tensor],
    first: int,
    config: PretrainConfig,
    epoch: int,
) -> None:
    """Raise FloatingPointError where the loss, or a weight after the last step, is not finite."""
    if not np.isfinite(loss):
        bad = (~torch.stack(losses).isfinite()).nonzero()
        where = (
            f", iteration {first + bad[0].item() + 1}" if len(bad) else ""
        )  # else in another process
        raise FloatingPointError(
            f"pre-training on {config.source}: the loss is {loss} in epoch {epoch}{where}; lower lr"
        )
    for name, value in net.state_dict().items():
        if not value.isfinite().all():
            raise FloatingPointError(
                f"pre-training on {config.source}: {name} is not finite after epoch {epoch}; lower lr"
            )


def _view_of(images: Tensor, config: PretrainConfig, views: torch.Generator) -> Tensor:
    """A random view of a batch; files were cropped when they were read."""
    kind = (
        "none"
        if config.folder is not None and config.augmentation == "crop"
        else config.augmentation
    )
    return augment(random_crop(images, config.size, views), kind, views)


@torch.no_grad()
def _validate(model: nn.Module, source, config: PretrainConfig, device: torch.device) -> float:
    """Percent of `source` that is classified correctly, every process taking its share."""
    model.eval()
    hits = torch.zeros((), device=device)
    share = np.arange(len(source))[_rank() :: _world()]
    for start in range(0, len(share), config.batch_size):
        images, labels = source.batch(share[start : start + config.batch_size])
        view = normalise(torch.from_numpy(images).to(device)).contiguous(
            memory_format=torch.channels_last
        )
        bf16 = resolve_precision(config.precision, device) == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hits += (model(view).argmax(1) == torch.from_numpy(labels).to(device)).sum()
    if _world() > 1:
        dist.all_reduce(hits)
    return 100 * hits.item() / len(source)


def _learning_rate(config: PretrainConfig, epoch: int) -> float:
    """The learning rate of `epoch`, 1-based."""
    done = (epoch - 1) / config.epochs
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(done >= share - 1e-9 for share in (1 / 3, 2 / 3))
    return config.lr * (1 + np.cos(np.pi * done).item()) / 2


def _write_weights(
    model: nn.Module, source, config: PretrainConfig, curve: list[dict], path: Path
) -> None:
    """Weights first, card second: a file without its card is not taken for done."""
    facts = {
        "source": config.source,
        "arch": config.arch,
        "classes": source.classes,
        "mean": MEAN,
        "std": STD,
    }
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with atomic_write(path) as file:  # one entry of metadata: several have no fixed order
        file.write(safetensors.save(state, metadata={"ktglite": json.dumps(facts)}))
    card = {
        "schema": SCHEMA,
        "key": _key(config),
        "settings_key": _settings_key(config),
        "source": config.source,
        "standin": config.source.endswith("_standin"),
        "arch": config.arch,
        "size": config.size,
        "precision": resolve_precision(config.precision, resolve_device(config.device)),
        "epochs": config.epochs,
        "images": sum(epoch["images"] for epoch in curve),
        "classes": len(source.classes),
        "seed": config.seed,
        "settings": dataclasses.asdict(config),
        "processes": _world(),
        "curve": curve,
        "sha256": file_hash(path),
        "provenance": provenance(),
    }
    write_json(path.with_suffix(".json"), card)


@torch.no_grad()
def nearest_neighbours(model: nn.Module, data: Data, k: int = 5) -> float:
    """Percent of the validation images whose `k` nearest training images, by cosine of the features
    before the head, vote for their class. Nothing is trained, so it tells what the features hold
    already.
    """
    head = model.get_submodule(head_of(model))
    features = []
    handle = head.register_forward_hook(
        lambda module, inputs, output: features.append(inputs[0].flatten(1))
    )
    model.eval()
    for split in (data.train, data.val):
        for images in split.images.split(256):
            model(normalise(images))
    handle.remove()
    found = F.normalize(torch.cat(features))
    train, val = found[: len(data.train)], found[len(data.train) :]
    votes = data.train.labels[(val @ train.T).topk(min(k, len(train)), dim=1).indices]
    return 100 * (votes.mode(dim=1).values == data.val.labels).float().mean().item()


# ---- several processes under torchrun


def _rank() -> int:
    """Number of this process among all; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def _world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _local_rank() -> int:
    """Number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _agreed(answer: bool, device: torch.device) -> bool:
    """The first process's answer, for all of them."""
    if _world() == 1:
        return answer
    told = torch.tensor(int(answer), device=device)
    dist.broadcast(told, 0)
    return bool(told)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ktglite.sources.pretrain` and `ktglite pretrain`: settings from the command line."""
    import tyro

    @dataclass(frozen=True)
    class Arguments(PretrainConfig):
        out: str = "data/weights"  # folder for the weights
        cache: str = "data/cache"

    given = tyro.cli(Arguments, args=arguments, prog="ktglite pretrain")
    config = PretrainConfig(
        **{f.name: getattr(given, f.name) for f in dataclasses.fields(PretrainConfig)}
    )
    together = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if together:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        path = pretrain(config, given.out, given.cache)
        if _rank() == 0:
            last = read_card(path)["curve"][-1]
            print(
                f"{path}: epoch {last['epoch']}, loss {last['loss']:.3f}, accuracy {last['accuracy']:.1f} %"
            )
    finally:
        if together:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
