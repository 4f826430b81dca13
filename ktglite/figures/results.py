"""Every figure of results: functions that take records, summaries or tables and return a matplotlib
Figure or Axes.

Nothing is computed here that a table would need; means, intervals and contrasts come from
`experiments`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ktglite.experiments import ablation, claims, stats
from ktglite.figures.graphs import _gate_style, condition_label, in_order, whose
from ktglite.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    ORANGE,
    PAGE,
    PINK,
    RED,
    SKY,
    TARGET_RED,
)
from ktglite.graph import Graph
from ktglite.models import title

__all__ = [
    "plot_early_rungs", "plot_filters", "plot_forest", "plot_images", "plot_learning_curves", "plot_luck",
    "plot_main_effects", "plot_optimism", "plot_pretraining", "plot_pruners", "plot_searches",
    "plot_table1", "plot_training",
]  # fmt: skip

COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
VERDICT_COLOURS = {"supported": BLUE, "contradicted": RED, "not resolved at this n": "#777777"}


# ---- claims and Table 1


_CLAIMS = {
    "C0": "C0 graph less one alone,",
    "C1": "C1 node 1,",
    "C2": "C2 each auxiliary,",
    "C3": "C3 all nodes,",
}


def plot_forest(frame: pd.DataFrame) -> Figure:
    """The primary contrasts with 95 % intervals, from `claims.forest`: a panel per set of records,
    a row per claim.

    Blue is supported, orange contradicted, grey not resolved, hollow a single run. A panel that has
    something else in the row of ImageNet-1k says so in its title; wider intervals end at its edge.
    """
    frame = frame[frame.effect.notna()].assign(
        row=lambda known: known.claim + " " + known.source.map(_short)
    )
    rows = sorted(
        frame.row.unique(), key=lambda row: (row.startswith("C0"), row[:2])
    )  # the paper's claims first
    sets = list(dict.fromkeys(frame["set"]))
    size = PAGE, 1.2 + 0.19 * len(rows)
    figure, axes = plt.subplots(
        1, len(sets), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], sets, strict=True):
        part = frame[frame["set"] == name]
        for row in part.itertuples():
            y, colour = rows.index(row.row), VERDICT_COLOURS.get(row.verdict, BLACK)
            axis.plot([row.low, row.high], [y, y], color=colour, lw=1.4)
            axis.plot(
                row.effect,
                y,
                marker="D",
                ms=4,
                color=colour,
                fillstyle="full" if row.n > 1 else "none",
            )
            axis.text(
                1.01,
                y,
                f"{row.n:.0f}",
                transform=axis.get_yaxis_transform(),
                va="center",
                fontsize=6.5,
            )
        axis.text(
            1.01, -0.7, "n", transform=axis.get_yaxis_transform(), style="italic", fontsize=6.5
        )
        axis.tick_params(axis="y", length=0)
        low, high = min(0, part.effect.min()), max(0, part.effect.max())
        room = 0.25 * (high - low) or 1
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set_title(f"{name}\n{_instead(part.source)}", fontsize=7.5)
        axis.set(xlabel="points", xlim=(low - room, high + room))
    labels = [
        _CLAIMS.get(row[:2], row[:2]) + row[2:] if "search" not in row else row for row in rows
    ]
    axes[0, 0].set_yticks(range(len(rows)), labels, fontsize=6.5)
    axes[0, 0].set_ylim(len(rows) - 0.4, -0.6)
    handles = [
        Line2D([], [], color=c, marker="D", ms=4, label=word) for word, c in VERDICT_COLOURS.items()
    ]
    if (frame.n == 1).any():
        handles.append(
            Line2D(
                [],
                [],
                color=BLACK,
                ls="",
                marker="D",
                ms=4,
                fillstyle="none",
                label="one run, no interval",
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _instead(sources: Iterable[str]) -> str:
    """What these records have where the paper has ImageNet-1k, if it is something else."""
    names = [
        what
        for what in ("stand-in", "quantised weights")
        if any(what in source for source in sources)
    ]
    return f"(ImageNet: {', '.join(names)})" if names else ""


def _short(source: str) -> str:
    """A source's title in the room of a row; what stands for ImageNet-1k is in the row of ImageNet-1k."""
    words = {
        "searched: ": "search, ",
        "ImageNet-1k": "ImageNet",
        "FractalDB-1k": "FractalDB",
        " stand-in": "",
    }
    words |= {
        "ImageNet + FractalDB": "mixed",
        " (quantised weights)": "",
        "no pre-training": "scratch",
    }
    for long, short in words.items():
        source = source.replace(long, short)
    return source


