"""`ktglite doctor`: what a run needs, whether it is there, and which runs wait to be gone on with."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from ktglite.devices import cpu_name
from ktglite.experiments.runs import SCHEMA
from ktglite.pool import cores
from ktglite.store import HOST, read_record

__all__ = ["examine"]

ROOM = 5e9  # bytes: a run of the paper profile writes about as much
LEFT = ("*.ckpt", "*.partial.ipynb", "*.ckpt.unused", "*.partial")


def examine(out: Path) -> Iterator[tuple[bool, str]]:
    """Lines of a report on this machine and the runs below `out`, each with whether all is well."""
    yield from packages()
    yield from hardware()
    for folder in (out, Path("data/cache"), Path("figures")):
        yield writable(folder)
    yield from left(out)


def packages() -> Iterator[tuple[bool, str]]:
    """Every package that ktglite asks for, in the version it asks for; and torch beside torchvision."""
    for text in importlib.metadata.requires("ktglite") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
            good = Version(found).base_version in wanted.specifier
            yield (
                good,
                f"{wanted.name} {found}"
                + ("" if good else f": needs {wanted.specifier}, pip install it"),
            )
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{wanted.name} is missing: pip install '{wanted}'"
    yield pair()


def pair() -> tuple[bool, str]:
    """Whether torch and torchvision were built for each other: torchvision's own operators work."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        return (
            False,
            f"torch and torchvision are no pair ({error}): pip install both from one place, in one command",
        )
    return True, "torch and torchvision are a pair"


def hardware() -> Iterator[tuple[bool, str]]:
    """Processor and GPUs, and whether a GPU that the system has is seen by torch."""
    import torch

    yield True, f"{cores()} of {os.cpu_count()} cores, {cpu_name()}"
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        yield (
            True,
            f"cuda:{i}: {torch.cuda.get_device_name(i)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free",
        )
    if not torch.cuda.device_count():
        unseen = shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists()
        yield (
            not unseen,
            "a GPU that torch does not see: install a torch for its driver" if unseen else "no GPU",
        )


def writable(folder: Path) -> tuple[bool, str]:
    """Whether files can be made in `folder`, or in what it would be made in, and how much room there is."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    probe = place / f".ktglite-{HOST}-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return (
            False,
            f"{folder} cannot be written ({error.strerror}): choose another folder with --out or --set",
        )
    free = shutil.disk_usage(place).free
    enough = free > ROOM
    return enough, f"{folder}: writable, {free / 1e9:.0f} GB free" + (
        "" if enough else ", little for a long run"
    )


def left(out: Path) -> Iterator[tuple[bool, str]]:
    """Runs below `out` that were begun and not ended, that failed, or whose record cannot be read."""
    quiet = True
    for path in sorted({path for pattern in LEFT for path in out.rglob(pattern)}):
        quiet = False
        if path.name.endswith(".unused"):
            yield (
                True,
                f"set aside: {path}, no checkpoint of what was trained there; delete it if nobody misses it",
            )
        elif path.name.endswith(".partial"):
            yield (
                True,
                f"left over: {path}; the next command that writes there removes it, unless it is being written",
            )
        else:
            yield True, f"unfinished: {path}; the same command goes on with it"
    for path in sorted(out.rglob("runs/*.json")):
        try:
            record = read_record(path, SCHEMA)
        except ValueError as error:
            quiet = False
            yield False, f"damaged: {error}"
            continue
        if record["status"] == "failed":
            quiet = False
            yield (
                False,
                f"failed: {record['label']}, seed {record['seed']}: {record['error']}; delete {path} to retry",
            )
    if quiet:
        yield True, f"no unfinished or failed run below {out}"
