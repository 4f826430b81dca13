"""Every figure: functions that take graphs, records or summaries and return a matplotlib Figure or Axes.

One style, safe for colour-blind readers: what a colour says, a line style or a letter says too. Nothing is computed
here that a table would need; means, intervals and contrasts come from `stats` and `ablation`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator

from ktglite import ablation, japanese, stats
from ktglite.gates import GATES
from ktglite.graph import Graph, Node
from ktglite.models import SOURCES

# Okabe and Ito's palette, told apart by readers of every kind of colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GATE_STYLES = {
    "through": (BLUE, "-", "T"),
    "linear": (GREEN, "--", "L"),
    "correct": (RED, ":", "C"),
    "cutoff": ("#999999", (0, (1, 3)), "×"),
}
INIT_COLOURS = {
    "scratch": "#FFFFFF",
    "imagenet1k": "#F6CF7E",
    "imagenet1k_standin": "#F3DDB3",
    "fractaldb1k": "#A9D8F2",
}
PREFIXES = {"scratch": "", "imagenet1k": "PI", "fractaldb1k": "PF", "imagenet1k_standin": "SI"}
TARGET_RED = "#D00000"
CONDITIONS = ("none", "imagenet1k", "fractaldb1k", "mixed")  # (a) to (d)
COLUMN, PAGE = 3.4, 7.0  # inches: one column and two of a paper


def use_style() -> None:
    """The style of all figures; fonts are embedded as fonts, so that text in a PDF can be searched and edited."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    plt.rcParams |= {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "ktglite", "figure.dpi": 110}
    plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}


# ---- graphs


def node_name(node: Node) -> str:
    """The paper's short names: RN18, PIRN18 (ImageNet-1k), PFRN18 (FractalDB-1k); SIRN18 for the stand-in."""
    arch = node.arch.split("_")[0].replace("resnet", "RN")
    return PREFIXES.get(node.init, "P") + arch


