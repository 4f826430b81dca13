"""Training a Knowledge Transfer Graph: one loop, a generator of per-epoch records.

A record holds `epoch` (1-based), `lr` (at its end), `seconds`, and per node `train_loss`,
`train_accuracy` and `val_accuracy` (percent), None for a node that cannot influence the target and
is therefore not run; `edge_loss` is the mean gated loss per edge, [target][source], `val_ensemble`
the accuracy of the nodes' mean softmax. The last record also has `test_accuracy` and
`test_ensemble`, computed once, and `reported_epoch`.
"""

import copy
import hashlib
import math
import numbers
import operator
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ktglite.captured import captured, node_streams, restore, side_by_side
from ktglite.data import Data, Split, apply_views, draw_views, normalise
from ktglite.devices import numerics, resolve_device, resolve_precision
from ktglite.graph import Graph
from ktglite.losses import edge_losses
from ktglite.models import NARROW, initialise

__all__ = ["TrainConfig", "epochs", "initial_models", "predict"]

NUMBERS = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "True or False"),
}
_WAY_OUT = "lower the learning rate, or use precision='fp32'"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. Defaults are the paper's, and the released KTG code's beyond them.

    - `schedule`: "step" multiplies `lr` by 0.1 at 30, 60 and 90 % of the epochs; "cosine" ends
      near 0; "constant".
    - `warmup`: epochs over which the learning rate rises linearly, iteration by iteration.
    - `temperature`: of the softmaxes in the transfer losses, which are multiplied by its square.
    - `augmentation`: "crop", "shift" or "none", see `ktglite.data.augment`.
    - `precision`: "bf16" runs the networks under autocast; "auto" does so where that is faster.
    - `report`: test the networks of the "last" epoch, or of the epoch with the "best" validation
      accuracy of the target.
    - `head`: "fit" keeps a loaded head if it was trained for exactly these classes (that of a
      fixed teacher); "new" never does.
    - `scale`: "kept" loads pre-trained weights as they are, as the paper does; "fresh" rescales
      them to the size of untrained ones, so that a learning rate moves both alike.
    - `stages`: how many stages of pre-trained weights are loaded, 1 (the stem) to 5 (all).
    - `deterministic`: the same bits again on the same device.
    - `tf32`: let a GPU round fp32 to TF32.
    - `device`: "auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ...

    Raises:
        ValueError: naming the setting that is out of range.
    """

    epochs: int = 200
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    warmup: int = 0
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
        limits = {
            "epochs": (1, math.inf),
            "batch_size": (2, math.inf),  # BatchNorm has no variance over one image
            "lr": (0, math.inf),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "warmup": (0, self.epochs),
            "temperature": (1e-6, math.inf),
            "stages": (1, 5),
        }
        check_config(self, limits)


def check_config(config, limits: dict[str, tuple[float, float]]) -> None:
    """Raise ValueError naming a setting that is none of its choices, of another type, or outside
    its (low, high). Numbers become Python's own: 1 and 1.0, or numpy's, must not make two keys."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            allowed = ", ".join(get_args(kind))
            raise ValueError(f"{name} is {value!r}: allowed are {allowed}")
        if kind in NUMBERS:
            fits, words = NUMBERS[kind]
            if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
                raise ValueError(f"{name} is {value!r}: it must be {words}")
            object.__setattr__(config, name, kind(value))
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: it must be between {low} and {high}")


