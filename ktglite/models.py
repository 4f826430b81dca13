"""Architectures, and Step 2 of the paper: what a node's weights are before the graph is trained."""

import hashlib
import json
import math
import pickle
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torchvision import models as zoo
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["SOURCES", "Source", "initialise", "title"]

# The paper's ResNet18, its 7x7 stem and max-pool included, by the number of channels of its first
# stage (64 there).
NARROW = {"resnet18_w8": 8, "resnet18_w16": 16}
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
CHECKPOINT_ENTRIES = ("state_dict", "model", "model_state_dict")
# In training these two return auxiliary logits besides their own: not the (B, C) a node needs.
NOT_A_NODE = ("googlenet", "inception_v3")


@dataclass(frozen=True)
class Source:
    """Where pre-trained weights come from: all that is said of a source anywhere.

    `name` is what `Node.init` says, `title` its name for readers. In drawings `short` stands before
    a node's name and `colour` ("#rrggbb") fills it. `open`: "module:function" that gives the images
    to pre-train on, or None.
    """

    name: str
    title: str
    short: str
    colour: str
    open: str | None = None


SOURCES: dict[str, Source] = {"scratch": Source("scratch", "no pre-training", "", "#FFFFFF")}


def title(init: str) -> str:
    """The name of an initialisation for readers; a weights file goes by its stem."""
    if init in SOURCES:
        return SOURCES[init].title
    return Path(init).stem if init.endswith(WEIGHT_SUFFIXES) else init


@cache
def arch_names() -> tuple[str, ...]:
    """Every architecture a node may have: the narrow ResNets and torchvision's classifiers."""
    return (*NARROW, *(name for name in zoo.list_models(module=zoo) if name not in NOT_A_NODE))


def check_arch(name: str) -> None:
    """Raise ValueError for what is not among `arch_names`."""
    if name in NOT_A_NODE:
        raise ValueError(f"arch {name!r} answers with auxiliary logits, too: no node can be one")
    if name not in arch_names():
        allowed = f"{', '.join(NARROW)} and torchvision's, such as resnet18"
        raise ValueError(f"unknown arch {name!r}: allowed are {allowed}")


def is_init(name: str) -> bool:
    """Whether `name` is one of SOURCES, a weights file, or a name of torchvision's weights."""
    if not isinstance(name, str):  # of a graph in JSON
        return False
    is_file = name.endswith(WEIGHT_SUFFIXES)
    return name in SOURCES or is_file or _named_weights(name) is not None


@cache
def _named_weights(name: str) -> zoo.WeightsEnum | None:
    """torchvision's weights of a name such as "ResNet50_Weights.IMAGENET1K_V2", if there are."""
    try:
        return zoo.get_weight(name)
    except (ValueError, KeyError, TypeError):  # no such class, no such entry, no class at all
        return None


def build(arch: str, num_classes: int) -> nn.Module:
    """A network of random weights: images (B, 3, S, S) in, logits (B, num_classes) out.

    Raises ValueError for an unknown `arch`.
    """
    if arch in NARROW:
        return _narrow_resnet18(NARROW[arch], num_classes)
    check_arch(arch)
    return zoo.get_model(arch, weights=None, num_classes=num_classes)


