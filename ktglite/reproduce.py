"""Run the numbered notebooks under papermill, in order; none where all are done and unchanged.

What papermill and torch need seconds to import is imported when a notebook has to be run.
"""

import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest.mock import patch

from filelock import FileLock, Timeout

from ktglite.pages import describe_pictures, sources_of, to_html, without_widgets
from ktglite.profiles import NOTEBOOKS, raw_settings, run_folder

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["NotebookError", "describe_pictures", "reproduce", "sources_of", "without_widgets"]

PACKAGE = Path(__file__).parent
DATA = PACKAGE.parent / "data"  # of the checkout
# Kernels inherit the environment: no debugger's warnings, bars that fit, and files in UTF-8.
KERNEL = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_NCOLS": "100", "PYTHONUTF8": "1"}


class NotebookError(Exception):
    """A cell failed; the message has its error and how to go on."""


def find_notebooks(folder: str | Path | None = None) -> Path:
    """The notebooks' folder: as given, ./notebooks, or the checkout's. Raises FileNotFoundError."""
    places = [Path(folder)] if folder else [Path("notebooks"), PACKAGE.parent / "notebooks"]
    for place in places:
        if (place / f"{NOTEBOOKS[0]}.ipynb").is_file():
            return place
    found = f"no notebooks in {' or '.join(map(str, places))}"
    raise FileNotFoundError(f"{found}; run this in a checkout of ktglite, or give --notebooks")