def epochs(
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    weights: str | Path = "data/weights",
    models: list[nn.Module | None] | None = None,
    checkpoint=None,
) -> Iterator[dict]:
    """Train the graph and yield a record, see above, after every epoch; the caller may stop at any
    time. All of it but `seconds` is a function of the arguments on one machine.

    Args:
        weights: folder of the pre-trained weights that nodes start from.
        models: networks to train in place of `initial_models(...)`, for a caller who wants them.
        checkpoint: such as `ktglite.store.Checkpoint`, saved after every epoch; training resumes
            from it to the same result, and yields the records of finished epochs again.

    Raises:
        FloatingPointError: naming epoch, iteration, node and edge of a loss that is not finite, or
            the node whose network answers with NaN or infinity after an epoch.
    """
    device = resolve_device(config.device)
    nets = initial_models(graph, data, config, seed, weights) if models is None else models
    optimizers = _optimizers(graph, nets, config)
    records, best = _resume(checkpoint, nets, optimizers, device)
    yield from records
    streams = node_streams(nets, device)
    step = captured(partial(_step, graph, nets, streams, optimizers, config), device, data.size)
    train = Split(data.train.images.to(device), data.train.labels.to(device))
    for epoch in range(len(records) + 1, config.epochs + 1):
        start = time.perf_counter()
        with numerics(device, config.deterministic, config.tf32):
            for i in graph.reaching_target():  # a fixed teacher keeps its BatchNorm statistics
                nets[i].train(graph.learns(i))
            # All that is random is drawn before the epoch, so that a resumed run draws the same.
            batches = _draw_epoch(len(train), data.size, config, seed, epoch, device)
            losses = torch.empty(len(batches), graph.size, graph.size, device=device)
            right = torch.empty(len(batches), graph.size, device=device)
            with seeded(device, seed, "dropout", epoch):
                # Every node sees the same views of the same images, batch by batch.
                for k, (index, views, progress, lr) in enumerate(batches):
                    set_learning_rate(optimizers.values(), lr)
                    images = apply_views(train.images[index], views)
                    losses[k], right[k] = step(images, train.labels[index], progress)
            # Only now are numbers read: a look at one inside the loop would make a GPU wait.
            percent = 100 * right.sum(0) / (len(batches) * min(config.batch_size, len(train)))
            record = {"epoch": epoch, "lr": lr, **_summarise(nets, losses, percent, epoch)}
            record |= _evaluate(nets, data.val, "val", config.precision, epoch)
            if config.report == "best":
                _keep_best(best, record, nets)
            # The test images are looked at once, when nothing can be decided by them any more.
            if epoch == config.epochs:
                record["reported_epoch"] = _load_best(best, nets) or epoch
                record |= _evaluate(nets, data.test, "test", config.precision, epoch)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        if checkpoint is not None:
            checkpoint.save(_state(records, best, nets, optimizers))
        yield record


def _step(
    graph: Graph,
    nets: list,
    streams: list,
    optimizers: dict,
    config: TrainConfig,
    images: Tensor,
    labels: Tensor,
    progress: Tensor,
) -> tuple[Tensor, Tensor]:
    """One iteration; the loss on every edge (N, N), and how many images each node got right."""
    # Every node sees the same batch and is run once. A fixed teacher needs no graph of gradients.
    logits = [None] * graph.size
    with side_by_side(streams), autocast(images.device, config.precision):
        for i, net in enumerate(nets):
            if net is not None:
                with torch.cuda.stream(streams[i]), torch.set_grad_enabled(i in optimizers):
                    logits[i] = net(images)
    edges = edge_losses(graph, logits, labels, progress, config.temperature)
    # Sources are detached, so one backward of the sum gives every node its own gradient.
    edges.sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()
    right = [labels.new_zeros(()) if z is None else (z.argmax(1) == labels).sum() for z in logits]
    return edges.detach(), torch.stack(right)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run; weights are cast once a forward, so nothing is cached."""
    bf16 = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Set `lr`; on a GPU in place, since a captured step has recorded the tensor's address."""
    for optimizer in optimizers:
        group = optimizer.param_groups[0]
        group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr


