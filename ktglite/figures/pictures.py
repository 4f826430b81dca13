"""Images, first layers, and trainings as they run."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from ipywidgets import Image, VBox, interactive
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torchvision.utils import make_grid

from ktglite.figures import style
from ktglite.figures.style import GREY, TARGET_RED, plain, source_colour, source_title
from ktglite.graph import Graph

__all__ = ["plot_filters", "plot_images", "plot_pretraining", "plot_training", "with_sliders"]


def plot_images(images, labels: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """A contact sheet of uint8 images, (n, 3, S, S) or (n, S, S, 3), each below its label."""
    images = np.asarray(images)
    images = images if images.shape[-1] == 3 else np.moveaxis(images, 1, 3)
    rows = math.ceil(len(images) / columns)
    side = style.PAGE / columns
    size = style.PAGE, (side + 0.16 * (labels is not None)) * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0.01, wspace=0.01)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest")
            if labels is not None:
                axis.set_title(plain(labels[i]), fontsize=6.5, pad=1.5)
    return figure


def with_sliders(draw: Callable, **ranges) -> VBox:
    """A picture that is drawn again whenever a slider or list above it changes, in JupyterLab.

    `draw(**values)` draws into one figure of pyplot. `ranges`: (low, high[, step]), or a list, for
    each of its arguments, as for ipywidgets' `interact`, whose Output widget can stop papermill.
    """
    controls = {name: interactive.widget_from_abbrev(ends) for name, ends in ranges.items()}
    picture = Image(format="png")

    def redraw(change=None) -> None:
        draw(**{name: control.value for name, control in controls.items()})
        file = io.BytesIO()
        plt.savefig(file, format="png")
        plt.close()
        picture.value = file.getvalue()

    for name, control in controls.items():
        control.description = name.replace("_", " ")
        control.observe(redraw, "value")
    redraw()
    return VBox([*controls.values(), picture])


def plot_filters(model: torch.nn.Module, ax: Axes) -> Axes:
    """The filters of a network's first convolution as colour pictures, each in its own range."""
    first = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    weight = first.weight.detach()
    columns = math.ceil(len(weight) ** 0.5)
    look = {"padding": 1, "pad_value": 1, "normalize": True, "scale_each": True}
    ax.imshow(make_grid(weight, columns, **look).permute(1, 2, 0).numpy())
    ax.axis("off")
    return ax


def plot_pretraining(cards: Iterable[Mapping]) -> Axes:
    """Training accuracy over the images seen: a line per model card, chance beside its name."""
    _, ax = plt.subplots(figsize=(style.PAGE / 1.6, 2.8), layout="constrained")
    for card in cards:
        curve = pd.DataFrame(card["curve"])
        label = f"{source_title(card['source'])}, {card['classes']:,} classes"
        label += f", chance: {100 / card['classes']:.2g} %"
        look = {"marker": "o", "ms": 3, "color": source_colour(card["source"])}
        ax.plot(curve.images.cumsum(), curve.accuracy, label=label, **look)
    ax.set(xlabel="images seen", ylabel="training accuracy (%)", xscale="log", ylim=(0, None))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.legend()
    return ax


def plot_training(graph: Graph, records: Sequence[Mapping], epochs: int | None = None) -> Figure:
    """One training, epoch by epoch: validation accuracy of every node that influences the target,
    and the mean gated loss on every open edge, in the colour and line of its gate, with a marker of
    its own.

    `records`: from `epochs(graph, ..)`, at least one of the `epochs` that there will be.
    """
    figure = plt.figure(figsize=(style.PAGE * 1.3, 3.4), layout="constrained")
    plt.close(figure)  # a cell shows it where and as often as it wants
    accuracy, labels, between = figure.subplots(1, 3)
    done = [record["epoch"] for record in records]
    marks = "os^vDP"
    for t in sorted(graph.reaching_target()):
        values = [record["val_accuracy"][t] for record in records]
        look = {"color": GREY if t else TARGET_RED, "marker": marks[t % 6], "ms": 4}
        accuracy.plot(done, values, label=f"node {t + 1}" + (", the target" * (t == 0)), **look)
        for s in graph.sources(t):
            colour, line, _ = style.gate_style(graph.gates[t][s])
            values = [record["edge_loss"][t][s] for record in records]
            label = f"{'label' if s == t else s + 1} → {t + 1} ({graph.gates[t][s].title()})"
            axis = labels if s == t else between
            look = {"color": colour, "ls": line, "marker": marks[len(axis.lines) % 6], "ms": 4}
            axis.plot(done, values, label=label, **look)
    loss = "mean loss after the gate"
    titles = {"accuracy": "validation (%)", "label edges": loss, "edges between nodes": loss}
    for axis, (name, ylabel) in zip((accuracy, labels, between), titles.items(), strict=True):
        last = max(epochs or 0, done[-1], 2)
        axis.set(title=name, xlabel="epoch", ylabel=ylabel, xlim=(0.8, last + 0.2))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=style.TICKS))
        axis.locator_params(axis="y", steps=style.TICKS)
        if axis.lines:
            axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.lines) or 1)
            axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))
        else:
            axis.text(0.5, 0.5, "no open edge", ha="center", color=GREY, transform=axis.transAxes)
    return figure
