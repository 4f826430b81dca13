"""Figures of the search: its curves, what early stopping kept and lost, the winner's curse."""

from collections.abc import Mapping

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
from ktglite.figures.graphs import LETTERS, condition_label, in_order
from ktglite.figures.style import BLACK, GREY, PALE, TARGET_RED, panels, plain

__all__ = ["plot_best_of", "plot_search", "plot_searches"]

CROSS = {"ls": "none", "marker": "X", "ms": 6.5, "mec": "white", "mew": 0.6}


def plot_searches(summaries: Summaries, live: Summaries | None = None) -> Figure:
    """Every graph of every condition as a line over its epochs, in the colour of node 1's start.

    A cross is where one was stopped. `live`: other searches; graphs that they trained alike, with
    the same settings, images and sources of weights, are thick, with a cross where `live` stopped
    them; the best of them is red if it was stopped.
    """
    order = in_order(summaries)
    tables = [_trial_table(summaries[name], (live or {}).get(name)) for name in order]
    figure, axes = panels([""] * len(order), 2.9, sharey=True)
    for axis, name, table in zip(axes, order, tables, strict=True):
        _draw_trials(axis, table)
        summary = summaries[name]
        label = condition_label(name, summaries).replace(" + ", "\n+ ")
        done = summary["states"].get("COMPLETE", 0)
        axis.set_title(f"{plain(label)}\n{len(summary['trials'])} graphs, {done} to the end")
        split = {"val": "validation"}.get(summary["select_on"], "test")
        axis.set(xlabel="epoch", ylabel=f"{split} accuracy of node 1 (%)")
        axis.label_outer()
    whole = pd.concat(tables)
    starts = dict.fromkeys(start for name in order for start in summaries[name]["choices"])
    handles = style.source_legend(starts, "node 1: {}")
    if whole.stop.notna().any():
        handles.append(Line2D([], [], color=BLACK, label="stopped", **CROSS))
    if whole.lost.any():
        words = "stopped, though it would have been best"
        handles.append(Line2D([], [], color=TARGET_RED, lw=2, label=words))
    style.legend_below(figure, handles)
    return figure


def _trial_table(summary: Mapping, live: Mapping | None) -> pd.DataFrame:
    """A row per trial and epoch: `trial`, `start`, `thick` (also in `live`), `stop` (epoch at which
    it was stopped, else NaN), `lost` (the best of `live`, stopped), `epoch`, `value`."""

    def identity(trial: Mapping) -> str:
        return f"{trial['seed']} {trial['graph']}"

    def end(trial: Mapping) -> float:
        return np.nan if trial["state"] == "COMPLETE" else float(len(trial["values"]))

    # weights from another machine differ in bits only: their names count
    settings = [
        (one["training"], one["data"], one["weights"].keys()) for one in (summary, live) if one
    ]
    alike = live is not None and settings[0] == settings[1]
    stops = {identity(trial): end(trial) for trial in (live["trials"] if alike else ())}
    known = [trial for trial in summary["trials"] if trial["values"]]
    both = [trial for trial in known if identity(trial) in stops]
    best = max(both, key=lambda trial: trial["values"][-1], default=None)
    rows = []
    for i, trial in enumerate(known):
        stop = stops.get(identity(trial), end(trial))
        start = trial["graph"]["nodes"][0]["init"]
        lost = trial is best and not np.isnan(stop)
        for epoch, value in enumerate(trial["values"], 1):
            rows.append((i, start, identity(trial) in stops, stop, lost, epoch, value))
    columns = ["trial", "start", "thick", "stop", "lost", "epoch", "value"]
    return pd.DataFrame(rows, columns=columns)


