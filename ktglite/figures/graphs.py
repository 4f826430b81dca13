"""Drawings of graphs: the method (Figure 1), the best graphs (Figure 2), any graph, and the gates as functions."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch

from ktglite.experiments import claims, stats
from ktglite.figures.style import BLACK, BLUE, COLUMN, GREEN, PAGE, PINK, RED, TARGET_RED
from ktglite.gates import GATES
from ktglite.graph import Graph, Node
from ktglite.models import NARROW, SOURCES, title

__all__ = ["draw_graph", "draw_method", "plot_best_graphs", "plot_gate_curves"]

GATE_STYLES = {
    "through": (BLUE, "-", "T"),
    "linear": (GREEN, "--", "L"),
    "correct": (RED, "-.", "C"),
    "cutoff": ("#999999", (0, (1, 3)), "×"),
}
CONDITIONS = ("none", "imagenet1k", "fractaldb1k", "mixed")  # (a) to (d)


def _colour(init: str) -> str:
    return SOURCES[init].colour if init in SOURCES else "#DDD0EA"


def node_name(node: Node) -> str:
    """The paper's short names: RN18, PIRN18 (ImageNet-1k), PFRN18 (FractalDB-1k); legends tell narrow ones."""
    arch = node.arch.split("_")[0].replace("resnet", "RN")
    return (SOURCES[node.init].short if node.init in SOURCES else "P") + arch


