"""Images as tensors: splits, normalisation, and random views of a whole batch at once."""

import hashlib
import json
import operator
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Data", "Split", "augment"]

# Every node sees the same batch, normalised as torchvision's ImageNet weights expect it.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (n, 3, S, S), and labels, int64 (n,). Raises ValueError for anything else."""

    images: Tensor
    labels: Tensor

    def __post_init__(self):
        found = f"{self.images.dtype} {tuple(self.images.shape)}"
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (n, 3, S, S), 0 to 255: these are {found}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise ValueError(f"labels must be int64 ({len(self.images)},): these are {found}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready to train on. Raises ValueError for images of another size, and for labels
    that are no class.

    - `fingerprint`: SHA-256 of everything that training can see.
    - `spec`: the arguments of `load_data` that give this object again in another process; None
      of data that was put together otherwise.
    """

    name: str
    size: int
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    # not arguments: `dataclasses.replace` must not hand on those of other images
    fingerprint: str = field(init=False)
    spec: dict | None = field(init=False, default=None)

    def __post_init__(self):
        object.__setattr__(self, "size", operator.index(self.size))  # numpy's are no JSON
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if not len(split) or split.images.shape[2:] != (self.size, self.size):
                found = tuple(split.images.shape)
                raise ValueError(f"{name} needs images of {self.size} x {self.size} px: {found}")
            if split.labels.min() < 0 or split.labels.max() >= len(self.classes):
                raise ValueError(f"labels of {name} must be 0..{len(self.classes) - 1}, by class")
        object.__setattr__(self, "fingerprint", self._digest())

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps([self.size, self.classes]).encode())
        for split in (self.train, self.val, self.test):
            # The memory itself: no copy of the images.
            digest.update(split.images.contiguous().numpy())
            digest.update(split.labels.contiguous().numpy())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise ValueError where images or labels were changed in place: their fingerprint would be
        that of others."""
        if self._digest() != self.fingerprint:
            found = f"images or labels of {self.name} were changed in place"
            way_out = "dataclasses.replace(data, train=Split(images, labels)) makes new data"
            raise ValueError(f"{found}: {way_out}")

    def loaded_by(self, spec: dict | None) -> "Data":
        """The same data, which `load_data(**spec)` gives again."""
        object.__setattr__(self, "spec", spec)
        return self

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.val)} val, {len(self.test)} test"
        return f"Data({self.name}: {len(self.classes)} classes, {sizes}, {self.size} px)"


@cache
def _scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and spread in units of uint8, put on `device` once: every copy would stall a GPU."""
    mean, std = (
        255 * torch.tensor(numbers, device=device).view(3, 1, 1) for numbers in (MEAN, STD)
    )
    return mean, std


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, S, S) to float32 with ImageNet's mean and standard deviation per channel."""
    mean, std = _scale(images.device)
    return (images.float() - mean) / std


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """A random view of each image: uint8 (B, 3, S, S) to normalised float32 (B, 3, S, S).

    `kind`: "crop" (random resized crop, area 25..100 %, aspect 3/4..4/3, and flip), "shift" (pad
    by S/8, crop back, and flip) or "none". The random numbers are drawn on the CPU, so that every
    device sees the same views.
    """
    views = draw_views(len(images), images.shape[-1], kind, generator)
    return apply_views(images, None if views is None else views.to(images.device))


def draw_views(n: int, size: int, kind: str, generator: torch.Generator) -> Tensor | None:
    """The views `augment` takes of `n` images, as affine maps (n, 2, 3); None for "none"."""
    if kind not in ("crop", "shift", "none"):
        raise ValueError(f"augmentation is {kind!r}: allowed are crop, shift, none")
    if kind == "none":
        return None
    flip = 1 - 2 * torch.randint(2, (n,), generator=generator).float()
    if kind == "shift":
        steps = size // 8
        reach = 2 * steps / size  # in grid units: the image spans -1..1
        scale = torch.ones(n, 2)
        offset = torch.randint(-steps, steps + 1, (n, 2), generator=generator)
        offset = offset * (reach / max(steps, 1))
    else:
        area = torch.empty(n).uniform_(0.25, 1, generator=generator)
        aspect = torch.exp(torch.empty(n).uniform_(-0.2877, 0.2877, generator=generator))
        scale = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
        offset = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - scale)
    views = torch.zeros(n, 2, 3)
    views[:, 0, 0] = flip * scale[:, 0]
    views[:, 1, 1] = scale[:, 1]
    views[:, :, 2] = offset
    return views


def apply_views(images: Tensor, views: Tensor | None) -> Tensor:
    """Normalised float32 images, each through its view (B, 2, 3), a tensor on the same device."""
    images = normalise(images)
    if views is None:
        return images
    grid = F.affine_grid(views, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
