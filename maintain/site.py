"""The notebooks, docs/ and the explorer as one site, which works without a network.

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
RUN = {"cwd": ROOT, "check": True, "capture_output": True, "text": True}
LINK = re.compile(r'\b(href|src)="(?!https?:|mailto:|data:|#|attachment:)([^"#]+)(#[^"]*)?"')


def build_site(out: Path) -> list[Path]:
    """Write every page below `out`; the paths of all. Raises ValueError naming links to nothing."""
    sources = [ROOT / f"notebooks/{part}{stem}.ipynb" for part in ("", "ja/") for stem in NOTEBOOKS]
    known = subprocess.run(["git", "ls-files", "*.md"], **RUN).stdout.split()
    sources += [ROOT / name for name in known]
    shutil.rmtree(out, ignore_errors=True)
    pages = {path: out / path.relative_to(ROOT).with_suffix(".html") for path in sources}
    pages[ROOT / "index.md"] = out / "index.html"
    dead = []
    for source, page in pages.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        text = _links(render(source, sources), source, pages, out, dead)
        page.write_text(text, encoding="utf-8")
    if dead:
        raise ValueError("links to nothing: " + "; ".join(dead))
    return list(pages.values())


def render(source: Path, sources: list[Path]) -> str:
    """The HTML of a notebook, a Markdown file, or the index, with a way back to the index."""
    if source.suffix == ".ipynb":
        notebook = nbformat.read(source, as_version=4)
    else:
        text = source.read_text(encoding="utf-8") if source.exists() else index(sources)
        notebook = new_notebook(cells=[new_markdown_cell(text)])
    if source.exists():
        up = "../" * (len(source.relative_to(ROOT).parts) - 1)
        notebook.cells.append(new_markdown_cell(f"[↑ ktglite]({up}index.html)"))
    return to_html(notebook, source.stem, source.parent, source.parent)


def index(sources: list[Path]) -> str:
    """The contents in Markdown: notebooks in both languages, the explorer, documents."""
    text = "# ktglite\n\n[Try a graph in the explorer](docs/explorer.html)\n"
    groups = {"notebooks": "Notebooks", "ja": "ノートブック", "docs": "Documents"}
    for name in (*groups.values(), "More"):
        own = [path for path in sources if groups.get(path.parent.name, "More") == name]
        items = [f"- [{_title(path)}]({path.relative_to(ROOT).as_posix()})" for path in own]
        text += f"\n## {name}\n\n" + "\n".join(items) + "\n"
    return text


def _title(path: Path) -> str:
    """The first heading of a notebook or a Markdown file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = nbformat.reads(text, 4).cells[0].source
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else path.stem


def _links(text: str, source: Path, pages: dict, out: Path, dead: list[str]) -> str:
    """A page whose links lead to pages, and to copies of what else it needs."""

    def moved(found: re.Match) -> str:
        what, target, rest = found[1], unquote(found[2]), found[3] or ""
        path = (source.parent / target).resolve()
        names = [path, path.with_suffix(".ipynb"), path.with_suffix(".md")]
        if any(name in pages for name in names):
            target = re.sub(r"\.(md|ipynb)$", ".html", target)
        elif path.is_dir() and path.is_relative_to(ROOT):
            target = os.path.relpath(ROOT / "index.html", source.parent)
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
