"""Drawings of graphs: the method (Figure 1), the best graphs (Figure 2), any graph, the claims as
differences of graphs, and the gates as functions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch

from ktglite.experiments import ablation, claims, stats
from ktglite.experiments.ablation import Records, Summaries
from ktglite.experiments.space import CONDITIONS
from ktglite.figures import style
from ktglite.figures.style import BLACK, GREY, TARGET_RED, plain, source_fill
from ktglite.gates import GATES
from ktglite.graph import Graph, Node
from ktglite.models import NARROW, SOURCES

__all__ = ["condition_label", "draw_graph", "draw_method"]
__all__ += ["plot_best_graphs", "plot_claim_card", "plot_gate_curves"]

SPLITS = {"val": "validation", "test": "test"}  # that a search selects on
LETTERS = dict(zip(CONDITIONS, "abcd", strict=True))
CENTRED = {"ha": "center", "va": "center"}
RIM = {"ec": "#444444", "lw": 1}
TARGET_RIM = {"ec": TARGET_RED, "lw": 2.4}


class Layout(NamedTuple):
    """Where nodes are drawn, in units of the circle that holds them; `font` in points."""

    centres: np.ndarray  # (n, 2)
    outward: np.ndarray  # (n, 2), unit vectors to where label edges begin
    radius: float
    font: float


def node_name(node: Node) -> str:
    """The paper's short names: RN18, PIRN18 (ImageNet-1k), PFRN18; legends tell narrow ones."""
    arch = node.arch.split("_")[0].replace("resnet", "RN")
    return (SOURCES[node.init].short if node.init in SOURCES else "P") + arch


