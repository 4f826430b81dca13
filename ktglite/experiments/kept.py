"""What was trained, to take away: networks and test logits beside a run's record, and what the logits say."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors import torch as safetensors
from torch import Tensor, nn

from ktglite.data import Split
from ktglite.devices import numerics
from ktglite.store import atomic_write
from ktglite.trainer import accuracy, predict

__all__ = ["read_logits", "save_network", "together"]


def save_network(net: nn.Module, path: str | Path, classes: Sequence[str], card: Mapping | None = None) -> Path:
    """Write a trained network as safetensors, with `classes` and a `card` of anything else in its header.

    `Node(arch, path)` starts from it, and `initialise(arch, path, len(classes), 0, classes=classes)` loads it with its
    head. The names of its tensors are torchvision's, whose networks load it, too.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    with atomic_write(path) as file:
        file.write(safetensors.save(state, {"ktglite": json.dumps({"classes": list(classes), **(card or {})})}))
    return Path(path)


def files(record: Path, nodes: Sequence[int], keep: str) -> dict[int | str, Path]:
    """Where `keep` puts the networks of these nodes (0-based) and, under "logits", the logits of all, for a record."""
    wanted = {"none": [], "target": [0], "all": nodes}[keep]
    found: dict[int | str, Path] = {i: record.with_suffix(f".node{i + 1}.safetensors") for i in wanted}
    return found | ({"logits": record.with_suffix(".logits.safetensors")} if wanted else {})


def save(
    nets: Sequence[nn.Module | None], record: Path, keep: str, test: Split, classes: Sequence[str], card: Mapping
) -> dict[str, float]:
    """Write what `keep` asks for of a finished run; returns what its nodes are worth `together`."""
    run = [i for i, net in enumerate(nets) if net is not None]
    config = card["config"]
    with numerics(next(nets[0].parameters()).device, config["deterministic"], config["tf32"]):  # as in training
        logits = {f"node {i + 1}": predict(nets[i], test, config["precision"]).cpu() for i in run}
    for what, path in files(record, run, keep).items():
        if what == "logits":
            with atomic_write(path) as file:
                file.write(safetensors.save(logits | {"labels": test.labels.cpu()}))
        else:
            save_network(nets[what], path, classes, dict(card, node=what + 1))
    return together(logits, test.labels.cpu())


def read_header(path: str | Path) -> dict:
    """What `save_network` wrote beside the weights."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("ktglite", "{}"))


def read_logits(path: str | Path) -> tuple[dict[str, Tensor], Tensor]:
    """Test logits (images, classes) by node, "node 1" .., and the labels (images,), of a run that was kept."""
    logits = safetensors.load_file(path)
    return {name: logits[name] for name in sorted(logits) if name != "labels"}, logits["labels"]


def together(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """What a graph's nodes are worth as one, in percent.

    `ensemble`: accuracy of the mean of their softmaxes.  `agreement`: share of images to which two nodes give the same
    answer, mean over pairs; NaN for one node.  `calibration_error`: of node 1 alone.
    """
    answers = [z.argmax(1) for z in logits.values()]
    pairs = [(a == b).double().mean() for i, a in enumerate(answers) for b in answers[:i]]
    return {
        "ensemble": accuracy(sum(z.softmax(1) for z in logits.values()), labels),
        "agreement": 100 * float(sum(pairs) / len(pairs)) if pairs else float("nan"),
        "calibration_error": _calibration_error(next(iter(logits.values())), labels),
    }


def _calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017): the mean gap of confidence and accuracy."""
    confidence, answer = logits.double().softmax(1).max(1)
    gap, place = (answer == labels).double() - confidence, (confidence * bins).ceil().long()
    return 100 * float(torch.zeros(bins + 1, dtype=torch.double).index_add(0, place, gap).abs().sum()) / len(labels)
