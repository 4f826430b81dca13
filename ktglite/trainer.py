"""Training a Knowledge Transfer Graph: the node losses and one loop, a generator of per-epoch records."""

import copy
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktglite.cuda_graph import captured
from ktglite.data import Data, Split, draw_views, normalise, see
from ktglite.devices import resolve_device, resolve_precision
from ktglite.files import whole
from ktglite.gates import GATES
from ktglite.graph import Graph
from ktglite.models import SMALL_RESNETS, initialise

log = logging.getLogger(__name__)

CHOICES = {
    "schedule": ("step", "cosine", "constant"),
    "augmentation": ("crop", "shift", "none"),
    "precision": ("auto", "fp32", "bf16"),
    "report": ("last", "best"),
    "head": ("fit", "new"),
    "scale": ("kept", "fresh"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. The defaults are the paper's, and the released KTG code's where it is silent.

    - `schedule`: "step" multiplies `lr` by 0.1 at 30, 60 and 90 % of the epochs; "cosine" ends near 0; "constant".
    - `temperature`: of the softmaxes in the transfer losses, which are multiplied by its square.
    - `augmentation`: "crop", "shift" or "none", see `ktglite.data.augment`.
    - `precision`: "bf16" runs the networks under autocast; "auto" does so where the device gains by it, see
      `ktglite.devices`. That bf16 is harmless was not shown (benchmarks/RESULTS.md), so "fp32" is the default.
    - `report`: test the networks of the "last" epoch, or of the epoch with the "best" target validation accuracy.
    - `head`: "fit" keeps a loaded head if it was trained for exactly these classes (a fixed teacher's); "new" never.
    - `scale`: "kept" loads pre-trained weights as they are, as the paper does; "fresh" at the scale of fresh ones, so
      that the learning rate moves both alike, see `ktglite.models.rescale`.
    - `device`: "auto" takes a GPU where there is one; else "cpu", "cuda", "cuda:1", ...

    Raises ValueError naming the setting that is out of range.
    """

    epochs: int = 200
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "step"
    temperature: float = 1.0
    augmentation: str = "crop"
    precision: str = "fp32"
    report: str = "last"
    head: str = "fit"
    scale: str = "kept"
    device: str = "auto"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        for name, low, high in [
            ("epochs", 1, math.inf),
            ("batch_size", 2, math.inf),  # BatchNorm has no variance over a single image
            ("lr", 0, math.inf),
            ("momentum", 0, 1),
            ("weight_decay", 0, math.inf),
            ("temperature", 1e-6, math.inf),
        ]:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be between {low} and {high}")


def edge_losses(
    graph: Graph, logits: Sequence[Tensor | None], labels: Tensor, progress: float | Tensor, temperature: float = 1.0
) -> Tensor:
    """The gated loss on every edge, Tensor (N, N), row t and column s as in `graph.gates[t][s]`.

    - `logits`: N tensors (B, C); None for a node that is not run, whose edges then count 0.
    - `labels`: int64 (B,).  `progress`: k / K in (0, 1], k the 1-based iteration of the K of the whole run; a
      Tensor () on the device is taken unchecked, since looking at it would make the host wait.

    Diagonal: gate(CE(logits_t, y)). Elsewhere: T^2 gate(KL(p_s || p_t)) times the graph's transfer weight, softmax
    at temperature T, the source detached (Minami et al., 2020; the losses of the paper, section 2).
    """
    if not isinstance(progress, Tensor) and not 0 < progress <= 1:
        raise ValueError(f"progress is {progress}: it must be k / K in (0, 1]")
    run = [i for i, z in enumerate(logits) if z is not None]
    log_p = {i: F.log_softmax(logits[i].float() / temperature, dim=1) for i in run}
    right = {i: logits[i].argmax(1) == labels for i in run}
    zero = logits[run[0]].new_zeros((), dtype=torch.float32)
    rows = [[zero] * graph.size for _ in range(graph.size)]
    for t in run:
        for s in graph.sources(t):
            gate = GATES[graph.gates[t][s]]
            if s == t:  # the source of a label edge is the label itself: always right
                losses = F.cross_entropy(logits[t].float(), labels, reduction="none")
                rows[t][s] = gate(losses, torch.ones_like(right[t]), progress)
            elif s in log_p:
                source = log_p[s].detach()
                losses = temperature**2 * (source.exp() * (source - log_p[t])).sum(1)
                rows[t][s] = graph.transfer_weight * gate(losses, right[s], progress)
    return torch.stack([torch.stack(row) for row in rows])


def node_losses(
    graph: Graph, logits: Sequence[Tensor | None], labels: Tensor, progress: float | Tensor, temperature: float = 1.0
) -> Tensor:
    """L_t, the sum over the edges into node t; Tensor (N,). Arguments as in `edge_losses`.

    Sources are detached, so the gradient of the sum over t is every node's own gradient at once.
    """
    return edge_losses(graph, logits, labels, progress, temperature).sum(dim=1)


def derive(seed: int, *purpose: object) -> int:
    """An independent seed for one purpose, so that initialisation, order and augmentation are drawn separately."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of `epoch`, 1-based."""
    done = (epoch - 1) / config.epochs
    if config.schedule == "step":
        return config.lr * 0.1 ** sum(done >= share - 1e-9 for share in (0.3, 0.6, 0.9))
    return config.lr * (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else config.lr


def initial_models(
    graph: Graph, data: Data, config: TrainConfig, seed: int, weights: str | Path = "data/weights"
) -> list[nn.Module | None]:
    """Step 2: the network of every node that can influence the target, None for the others."""
    device = resolve_device(config.device)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    known = data.classes if config.head == "fit" else None
    reaching = graph.reaching_target()
    nets = []
    for i, node in enumerate(graph.nodes):
        if i not in reaching:
            nets.append(None)
            continue
        start = derive(seed, "init", i)
        net = initialise(node.arch, node.init, len(data.classes), start, weights, known, config.scale)
        gains = bf16 or node.arch in SMALL_RESNETS  # wide networks are slower in fp32 with channels last on a CPU
        nets.append(net.to(device, memory_format=torch.channels_last if gains else torch.contiguous_format))
    return nets


def epochs(
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    weights: str | Path = "data/weights",
    models: list[nn.Module | None] | None = None,
    checkpoint: str | Path | None = None,
) -> Iterator[dict]:
    """Train the graph and yield one record after every epoch; the caller owns the loop and may stop at any time.

    A record holds `epoch` (1-based), `lr`, `seconds`, and per node `train_loss`, `train_accuracy`, `val_accuracy`
    (percent), None for a node that cannot influence the target and is therefore not run; `edge_loss` is the mean
    gated loss per edge, [target][source]. The last record also has `test_accuracy`, computed once, and
    `reported_epoch`. Everything but `seconds` is a function of the arguments on one machine.

    - `models`: networks to train in place of `initial_models(...)`, for a caller who wants to look at them.
    - `checkpoint`: a file written atomically after every epoch; if it exists, training resumes from it to the
      same result, the records of the epochs already done being yielded again. One of another training, or one that
      cannot be read, is set aside with a warning.

    Raises FloatingPointError naming epoch, iteration, node and edge when a loss is not finite, or the node whose
    network answers with NaN or infinity after an epoch.
    """
    device = resolve_device(config.device)
    bf16 = resolve_precision(config.precision, device) == "bf16"
    nets = initial_models(graph, data, config, seed, weights) if models is None else models
    run = [i for i, net in enumerate(nets) if net is not None]
    learners = [i for i in run if graph.learns(i)]
    optimizers = {
        i: torch.optim.SGD(
            nets[i].parameters(),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for i in learners
    }
    train = Split(data.train.images.to(device), data.train.labels.to(device))
    batch = min(config.batch_size, len(train))
    steps = len(train) // batch  # the last partial batch is dropped
    records, best = [], {"epoch": 0, "val": -1.0, "states": None}
    key = training_key(graph, data, config, seed)
    saved = None if checkpoint is None else read_checkpoint(checkpoint, key, device)
    if saved is not None:
        records, best = saved["records"], saved["best"]
        for i in run:
            nets[i].load_state_dict(saved["models"][i])
        for i in learners:
            optimizers[i].load_state_dict(saved["optimizers"][i])
        yield from records

    def iterate(images: Tensor, labels: Tensor, progress: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration; returns the edge losses (N, N) and how many images each node classified correctly (N,)."""
        # every weight is cast once a forward, so that there is nothing to cache
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
            logits = [forward(net, images, i in learners) for i, net in enumerate(nets)]
        edges = edge_losses(graph, logits, labels, progress, config.temperature)
        edges.sum().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        hits = [labels.new_zeros(()) if z is None else (z.argmax(1) == labels).sum() for z in logits]
        return edges.detach(), torch.stack(hits)

    iteration, rate = captured(iterate, device, data.size), torch.empty((), device=device)
    for epoch in range(len(records) + 1, config.epochs + 1):
        start, lr = time.perf_counter(), learning_rate(config, epoch)
        rate.fill_(lr)  # a captured step would not see another number, only another value at the same address
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = rate if device.type == "cuda" else lr
        for i in run:
            nets[i].train(i in learners)  # a fixed teacher keeps its BatchNorm statistics
        # all that is random, and all numbers that change, are on the device before the epoch: the host never waits
        order = torch.randperm(len(train), generator=generator(seed, "order", epoch))[: steps * batch].to(device)
        views = draw_views(len(order), data.size, config.augmentation, generator(seed, "augmentation", epoch))
        views = [None] * steps if views is None else views.to(device).split(batch)
        progress = torch.arange((epoch - 1) * steps + 1, epoch * steps + 1, device=device) / (config.epochs * steps)
        losses = torch.empty(steps, graph.size, graph.size, device=device)
        hits = torch.zeros(graph.size, dtype=torch.int64, device=device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(derive(seed, "dropout", epoch))
            for k, index in enumerate(order.split(batch)):
                images = see(train.images[index], views[k])
                losses[k], right = iteration(images, train.labels[index], progress[k])
                hits += right
        edge_loss = losses.cpu()
        check_finite(edge_loss, epoch)
        mean, share = edge_loss.mean(0), 100 * hits.cpu() / (steps * batch)
        record = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": [mean[i].sum().item() if i in run else None for i in range(graph.size)],
            "edge_loss": mean.tolist(),
            "train_accuracy": [share[i].item() if i in run else None for i in range(graph.size)],
            "val_accuracy": [accuracy(net, data.val, bf16) for net in nets],
        }
        if config.report == "best" and record["val_accuracy"][0] > best["val"]:
            states = {i: copy.deepcopy(nets[i].state_dict()) for i in run}
            best = {"epoch": epoch, "val": record["val_accuracy"][0], "states": states}
        if epoch == config.epochs:
            if best["states"] is not None:
                for i in run:
                    nets[i].load_state_dict(best["states"][i])
            record["reported_epoch"] = best["epoch"] or epoch
            record["test_accuracy"] = [accuracy(net, data.test, bf16) for net in nets]
        check_answers(record, steps)
        record["seconds"] = time.perf_counter() - start
        records.append(record)
        if checkpoint is not None:
            state = {
                "key": key,
                "records": records,
                "best": best,
                "models": {i: nets[i].state_dict() for i in run},
                "optimizers": {i: optimizers[i].state_dict() for i in learners},
            }
            save_atomically(state, checkpoint)
        yield record


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of random numbers for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def forward(net: nn.Module | None, images: Tensor, learns: bool) -> Tensor | None:
    """Logits (B, C); without a graph of gradients for a fixed teacher, and None for a node that is not run."""
    if net is None:
        return None
    with torch.set_grad_enabled(learns):
        return net(images)


@torch.no_grad()
def accuracy(net: nn.Module | None, split: Split, bf16: bool = False, batch: int = 256) -> float | None:
    """Percent of `split` that `net` classifies correctly, without augmentation; None without a network, NaN where an
    answer is NaN or infinite.
    """
    if net is None:
        return None
    device = next(net.parameters()).device
    was_training = net.training
    net.eval()
    hits = torch.zeros((), device=device)
    for start in range(0, len(split), batch):
        images = normalise(split.images[start : start + batch].to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)
        hits += (logits.argmax(1) == split.labels[start : start + batch].to(device)).sum()
        hits += torch.where(logits.isfinite().all(), 0.0, math.nan)
    net.train(was_training)
    return 100 * hits.item() / len(split)


def check_finite(edge_loss: Tensor, epoch: int) -> None:
    """Raise FloatingPointError naming the first loss of (iterations, N, N) that is NaN or infinite."""
    bad = (~edge_loss.isfinite()).nonzero()
    if len(bad):
        k, t, s = bad[0].tolist()
        edge = f"label -> node {t + 1}" if s == t else f"node {s + 1} -> node {t + 1}"
        raise FloatingPointError(
            f"the loss of node {t + 1} on edge {edge} is {edge_loss[k, t, s].item()} in epoch {epoch}, iteration "
            f"{k + 1}: lower the learning rate, or use precision='fp32'"
        )


def check_answers(record: dict, steps: int) -> None:
    """Raise FloatingPointError naming a node whose network answers NaN or infinity after an epoch.

    No later loss would tell what the last step did, and such a network answers one class, with some accuracy.
    """
    for split in ("val", "test"):
        for i, share in enumerate(record.get(f"{split}_accuracy", ())):
            if share is not None and math.isnan(share):
                raise FloatingPointError(
                    f"node {i + 1} answers the {split} images with NaN or infinity after epoch {record['epoch']}, "
                    f"iteration {steps}: lower the learning rate, or use precision='fp32'"
                )


# ---- checkpoints


def training_key(graph: Graph, data: Data, config: TrainConfig, seed: int) -> str:
    """Hex key over what decides a training, the nodes' first weights and the device aside."""
    settings = dataclasses.asdict(config)
    settings["precision"] = resolve_precision(config.precision, resolve_device(settings.pop("device")))
    what = json.dumps([graph.to_dict(), data.fingerprint, settings, seed], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:32]


def read_checkpoint(path: str | Path, key: str, device: torch.device) -> dict | None:
    """The checkpoint at `path`; None where there is none, or none of the training `key`.

    One that cannot be read or is another training's is renamed to `<path>.unused` with a warning.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        saved = load_checkpoint(path, device)
        if saved["key"] == key:
            return saved
        why = "belongs to another training"
    except ValueError as error:
        why = f"cannot be read ({error})"
    unused = path.with_name(f"{path.name}.unused")
    log.warning("%s %s: it is now %s, and the training begins anew", path, why, unused.name)
    with suppress(FileNotFoundError):  # another process of the same training was faster
        os.replace(path, unused)
    return None


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """What `save_atomically` wrote, byte for byte: torch itself does not notice a changed one. Raises ValueError."""
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("it is not as it was written")
    try:
        return torch.load(io.BytesIO(content[32:]), map_location=device, weights_only=True)
    except Exception as error:  # a version of torch that is too old, for instance
        raise ValueError(str(error)) from error


def save_atomically(state: dict, path: str | Path) -> None:
    """torch.save, its SHA-256 in front, that never leaves half a file under the final name."""
    content = io.BytesIO()
    torch.save(state, content)
    with whole(path) as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())