def draw_graph(
    graph: Graph,
    ax: Axes | None = None,
    title: str = "",
    accuracy: float | None = None,
    legend: bool = False,
    show_cutoff: bool = False,
) -> Axes:
    """A graph with its target circled in red, and an arrow for every open edge: T Through, L Linear, C Correct.

    Cut edges are absent, or faint with `show_cutoff`; a node that cannot influence the target is dimmed; small grey
    numbers count the nodes. `accuracy` (%) is written at node 1. Readable up to six nodes.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, COLUMN), layout="constrained")
    n, heard = graph.size, graph.reaching_target()
    radius = 0.36 if n < 4 else 0.45 * math.sin(math.pi / n)
    angles = math.pi / 2 - 2 * math.pi * np.arange(n) / n
    outward = np.array([np.cos(angles), np.sin(angles)]).T
    centres = outward * (n > 1)
    labels = centres + outward * (radius + 0.56)
    reach = np.array([*labels, *(centres - radius), *(centres + radius), *([(-1.1, -0.6), (1.1, 0)] if n == 1 else [])])
    margin = np.array([0.22, 0.08])  # for the word "label"
    low, high = reach.min(0) - margin, reach.max(0) + margin
    font = font_size(ax, radius / (high - low).max())
    ax.set_title(title)
    ax.axis("off")
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", anchor="N")  # N: titles stay on one line

    circles = []
    for i, node in enumerate(graph.nodes):
        rim = dict(ec=TARGET_RED, lw=0.32 * font) if i == 0 else dict(ec="#444444", lw=1)
        shape = Circle(centres[i], radius, fc=INIT_COLOURS.get(node.init, "#DDD0EA"), zorder=3, **rim)
        circles.append(ax.add_patch(shape))
        shape.set_alpha(1 if i in heard else 0.35)
        text = node_name(node) + (f"\n{accuracy:.1f} %" if i == 0 and accuracy is not None else "")
        lines = text.split("\n")
        small = min(1, 6 / max(map(len, lines))) * (1 if len(lines) == 1 else 0.85)  # two lines reach nearer to the rim
        ax.text(*centres[i], text, ha="center", va="center", fontsize=font * small, zorder=5)
        aside = centres[i] + (radius + 0.13) * np.array([outward[i] @ [c, d] for c, d in ((0.77, 0.64), (-0.64, 0.77))])
        ax.text(*aside, i + 1, ha="center", va="center", fontsize=min(8, 0.9 * font), color="#777777")
    for t, row in enumerate(graph.gates):
        for s, gate in enumerate(row):
            if gate != "cutoff" or show_cutoff:
                alpha = 0.35 if gate == "cutoff" or t not in heard else 1
                ends = (None if s == t else circles[s], circles[t])
                draw_edge(ax, labels[t] if s == t else centres[s], centres[t], ends, gate, alpha, font, n)
        if row[t] != "cutoff" or show_cutoff:
            mark = dict(fontsize=min(8, font), color="#555555", bbox=dict(fc="white", ec="none", pad=1.5))
            ax.text(*labels[t], "label", ha="center", va="center", **mark)
    if legend:
        handles = gate_legend(show_cutoff) + init_legend([graph])
        ax.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)
    return ax


def font_size(ax: Axes, share: float) -> float:
    """A size for six characters in a circle whose radius is this share of the panel; never above 9 points."""
    figure, spec = ax.get_figure(root=True), ax.get_subplotspec()
    rows, columns = spec.get_gridspec().get_geometry() if spec else (1, 1)
    side = min(figure.get_figwidth() / columns, 0.85 * figure.get_figheight() / rows)  # 0.85: there may be a title
    return min(9, 72 * side * 2 * share / 4.8)


def draw_edge(ax: Axes, start, end, ends: tuple, gate: str, alpha: float, font: float, n: int) -> None:
    """One arrow in the style of its gate, with the gate's letter: on a curve, or beside a short label edge.

    `ends` are the circles that it leaves and meets, None for a label.
    """
    colour, line, letter = gate_style(gate)
    of_label, (dx, dy) = ends[0] is None, end - start
    bend = 0 if of_label else 0.16  # both directions are seen
    shape = dict(posA=start, posB=end, patchA=ends[0], patchB=ends[1], shrinkA=0, alpha=alpha)
    shape |= dict(connectionstyle=f"arc3,rad={bend}", zorder=2)
    # line and head apart: dashes would fray the head
    ax.add_artist(FancyArrowPatch(**shape, arrowstyle="-", ls=line, lw=1.6 if n < 5 else 1.1, ec=colour, shrinkB=4))
    head = dict(arrowstyle="-|>", mutation_scale=1.4 * font, shrinkB=1)
    ax.add_artist(FancyArrowPatch(**shape, **head, fc=colour, ec=colour, lw=0))
    words = dict(color=colour, fontsize=0.95 * font, fontweight="bold", alpha=alpha, ha="center", va="center")
    if of_label:
        aside = 0.85 * font * np.array([-dy, dx]) / math.hypot(dx, dy)
        ax.annotate(letter, start + 0.35 * (end - start), aside, textcoords="offset points", **words)
    else:
        hidden = ends[0].radius / math.hypot(dx, dy)
        t = hidden + (0.45 if n < 4 else 0.3) * (1 - 2 * hidden)  # off the middle, where edges cross, and off the head
        middle = (start + end) / 2 + bend * np.array([dy, -dx])  # the control point of "arc3"
        where = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        ax.text(*where, letter, zorder=4, bbox=dict(boxstyle="circle,pad=0.08", fc="white", ec="none"), **words)


def gate_style(gate: str) -> tuple[str, str, str]:
    """Colour, line and letter of a gate; a gate added later gets a style of its own too."""
    return GATE_STYLES.get(gate, (PINK, "-.", gate[0].upper()))


def gate_legend(cutoff: bool = False) -> list[Line2D]:
    """Legend entries of the gates that are drawn; Cutoff only where asked for."""
    shown = [gate for gate in GATES if gate != "cutoff" or cutoff]
    styles = {gate: gate_style(gate) for gate in shown}
    return [
        Line2D([], [], color=c, ls=line, lw=1.6, label=f"{letter}: {gate}")
        for gate, (c, line, letter) in styles.items()
    ]


def init_legend(graphs: Sequence[Graph]) -> list[Patch]:
    """Legend entries of the initialisations that occur, the stand-in by that word."""
    inits = {node.init: node for graph in graphs for node in graph.nodes}
    order = [init for init in SOURCES if init in inits] + [init for init in inits if init not in SOURCES]
    return [
        Patch(
            fc=INIT_COLOURS.get(init, "#DDD0EA"),
            ec="#444444",
            label=f"{node_name(inits[init])}: {ablation.title(init)}",
        )
        for init in order
    ]


def draw_method() -> Figure:
    """The paper's Figure 1: Step 1 pre-training, Step 2 initialisation, Step 3 the search of the graph."""
    size = dict(figsize=(PAGE, 2.9), width_ratios=[1, 1, 1.1])
    figure, axes = plt.subplots(1, 3, **size, layout="constrained")
    steps = {
        "Step 1:\npre-train single models": "each on a pre-training set",
        "Step 2:\ninitialise the nodes": "a choice for every node",
        "Step 3:\nsearch the graph": "inits and gates, on the\nfine-tuning set",
    }
    for axis, (title, below) in zip(axes, steps.items(), strict=True):
        axis.axis("off")
        axis.set_title(title, fontsize=9, fontweight="bold")
        axis.text(0.5, -0.02, below, transform=axis.transAxes, ha="center", va="top", fontsize=7.5, color="#555555")
    data = {"imagenet1k": "ImageNet\n-1k", "fractaldb1k": "FractalDB\n-1k", "scratch": "random\nnumbers"}
    for axis in axes[:2]:
        axis.set(xlim=(-1.85, 1.8), ylim=(-1.4, 1.4))
    heights = (1.0, 0.0, -1.0)
    for i, (y, init) in enumerate(zip(heights, data, strict=True)):
        name, colour = node_name(Node("resnet18", init)), INIT_COLOURS[init]
        arrow(axes[0], (-0.59, y), (0.54, y), "no\ntraining" if init == "scratch" else "train")
        box(axes[0], -1.2, y, data[init], "#EEEEEE")
        box(axes[0], 1.15, y, name, colour)
        for other in heights:  # what could have been chosen, faint, below what was
            arrow(axes[1], (-0.59, y), (0.53, other), colour=BLACK if y == other else "#C8C8C8", over=y == other)
        box(axes[1], -1.2, y, name, colour)
        box(axes[1], 1.15, y, f"node {i + 1}" + ("\n(target)" if i == 0 else ""), colour, TARGET_RED if i == 0 else "")
    gates = [["through", "correct", "linear"], ["cutoff", "linear", "through"], ["through", "cutoff", "through"]]
    draw_graph(Graph([Node("resnet18", init) for init in data], gates), ax=axes[2])
    axes[2].set_title(title, fontsize=9, fontweight="bold")
    figure.legend(handles=gate_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def box(ax: Axes, x: float, y: float, text: str, face: str, edge: str = "") -> None:
    """A rounded box with a text in it."""
    shape = FancyBboxPatch((x - 0.55, y - 0.2), 1.1, 0.4, boxstyle="round,pad=0.06", fc=face, zorder=3)
    shape.set(edgecolor=edge or "#444444", linewidth=2.4 if edge else 1)
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=8, zorder=4)


