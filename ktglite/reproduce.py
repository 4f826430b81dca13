"""Run the numbered notebooks under papermill: every step of the paper in order, what is done already left alone."""

import importlib.metadata
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import nbconvert
import nbformat
import papermill
from latex2mathml.converter import convert as to_mathml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, TagRemovePreprocessor
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

import ktglite
from ktglite.models import file_hash
from ktglite.settings import NOTEBOOKS, Settings, load_settings, select_settings
from ktglite.sources.datasets import size_and_time
from ktglite.store import code_hash, make_key, provenance

__all__ = ["NotebookError", "reproduce"]

PARAMETERS = {
    "profile": "quick",
    "out": "data/runs/quick",
    "overrides": {},
}  # of every notebook, opened by hand
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = """{% extends 'index.html.j2' %}{% block data_png scoped %}
{%- set words = output | get_metadata('alt', 'image/png') | escape_html -%}
{{ super() | replace('<img', '<img alt="' ~ words ~ '"', 1) }}{% endblock %}"""  # nbconvert's own has no `alt`


class NotebookError(Exception):
    """A cell failed; the message has its error and how to go on."""


def find_notebooks(folder: str | Path | None = None) -> Path:
    """The folder of the notebooks: as given, or ./notebooks, or that of the checkout. Raises FileNotFoundError."""
    places = (
        [Path(folder)]
        if folder
        else [Path("notebooks"), Path(ktglite.__file__).parents[1] / "notebooks"]
    )
    for place in places:
        if (place / f"{next(iter(NOTEBOOKS))}.ipynb").is_file():
            return place
    raise FileNotFoundError(
        f"no notebooks in {' or '.join(map(str, places))}; run this in a checkout of ktglite"
    )


def sources_of(notebook) -> list[tuple[str, str]]:
    """Kind and text of every cell that counts: neither head cells nor the parameters that a run put in."""
    skipped = {"head", "injected-parameters"}
    return [
        (c.cell_type, c.source)
        for c in notebook.cells
        if not skipped & set(c.metadata.get("tags", []))
    ]