def draw_graph(
    graph: Graph,
    ax: Axes | None = None,
    title: str = "",
    accuracy: float | None = None,
    legend: bool = False,
    show_cutoff: bool = False,
) -> Axes:
    """A graph with its target circled in red, and an arrow for every open edge: T Through, L
    Linear, C Correct.

    Cut edges are absent, or faint with `show_cutoff`; a node that cannot influence the target is
    dimmed; small grey numbers count the nodes. `accuracy` (%) is written at node 1. Readable up to
    six nodes.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, COLUMN), layout="constrained")
    n = graph.size
    radius = 0.36 if n < 4 else 0.45 * math.sin(math.pi / n)
    angles = math.pi / 2 - 2 * math.pi * np.arange(n) / n
    outward = np.array([np.cos(angles), np.sin(angles)]).T
    centres = outward * (n > 1)
    labels = centres + outward * (radius + 0.56)
    reach = np.array(
        [
            *labels,
            *(centres - radius),
            *(centres + radius),
            *([(-1.1, -0.6), (1.1, 0)] if n == 1 else []),
        ]
    )
    margin = np.array([0.22, 0.08])  # for the word "label"
    low, high = reach.min(0) - margin, reach.max(0) + margin
    font = _font_size(ax, radius / (high - low).max())
    ax.set_title(title)
    ax.axis("off")
    ax.set(
        xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", anchor="N"
    )  # N: titles stay on one line

    _draw_nodes(ax, graph, centres, labels, outward, radius, font, accuracy, show_cutoff)
    if legend:
        handles = gate_legend(show_cutoff) + init_legend([graph])
        ax.legend(
            handles=handles,
            fontsize=7,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=2,
            frameon=False,
        )
    return ax


def _draw_nodes(
    ax: Axes,
    graph: Graph,
    centres,
    labels,
    outward,
    radius: float,
    font: float,
    accuracy: float | None,
    show_cutoff: bool,
) -> None:
    """Circles with names, then the edges between them; a node that cannot influence the target is dimmed."""
    circles, heard = [], graph.reaching_target()
    for i, node in enumerate(graph.nodes):
        rim = dict(ec=TARGET_RED, lw=0.32 * font) if i == 0 else dict(ec="#444444", lw=1)
        shape = Circle(centres[i], radius, fc=_colour(node.init), zorder=3, **rim)
        circles.append(ax.add_patch(shape))
        shape.set_alpha(1 if i in heard else 0.35)
        text = node_name(node) + (f"\n{accuracy:.1f} %" if i == 0 and accuracy is not None else "")
        lines = text.split("\n")
        small = min(1, 6 / max(map(len, lines))) * (
            1 if len(lines) == 1 else 0.85
        )  # two lines reach nearer to the rim
        ax.text(*centres[i], text, ha="center", va="center", fontsize=font * small, zorder=5)
        aside = centres[i] + (radius + 0.13) * np.array(
            [outward[i] @ [c, d] for c, d in ((0.77, 0.64), (-0.64, 0.77))]
        )
        ax.text(
            *aside, i + 1, ha="center", va="center", fontsize=min(8, 0.9 * font), color="#777777"
        )
    for t in range(graph.size):
        _draw_edges(ax, graph, t, circles, centres, labels, font, show_cutoff)


def _draw_edges(
    ax: Axes, graph: Graph, t: int, circles: list, centres, labels, font: float, show_cutoff: bool
) -> None:
    """The edges into node `t`, and the word "label" where its label edge is drawn."""
    heard, n, row = graph.reaching_target(), graph.size, graph.gates[t]
    for s, gate in enumerate(row):
        if gate != "cutoff" or show_cutoff:
            alpha = 0.35 if gate == "cutoff" or t not in heard else 1
            ends = (None if s == t else circles[s], circles[t])
            _draw_edge(
                ax, labels[t] if s == t else centres[s], centres[t], ends, gate, alpha, font, n
            )
    if row[t] != "cutoff" or show_cutoff:
        mark = dict(
            fontsize=min(8, font), color="#555555", bbox=dict(fc="white", ec="none", pad=1.5)
        )
        ax.text(*labels[t], "label", ha="center", va="center", **mark)


def _font_size(ax: Axes, share: float) -> float:
    """A size for six characters in a circle whose radius is this share of the panel; never above 9 points."""
    figure, spec = ax.get_figure(root=True), ax.get_subplotspec()
    rows, columns = spec.get_gridspec().get_geometry() if spec else (1, 1)
    side = min(
        figure.get_figwidth() / columns, 0.85 * figure.get_figheight() / rows
    )  # 0.85: there may be a title
    return min(9, 72 * side * 2 * share / 4.8)


def _draw_edge(
    ax: Axes, start, end, ends: tuple, gate: str, alpha: float, font: float, n: int
) -> None:
    """One arrow in the style of its gate, with the gate's letter: on a curve, or beside a short
    label edge.

    `ends` are the circles that it leaves and meets, None for a label.
    """
    colour, line, letter = _gate_style(gate)
    of_label, (dx, dy) = ends[0] is None, end - start
    bend = 0 if of_label else 0.16  # both directions are seen
    shape = dict(posA=start, posB=end, patchA=ends[0], patchB=ends[1], shrinkA=0, alpha=alpha)
    shape |= dict(connectionstyle=f"arc3,rad={bend}", zorder=2)
    # line and head apart: dashes would fray the head
    ax.add_artist(
        FancyArrowPatch(
            **shape, arrowstyle="-", ls=line, lw=1.6 if n < 5 else 1.1, ec=colour, shrinkB=4
        )
    )
    head = dict(arrowstyle="-|>", mutation_scale=1.4 * font, shrinkB=1)
    ax.add_artist(FancyArrowPatch(**shape, **head, fc=colour, ec=colour, lw=0))
    words = dict(
        color=colour, fontsize=0.95 * font, fontweight="bold", alpha=alpha, ha="center", va="center"
    )
    if of_label:
        aside = 0.85 * font * np.array([-dy, dx]) / math.hypot(dx, dy)
        ax.annotate(
            letter, start + 0.35 * (end - start), aside, textcoords="offset points", **words
        )
    else:
        hidden = ends[0].radius / math.hypot(dx, dy)
        t = hidden + (0.45 if n < 4 else 0.3) * (
            1 - 2 * hidden
        )  # off the middle, where edges cross, and off the head
        middle = (start + end) / 2 + bend * np.array([dy, -dx])  # the control point of "arc3"
        where = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        ax.text(
            *where,
            letter,
            zorder=4,
            bbox=dict(boxstyle="circle,pad=0.08", fc="white", ec="none"),
            **words,
        )


def _gate_style(gate: str) -> tuple[str, str, str]:
    """Colour, line and letter of a gate; a gate added later gets a style of its own too."""
    return GATE_STYLES.get(gate, (PINK, "-.", gate[0].upper()))


def gate_legend(cutoff: bool = False) -> list[Line2D]:
    """Legend entries of the gates that are drawn; Cutoff only where asked for."""
    shown = [gate for gate in GATES if gate != "cutoff" or cutoff]
    styles = {gate: _gate_style(gate) for gate in shown}
    return [
        Line2D([], [], color=c, ls=line, lw=1.6, label=f"{letter}: {gate}")
        for gate, (c, line, letter) in styles.items()
    ]


def init_legend(graphs: Sequence[Graph]) -> list:
    """Legend entries of the initialisations that occur, the stand-in by that word, and of narrow networks."""
    nodes = {node.init: node for graph in graphs for node in graph.nodes}
    order = [init for init in SOURCES if init in nodes] + [
        init for init in nodes if init not in SOURCES
    ]
    entries = [
        Patch(fc=_colour(i), ec="#444444", label=f"{node_name(nodes[i])}: {title(i)}")
        for i in order
    ]
    for arch in sorted({node.arch for graph in graphs for node in graph.nodes} & set(NARROW)):
        entries.append(
            Line2D([], [], ls="none", label=f"RN18 at 1/{64 // NARROW[arch]} of its width")
        )
    return entries


def draw_method() -> Figure:
    """The paper's Figure 1: Step 1 pre-training, Step 2 initialisation, Step 3 the search of the graph."""
    size = dict(figsize=(PAGE, 2.9), width_ratios=[1, 1, 1.1])
    figure, axes = plt.subplots(1, 3, **size, layout="constrained")
    steps = {
        "Step 1:\npre-train single models": "each on a pre-training set",
        "Step 2:\ninitialise the nodes": "a choice for every node",
        "Step 3:\nsearch the graph": "inits and gates, on the\nfine-tuning set",
    }
    for axis, (heading, below) in zip(axes, steps.items(), strict=True):
        axis.axis("off")
        axis.set_title(heading, fontsize=9, fontweight="bold")
        axis.text(
            0.5,
            -0.02,
            below,
            transform=axis.transAxes,
            ha="center",
            va="top",
            fontsize=7.5,
            color="#555555",
        )
    data = {
        "imagenet1k": "ImageNet\n-1k",
        "fractaldb1k": "FractalDB\n-1k",
        "scratch": "random\nnumbers",
    }
    for axis in axes[:2]:
        axis.set(xlim=(-1.85, 1.8), ylim=(-1.4, 1.4))
    heights = (1.0, 0.0, -1.0)
    for i, (y, init) in enumerate(zip(heights, data, strict=True)):
        name, colour = node_name(Node("resnet18", init)), _colour(init)
        _arrow(axes[0], (-0.59, y), (0.54, y), "no\ntraining" if init == "scratch" else "train")
        _box(axes[0], -1.2, y, data[init], "#EEEEEE")
        _box(axes[0], 1.15, y, name, colour)
        for other in heights:  # what could have been chosen, faint, below what was
            _arrow(
                axes[1],
                (-0.59, y),
                (0.53, other),
                colour=BLACK if y == other else "#C8C8C8",
                over=y == other,
            )
        _box(axes[1], -1.2, y, name, colour)
        _box(
            axes[1],
            1.15,
            y,
            f"node {i + 1}" + ("\n(target)" if i == 0 else ""),
            colour,
            TARGET_RED if i == 0 else "",
        )
    gates = [
        ["through", "correct", "linear"],
        ["cutoff", "linear", "through"],
        ["through", "cutoff", "through"],
    ]
    draw_graph(Graph([Node("resnet18", init) for init in data], gates), ax=axes[2])
    axes[2].set_title(heading, fontsize=9, fontweight="bold")
    figure.legend(
        handles=gate_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return figure


def _box(ax: Axes, x: float, y: float, text: str, face: str, edge: str = "") -> None:
    """A rounded box with a text in it."""
    shape = FancyBboxPatch(
        (x - 0.55, y - 0.2), 1.1, 0.4, boxstyle="round,pad=0.06", fc=face, zorder=3
    )
    shape.set(edgecolor=edge or "#444444", linewidth=2.4 if edge else 1)
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=8, zorder=4)


