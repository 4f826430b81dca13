"""`ktglite doctor`: what a run needs, and which runs wait to be resumed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MIN_FREE_BYTES = 5e9  # a run of the paper profile writes about as much


def examine(out: Path) -> Iterator[tuple[bool, str]]:
    """Lines of a report on this machine and the runs below `out`, each with whether all is well."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # built for this torch?
        versions = f"torch {torch.__version__} and torchvision {torchvision.__version__}"
        yield True, f"{versions} are a pair"
    except (ImportError, RuntimeError, AttributeError) as error:
        yield False, f"torch and torchvision are no pair ({error}): pip install both in one command"
        return
    from ktglite.devices import cpu_name
    from ktglite.pool import cores

    yield True, f"{cores()} cores, {cpu_name()}"
    for i in range(torch.cuda.device_count()):
        free, total = (f"{size / 1e9:.0f}" for size in torch.cuda.mem_get_info(i))
        yield True, f"cuda:{i}: {torch.cuda.get_device_name(i)}, {free} of {total} GB free"
    if not torch.cuda.device_count() and Path("/dev/nvidia0").exists():
        yield False, "a GPU that torch does not see: install a torch for its driver"
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    little = "" if free > MIN_FREE_BYTES else ", little for a long run"
    yield not little, f"{out}: {free / 1e9:.0f} GB free{little}"
    if not os.access(place, os.W_OK):
        yield False, f"{place} cannot be written: work in another folder, or give --out"
    yield from list(_unfinished(out)) or [(True, f"no unfinished or failed run below {out}")]


def _unfinished(out: Path) -> Iterator[tuple[bool, str]]:
    """Runs below `out` that were begun and not ended, that failed, or whose record is damaged."""
    from ktglite.experiments.runs import SCHEMA
    from ktglite.store import read_record

    for path in sorted([*out.rglob("*.ckpt"), *out.rglob("*.partial.ipynb")]):
        yield True, f"unfinished: {path}; the command that began it resumes it"
    records = [path for path in out.absolute().rglob("*.json") if path.parent.name == "runs"]
    for path in sorted(records):
        try:
            record = read_record(path, SCHEMA)
        except ValueError as error:
            yield False, f"damaged: {error}"
            continue
        if record["status"] == "failed":
            what = f"{record['label']}, seed {record['seed']}: {record['error']}"
            yield False, f"failed: {what}; delete {path} and run the same command to retry"
