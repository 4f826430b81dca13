"""An executed notebook as one HTML page that needs no network."""

import os
import re
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
WORDS = {"en": ("Contents", "Solution"), "ja": ("目次", "解答例")}


def without_widgets(notebook) -> None:
    """Drop what a living kernel alone can show: widgets, whose picture stands beside them."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            data = output.get("data", {})
            if data.pop(WIDGET, None) and data.keys() <= {"text/plain"}:
                cell.outputs.remove(output)


def describe_pictures(notebook) -> None:
    """Give every picture an alternative text: its cell's metadata's, else the prose before it."""
    text = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "head" not in cell.metadata.get("tags", []):
            parts = [part for part in cell.source.split("\n\n") if part.strip()]
            prose = [part for part in parts if not part.startswith(("$$", "|"))]
            text = prose[-1] if prose else text
            text = re.sub(r"^#+ |[*`$]|\]\([^)]*\)|\[(?=[^]]*\]\()", "", text).replace("\n", " ")
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                said = output.metadata.setdefault("image/png", {})
                said["alt"] = cell.metadata.get("alt") or said.get("alt") or text


def to_html(notebook, stem: str, home: Path, folder: Path) -> str:
    """The page of notebook `stem`, which comes from the folder `home` and will lie in `folder`.

    Formulas are MathML, set-up cells and solutions are folded away, and other notebooks and the
    pages of docs/ are linked where they are.
    """
    import nbconvert
    import nbformat
    from nbconvert.preprocessors import TagRemovePreprocessor

    lang = "ja" if home.name == "ja" or stem.endswith(".ja") else "en"
    page = deepcopy(notebook)
    describe_pictures(page)
    headings = []
    for cell in page.cells:
        if cell.cell_type == "markdown":
            headings += re.findall(r"```.*?```|^(#+) ([^\n]+)$", cell.source, re.M | re.S)
            cell.source = _with_mathml(_link(cell.source, home, folder))
            cell.metadata.pop("tags", None)  # what is folded away is code
    contents, solution = WORDS[lang]
    title = next((text for mark, text in headings if mark == "#"), stem)
    page.metadata |= {"solution": solution, "title": re.sub(r"[*`$]", "", title)}
    chapters = [f"- [{text}](#{text.replace(' ', '-')})" for mark, text in headings if mark == "##"]
    if chapters:
        text = _with_mathml("\n".join([f"**{contents}**\n", *chapters]))
        page.cells.insert(1, nbformat.v4.new_markdown_cell(text))
    look = {"raw_template": PAGE, "language_code": lang}
    exporter = nbconvert.HTMLExporter(mathjax_url="", require_js_url="", **look)
    folded = TagRemovePreprocessor(remove_input_tags={"head", "hide"})
    exporter.register_preprocessor(folded, enabled=True)
    return exporter.from_notebook_node(page)[0]


def _link(text: str, home: Path, folder: Path) -> str:
    """Markdown whose links are right in `folder`: to pages beside it, and to files of `home`."""

    def moved(found: re.Match) -> str:
        target, rest = found[1], found[2] or ""
        if re.fullmatch(r"[\w-]+\.ipynb", target):
            return f"]({target.removesuffix('ipynb')}html{rest})"
        if (home / target).exists():
            return f"]({Path(os.path.relpath(home / target, folder)).as_posix()}{rest})"
        return found[0]

    return re.sub(r"\]\(([^)#:\s]+)(#[^)]*)?\)", moved, text)


def _with_mathml(text: str) -> str:
    """Markdown with $..$ and $$..$$ as MathML; code in backticks, and what is no formula, stays."""
    from latex2mathml.converter import convert

    parts = re.split(r"(```.*?```|`[^`]*`|\$\$.+?\$\$|\$[^$\n]+?\$)", text, flags=re.S)
    for i, part in enumerate(parts):
        with suppress(Exception):  # the notebook has run: a formula must not undo that
            if part.startswith("$"):
                kind = "block" if part.startswith("$$") else "inline"
                parts[i] = convert(part.strip("$ \n"), display=kind)
    return "".join(parts)
