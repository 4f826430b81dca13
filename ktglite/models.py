"""Architectures, and Step 2 of the paper: what a node's weights are before the graph is trained."""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torchvision import models as zoo
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["SOURCES", "Source", "build", "initialise", "load_backbone", "title"]

# The paper's ResNet18, its 7x7 stem and max-pool included, by the number of channels of its first stage (64 there).
NARROW = {"resnet18_w8": 8, "resnet18_w16": 16}
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
# In training these two return auxiliary logits besides their own: not the (B, C) a node needs.
NOT_A_NODE = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Source:
    """Where pre-trained weights come from: all that is said of a source anywhere.

    `name` is what `Node.init` says, `title` its name for readers. In drawings `short` stands before a node's name and
    `colour` ("#rrggbb") fills it. `open`: "module:function" that gives the images to pre-train on, or None.
    """

    name: str
    title: str
    short: str
    colour: str
    open: str | None = None
    licence: str = ""
    citation: str = ""


SOURCES: dict[str, Source] = {"scratch": Source("scratch", "no pre-training", "", "#FFFFFF")}


def title(init: str) -> str:
    """The name of an initialisation for readers; a weights file goes by its stem."""
    if init in SOURCES:
        return SOURCES[init].title
    return Path(init).stem if init.endswith(WEIGHT_SUFFIXES) else init


@cache
def arch_names() -> tuple[str, ...]:
    """Every architecture a node may have: the narrow ResNets and torchvision's classification models."""
    return (*NARROW, *(name for name in zoo.list_models(module=zoo) if name not in NOT_A_NODE))


def is_init(name: str) -> bool:
    """Whether `name` says where weights come from: one of SOURCES, a weights file, or a name of torchvision's."""
    return name in SOURCES or str(name).endswith(WEIGHT_SUFFIXES) or _named_weights(name) is not None


@cache
def _named_weights(name: str) -> zoo.WeightsEnum | None:
    """torchvision's weights of a name such as "ResNet50_Weights.IMAGENET1K_V2", if there are such."""
    try:
        return zoo.get_weight(name)
    except (ValueError, KeyError, TypeError):  # no such class, no such entry, no class at all
        return None


def build(arch: str, num_classes: int) -> nn.Module:
    """A freshly initialised network: images (B, 3, S, S) in, logits (B, num_classes) out.
    Raises ValueError for an unknown `arch`."""
    if arch in NARROW:
        return _narrow_resnet18(NARROW[arch], num_classes)
    if arch not in arch_names():
        raise ValueError(f"unknown arch {arch!r}: allowed are {', '.join(NARROW)} and torchvision's models")
    return zoo.get_model(arch, weights=None, num_classes=num_classes)


