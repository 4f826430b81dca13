"""Step 1 of the paper: train a single model on a pre-training set and keep its weights, with a card beside them.

The same loop serves FractalDB-1k (drawn on the fly), the stand-in for ImageNet-1k (drawn cars of other models), and
any folder of class folders, ImageNet-1k's train/ among them; on one core, one GPU, or several processes under
`torchrun --nproc_per_node=K -m ktglite.pretrain --source fractaldb1k ...`.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
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
from ktglite.devices import resolve_device, resolve_precision
from ktglite.files import whole
from ktglite.models import build, head_of
from ktglite.trainer import (
    derive,
    generator,
    load_checkpoint,
    read_checkpoint,
    save_atomically,
)

STANDIN = "imagenet1k_standin"
STANDIN_MODELS, STANDIN_SEED = 40, 1  # car models that no fine-tuning set has: `synthcars` draws its own from seed 0
SCHEMA = 1
LOOK = 50  # batches between two looks at the clock


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of Step 1. The defaults are the published recipe: ResNet18, 90 epochs, SGD, batches of 256.

    - `source`: "fractaldb1k", "imagenet1k_standin", or a name of your own for what is in `folder`.
    - `folder`: class folders, optionally below train/ and val/; "imagenet1k" needs it. With a val/, every epoch is
      validated on it.
    - `size`: side in px that the network sees.  `render`: side of the images themselves, cropped to `size` at
      random places; None for `size`. The published FractalDB recipe crops 224 out of 362.
    - `images_per_epoch`: None for the whole set; fewer are drawn anew, without repeats, in every epoch.
    - `lr` falls to a tenth after each third of the epochs ("step"), or along a "cosine" to 0.
    - `categories`: of FractalDB-1k, the first so many.  `standin_images`: how many cars the stand-in has.
    - `augmentation`: "crop", "shift" or "none", see `ktglite.data.augment`; of image files, "crop" is torchvision's
      random resized crop (area 8..100 %) and flip. "auto" is the published recipe: "crop" for files, else "none".
    - `accumulate`: gradients of so many parts of a batch are summed, for GPUs that cannot hold a whole one.
    - `checkpoint_minutes`: within an epoch, too, training can be resumed from the last so many minutes.

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
    augmentation: str = "auto"
    categories: int = 1000
    standin_images: int = 20_000
    accumulate: int = 1
    checkpoint_minutes: float = 10.0
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        for name in ("size", "epochs", "batch_size", "accumulate", "categories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.augmentation == "auto":
            object.__setattr__(self, "augmentation", "none" if self.folder is None else "crop")
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
    with ProcessPoolExecutor(jobs, runs.process_context(), runs.end_with_parent) as pool:
        return list(pool.map(pretrain, configs, [out] * len(configs), [cache] * len(configs)))


def find_ready(config: PretrainConfig, ready: str | Path) -> Path | None:
    """Finished weights made with exactly these settings, in the folder `ready`, or else None.

    `ready` is looked for in the working folder, then in the package's checkout.
    """
    name = f"{config.source}-{config.arch}.safetensors"
    places = (Path(ready) / name, Path(__file__).parents[1] / ready / name)
    return next((path for path in places if is_done(config, path)), None)


def adopt(config: PretrainConfig, ready: str | Path, out: str | Path) -> bool:
    """Copy finished weights and card from `ready` to `out`, see `find_ready`; whether `pretrain` is then done there."""
    name = f"{config.source}-{config.arch}.safetensors"
    if is_done(config, Path(out) / name):
        return True
    path = find_ready(config, ready)
    if path is None:
        return False
    Path(out).mkdir(parents=True, exist_ok=True)
    for part in (path, path.with_suffix(".json")):  # the card last, as when they are made
        with whole(Path(out) / part.name) as file:
            file.write(part.read_bytes())
    return True


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
    """Hex key over the settings that decide the result; where it is trained does not.

    A precision of "auto" is a key of its own, whatever it stands for on a device: finished weights keep their key when
    they are carried to another, and a graph's record knows them by their hash.
    """
    settings = dataclasses.asdict(config)
    ways = {"device", "compile", "checkpoint_minutes"}
    others = {"standin_images": config.source == STANDIN, "categories": config.source == "fractaldb1k"}
    unused = {name for name, used in others.items() if not used}
    settings = {name: value for name, value in settings.items() if name not in ways | unused}
    if config.folder is not None:
        settings["folder"] = str(Path(config.folder).resolve())
    return hashlib.sha256(json.dumps([SCHEMA, settings], sort_keys=True).encode()).hexdigest()[:32]


# ---- where images come from: anything with `classes`, a length, and batch(indices) -> uint8 (B, 3, S, S), int64 (B,)


def open_source(config: PretrainConfig, cache: Path):
    """The pre-training set of `config`."""
    side = config.render or config.size
    if config.folder is not None:
        folder = Path(config.folder)
        return ImageFiles(folder / "train" if (folder / "train").is_dir() else folder, side, config.augmentation)
    if config.source == STANDIN:
        return OtherCars(config.standin_images, side)
    from ktglite.fractaldb import FractalDB  # compiled on import: only who needs it waits for it

    return FractalDB(side, categories=config.categories, seed=config.seed, cache=cache)


def open_validation(config: PretrainConfig):
    """The val/ beside a train/ of image files; None where there is none. Raises ValueError for other classes in it."""
    folder = Path(config.folder or "")
    if config.folder is None or not ((folder / "train").is_dir() and (folder / "val").is_dir()):
        return None
    train, val = ({path.name for path in (folder / part).iterdir() if path.is_dir()} for part in ("train", "val"))
    if train != val:
        raise ValueError(f"{folder}: class {min(train ^ val)!r} is not in both train/ and val/")
    return ImageFiles(folder / "val", config.size)


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

    def __init__(self, folder: Path, size: int, augmentation: str = "none"):
        self.files, self.size, self.augmentation = image_files(folder), size, augmentation
        self.classes = tuple(sorted({file.parent.name for file in self.files}))
        self.labels = np.array([self.classes.index(file.parent.name) for file in self.files])
        self.pool = ThreadPoolExecutor(os.cpu_count())  # PIL lets other threads run while it decodes

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: np.ndarray, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Central views, or random ones that are a function of (seed, image)."""
        pictures = self.pool.map(lambda i: self.view(i, seed), indices)
        return np.stack(list(pictures)), self.labels[indices]

    def view(self, i: int, seed: int | None) -> np.ndarray:
        if seed is None or self.augmentation != "crop":
            return read_image(self.files[i], self.size, central_box)
        rng = np.random.default_rng([seed, i])
        picture = read_image(self.files[i], self.size, lambda width, height: random_box(width, height, rng))
        return picture[..., ::-1] if rng.integers(2) else picture


