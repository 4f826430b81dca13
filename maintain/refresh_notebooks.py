"""The committed notebooks: head cells, the outputs of a real run, and the Japanese edition (`make
notebooks`).

A head cell is tagged `head` and written by this module: a picture with its caption, the measured
run times and the badges, and the installation where the package is missing. Nothing that a notebook
computes depends on it, so it does not count as its source.

The Japanese edition in notebooks/ja has the code of the English one, with `lang` set; its prose is
in gettext catalogues, its outputs come from a run of its own. What pictures show is said in
alternative_texts.yaml.
"""

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import captions
import nbformat
import yaml
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from PIL import Image

from ktglite.experiments import ablation, bench
from ktglite.figures import japanese as words
from ktglite.pages import describe_pictures, without_widgets
from ktglite.profiles import NOTEBOOKS

__all__ = ["refresh"]

LIMIT = 900_000  # bytes of a committed notebook
ALTERNATIVES = Path(__file__).with_name("alternative_texts.yaml")
PICTURES = dict(
    zip(
        NOTEBOOKS, ("figure1_method", "fractaldb", "table1", "search_curves", "forest"), strict=True
    )
)
BAR = re.compile(r"\d+%\||\d+/\d+ \[\d")  # a tqdm bar
INSTALL = """\
import importlib.util
import os
from pathlib import Path

repository = "{address}"  # `make notebooks` copies it from CITATION.cff
if importlib.util.find_spec("ktglite") is None:  # on Colab, for one
    assert repository, "ktglite is not installed: give `pip install -e .` in its folder, and restart the kernel"
    %pip install --quiet "git+{{repository}}"
# opened by hand: paths are meant from the top folder
if "KTGLITE_STAY" not in os.environ and Path("../ktglite/__init__.py").exists():
    %cd -q ..
"""


def is_head(cell) -> bool:
    """Whether this module writes the cell."""
    return "head" in cell.metadata.get("tags", [])


def sources_of(notebook) -> list[tuple[str, str]]:
    """Kind and text of every cell that counts: no head cells, no parameters that a run put in."""
    skipped = {"head", "injected-parameters"}
    return [
        (cell.cell_type, cell.source)
        for cell in notebook.cells
        if not skipped & set(cell.metadata.get("tags", []))
    ]


def digest(notebook) -> str:
    """Hex over `sources_of`: a notebook whose outputs were made from other cells shows another one."""
    return hashlib.sha256(json.dumps(sources_of(notebook)).encode()).hexdigest()[:16]


# ---- head cells


def address(top: Path) -> str:
    """The repository's address, the one entry that says where this is published; empty if CITATION.cff has none."""
    return (yaml.safe_load((top / "CITATION.cff").read_text()).get("repository-code") or "").rstrip(
        "/"
    )


def heads(stem: str, times: dict, repository: str) -> tuple[str, str]:
    """The two head cells of a notebook: run times and badges (markdown), and the installation
    (code).

    `times`: `{profile: {"machine": .., "seconds": {stem: ..}}}`, the content of
    data/run_times.json.
    """
    found = {name: part["seconds"][stem] for name, part in times.items() if stem in part["seconds"]}
    parts = [f"`{name}` {_minutes(found[name])} ({times[name]['machine']})" for name in found]
    told = "**Run time, measured:** " + ("; ".join(parts) + "." if parts else "not yet.")
    if not repository:
        return (
            f"{told} To run it on Colab or Binder: [CONTRIBUTING.md](../CONTRIBUTING.md).",
            INSTALL.format(address=""),
        )
    where = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{where}/blob/main/notebooks/{stem}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{where}/HEAD?urlpath=lab/tree/notebooks/{stem}.ipynb"
    badges = (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )
    return f"{badges}\n\n{told}", INSTALL.format(address=repository)


