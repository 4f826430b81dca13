"""Architectures, and Step 2 of the paper: what a node's weights are before the graph is trained."""

import hashlib
import json
import math
import os
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torchvision import models as zoo
from torchvision.models.resnet import BasicBlock, ResNet

# ResNet18 with a stem for small images (3x3, stride 1, no max-pool), by the number of channels of its first stage.
SMALL_RESNETS = {"resnet18_small": 64, "resnet18_narrow": 16, "resnet18_tiny": 8}
SOURCES = ("scratch", "fractaldb1k", "imagenet1k", "imagenet1k_standin")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


# In training these two return auxiliary logits besides their own: not the (B, C) a node needs.
NOT_A_NODE = ("googlenet", "inception_v3")


@cache
def arch_names() -> tuple[str, ...]:
    """Every architecture a node may have: the small ResNets and torchvision's classification models."""
    return (*SMALL_RESNETS, *(name for name in zoo.list_models(module=zoo) if name not in NOT_A_NODE))


def is_init(name: str) -> bool:
    """Whether `name` says where weights come from: one of SOURCES, a weights file, or a name of torchvision's."""
    return name in SOURCES or str(name).endswith(WEIGHT_SUFFIXES) or named_weights(name) is not None


@cache
def named_weights(name: str) -> zoo.WeightsEnum | None:
    """torchvision's weights of a name such as "ResNet50_Weights.IMAGENET1K_V2", if there are such."""
    try:
        return zoo.get_weight(name)
    except (ValueError, KeyError, TypeError):  # no such class, no such entry, no class at all
        return None


def build(arch: str, num_classes: int) -> nn.Module:
    """A freshly initialised network: images (B, 3, S, S) in, logits (B, num_classes) out.

    Raises ValueError for an unknown `arch`.
    """
    if arch in SMALL_RESNETS:
        return small_resnet18(SMALL_RESNETS[arch], num_classes)
    if arch not in arch_names():
        raise ValueError(f"unknown arch {arch!r}: allowed are {', '.join(SMALL_RESNETS)} and torchvision's models")
    return zoo.get_model(arch, weights=None, num_classes=num_classes)


def small_resnet18(width: int, num_classes: int) -> ResNet:
    """ResNet18 for images of about 32 px: 3x3 stride-1 stem, no max-pool, `width` channels in the first stage.

    The parameter names are torchvision's, so weights move between the two wherever the shapes agree.
    """
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
    model.inplanes = width
    model.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    model.maxpool = nn.Identity()
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
    if init == "imagenet1k" and arch not in SMALL_RESNETS:
        return torchvision_weights(zoo.get_model_weights(arch).IMAGENET1K_V1, missing=path)
    if named_weights(init) is not None:
        return torchvision_weights(named_weights(init), missing=path)
    if init.endswith(WEIGHT_SUFFIXES):
        raise FileNotFoundError(f"no weights for {arch!r}: the file {path} does not exist")
    raise FileNotFoundError(
        f"no {init!r} weights for {arch!r}: {path} does not exist; run notebook 01 or "
        f"`ktglite pretrain --source {init} --arch {arch} --out {weights}` first"
    )


def torchvision_weights(entry: zoo.WeightsEnum, missing: Path) -> Path:
    """The file of torchvision's weights `entry`, downloaded once and checked against the hash in its name."""
    url = entry.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    try:
        torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{entry} could not be downloaded ({error}); place {os.path.basename(url)} "
            f"into {cached.parent}, or a safetensors file at {missing}"
        ) from error
    return cached


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and metadata of a weights file. Raises ValueError for what is none: code in a pickle is never run, and
    a file that is not what the card beside it was written for is not used.
    """
    path = Path(path)
    check_card(path)
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


def check_card(path: Path) -> None:
    """Raise ValueError where the card beside a weights file gives the SHA-256 of other weights."""
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        wanted = card["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no card of ours: nothing to hold it against
        return
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
            raise ValueError(
                f"{path} is not the file its card {path.with_suffix('.json').name} was written for: pre-train again, "
                f"or remove the card if the weights are meant"
            )


def head_of(model: nn.Module) -> str:
    """Name of the last linear layer: the head that knows the classes."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def load_backbone(model: nn.Module, path: str | Path, classes: tuple[str, ...] | None = None) -> nn.Module:
    """Load every layer from `path` but the head, which is kept new unless it fits.

    It fits when the file names exactly the `classes` of the data at hand (our own files do); sharing only the
    number of classes is a coincidence. Raises ValueError naming missing, unexpected or misshapen entries.
    """
    state, metadata = read_weights(path)
    own, head = model.state_dict(), head_of(model)
    known = json.loads(metadata.get("ktglite") or "{}").get("classes")
    fits = classes is not None and known == list(classes)
    body = {name: value for name, value in state.items() if fits or not name.startswith(head + ".")}
    wanted = {name for name in own if fits or not name.startswith(head + ".")}
    problems = [f"missing {name}" for name in sorted(wanted - set(body)) if not name.endswith("num_batches_tracked")]
    problems += [f"unexpected {name}" for name in sorted(set(body) - wanted)]
    problems += [
        f"{name} is {tuple(body[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in sorted(wanted & set(body))
        if body[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"the weights in {path} do not fit the model: {shown}")
    model.load_state_dict({**own, **body})
    return model


@torch.no_grad()
def rescale(model: nn.Module) -> nn.Module:
    """Give every convolution of a ResNet the root mean square of a fresh one; what the network answers stays.

    A BatchNorm follows each convolution and divides its scale out again, so the scale decides nothing but how far a
    step of a given learning rate turns the weights: long training at a large rate leaves them large, and fine-tuning
    then moves them less than fresh ones. Raises ValueError for other networks, where this does not hold.
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
    return model


def initialise(
    arch: str,
    init: str,
    num_classes: int,
    seed: int,
    weights: str | Path = "data/weights",
    classes: tuple[str, ...] | None = None,
    scale: str = "kept",
) -> nn.Module:
    """Step 2: random numbers from `seed`, then, unless `init` is "scratch", the Step 1 weights over the backbone.

    Drawing the random numbers first gives every arm of a comparison the same head for the same seed. `scale`: "kept",
    or "fresh" for loaded weights at the scale of fresh ones, see `rescale`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(arch, num_classes)
    path = find_weights(arch, init, weights)
    if path is None:
        return model
    model = load_backbone(model, path, classes)
    return rescale(model) if scale == "fresh" else model
