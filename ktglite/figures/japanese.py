"""Figures in Japanese: their words are replaced as they are drawn, so that no plotting function
and no notebook knows.

Names of networks, sources, gates and methods stay as the papers write them. All words are in
words.yaml.
"""

import re
from functools import cache
from importlib.resources import files

import yaml
from matplotlib.artist import Artist
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


def translate_figure(drawing: Artist) -> Artist:
    """The same Figure or Axes with its words in Japanese; `use_style("ja")` gives the font."""
    for axes in drawing.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            if any(translate(label) != label for label in labels):
                axis.set_ticks(axis.get_ticklocs(), labels=[translate(label) for label in labels])
    for text in drawing.findobj(Text):
        text.set_text(translate(text.get_text()))
    return drawing


def translate_when_drawn(figure: Figure) -> None:
    """A hook of pyplot for every new figure (`rcParams["figure.hooks"]`)."""
    draw = figure.draw

    def translated(renderer) -> None:
        translate_figure(figure)
        draw(renderer)

    figure.draw = translated
