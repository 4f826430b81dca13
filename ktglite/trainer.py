"""Training a Knowledge Transfer Graph: one loop, a generator of per-epoch records."""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ktglite.captured import captured, restore
from ktglite.data import Data, Split, apply_views, draw_views, normalise
from ktglite.devices import numerics, resolve_device, resolve_precision
from ktglite.graph import Graph
from ktglite.losses import edge_losses
from ktglite.models import NARROW, initialise

__all__ = ["TrainConfig", "epochs", "initial_models", "predict"]

_WAY_OUT = "lower the learning rate, or use precision='fp32'"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. The defaults are the paper's, and the released KTG code's where it is silent.

    - `schedule`: "step" multiplies `lr` by 0.1 at 30, 60 and 90 % of the epochs; "cosine" ends near 0; "constant".
    - `temperature`: of the softmaxes in the transfer losses, which are multiplied by its square.
    - `augmentation`: "crop", "shift" or "none", see `ktglite.data.augment`.
    - `precision`: "bf16" runs the networks under autocast; "auto" does so where the device gains by it.
    - `report`: test the networks of the "last" epoch, or of the epoch with the "best" target validation accuracy.
    - `head`: "fit" keeps a loaded head if it was trained for exactly these classes (a fixed teacher's); "new" never.
    - `scale`: "kept" loads pre-trained weights as they are, as the paper does; "fresh" at the scale of fresh ones, so
      that the learning rate moves both alike.  `stages`: how many stages of them, 1 (the stem) to 5 (all).
    - `deterministic`: the same bits again on the same device.  `tf32`: let a GPU round fp32 to TF32.
    - `device`: "auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ...

    Raises ValueError naming the setting that is out of range.
    """

    epochs: int = 200
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    temperature: float = 1.0
    augmentation: Literal["crop", "shift", "none"] = "crop"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    report: Literal["last", "best"] = "last"
    head: Literal["fit", "new"] = "fit"
    scale: Literal["kept", "fresh"] = "kept"
    stages: int = 5
    deterministic: bool = True
    tf32: bool = False
    device: str = "auto"

    def __post_init__(self):
        limits = {"epochs": (1, math.inf), "batch_size": (2, math.inf)}  # BatchNorm has no variance over one image
        limits |= {"lr": (0, math.inf), "momentum": (0, 1), "weight_decay": (0, math.inf), "stages": (1, 5)}
        check_config(self, limits | {"temperature": (1e-6, math.inf)})


def check_config(config, limits: dict[str, tuple[float, float]]) -> None:
    """Raise ValueError naming a setting that is none of its `Literal` choices, or outside its (low, high)."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise ValueError(f"{name} is {getattr(config, name)!r}: allowed are {', '.join(get_args(kind))}")
    for name, (low, high) in limits.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be between {low} and {high}")


def epochs(
    graph: Graph, data: Data, config: TrainConfig, seed: int, weights: str | Path = "data/weights", models=None,
    checkpoint=None,
) -> Iterator[dict]:  # fmt: skip
    """Train the graph and yield one record after every epoch; the caller owns the loop and may stop at any time.

    A record holds `epoch` (1-based), `lr`, `seconds`, and per node `train_loss`, `train_accuracy`, `val_accuracy`
    (percent), None for a node that cannot influence the target and is therefore not run; `edge_loss` is the mean
    gated loss per edge, [target][source], `val_ensemble` the accuracy of the nodes' mean softmax. The last record also
    has `test_accuracy` and `test_ensemble`, computed once, and `reported_epoch`. Everything but `seconds` is a function
    of the arguments on one machine.

    - `models`: networks to train in place of `initial_models(...)`, for a caller who wants to look at them.
    - `checkpoint`: what has `save(state)` and `load(device)`, such as `ktglite.store.Checkpoint`: saved after every
      epoch; training resumes from it to the same result, the records of finished epochs being yielded again.

    Raises FloatingPointError naming epoch, iteration, node and edge when a loss is not finite, or the node whose
    network answers with NaN or infinity after an epoch.
    """
    device = resolve_device(config.device)
    nets = initial_models(graph, data, config, seed, weights) if models is None else models
    optimizers = _optimizers(graph, nets, config)
    records, best = _resume(checkpoint, nets, optimizers, device)
    yield from records

    step = captured(partial(_step, graph, nets, optimizers, config), device, data.size)
    train = Split(data.train.images.to(device), data.train.labels.to(device))
    for epoch in range(len(records) + 1, config.epochs + 1):
        start = time.perf_counter()
        with numerics(device, config.deterministic, config.tf32):
            lr = _begin_epoch(graph, nets, optimizers, learning_rate(config, epoch))
            batches = _draw_epoch(len(train), data.size, config, seed, epoch, device)
            edge_loss = torch.empty(len(batches), graph.size, graph.size, device=device)
            hits = torch.empty(len(batches), graph.size, device=device)
            with _seeded(seed, epoch, device):
                for k, (index, views, progress) in enumerate(batches):
                    images = apply_views(train.images[index], views)
                    edge_loss[k], hits[k] = step(images, train.labels[index], progress)
            share = 100 * hits.sum(0) / (len(batches) * len(index))
            record = {"epoch": epoch, "lr": lr, **_summarise(nets, edge_loss.cpu(), share.cpu(), epoch)}
            record |= _evaluate(nets, data.val, "val", config.precision)
            if config.report == "best":
                _keep_best(best, record, nets)
            if epoch == config.epochs:
                record["reported_epoch"] = _load_best(best, nets) if config.report == "best" else epoch
                record |= _evaluate(nets, data.test, "test", config.precision)
        _check_answers(record, len(batches))
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        if checkpoint is not None:
            checkpoint.save(_state(records, best, nets, optimizers))
        yield record


def _step(
    graph: Graph, nets: list, optimizers: dict, config: TrainConfig, images: Tensor, labels: Tensor, progress: Tensor
) -> tuple[Tensor, Tensor]:
    """One iteration; returns the edge losses (N, N) and how many images each node classified correctly (N,)."""
    # every weight is cast once a forward, so that there is nothing to cache
    with _autocast(images.device, config.precision):
        logits = [_forward(net, images, i in optimizers) for i, net in enumerate(nets)]
    edges = edge_losses(graph, logits, labels, progress, config.temperature)
    edges.sum().backward()  # sources are detached: one backward gives every node its own gradient
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    hits = [labels.new_zeros(()) if z is None else (z.argmax(1) == labels).sum() for z in logits]
    return edges.detach(), torch.stack(hits)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    bf16 = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)


