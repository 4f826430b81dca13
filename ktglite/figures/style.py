"""The style of all figures, in one place, and how they are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

__all__ = ["save_figure", "use_style"]

# Okabe and Ito's palette, told apart by readers of every kind of colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
TARGET_RED = "#D00000"
COLUMN, PAGE = 3.4, 7.0  # inches: one column and two of a paper


def use_style() -> None:
    """Apply `ktglite.mplstyle`; fonts are embedded as fonts, so that text in a PDF can be searched and edited."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    plt.style.use(Path(__file__).with_name("ktglite.mplstyle"))


def save_figure(
    figure: Figure,
    folder: str | Path,
    name: str,
    formats: Sequence[str] = ("pdf", "png"),
    note: str = "",
    caption: str = "",
    width: str = "page",
    dpi: int = 300,
) -> list[Path]:
    """Write a figure as `<folder>/<name>.<format>`; the same figure gives the same bytes.

    `width`: "page" (7 in) or "column" (3.4 in); a wider figure is laid out again for it, letters
    keeping their size. `caption` and `note`, such as `describe_records` gives, go into the file's
    metadata. Raises ValueError for other formats.
    """
    _check_formats(formats)
    width = {"page": PAGE, "column": COLUMN}[width]
    if figure.get_figwidth() > width:
        figure.set_size_inches(
            width, figure.get_figheight() * max(0.75, width / figure.get_figwidth())
        )
        _fit_titles(figure)
    Path(folder).mkdir(parents=True, exist_ok=True)
    metadata = {
        "pdf": {"CreationDate": None, "ModDate": None, "Title": caption, "Subject": note},
        "svg": {"Date": None, "Title": caption, "Description": note},
        "png": {"Title": caption, "Description": note},
    }
    paths = []
    for kind in formats:
        paths.append(Path(folder) / f"{name}.{kind}")
        figure.savefig(paths[-1], metadata=metadata[kind], dpi=dpi)
    return paths


def _fit_titles(figure: Figure) -> None:
    """Smaller letters, down to 6 points, for titles that are wider than their panel."""
    figure.canvas.draw()
    for axes in figure.axes:
        share = axes.get_window_extent().width * 1.05 / max(axes.title.get_window_extent().width, 1)
        axes.title.set_fontsize(max(6, min(1, share) * axes.title.get_fontsize()))


def _check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError naming a format that figures are not written in."""
    for kind in formats:
        if kind not in ("pdf", "png", "svg"):
            raise ValueError(f"format is {kind!r}: allowed are pdf, png, svg")


def describe_records(records: Sequence[Mapping]) -> str:
    """Where numbers come from, in a line, as "data synthcars 95cd721e, code a3f29c01"; never the time."""
    data = sorted(
        {f"{r['data']['name']} {r['data']['fingerprint'][:8]}" for r in records if "data" in r}
    )
    codes = {(r.get("provenance") or {}).get("git") for r in records} - {None}
    parts = [
        f"data {', '.join(data)}" if data else "",
        f"code {', '.join(c[:8] for c in sorted(codes))}" if codes else "",
    ]
    return ", ".join(filter(None, parts))
