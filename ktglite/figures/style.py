"""How every figure looks, in one place: what a colour and a mark mean, panels, intervals, files."""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from zlib import crc32

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from ktglite.figures.japanese import read, translate
from ktglite.models import SOURCES, title

__all__ = ["hint", "save_figure", "say", "use_style"]

COLUMN, PAGE = 3.4, 7.0  # inches: one column and two of a paper
TICKS = [1, 2, 5, 10]  # and their multiples by powers of ten: never 2.5 or 92.5

LOOKS = read("looks.yaml")
FILES = ("#4A9A9C", "#9A6A4A", "#7A5AA6", "#5A8A3A")  # of weights, by name
TARGET_RED = "#D00000"  # the one that counts: a graph's target, the best graph that a search lost
BLACK, GREY, PALE = "#000000", "#777777", "#C8C8C8"
MARKS = LOOKS["verdicts"] | LOOKS["means"]
MEAN, PAPER = LOOKS["means"]
DOT = {"color": BLACK, "ls": "none", "ms": 4.5, "markerfacecoloralt": "white"}
BESIDE = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 6.5}  # of a dot
LEFT = BESIDE | {"xytext": (-4, 3), "ha": "right"}
HOOK = "ktglite.figures.japanese:translate_when_drawn"


def source_colour(source: str) -> str:
    """The colour of what a node starts from, by its name or title; a plug-in brings its own."""
    name = next((name for name, known in SOURCES.items() if known.title == source), source)
    of_files = FILES[crc32(title(source).encode()) % len(FILES)]
    own = SOURCES[name].colour if name in SOURCES else of_files
    return LOOKS["sources"].get(name, own)


def source_fill(source: str) -> str:
    """The tint of a source, on which black letters can be read; white from scratch."""
    colour = "#FFFFFF" if source == "scratch" else source_colour(source)
    return to_hex(0.45 * np.array(to_rgb(colour)) + 0.55)


def plain(name: str) -> str:
    r"""A name as it is: matplotlib takes what stands between two dollars for a formula."""
    return name.replace("$", r"\$")


def source_title(source: str) -> str:
    """`models.title` for a drawing."""
    return plain(title(source))


def gate_style(gate: str) -> tuple[str, str | tuple, str]:
    """Colour, line and letter of a gate; one that a reader added is grey, with its first letter."""
    return LOOKS["gates"].get(gate, ("#555555", (0, (5, 1, 1, 1, 1, 1)), gate[0].upper()))


# ---- language and style


def use_style(lang: str = "en") -> None:
    """The kit's style for every figure drawn from now on, with its words in `lang`, "en" or "ja".

    Nothing of the user's own matplotlibrc is left. Fonts are embedded as fonts, so that text in a
    PDF can be searched. Raises ValueError for another language, and without a Japanese font.
    """
    if lang not in ("en", "ja"):
        raise ValueError(f"lang is {lang!r}: allowed are en, ja")
    if lang == "ja":
        try:
            import matplotlib_fontja  # noqa: F401  registers the font
        except ImportError:
            hint = "it needs a Japanese font, `pip install 'ktglite[ja]'`"
            raise ValueError(f"lang is 'ja': {hint}") from None
    plt.style.use("default")
    sns.set_theme(context="paper", style="ticks", palette="gray")
    plt.style.use(Path(__file__).with_name("ktglite.mplstyle"))
    if lang == "ja":
        plt.rcParams.update({"font.family": ["DejaVu Sans", "IPAexGothic"], "figure.hooks": [HOOK]})
        # bold is asked for, and there is one weight
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def hint(text: str) -> str:
    """A text in the language of the style, for the message of an exercise's check."""
    return translate(text) if HOOK in plt.rcParams["figure.hooks"] else text


def say(thing: str | pd.DataFrame | Styler, index: bool = True) -> None:
    """Print a text or show a table, with or without its `index`, in the language of the style."""
    if isinstance(thing, str):
        print(hint(thing))
        return
    plain_table = isinstance(thing, pd.DataFrame)
    html = thing.to_html(index=index, border=0) if plain_table else thing.to_html()
    style, end, html = html.rpartition("</style>")
    html = re.sub(r"(?<=>)[^<>]+(?=<)", lambda found: hint(found[0]), html)
    text = (thing if plain_table else thing.data).to_string(index=index)
    display({"text/html": style + end + html, "text/plain": hint(text)}, raw=True)


# ---- panels, dots, legends