def _narrow_resnet18(width: int, num_classes: int) -> ResNet:
    """torchvision's ResNet18 with `width` channels in the first stage; the same parameter names."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
    model.inplanes = width
    model.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    model.bn1 = nn.BatchNorm2d(width)
    for stage in range(4):
        stride = 1 if stage == 0 else 2
        layer = model._make_layer(BasicBlock, width * 2**stage, blocks=2, stride=stride)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(width * 8, num_classes)
    for module in model.modules():  # initialised as torchvision initialises its own
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def find_weights(arch: str, init: str, weights: str | Path) -> Path | None:
    """The file with `init`'s weights for `arch`; None for "scratch".

    Looks for `<weights>/<init>-<arch>.safetensors` (written by `ktglite pretrain`), then, for
    "imagenet1k" and torchvision's own names, for its file in its cache or on the network.

    Raises:
        FileNotFoundError: that says how to get the file.
        ValueError: for a file in torchvision's cache that is not the one its name says, and for
            an architecture that torchvision has no such weights of.
    """
    if init == "scratch":
        return None
    if init.endswith(WEIGHT_SUFFIXES):
        path = Path(init).expanduser()
    else:
        path = Path(weights).expanduser() / f"{init}-{arch}.safetensors"
    if path.is_file():
        return path
    if init == "imagenet1k" and arch not in NARROW:
        entries = zoo.get_model_weights(arch)
        if "IMAGENET1K_V1" not in entries.__members__:
            others = ", ".join(map(str, entries)) or "none"
            raise ValueError(f"torchvision has no imagenet1k weights of {arch!r}; it has: {others}")
        return _torchvision_weights(entries.IMAGENET1K_V1, missing=path)
    if _named_weights(init) is not None:
        return _torchvision_weights(_named_weights(init), missing=path)
    if init.endswith(WEIGHT_SUFFIXES):
        raise FileNotFoundError(f"no weights for {arch!r}: the file {path} does not exist")
    command = f"ktglite pretrain --source {init} --arch {arch} --out {shlex.quote(str(weights))}"
    raise FileNotFoundError(
        f"no {init!r} weights for {arch!r}: {path} does not exist; run notebook 01 of the same "
        f"profile first (ktglite reproduce --only 01), or {command}"
    )


def _torchvision_weights(entry: zoo.WeightsEnum, missing: Path) -> Path:
    """The file of torchvision's weights `entry`, downloaded once, checked by its name's hash."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(cached), progress=False)
        except (OSError, RuntimeError) as error:
            way_out = f"place {cached.name} into {cached.parent}, or safetensors at {missing}"
            found = f"{entry} could not be downloaded ({error})"
            raise FileNotFoundError(f"{found}; {way_out}") from error
    facts = cached.stat()
    _check_hash_in_name(cached, facts.st_size, facts.st_mtime_ns)
    return cached