def _marks(pattern: str, n: int) -> str:
    """A row's name as in the table: "✓ – ✓"."""
    return " ".join("✓" if str(i + 1) in pattern.split("+") else "–" for i in range(n))


def _forest(ax: Axes, table: pd.DataFrame, order: Sequence[str]) -> None:
    """A point per run on the line of its `row`, and below it the mean with its 95 % interval."""
    sns.stripplot(
        table, x="accuracy", y="row", order=order, ax=ax, color=SKY, size=4, jitter=False, alpha=0.8
    )
    found = [stats.summary(table.accuracy[table.row == row]) for row in order]
    mean, low, high = (np.array([f[key] for f in found]) for key in ("mean", "low", "high"))
    shape = dict(fmt="D", color=BLUE, ms=3.5, lw=1.3)
    ax.errorbar(
        mean, np.arange(len(order)) + 0.25, xerr=np.nan_to_num([mean - low, high - mean]), **shape
    )
    ax.set_ylim(len(order) - 0.4, -0.6)


def _forest_legend(seeds: str = "one seed") -> list[Line2D]:
    """Legend entries of `forest`."""
    point = Line2D([], [], color=SKY, ls="none", marker="o", ms=4, label=seeds)
    return [point, Line2D([], [], color=BLUE, marker="D", ms=3.5, label="mean, 95 % interval")]