def _draw_trials(axis: Axes, table: pd.DataFrame) -> None:
    """The graphs of one search, and a cross on those that were stopped."""
    lines = {"x": "epoch", "y": "value", "units": "trial", "estimator": None, "ax": axis}
    crowd = min(1, (30 / max(1, table.trial.nunique())) ** 0.5)
    faint = max(0.25, crowd) * (0.5 if table.thick.any() else 1)
    for (start, thick), part in table[~table.lost].groupby(["start", "thick"]):
        look = {"lw": 2, "alpha": 1} if thick else {"lw": 0.8, "alpha": faint}
        look |= {"color": style.source_colour(start), "rasterized": len(part) > 5000}
        sns.lineplot(part, **look, **lines)
    if table.lost.any():
        sns.lineplot(table[table.lost], color=TARGET_RED, lw=2, **lines)
    for start, part in table[table.epoch == table.stop].groupby("start"):
        axis.plot(part.epoch, part.value, color=style.source_colour(start), **CROSS)
    _epoch_axis(axis, int(table.epoch.max()) if len(table) else 1)


def _epoch_axis(axis: Axes, epochs: int) -> None:
    """Whole epochs; on a logarithmic scale where there are many, as the rungs are."""
    if epochs > 16:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_search(
    curves: np.ndarray,
    first_rung: int = 1,
    pruner: str = "asha",
    eta: int = 2,
    ax: Axes | None = None,
) -> Axes:
    """A search, replayed on recorded curves: a cross where a graph was stopped, pale what
    came. The graph that ends best is thick, and red where it was stopped.

    Args:
        curves: accuracy (%) of each graph after every epoch, (graphs, epochs), in the order of the
            search.
        first_rung: epochs before the first decision; a slider can change it.
        pruner: "asha", "promote" or "none".
        eta: one of so many goes on.
        ax: where (default: a figure of its own).
    """
    curves = np.asarray(curves, float)
    if ax is None:
        _, ax = plt.subplots(figsize=(0.6 * style.PAGE, 3.0), layout="constrained")
    trained = replay(curves, pruner, eta, first_rung)
    epochs = curves.shape[1]
    best = int(curves[:, -1].argmax())
    for i, (curve, end) in enumerate(zip(curves, trained, strict=True)):
        colour = BLACK if end == epochs else TARGET_RED if i == best else GREY
        x = np.arange(1, epochs + 1)
        ax.plot(x, curve, color=TARGET_RED if colour == TARGET_RED else PALE, lw=0.6, zorder=1)
        ax.plot(x[:end], curve[:end], color=colour, lw=2.2 if i == best else 0.9)
        if end < epochs:
            ax.plot(end, curve[end - 1], color=colour, zorder=3, **CROSS)
    share = 100 * trained.sum() / curves.size
    fate = "kept" if trained[best] == epochs else "lost"
    words = f"first rung: epoch {first_rung}\n{share:.0f} % of the epochs, the best graph is {fate}"
    ax.set(title=words, xlabel="epoch", ylabel="accuracy of node 1 (%)")
    _epoch_axis(ax, epochs)
    return ax


def plot_best_of(table: pd.DataFrame) -> Figure:
    """The winner's curse: accuracy of the best of n graphs, in the search and on other images.

    Args:
        table: `bench.best_of`: a panel per `condition`, by `n` (graphs searched) and `measure` the
            `accuracy`, `low`, `high` (%, mean over repeated searches and range of 95 % of them).
    """
    order = in_order(table.condition.unique())
    figure, axes = panels([f"condition ({LETTERS[name]})" for name in order], 2.8, sharey=True)
    names = list(table.measure.unique())
    greys = dict(zip(names, [BLACK, GREY, "#AAAAAA"], strict=False))
    look = {"hue": "measure", "style": "measure", "palette": greys, "markers": True}
    for axis, name in zip(axes, order, strict=True):
        part = table[table.condition == name]
        sns.lineplot(part, x="n", y="accuracy", ax=axis, errorbar=None, **look)
        for measure, own in part.groupby("measure"):
            axis.fill_between(own.n, own.low, own.high, color=greys[measure], alpha=0.12, lw=0)
        axis.set(xlabel="graphs searched", ylabel="accuracy of the winner (%)", xscale="log")
        axis.set_xticks(sorted(part.n.unique()))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
    style.legend_below(figure, handles)
    return figure
