"""Figures in Japanese: their words are replaced as they are drawn, so that no plotting function
and no notebook knows.

Names of networks, sources, gates and methods stay as the papers write them. All words are in
words.yaml.
"""

import re
from functools import cache
from importlib.resources import files

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


@cache
def read(name: str) -> dict:
    """A table of this package: looks.yaml, or words.yaml with Japanese phrases."""
    return yaml.safe_load(files("ktglite.figures").joinpath(name).read_text(encoding="utf-8"))


@cache
def _phrases() -> list[tuple[re.Pattern, str]]:
    """Patterns of whole words, the longest first, and what they become."""
    found = sorted(read("words.yaml").items(), key=lambda pair: -len(pair[0]))
    return [(re.compile(rf"(?<![A-Za-z])(?:{old})(?![A-Za-z])"), new) for old, new in found]


def translate(text: str) -> str:
    """A text of a figure or a table with every known phrase in Japanese."""
    for english, japanese in _phrases():
        text = english.sub(japanese, text)
    return text


def translate_when_drawn(figure: Figure) -> None:
    """A hook of pyplot for every new figure; `use_style("ja")` sets it, and gives the font."""
    draw = figure.draw

    def translated(renderer) -> None:
        for axes in figure.findobj(Axes):
            for axis in (axes.xaxis, axes.yaxis):
                labels = [label.get_text() for label in axis.get_ticklabels()]
                words = list(map(translate, labels))
                if words != labels:
                    axis.set_ticks(axis.get_ticklocs(), labels=words)
        for text in figure.findobj(Text):
            text.set_text(translate(text.get_text()))
        draw(renderer)

    figure.draw = translated
