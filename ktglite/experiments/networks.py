"""Trained networks to take away: what their files say, and what they answer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import nn

from ktglite.data import MEAN, STD, Data, Split
from ktglite.models import initialise
from ktglite.sources.images import read_image
from ktglite.store import atomic_write
from ktglite.trainer import predict

__all__ = ["classify", "load_network"]


def save_network(net: nn.Module, path: str | Path, card: Mapping) -> Path:
    """Write a trained network as safetensors with torchvision's names, which `load_network` reads
    and `Node(arch, path)` starts from; in its header a `card` with `arch`, `classes`, `size` (px)
    and `fit` ("squash" or "crop"): how images are fed."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    header = json.dumps({**card, "mean": MEAN, "std": STD})
    with atomic_write(path) as file:
        file.write(safetensors.save(state, {"ktglite": header}))
    return Path(path)


def read_header(path: str | Path) -> dict:
    """What ktglite wrote into the header of a safetensors file; empty for files of others. Raises
    ValueError for a file that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {}).get("ktglite", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): save or download it again") from error


def read_card(path: str | Path) -> dict:
    """The card that `save_network` wrote. Raises ValueError for a file without one."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no network saved by ktglite: those end in .safetensors")
    card = read_header(path)
    if "classes" not in card:
        raise ValueError(f"{path} does not say which classes it knows: it was not saved by ktglite")
    return card


def load_network(path: str | Path) -> nn.Module:
    """A saved network, head included, ready to predict (eval mode, on the CPU).

    It has `classes` (names in the order of the logits), `size` (px of the square images it takes),
    `fit` (how images are made square: "squash" or "crop") and `card` (all that its file says). It
    takes what `ktglite.data.normalise` makes of uint8 images (B, 3, size, size).
    """
    card = read_card(path)
    classes = tuple(card["classes"])
    if absent := sorted({"arch", "size", "fit"} - card.keys()):
        raise ValueError(f"{path} does not say its {absent[0]}: train it again")
    where = str(Path(path).expanduser())
    net = initialise(card["arch"], where, classes, 0).eval()
    net.classes = classes
    net.size = card["size"]
    net.fit = card["fit"]
    net.card = card
    return net


def classify(net: nn.Module, files: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """What a loaded network takes image files for: columns `file`, `class`, `probability` (%).

    Raises ValueError naming a file that cannot be read.
    """
    files = [str(file) for file in ([files] if isinstance(files, str | Path) else files)]
    parts = [torch.zeros(0, len(net.classes))]
    for start in range(0, len(files), 256):  # so many pictures are in memory at a time
        pictures = [read_image(file, net.size, net.fit) for file in files[start : start + 256]]
        unknown = torch.zeros(len(pictures), dtype=torch.int64)
        parts.append(predict(net, Split(torch.from_numpy(np.stack(pictures)), unknown)))
    best = torch.cat(parts).softmax(1).max(1)
    names = [net.classes[i] for i in best.indices.tolist()]
    return pd.DataFrame({"file": files, "class": names, "probability": 100 * best.values.numpy()})


def card_of(record: Mapping, data: Data, node: int) -> dict:
    """The card of node `node` (1-based) of a run: its record, and how images are fed to it."""
    card = {name: value for name, value in record.items() if name != "epochs"}
    spec = {k: v for k, v in (data.spec or {}).items() if k not in ("cache", "raw")}
    card |= {"node": node, "arch": record["graph"]["nodes"][node - 1]["arch"]}
    card |= {"classes": list(data.classes), "size": data.size}
    return card | {"fit": spec.get("fit", "squash"), "dataset": spec}


def kept_files(record: Path, nodes: Sequence[int], keep: str) -> dict[int, Path]:
    """Where `keep` puts the networks of these nodes (0-based), beside a record."""
    wanted = {"none": [], "target": [0], "all": nodes}[keep]
    return {i: record.with_suffix(f".node{i + 1}.safetensors") for i in wanted}
