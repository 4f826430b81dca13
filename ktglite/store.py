"""Files that are whole or not there, made once, and known by their content; keys that hash what decides a result."""

import ast
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
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import torch
from filelock import FileLock

from ktglite.devices import cpu_name, resolve_device, resolve_precision

__all__ = ["atomic_write", "make_key", "once", "read_record"]

log = logging.getLogger(__name__)

HOST = socket.gethostname()
CORE = tuple(
    f"ktglite.{name}" for name in ("gates", "graph", "losses", "models", "data", "trainer", "captured", "devices")
)


# ---- atomic writes


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write; it becomes `path` when the block ends well, and otherwise `path` stays what it was.

    Raises OSError naming `path` and the way out where it cannot be written: a full disk, a read-only folder.
    """
    with _replacing(Path(path)) as partial:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a name must not reach the disk before its content does
        os.replace(partial, path)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """As `atomic_write` for a folder that is filled once: if another process was faster, its copy stays."""
    with _replacing(Path(path)) as partial:
        partial.mkdir()
        yield partial
        if not Path(path).is_dir():
            os.replace(partial, path)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` for this process to write to; what is left of it, or of killed writers, is deleted."""
    partial = path.with_name(f"{path.name}.{HOST}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{glob.escape(path.name)}.{glob.escape(HOST)}-*.partial"):
            with suppress(OSError, ValueError):
                if not _is_alive(int(left.name.removesuffix(".partial").rpartition("-")[2])):
                    _delete(left)
        yield partial
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,  # numpy gives none
            f"{path} could not be written ({error.strerror or error}); what was there before is untouched: make room, "
            f"or choose a folder that can be written, and give the same command again",
        ) from error
    finally:
        with suppress(OSError):
            _delete(partial)


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError) as error:  # another user's process is alive, too
        return isinstance(error, PermissionError)
    return True


def once(path: str | Path, make: Callable[[Path], None], beside: Iterable[Path] = ()) -> Path:
    """`path`, made by `make(path)` if it is not there, or one of the files `beside` it that `make` writes as well.
    Processes that want the same wait for the one that makes it.

    `make` must write atomically, so that a killed one leaves nothing that a later call would take for good.
    """
    path = Path(path)
    every = [path, *beside]
    if not all(file.exists() for file in every):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # released by the system when its holder dies
            if not all(file.exists() for file in every):
                make(path)
    return path


def write_json(path: str | Path, value: object) -> None:
    """Write JSON so that the file is either the old one or the whole new one, never a part."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode())


# ---- content hashes: every file of ours carries one, and what does not agree with it is refused


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content_hash(record: dict) -> str:
    """SHA-256 over all that a record says, its label aside."""
    content = {key: value for key, value in record.items() if key not in ("label", "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_record(path: str | Path, record: dict, schema: int) -> None:
    """Write a JSON record with its schema number and the hash of its content."""
    record = {"schema": schema, **record}
    write_json(path, record | {"sha256": _content_hash(record)})


def read_record(path: str | Path, schema: int) -> dict:
    """What `write_record` wrote. Raises ValueError that names the file and the way out when it is not one of this
    schema, was cut short, or was changed after it was written.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable record ({error}); delete it and it is made again") from error
    if not isinstance(record, dict) or record.get("schema") != schema:
        found = record.get("schema") if isinstance(record, dict) else None
        raise ValueError(
            f"{path} has schema {found}, this version reads {schema}; update ktglite or move the file away"
        )
    if record.get("sha256", _content_hash(record)) != _content_hash(record):  # records of 0.1.0 have none
        raise ValueError(f"{path} is not as it was written; restore it, or delete it and it is made again")
    return record


class Checkpoint:
    """A file that holds the state of the training `key`, the SHA-256 of its content in front.

    A file that is damaged or belongs to another training is renamed to `<path>.unused` with a warning.

    `share`: a state is let pass where saving it would take more than this share of the time. Epochs of a GPU can be
    shorter than it takes to write three networks.
    """

    def __init__(self, path: str | Path, key: str, share: float = math.inf):
        self.path, self.key, self.share = Path(path), key, share
        self._saved = self._cost = 0.0

    def load(self, device: str | torch.device = "cpu") -> dict | None:
        """The state that was saved last; None where there is none."""
        if not self.path.exists():
            return None
        try:
            saved = self._read(device)
            if saved["key"] == self.key:
                return saved
            why = "belongs to another training"
        except (ValueError, KeyError, TypeError) as error:
            why = f"cannot be read ({error})"
        unused = self.path.with_name(f"{self.path.name}.unused")
        log.warning("%s %s: it is now %s, and the training begins anew", self.path, why, unused.name)
        with suppress(FileNotFoundError):  # another process of the same training was faster
            os.replace(self.path, unused)
        return None

    def _read(self, device: str | torch.device) -> dict:
        content = self.path.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:  # torch itself does not notice a changed byte
            raise ValueError("it is not as it was written")
        try:
            return torch.load(io.BytesIO(content[32:]), map_location=device, weights_only=True)
        except Exception as error:  # a version of torch that is too old, for instance
            raise ValueError(str(error)) from error

    def save(self, state: dict) -> None:
        """Replace what was saved before, or leave it, see `share`."""
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
        """Delete the file, where that is possible."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


# ---- keys: a hash over all that decides a result


def make_key(*parts: object) -> str:
    """32 hex digits over parts that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@cache
def code_hash(*modules: str) -> str:
    """Hex over the syntax trees of modules such as "ktglite.gates": comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for module in modules:
        tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
                del node.body[0]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


# ---- where a result comes from


def provenance(config=None) -> dict:
    """Code, package versions and hardware; with a training's config, also the device and precision it resolves to."""
    versions = {"python": platform.python_version()}
    for package in ("ktglite", "torch", "torchvision", "numpy", "numba", "optuna", "scipy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware = {"cpu": cpu_name(), "cores": os.cpu_count(), "gpus": gpus, "system": platform.platform(terse=True)}
    facts = {"git": _git("rev-parse", "HEAD"), "versions": versions, "hardware": hardware}
    facts["dirty"] = None if facts["git"] is None else bool(_git("status", "--porcelain", "--untracked-files=no"))
    if config is not None:
        device = resolve_device(config.device)
        facts |= {"device": str(device), "precision": resolve_precision(config.precision, device)}
    return facts


def _git(*arguments: str) -> str | None:
    """Output of a git command in this package's checkout; None where there is no checkout or no git."""
    with suppress(OSError, subprocess.SubprocessError):
        options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True, "timeout": 20}
        return subprocess.run(["git", *arguments], **options).stdout.strip()
    return None


def log_progress(out: str | Path, **fields: object) -> None:
    """Append one line to `<out>/progress.jsonl`, which whoever watches from outside reads."""
    Path(out).mkdir(parents=True, exist_ok=True)
    with open(Path(out) / "progress.jsonl", "a") as file:
        file.write(json.dumps({"time": time.time(), **fields}) + "\n")


def shipped(path: str | Path) -> Path:
    """`path` where it is there, else the file or folder of that name in the package's checkout, if that is."""
    ours = Path(__file__).parents[1] / path
    return ours if not Path(path).exists() and ours.exists() else Path(path)