def _forward(net: nn.Module | None, images: Tensor, learns: bool) -> Tensor | None:
    """Logits (B, C); without a graph of gradients for a fixed teacher, and None for a node that is not run."""
    if net is None:
        return None
    with torch.set_grad_enabled(learns):
        return net(images)


def _begin_epoch(graph: Graph, nets: list, optimizers: dict, lr: float) -> float:
    """Set learning rate and modes: a fixed teacher keeps its BatchNorm statistics."""
    for optimizer in optimizers.values():
        group = optimizer.param_groups[0]  # a captured step sees another value at an address, not another number
        group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr
    for i, net in enumerate(nets):
        if net is not None:
            net.train(graph.learns(i))
    return lr


def _draw_epoch(n: int, size: int, config: TrainConfig, seed: int, epoch: int, device: torch.device) -> list[tuple]:
    """Per batch of an epoch over `n` images: their indices, their views (None for no augmentation), and k/K.

    All that is random, and all numbers that change, are on the device before the epoch: the host never waits. The last
    partial batch is dropped.
    """
    batch = min(config.batch_size, n)
    steps = n // batch
    order = torch.randperm(n, generator=generator(seed, "order", epoch))[: steps * batch].to(device)
    views = draw_views(len(order), size, config.augmentation, generator(seed, "augmentation", epoch))
    views = [None] * steps if views is None else views.to(device).split(batch)
    progress = torch.arange((epoch - 1) * steps + 1, epoch * steps + 1, device=device) / (config.epochs * steps)
    return list(zip(order.split(batch), views, progress, strict=True))


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """torch's own random numbers (dropout) start anew in every epoch, so that a resumed one draws the same."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(derive(seed, "dropout", epoch))
        yield


def _summarise(nets: list, edge_loss: Tensor, share: Tensor, epoch: int) -> dict:
    """What a record says of training: edge losses (K, N, N) of K iterations, percent classified right (N,)."""
    _check_finite(edge_loss, epoch)
    mean, run = edge_loss.mean(0), [net is not None for net in nets]
    loss = [value if on else None for value, on in zip(mean.sum(1).tolist(), run, strict=True)]
    right = [value if on else None for value, on in zip(share.tolist(), run, strict=True)]
    return {"train_loss": loss, "edge_loss": mean.tolist(), "train_accuracy": right}


@torch.no_grad()
def predict(net: nn.Module | None, split: Split, precision: str = "fp32", batch: int = 256) -> Tensor | None:
    """Logits (n, C) in float32 for the images of `split`, without augmentation; None without a network."""
    if net is None:
        return None
    device, was_training, logits = next(net.parameters()).device, net.training, []
    net.eval()
    for images in split.images.split(batch):
        with _autocast(device, precision):
            logits.append(net(normalise(images.to(device))).float())
    net.train(was_training)
    return torch.cat(logits)


def accuracy(scores: Tensor | None, labels: Tensor) -> float | None:
    """Percent of rows (n, C) with the highest score at the label; None for None, NaN where a score is not finite."""
    if scores is None:
        return None
    share = 100 * (scores.argmax(1) == labels.to(scores.device)).sum().item() / len(labels)
    return share if scores.isfinite().all() else math.nan


def _evaluate(nets: list, split: Split, name: str, precision: str) -> dict:
    """`<name>_accuracy` of every node, and `<name>_ensemble`, that of the mean of the nodes' softmaxes."""
    logits = [predict(net, split, precision) for net in nets]
    mean = sum(z.softmax(1) for z in logits if z is not None)
    return {
        f"{name}_accuracy": [accuracy(z, split.labels) for z in logits],
        f"{name}_ensemble": accuracy(mean, split.labels),
    }


