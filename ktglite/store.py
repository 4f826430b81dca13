"""Files that are whole or not there, made once, and known by their content; keys of results."""

import errno
import glob
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import math
import os
import pkgutil
import platform
import re
import socket
import subprocess
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import psutil
import torch
from filelock import FileLock, Timeout

from ktglite.devices import cpu_name, resolve_device, resolve_precision

__all__ = ["make_once"]

log = logging.getLogger(__name__)

CORE = tuple(
    f"ktglite.{name}"
    for name in ("gates", "graph", "losses", "models", "data", "trainer", "captured", "devices")
)
CHECKOUT = Path(__file__).parents[1]  # where the package lies; in a clone, with its data/ beside it
WAIT_IN_SILENCE = 10  # seconds at a lock
MARKS = {tokenize.NEWLINE: ";", tokenize.INDENT: "⟦", tokenize.DEDENT: "⟧"}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well; else `path` stays what it was.

    Raises OSError naming `path` and the way out where it cannot be written, as on a full disk.
    """
    path = Path(path)
    mine = f"{path.name}.{socket.gethostname()}"
    partial = path.with_name(f"{mine}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(mine)}-*.partial"):
            writer = re.fullmatch(r"-(\d+)\.partial", left.name.removeprefix(mine))
            if writer and not psutil.pid_exists(int(writer[1])):  # it was killed
                left.unlink(missing_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a name must not reach the disk before its content does
        os.replace(partial, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> OSError:
    """An error of the system with the file that was to be written, and the way out."""
    found = f"{path} could not be written ({error.strerror or error})"
    way = "make room, or choose a folder that can be written, and run the same command again"
    message = f"{found}; what was there before is untouched: {way}"
    return OSError(error.errno or errno.EIO, message)  # numpy gives no number


def make_once(path: str | Path, make: Callable[[Path], None], also: Iterable[Path] = ()) -> Path:
    """`path`, made by `make(path)` if it, or a file of `also` that `make` writes too, is missing.

    Processes that want the same file wait for the one that makes it, and say so. `make` must write
    atomically, so that a killed one leaves nothing that a later call would take for good.
    """
    path = Path(path)
    files = [path, *also]
    if all(file.exists() for file in files):
        return path
    lock = FileLock(f"{path}.lock")  # the system releases it when its holder dies
    with acquire(lock):
        if not all(file.exists() for file in files):
            make(path)
        with suppress(OSError):  # nobody needs it now: whoever comes later finds the file
            os.unlink(lock.lock_file)
    return path


def acquire(lock: FileLock) -> AbstractContextManager[FileLock]:
    """Hold a lock; that another process has it is said after a while.

    Raises OSError naming its file and the way out where that cannot be written.
    """
    path = Path(lock.lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire(timeout=WAIT_IN_SILENCE)
    except Timeout:
        wait = "waiting for another process to release %s; if there is none, delete that file"
        log.warning(wait, path)
        return lock.acquire()
    except OSError as error:
        raise _unwritten(path, error) from error


def write_json(path: str | Path, value: object, indent: int | None = 1) -> None:
    """Write JSON by `atomic_write`. Raises ValueError for NaN."""
    text = json.dumps(value, indent=indent, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: str | Path, what: str, way_out: str):
    """What a JSON file holds. Raises ValueError that names it and the way out where damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable {what} ({error}): {way_out}") from error


