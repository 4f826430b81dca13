"""Files that are whole or not there: a result is written beside its place and takes it when it is complete."""

import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

HOST = socket.gethostname()


@contextmanager
def whole(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write; it becomes `path` when the block ends well, and otherwise `path` stays what it was.

    Raises OSError naming `path` and the way out where it cannot be written: a full disk, a read-only folder.
    """
    path = Path(path)
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a name must not reach the disk before its content does
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """As `whole` for a folder that is filled once: when another process was faster, its copy is as good and stays."""
    path = Path(path)
    partial = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        partial.mkdir()
        yield partial
        if not path.is_dir():
            os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_name(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f"{path.name}.{HOST}-{os.getpid()}.partial")


def unwritable(path: Path, error: OSError) -> OSError:
    """What the system said, with the way out."""
    return OSError(
        error.errno or errno.EIO,  # numpy gives none
        f"{path} could not be written ({error.strerror or error}); what was there before is untouched: make room, or "
        f"choose a folder that can be written, and give the same command again",
    )


def sweep(path: Path) -> None:
    """Delete what writers of `path` left behind when they were killed on this machine; the living are left alone."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.{glob.escape(HOST)}-*.partial"):
        with suppress(OSError, ValueError):
            if not is_alive(int(partial.name.removesuffix(".partial").rpartition("-")[2])):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def shipped(path: str | Path) -> Path:
    """`path` where it is there, else the file or folder of that name in the package's checkout, if that is."""
    ours = Path(__file__).parents[1] / path
    return ours if not Path(path).exists() and ours.exists() else Path(path)