def picture(stem: str, top: Path, lang: str) -> tuple[str, dict]:
    """The picture below a notebook's question, as Markdown with its caption, and as an attachment.

    The caption is that of the figure, from the records that come with the kit; a figure in Japanese
    is in figures/ja.
    """
    name, records = PICTURES[stem], top / "data/reference_runs"
    paths = [top / "figures" / part / f"{name}.png" for part in ("ja", ".")[lang == "en" :]]
    runs = ablation.read_runs(records / "quick")
    searches = bench.load(top / "data/graph_benchmark.npz").as_searches()
    text = captions.caption(name, runs, searches, lang)
    alt = captions.caption(name, runs, searches, lang, alt=True)
    image = Image.open(paths[0] if paths[0].exists() else paths[-1]).convert("RGB")
    image.thumbnail((900, 900), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"![{alt}](attachment:{name}.png)\n\n*{text}*", {f"{name}.png": {"image/png": encoded}}


def _minutes(seconds: float) -> str:
    """ "40 s", "3.2 min", "5.1 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _set_heads(notebook, stem: str, times: dict, top: Path) -> None:
    """Write the head cells into a notebook, after its first cell, the question."""
    prose, code = heads(stem, times, address(top))
    text, attachments = picture(stem, top, "en")
    body = [cell for cell in notebook.cells if not is_head(cell)]
    shown, tags = (
        {"tags": ["head"], "slideshow": {"slide_type": kind}} for kind in ("slide", "skip")
    )
    folded = tags | {"jupyter": {"source_hidden": True}}
    head = [
        nbformat.v4.new_markdown_cell(
            text, id="head-picture", metadata=shown, attachments=attachments
        ),
        nbformat.v4.new_markdown_cell(prose, id="head-times", metadata=tags),
        nbformat.v4.new_code_cell(code.rstrip(), id="head-install", metadata=folded),
    ]
    notebook.cells = [body[0], *head, *body[1:]]


# ---- outputs


def _tidy(outputs: list) -> list:
    """Outputs without progress bars."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and BAR.search(output.text):
            output.text = "".join(
                line for line in output.text.splitlines(True) if not BAR.search(line)
            )
        if output.output_type != "stream" or output.text.strip():
            kept.append(output)
    return kept


def _shrink(png: str, colours: int, scale: float) -> str:
    """A base64 PNG with so many colours, and so much of its width."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if scale < 1:
        image = image.resize(
            [max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    image.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _fill(notebook, executed) -> None:
    """Put the outputs of an executed notebook into its source, with the digest of the cells they
    were made from.

    Raises ValueError if the cells differ.
    """
    if sources_of(notebook) != sources_of(executed):
        raise ValueError(
            "its cells have changed since it was executed: give `make reproduce` first"
        )
    without_widgets(executed)
    outputs = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            done = outputs.get(cell.id)
            cell.outputs = _tidy(done.outputs) if done else []
            cell.execution_count = done.execution_count if done else None
    notebook.metadata["ktglite"] = {
        "sources": digest(notebook),
        "profile": executed.metadata["ktglite"]["profile"],
    }


def _describe(notebook, stem: str, lang: str) -> None:
    """Say of every picture what is seen, in the metadata of its cell."""
    texts = yaml.safe_load(ALTERNATIVES.read_text(encoding="utf-8"))[stem]
    for cell in notebook.cells:
        if cell.id in texts:
            cell.metadata["alt"] = texts[cell.id][lang]
    describe_pictures(notebook)


def _pictures(notebook) -> list:
    """The outputs that hold a PNG."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in found if "image/png" in output.get("data", {})]


def _fit(notebook) -> str:
    """The notebook as text of at most LIMIT bytes: fewer colours first, then fewer pixels. Raises ValueError."""
    originals = [output.data["image/png"] for output in _pictures(notebook)]
    for colours, scale in ((256, 1), (128, 1), (64, 1), (64, 0.75), (48, 0.6)):
        for output, png in zip(_pictures(notebook), originals, strict=True):
            output.data["image/png"] = min(_shrink(png, colours, scale), png, key=len)
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) <= LIMIT:
            return text
    raise ValueError(f"it has {len(text.encode()):,} bytes of outputs where {LIMIT:,} are allowed")


# ---- the Japanese edition

HEAD = {
    "**Run time, measured:**": "**実行時間 (実測):**",
    "To run it on Colab or Binder: [CONTRIBUTING.md](../CONTRIBUTING.md).": "Colab や Binder で実行するには: [CONTRIBUTING.md](../../CONTRIBUTING.md)。",
    '"../ktglite': '"../../ktglite',  # it lies one folder deeper
    "%cd -q ..": "%cd -q ../..",
}


