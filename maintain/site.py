"""Notebooks, documents and the explorer as one site, which works without a network.

    python maintain/site.py [OUT]

It mirrors the checkout, so that a link holds with .html in place of .md and .ipynb. Files that a
page links to are copied; a link to nothing is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

from ktglite.pages import to_html
from ktglite.profiles import NOTEBOOKS

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "index.md"
GROUPS = {"notebooks": "Notebooks", "ja": "ノートブック", "docs": "Documents"}
LINK = re.compile(r'\b(href|src)="(?!https?:|mailto:|data:|#|attachment:)([^"#]+)(#[^"]*)?"')


def build_site(out: Path) -> list[Path]:
    """Write every page below `out`; the paths of all. Raises ValueError naming links to nothing."""
    sources = [ROOT / f"notebooks/{part}{stem}.ipynb" for part in ("", "ja/") for stem in NOTEBOOKS]
    command = ["git", "-C", str(ROOT), "ls-files", "*.md"]
    known = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    notebooks = {path: read(path) for path in [*sources, *(ROOT / name for name in known)]}
    notebooks[INDEX] = new_notebook(cells=[new_markdown_cell(index(notebooks))])
    shutil.rmtree(out, ignore_errors=True)
    dead, pages = [], []
    for source, notebook in notebooks.items():
        text = to_html(notebook, source.stem, source.parent, source.parent)
        page = out / source.relative_to(ROOT).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(link(text, source, notebooks, out, dead), encoding="utf-8")
        pages.append(page)
    if dead:
        raise ValueError("links to nothing: " + "; ".join(dead))
    return pages


def read(source: Path):
    """A notebook, or a Markdown file as one, with a way back to the index."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        notebook = nbformat.reads(text, as_version=4)
    else:
        named = re.sub(r"```.*?```|^#+ ([^\n]+)$", _with_anchor, text, flags=re.M | re.S)
        notebook = new_notebook(cells=[new_markdown_cell(named)])
    up = os.path.relpath(INDEX, source.parent)
    notebook.cells.append(new_markdown_cell(f"[↑ ktglite]({up})"))
    return notebook


def _with_anchor(found: re.Match) -> str:
    """A heading below the name that GitHub gives it, by which other pages link it."""
    name = re.sub(r"[^\w -]", "", (found[1] or "").lower()).replace(" ", "-")
    return f'<a id="{name}"></a>\n\n{found[0]}' if found[1] else found[0]


def index(notebooks: dict) -> str:
    """The contents in Markdown: notebooks in both languages, the explorer, documents."""
    text = "# ktglite\n\n[Try a graph in the explorer](docs/explorer.html)\n"
    for group in (*GROUPS.values(), "More"):
        text += f"\n## {group}\n\n"
        for path, notebook in notebooks.items():
            if GROUPS.get(path.parent.name, "More") == group:
                title = re.search(r"^# (.+)$", notebook.cells[0].source, re.M)
                name = title[1] if title else path.stem
                text += f"- [{name}]({path.relative_to(ROOT).as_posix()})\n"
    return text


def link(text: str, source: Path, pages: dict, out: Path, dead: list[str]) -> str:
    """A page whose links lead to pages, and to copies of what else it needs."""

    def moved(found: re.Match) -> str:
        what, target, rest = found[1], unquote(found[2]), found[3] or ""
        path = (source.parent / target).resolve()
        if any(path.with_suffix(suffix) in pages for suffix in (".md", ".ipynb")):
            target = re.sub(r"\.(md|ipynb)$", ".html", target)
        elif path.is_dir() and path.is_relative_to(ROOT):
            target = os.path.relpath(INDEX.with_suffix(".html"), source.parent)
        elif path.is_file() and path.is_relative_to(ROOT):
            copy = out / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        else:
            dead.append(f"{target} in {source.relative_to(ROOT)}")
        return f'{what}="{target}{rest}"'

    return LINK.sub(moved, text)


if __name__ == "__main__":
    made = build_site(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/site").resolve())
    print(f"{len(made)} pages: {made[-1]}")