def arrow(ax: Axes, start: tuple, end: tuple, text: str = "", colour: str = BLACK, over: bool = True) -> None:
    """An arrow with a word over it."""
    shape = dict(arrowstyle="-|>", color=colour, lw=1.3, shrinkA=0, shrinkB=0)
    ax.annotate("", end, start, arrowprops=shape, zorder=2 if over else 1)
    ax.text((start[0] + end[0]) / 2, start[1] + 0.1, text, ha="center", fontsize=8)


def in_order(summaries: Mapping[str, Mapping]) -> list[str]:
    """The conditions that there are, in the paper's order (a) to (d)."""
    return [name for name in CONDITIONS if name in summaries]


def condition_label(name: str, summaries: Mapping[str, Mapping]) -> str:
    """ "(b) ImageNet-1k": the paper's letter, whichever conditions there are, and the sources."""
    return f"({'abcd'[CONDITIONS.index(name)]}) {ablation.condition_title(name, summaries)}"


def plot_best_graphs(summaries: Mapping[str, Mapping]) -> Figure:
    """The paper's Figure 2: the best graph of every condition, its accuracy with fresh seeds, and its gain over (a)."""
    order = in_order(summaries)
    columns = min(2, len(order))
    rows = math.ceil(len(order) / columns)
    size = (PAGE / 2 * columns, 3.4 * rows + 0.8)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    arms, graphs = {}, []
    for axis in axes.flat:
        axis.axis("off")
    for name, axis in zip(order, axes.flat, strict=False):
        summary, text = summaries[name], condition_label(name, summaries)
        top = next((entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None)
        if summary["best"] is None:
            axis.set_title(f"{text}\nno trial was completed")
            continue
        graphs.append(Graph.from_dict(summary["best"]["graph"]))
        if top is not None:
            arms[name] = stats.arm(dict(zip(top["seeds"], top["test_accuracy"], strict=True)))
            text += f"\n{arms[name].mean:.2f} ± {arms[name].std:.2f} % (n = {arms[name].n})"
            if name != "none" and "none" in arms:
                gain = stats.compare(arms[name], arms["none"])
                text += f"\nover (a): {gain['effect']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
        draw_graph(graphs[-1], axis, accuracy=None if top is None else arms[name].mean)
        axis.set_title(text, fontsize=9, linespacing=1.3)
    handles = [*gate_legend(), *init_legend(graphs)]
    says = "node 1, test, fresh seeds: mean ± std; gain with 95 % interval"
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=8,
        title=says, title_fontsize=8,
    )  # fmt: skip
    return figure


# ---- Table 1


def marks(pattern: str, n: int) -> str:
    """A row's name as in the table: "✓ – ✓"."""
    return " ".join("✓" if str(i + 1) in pattern.split("+") else "–" for i in range(n))


def forest(ax: Axes, table: pd.DataFrame, order: Sequence[str]) -> None:
    """A point per run on the line of its `row`, and below it the mean with its 95 % interval."""
    sns.stripplot(table, x="accuracy", y="row", order=order, ax=ax, color=SKY, size=4, jitter=False, alpha=0.8)
    found = [stats.summary(table.accuracy[table.row == row]) for row in order]
    mean, low, high = (np.array([f[key] for f in found]) for key in ("mean", "low", "high"))
    shape = dict(fmt="D", color=BLUE, ms=3.5, lw=1.3)
    ax.errorbar(mean, np.arange(len(order)) + 0.25, xerr=np.nan_to_num([mean - low, high - mean]), **shape)
    ax.set_ylim(len(order) - 0.4, -0.6)


def forest_legend(seeds: str = "one seed") -> list[Line2D]:
    """Legend entries of `forest`."""
    point = Line2D([], [], color=SKY, ls="none", marker="o", ms=4, label=seeds)
    return [point, Line2D([], [], color=BLUE, marker="D", ms=3.5, label="mean, 95 % interval")]


