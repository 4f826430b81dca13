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

from ktglite.experiments.rungs import replay
from ktglite.figures import style
from ktglite.figures.graphs import condition_label, in_order
from ktglite.figures.style import BLACK, GREY, PALE, TARGET_RED, in_language, panels, plain

__all__ = ["plot_best_of", "plot_regret", "plot_search", "plot_searches"]

CROSS = {"ls": "none", "marker": "X", "ms": 6.5, "mec": "white", "mew": 0.6}


@in_language
def plot_searches(
    summaries: Mapping[str, Mapping], live: Mapping[str, Mapping] | None = None
) -> Figure:  # fmt: skip
    """Every graph of every condition as a line over its epochs, in the colour of node 1's start.

    A cross is where one was stopped. `live`: other searches; graphs that they trained alike, with
    the same settings, images and sources of weights, are thick, with a cross where `live` stopped
    them; the best of them is red if it was stopped.
    """
    order = in_order(summaries)
    figure, axes = panels([_title(summaries[name]) for name in order], 2.9, 4, sharey=True)
    tables = [_trial_table(summaries[name], (live or {}).get(name)) for name in order]
    for axis, name, table in zip(axes, order, tables, strict=True):
        _search_panel(axis, table)
        split = {"val": "validation"}.get(summaries[name]["select_on"], "test")
        axis.set(xlabel="epoch", ylabel=f"{split} accuracy of node 1 (%)")
        axis.label_outer()
        _epoch_axis(axis, summaries[name]["training"]["epochs"])
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


def _title(summary: Mapping) -> str:
    """Three lines: the condition in two, and how many graphs."""
    name = summary["condition"]
    label = plain(condition_label(name, {name: summary})).replace(" + ", "\n+ ")
    label += "" if "\n" in label else "\n"
    done = summary["states"].get("COMPLETE", 0)
    return f"{label}\n{len(summary['trials'])} graphs, {done} to the end"


def _trial_table(summary: Mapping, live: Mapping | None) -> pd.DataFrame:
    """A row per trial and epoch: `trial`, `start`, `thick` (also in `live`), `stop` (epoch at which
    it was stopped, else NaN), `lost` (the best of `live`, stopped), `epoch`, `value`."""
    stops = {}
    for trial in live["trials"] if live is not None and _alike(summary, live) else ():
        stops[_identity(trial)] = _stop(trial)
    known = [trial for trial in summary["trials"] if trial["values"]]
    both = [trial for trial in known if _identity(trial) in stops]
    best = max(both, key=lambda trial: trial["values"][-1], default=None)
    rows = []
    for i, trial in enumerate(known):
        stop = stops.get(_identity(trial), _stop(trial))
        start = trial["graph"]["nodes"][0]["init"]
        lost = trial is best and not np.isnan(stop)
        for epoch, value in enumerate(trial["values"], 1):
            rows.append((i, start, _identity(trial) in stops, stop, lost, epoch, value))
    columns = ["trial", "start", "thick", "stop", "lost", "epoch", "value"]
    return pd.DataFrame(rows, columns=columns)


def _identity(trial: Mapping) -> str:
    return f"{trial['seed']} {trial['graph']}"


def _stop(trial: Mapping) -> float:
    """The epoch at which a trial was stopped or diverged; NaN for one trained to its end."""
    return np.nan if trial["state"] == "COMPLETE" else float(len(trial["values"]))


def _alike(summary: Mapping, live: Mapping) -> bool:
    """Whether two searches train alike; weights from another machine differ in bits only."""
    same = all(summary[what] == live[what] for what in ("training", "data"))
    return same and summary["weights"].keys() == live["weights"].keys()


def _search_panel(axis: Axes, table: pd.DataFrame) -> None:
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


def _epoch_axis(axis: Axes, epochs: int) -> None:
    """Whole epochs; on a logarithmic scale where there are many, as the rungs are."""
    if epochs > 16:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


@in_language
def plot_search(
    curves: np.ndarray, first_rung: int = 1, pruner: str = "asha", eta: int = 2,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """A search replayed on recorded curves: a cross where a graph was stopped, pale what came.

    The graph that ends best is thick, and red where it was stopped.

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
        width = 2.2 if i == best else 0.9
        x = np.arange(1, epochs + 1)
        ax.plot(x, curve, color=TARGET_RED if colour == TARGET_RED else PALE, lw=0.6, zorder=1)
        ax.plot(x[:end], curve[:end], color=colour, lw=width)
        if end < epochs:
            ax.plot(end, curve[end - 1], color=colour, zorder=3, **CROSS)
    share = 100 * trained.sum() / curves.size
    fate = "kept" if trained[best] == epochs else "lost"
    words = f"first rung: epoch {first_rung}\n{share:.0f} % of the epochs, the best graph is {fate}"
    ax.set(title=words, xlabel="epoch", ylabel="accuracy of node 1 (%)")
    _epoch_axis(ax, epochs)
    return ax


@in_language
def plot_regret(table: pd.DataFrame) -> Figure:
    """How far the graph that a search found is below the best, against the epochs it spent.

    Args:
        table: `bench.regret`: `rule` ("asha", "promote", ..), `epochs` (spent), `regret`, `low`,
            `high` (points, mean over repeated searches with 95 % interval), and, for several
            panels, `condition`.
    """
    return _lines(table, ("epochs", "epochs spent"), ("regret", "below the best (points)"), "rule")


@in_language
def plot_best_of(table: pd.DataFrame) -> Figure:
    """The winner's curse: accuracy of the best of n graphs, in the search and with new seeds.

    Args:
        table: `bench.best_of`: `n` (graphs searched), `measure` ("in the search", "new seeds"),
            `accuracy`, `low`, `high` (%, mean over repeated searches and range of 95 % of them),
            and, for several panels, `condition`.
    """
    names = ("n", "graphs searched"), ("accuracy", "accuracy of the winner (%)")
    return _lines(table, *names, "measure")


def _lines(
    table: pd.DataFrame, x: tuple[str, str], y: tuple[str, str], series: str
) -> Figure:  # fmt: skip
    """Lines with bands from `low` to `high`, told apart by markers and dashes; `x`, `y`: columns
    and what they are."""
    parts = {"": table}
    if "condition" in table:
        parts = dict(list(table.groupby("condition", sort=False)))
    figure, axes = panels(map(plain, parts), 2.8, max(2, len(parts)), sharey=True)
    names = list(dict.fromkeys(table[series]))
    greys = dict(zip(names, sns.color_palette("blend:#000000,#999999", len(names)), strict=True))
    look = {"hue": series, "style": series, "palette": greys, "markers": True, "errorbar": None}
    for axis, part in zip(axes, parts.values(), strict=True):
        sns.lineplot(part, x=x[0], y=y[0], ax=axis, hue_order=names, style_order=names, **look)
        for name, own in part.groupby(series):
            axis.fill_between(own[x[0]], own.low, own.high, color=greys[name], alpha=0.12, lw=0)
        axis.set(xlabel=x[1], ylabel=y[1], xscale="log")
        axis.set_xticks(sorted(part[x[0]].unique()))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        handles = axis.get_legend_handles_labels()[0]
        axis.get_legend().remove()
    style.legend_below(figure, handles)
    return figure
