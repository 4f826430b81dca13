"""Step 1 of the paper: train a single model on a pre-training set and keep its weights, with a card beside them.

The same loop serves FractalDB-1k (drawn on the fly), the stand-in for ImageNet-1k (drawn cars of other models), and
any folder of class folders, ImageNet-1k's train/ among them; on one core, one GPU, or several processes under
`torchrun --nproc_per_node=K -m ktglite.pretrain --source fractaldb1k ...`.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ktglite import runs, synthcars
from ktglite.data import MEAN, STD, Data, augment, image_files, normalise, read_image
from ktglite.files import whole
from ktglite.models import build, head_of
from ktglite.trainer import (
    derive,
    generator,
    load_checkpoint,
    read_checkpoint,
    resolve_device,
    resolve_precision,
    save_atomically,
)

STANDIN = "imagenet1k_standin"
STANDIN_MODELS, STANDIN_SEED = 40, 1  # car models that no fine-tuning set has: `synthcars` draws its own from seed 0
SCHEMA = 1


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of Step 1. The defaults are the published recipe: ResNet18, 90 epochs, SGD, batches of 256.

    - `source`: "fractaldb1k", "imagenet1k_standin", or a name of your own for what is in `folder`.
    - `folder`: class folders, optionally below train/ and val/; "imagenet1k" needs it.
    - `size`: side in px that the network sees.  `render`: side of the images themselves, cropped to `size` at
      random places; None for `size`. The published FractalDB recipe crops 224 out of 362.
    - `images_per_epoch`: None for the whole set; fewer are drawn anew, without repeats, in every epoch.
    - `lr` falls to a tenth after each third of the epochs ("step"), or along a "cosine" to 0.
    - `categories`: of FractalDB-1k, the first so many.  `standin_images`: how many cars the stand-in has.
    - `accumulate`: gradients of so many parts of a batch are summed, for GPUs that cannot hold a whole one.

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
    schedule: str = "step"
    augmentation: str = "none"
    categories: int = 1000
    standin_images: int = 20_000
    accumulate: int = 1
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        for name in ("size", "epochs", "batch_size", "accumulate", "categories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name, allowed in {"schedule": ("step", "cosine"), "augmentation": ("crop", "shift", "none")}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        if self.render is not None and self.render < self.size:
            raise ValueError(f"render is {self.render}: it must not be smaller than size, {self.size}")
        if self.source == "scratch" or "/" in self.source:
            raise ValueError(f"source is {self.source!r}: give a name for it; images of your own go into folder")
        if self.folder is None and self.source not in ("fractaldb1k", STANDIN):
            raise ValueError(f"source {self.source!r} needs folder: the class folders of its images")


def pretrain(config: PretrainConfig, out: str | Path, cache: str | Path = "data/cache") -> Path:
    """Pre-train once and remember: writes and returns `<out>/<source>-<arch>.safetensors`, and a `.json` card.

    With the same settings the finished file is kept; a killed run resumes from its last epoch to the same result.
    Other settings replace the file: use another `out` to keep both. The card holds settings, curve, seed, versions
    and the SHA-256 of the weights. Raises FloatingPointError when the loss is no longer finite.
    """
    path = Path(out) / f"{config.source}-{config.arch}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock") if rank() == 0 else nullcontext():
        if not is_done(config, path):
            train(config, path, Path(cache))
        drop_own_checkpoint(config, path.with_suffix(".ckpt"))
    if dist.is_initialized():
        dist.barrier()
    return path


def pretrain_all(
    configs: Sequence[PretrainConfig], out: str | Path, cache: str | Path = "data/cache", jobs: int | None = None
) -> list[Path]:
    """`pretrain` for each of `configs`, in `jobs` processes, by default one per GPU or core."""
    jobs = max(1, min(jobs or runs.default_jobs(), len(configs)))
    if jobs == 1:
        return [pretrain(config, out, cache) for config in configs]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), runs.end_with_parent) as pool:
        return list(pool.map(pretrain, configs, [out] * len(configs), [cache] * len(configs)))


def read_card(path: str | Path) -> dict:
    """The card beside a weights file. Raises ValueError naming the card when it is not one."""
    card_path = Path(path).with_suffix(".json")
    try:
        card = json.loads(card_path.read_text())
        if card["schema"] != SCHEMA:
            raise ValueError(f"schema {card['schema']}, this version reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{card_path} is not a readable card ({error}); delete it and pre-train again") from error
    return card


def is_done(config: PretrainConfig, path: Path) -> bool:
    """Whether `path` holds what `config` would give, untouched since."""
    if not (path.exists() and path.with_suffix(".json").exists()):
        return False
    card = read_card(path)
    return card["key"] == settings_key(config) and card["sha256"] == runs.file_hash(path)


def drop_own_checkpoint(config: PretrainConfig, checkpoint: Path) -> None:
    """Delete the checkpoint of a finished training; one of other settings, which may go on, stays."""
    if rank() == 0 and checkpoint.exists():
        with suppress(ValueError, KeyError, OSError):
            if load_checkpoint(checkpoint)["key"] == settings_key(config):
                checkpoint.unlink()


def settings_key(config: PretrainConfig) -> str:
    """Hex key over all settings that decide the result; the device and the way there do not."""
    settings = dataclasses.asdict(config)
    settings["precision"] = resolve_precision(config.precision, resolve_device(settings.pop("device")))
    settings.pop("compile")
    if config.folder is not None:
        settings["folder"] = str(Path(config.folder).resolve())
    return hashlib.sha256(json.dumps([SCHEMA, settings], sort_keys=True).encode()).hexdigest()[:32]


# ---- where images come from: anything with `classes`, a length, and batch(indices) -> uint8 (B, 3, S, S), int64 (B,)


def open_source(config: PretrainConfig, cache: Path):
    """The pre-training set of `config`."""
    side = config.render or config.size
    if config.folder is not None:
        folder = Path(config.folder)
        return ImageFiles(folder / "train" if (folder / "train").is_dir() else folder, side)
    if config.source == STANDIN:
        return OtherCars(config.standin_images, side)
    from ktglite.fractaldb import FractalDB  # compiled on import: only who needs it waits for it

    return FractalDB(side, categories=config.categories, seed=config.seed, cache=cache)


class OtherCars:
    """The stand-in for ImageNet-1k: synthetic cars of models that are not in the fine-tuning set."""

    def __init__(self, count: int, size: int):
        models = synthcars.car_models(STANDIN_MODELS, seed=STANDIN_SEED)
        self.classes = tuple(synthcars.class_names(models))
        images, self.labels = synthcars.draw(count, size, seed=STANDIN_SEED, models=models)
        self.images = np.ascontiguousarray(np.moveaxis(images, 3, 1))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]


class ImageFiles:
    """Class folders, decoded as they are needed: ImageNet-1k would not fit into memory."""

    def __init__(self, folder: Path, size: int):
        self.files, self.size = image_files(folder), size
        self.classes = tuple(sorted({file.parent.name for file in self.files}))
        self.labels = np.array([self.classes.index(file.parent.name) for file in self.files])
        self.pool = ThreadPoolExecutor(os.cpu_count())  # PIL lets other threads run while it decodes

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pictures = self.pool.map(lambda i: read_image(self.files[i], self.size, "crop"), indices)
        return np.stack(list(pictures)), self.labels[indices]


def batches(source, config: PretrainConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch, the next one being made while this one is trained on."""
    count = min(config.images_per_epoch or len(source), len(source))
    rng = np.random.default_rng(derive(config.seed, "images", epoch))
    order = rng.permutation(len(source))[:count]
    size = min(config.batch_size, count)
    parts = [order[start : start + size][rank() :: world()] for start in range(0, count - size + 1, size)]
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(source.batch, parts[0])
        for k in range(len(parts)):
            images, labels = following.result()
            if k + 1 < len(parts):
                following = ahead.submit(source.batch, parts[k + 1])
            yield torch.from_numpy(images), torch.from_numpy(labels)