def update_catalogue(path: Path, notebook) -> Catalog:
    """The catalogue of a notebook with a message per cell of prose; new ones are empty, changed ones fuzzy."""
    found = (
        read_po(io.BytesIO(path.read_bytes()), locale="ja")
        if path.exists()
        else Catalog(locale="ja")
    )
    template = Catalog()
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and not is_head(cell):
            template.add(cell.source, auto_comments=[cell.id])
    found.update(template)
    found.obsolete.clear()
    return found


def translate(notebook, catalogue: Catalog, caption: str = "", attachments: dict | None = None):
    """The Japanese edition of a notebook, with its picture; prose that is not translated stays English."""
    done = nbformat.reads(nbformat.writes(notebook), as_version=4)
    for cell in done.cells:
        if cell.id == "head-picture":
            cell.source, cell.attachments = caption, nbformat.from_dict(attachments)
        elif is_head(cell):
            for english, japanese in HEAD.items():
                cell.source = cell.source.replace(english, japanese)
            if cell.cell_type == "markdown":
                cell.source = words.translate(cell.source)
        elif "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace("overrides = {}", 'overrides = {"lang": "ja"}')
        elif cell.cell_type == "markdown":
            message = catalogue.get(cell.source)
            known = message is not None and message.string and not message.fuzzy
            cell.source = (message.string if known else cell.source).replace("](../", "](../../")
    return done


def _write_catalogue(path: Path, catalogue: Catalog) -> None:
    file = io.BytesIO()
    write_po(file, catalogue, width=120, omit_header=True)
    path.write_bytes(file.getvalue())


def refresh(
    run: str | Path = "data/runs/quick", top: str | Path = ".", japanese: str | Path | None = None
) -> list[Path]:
    """Put the outputs of a run into `<top>/notebooks`, and its times into
    `<top>/data/run_times.json`. Those of a run of the Japanese edition, `<run>_ja` if `japanese`
    is not given, go into `<top>/notebooks/ja`.

    Cells and parameters stay as they are; head cells are written again. A notebook that the run
    lacks gets its head only. Times are those of executing: remove the run's folder first, or what
    was cached counts nothing. Raises ValueError, before anything is written, for a notebook whose
    cells have changed since.
    """
    run, top = Path(run), Path(top)
    log, texts = top / "data" / "run_times.json", {}
    times = json.loads(log.read_text()) if log.exists() else {}
    executed = {}
    for stem in NOTEBOOKS:
        if (run / "notebooks" / f"{stem}.ipynb").exists():
            executed[stem] = nbformat.read(run / "notebooks" / f"{stem}.ipynb", as_version=4)
            told = executed[stem].metadata["ktglite"]
            entry = times.setdefault(told["profile"], {"machine": "", "seconds": {}})
            entry["machine"] = told["machine"]
            entry["seconds"][stem] = told["seconds"]
    for stem in NOTEBOOKS:
        path = top / "notebooks" / f"{stem}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        try:
            if stem in executed:
                _fill(notebook, executed[stem])
            _set_heads(notebook, stem, times, top)
            _describe(notebook, stem, "en")
            texts[path] = _fit(notebook)
        except ValueError as error:
            raise ValueError(f"{stem}: {error}") from error
    (top / "notebooks/ja").mkdir(exist_ok=True)
    for path, text in list(texts.items()):
        catalogue = update_catalogue(
            po := path.parent / f"ja/{path.stem}.po", english := nbformat.reads(text, 4)
        )
        _write_catalogue(po, catalogue)
        made = translate(english, catalogue, *picture(path.stem, top, "ja"))
        own = Path(japanese or f"{run}_ja") / "notebooks" / path.name
        if own.exists():
            _fill(made, nbformat.read(own, as_version=4))
        _describe(made, path.stem, "ja")
        texts[path.parent / "ja" / path.name] = _fit(made)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    if times:
        log.write_text(json.dumps(times, indent=1) + "\n")
    return list(texts)


if __name__ == "__main__":
    for written in refresh(*sys.argv[1:]):
        print(f"{written}: {written.stat().st_size / 1000:.0f} kB")