def plot_table1(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """A point per run, mean and 95 % interval per pattern; the paper's mean ± std beside.

    One scale for all panels of this run, one for all of the paper's, so that sources compare by eye.
    """
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    order = [marks(pattern, n) for pattern in ablation.patterns(n)]
    table = ablation.tidy(records, sources)
    table["row"] = [marks(pattern, n) for pattern in table["pattern"]]
    paper = ablation.paper_arms(sources, n)
    ratios = [3] * len(sources) + [2] * len({source for source, _ in paper})
    size = PAGE * 1.2, max(3.6, 1.2 + 0.3 * len(order))
    figure, axes = plt.subplots(
        1, len(ratios), figsize=size, sharey=True, squeeze=False, width_ratios=ratios, layout="constrained"
    )
    ours, theirs = axes[0, : len(sources)], axes[0, len(sources) :]
    for source, axis in zip(sources, ours, strict=True):
        part = table[table.source == source]
        forest(axis, part, order)
        runs = part.groupby("pattern").size()
        axis.set(title=f"{ablation.title(source)}\nthis run, n = {runs.min()}", xlabel="accuracy of node 1 (%)")
        axis.set_ylabel(f"pre-trained: nodes {' '.join(str(i + 1) for i in range(n))}")
        axis.sharex(ours[0])
    published = [source for source in sources if (source, "none") in paper]
    for source, axis in zip(published, theirs, strict=True):
        arms = [paper[source, pattern] for pattern in ablation.patterns(n)]
        axis.errorbar([a.mean for a in arms], order, xerr=[a.std for a in arms], fmt="s", color=BLACK, ms=3.5, lw=1.3)
        name = ablation.title(ablation.paper_source(source))
        axis.set(title=f"paper,\n{name}, n = 3", xlabel="accuracy (%)")
        axis.sharex(theirs[0])
    handles = forest_legend()
    if paper:
        handles.append(Line2D([], [], color=BLACK, marker="s", ms=3.5, label="paper: mean ± std"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def plot_learning_curves(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """Validation accuracy of node 1 after every epoch, by pattern: mean, and the range over seeds.

    Every source has a scale of its own. The auxiliaries set colour and marker; a solid line says that node 1 is
    pre-trained itself.
    """
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    rows = [
        {
            "source": source,
            "pre-trained": marks(record["label"].rpartition("/")[2], n),
            "epoch": epoch["epoch"],
            "accuracy": epoch["val_accuracy"][0],
        }
        for source in sources
        for record in records
        if record["label"] == "none" or record["label"].rpartition("/")[0] == source
        for epoch in record["epochs"]
    ]
    table, order = pd.DataFrame(rows), [marks(pattern, n) for pattern in ablation.patterns(n)]
    half = len(order) // 2
    colours = [BLACK, ORANGE, GREEN, BLUE, RED, PINK, SKY, "#888888"]
    palette = {row: colours[i % half % len(colours)] for i, row in enumerate(order)}
    markers = {row: "os^vDPX*"[i % half % 8] for i, row in enumerate(order)}
    dashes = {row: "" if row.startswith("✓") else (3, 1.5) for row in order}
    figure, axes = plt.subplots(1, len(sources), figsize=(4.2 * len(sources), 3.2), squeeze=False, layout="constrained")
    for axis, source in zip(axes[0], sources, strict=True):
        last = source == sources[-1]
        sns.lineplot(
            table[table.source == source], x="epoch", y="accuracy", hue="pre-trained", style="pre-trained", ax=axis,
            palette=palette, hue_order=order, style_order=order, dashes=dashes, markers=markers, markersize=5,
            errorbar=("pi", 100), err_kws={"alpha": 0.12}, legend=last,
        )  # fmt: skip
        axis.set(title=ablation.title(source), ylabel="validation accuracy of node 1 (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    numbers = " ".join(str(i + 1) for i in range(n))
    sns.move_legend(
        axes[0, -1], "center left", bbox_to_anchor=(1, 0.5), frameon=False, title=f"pre-trained\nnodes {numbers}"
    )
    return figure


def plot_main_effects(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """What pre-training node 1, 2 or 3 adds on average over the states of the others, with 95 % intervals."""
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    patterns = ablation.patterns(n)
    panels = {"this run": ablation.run_arms(records, sources), "paper": ablation.paper_arms(sources, n)}
    panels = {name: arms for name, arms in panels.items() if arms}
    width = PAGE * (0.5 + 0.5 * (len(panels) > 1))
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 2.8), squeeze=False, layout="constrained")
    for axis, (name, arms) in zip(axes[0], panels.items(), strict=True):
        for i, source in enumerate(sources):
            found = stats.main_effects(arms, source, patterns)
            if found.empty:
                continue
            label = ablation.title(source if name == "this run" else ablation.paper_source(source))
            error = [found["mean"] - found["low"], found["high"] - found["mean"]]
            x = found["node"] + 0.12 * (i - (len(sources) - 1) / 2)
            axis.errorbar(
                x, found["mean"], yerr=error, fmt="os^v"[i % 4], color=[BLUE, RED, GREEN, PINK][i % 4], label=label
            )
        axis.axhline(0, color=BLACK, lw=0.8)
        axis.set(
            title=f"{name} (mean, 95 % interval)", xlabel="node that is pre-trained", ylabel="effect on node 1 (points)"
        )
        axis.set_xticks(range(1, n + 1))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return figure


# ---- the search


def rungs(summary: Mapping) -> list[int]:
    """The epochs after which ASHA compares trials; none without it."""
    search, epochs = summary["search"], summary["training"]["epochs"]
    found = []
    rung = search["min_resource"] * search["reduction_factor"] ** search["min_early_stopping_rate"]
    while rung < epochs and search["pruner"] == "asha":
        found.append(rung)
        rung *= search["reduction_factor"]
    return found


def reached(summary: Mapping, epoch: int) -> int:
    """How many trials were trained for at least so many epochs."""
    return sum(len(trial["values"]) >= epoch for trial in summary["trials"])


FATES = {  # of a trial: colour, width, opacity with few trials
    "trained to the end": (BLUE, 1.4, 1.0),
    "stopped at a later rung": (ORANGE, 0.9, 0.7),
    "stopped at the first rung": ("#888888", 0.7, 0.6),
}


def fate(trial: Mapping, summary: Mapping) -> str:
    """What became of a trial, in the words of `FATES`."""
    done, late, early = FATES
    if trial["state"] == "COMPLETE":
        return done
    return late if len(trial["values"]) > (rungs(summary) or [0])[0] else early


def plot_search(summary: Mapping, ax: Axes | None = None) -> Axes:
    """Every trial as a line over its epochs, coloured by its fate; a trial of one epoch is a dot.

    Dotted lines are the rungs, with the number of trials that reached each. Epochs are on a logarithmic scale where
    there are many, as the rungs are; thousands of lines fade so that the few that went on stay visible.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN * 1.2, 3), layout="constrained")
    trials, epochs = [trial for trial in summary["trials"] if trial["values"]], summary["training"]["epochs"]
    crowd = min(1, (60 / max(1, len(trials))) ** 0.5)
    for order, (name, (colour, width, alpha)) in enumerate(reversed(FATES.items())):
        group = [trial["values"] for trial in trials if fate(trial, summary) == name]
        lines = [np.column_stack([np.arange(1, len(values) + 1), values]) for values in group]
        alpha = alpha if name == "trained to the end" else alpha * crowd
        shape = dict(colors=colour, linewidths=width * max(crowd, 0.6), alpha=alpha, zorder=2 + order)
        ax.add_collection(LineCollection(lines, label=f"{name} ({len(group)})", rasterized=len(trials) > 300, **shape))
        dots = [(1, values[0]) for values in group if len(values) == 1]
        if dots:
            ax.plot(*zip(*dots, strict=True), ls="none", marker="o", ms=3.5, color=colour, alpha=alpha, mec="none")
    for rung in rungs(summary):
        ax.axvline(rung, color=RED, ls=":", lw=0.9, zorder=0)
    for epoch in (*rungs(summary), epochs):
        shape = dict(ha="center", va="bottom", fontsize=7, color="#8A2A00")
        ax.text(epoch, 1.0, reached(summary, epoch), transform=ax.get_xaxis_transform(), **shape)
    done, name = summary["states"].get("COMPLETE", 0), summary["condition"]
    label = condition_label(name, {name: summary}).replace(" + ", "\n+ ")
    ax.set_title(f"{label}\n{len(summary['trials'])} trials, {done} to the end", pad=14)
    ax.set(xlabel="epoch", ylabel=f"{summary['select_on']} accuracy of node 1 (%)")
    ax.autoscale_view()
    if epochs > 16:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def plot_searches(summaries: Mapping[str, Mapping]) -> Figure:
    """`plot_search` for every condition."""
    order = in_order(summaries)
    figure, axes = plt.subplots(
        1, len(order), figsize=(PAGE * 0.35 * len(order), 3.3), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], order, strict=True):
        plot_search(summaries[name], ax=axis)
        axis.label_outer()
    handles = [Line2D([], [], color=colour, lw=1.6, label=name) for name, (colour, *_) in FATES.items()]
    handles[-1].set(marker="o", markersize=3.5)  # with the first rung at epoch 1 it is a dot
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def plot_best_so_far(summaries: Mapping[str, Mapping], ax: Axes | None = None) -> Axes:
    """The best value among the graphs trained to the end, over the epochs that the search had spent by then.

    Trials count in the order of the plan; epochs taken over from an equal graph cost nothing.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN * 1.4, 2.8), layout="constrained")
    for name, colour, line in zip(CONDITIONS, (BLACK, ORANGE, SKY, GREEN), ("-", "--", "-.", ":"), strict=True):
        trials = summaries[name]["trials"] if name in summaries else []
        if not any(trial["state"] == "COMPLETE" for trial in trials):
            continue
        spent = np.cumsum([len(trial["values"]) - trial.get("reused", 0) for trial in trials])
        values = [trial["value"] if trial["state"] == "COMPLETE" else np.nan for trial in trials]
        best = np.fmax.accumulate(values)
        shape = dict(where="post", color=colour, ls=line, lw=1.6)
        ax.step(spent, best, label=condition_label(name, summaries), **shape)
    split = "/".join(sorted({summary["select_on"] for summary in summaries.values()}))
    ax.set(xlabel="epochs spent", ylabel=f"best so far, {split} (%)")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def choice_shares(summary: Mapping, top: float = 0.1) -> tuple[dict[str, np.ndarray], int]:
    """How often each choice occurs among the best `top` of the graphs and among all: `gates` (2, targets, sources,
    gates) and `inits` (2, nodes, choices), shares that sum to 1 over the last axis; and how many graphs are the best.

    Graphs rank by how far they came, then by their last value: whom ASHA stopped later was better at the rung before.
    """
    trials = [trial for trial in summary["trials"] if trial["values"] and trial["graph"]]
    ranked = sorted(trials, key=lambda trial: (len(trial["values"]), trial["values"][-1]), reverse=True)
    n = max(1, round(top * len(ranked)))
    names, shares = list(GATES), {}
    for key, choices in (("gates", names), ("inits", summary["choices"])):
        pick = {
            "gates": lambda graph: graph["gates"],
            "inits": lambda graph: [node["init"] for node in graph["nodes"]],
        }[key]
        drawn = np.array([pick(trial["graph"]) for trial in ranked])
        counts = np.stack([(drawn[:m][..., None] == np.array(choices)).mean(0) for m in (n, len(ranked))])
        shares[key] = counts
    return shares, n


def plot_choices(summary: Mapping, top: float = 0.1) -> Figure:
    """Which gates and initialisations good graphs have: per edge and node, the share of every choice among the best
    `top` of the graphs, coloured by how it differs from all graphs of the search.
    """
    shares, n = choice_shares(summary, top)
    nodes = len(shares["inits"][0])
    edges = [(t, s) for t in range(nodes) for s in range(nodes)]
    rows = [f"label → {t + 1}" if s == t else f"{s + 1} → {t + 1}" for t, s in edges]
    panels = {
        "gate on the edge": (rows, list(GATES), shares["gates"].reshape(2, len(edges), len(GATES))),
        "start of the node": ([f"node {i + 1}" for i in range(nodes)], summary["choices"], shares["inits"]),
    }
    size = (PAGE, 0.6 + 0.3 * len(rows) + 0.5)
    figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=[4, len(summary["choices"])])
    for axis, (title, (lines, columns, share)) in zip(axes, panels.items(), strict=True):
        labels = np.array(
            [[f"{a:.0%}\n({b:.0%})" for a, b in zip(*pair, strict=True)] for pair in zip(*share, strict=True)]
        )
        frame = pd.DataFrame(100 * (share[0] - share[1]), index=lines, columns=columns)
        sns.heatmap(
            frame, ax=axis, annot=labels, fmt="", cmap="PuOr_r", center=0, vmin=-50, vmax=50, linewidths=0.5,
            annot_kws={"fontsize": 6.5}, cbar=axis is axes[-1], cbar_kws={"label": "difference (points)"},
        )  # fmt: skip
        axis.set(title=title, ylabel="")
        axis.set_xticklabels([column.replace("_", "\n") for column in columns], rotation=0, fontsize=7)
        axis.tick_params(axis="y", rotation=0)
    total = len([trial for trial in summary["trials"] if trial["values"]])
    name = condition_label(summary["condition"], {summary["condition"]: summary})
    figure.suptitle(f"{name}: the best {f'{n} graphs' if n > 1 else 'graph'} (all {total} in brackets)", fontsize=9)
    return figure


def plot_early_rungs(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """From `search.early_rungs`, by condition: the chance to pass a first rung beside the share that deserves it (a
    dashed line), by what the target starts from. Bars are 95 % intervals over graphs.
    """
    size = (PAGE / 2 * max(1.4, len(tables)), 3.1)
    figure, axes = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, (condition, table) in zip(axes[0], tables.items(), strict=True):
        for i, (init, rows) in enumerate(table.groupby("target", sort=False)):
            color = [BLUE, RED, GREEN, PINK][i % 4]
            error = [rows["passed"] - rows["low"], rows["high"] - rows["passed"]]
            label = f"node 1: {ablation.title(init)} (n = {rows['n'].iloc[0]})"
            axis.errorbar(
                np.arange(len(rows)) + 0.1 * i, rows["passed"], yerr=error, fmt="os^v"[i % 4], color=color, label=label
            )
            axis.axhline(rows["deserved"].iloc[0], color=color, linestyle="--", linewidth=1, zorder=0)
        first = table["rung"].unique()
        axis.set_xticks(range(len(first)), [f"epoch {rung}" for rung in first])
        axis.set(title=condition, xlabel="first rung", ylim=(-3, 103), xlim=(-0.4, len(first) - 0.4))
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0, 0].set_ylabel("graphs that pass (%)\ndashed: that end in the better half")
    return figure


def plot_rungs(summaries: Mapping[str, Mapping]) -> Figure:
    """How many trials of every condition reached each rung and the last epoch: where ASHA saves its time."""
    order = in_order(summaries)
    rows = [
        {"condition": condition_label(name, summaries), "epoch": epoch, "trials": reached(summaries[name], epoch)}
        for name in order
        for epoch in (*rungs(summaries[name]), summaries[name]["training"]["epochs"])
    ]
    figure, axis = plt.subplots(figsize=(PAGE, 2.6), layout="constrained")
    sns.barplot(
        pd.DataFrame(rows), x="epoch", y="trials", hue="condition", ax=axis, palette=[BLACK, ORANGE, SKY, GREEN]
    )
    for bars in axis.containers:
        axis.bar_label(bars, fontsize=7)
    axis.set(xlabel="rung: trained for this many epochs at least", ylabel="trials")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axis.get_legend_handles_labels()
    axis.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)  # over no bar
    return figure