@cache
def _check_hash_in_name(path: Path, size: int, modified: int) -> None:
    """Raise ValueError for a file such as resnet18-f37072fd.pth whose SHA-256 begins otherwise.

    `size` and `modified` are there for the cache: a file is read once, until it changes.
    """
    wanted = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if wanted and not file_hash(path).startswith(wanted[1]):
        raise ValueError(f"{path} is not the file its name says: delete it, and download it again")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """State dict and metadata of a weights file. Code in a pickle is never run.

    Of a checkpoint the entry `state_dict`, `model` or `model_state_dict` is taken. What
    DataParallel, FSDP, torch.compile and Lightning put into names is taken off, and the names that
    DenseNets and ViTs had in older files are brought up to date.

    Raises:
        ValueError: if the file is not a state dict of finite numbers, or not the one that the card
            beside it was written for.
    """
    path = Path(path)
    _check_card(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata() or {}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            metadata = {}
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        way_out = "save net.state_dict() by itself, best as safetensors"
        raise ValueError(f"{path} holds more than tensors, or is damaged: {way_out}") from error
    except Exception as error:  # every reader has its own for a file that is no such file
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable weights file ({found})") from error
    if isinstance(state, dict):  # it may be one entry of a checkpoint
        entries = [state.get(name) for name in CHECKPOINT_ENTRIES]
        state = next((entry for entry in entries if isinstance(entry, dict)), state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors: save net.state_dict() by itself")
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            found = f"{name} has values that are NaN or infinite"
            raise ValueError(f"{path}: {found}; use other weights")
    state.pop("n_averaged", None)  # of stochastic weight averaging
    current = {_current_name(name): value for name, value in state.items()}
    if len(current) < len(state):
        found = "several networks, whose names differ in a prefix only"
        raise ValueError(f"{path} holds {found}: save one's state_dict() by itself")
    return current, metadata


def _current_name(name: str) -> str:
    """A parameter's name in today's torchvision, without what wrappers put into it."""
    name = re.sub(r"_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.", "", name)
    name = re.sub(r"^(module\.|model\.)+", "", name)
    name = re.sub(r"\.mlp\.linear_([12])\.", lambda of: f".mlp.{3 * int(of[1]) - 3}.", name)
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _check_card(path: Path) -> None:
    """Raise ValueError where the card beside a weights file gives the SHA-256 of other weights."""
    try:
        wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # no card of ours: nothing to hold the file against
    if file_hash(path) != wanted:
        found = f"{path} is not the file its card {path.stem}.json was written for"
        raise ValueError(f"{found}: pre-train again, or remove the card if the weights are meant")


def head_of(model: nn.Module) -> str:
    """Name of the layer that knows the classes: the last linear one, or the last convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if names:
            return names[-1]
    raise ValueError(f"{type(model).__name__} has no linear or convolutional layer to be its head")


def load_backbone(
    model: nn.Module, path: str | Path, classes: tuple[str, ...] | None = None, stages: int = 5
) -> None:
    """Load every layer from `path`; the head only if the file names exactly these `classes`.

    `stages`: of a ResNet, load the stem and the first `stages - 1` of its four layers; 5 loads all,
    as in the paper. Raises ValueError naming missing, unexpected or misshapen entries.
    """
    state, metadata = read_weights(path)
    own = model.state_dict()
    head = head_of(model) + "."
    known = json.loads(metadata.get("ktglite") or "{}").get("classes")
    fits = classes is not None and known == list(classes)
    body = {name: value for name, value in state.items() if fits or not name.startswith(head)}
    wanted = {name for name in own if fits or not name.startswith(head)}
    problems = [f"unexpected {name}" for name in sorted(set(body) - wanted)]
    for name in sorted(wanted):
        if name not in body and not name.endswith("num_batches_tracked"):
            problems.append(f"missing {name}")
        elif name in body and body[name].shape != own[name].shape:
            shapes = f"{tuple(body[name].shape)}, the model has {tuple(own[name].shape)}"
            problems.append(f"{name} is {shapes}")
        elif name in body and body[name].is_floating_point() != own[name].is_floating_point():
            problems.append(f"{name} is of {body[name].dtype}, the model's of {own[name].dtype}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        shown = "; ".join(problems[:5]) + more
        raise ValueError(f"the weights in {path} do not fit the model: {shown}")
    if stages < 5:
        if not isinstance(model, ResNet):
            raise ValueError(f"stages is {stages}: only ResNets have them; use stages 5")
        taken = ("conv1.", "bn1.", *(f"layer{i}." for i in range(1, stages)))
        body = {name: value for name, value in body.items() if name.startswith(taken)}
    own.update(body)  # it knows the versions of its layers
    model.load_state_dict(own)


@torch.no_grad()
def _rescale(model: nn.Module) -> None:
    """Give every convolution of a ResNet the root mean square of an untrained one.

    What the network answers stays: a BatchNorm divides the scale out again, so it decides only how
    far a step of a given learning rate turns the weights. Long training at a large rate leaves
    them large, and fine-tuning then moves them less than untrained ones. Raises ValueError for
    other networks, where this does not hold.
    """
    if not isinstance(model, ResNet):
        found = type(model).__name__
        raise ValueError(f"scale 'fresh' is for ResNets, not {found}: use scale 'kept'")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for convolution, norm in zip(layers[::2], layers[1::2], strict=True):
        kernel = math.prod(convolution.kernel_size)
        fan_out = convolution.out_channels * kernel  # of all groups, as torch has it
        factor = math.sqrt(2 / fan_out) / convolution.weight.square().mean().sqrt()
        convolution.weight *= factor
        norm.running_mean *= factor
        norm.running_var *= factor**2


def initialise(
    arch: str,
    init: str,
    classes: int | Sequence[str],
    seed: int,
    weights: str | Path = "data/weights",
    scale: str = "kept",
    stages: int = 5,
) -> nn.Module:
    """Step 2: random numbers from `seed`, then the Step 1 weights over the backbone, if any.

    Drawing the random numbers first gives every arm of a comparison the same head for the same
    seed.

    Args:
        classes: their names, and a loaded head that was trained for exactly these is kept; or how
            many, and the head is new.
        scale: "kept", or "fresh" for loaded weights at the scale of untrained ones.
        stages: see `load_backbone`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(arch, len(classes) if isinstance(classes, Sequence) else classes)
    if path := find_weights(arch, init, weights):
        known = tuple(classes) if isinstance(classes, Sequence) else None
        load_backbone(model, path, known, stages)
        if scale == "fresh":
            _rescale(model)
    return model
