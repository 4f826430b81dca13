"""README, docs and data/README: links, commands, numbers, and the same content in two languages."""

import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import readme_results

import ktglite

TOP = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "*/README.md", "*/RESULTS.md", "data/*/*/README.md")
    for path in TOP.glob(pattern)
)
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)


def code(page: Path) -> list[str]:
    """Commands of a page: lines of code blocks that are no Python, and code in the text."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.DOTALL | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", prose(page))


def headings(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """What a page calls the place of a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def tables(text: str) -> list[list[list[str]]]:
    """Tables of a page as rows of cells, without the line under the head."""
    found = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[row for row in table if set("".join(row)) - set("-: ")] for table in found if table]


def numbers(cell: str) -> list[str]:
    shown = re.sub(r"\]\([^)]*\)|<!--.*?-->", "]", cell)
    return sorted(re.findall(r"[−-]?\d[\d,.]*\d|\d", shown))


@BY_NAME
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://", target):
            continue
        name, _, place = target.partition("#")
        path = page if not name else page.parent / name
        assert path.exists(), f"{page.name}: {target}"
        if place:
            assert place in [anchor(heading) for _, heading in headings(path)], target


def test_both_readmes_have_the_same_headings_tables_pictures_and_commands():
    pages = TOP / "README.md", TOP / "README.ja.md"
    levels, pictures, commands = [], [], []
    for page in pages:
        levels.append([level for level, _ in headings(page)])
        pictures.append(prose(page).count("!["))
        blocks = re.findall(r"^```.*?^```", page.read_text("utf-8"), re.DOTALL | re.M)
        commands.append([re.sub(r"\s*#.*", "", block) for block in blocks])
    for here, there in (levels, pictures, commands):
        assert here == there
    for table, translated in zip(*(tables(prose(page)) for page in pages), strict=True):
        for row, other in zip(table, translated, strict=True):
            assert [*map(numbers, row)] == [*map(numbers, other)], (row, other)


@BY_NAME
def test_make_s_targets_exist(page):
    known = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in code(page):
        if match := re.match(r"make ((?:[a-z-]+ ?)+)(?:$| |#|[A-Z])", line):
            assert set(match[1].split()) <= known, f"{page.name}: {line}"


@pytest.fixture(scope="module")
def commands() -> set[str]:
    """The subcommands that `ktglite --help` lists."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["ktglite"].split(":")
    run = f"import sys; sys.argv = ['ktglite', '--help']; import {module}; {module}.{function}()"
    done = subprocess.run([sys.executable, "-c", run], cwd=TOP, capture_output=True, text=True)
    return set(re.findall("[a-z]+", re.search(r"{([^}]+)}", done.stdout)[1]))


@BY_NAME
def test_commands_exist(page, commands):
    if page.name == "CHANGELOG.md":  # which names those that went
        return
    for line in code(page):
        for name in re.findall(r"(?:^|&& )ktglite ([a-z]+)", line):
            assert name in commands, f"{page.name}: {line}"


def test_python_of_the_readme_is_python():
    text = (TOP / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120  # a page
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.M):
        names = set(re.findall(r"\bktg\.(\w+)", block))
        compile(block, "README.md", "exec")
        assert all(hasattr(ktglite, name) for name in names), names


def test_python_of_the_docs_that_reads_records_runs(monkeypatch):
    monkeypatch.chdir(TOP)
    pages = "".join(page.read_text("utf-8") for page in (TOP / "docs").glob("*.md"))
    blocks = re.findall(r"^```python\n(.*?)^```", pages, re.DOTALL | re.M)
    readers = [block for block in blocks if '"data/' in block]
    assert len(readers) == 3
    for block in readers:
        exec(block, {})


@pytest.mark.parametrize("page", sorted((TOP / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_table_of_measurements_has_its_command_beside_it(page):
    """In the section of a table with spreads or intervals stands what computes it."""
    text = page.read_text(encoding="utf-8")
    starts = [match.start() for match in re.finditer(r"^#+ ", text, re.MULTILINE)]
    for start, end in pairwise([*starts, len(text)]):
        section = text[start:end]
        cells = [cell for table in tables(section) for row in table for cell in row]
        if sum(bool(re.search(r"±|\d, .*\d\]", cell)) for cell in cells) > 2:
            source = re.search(r"python |ktglite |make |pytest |_table\(|/cars64/README", text)
            assert source, section[:80]


@BY_NAME
def test_words_that_readers_stumbled_over_stay_away(page):
    text = prose(page)
    for words in ("drawn cars", ": missed", ": reached", "| wanted", "where what lives"):
        assert words not in text, f"{page.name}: {words!r}"


def test_numbers_are_those_of_the_records():
    """README, docs/results.md and docs/faq.md against data/reference_runs and run_times.json."""
    stale = [p.name for p, text in readme_results.pages().items() if p.read_text("utf-8") != text]
    assert not stale, "run: python maintain/readme_results.py"


def test_contributing_names_every_module_and_none_that_is_gone():
    named = set(re.findall(r"`(ktglite/[\w/]+\.py)`", (TOP / "CONTRIBUTING.md").read_text("utf-8")))
    assert all((TOP / name).exists() for name in named), named
    there = {str(path.relative_to(TOP)) for path in (TOP / "ktglite").rglob("*.py")}
    inner = {name for name in there if Path(name).name.startswith("__")}
    figures = {name for name in there if name.startswith("ktglite/figures/")}
    assert named >= there - inner - figures