def panels(
    titles: Iterable[str], height: float, columns: int = 4, **shared
) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width, a panel per title, each row of them `height` inches high;
    `shared` is what `plt.subplots` takes besides, such as `sharex`."""
    titles = list(titles)
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    shape = {"figsize": (PAGE, height * rows), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, **shape, **shared)
    for axis, text in zip(axes.flat, titles, strict=False):
        axis.set_title(text)
        axis.locator_params(steps=TICKS)
    for axis in axes.flat[len(titles) :]:
        axis.remove()
    return figure, list(axes.flat[: len(titles)])


def dots(
    axis: Axes,
    table: pd.DataFrame,
    at: str,
    order: Sequence[str] = (),
    colour: str = BLACK,
    shift: float = 0.0,
    mark: str = "",
) -> None:
    """Effects with their 95 % intervals: a dot per row of `table`, whose mark says what it shows.

    Args:
        table: `effect`, `low`, `high` and, where they were tested, `verdict`; NaN is not drawn.
        at: a column of numbers, which are places on the x axis; or of names, which are rows.
        order: the names of all rows, from above.
        colour: of the dots; a source's where they belong to one.
        shift: rows downwards, so that two series do not lie on each other.
        mark: of MARKS, for means; 0 is nothing special then.
    """
    upwards = not order
    place = shift + np.array(table[at] if upwards else [order.index(name) for name in table[at]])
    bars = np.nan_to_num([table.effect - table.low, table.high - table.effect])
    marks = np.array([mark or mark_of(row) for row in table.itertuples()])
    for one in dict.fromkeys(marks):
        own = marks == one
        x, y = (place, table.effect) if upwards else (table.effect, place)
        look = DOT | MARKS[one] | {"color": colour, "elinewidth": 1.2}
        axis.errorbar(x[own], y[own], **{"yerr" if upwards else "xerr": bars[:, own]}, **look)
    if not mark:
        (axis.axhline if upwards else axis.axvline)(0, color=BLACK, lw=0.8, zorder=0)
    if not upwards:
        axis.set_yticks(range(len(order)), [plain(name) for name in order])
        axis.set_ylim(len(order) - 0.5, -0.5)


def mark_of(row: tuple) -> str:
    """Which of MARKS an effect has: by its verdict, or by its interval where it has no other."""
    verdict = str(getattr(row, "verdict", ""))
    if verdict in ("supported", "contradicted"):
        return verdict
    if not row.low <= row.high:
        return "one run, no interval"
    if row.low <= 0 <= row.high:
        return "interval contains 0"
    if verdict.startswith("not resolved"):
        return "interval excludes 0, not significant after Holm"
    return "interval excludes 0"


def count_rows(axis: Axes, table: pd.DataFrame, at: str, order: Sequence[str]) -> None:
    """The number n of runs, below a panel, or on the right of each row where they differ."""
    if table.n.nunique() == 1:
        axis.set_xlabel(f"{axis.get_xlabel()}, n = {table.n.max():.0f}")
        return
    axis.set_xlabel(f"{axis.get_xlabel()}, n on the right")
    place = {"transform": axis.get_yaxis_transform(), "fontsize": 6.5, "va": "center"}
    for name, n in table.groupby(at).n:
        axis.text(1.01, order.index(name), span(n), **place)


def span(counts: pd.Series) -> str:
    """The smallest and the largest of some numbers of runs: "3–5", or "3" where they agree."""
    return "–".join(dict.fromkeys(f"{n:.0f}" for n in (counts.min(), counts.max())))


def mark_legend(table: pd.DataFrame) -> list[Line2D]:
    """Legend entries of the marks that occur in a table of effects."""
    used = {mark_of(row) for row in table.itertuples()}
    return [Line2D([], [], label=mark, **DOT, **MARKS[mark]) for mark in MARKS if mark in used]


def source_legend(sources: Iterable[str], words: str) -> list[Line2D]:
    """Legend entries of sources in their colours; `words`: what is said of them, with {}."""
    looks = {words.format(source_title(source)): source_colour(source) for source in sources}
    return [Line2D([], [], color=colour, label=label) for label, colour in looks.items()]


def legend_below(figure: Figure, handles: Sequence, note: str = "") -> None:
    """A legend below all panels, under a line of text, in as many columns as the page has."""
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 110 // (widest + 8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=note)


def save_figure(
    figure: Figure, folder: str | Path, name: str, formats: Sequence[str] = ("pdf", "png"),
    note: str = "",
) -> list[Path]:  # fmt: skip
    """Write a figure as `<folder>/<name>.<format>`; the same figure gives the same bytes.

    `note`, on where the numbers come from, goes into the metadata. Raises ValueError for a format
    other than pdf, png, svg.
    """
    metadata = {
        "pdf": {"CreationDate": None, "ModDate": None, "Subject": note},
        "svg": {"Date": None, "Description": note},
        "png": {"Description": note},
    }
    if unknown := sorted({*formats} - {*metadata}):
        raise ValueError(f"format is {unknown[0]!r}: allowed are {', '.join(metadata)}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{name}.{kind}" for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        figure.savefig(path, metadata=metadata[kind], dpi=300)
    return paths