def _arrow(
    ax: Axes, start: tuple, end: tuple, text: str = "", colour: str = BLACK, over: bool = True
) -> None:
    """An arrow with a word over it."""
    shape = dict(arrowstyle="-|>", color=colour, lw=1.3, shrinkA=0, shrinkB=0)
    ax.annotate("", end, start, arrowprops=shape, zorder=2 if over else 1)
    ax.text((start[0] + end[0]) / 2, start[1] + 0.1, text, ha="center", fontsize=8)


def in_order(summaries: Mapping[str, Mapping]) -> list[str]:
    """The conditions that there are, in the paper's order (a) to (d)."""
    return [name for name in CONDITIONS if name in summaries]


def condition_label(name: str, summaries: Mapping[str, Mapping]) -> str:
    """ "(b) ImageNet-1k": the paper's letter, whichever conditions there are, and the sources."""
    return f"({'abcd'[CONDITIONS.index(name)]}) {claims.condition_title(name, summaries)}"


def whose(summary: Mapping) -> str:
    """Whose accuracy a search maximised."""
    return "the ensemble" if summary.get("search", {}).get("objective") == "ensemble" else "node 1"


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
        text += " (a single network)" if claims.is_single(summary["best"]["graph"]) else ""
        if top is not None:
            arms[name] = stats.arm(dict(zip(top["seeds"], top["test_accuracy"], strict=True)))
            text += f"\n{arms[name].mean:.2f} ± {arms[name].std:.2f} % (n = {arms[name].n})"
            if name != "none" and "none" in arms:
                gain = stats.pair(arms[name].by_seed, arms["none"].by_seed)
                text += (
                    f"\nover (a): {gain['effect']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
                )
        own = top is not None and whose(summary) == "node 1"
        draw_graph(graphs[-1], axis, accuracy=arms[name].mean if own else None)
        axis.set_title(text, fontsize=9, linespacing=1.3)
    handles = [*gate_legend(), *init_legend(graphs)]
    of = ", ".join(sorted({whose(summary) for summary in summaries.values()}))
    says = f"{of}, test, fresh seeds: mean ± std; gain with 95 % interval"
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=8,
        title=says, title_fontsize=8,
    )  # fmt: skip
    return figure


def plot_gate_curves() -> Figure:
    """The gates as functions: of training progress, and of what share of a batch the source answers correctly."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True, layout="constrained")
    progress, losses = np.linspace(0.02, 1, 50), torch.ones(100)
    shares = np.linspace(0, 1, 51)
    for name, gate in GATES.items():
        colour, line, _ = _gate_style(name)
        half = torch.arange(100) < 50
        axes[0].plot(
            progress,
            [gate(losses, half, p).item() for p in progress],
            color=colour,
            ls=line,
            label=name,
        )
        values = [gate(losses, torch.arange(100) < 100 * share, 0.5).item() for share in shares]
        axes[1].plot(shares, values, color=colour, ls=line, label=name)
    axes[0].set(
        xlabel="progress k/K",
        ylabel="output, every loss 1",
        title="half of the batch known to the source",
    )
    axes[1].set(xlabel="share of the batch known to the source", title="half of the training done")
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
