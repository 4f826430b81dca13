"""Run the numbered notebooks under papermill, in order.

What takes seconds to import is imported when a notebook has to be run.
"""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from filelock import FileLock, Timeout

from ktglite.pages import to_html, without_widgets
from ktglite.profiles import NOTEBOOKS, run_folder

PACKAGE = Path(__file__).parent
# Kernels inherit the environment: no debugger's warnings, bars that fit, files in UTF-8, and no
# way up to the top folder, from which paths would be others.
KERNEL = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_NCOLS": "100", "PYTHONUTF8": "1"}
KERNEL["KTGLITE_STAY"] = "1"


class NotebookError(Exception):
    """A cell failed; the message has its error and how to go on."""


def reproduce(
    profile: str | Path = "quick",
    only: Iterable[str] | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    notebooks: str | Path | None = None,
) -> dict[str, Path]:
    """Execute the notebooks in order into `<out>/notebooks`, each with an HTML copy.

    Trainings are remembered in `<out>/runs`, so that a notebook which is executed again trains only
    what is missing.

    Args:
        only: numbers such as "02"; all by default.
        out: folder of the run, `data/runs/<profile>` by default.
        overrides: settings to change, see `load_settings`.
        notebooks: their folder; by default ./notebooks, or the checkout's.

    Returns the executed notebooks by their stems. Raises NotebookError when a cell fails,
    ValueError for a wrong setting, before anything runs, and while another `reproduce` works in
    `out`, and FileNotFoundError without notebooks.
    """
    numbers = [stem[:2] for stem in NOTEBOOKS]
    if unknown := sorted({*(only or ())} - {*numbers}):
        raise ValueError(f"--only {unknown[0]!r}: allowed are {', '.join(numbers)}")
    out = run_folder(profile, out)
    given = {"profile": str(profile), "out": str(out), "overrides": dict(overrides or {})}
    places = [Path(notebooks)] if notebooks else [Path("notebooks"), PACKAGE.parent / "notebooks"]
    folder = next((place for place in places if (place / f"{NOTEBOOKS[0]}.ipynb").is_file()), None)
    if folder is None:
        found = f"no notebooks in {' or '.join(map(str, places))}"
        raise FileNotFoundError(f"{found}; run this in a checkout of ktglite, or give --notebooks")
    from ktglite.settings import load_settings

    for number in sorted(only or numbers):
        load_settings(number, profile, out, **given["overrides"])
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(out / "notebooks/.lock").acquire(timeout=0)
    except Timeout:
        way = "wait for it, or give another folder with --out"
        raise ValueError(f"another ktglite reproduce is at work in {out}: {way}") from None
    done = {}
    with lock:
        for stem in [stem for stem in NOTEBOOKS if not only or stem[:2] in only]:
            done[stem] = out / f"notebooks/{stem}.ipynb"
            _execute(folder / f"{stem}.ipynb", done[stem], given)
    return done


def _execute(notebook: Path, executed: Path, given: dict) -> None:
    """Run every cell of a notebook, then write it to `executed`, with a page beside it.

    Until then it grows in a file beside it, named as partial.
    """
    import nbformat
    import papermill
    from ipykernel.kernelspec import write_kernel_spec
    from nbclient.exceptions import DeadKernelError
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor
    from papermill.exceptions import PapermillExecutionError

    from ktglite.store import provenance

    started = time.perf_counter()
    partial = executed.with_suffix(".partial.ipynb")
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
        found = "\n".join([f"{notebook.stem}, cell {error.cell_index} failed:\n", error.source, ""])
        way = "Finished trainings are kept: mend the cause and give the same command again."
        told = [*error.traceback, f"\nWhat ran until then is in {partial}. {way}"]
        raise NotebookError("\n".join([found, *told])) from error
    except DeadKernelError as error:
        found = f"{notebook.stem}: its process was killed; memory may be short"
        way = "free some, or give --jobs 1; the same command goes on from finished trainings"
        raise NotebookError(f"{found}: {way}") from error
    except KeyboardInterrupt as stop:
        stop.add_note(f"in {notebook.stem}")
        raise
    finished = nbformat.read(partial, as_version=4)
    finished, _ = CoalesceStreamsPreprocessor().preprocess(finished, {})  # bars: their last state
    without_widgets(finished)
    hardware = provenance()["hardware"]
    seconds = round(time.perf_counter() - started, 1)
    finished.metadata["ktglite"] = {
        "seconds": seconds,
        "profile": Path(given["profile"]).stem,
        "machine": ", ".join([f"{hardware['cores']} cores, {hardware['cpu']}", *hardware["gpus"]]),
    }
    page = executed.with_suffix(".html")
    text = to_html(finished, notebook.stem, notebook.parent, executed.parent)
    page.write_text(text, encoding="utf-8")
    nbformat.write(finished, partial)
    os.replace(partial, executed)  # last: its name says that every cell has run
    print(f"{notebook.stem}: {seconds / 60:.1f} min, {page}", flush=True)
