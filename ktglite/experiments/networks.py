"""Trained networks to take away: what their files say, and what they answer."""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors
from torch import nn

from ktglite.data import MEAN, STD, Data, Split
from ktglite.models import initialise
from ktglite.sources.datasets import digest
from ktglite.sources.images import read_image
from ktglite.store import atomic_write
from ktglite.trainer import predict

__all__ = ["classify", "load_network"]

log = logging.getLogger(__name__)


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


def classify(
    net: nn.Module,
    files: str | Path | Iterable[str | Path],
    skip_unreadable: bool = False,
    known: Collection[str] = (),
) -> pd.DataFrame:
    """What a loaded network takes image files for: columns `file`, `class`, `probability` (%).

    Args:
        skip_unreadable: leave out files that cannot be read, with a warning.
        known: digests of images to leave out, such as those that it was trained on.

    Raises ValueError naming a file that cannot be read.
    """
    files = [str(file) for file in ([files] if isinstance(files, str | Path) else files)]
    pictures = _pictures(net, files, skip_unreadable, known)
    names = []
    parts = [torch.zeros(0, len(net.classes))]
    while found := dict(islice(pictures, 256)):  # so many are in memory at a time
        names += found
        images = torch.from_numpy(np.stack([*found.values()]))
        unknown = torch.zeros(len(found), dtype=torch.int64)
        parts.append(predict(net, Split(images, unknown)).cpu())
    best = torch.cat(parts).softmax(1).max(1)
    classes = [net.classes[i] for i in best.indices.tolist()]
    return pd.DataFrame({"file": names, "class": classes, "probability": 100 * best.values.numpy()})


def _pictures(
    net: nn.Module, files: Iterable[str], skip_unreadable: bool, known: Collection[str]
) -> Iterator[tuple[str, np.ndarray]]:
    for file in dict.fromkeys(files):
        try:
            picture = read_image(file, net.size, net.fit)
        except ValueError as error:
            if not skip_unreadable:
                raise
            log.warning("left out: %s", error)
        else:
            if not known or digest(picture) not in known:
                yield file, picture


def card_of(record: Mapping, data: Data, node: int) -> dict:
    """The card of node `node` (1-based) of a run: its record, how images are fed to it, and digests
    of those it has `seen`, to train and to validate."""
    card = {name: value for name, value in record.items() if name != "epochs"}
    spec = {k: v for k, v in (data.spec or {}).items() if k not in ("cache", "raw")}
    card |= {"node": node, "arch": record["graph"]["nodes"][node - 1]["arch"]}
    card |= {"classes": list(data.classes), "size": data.size}
    parts = (data.train.images.numpy(), data.val.images.numpy())
    card["seen"] = sorted(digest(image) for images in parts for image in images)
    return card | {"fit": spec.get("fit", "squash"), "dataset": spec}


def kept_files(record: Path, nodes: Sequence[int], keep: str) -> dict[int, Path]:
    """Where `keep` puts the networks of these nodes (0-based), beside a record."""
    wanted = {"none": [], "target": [0], "all": nodes}[keep]
    return {i: record.with_suffix(f".node{i + 1}.safetensors") for i in wanted}