def random_crop(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """One random place for the whole batch: uint8 (B, 3, S, S) to (B, 3, size, size)."""
    if images.shape[-1] == size:
        return images
    y, x = torch.randint(images.shape[-1] - size + 1, (2,), generator=rng).tolist()
    return images[..., y : y + size, x : x + size]


# ---- the loop


def train(config: PretrainConfig, path: Path, cache: Path) -> None:
    """All epochs, then weights and card; a checkpoint after every epoch."""
    device = resolve_device(f"cuda:{local_rank()}" if world() > 1 and torch.cuda.is_available() else config.device)
    precision = resolve_precision(config.precision, device)
    source = open_source(config, cache)
    with runs.one_thread(dataclasses.replace(config, device=str(device))):
        model = initial_model(config, len(source.classes)).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        checkpoint, key, curve = path.with_suffix(".ckpt"), settings_key(config), []
        saved = read_checkpoint(checkpoint, key, device)
        if saved is not None:
            curve = saved["curve"]
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        net = DistributedDataParallel(model) if world() > 1 else model
        net = torch.compile(net) if config.compile else net
        for epoch in range(len(curve) + 1, config.epochs + 1):
            curve.append(train_epoch(net, optimizer, source, config, epoch, device, precision))
            if rank() == 0:
                state = {"key": key, "curve": curve, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                save_atomically(state, checkpoint)
    if rank() == 0:
        write_weights(model, source, config, curve, path)


def initial_model(config: PretrainConfig, classes: int) -> nn.Module:
    """Random numbers from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "init"))
        return build(config.arch, classes)


def train_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    source,
    config: PretrainConfig,
    epoch: int,
    device: torch.device,
    precision: str,
) -> dict:
    """One pass; returns {"epoch", "lr", "loss", "accuracy" (%, on the training views), "images", "seconds", ..}."""
    started, lr = time.perf_counter(), learning_rate(config, epoch)
    optimizer.param_groups[0]["lr"] = lr
    net.train()
    views = generator(config.seed, "views", epoch, rank())
    totals = torch.zeros(3, device=device)  # summed loss, right answers, images
    losses = []  # of every part, looked at when the epoch is over
    count = min(config.images_per_epoch or len(source), len(source))
    what = f"pretrain {config.source} epoch {epoch}/{config.epochs}"
    steps = tqdm(batches(source, config, epoch), what, count // min(config.batch_size, count), mininterval=5)
    for images, labels in steps if rank() == 0 else batches(source, config, epoch):
        for part, truth in zip(images.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True):
            truth = truth.to(device)
            view = augment(random_crop(part.to(device), config.size, views), config.augmentation, views)
            view = view.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = net(view)
            loss = F.cross_entropy(logits.float(), truth)
            losses.append(loss.detach())
            (loss * len(truth) / len(labels)).backward()
            right = (logits.detach().argmax(1) == truth).sum()
            totals += torch.stack([loss.detach() * len(truth), right, torch.full_like(right, len(truth))])
        optimizer.step()
        optimizer.zero_grad()
    if world() > 1:
        dist.all_reduce(totals)
    loss, right, images = totals.tolist()
    if not np.isfinite(loss):
        bad = (~torch.stack(losses).isfinite()).nonzero()
        where = f", iteration {bad[0].item() // config.accumulate + 1}" if len(bad) else ""  # else in another process
        raise FloatingPointError(
            f"pre-training on {config.source}: the loss is {loss} in epoch {epoch}{where}; lower lr"
        )
    for name, value in net.state_dict().items():  # no later loss would tell what the last step did
        if not value.isfinite().all():
            raise FloatingPointError(
                f"pre-training on {config.source}: {name} is not finite after epoch {epoch}; lower lr"
            )
    seconds = time.perf_counter() - started
    return {
        "epoch": epoch,
        "lr": lr,
        "loss": loss / images,
        "accuracy": 100 * right / images,
        "images": int(images),
        "seconds": seconds,
        "images_per_second": images / seconds,
    }


def learning_rate(config: PretrainConfig, epoch: int) -> float:
    """The learning rate of `epoch`, 1-based."""
    done = (epoch - 1) / config.epochs
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(done >= share - 1e-9 for share in (1 / 3, 2 / 3))
    return config.lr * (1 + np.cos(np.pi * done).item()) / 2


def write_weights(model: nn.Module, source, config: PretrainConfig, curve: list[dict], path: Path) -> None:
    """Weights first, card second: a file without its card is not taken for done."""
    facts = {"source": config.source, "arch": config.arch, "classes": source.classes, "mean": MEAN, "std": STD}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with whole(path) as file:  # one entry of metadata: several have no fixed order
        file.write(safetensors.save(state, metadata={"ktglite": json.dumps(facts)}))
    card = {
        "schema": SCHEMA,
        "key": settings_key(config),
        "source": config.source,
        "standin": config.source == STANDIN,
        "arch": config.arch,
        "size": config.size,
        "epochs": config.epochs,
        "images": sum(epoch["images"] for epoch in curve),
        "classes": len(source.classes),
        "seed": config.seed,
        "settings": dataclasses.asdict(config),
        "processes": world(),
        "curve": curve,
        "sha256": runs.file_hash(path),
        "provenance": runs.provenance(),
    }
    runs.write_json(path.with_suffix(".json"), card)


# ---- was anything learned?


@torch.no_grad()
def nearest_neighbours(model: nn.Module, data: Data, k: int = 5) -> float:
    """Percent of the validation images whose `k` nearest training images, by cosine of the features before the
    head, vote for their class. Nothing is trained, so it tells what the features hold already.
    """
    head = model.get_submodule(head_of(model))
    features = []
    handle = head.register_forward_hook(lambda module, inputs, output: features.append(inputs[0].flatten(1)))
    model.eval()
    for split in (data.train, data.val):
        for start in range(0, len(split), 256):
            model(normalise(split.images[start : start + 256]))
    handle.remove()
    found = F.normalize(torch.cat(features))
    train, val = found[: len(data.train)], found[len(data.train) :]
    votes = data.train.labels[(val @ train.T).topk(min(k, len(train)), dim=1).indices]
    return 100 * (votes.mode(dim=1).values == data.val.labels).float().mean().item()


# ---- several processes under torchrun


def rank() -> int:
    """Number of this process among all; 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m ktglite.pretrain` and `ktglite pretrain`: settings from the command line."""
    import tyro

    @dataclass(frozen=True)
    class Arguments(PretrainConfig):
        out: str = "data/weights"  # folder for the weights
        cache: str = "data/cache"

    given = tyro.cli(Arguments, args=arguments, prog="ktglite pretrain")
    fields = {field.name for field in dataclasses.fields(PretrainConfig)}
    config = PretrainConfig(**{name: value for name, value in vars(given).items() if name in fields})
    together = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if together:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        path = pretrain(config, given.out, given.cache)
        if rank() == 0:
            last = read_card(path)["curve"][-1]
            print(f"{path}: epoch {last['epoch']}, loss {last['loss']:.3f}, accuracy {last['accuracy']:.1f} %")
    finally:
        if together:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