def draw_graph(
    graph: Graph, ax: Axes | None = None, title: str = "", accuracy: float | None = None
) -> Axes:
    """A graph with its target circled in red, and an arrow with its gate's letter per open edge.

    The colour of a node is its start; one that cannot influence the target is dimmed. Readable up
    to six nodes. `ax`: where, by default a figure of its own. `accuracy`: in percent, at node 1.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(style.COLUMN, style.COLUMN), layout="constrained")
    ax.set_title(title)
    ax.axis("off")
    layout = _lay_out(ax, graph.size)
    circles = [_draw_node(ax, graph, layout, i, accuracy) for i in range(graph.size)]
    for t in range(graph.size):
        for s in graph.sources(t):
            _draw_edge(ax, layout, circles, (s, t), graph.gates[t][s])
    return ax


def _lay_out(ax: Axes, n: int) -> Layout:
    """Nodes on a circle, the target on top; two side by side. Sets the limits of the axes."""
    outward = _circle(n)
    centres = outward * (n > 1)
    radius = 0.36 if n < 4 else 0.45 * math.sin(math.pi / n)
    if n == 2:
        centres, outward = np.array([[-0.87, 0], [0.87, 0]]), np.array([[0, 1], [0, 1]])
    labels = centres + outward * (radius + 0.56)
    reach = np.concatenate([centres - radius, centres + radius, labels])
    low, high = reach.min(0), reach.max(0)
    # a graph of fewer nodes is drawn no larger than one of three, so that panels can be compared
    room = np.maximum(high - low + [0.44, 0.16], [3.77, 2.6])
    low = (low + high - room) / 2
    ax.set(xlim=(low[0], low[0] + room[0]), ylim=(low[1], low[1] + room[1]), aspect="equal")
    ax.set_anchor("N")  # titles stay on one line
    size = ax.get_figure(root=True).get_size_inches()
    if spec := ax.get_subplotspec():
        size = size / spec.get_gridspec().get_geometry()[::-1]
    inches = min(size * [1, 0.85]) * 2 * radius / room.max()  # there may be a title
    return Layout(centres, outward, radius, min(9, 72 * inches / 4.8))


def _circle(n: int) -> np.ndarray:
    """n places on the unit circle, (n, 2), the first on top, then clockwise."""
    angles = math.pi / 2 - 2 * math.pi * np.arange(n) / n
    return np.array([np.cos(angles), np.sin(angles)]).T


def _draw_node(ax: Axes, graph: Graph, layout: Layout, i: int, accuracy: float | None) -> Circle:
    centre = layout.centres[i]
    rim = RIM if i else TARGET_RIM | {"lw": 0.32 * layout.font}
    circle = Circle(centre, layout.radius, fc=source_fill(graph.nodes[i].init), zorder=3, **rim)
    circle.set_alpha(1 if i in graph.reaching_target() else 0.35)
    ax.add_patch(circle)
    lines = [node_name(graph.nodes[i])] + ([] if i or accuracy is None else [f"{accuracy:.1f} %"])
    # two lines reach nearer to the rim
    size = layout.font * min(1, 6 / max(map(len, lines))) * (1 if len(lines) == 1 else 0.85)
    ax.text(*centre, "\n".join(lines), fontsize=size, zorder=5, **CENTRED)
    aside = layout.outward[i] @ np.array([[0.77, -0.64], [0.64, 0.77]])
    size = min(8, 0.9 * layout.font)
    place = centre + (layout.radius + 0.13) * aside
    ax.text(*place, i + 1, fontsize=size, color=GREY, **CENTRED)
    return circle


def _draw_edge(
    ax: Axes, layout: Layout, circles: list[Circle], ends: tuple[int, int], gate: str
) -> None:
    """The edge from node s to node t, `ends`, in the style of its gate; s = t is the label edge."""
    s, t = ends
    end = layout.centres[t]
    outward = layout.outward[t]
    start = end + outward * (layout.radius + 0.56) if s == t else layout.centres[s]
    colour, line, letter = style.gate_style(gate)
    alpha = circles[t].get_alpha()
    bend = 0 if s == t else 0.16  # both directions are seen
    shape = {"patchA": None if s == t else circles[s], "patchB": circles[t], "ec": colour}
    shape |= {"connectionstyle": f"arc3,rad={bend}", "shrinkA": 0, "alpha": alpha, "zorder": 2}
    # line and head apart: dashes would fray the head
    line = {"arrowstyle": "-", "ls": line, "lw": 1.6 if len(circles) < 5 else 1.1, "shrinkB": 4}
    head = {"arrowstyle": "-|>", "fc": colour, "lw": 0, "shrinkB": 1}
    for look in (line, head):
        patch = FancyArrowPatch(start, end, mutation_scale=1.4 * layout.font, **shape, **look)
        ax.add_artist(patch)
    words = {"fontweight": "bold", "fontsize": 0.95 * layout.font, "color": colour, "alpha": alpha}
    if s == t:
        aside = 0.85 * layout.font * np.array([outward[1], -outward[0]])
        place = {"xytext": aside, "textcoords": "offset points"}
        ax.annotate(letter, start + 0.35 * (end - start), **place, **words, **CENTRED)
        box = {"fc": "white", "ec": "none", "pad": 1.5}
        size = min(8, layout.font)
        ax.text(*start, "label", fontsize=size, color="#555555", bbox=box, **CENTRED)
    else:
        # on the arc: off its middle, where edges cross, and off its head
        dx, dy = end - start
        hidden = layout.radius / math.hypot(dx, dy)
        part = hidden + (0.45 if len(circles) < 4 else 0.3) * (1 - 2 * hidden)
        where = start + part * (end - start) + 2 * part * (1 - part) * bend * np.array([dy, -dx])
        box = {"boxstyle": "circle,pad=0.08", "fc": "white", "ec": "none"}
        ax.text(*where, letter, zorder=4, bbox=box, **words, **CENTRED)


def gate_legend() -> list[Line2D]:
    """Legend entries of the gates that are drawn, which are all but Cutoff."""
    looks = {gate: style.gate_style(gate) for gate in GATES if gate != "cutoff"}
    return [
        Line2D([], [], color=colour, ls=line, lw=1.6, label=f"{letter}: {gate.title()}")
        for gate, (colour, line, letter) in looks.items()
    ]


def init_legend(graphs: Sequence[Graph]) -> list:
    """Legend entries of the starts that occur, and of narrow networks."""
    nodes = {node.init: node for graph in graphs for node in graph.nodes}
    entries = []
    for init in sorted(nodes, key=lambda init: [*SOURCES, init].index(init)):
        words = f"{node_name(nodes[init])}: {style.source_title(init)}"
        entries.append(Patch(fc=source_fill(init), ec="#444444", label=words))
    for arch in sorted({node.arch for graph in graphs for node in graph.nodes} & set(NARROW)):
        words = f"RN18 at 1/{64 // NARROW[arch]} of its width"
        entries.append(Line2D([], [], ls="none", label=words))
    return entries


# ---- the paper's figures


def draw_method() -> Figure:
    """The paper's Figure 1: Step 1 pre-training, Step 2 initialisation, Step 3 the search."""
    steps = {
        "Step 1:\npre-train single models": "on a pre-training set,\nor not at all",
        "Step 2:\ninitialise the nodes": "a choice for every node",
        "Step 3:\nsearch the graph": "starts and gates, on the\nfine-tuning set",
    }
    figure, axes = style.panels(steps, 2.9, width_ratios=[1, 1, 1.1])
    data = {"imagenet1k": "ImageNet\n-1k", "fractaldb1k": "FractalDB\n-1k"}
    data["scratch"] = "random\nnumbers"
    gates = "through correct linear", "cutoff linear through", "through cutoff through"
    nodes = [Node("resnet18", init) for init in data]
    draw_graph(Graph(nodes, [row.split() for row in gates]), ax=axes[2])
    for axis, (heading, below) in zip(axes, steps.items(), strict=True):
        axis.axis("off")
        axis.set_title(heading, fontsize=9, fontweight="bold")
        under = {"transform": axis.transAxes, "ha": "center", "va": "top", "color": "#555555"}
        axis.text(0.5, -0.02, below, fontsize=7.5, **under)
    left, middle, _ = axes
    for axis in (left, middle):
        axis.set(xlim=(-1.85, 1.8), ylim=(-1.4, 1.4))
    heights = 1.0, 0.0, -1.0
    for y, init in zip(heights, data, strict=True):
        name = node_name(Node("resnet18", init))
        fill = source_fill(init)
        _box(left, (-1.2, y), data[init], "#EEEEEE")
        _arrow(left, (-0.59, y), (0.54, y), "no\ntraining" if init == "scratch" else "train")
        _box(left, (1.15, y), name, fill)
        _box(middle, (-1.2, y), name, fill)
        for other in heights:  # what could have been chosen, paler and below what was
            _arrow(middle, (-0.59, y), (0.53, other), colour=BLACK if y == other else "#A8A8A8")
        label = f"node {2 - y:.0f}" + ("\n(target)" if y == 1 else "")
        _box(middle, (1.15, y), label, fill, TARGET_RIM if y == 1 else RIM)
    style.legend_below(figure, gate_legend())
    return figure