def _content_hash(record: dict) -> str:
    """SHA-256 over all that a record says, its label aside."""
    content = {key: value for key, value in record.items() if key not in ("label", "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_record(path: str | Path, record: dict, schema: int, indent: int | None = 1) -> None:
    """Write a JSON record with its schema number and the hash of its content."""
    record = {"schema": schema, **record}
    write_json(path, record | {"sha256": _content_hash(record)}, indent)


def read_record(path: str | Path, schema: int) -> dict:
    """What `write_record` wrote.

    Raises ValueError that names the file and the way out when it is not one of this schema, was
    cut short, or was changed after it was written.
    """
    record = read_json(path, "record", "delete it to redo it")
    found = record.get("schema") if isinstance(record, dict) else None
    if found != schema:
        way_out = "update ktglite or move the file away"
        raise ValueError(f"{path} has schema {found}, this version reads {schema}; {way_out}")
    content = _content_hash(record)
    if record.get("sha256", content) != content:  # records of 0.1.0 have none
        raise ValueError(f"{path} is not as it was written; restore it, or delete it to redo it")
    return record


class Checkpoint:
    """A file that holds the state of the training `key`, the SHA-256 of its content in front.

    A save that would cost more than `share` of the run time is skipped: epochs of a GPU can be
    shorter than it takes to write three networks.
    """

    def __init__(self, path: str | Path, key: str, share: float = math.inf):
        self.path = Path(path)
        self.key = key
        self.share = share
        self._saved = 0.0
        self._cost = 0.0

    def load(self, device: str | torch.device = "cpu") -> dict | None:
        """The state that was saved last, or None.

        A file that is damaged, or of another training, is renamed to `<path>.unused` and told.
        """
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        try:
            if hashlib.sha256(content[32:]).digest() != content[:32]:  # torch would not notice
                raise ValueError("it is not as it was written")
            saved = torch.load(io.BytesIO(content[32:]), map_location=device, weights_only=True)
            if saved["key"] == self.key:
                return saved
            why = "belongs to another training"
        except Exception as error:  # of torch, for instance: written by a later version
            why = f"cannot be read ({error})"
        unused = self.path.with_name(f"{self.path.name}.unused")
        log.warning("%s %s: now %s, and the training begins anew", self.path, why, unused.name)
        with suppress(FileNotFoundError):  # another process of the same training was faster
            os.replace(self.path, unused)
        return None

    def save(self, state: dict) -> None:
        started = time.perf_counter()
        if started - self._saved < self._cost / self.share:
            return
        content = io.BytesIO()
        torch.save({"key": self.key, **state}, content)
        with atomic_write(self.path) as file:
            file.write(hashlib.sha256(content.getbuffer()).digest())
            file.write(content.getbuffer())
        self._saved = time.perf_counter()
        self._cost = self._saved - started

    def drop(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def make_key(*parts: object) -> str:
    """32 hex digits over parts that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def code_hash(*modules: str) -> str:
    """16 hex digits over the source text of modules such as "ktglite.gates".

    Comments, docstrings and line breaks do not count; blocks do. (Syntax trees and tokens would not
    do: they differ between versions of Python.)
    """
    digest = hashlib.sha256()
    for module in modules:
        if origin := importlib.util.find_spec(module).origin:  # a namespace has none
            source = Path(origin).read_text(encoding="utf-8")
            digest.update(_dump_code(source).encode())
    return digest.hexdigest()[:16]


def package_of(module: str) -> list[str]:
    """All modules of the package that a plug-in's module is in: it may import any of them."""
    package = module.partition(".")[0]
    places = getattr(importlib.import_module(package), "__path__", ())
    inside = pkgutil.walk_packages(places, f"{package}.")
    return [package, *sorted(part.name for part in inside)]


def torch_version() -> str:
    """The part of torch's version that may change what a training computes: "2.11"."""
    return ".".join(torch.__version__.split(".")[:2])


def _dump_code(source: str) -> str:
    """Source text without comments, strings that stand alone, and white space; where a statement
    ends, and a block begins and ends, stands a mark."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    spans = [(token.start, token.end, "") for token in tokens if token.type == tokenize.COMMENT]
    tokens = [token for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)]
    before = tokenize.NEWLINE
    for token, after in pairwise(tokens):
        alone = before in MARKS and after.type == tokenize.NEWLINE
        if token.type in MARKS or (token.type == tokenize.STRING and alone):
            spans.append((token.start, token.end, MARKS.get(token.type, "")))
        before = token.type
    lines = [*source.splitlines(keepends=True), ""]  # the last blocks end below
    for (top, left), (bottom, right), mark in sorted(spans, reverse=True):
        lines[top - 1 : bottom] = [lines[top - 1][:left] + mark + lines[bottom - 1][right:]]
    text = "".join("".join(lines).split())
    return re.sub("(?<=[;⟦⟧]);|^;", "", text)  # of strings that stood alone


def provenance(config=None) -> dict:
    """Code, package versions, hardware; with a training's config, its device and precision, too."""
    versions = {"python": platform.python_version()}
    for package in ("ktglite", "torch", "torchvision", "numpy", "numba", "optuna", "scipy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    system = {"cores": os.cpu_count(), "gpus": gpus, "system": platform.platform(terse=True)}
    facts = {"versions": versions, "hardware": {"cpu": cpu_name(), **system}, **_git_state()}
    if config is None:
        return facts
    device = resolve_device(config.device)
    return facts | {"device": str(device), "precision": resolve_precision(config.precision, device)}


def _git_state() -> dict:
    """Commit of this package's own checkout, and whether files were changed since; None without."""
    if (CHECKOUT / ".git").exists():  # else it would be that of a project around the package
        command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
            commit, *lines = done.stdout.splitlines()
            changed = not all(line.startswith("#") for line in lines)
            return {"git": commit.removeprefix("# branch.oid "), "dirty": changed}
    return {"git": None, "dirty": None}


def from_checkout(path: str | Path) -> Path:
    """`path` where it is there, else that of this name in the package's checkout, if it is."""
    ours = CHECKOUT / path
    return ours if not Path(path).exists() and ours.exists() else Path(path)
