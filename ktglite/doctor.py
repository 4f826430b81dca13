"""`ktglite doctor`: what a run needs, and which runs wait to be resumed."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from ktglite.devices import cpu_name
from ktglite.experiments.runs import SCHEMA
from ktglite.pool import cores
from ktglite.store import read_record

__all__ = ["examine"]

MIN_FREE_BYTES = 5e9  # a run of the paper profile writes about as much
UNFINISHED = ("*.ckpt", "*.partial.ipynb")


def examine(out: Path) -> Iterator[tuple[bool, str]]:
    """Lines of a report on this machine and the runs below `out`, each with whether all is well."""
    yield _torch_pair()
    yield from _devices()
    kernel = importlib.util.find_spec("ipykernel") is not None
    yield kernel, "notebooks have a kernel" if kernel else "no kernel: pip install ipykernel"
    yield _room(out)
    yield from _unfinished(out)


def _torch_pair() -> tuple[bool, str]:
    """Whether torch and torchvision were built for each other: torchvision's operators work."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError) as error:
        way_out = "pip install both from one place, in one command"
        return False, f"torch and torchvision are no pair ({error}): {way_out}"
    return True, f"torch {torch.__version__} and torchvision {torchvision.__version__} are a pair"


def _devices() -> Iterator[tuple[bool, str]]:
    """Processor and GPUs, and whether a GPU that the system has is seen by torch."""
    import torch

    yield True, f"{cores()} cores, {cpu_name()}"
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        memory = f"{free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        yield True, f"cuda:{i}: {torch.cuda.get_device_name(i)}, {memory}"
    if not torch.cuda.device_count():
        unseen = bool(shutil.which("nvidia-smi")) and Path("/dev/nvidia0").exists()
        way_out = "a GPU that torch does not see: install a torch for its driver"
        yield not unseen, way_out if unseen else "no GPU"


def _room(out: Path) -> tuple[bool, str]:
    """How much room there is where runs are written."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    little = "" if free > MIN_FREE_BYTES else ", little for a long run"
    return not little, f"{out}: {free / 1e9:.0f} GB free{little}"


def _unfinished(out: Path) -> Iterator[tuple[bool, str]]:
    """Runs below `out` that were begun and not ended, that failed, or whose record is damaged."""
    well = True
    for path in sorted(path for pattern in UNFINISHED for path in out.rglob(pattern)):
        well = False
        yield True, f"unfinished: {path}; the command that began it resumes it"
    for path in sorted(out.rglob("runs/*.json")):
        try:
            record = read_record(path, SCHEMA)
        except ValueError as error:
            well = False
            yield False, f"damaged: {error}"
            continue
        if record["status"] == "failed":
            well = False
            what = f"{record['label']}, seed {record['seed']}: {record['error']}"
            yield False, f"failed: {what}; delete {path} and run the same command to retry"
    if well:
        yield True, f"no unfinished or failed run below {out}"