def _draw_epoch(
    n: int, size: int, config: TrainConfig, seed: int, epoch: int, device: torch.device
) -> list[tuple]:
    """Per batch of an epoch over `n` images: indices, views (or None), progress k/K, learning rate.

    All that is random, and all numbers that change, are on the device before the epoch begins: the
    host never waits for it. The last partial batch is dropped.
    """
    batch = min(config.batch_size, n)
    steps = n // batch
    order = torch.randperm(n, generator=generator(seed, "order", epoch))[: steps * batch].to(device)
    rng = generator(seed, "augmentation", epoch)
    views = draw_views(len(order), size, config.augmentation, rng)
    views = [None] * steps if views is None else views.to(device).split(batch)
    iterations = range((epoch - 1) * steps + 1, epoch * steps + 1)
    progress = torch.tensor(iterations, device=device) / (config.epochs * steps)
    ramp = max(config.warmup * steps, 1)
    rates = [learning_rate(config, epoch) * min(1.0, k / ramp) for k in iterations]
    return list(zip(order.split(batch), views, progress, rates, strict=True))


@contextmanager
def seeded(device: torch.device, seed: int, *purpose: object) -> Iterator[None]:
    """torch's own random numbers (dropout) start anew, as a training that is resumed needs."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(derive(seed, *purpose))
        yield


def _summarise(nets: list, losses: Tensor, percent: Tensor, epoch: int) -> dict:
    """What a record says of training: edge losses (K, N, N), percent classified right (N,)."""
    losses = losses.cpu()
    _check_finite(losses, epoch)
    mean = losses.mean(0)

    def of_run_nodes(values: Tensor) -> list[float | None]:
        pairs = zip(values.tolist(), nets, strict=True)
        return [None if net is None else value for value, net in pairs]

    return {
        "train_loss": of_run_nodes(mean.sum(1)),
        "edge_loss": mean.tolist(),
        "train_accuracy": of_run_nodes(percent.cpu()),
    }


@torch.no_grad()
def predict(
    net: nn.Module | None, split: Split, precision: str = "fp32", batch: int = 256
) -> Tensor | None:
    """Logits (n, C) in float32 for the images of `split`, unaugmented; None without a network."""
    if net is None:
        return None
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    logits = []
    for images in split.images.split(batch):
        with autocast(device, precision):
            logits.append(net(normalise(images.to(device))).float())
    net.train(was_training)
    return torch.cat(logits)


def accuracy(scores: Tensor | None, labels: Tensor) -> float | None:
    """Percent of rows (n, C) that are highest at the label."""
    if scores is None:
        return None
    right = (scores.argmax(1) == labels.to(scores.device)).sum().item()
    return 100 * right / len(labels)


def _evaluate(nets: list, split: Split, name: str, precision: str, epoch: int) -> dict:
    """`<name>_accuracy` of every node, and `<name>_ensemble`, that of their mean softmax."""
    logits = [predict(net, split, precision) for net in nets]
    for i, answers in enumerate(logits):
        if answers is not None and not answers.isfinite().all():
            found = f"node {i + 1} answers the {name} images with NaN or infinity"
            raise FloatingPointError(f"{found} after epoch {epoch}: {_WAY_OUT}")
    mean = sum(z.softmax(1) for z in logits if z is not None)
    return {
        f"{name}_accuracy": [accuracy(z, split.labels) for z in logits],
        f"{name}_ensemble": accuracy(mean, split.labels),
    }


def _check_finite(losses: Tensor, epoch: int) -> None:
    """Raise FloatingPointError naming the first of the losses (K, N, N) that is not finite."""
    for k, t, s in (~losses.isfinite()).nonzero()[:1].tolist():
        edge = f"label -> node {t + 1}" if s == t else f"node {s + 1} -> node {t + 1}"
        found = f"the loss of node {t + 1} on edge {edge} is {losses[k, t, s].item()}"
        raise FloatingPointError(f"{found} in epoch {epoch}, iteration {k + 1}: {_WAY_OUT}")


def initial_models(
    graph: Graph, data: Data, config: TrainConfig, seed: int, weights: str | Path = "data/weights"
) -> list[nn.Module | None]:
    """Step 2: the network of every node that can influence the target, None for the others."""
    device = resolve_device(config.device)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    classes = data.classes if config.head == "fit" else len(data.classes)
    nets = [None] * graph.size
    for i in graph.reaching_target():
        node = graph.nodes[i]
        start = derive(seed, "init", i)
        how = {"scale": config.scale, "stages": config.stages}
        net = initialise(node.arch, node.init, classes, start, weights, **how)
        # Wide networks in fp32 are slower with channels last on a CPU.
        last = bf16 or node.arch in NARROW
        layout = torch.channels_last if last else torch.contiguous_format
        nets[i] = net.to(device, memory_format=layout)
    return nets


def _optimizers(graph: Graph, nets: list, config: TrainConfig) -> dict[int, torch.optim.SGD]:
    """One optimizer per node that learns."""
    return {
        i: sgd(net, config, nesterov=config.nesterov and config.momentum > 0)
        for i, net in enumerate(nets)
        if net is not None and graph.learns(i)
    }


def sgd(net: nn.Module, config, nesterov: bool = False) -> torch.optim.SGD:
    """SGD with `lr`, `momentum` and `weight_decay` of `config`; on a GPU `lr` is a tensor there."""
    device = next(net.parameters()).device
    lr = torch.tensor(config.lr, device=device) if device.type == "cuda" else config.lr
    how = {"momentum": config.momentum, "weight_decay": config.weight_decay, "nesterov": nesterov}
    return torch.optim.SGD(net.parameters(), lr, fused=True, **how)


def _state(records: list[dict], best: dict, nets: list, optimizers: dict) -> dict:
    """All that a training needs to resume; the inverse of `_resume`."""
    return {
        "records": records,
        "best": best,
        "models": {i: net.state_dict() for i, net in enumerate(nets) if net is not None},
        "optimizers": {i: optimizer.state_dict() for i, optimizer in optimizers.items()},
    }


def _resume(
    checkpoint, nets: list, optimizers: dict, device: torch.device
) -> tuple[list[dict], dict]:
    """Networks and optimizers as the checkpoint has them; its records, and the best epoch."""
    saved = None if checkpoint is None else checkpoint.load(device)
    if saved is None:
        return [], {"epoch": 0, "val": -1.0, "states": {}}
    for i, state in saved["models"].items():
        nets[i].load_state_dict(state)
    for i, state in saved["optimizers"].items():
        restore(optimizers[i], state)
    return saved["records"], saved["best"]


def _keep_best(best: dict, record: dict, nets: list) -> None:
    """Remember the networks if the target's validation accuracy is the best so far."""
    if record["val_accuracy"][0] > best["val"]:
        states = {i: copy.deepcopy(n.state_dict()) for i, n in enumerate(nets) if n is not None}
        best.update(epoch=record["epoch"], val=record["val_accuracy"][0], states=states)


def _load_best(best: dict, nets: list) -> int:
    """Load the networks that `_keep_best` remembers; their epoch, or 0 if there are none."""
    for i, state in best["states"].items():
        nets[i].load_state_dict(state)
    return best["epoch"]


def learning_rate(config, epoch: int, milestones: Sequence[float] = (0.3, 0.6, 0.9)) -> float:
    """The learning rate of `epoch`, 1-based, by the `schedule` of `config`, warm-up aside.

    `milestones`: shares of the epochs after which the "step" schedule divides by 10.
    """
    done = (epoch - 1) / config.epochs
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(done >= share - 1e-9 for share in milestones)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    return config.lr


def derive(seed: int, *purpose: object) -> int:
    """An independent seed for one purpose: initialisation, order and views are drawn separately.

    Raises TypeError for a seed that is not a whole number.
    """
    seed = int(operator.index(seed))  # numpy's 0 is 0
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of random numbers for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