def plot_table1(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """A point per run, mean and 95 % interval per pattern; the paper's mean ± std beside.

    Every panel has a scale of its own: compare rows, not panels.
    """
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    order = [_marks(pattern, n) for pattern in ablation.patterns(n)]
    table = ablation.tidy(records, sources)
    table["row"] = [_marks(pattern, n) for pattern in table["pattern"]]
    paper = ablation.paper_arms(sources, n)
    ratios = [3] * len(sources) + [2] * len({source for source, _ in paper})
    size = PAGE, max(3.6, 1.2 + 0.3 * len(order))
    figure, axes = plt.subplots(
        1,
        len(ratios),
        figsize=size,
        sharey=True,
        squeeze=False,
        width_ratios=ratios,
        layout="constrained",
    )
    ours, theirs = axes[0, : len(sources)], axes[0, len(sources) :]
    for source, axis in zip(sources, ours, strict=True):
        part = table[table.source == source]
        _forest(axis, part, order)
        runs = sorted(set(part.groupby("pattern").size()))
        seeds = f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else runs[0]
        axis.set(title=f"{title(source)}\nthis run, n = {seeds}", xlabel="accuracy of node 1 (%)")
        axis.set_ylabel(f"pre-trained: nodes {' '.join(str(i + 1) for i in range(n))}")
    published = [source for source in sources if (source, "none") in paper]
    for source, axis in zip(published, theirs, strict=True):
        arms = [paper[source, pattern] for pattern in ablation.patterns(n)]
        axis.errorbar(
            [a.mean for a in arms],
            order,
            xerr=[a.std for a in arms],
            fmt="s",
            color=BLACK,
            ms=3.5,
            lw=1.3,
        )
        name = title(ablation.paper_source(source))
        axis.set(title=f"paper,\n{name}, n = 3", xlabel="accuracy (%)")
    handles = _forest_legend()
    if paper:
        handles.append(Line2D([], [], color=BLACK, marker="s", ms=3.5, label="paper: mean ± std"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
    )
    return figure


def plot_learning_curves(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> Figure:
    """Validation accuracy of node 1 after every epoch, mean and range over seeds: four patterns in
    a panel.

    A row per source; on the left node 1 starts from scratch, on the right pre-trained. Colour and
    marker tell which auxiliaries are pre-trained; the two panels of a source share their scale.
    """
    sources, n = list(sources or ablation.sources_of(records)), ablation.count_nodes(records)
    half = 2 ** (n - 1)
    size = PAGE, 0.6 + 1.9 * len(sources)
    figure, axes = plt.subplots(
        len(sources), 2, figsize=size, sharey="row", squeeze=False, layout="constrained"
    )
    handles = []
    for line, source in zip(axes, sources, strict=True):
        for axis, names in zip(
            line, (ablation.patterns(n)[:half], ablation.patterns(n)[half:]), strict=True
        ):
            handles = [
                _curve(axis, records, source, pattern, i, n) for i, pattern in enumerate(names)
            ]
            start = "scratch" if axis is line[0] else "pre-trained"
            axis.set_title(f"{title(source)}: node 1 {start}", fontsize=8)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        line[0].set_ylabel("validation (%)")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    others = " ".join(str(i + 1) for i in range(1, n))
    head = Line2D([], [], ls="none", label=f"pre-trained nodes {others}:")
    figure.legend(
        handles=[head, *filter(None, handles)], ncols=half + 1, loc="outside lower center"
    )
    return figure


def _curve(
    axis: Axes, records: Sequence[Mapping], source: str, pattern: str, i: int, n: int
) -> Line2D | None:
    """One pattern's curve: the mean of its seeds, their range as a band. None where there are no runs."""
    label = pattern if pattern == "none" else f"{source}/{pattern}"
    runs = [[e["val_accuracy"][0] for e in r["epochs"]] for r in records if r["label"] == label]
    if not runs:
        return None
    values, colour = np.array(runs), (BLACK, ORANGE, SKY, BLUE, GREEN, RED, PINK, "#888888")[i % 8]
    x = np.arange(1, values.shape[1] + 1)
    axis.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.12, lw=0)
    (line,) = axis.plot(x, values.mean(0), color=colour, marker="os^vDPX*"[i % 8], ms=3, lw=1.2)
    line.set_label(_marks(pattern, n)[2:])
    return line


def plot_main_effects(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """What pre-training node 1, 2 or 3 adds on average over the states of the others, with 95 %
    intervals.

    A panel per source and origin, each on its own scale. Nodes 2 and 3 must be equal by design. The
    panel of a run that lacks rows of Table 1 is empty: a main effect is a mean over all of them.
    """
    table = claims.exploratory(records, sources)
    table = table[
        table.contrast.str.startswith("main effect")
        & (table.effect.notna() | (table["from"] == "this run"))
    ]
    panels = list(table.groupby(["from", "source"], sort=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PAGE, 2.3), squeeze=False, layout="constrained"
    )
    for axis, ((origin, source), part) in zip(axes[0], panels, strict=True):
        error = [part.effect - part.low, part.high - part.effect]
        axis.errorbar(
            part.contrast.str[-1],
            part.effect,
            yerr=error,
            fmt="o",
            color=BLUE if origin != "paper" else BLACK,
        )
        axis.axhline(0, color=BLACK, lw=0.8)
        name = ablation.stands_for(source) if origin == "paper" else source
        axis.set_title(f"{origin}\n{name}", fontsize=7.5)
        axis.set(xlabel="pre-trained node", xlim=(-0.5, len(part) - 0.5))
    axes[0, 0].set_ylabel("effect on node 1 (points)")
    return figure


def plot_sources(records: Sequence[Mapping]) -> Figure:
    """What each start adds to a network alone, over random numbers, paired by seed, with 95 %
    intervals.

    `records`: {"source", "data", "lr", "scratch": {seed: %}, "start": {seed: %}}, as in
    data/reference_runs/sources.json; a panel per data set, on its own scale.
    """
    panels = list(dict.fromkeys(record["data"] for record in records))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PAGE, 2.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, data in zip(axes[0], panels, strict=True):
        for record in (record for record in records if record["data"] == data):
            gain = stats.pair(record["start"], record["scratch"])
            error = [[gain["effect"] - gain["low"]], [gain["high"] - gain["effect"]]]
            axis.errorbar(
                gain["effect"], title(record["source"]), xerr=error, fmt="o", color=BLUE, capsize=3
            )
            place = 1, title(record["source"])
            axis.annotate(
                f"n = {gain['n']}",
                place,
                xycoords=("axes fraction", "data"),
                fontsize=7,
                va="center",
            )
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set(title=data, xlabel="gain over scratch (points)")
    axes[0, 0].invert_yaxis()
    return figure


# ---- the search


def plot_searches(
    summaries: Mapping[str, Mapping], live: Mapping[str, Mapping] | None = None
) -> Figure:
    """Every graph of every condition as a line over its epochs, coloured by what node 1 starts
    from.

    A graph that was stopped ends in a dot, one that diverged in a cross. Epochs are on a
    logarithmic scale where there are many, as the rungs are.  `live`: other searches; graphs that
    they trained alike, with the same settings, images and sources of weights, are drawn thick.
    """
    order = in_order(summaries)
    starts = list(dict.fromkeys(choice for name in order for choice in summaries[name]["choices"]))
    colours = dict(zip(starts, (BLACK, ORANGE, SKY, GREEN, PINK), strict=False))
    size = (PAGE, 2.8)
    figure, axes = plt.subplots(
        1, len(order), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], order, strict=True):
        _search_panel(
            axis, summaries[name], colours, _also_in(summaries[name], (live or {}).get(name))
        )
        axis.label_outer()
    handles = [
        Line2D([], [], color=c, lw=1.6, label=f"node 1: {title(start)}")
        for start, c in colours.items()
    ]
    if any(trial["state"] == "PRUNED" for name in order for trial in summaries[name]["trials"]):
        handles.append(Line2D([], [], color=BLACK, ls="none", marker="o", ms=3, label="stopped"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _also_in(summary: Mapping, live: Mapping | None) -> list[Mapping]:
    """The graphs of a search that another one trained alike; weights learned on another machine differ in bits only."""
    if live is None or any(summary[what] != live[what] for what in ("training", "data")):
        return []
    if summary["weights"].keys() != live["weights"].keys():
        return []
    known = [(trial["seed"], trial["graph"]) for trial in live["trials"]]
    return [trial for trial in summary["trials"] if (trial["seed"], trial["graph"]) in known]


def _search_panel(
    axis: Axes, summary: Mapping, colours: Mapping[str, str], thick: Sequence[Mapping] = ()
) -> None:
    """The graphs of one search."""
    trials = [trial for trial in summary["trials"] if trial["values"]]
    crowd = min(1, (30 / max(1, len(trials))) ** 0.5)
    for start, colour in colours.items():
        own = [trial for trial in trials if trial["graph"]["nodes"][0]["init"] == start]
        lines = [np.column_stack([np.arange(1, len(t["values"]) + 1), t["values"]]) for t in own]
        faint = max(0.25, crowd) * (0.5 if thick else 1)
        widths, shades = (
            [2 if t in thick else 0.8 for t in own],
            [(colour, 1 if t in thick else faint) for t in own],
        )
        axis.add_collection(
            LineCollection(lines, colors=shades or colour, lw=widths, rasterized=len(own) > 300)
        )
        for state, marker in (("PRUNED", "o"), ("FAIL", "x")):
            ends = [(len(t["values"]), t["values"][-1]) for t in own if t["state"] == state]
            if ends:
                axis.plot(
                    *zip(*ends, strict=True),
                    ls="none",
                    marker=marker,
                    ms=2.5,
                    color=colour,
                    alpha=max(0.4, crowd),
                )
    done, name = summary["states"].get("COMPLETE", 0), summary["condition"]
    label = condition_label(name, {name: summary}).replace(" + ", "\n+ ")
    axis.set_title(f"{label}\n{len(summary['trials'])} graphs, {done} to the end", fontsize=7.5)
    axis.set(xlabel="epoch", ylabel=f"{summary['select_on']} accuracy of {whose(summary)} (%)")
    axis.autoscale_view()
    if summary["training"]["epochs"] > 16:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _panels(names: Iterable[str], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per condition, in rows of two, each `height` inches high."""
    names = [name.replace(" + ", "\n+ ") for name in names]
    rows, columns = math.ceil(len(names) / 2), min(2, len(names))
    size = PAGE * columns / 2, height * rows
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name)
    return figure, list(axes.flat[: len(names)])


def plot_pruners(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """From `rungs.pruner_table`, by condition: the chance to keep the best graph against the epochs
    spent.

    A line per pruner, a point per first rung (the number beside it); bars are 95 % intervals over
    random orders.
    """
    figure, axes = _panels(tables, 2.4)
    for axis, table in zip(axes, tables.values(), strict=True):
        for (pruner, part), colour, marker in zip(
            table.groupby("pruner"), (RED, BLUE), "so", strict=False
        ):
            error = [part.best_kept - part.low, part.high - part.best_kept]
            axis.errorbar(
                part.epochs,
                part.best_kept,
                yerr=error,
                color=colour,
                marker=marker,
                ms=4,
                lw=1.2,
                label=pruner,
            )
            for row in part.itertuples():
                beside = (
                    -8 if pruner == "asha" else 5,
                    -9,
                )  # points that lie together keep their numbers apart
                axis.annotate(
                    row.first_rung,
                    (row.epochs, row.best_kept),
                    beside,
                    textcoords="offset points",
                    fontsize=7,
                )
        axis.set(
            xlabel="epochs spent (% of all)", ylabel="best graph kept (% of orders)", ylim=(0, 104)
        )
        axis.label_outer()
    axes[0].legend(fontsize=7, loc="lower right")
    return figure


def plot_early_rungs(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """From `search.early_rungs`, by condition: the chance to pass a first rung beside the share
    that deserves it (a dashed line), by what the target starts from. Bars are 95 % intervals over
    graphs.
    """
    figure, axes = _panels(tables, 3.1)
    for axis, table in zip(axes, tables.values(), strict=True):
        for i, (init, rows) in enumerate(table.groupby("target", sort=False)):
            color = [BLUE, RED, GREEN, PINK][i % 4]
            error = [rows["passed"] - rows["low"], rows["high"] - rows["passed"]]
            label = f"node 1: {title(init)} (n = {rows['n'].iloc[0]})"
            axis.errorbar(
                np.arange(len(rows)) + 0.1 * i,
                rows["passed"],
                yerr=error,
                fmt="os^v"[i % 4],
                color=color,
                label=label,
            )
            axis.axhline(
                rows["deserved"].iloc[0], color=color, linestyle="--", linewidth=1, zorder=0
            )
        first = table["rung"].unique()
        axis.set_xticks(range(len(first)), [f"epoch {rung}" for rung in first])
        axis.set(xlabel="first rung", ylim=(-3, 103), xlim=(-0.4, len(first) - 0.4))
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0].set_ylabel("graphs that pass (%)\ndashed: that end in the better half")
    return figure


def plot_optimism(summaries: Mapping[str, Mapping]) -> Figure:
    """How much each search promised too much: its best value, less that of the same graph with
    fresh seeds, in points.

    Both are on the split of the selection, so that the difference is the luck of the selection and
    nothing else. Intervals that are far wider than the runs scatter are cut at the frame.
    """
    order = [name for name in in_order(summaries) if summaries[name]["selection_value"] is not None]
    figure, axis = plt.subplots(
        figsize=(COLUMN * 1.3, 0.9 + 0.4 * len(order)), layout="constrained"
    )
    reach = [0.0]
    for y, name in enumerate(order):
        summary = summaries[name]
        top = next((entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None)
        if top is not None:
            gaps = [
                summary["selection_value"] - value
                for value in top[f"{summary['select_on']}_accuracy"]
            ]
            found, reach = stats.summary(gaps), [*reach, *gaps]
            axis.plot(gaps, [y] * len(gaps), ls="none", marker="o", ms=3.5, color=SKY)
            axis.plot([found["low"], found["high"]], [y + 0.2] * 2, color=BLUE, lw=1.3)
            axis.plot(found["mean"], y + 0.2, marker="D", ms=3.5, color=BLUE)
    axis.axvline(0, color=BLACK, lw=0.8)
    axis.set_yticks(
        range(len(order)), [condition_label(name, summaries) for name in order], fontsize=7
    )
    room = 0.15 * (max(reach) - min(reach)) + 2
    axis.set(xlim=(min(reach) - room, max(reach) + room), ylim=(len(order) - 0.4, -0.6))
    axis.set_xlabel("best value in the search − fresh seed (points)", fontsize=7)
    figure.legend(
        handles=_forest_legend("fresh seed"), loc="outside lower center", ncols=2, fontsize=7
    )
    return figure


def plot_luck(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """From `claims.search_luck`, a row per search: test accuracy of the winner in resampled searches, by the point."""
    size = COLUMN * 1.5, 0.6 + 0.75 * len(tables)
    figure, axes = plt.subplots(
        len(tables), 1, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    every = np.concatenate([table["test"] for table in tables.values()])
    bins = np.arange(np.floor(every.min()), np.ceil(every.max()) + 1)
    for axis, (name, table), colour in zip(axes.flat, tables.items(), COLOURS, strict=False):
        axis.hist(table["test"], bins, weights=np.full(len(table), 100 / len(table)), color=colour)
        axis.set_title(name, loc="left", fontsize=7, pad=2)
    figure.supylabel("repeated searches (%)", fontsize=8)
    axes[-1, 0].set_xlabel("test accuracy of the winner (%)")
    return figure


def plot_training(graph: Graph, records: Sequence[Mapping], epochs: int | None = None) -> Figure:
    """One training, epoch by epoch: validation accuracy of every node, and the mean gated loss on
    every open edge.

    - `records`: from `epochs(graph, ..)`, at least one.  `epochs`: how many there will be, for the
      axis.
    """
    figure = Figure(
        figsize=(PAGE * 1.3, 3.4), layout="constrained"
    )  # no pyplot: may be drawn in a kernel's thread
    axes = figure.subplots(1, 3)
    colours, marks, done = (
        [TARGET_RED, BLUE, ORANGE, GREEN, PINK, BLACK],
        "os^vDP",
        [r["epoch"] for r in records],
    )
    for t in sorted(graph.reaching_target()):
        shape = dict(color=colours[t % 6], ms=4, lw=1.3)
        values = [record["val_accuracy"][t] for record in records]
        axes[0].plot(done, values, marker=marks[t % 6], label=f"node {t + 1}", **shape)
        for s in graph.sources(t):
            gate, line = graph.gates[t][s], _gate_style(graph.gates[t][s])[1]
            values = [record["edge_loss"][t][s] for record in records]
            label = f"{'label' if s == t else s + 1} → {t + 1} ({gate})"
            axes[1 if s == t else 2].plot(
                done, values, ls=line, marker=marks[s % 6], label=label, **shape
            )
    panels = {
        "accuracy": "validation (%)",
        "label edges": "mean gated loss",
        "edges between nodes": "mean gated loss",
    }
    for axis, (name, ylabel) in zip(axes, panels.items(), strict=True):
        axis.set(
            title=name,
            xlabel="epoch",
            ylabel=ylabel,
            xlim=(0.8, max(epochs or 0, done[-1], 2) + 0.2),
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if not axis.lines:
            axis.text(
                0.5, 0.5, "no open edge", ha="center", color="#777777", transform=axis.transAxes
            )
        else:
            axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.lines) or 1)
            axis.legend(
                frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22)
            )
    return figure


# ---- gates, images, pre-training


def plot_images(images, labels: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """A contact sheet of uint8 images, (n, 3, S, S) or (n, S, S, 3), with a label under each if given."""
    images = np.asarray(images)
    images = images if images.shape[-1] == 3 else np.moveaxis(images, 1, 3)
    rows, side = math.ceil(len(images) / columns), PAGE / columns
    size = side * columns, (side + 0.16 * (labels is not None)) * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, hspace=0.01, wspace=0.01)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest")
            if labels is not None:
                axis.set_title(labels[i], fontsize=6.5, pad=1.5)
    return figure


def plot_pretraining(card: Mapping, ax: Axes | None = None) -> Axes:
    """Training accuracy over the images seen, from a model card; the loss, where it was kept, on the right."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    curve = pd.DataFrame(card["curve"])
    seen = curve["images"].cumsum() / 1000
    ax.plot(seen, curve["accuracy"], marker="o", ms=3, color=BLUE, label="accuracy")
    ax.axhline(100 / card["classes"], color=BLACK, lw=0.8, ls=":", label="guessing")
    ax.set(
        title=title(card["source"]),
        xlabel="images seen (thousands)",
        ylabel="training accuracy (%)",
    )
    handles = ax.get_legend_handles_labels()[0]
    if "loss" in curve:
        right = ax.twinx()
        handles += right.plot(
            seen, curve["loss"], marker="s", ms=3, color=RED, ls="--", label="loss (right)"
        )
        right.set(ylabel="training loss", ylim=(0, 1.05 * curve["loss"].max()))
        right.grid(False)
        right.spines["right"].set_visible(True)
    ax.legend(
        handles=handles,
        frameon=False,
        fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=3,
    )
    return ax


def plot_filters(weight, ax: Axes | None = None) -> Axes:
    """The filters of a first layer, (O, 3, k, k), as colour pictures, each scaled to its own range."""
    weight = np.asarray(weight, float)
    columns = math.ceil(len(weight) ** 0.5)
    low, high = (f(weight, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    tiles = np.moveaxis((weight - low) / np.maximum(high - low, 1e-12), 1, 3)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 1), (0, 1), (0, 0)), constant_values=1)
    sheet = np.concatenate(
        [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0
    )
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, COLUMN), layout="constrained")
    ax.imshow(sheet)
    ax.axis("off")
    return ax