def central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The central square that torchvision's recipe validates on, 224 / 256 of the shorter side."""
    half = min(width, height) * 224 / 256 / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A rectangle of 8..100 % of the area with sides 3:4 to 4:3, as torchvision's RandomResizedCrop draws it.

    Ours takes its random numbers from `rng`, since torchvision's takes them from one state for all threads.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return central_box(width, height)


def batches(source, config: PretrainConfig, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every batch of an epoch from number `first` on, the next one made meanwhile."""
    count = min(config.images_per_epoch or len(source), len(source))
    rng = np.random.default_rng(derive(config.seed, "images", epoch))
    order = rng.permutation(len(source))[:count]
    size = min(config.batch_size, count)
    parts = [order[start : start + size][rank() :: world()] for start in range(0, count - size + 1, size)][first:]
    views = {"seed": derive(config.seed, "files", epoch)} if isinstance(source, ImageFiles) else {}
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(source.batch, parts[0], **views) if parts else None
        for k in range(len(parts)):
            images, labels = following.result()
            if k + 1 < len(parts):
                following = ahead.submit(source.batch, parts[k + 1], **views)
            yield torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)


def random_crop(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """One random place for the whole batch: uint8 (B, 3, S, S) to (B, 3, size, size)."""
    if images.shape[-1] == size:
        return images
    y, x = torch.randint(images.shape[-1] - size + 1, (2,), generator=rng).tolist()
    return images[..., y : y + size, x : x + size]


# ---- the loop


def train(config: PretrainConfig, path: Path, cache: Path) -> None:
    """All epochs, then weights and card; a checkpoint after every epoch, and within one every few minutes."""
    device = resolve_device(f"cuda:{local_rank()}" if world() > 1 and torch.cuda.is_available() else config.device)
    precision = resolve_precision(config.precision, device)
    source, validation = open_source(config, cache), open_validation(config)
    with runs.one_thread(dataclasses.replace(config, device=str(device))):
        model = initial_model(config, len(source.classes)).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        checkpoint, key, curve = path.with_suffix(".ckpt"), settings_key(config), []
        step, totals = 0, torch.zeros(3, device=device)
        saved = read_checkpoint(checkpoint, key, device)
        if saved is not None:
            curve, step = saved["curve"], saved["step"]
            totals += saved["totals"] * (rank() == 0)  # they are the sum over all processes
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])

        def save(step: int, totals: Tensor) -> None:
            totals = totals.clone()
            if world() > 1:
                dist.all_reduce(totals)
            if rank() == 0:
                state = {"key": key, "curve": curve, "step": step, "totals": totals}
                state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                save_atomically(state, checkpoint)

        net = DistributedDataParallel(model) if world() > 1 else model
        net = torch.compile(net) if config.compile else net
        for epoch in range(len(curve) + 1, config.epochs + 1):
            row = train_epoch(net, optimizer, source, config, epoch, device, precision, step, totals, save)
            if validation is not None:
                row["val_accuracy"] = validate(model, validation, config, device, precision)
            curve.append(row)
            step, totals = 0, torch.zeros_like(totals)
            save(step, totals)
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
    first: int,
    totals: Tensor,
    save: Callable[[int, Tensor], None],
) -> dict:
    """One pass; returns {"epoch", "lr", "loss", "accuracy" (%, on the training views), "images", "seconds", ..}.

    It begins at batch number `first`; `totals` holds the summed loss, right answers and images before it.
    """
    started = saved = time.perf_counter()
    lr = optimizer.param_groups[0]["lr"] = learning_rate(config, epoch)
    net.train()
    losses = []  # of every part, looked at when the epoch is over
    count = min(config.images_per_epoch or len(source), len(source))
    what, steps = f"pretrain {config.source} epoch {epoch}/{config.epochs}", count // min(config.batch_size, count)
    bar = tqdm(total=steps, initial=first, desc=what, mininterval=5, disable=rank() > 0)
    for step, (images, labels) in enumerate(batches(source, config, epoch, first), first + 1):
        views = generator(config.seed, "views", epoch, step, rank())
        for part, truth in zip(images.chunk(config.accumulate), labels.chunk(config.accumulate), strict=True):
            truth = truth.to(device)
            view = view_of(part.to(device), config, views).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = net(view)
            loss = F.cross_entropy(logits.float(), truth)
            losses.append(loss.detach())
            (loss * len(truth) / len(labels)).backward()
            right = (logits.detach().argmax(1) == truth).sum()
            totals += torch.stack([loss.detach() * len(truth), right, torch.full_like(right, len(truth))])
        optimizer.step()
        optimizer.zero_grad()
        bar.update()
        look = step % LOOK == 0 and step < steps
        if look and agreed(time.perf_counter() - saved >= 60 * config.checkpoint_minutes, device):
            save(step, totals)
            saved = time.perf_counter()
    bar.close()
    if world() > 1:
        dist.all_reduce(totals)
    loss, right, images = totals.tolist()
    if not np.isfinite(loss):
        bad = (~torch.stack(losses).isfinite()).nonzero()
        where = (
            f", iteration {first + bad[0].item() // config.accumulate + 1}" if len(bad) else ""
        )  # else in another process
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
        "images_per_second": (steps - first) / steps * images / seconds,
    }


def view_of(images: Tensor, config: PretrainConfig, views: torch.Generator) -> Tensor:
    """A random view of a batch; files were cropped when they were read."""
    kind = "none" if config.folder is not None and config.augmentation == "crop" else config.augmentation
    return augment(random_crop(images, config.size, views), kind, views)


@torch.no_grad()
def validate(model: nn.Module, source, config: PretrainConfig, device: torch.device, precision: str) -> float:
    """Percent of `source` that is classified correctly, every process taking its share."""
    model.eval()
    hits = torch.zeros((), device=device)
    share = np.arange(len(source))[rank() :: world()]
    for start in range(0, len(share), config.batch_size):
        images, labels = source.batch(share[start : start + config.batch_size])
        view = normalise(torch.from_numpy(images).to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            hits += (model(view).argmax(1) == torch.from_numpy(labels).to(device)).sum()
    if world() > 1:
        dist.all_reduce(hits)
    return 100 * hits.item() / len(source)


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
        "precision": resolve_precision(config.precision, resolve_device(config.device)),
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


def agreed(answer: bool, device: torch.device) -> bool:
    """The first process's answer, for all of them."""
    if world() == 1:
        return answer
    told = torch.tensor(int(answer), device=device)
    dist.broadcast(told, 0)
    return bool(told)


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