def without_widgets(notebook) -> None:
    """Drop what only a living kernel can show: widgets, whose picture stands beside them in the same output."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)


def describe_pictures(notebook) -> None:
    """Give every picture the prose before its cell as alternative text: what HTML and a screen reader tell of it."""
    text = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "head" not in cell.metadata.get("tags", []):
            prose = [
                part
                for part in cell.source.split("\n\n")
                if part.strip() and not part.startswith(("$$", "|"))
            ]
            text = prose[-1] if prose else text
            text = re.sub(r"^#+ |[*`$]|\]\([^)]*\)|\[(?=[^]]*\]\()", "", text).replace("\n", " ")
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.metadata.setdefault("image/png", {})["alt"] = text


# ---- what is done already


def _fingerprint(notebook: Path, settings: Settings, upstream: str) -> str:
    """Hex over what decides an executed notebook: cells, settings, images and weights, code, versions, those before."""
    cells = sources_of(nbformat.read(notebook, as_version=4))
    folder = Path(ktglite.__file__).parent
    names = sorted(path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*.py"))
    code = code_hash(*(".".join(name.parts).removesuffix(".__init__") for name in names))
    packages = ("torch", "torchvision", "optuna", "matplotlib", "seaborn")
    versions = [importlib.metadata.version(name) for name in packages]
    return make_key(
        cells,
        settings.model_dump(mode="json"),
        _inputs(notebook.stem, settings),
        code,
        versions,
        upstream,
    )


def _inputs(stem: str, settings: Settings) -> list:
    """The files a notebook reads: names, sizes and times of images, SHA-256 of weights (which 01 itself makes)."""
    places = settings.dataset, getattr(settings, "imagenet_folder", None)
    walks = [walk for place in places if place for walk in os.walk(place, followlinks=True)]
    images = [
        (folder, name, *size_and_time(Path(folder, name)))
        for folder, _, names in walks
        for name in names
    ]
    weights = [Path(source) for source in settings.sources if Path(source).is_file()]
    if stem[:2] not in ("00", "01"):
        weights += Path(settings.weights).glob("*.safetensors")
    return [sorted(images), [(str(path), file_hash(path)) for path in sorted(weights)]]


def _is_current(executed: Path, mark: str) -> bool:
    """Whether an executed notebook was made from exactly this."""
    if not executed.exists():
        return False
    try:
        return (
            nbformat.read(executed, as_version=4).metadata.get("ktglite", {}).get("fingerprint")
            == mark
        )
    except Exception:  # not a notebook any more: make it again
        return False


# ---- execution


def reproduce(
    profile: str | Path = "quick",
    only: list[str] | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    notebooks: str | Path | None = None,
    force: bool = False,
) -> dict[str, Path]:
    """Execute the notebooks in order into `<out>/notebooks/`, each with an HTML copy; returns their
    paths.

    - `out`: folder of the run, `data/runs/<profile>` by default.  `only`: numbers such as "02".
    - `overrides`: settings to change, see `select_settings`.  `force`: also what is done and
      unchanged.

    Raises NotebookError when a cell fails, ValueError for a wrong setting before anything runs.
    """
    out, folder, overrides = (
        Path(out or f"data/runs/{Path(profile).stem}"),
        find_notebooks(notebooks),
        overrides or {},
    )
    chosen = {stem: select_settings(stem[:2], overrides) for stem in NOTEBOOKS}
    for stem, values in chosen.items():  # a wrong setting is told before anything runs
        load_settings(stem[:2], profile, out, **values)
    unknown = [number for number in only or () if number not in {stem[:2] for stem in NOTEBOOKS}]
    if unknown:
        raise ValueError(
            f"--only {unknown[0]!r}: allowed are {', '.join(stem[:2] for stem in NOTEBOOKS)}"
        )
    done, mark = {}, ""
    for stem, values in chosen.items():
        mark = _fingerprint(
            folder / f"{stem}.ipynb", load_settings(stem[:2], profile, out, **values), mark
        )
        executed = out / "notebooks" / f"{stem}.ipynb"
        if only and stem[:2] not in only:
            continue
        if _is_current(executed, mark) and not force:
            print(f"{stem}: done and unchanged")
        else:
            given = {"profile": str(profile), "out": str(out), "overrides": values}
            given = {name: value for name, value in given.items() if value != PARAMETERS[name]}
            _execute(folder / f"{stem}.ipynb", executed, given, mark, out, Path(profile).stem)
        done[stem] = executed
    return done


def _execute(
    notebook: Path, executed: Path, values: dict, mark: str, out: Path, profile: str
) -> None:
    """One notebook; the final name appears only when every cell has run."""
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_suffix(".partial.ipynb")
    started = time.perf_counter()
    papermill_engines.register("ktglite", _Engine)
    try:
        with _cell_progress(notebook, out), _quiet_kernel():
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters=values,
                engine_name="ktglite",
                kernel_name="python3",
                progress_bar=False,
                iopub_timeout=600,
                extra_arguments=[
                    "--IPKernelApp.log_level=40"
                ],  # its warnings are about itself: loopback, no TLS
            )
    except PapermillExecutionError as error:
        traceback = "\n".join(error.traceback)
        raise NotebookError(
            f"{notebook.stem}, cell {error.cell_index} failed:\n\n{error.source}\n\n{traceback}\n\n"
            f"What ran until then is in {partial}. Finished trainings are kept: mend the cause and give the same "
            f"command again to go on."
        ) from error
    finished = nbformat.read(partial, as_version=4)
    finished, _ = CoalesceStreamsPreprocessor().preprocess(
        finished, {}
    )  # progress bars: only their last state
    seconds = time.perf_counter() - started
    without_widgets(finished)
    hardware = provenance()["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores, {hardware['cpu']}", *hardware["gpus"]])
    facts = {"seconds": round(seconds, 1), "profile": profile, "machine": machine}
    finished.metadata["ktglite"] = {"fingerprint": mark, **facts}
    nbformat.write(finished, partial)
    executed.with_suffix(".html").write_text(_html(finished))
    os.replace(partial, executed)
    print(f"{notebook.stem}: {seconds / 60:.1f} min, {executed.with_suffix('.html')}")


def _html(notebook) -> str:
    """The notebook as one page that needs no network: formulas as MathML, set-up cells folded away."""
    page = nbformat.reads(nbformat.writes(notebook), as_version=4)
    describe_pictures(page)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = _with_mathml(cell.source)
            cell.metadata.pop("tags", None)  # what is folded away is code
    exporter = nbconvert.HTMLExporter(mathjax_url="", require_js_url="", raw_template=PAGE)
    exporter.register_preprocessor(
        TagRemovePreprocessor(remove_input_tags={"head", "hide"}), enabled=True
    )
    return exporter.from_notebook_node(page)[0]


def _with_mathml(text: str) -> str:
    """Markdown with $..$ and $$..$$ as MathML; code in backticks is left alone, and so is what is no formula."""
    parts = re.split(r"(```.*?```|`[^`]*`|\$\$.+?\$\$|\$[^$\n]+?\$)", text, flags=re.S)
    for i, part in enumerate(parts):
        with suppress(Exception):  # the notebook has run: a formula must not undo that
            if part.startswith("$$"):
                parts[i] = to_mathml(part[2:-2].strip(), display="block")
            elif part.startswith("$"):
                parts[i] = to_mathml(part[1:-1])
    return "".join(parts)


@contextmanager
def _quiet_kernel() -> Iterator[None]:
    """Kernels inherit the environment: no debugger warnings in the notebooks, and text that fits their width."""
    before = dict(os.environ)
    os.environ |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_NCOLS": "100"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Engine(NBClientEngine):
    """papermill's own engine, telling `on_cell` when a cell starts."""

    on_cell: Callable[[int, int], None] = staticmethod(lambda index, cells: None)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        start = nb_man.cell_start

        def cell_start(cell, cell_index=None, **more):
            cls.on_cell(cell_index, len(nb_man.nb.cells))
            return start(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


@contextmanager
def _cell_progress(notebook: Path, out: Path) -> Iterator[None]:
    """One line in the terminal: the notebook, its cell, and what the cell itself writes to `progress.jsonl`."""
    log, over = out / "progress.jsonl", threading.Event()
    position = log.stat().st_size if log.exists() else 0
    with tqdm(
        desc=notebook.stem, bar_format="{desc}: cell {n_fmt}/{total_fmt} [{elapsed}]{postfix}"
    ) as bar:

        def on_cell(index: int, cells: int) -> None:
            bar.n, bar.total = index + 1, cells
            bar.set_postfix_str("")

        def watch() -> None:
            while not over.wait(2):
                line = _last_line(log, position)
                if line and line["time"] > shown["time"]:
                    shown.update(line)
                    bar.set_postfix_str(_progress_text(line))

        shown = {"time": 0.0}
        _Engine.on_cell = staticmethod(on_cell)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            bar.set_postfix_str("")


def _last_line(log: Path, position: int) -> dict | None:
    """The newest line of a progress file after `position`, if there is a whole one."""
    if not log.exists() or log.stat().st_size <= position:
        return None
    with open(log, "rb") as file:
        file.seek(max(position, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    try:
        return json.loads(lines[-1])
    except json.JSONDecodeError:
        return None


def _progress_text(line: dict) -> str:
    """ "Table 1: 12 of 45, 3:20 left"."""
    left = int(line["seconds_left"])
    return f"{line['what']}: {line['done']} of {line['total']}, {left // 60}:{left % 60:02d} left"