def _narrow_resnet18(width: int, num_classes: int) -> ResNet:
    """torchvision's ResNet18 with `width` channels in the first stage; the same parameter names."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
    model.inplanes = width
    model.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for stage in range(4):
        layer = model._make_layer(BasicBlock, width * 2**stage, blocks=2, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(width * 8, num_classes)
    for module in model.modules():  # the layers made here, initialised as torchvision initialises its own
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def find_weights(arch: str, init: str, weights: str | Path) -> Path | None:
    """The file with `init`'s weights for `arch`; None for "scratch".

    Looks for `<weights>/<init>-<arch>.safetensors` (written by `ktglite pretrain`), then, for "imagenet1k" and
    torchvision's own names, for its file in its cache or on the network. Raises FileNotFoundError that says how to
    get the file.
    """
    if init == "scratch":
        return None
    path = Path(init) if init.endswith(WEIGHT_SUFFIXES) else Path(weights) / f"{init}-{arch}.safetensors"
    if path.is_file():
        return path
    if init == "imagenet1k" and arch not in NARROW:
        return _torchvision_weights(zoo.get_model_weights(arch).IMAGENET1K_V1, missing=path)
    if _named_weights(init) is not None:
        return _torchvision_weights(_named_weights(init), missing=path)
    if init.endswith(WEIGHT_SUFFIXES):
        raise FileNotFoundError(f"no weights for {arch!r}: the file {path} does not exist")
    raise FileNotFoundError(
        f"no {init!r} weights for {arch!r}: {path} does not exist; run notebook 01 or "
        f"`ktglite pretrain --source {init} --arch {arch} --out {weights}` first"
    )


def _torchvision_weights(entry: zoo.WeightsEnum, missing: Path) -> Path:
    """The file of torchvision's weights `entry`, downloaded once and checked against the hash in its name."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(entry.url)
    try:
        torch.hub.load_state_dict_from_url(entry.url, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        way_out = f"place {cached.name} into {cached.parent}, or a safetensors file at {missing}"
        raise FileNotFoundError(f"{entry} could not be downloaded ({error}); {way_out}") from error
    return cached


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and metadata of a weights file. Raises ValueError if the file is not a state dict, or not the
    one that the card beside it was written for. Code in a pickle is never run.
    """
    path = Path(path)
    _check_card(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # every reader has its own exceptions for a file that is not what it says
        raise ValueError(f"{path} is not a readable weights file ({error}); make or download it again") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors")
    return state, {}


def _check_card(path: Path) -> None:
    """Raise ValueError where the card beside a weights file gives the SHA-256 of other weights."""
    try:
        wanted = json.loads(path.with_suffix(".json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no card of ours: nothing to hold it against
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        way_out = "pre-train again, or remove the card if the weights are meant"
        raise ValueError(f"{path} is not the file its card {path.stem}.json was written for: {way_out}")


def head_of(model: nn.Module) -> str:
    """Name of the last linear layer: the head that knows the classes."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def load_backbone(model: nn.Module, path: str | Path, classes: tuple[str, ...] | None = None, stages: int = 5) -> None:
    """Load every layer from `path`; the head only if the file names exactly these `classes`, as our own files do.

    `stages`: of a ResNet, take over the stem and the first `stages - 1` of its four layers; 5 takes all, as the paper.
    Raises ValueError naming missing, unexpected or misshapen entries.
    """
    state, metadata = read_weights(path)
    own, head = model.state_dict(), head_of(model) + "."
    fits = classes is not None and json.loads(metadata.get("ktglite") or "{}").get("classes") == list(classes)
    body = {name: value for name, value in state.items() if fits or not name.startswith(head)}
    wanted = {name for name in own if fits or not name.startswith(head)}
    problems = [f"missing {name}" for name in sorted(wanted - set(body)) if not name.endswith("num_batches_tracked")]
    problems += [f"unexpected {name}" for name in sorted(set(body) - wanted)]
    misfits = [name for name in sorted(wanted & set(body)) if body[name].shape != own[name].shape]
    problems += [f"{name} is {tuple(body[name].shape)}, the model has {tuple(own[name].shape)}" for name in misfits]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"the weights in {path} do not fit the model: {shown}")
    if stages < 5:
        taken = ("conv1.", "bn1.", *(f"layer{i}." for i in range(1, stages)))
        body = {name: value for name, value in body.items() if name.startswith(taken)}
    model.load_state_dict({**own, **body})


@torch.no_grad()
def _rescale(model: nn.Module) -> None:
    """Give every convolution of a ResNet the root mean square of a fresh one; what the network answers stays.

    A BatchNorm divides the scale out again, so it decides only how far a step of a given learning rate turns the
    weights: long training at a large rate leaves them large, and fine-tuning then moves them less than fresh ones.
    Raises ValueError for other networks, where this does not hold.
    """
    if not isinstance(model, ResNet):
        raise ValueError(f"scale 'fresh' is for ResNets, not {type(model).__name__}: use scale 'kept'")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    for convolution, norm in zip(layers[::2], layers[1::2], strict=True):
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size) // convolution.groups
        factor = math.sqrt(2 / fan_out) / convolution.weight.square().mean().sqrt()
        convolution.weight *= factor
        norm.running_mean *= factor
        norm.running_var *= factor**2


def initialise(
    arch: str, init: str, num_classes: int, seed: int, weights: str | Path = "data/weights",
    classes: tuple[str, ...] | None = None, scale: str = "kept", stages: int = 5,
) -> nn.Module:  # fmt: skip
    """Step 2: random numbers from `seed`, then, unless `init` is "scratch", the Step 1 weights over the backbone.

    Drawing the random numbers first gives every arm of a comparison the same head for the same seed. `scale`: "kept",
    or "fresh" for loaded weights at the scale of fresh ones, see `_rescale`.  `stages`: see `load_backbone`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(arch, num_classes)
    if path := find_weights(arch, init, weights):
        load_backbone(model, path, classes, stages)
        if scale == "fresh":
            _rescale(model)
    return model
