"""Run the numbered notebooks under papermill, in order; what is done and unchanged is skipped.

What papermill and torch need seconds to import is imported when a notebook has to be run.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ktglite.pages import describe_pictures, sources_of, to_html, without_widgets
from ktglite.profiles import NOTEBOOKS, raw_settings, run_folder

__all__ = ["NotebookError", "describe_pictures", "reproduce", "sources_of", "without_widgets"]

PACKAGE = Path(__file__).parent
# Kernels inherit the environment: no debugger's warnings, bars that fit, and files in UTF-8.
KERNEL = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_NCOLS": "100", "PYTHONUTF8": "1"}
RECORDS = (".json", ".safetensors")  # what a run leaves for later ones


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
    force: bool = False,
) -> dict[str, Path]:
    """Execute the notebooks in order into `<out>/notebooks`, each with an HTML copy.

    Trainings are remembered in `<out>/runs`, so that a notebook which is executed again trains only
    what is missing.

    Args:
        only: numbers such as "02"; all by default.
        out: folder of the run, `data/runs/<profile>` by default.
        overrides: settings to change, see `load_settings`.
        notebooks: their folder, if it is not ./notebooks.
        force: execute also what is done and unchanged.

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
    overrides = dict(overrides or {})
    folder = find_notebooks(notebooks)
    done = {stem: out / "notebooks" / f"{stem}.ipynb" for stem in NOTEBOOKS}
    done = {stem: path for stem, path in done.items() if not only or stem[:2] in only}
    values = {stem: raw_settings(stem[:2], profile, overrides) for stem in done}

    def is_current(stem: str) -> bool:
        facts = folder / f"{stem}.ipynb", done[stem], values[stem], out
        return not force and _is_current(*facts)

    if all(map(is_current, done)):
        print(f"{', '.join(done)}: done and unchanged")
        return done
    check_settings(profile, out, overrides)
    given = {"profile": str(profile), "out": str(out), "overrides": overrides}
    with _alone(out):
        for stem in done:
            if is_current(stem):
                print(f"{stem}: done and unchanged")
            else:
                _execute(folder / f"{stem}.ipynb", done[stem], given)
                _mark(folder / f"{stem}.ipynb", done[stem], values[stem], out)
    return done


def check_settings(profile: str | Path, out: Path, overrides: Mapping[str, object]) -> None:
    """Raise ValueError for a setting that any of the notebooks would refuse."""
    from ktglite.settings import load_settings

    for stem in NOTEBOOKS:
        load_settings(stem[:2], profile, out, **overrides)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raise ValueError where another process writes notebooks into `out`."""
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "notebooks" / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        way_out = "wait for it, or give another folder with --out"
        raise ValueError(f"another ktglite reproduce is at work in {out}: {way_out}") from None


# ---- what is done already


def _is_current(notebook: Path, executed: Path, values: dict, out: Path) -> bool:
    """Whether `executed` was made from exactly this, and what it read and left is still there."""
    try:
        facts = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["ktglite"]
        until = facts["until"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return facts["fingerprint"] == _fingerprint(notebook, values, out, until)


def _mark(notebook: Path, executed: Path, values: dict, out: Path) -> None:
    """Write into an executed notebook what it was made from."""
    until = max((found[2] for found in _listing(out, RECORDS)), default=0)
    content = json.loads(executed.read_text(encoding="utf-8"))
    mark = {"until": until, "fingerprint": _fingerprint(notebook, values, out, until)}
    content["metadata"]["ktglite"] |= mark
    partial = executed.with_suffix(".partial.ipynb")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, executed)


def _fingerprint(notebook: Path, values: dict, out: Path, until: int) -> str:
    """Hex over what decides an executed notebook: itself, settings, code, versions, and the files
    it read or left; of the run's own those that were there at the time `until` (ns)."""
    code = [path for path in PACKAGE.rglob("*.*") if path.is_file() and path.suffix != ".pyc"]
    texts = [notebook, *sorted(code)]
    digest = hashlib.sha256()
    for path in texts:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    names = ("torch", "torchvision", "optuna", "matplotlib", "seaborn")
    versions = [importlib.metadata.version(name) for name in names]
    places = [values.get("dataset"), values.get("imagenet_folder"), values.get("ready_runs")]
    places += [PACKAGE.parent / "data" / name for name in ("reference_runs", "weights", "networks")]
    read = [_listing(Path(place).expanduser()) for place in places if place]
    left = [found for found in _listing(out, RECORDS) if found[2] <= until]
    digest.update(json.dumps([values, versions, read, left], default=str).encode())
    return digest.hexdigest()


def _listing(folder: Path, suffixes: tuple[str, ...] = ()) -> list[tuple[str, int, int]]:
    """Name, size and time (ns) of every file below `folder`, executed notebooks aside; sorted."""
    found = []
    seen = set()
    for top, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        if real in seen or os.path.basename(top) == "notebooks":  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            if not suffixes or name.endswith(suffixes):
                facts = os.lstat(os.path.join(top, name))
                found.append((os.path.join(top, name), facts.st_size, facts.st_mtime_ns))
    return sorted(found)


# ---- execution


def _execute(notebook: Path, executed: Path, values: dict) -> None:
    """One notebook; the final name appears only when every cell has run."""
    import nbformat
    import papermill
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from papermill.exceptions import PapermillExecutionError

    from ktglite.store import provenance

    partial = executed.with_suffix(".partial.ipynb")
    started = time.perf_counter()
    print(f"{notebook.stem}:", flush=True)
    try:
        with _environment(**KERNEL):
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters=values,
                kernel_name="python3",
                kernel_manager_class=_kernel_manager(),
                shutdown_kernel="immediate",
                iopub_timeout=600,
                stderr_file=sys.stderr,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are about itself
            )
    except PapermillExecutionError as error:
        trace = "\n".join(error.traceback)
        raise NotebookError(
            f"{notebook.stem}, cell {error.cell_index} failed:\n\n{error.source}\n\n{trace}\n\n"
            f"What ran until then is in {partial}. Finished trainings are kept: mend the cause and "
            f"give the same command again to go on."
        ) from error
    except KeyboardInterrupt as stop:
        stop.add_note(_position(partial))
        raise
    finished = nbformat.read(partial, as_version=4)
    finished, _ = CoalesceStreamsPreprocessor().preprocess(finished, {})  # bars: their last state
    without_widgets(finished)
    seconds = time.perf_counter() - started
    hardware = provenance()["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores, {hardware['cpu']}", *hardware["gpus"]])
    facts = {"seconds": round(seconds, 1), "profile": Path(values["profile"]).stem}
    finished.metadata["ktglite"] = facts | {"machine": machine}
    nbformat.write(finished, partial)
    page = executed.with_suffix(".html")
    text = to_html(finished, notebook.stem, notebook.parent, executed.parent)
    page.write_text(text, encoding="utf-8")
    os.replace(partial, executed)
    print(f"{notebook.stem}: {seconds / 60:.1f} min, {page}", flush=True)


def _position(partial: Path) -> str:
    """Where an interrupted notebook stands."""
    cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
    states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
    cell = states.count("completed")  # papermill counts the interrupted one, too
    return f"in {partial.name.removesuffix('.partial.ipynb')}, cell {cell} of {len(cells)}"


def _kernel_manager() -> type:
    """Starts kernels of this very Python, whatever is installed under the name python3."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from traitlets import default

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    class Manager(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _this_python(self):
            return ThisPython()

    return Manager


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
