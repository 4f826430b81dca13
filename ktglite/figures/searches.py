"""Figures of the search: its curves, what early stopping kept and lost, the winner's curse."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ktglite.experiments.ablation import Summaries
from ktglite.experiments.rungs import replay
from ktglite.figures import style
from ktglite.figures.graphs import LETTERS, SPLITS, condition_label, in_order
from ktglite.figures.style import BLACK, GREY, PALE, TARGET_RED, panels, plain

__all__ = ["plot_best_of", "plot_regret", "plot_search", "plot_searches"]

CROSS = {"ls": "none", "marker": "X", "ms": 6.5, "mec": "white", "mew": 0.6}
GREYS = [BLACK, GREY, "#AAAAAA", "#444444", "#CCCCCC"]  # of lines that are told apart by marks, too


def plot_searches(summaries: Summaries) -> Figure:
    """Every graph of every condition as a line over its epochs, in the colour of node 1's start.

    A cross is where one was stopped.
    """
    order = in_order(summaries)
    figure, axes = panels([""] * len(order), 2.9, sharey=True)
    for axis, name in zip(axes, order, strict=True):
        summary = summaries[name]
        trials = [trial for trial in summary["trials"] if trial["values"]]
        look = {"lw": 0.8, "rasterized": len(trials) > 300}
        look["alpha"] = max(0.25, min(1, (30 / max(1, len(trials))) ** 0.5))
        for trial in trials:
            colour = style.source_colour(trial["graph"]["nodes"][0]["init"])
            epochs = range(1, 1 + len(trial["values"]))
            axis.plot(epochs, trial["values"], color=colour, **look)
            if trial["state"] != "COMPLETE":
                axis.plot(epochs[-1], trial["values"][-1], color=colour, label="stopped", **CROSS)
        _epoch_axis(axis, max((len(trial["values"]) for trial in trials), default=1))
        label = condition_label(name, summaries).replace(" + ", "\n+ ")
        done = summary["states"].get("COMPLETE", 0)
        count = len(summary["trials"])
        ends = f", {done} to the end" if done < count else ""
        axis.set_title(f"{plain(label)}\n{count} graphs{ends}")
        split = SPLITS[summary["select_on"]]
        axis.set(xlabel="epoch", ylabel=f"{split} accuracy of node 1 (%)")
        axis.label_outer()
    starts = dict.fromkeys(start for name in order for start in summaries[name]["choices"])
    handles = style.source_legend(starts, "node 1: {}")
    if any(axis.get_legend_handles_labels()[1] for axis in axes):
        handles.append(Line2D([], [], color=BLACK, label="stopped", **CROSS))
    style.legend_below(figure, handles)
    return figure


def _epoch_axis(axis: Axes, epochs: int) -> None:
    """Whole epochs; on a logarithmic scale where there are many, as the rungs are."""
    if epochs > 16:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=style.TICKS))


def plot_search(
    curves: np.ndarray,
    first_rung: int = 1,
    pruner: str = "asha",
    eta: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """A search, replayed on recorded curves: a cross where a graph was stopped, pale what
    came. The graph that ends best is thick, and red if it was stopped.

    `curves`: validation accuracy (%) of each graph after every epoch, (graphs, epochs), in the
    order of the search. The rule is that of `rungs.replay`. `ax`: where, by default a figure of its
    own.
    """
    curves = np.asarray(curves, float)
    if ax is None:
        _, ax = plt.subplots(figsize=(0.6 * style.PAGE, 3.0), layout="constrained")
    trained = replay(curves, pruner, eta, first_rung)
    epochs = curves.shape[1]
    best = int(np.nanargmax(curves[:, -1]))
    for i, (curve, end) in enumerate(zip(curves, trained, strict=True)):
        colour = BLACK if end == epochs else TARGET_RED if i == best else GREY
        pale = {"color": TARGET_RED, "lw": 1.2, "zorder": 2.5}
        pale = pale if colour == TARGET_RED else {"color": PALE, "lw": 0.6, "zorder": 1}
        x = np.arange(1, epochs + 1)
        ax.plot(x, curve, **pale)
        look = {"lw": 2.2, "zorder": 2.6} if i == best else {"lw": 0.9}
        ax.plot(x[:end], curve[:end], color=colour, **look)
        if end < epochs:
            ax.plot(end, curve[end - 1], color=colour, zorder=3, **CROSS)
    share = 100 * trained.sum() / curves.size
    fate = "kept" if trained[best] == epochs else "lost"
    words = f"first rung: epoch {first_rung}\n{share:.0f} % of the epochs, the best graph is {fate}"
    ax.set(title=words, xlabel="epoch", ylabel="validation accuracy of node 1 (%)")
    _epoch_axis(ax, epochs)
    return ax


def _draw_lines(
    table: pd.DataFrame, x: str, y: str, hue: str, dotted: Sequence[str] = ()
) -> tuple[Figure, list[Axes], list]:
    """A panel per `condition`, in it a line per `hue` with a band from `low` to `high`, of which
    those `dotted` are outlines; and what stands in a legend."""
    order = in_order(table.condition.unique())
    figure, axes = panels([f"condition ({LETTERS[name]})" for name in order], 2.8, sharey=True)
    greys = dict(zip(table[hue].unique(), GREYS, strict=False))
    lines = {"hue": hue, "style": hue, "palette": greys, "markers": True}
    for axis, name in zip(axes, order, strict=True):
        part = table[table.condition == name]
        sns.lineplot(part, x=x, y=y, ax=axis, errorbar=None, **lines)
        for label, own in part.groupby(hue, sort=False):
            filled = {"fc": greys[label], "alpha": 0.2, "lw": 0}
            outline = {"fc": "none", "ec": greys[label], "ls": ":", "lw": 0.8}
            axis.fill_between(own[x], own.low, own.high, **outline if label in dotted else filled)
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
    return figure, axes, handles


def plot_best_of(table: pd.DataFrame) -> Figure:
    """The winner's curse, from `bench.best_of`: accuracy of the best of n graphs, in the search and
    on other images (%, mean over repeated searches and range of 95 % of them)."""
    others = table.measure.unique()[1:]
    figure, axes, handles = _draw_lines(table, "n", "accuracy", "measure", others)
    for axis, name in zip(axes, in_order(table.condition.unique()), strict=True):
        axis.set(xlabel="graphs searched (log scale)", ylabel="accuracy of the winner (%)")
        axis.set_xscale("log")
        axis.set_xticks(sorted(table.n[table.condition == name].unique()))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    style.legend_below(figure, handles, "bands, grey and dotted: 95 % of the searches")
    return figure


def plot_regret(table: pd.DataFrame) -> Figure:
    """What a search finds for its epochs, by rule, from `bench.regret` with a `condition`: points
    that the best graph found is behind the best recorded one, mean and 95 % interval."""
    figure, axes, handles = _draw_lines(table, "epochs", "regret", "rule")
    for axis in axes:
        axis.set(xlabel="epochs spent", ylabel="behind the best graph (points)")
    axes[0].set_ylim(bottom=0)
    style.legend_below(figure, handles, "bands: 95 % intervals of the mean")
    return figure