def plot_optimism(summaries: Mapping[str, Mapping]) -> Figure:
    """What each search promised, and what its best graphs and the baselines gave with fresh seeds on the test split.

    Every condition has a scale of its own: the promise is compared within a condition.
    """
    order = in_order(summaries)
    entries = {name: summaries[name]["reevaluated"] for name in order}
    rows = sorted({entry["label"] for name in order for entry in entries[name]}, key=baselines_last)
    columns = min(2, len(order))
    lines = math.ceil(len(order) / columns)
    size = (PAGE / 2 * columns, lines * (0.9 + 0.22 * len(rows)) + 0.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for name, axis in zip(order, axes.flat, strict=False):
        runs = [(entry["label"], value) for entry in entries[name] for value in entry["test_accuracy"]]
        if runs:
            forest(axis, pd.DataFrame(runs, columns=["row", "accuracy"]), rows)
        if summaries[name]["selection_value"] is not None:
            axis.axvline(summaries[name]["selection_value"], color=RED, ls="--", lw=1.3)
        axis.set(title=condition_label(name, summaries), xlabel="accuracy of node 1 (%)", ylabel="")
    for axis in list(axes.flat)[len(order) :]:
        axis.axis("off")
    split = "/".join(sorted({summaries[name]["select_on"] for name in order}))
    handles = [
        Line2D([], [], color=RED, ls="--", label=f"best value in the search ({split})"),
        *forest_legend("fresh seed (test)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def baselines_last(label: str) -> tuple:
    """Sorts "top 1", "top 2", .. before the baselines, and numbers as numbers."""
    name, _, number = label.rpartition(" ")
    return (not label.startswith("top"), name, int(number)) if number.isdigit() else (True, label, 0)


# ---- one training


def plot_training(graph: Graph, records: Sequence[Mapping], epochs: int | None = None) -> Figure:
    """One training, epoch by epoch: validation accuracy of every node, and the mean gated loss on every open edge.

    - `records`: from `epochs(graph, ..)`, at least one.  `epochs`: how many there will be, for the axis.
    """
    figure = Figure(figsize=(PAGE * 1.3, 3.4), layout="constrained")  # no pyplot: may be drawn in a kernel's thread
    axes = figure.subplots(1, 3)
    colours, marks, done = [TARGET_RED, BLUE, ORANGE, GREEN, PINK, BLACK], "os^vDP", [r["epoch"] for r in records]
    for t in sorted(graph.reaching_target()):
        shape = dict(color=colours[t % 6], ms=4, lw=1.3)
        values = [record["val_accuracy"][t] for record in records]
        axes[0].plot(done, values, marker=marks[t % 6], label=f"node {t + 1}", **shape)
        for s in graph.sources(t):
            gate, line = graph.gates[t][s], gate_style(graph.gates[t][s])[1]
            values = [record["edge_loss"][t][s] for record in records]
            label = f"{'label' if s == t else s + 1} → {t + 1} ({gate})"
            axes[1 if s == t else 2].plot(done, values, ls=line, marker=marks[s % 6], label=label, **shape)
    titles = {"accuracy": "validation (%)", "label edges": "mean gated loss", "edges between nodes": "mean gated loss"}
    for axis, (title, ylabel) in zip(axes, titles.items(), strict=True):
        axis.set(title=title, xlabel="epoch", ylabel=ylabel, xlim=(0.8, max(epochs or 0, done[-1], 2) + 0.2))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if not axis.lines:
            axis.text(0.5, 0.5, "no open edge", ha="center", color="#777777", transform=axis.transAxes)
        else:
            axis.set_ylim(0, 1.08 * max(max(line.get_ydata()) for line in axis.lines) or 1)
            axis.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


# ---- gates, images, pre-training


def plot_gate_curves() -> Figure:
    """The gates as functions: of training progress, and of what share of a batch the source answers correctly."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True, layout="constrained")
    progress, losses = np.linspace(0.02, 1, 50), torch.ones(100)
    shares = np.linspace(0, 1, 51)
    for name, gate in GATES.items():
        colour, line, _ = gate_style(name)
        half = torch.arange(100) < 50
        axes[0].plot(progress, [gate(losses, half, p).item() for p in progress], color=colour, ls=line, label=name)
        values = [gate(losses, torch.arange(100) < 100 * share, 0.5).item() for share in shares]
        axes[1].plot(shares, values, color=colour, ls=line, label=name)
    axes[0].set(xlabel="progress k/K", ylabel="output, every loss 1", title="half of the batch known to the source")
    axes[1].set(xlabel="share of the batch known to the source", title="half of the training done")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_images(images, labels: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """A contact sheet of uint8 images, (n, 3, S, S) or (n, S, S, 3), with a label under each if given."""
    images = np.asarray(images)
    images = images if images.shape[-1] == 3 else np.moveaxis(images, 1, 3)
    rows = math.ceil(len(images) / columns)
    side = PAGE * 1.3 / columns
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(side * columns, (side + 0.2 * (labels is not None)) * rows),
        squeeze=False,
        layout="constrained",
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest")
            if labels is not None:
                axis.set_title(labels[i], fontsize=7, pad=2)
    return figure


def plot_pretraining(card: Mapping, ax: Axes | None = None) -> Axes:
    """Training accuracy over the images seen, from a model card; the loss, where it was kept, on the right."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    curve = pd.DataFrame(card["curve"])
    seen = curve["images"].cumsum() / 1000
    ax.plot(seen, curve["accuracy"], marker="o", ms=3, color=BLUE, label="accuracy")
    ax.axhline(100 / card["classes"], color=BLACK, lw=0.8, ls=":", label="guessing")
    ax.set(title=ablation.title(card["source"]), xlabel="images seen (thousands)", ylabel="training accuracy (%)")
    handles = ax.get_legend_handles_labels()[0]
    if "loss" in curve:
        right = ax.twinx()
        handles += right.plot(seen, curve["loss"], marker="s", ms=3, color=RED, ls="--", label="loss (right)")
        right.set(ylabel="training loss", ylim=(0, 1.05 * curve["loss"].max()))
        right.grid(False)
        right.spines["right"].set_visible(True)
    ax.legend(handles=handles, frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return ax


def plot_filters(weight, ax: Axes | None = None) -> Axes:
    """The filters of a first layer, (O, 3, k, k), as colour pictures, each scaled to its own range."""
    weight = np.asarray(weight, float)
    columns = math.ceil(len(weight) ** 0.5)
    low, high = (f(weight, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    tiles = np.moveaxis((weight - low) / np.maximum(high - low, 1e-12), 1, 3)
    tiles = np.pad(tiles, ((0, -len(tiles) % columns), (0, 1), (0, 1), (0, 0)), constant_values=1)
    sheet = np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, COLUMN), layout="constrained")
    ax.imshow(sheet)
    ax.axis("off")
    return ax


# ---- files


def save_figure(
    figure: Figure,
    folder: str | Path,
    name: str,
    formats: Sequence[str] = ("pdf", "png"),
    note: str = "",
    dpi: int = 300,
) -> list[Path]:
    """Write a figure as `<folder>/<name>.<format>`; the same figure gives the same bytes.

    A figure wider than the two columns of a paper is laid out again for their width, its letters keeping their size.
    `note`, such as `describe_records` gives, goes into the file's metadata. Raises ValueError for other formats.
    """
    check_formats(formats)
    if figure.get_figwidth() > PAGE:
        figure.set_figwidth(PAGE)
        fit_titles(figure)
    Path(folder).mkdir(parents=True, exist_ok=True)
    metadata = {
        "pdf": {"CreationDate": None, "ModDate": None, "Subject": note},
        "svg": {"Date": None, "Description": note},
        "png": {"Description": note},
    }
    paths = []
    for kind in formats:
        paths.append(Path(folder) / f"{name}.{kind}")
        figure.savefig(paths[-1], metadata=metadata[kind], dpi=dpi)
    return paths


def fit_titles(figure: Figure) -> None:
    """Smaller letters, down to 6 points, for titles that are wider than their panel."""
    figure.canvas.draw()
    for axes in figure.axes:
        share = axes.get_window_extent().width * 1.05 / max(axes.title.get_window_extent().width, 1)
        axes.title.set_fontsize(max(6, min(1, share) * axes.title.get_fontsize()))


def check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError naming a format that figures are not written in."""
    for kind in formats:
        if kind not in ("pdf", "png", "svg"):
            raise ValueError(f"format is {kind!r}: allowed are pdf, png, svg")


def describe_records(records: Sequence[Mapping]) -> str:
    """Where numbers come from, in a line, as "data synthcars 95cd721e, code a3f29c01"; never the time."""
    data = sorted({f"{r['data']['name']} {r['data']['fingerprint'][:8]}" for r in records if "data" in r})
    codes = {(r.get("provenance") or {}).get("git") for r in records} - {None}
    parts = [
        f"data {', '.join(data)}" if data else "",
        f"code {', '.join(c[:8] for c in sorted(codes))}" if codes else "",
    ]
    return ", ".join(filter(None, parts))


def draw_all(
    records: str | Path, folder: str | Path, formats: Sequence[str] = ("pdf", "png"), lang: str = "en"
) -> list[Path]:
    """Every figure that the records of a run give, written to `folder`, in English or Japanese ("ja"). Trains nothing.

    Raises FileNotFoundError when `records` has neither `table1.json` nor a search, ValueError for another `lang` or
    format, before anything is drawn, and for "ja" without the font of the extra `ja`.
    """
    records = Path(records)
    if lang not in ("en", "ja"):
        raise ValueError(f"lang is {lang!r}: allowed are en, ja")
    check_formats(formats)
    figures = {"figure1_method": draw_method, "gates": plot_gate_curves}
    runs, summaries = [], {}
    use_style()
    if lang == "ja":
        japanese.use_font()
    if (records / "table1.json").exists():
        runs = ablation.read_runs(records)
        figures |= {
            "table1": lambda: plot_table1(runs),
            "learning_curves": lambda: plot_learning_curves(runs),
            "main_effects": lambda: plot_main_effects(runs),
        }
    summaries = {path.stem: json.loads(path.read_text()) for path in sorted((records / "search").glob("*.json"))}
    if summaries:
        figures |= {
            "figure2_best_graphs": lambda: plot_best_graphs(summaries),
            "search_curves": lambda: plot_searches(summaries),
            "search_rungs": lambda: plot_rungs(summaries),
            "search_best_so_far": lambda: plot_best_so_far(summaries).figure,
            "search_choices": lambda: plot_choices(summaries[in_order(summaries)[-1]]),
            "search_optimism": lambda: plot_optimism(summaries),
        }
    if len(figures) == 2:
        raise FileNotFoundError(f"{records} has no table1.json and no search/*.json: give the folder of a run")
    note = ", ".join(filter(None, [f"records {records.name}", describe_records([*runs, *summaries.values()])]))
    paths = []
    for name, draw in figures.items():
        figure = draw() if lang == "en" else japanese.translate_figure(draw())
        paths += save_figure(figure, folder, name, formats, note)
        plt.close(figure)
    return paths