def _box(ax: Axes, centre: tuple[float, float], text: str, face: str, rim: Mapping = RIM) -> None:
    x, y = centre
    corner = x - 0.55, y - 0.2
    shape = {"boxstyle": "round,pad=0.06", "fc": face, "zorder": 3}
    ax.add_patch(FancyBboxPatch(corner, 1.1, 0.4, **shape, **rim))
    ax.text(x, y, text, fontsize=8, zorder=4, **CENTRED)


def _arrow(ax: Axes, start: tuple, end: tuple, text: str = "", colour: str = BLACK) -> None:
    shape = {"arrowstyle": "-|>", "color": colour, "lw": 1.3, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=shape, zorder=2 if colour == BLACK else 1)
    ax.text((start[0] + end[0]) / 2, start[1] + 0.1, text, ha="center", fontsize=8)


def in_order(summaries: Iterable[str]) -> list[str]:
    """The conditions that there are, in the paper's order (a) to (d)."""
    return [name for name in CONDITIONS if name in summaries]


def condition_label(name: str, summaries: Summaries) -> str:
    """ "(b) ImageNet-1k": the paper's letter and the sources."""
    return f"({LETTERS[name]}) {claims.condition_title(name, summaries)}"


def plot_best_graphs(summaries: Summaries, table1: Records = ()) -> Figure:
    """The paper's Figure 2: the best graph of every condition, its accuracy with new seeds, that of
    its target alone in `table1`, its gain over that, and over (a), by the rule of the claims."""
    order = in_order(summaries)
    figure, axes = style.panels([""] * len(order), 3.3, columns=2)
    arms = claims.search_arms(summaries, table1)
    gaps = claims.winner_gaps(summaries, table1)
    graphs = []
    for axis, name in zip(axes, order, strict=True):
        axis.axis("off")
        lines = [plain(condition_label(name, summaries)), "no trial was completed", "", "", ""]
        if best := summaries[name]["best"]:
            graphs.append(Graph.from_dict(best["graph"]))
            top = arms.get((name, "top 1"))
            draw_graph(graphs[-1], axis, accuracy=top and top.mean)
            lines[0] += " (a single network)" * (len(graphs[-1].reaching_target()) == 1)
            # five lines, some of them empty, so that the titles of all panels are equally high
            lines[1] = _mean_text(top) if top else ""
            if (alone := arms[name, "independent"]).n:
                lines[2] = f"target alone: {_mean_text(alone)}"
            if name in gaps:
                lines[3] = f"difference: {claims.effect_text(gaps[name])}"
            gain = stats.contrast(arms, {(name, "top 1"): 1.0, ("none", "top 1"): -1.0})
            if name != "none" and gain["n"]:
                lines[4] = f"over (a): {claims.effect_text(gain)}"
        axis.set_title("\n".join(lines))
    says = "node 1, test, new seeds: mean ± standard deviation"
    if any("[" in axis.get_title() for axis in axes):
        says += "; differences with 95 % intervals"
    style.legend_below(figure, [*gate_legend(), *init_legend(graphs)], says)
    return figure