def _check_finite(edge_loss: Tensor, epoch: int) -> None:
    """Raise FloatingPointError naming the first loss of (iterations, N, N) that is NaN or infinite."""
    for k, t, s in (~edge_loss.isfinite()).nonzero()[:1].tolist():
        edge = f"label -> node {t + 1}" if s == t else f"node {s + 1} -> node {t + 1}"
        found = f"the loss of node {t + 1} on edge {edge} is {edge_loss[k, t, s].item()}"
        raise FloatingPointError(f"{found} in epoch {epoch}, iteration {k + 1}: {_WAY_OUT}")


def _check_answers(record: dict, steps: int) -> None:
    """Raise FloatingPointError naming a node that answers NaN or infinity: no later loss tells of the last step."""
    for split in ("val", "test"):
        for i, share in enumerate(record.get(f"{split}_accuracy", ())):
            if share is not None and math.isnan(share):
                found = f"node {i + 1} answers the {split} images with NaN or infinity"
                raise FloatingPointError(f"{found} after epoch {record['epoch']}, iteration {steps}: {_WAY_OUT}")


def initial_models(
    graph: Graph, data: Data, config: TrainConfig, seed: int, weights: str | Path = "data/weights"
) -> list[nn.Module | None]:
    """Step 2: the network of every node that can influence the target, None for the others."""
    device = resolve_device(config.device)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    known = data.classes if config.head == "fit" else None
    nets = [None] * graph.size
    for i in graph.reaching_target():
        node, start = graph.nodes[i], derive(seed, "init", i)
        net = initialise(node.arch, node.init, len(data.classes), start, weights, known, config.scale, config.stages)
        gains = bf16 or node.arch in NARROW  # wide networks are slower in fp32 with channels last on a CPU
        nets[i] = net.to(device, memory_format=torch.channels_last if gains else torch.contiguous_format)
    return nets


def _optimizers(graph: Graph, nets: list, config: TrainConfig) -> dict[int, torch.optim.SGD]:
    """One optimizer per node that learns."""
    found = {}
    for i, net in enumerate(nets):
        if net is not None and graph.learns(i):
            device = next(net.parameters()).device
            lr = torch.tensor(config.lr, device=device) if device.type == "cuda" else config.lr
            rest = {"weight_decay": config.weight_decay, "nesterov": config.nesterov and config.momentum > 0}
            found[i] = torch.optim.SGD(net.parameters(), lr, config.momentum, fused=True, **rest)
    return found


def _state(records: list[dict], best: dict, nets: list, optimizers: dict) -> dict:
    """All that a training needs to go on; the inverse of `_resume`."""
    models = {i: net.state_dict() for i, net in enumerate(nets) if net is not None}
    steps = {i: optimizer.state_dict() for i, optimizer in optimizers.items()}
    return {"records": records, "best": best, "models": models, "optimizers": steps}


def _resume(checkpoint, nets: list, optimizers: dict, device: torch.device) -> tuple[list[dict], dict]:
    """Networks and optimizers as the checkpoint has them; records of the epochs done, and the best epoch so far."""
    saved = None if checkpoint is None else checkpoint.load(device)
    if saved is None:
        return [], {"epoch": 0, "val": -1.0, "states": None}
    for i, state in saved["models"].items():
        nets[i].load_state_dict(state)
    for i, state in saved["optimizers"].items():
        restore(optimizers[i], state)
    return saved["records"], saved["best"]


def _keep_best(best: dict, record: dict, nets: list) -> None:
    """Remember the networks if the target's validation accuracy is the best so far."""
    if record["val_accuracy"][0] > best["val"]:
        states = {i: copy.deepcopy(net.state_dict()) for i, net in enumerate(nets) if net is not None}
        best.update(epoch=record["epoch"], val=record["val_accuracy"][0], states=states)


def _load_best(best: dict, nets: list) -> int:
    """Load the networks that `_keep_best` remembers, and return their epoch."""
    for i, state in best["states"].items():
        nets[i].load_state_dict(state)
    return best["epoch"]


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of `epoch`, 1-based."""
    done = (epoch - 1) / config.epochs
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(done >= share - 1e-9 for share in (0.3, 0.6, 0.9))
    return config.lr * (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else config.lr


def derive(seed: int, *purpose: object) -> int:
    """An independent seed for one purpose, so that initialisation, order and augmentation are drawn separately."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of random numbers for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