def reproduce(
    profile: str | Path = "quick",
    only: Iterable[str] | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    notebooks: str | Path | None = None,
) -> dict[str, Path]:
    """Execute the notebooks in order into `<out>/notebooks`, each with an HTML copy.

    Trainings are remembered in `<out>/runs`: notebooks that are executed again train only what is
    missing. None is executed where all were, with these settings, and no file they depend on has
    changed since.

    Args:
        only: numbers such as "02"; all by default.
        out: folder of the run, `data/runs/<profile>` by default.
        overrides: settings to change, see `load_settings`.
        notebooks: their folder, if it is not ./notebooks.

    Returns:
        The executed notebooks, by their stems.

    Raises:
        NotebookError: when a cell fails.
        ValueError: for a wrong setting, before anything runs; and while another `reproduce` works
            in `out`.
    """
    numbers = [stem[:2] for stem in NOTEBOOKS]
    if unknown := sorted({*(only or ())} - {*numbers}):
        raise ValueError(f"--only {unknown[0]!r}: allowed are {', '.join(numbers)}")
    out = run_folder(profile, out)
    given = {"profile": str(profile), "out": str(out), "overrides": dict(overrides or {})}
    folder = find_notebooks(notebooks)
    done = {stem: out / "notebooks" / f"{stem}.ipynb" for stem in NOTEBOOKS}
    done = {stem: path for stem, path in done.items() if not only or stem[:2] in only}
    places = [folder, PACKAGE, DATA / "reference_runs", DATA / "weights"]
    places += [place for place in out.glob("*") if place.name not in ("notebooks", "figures")]
    for stem in done:
        for name, value in raw_settings(stem[:2], profile, given["overrides"]).items():
            if name not in ("cache", "raw", "figures"):  # a run writes to those
                texts = str(value).strip("[]()").split(",")
                texts = filter(None, (text.strip(" '\"") for text in texts))
                places += [Path(text).expanduser() for text in texts]
    if _are_current(done, given, places):
        print(*(f"{stem}: done and unchanged" for stem in done), sep="\n")
        return done
    from ktglite.settings import load_settings

    for number in numbers:
        load_settings(number, profile, out, **given["overrides"])
    with _alone(out):
        for stem, executed in done.items():
            notebook = folder / f"{stem}.ipynb"
            finished = _execute(notebook, executed.with_suffix(".partial.ipynb"), given)
            _write(finished, notebook, executed)
    return done


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raise ValueError where another process writes notebooks into `out`."""
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / "notebooks/.lock", timeout=0):
            yield
    except Timeout:
        way_out = "wait for it, or give another folder with --out"
        raise ValueError(f"another ktglite reproduce is at work in {out}: {way_out}") from None


# ---- what is done already


def _are_current(done: Mapping[str, Path], given: dict, places: Iterable[Path]) -> bool:
    """Whether all notebooks were executed with these parameters, and none of the places, nor any
    package, has changed since the last of them."""
    try:
        facts = [json.loads(path.read_text(encoding="utf-8"))["metadata"] for path in done.values()]
        if any(found["papermill"]["parameters"] != given for found in facts):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    since = max(path.stat().st_mtime_ns for path in done.values())
    packages = os.stat(sysconfig.get_path("purelib")).st_mtime_ns
    return all(time <= since for time in (packages, *map(_last_change, places)))


def _last_change(place: Path) -> int:
    """When a file, or a file or folder below one, was changed last (ns); 0 without one."""
    if not place.is_dir():
        return place.stat().st_mtime_ns if place.exists() else 0
    times = []
    seen = set()  # links may lead in a circle
    for top, folders, names in os.walk(place, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if os.path.realpath(top) in seen:
            folders.clear()
        seen.add(os.path.realpath(top))
        for path in (top, *(os.path.join(top, name) for name in names)):
            with suppress(OSError):  # a link to nowhere, a file that was deleted just now
                times.append(os.stat(path).st_mtime_ns)
    return max(times)


# ---- execution


def _execute(notebook: Path, partial: Path, given: dict) -> "NotebookNode":
    """Run every cell of a notebook, and write as one goes what was run to `partial`."""
    import nbformat
    import papermill
    from ipykernel.kernelspec import write_kernel_spec
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from papermill.exceptions import PapermillExecutionError

    from ktglite.store import provenance

    started = time.perf_counter()
    print(f"{notebook.stem}:", flush=True)
    try:
        with TemporaryDirectory() as folder, patch.dict(os.environ, KERNEL, JUPYTER_PATH=folder):
            write_kernel_spec(f"{folder}/kernels/python3")  # of this very Python
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters=given,
                kernel_name="python3",
                shutdown_kernel="immediate",
                iopub_timeout=600,
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are about itself
            )
    except PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C that reached the kernel first
            raise KeyboardInterrupt from None
        trace = "\n".join(error.traceback)
        raise NotebookError(
            f"{notebook.stem}, cell {error.cell_index} failed:\n\n{error.source}\n\n{trace}\n\n"
            f"What ran until then is in {partial}. Finished trainings are kept: mend the cause and "
            f"give the same command again to go on."
        ) from error
    except KeyboardInterrupt as stop:
        stop.add_note(f"in {notebook.stem}, {_position(partial)}")
        raise
    finished = nbformat.read(partial, as_version=4)
    finished, _ = CoalesceStreamsPreprocessor().preprocess(finished, {})  # bars: their last state
    without_widgets(finished)
    hardware = provenance()["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores, {hardware['cpu']}", *hardware["gpus"]])
    finished.metadata["ktglite"] = {
        "seconds": round(time.perf_counter() - started, 1),
        "profile": Path(given["profile"]).stem,
        "machine": machine,
    }
    return finished


def _write(finished: "NotebookNode", notebook: Path, executed: Path) -> None:
    """The page, then the notebook: its final name says that every cell has run."""
    import nbformat

    page = executed.with_suffix(".html")
    text = to_html(finished, notebook.stem, notebook.parent, executed.parent)
    page.write_text(text, encoding="utf-8")
    partial = executed.with_suffix(".partial.ipynb")
    nbformat.write(finished, partial)
    os.replace(partial, executed)
    minutes = finished.metadata["ktglite"]["seconds"] / 60
    print(f"{notebook.stem}: {minutes:.1f} min, {page}", flush=True)


def _position(partial: Path) -> str:
    """Where an interrupted notebook stands."""
    try:
        cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):
        return "before its first cell"
    # papermill calls all of them completed
    begun = [cell for cell in cells if cell["metadata"].get("papermill", {}).get("start_time")]
    return f"cell {len(begun)} of {len(cells)}"