def _mean_text(arm: stats.Arm) -> str:
    """ "51.50 ± 2.12 % (n = 2)"; of one run without its spread."""
    spread = f" ± {arm.std:.2f}" if arm.n > 1 else ""
    return f"{arm.mean:.2f}{spread} % (n = {arm.n})"


# ---- claims and gates


def plot_claim_card(source: str, n: int = 3) -> Figure:
    """The claims C0 to C3 as differences: the mean of these graphs minus the mean of those, of `n`
    nodes each, but no more than three; pre-trained ones start from `source`."""
    n, nodes = min(n, 3), n
    contrasts = claims.primaries(ablation.patterns(n))
    shown = "C1", "C2", "C3", "C0"
    figure, axes = style.panels([""] * len(shown), 0.85, columns=1)
    for axis, claim in zip(axes, shown, strict=True):
        axis.set_title(f"{claim}: {claims.CLAIMS[claim]}", loc="left")
        axis.axis("off")
        axis.set(xlim=(-0.1, 13), ylim=(-0.55, 0.55), aspect="equal", anchor="W")
        x = 0.0
        if claim == "C0":  # from scratch, too
            x = _draw_difference(axis, x, {"none": 1.0, "alone": -1.0}, source, n) + 1.5
        _draw_difference(axis, x, contrasts[claim], source, n)
    handles = [Patch(fc="none", ec=TARGET_RED, lw=1.8, label="node 1, the target")]
    for start in ("scratch", source):
        look = {"fc": source_fill(start), "ec": "#444444"}
        handles.append(Patch(label=style.source_title(start), **look))
    note = f"drawn for graphs of three nodes; those here have {nodes}" if nodes > n else ""
    style.legend_below(figure, handles, note)
    return figure


def _draw_difference(
    ax: Axes, x: float, weights: Mapping[str, float], source: str, n: int
) -> float:
    """A contrast of patterns from `x` on: "mean of (these) − mean of (those)"; where it ends.
    "alone" is the target of the graph before it, with the same start."""

    def write(x: float, text: str) -> float:
        ax.text(x, 0, text, va="center", fontsize=8)
        return x + 0.145 * len(text)

    sides = [[name for name, w in weights.items() if w * sign > 1e-9] for sign in (1, -1)]
    scale = sum(weights[name] for name in sides[0])
    scaled = abs(scale - 1) > 1e-9
    x = write(x, f"{scale:.2g} × (" if scaled else "")
    for side, minus in zip(sides, ("", "  −  "), strict=True):
        x = write(x, minus + ("mean of" if len(side) > 1 else ""))
        for name in side:
            pattern = (sides[0][0] if name == "alone" else name).split("+")
            nodes = range(1, 2 if name == "alone" else n + 1)
            starts = [source if str(node) in pattern else "scratch" for node in nodes]
            _draw_mini(ax, x + 0.5, starts)
            x += 1.15
    return write(x, ")" if scaled else "")


def _draw_mini(ax: Axes, x: float, starts: Sequence[str]) -> None:
    """A graph as a thumbnail: a disc per node, in the colour of its start, all joined."""
    n = len(starts)
    places = _circle(n) * 0.33 * (n > 1) + [x, -0.05]
    for i, (place, start) in enumerate(zip(places, starts, strict=True)):
        for other in places[:i]:
            ax.plot(*zip(place, other, strict=True), color=GREY, lw=0.8, zorder=1)
        rim = RIM if i else TARGET_RIM | {"lw": 1.8}
        ax.add_patch(Circle(place, 0.17, fc=source_fill(start), zorder=2, **rim))


def plot_gate_curves() -> Figure:
    """The gates as functions: of training progress, and of the share that the source knows."""
    titles = "with half of the batch known to the source", "with half of the training done"
    figure, (left, right) = style.panels(titles, 2.6, sharey=True)
    losses = torch.ones(100)
    known = torch.arange(100)
    progress = np.linspace(0.02, 1, 50)
    shares = np.linspace(0, 1, 51)
    for name, gate in GATES.items():
        colour, line, _ = style.gate_style(name)
        values = [gate(losses, known < 50, done).item() for done in progress]
        left.plot(progress, values, color=colour, ls=line)
        values = [gate(losses, known < 100 * share, 0.5).item() for share in shares]
        right.plot(shares, values, color=colour, ls=line, label=name.title())
    left.set(xlabel="progress k/K", ylabel="output, where every loss is 1")
    right.set(xlabel="share of the batch known to the source")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
