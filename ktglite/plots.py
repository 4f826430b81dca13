"""Every figure: functions that take graphs, records or summaries and return a matplotlib Figure or Axes.

One style, safe for colour-blind readers: what a colour says, a line style or a letter says too. Nothing is computed
here that a table would need; means, intervals and contrasts come from `stats` and `ablation`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from ktglite import ablation, stats
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
    "cutoff": ("#999999", "-", "×"),
}
INIT_COLOURS = {
    "scratch": "#FFFFFF",
    "imagenet1k": "#F6CF7E",
    "imagenet1k_standin": "#F3DDB3",
    "fractaldb1k": "#A9D8F2",
}
PREFIXES = {"scratch": "", "imagenet1k": "PI", "fractaldb1k": "PF", "imagenet1k_standin": "SI"}
TARGET_RED = "#D00000"
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
    graph: Graph, ax: Axes | None = None, title: str = "", accuracy: float | None = None, legend: bool = False
) -> Axes:
    """A graph with its target circled in red, and an arrow for every open edge: T Through, L Linear, C Correct.

    Cut edges are absent; a node that cannot influence the target is dimmed. `accuracy` (%) is written at node 1.
    Readable up to about six nodes.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
    angles = math.pi / 2 - 2 * math.pi * np.arange(graph.size) / graph.size
    place = {i: (math.cos(a), math.sin(a)) for i, a in enumerate(angles)}
    place |= {f"y{i}": (1.95 * math.cos(a), 1.95 * math.sin(a)) for i, a in enumerate(angles)}
    heard, size = graph.reaching_target(), 1150 / max(1, (graph.size - 1) / 2.5)
    edges = {}
    for t in range(graph.size):
        for s in graph.sources(t):
            edges[f"y{t}" if s == t else s, t] = graph.gates[t][s]
    drawn = nx.DiGraph(list(edges))
    drawn.add_nodes_from(range(graph.size))
    colours = [INIT_COLOURS.get(node.init, "#DDD0EA") for node in graph.nodes]
    for i, colour in enumerate(colours):
        red, alpha = (TARGET_RED, 1) if i == 0 else ("#444444", 1 if i in heard else 0.35)
        shape = dict(node_size=size, node_color=colour, edgecolors=red, linewidths=3 if i == 0 else 1.2, alpha=alpha)
        nx.draw_networkx_nodes(drawn, place, [i], ax=ax, **shape)
    for (s, t), gate in edges.items():
        colour, line, letter = GATE_STYLES.get(gate, (PINK, "-.", gate[0].upper()))
        alpha = 1.0 if t in heard else 0.35
        curve = "arc3,rad=0.0" if isinstance(s, str) else "arc3,rad=0.16"
        shape = dict(node_size=[60 if isinstance(n, str) else size for n in drawn], arrowsize=13, width=1.6)
        nx.draw_networkx_edges(
            drawn, place, [(s, t)], ax=ax, edge_color=colour, style=line, connectionstyle=curve, alpha=alpha, **shape
        )
        nx.draw_networkx_edge_labels(
            drawn, place, {(s, t): letter}, ax=ax, font_color=colour, font_size=8, font_weight="bold",
            connectionstyle=curve, rotate=False, label_pos=0.3 if isinstance(s, str) else 0.42, alpha=alpha,
            bbox=dict(boxstyle="circle,pad=0.12", fc="white", ec="none", alpha=0.9),
        )  # fmt: skip
    for i, node in enumerate(graph.nodes):
        text = node_name(node) + (f"\n{accuracy:.1f} %" if i == 0 and accuracy is not None else "")
        ax.text(*place[i], text, ha="center", va="center", fontsize=7.5 if graph.size < 5 else 6, zorder=5)
        if graph.learns(i) and i in graph.sources(i):
            x, y = place[f"y{i}"]
            ax.text(1.08 * x, 1.08 * y, "label", ha="center", va="center", fontsize=7, color="#555555")
    x, y = np.array([place[i] for i in place]).T
    ax.set(xlim=(min(-1.5, x.min() - 0.4), max(1.5, x.max() + 0.4)), ylim=(y.min() - 0.4, y.max() + 0.4))
    ax.set(aspect="equal", title=title)
    ax.axis("off")
    if legend:
        ax.legend(handles=gate_legend() + init_legend([graph]), fontsize=6, loc="lower center", ncols=3, frameon=False)
    return ax


def gate_legend() -> list[Line2D]:
    """Legend entries of the gates that are drawn."""
    shown = [gate for gate in GATES if gate != "cutoff"]
    styles = {gate: GATE_STYLES.get(gate, (PINK, "-.", gate[0].upper())) for gate in shown}
    return [Line2D([], [], color=c, ls=line, label=f"{letter}: {gate}") for gate, (c, line, letter) in styles.items()]


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
    figure, axes = plt.subplots(1, 3, figsize=(PAGE * 1.3, 3.3), layout="constrained", width_ratios=[1.1, 1, 1.1])
    titles = ("Step 1: pre-train single models", "Step 2: initialise the nodes", "Step 3: search the graph")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlim=(-2.05, 2.05), ylim=(-1.6, 1.6), aspect="equal")
        axis.axis("off")
    names = {"imagenet1k": "ImageNet-1k", "fractaldb1k": "FractalDB-1k", "scratch": "random numbers"}
    for y, (init, name) in zip((1.1, 0, -1.1), names.items(), strict=True):
        box(axes[0], -1.25, y, name, "#EEEEEE")
        box(axes[0], 1.15, y, node_name(Node("resnet18", init)), INIT_COLOURS[init])
        arrow(axes[0], (-0.55, y), (0.5, y), "train" if init != "scratch" else "none")
    inits = ("scratch", "imagenet1k", "fractaldb1k")
    for i, y in enumerate((1.1, 0, -1.1)):
        box(
            axes[1],
            -1.0,
            y,
            f"node {i + 1}" + (" (target)" if i == 0 else ""),
            "white",
            TARGET_RED if i == 0 else "#444444",
        )
        for j, (y2, other) in enumerate(zip((1.1, 0, -1.1), inits, strict=True)):
            chosen = i == j
            arrow(axes[1], (0.75, y2), (-0.25, y), "", BLACK if chosen else "#CCCCCC")
            box(axes[1], 1.3, y2, node_name(Node("resnet18", other)), INIT_COLOURS[other])
    nodes = tuple(Node("resnet18", init) for init in inits)
    gates = [["through", "correct", "linear"], ["cutoff", "linear", "through"], ["through", "cutoff", "through"]]
    draw_graph(Graph(nodes, gates), ax=axes[2], title=titles[2])
    figure.legend(handles=gate_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def box(ax: Axes, x: float, y: float, text: str, face: str, edge: str = "#444444") -> None:
    """A rounded box with a text in it."""
    shape = FancyBboxPatch((x - 0.62, y - 0.22), 1.24, 0.44, boxstyle="round,pad=0.05", fc=face, ec=edge, zorder=3)
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=7.5, zorder=4)


def arrow(ax: Axes, start: tuple, end: tuple, text: str = "", colour: str = BLACK) -> None:
    """An arrow with a word over it."""
    ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=colour, lw=1.3))
    ax.text((start[0] + end[0]) / 2, start[1] + 0.14, text, ha="center", fontsize=7.5)


def plot_best_graphs(summaries: Mapping[str, Mapping]) -> Figure:
    """The paper's Figure 2: the best graph of every condition, its accuracy with fresh seeds, and its gain over (a)."""
    order = [name for name in ("none", "imagenet1k", "fractaldb1k", "mixed") if name in summaries]
    figure, axes = plt.subplots(1, len(order), figsize=(3.1 * len(order), 4), squeeze=False, layout="constrained")
    arms, graphs = {}, []
    for letter, name, axis in zip("abcd", order, axes[0], strict=False):
        summary = summaries[name]
        top = next((entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None)
        text = f"({letter}) {ablation.condition_title(name, summaries)}".replace(" + ", "\n+ ")
        if summary["best"] is None:
            axis.set_title(f"{text}\nno trial was completed")
            axis.axis("off")
            continue
        graphs.append(Graph.from_dict(summary["best"]["graph"]))
        draw_graph(graphs[-1], ax=axis, accuracy=None if top is None else float(np.mean(top["test_accuracy"])))
        axis.set_title(text, fontsize=9)
        if top is not None:
            arms[name] = stats.arm(dict(zip(top["seeds"], top["test_accuracy"], strict=True)))
            note = f"{arms[name].mean:.2f} ± {arms[name].std:.2f} % (n = {arms[name].n})"
            if name != "none" and "none" in arms:
                gain = stats.compare(arms[name], arms["none"])
                note += f"\nover (a): {gain['effect']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
            axis.text(0.5, -0.04, note, transform=axis.transAxes, ha="center", va="top", fontsize=8)
    handles = gate_legend() + init_legend(graphs)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


# ---- Table 1


def marks(pattern: str, n: int) -> str:
    """A row's name as in the table: "✓ – ✓"."""
    return " ".join("✓" if str(i + 1) in pattern.split("+") else "–" for i in range(n))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean, for seaborn."""
    found = stats.summary(values)
    return found["low"], found["high"]


def plot_table1(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """A point per run, mean and 95 % interval per pattern; the paper's mean ± std beside, on an axis of its own."""
    sources = list(sources or ablation.sources_of(records))
    n = ablation.count_nodes(records)
    order = [marks(pattern, n) for pattern in ablation.patterns(n)]
    table = ablation.tidy(records, sources)
    table["row"] = [marks(pattern, n) for pattern in table["pattern"]]
    paper = ablation.paper_arms(sources) if n == 3 else {}
    ratios = [ratio for _ in sources for ratio in ([3, 2] if paper else [3])]
    figure, axes = plt.subplots(
        1,
        len(ratios),
        figsize=(2.4 * len(ratios), 3.6),
        sharey=True,
        squeeze=False,
        width_ratios=ratios,
        layout="constrained",
    )
    panels = iter(axes[0])
    for source in sources:
        axis, part = next(panels), table[table.source == source]
        sns.stripplot(part, x="accuracy", y="row", order=order, ax=axis, color=SKY, size=4, jitter=0.12)
        sns.pointplot(
            part, x="accuracy", y="row", order=order, ax=axis, color=BLUE, errorbar=t_interval, linestyle="none",
            markers="D", markersize=4, err_kws={"linewidth": 1.4},
        )  # fmt: skip
        runs = part.groupby("pattern").size()
        axis.set(title=f"{ablation.title(source)}\nthis run, n = {runs.min()}", xlabel="accuracy of node 1 (%)")
        axis.set_ylabel("pre-trained: nodes 1 2 3" if n == 3 else "pre-trained nodes")
        if paper:
            axis, arms = next(panels), [paper[source, pattern] for pattern in ablation.patterns(n)]
            axis.errorbar([a.mean for a in arms], order, xerr=[a.std for a in arms], fmt="s", color=BLACK, ms=4, lw=1)
            axis.set(
                title=f"paper, {ablation.title(ablation.paper_source(source))}\nmean ± std, n = 3",
                xlabel="accuracy (%)",
            )
    return figure


def plot_learning_curves(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """Validation accuracy of node 1 after every epoch, by pattern: mean, and the range over seeds."""
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
        if record["label"] == "none" or record["label"].startswith(f"{source}/")
        for epoch in record["epochs"]
    ]
    table, order = pd.DataFrame(rows), [marks(pattern, n) for pattern in ablation.patterns(n)]
    dashes = {row: "" if row.startswith("✓") else (3, 1.5) for row in order}
    figure, axes = plt.subplots(
        1, len(sources), figsize=(4.2 * len(sources), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, source in zip(axes[0], sources, strict=True):
        last = source == sources[-1]
        sns.lineplot(
            table[table.source == source], x="epoch", y="accuracy", hue="pre-trained", style="pre-trained", ax=axis,
            hue_order=order, style_order=order, dashes=dashes, errorbar=("pi", 100), err_kws={"alpha": 0.12},
            legend=last,
        )  # fmt: skip
        axis.set(title=ablation.title(source), ylabel="validation accuracy of node 1 (%)")
    sns.move_legend(
        axes[0, -1], "center left", bbox_to_anchor=(1, 0.5), frameon=False, title="pre-trained\nnodes 1 2 3"
    )
    return figure


def plot_main_effects(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> Figure:
    """What pre-training node 1, 2 or 3 adds on average over the states of the others, with 95 % intervals."""
    sources = list(sources or ablation.sources_of(records))
    patterns = ablation.patterns(ablation.count_nodes(records))
    panels = {"this run": ablation.run_arms(records, sources), "paper": ablation.paper_arms(sources)}
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.8), layout="constrained")
    for axis, (name, arms) in zip(axes, panels.items(), strict=True):
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
        axis.set(title=name, xlabel="node that is pre-trained", ylabel="effect on node 1 (points)")
        axis.set_xticks(range(1, ablation.count_nodes(records) + 1))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    return figure


# ---- the search


def plot_search(summary: Mapping, ax: Axes | None = None) -> Axes:
    """Every trial as a line over its epochs: those stopped early thin and grey, those trained to the end coloured."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN * 1.2, 3), layout="constrained")
    for trial in summary["trials"]:
        steps, done = range(1, len(trial["values"]) + 1), trial["state"] == "COMPLETE"
        shape = dict(color=BLUE, lw=1.4, zorder=3) if done else dict(color="#888888", lw=0.7, alpha=0.6)
        ax.plot(steps, trial["values"], marker="o" if len(trial["values"]) == 1 else None, ms=2, **shape)
    search, epochs = summary["search"], summary["training"]["epochs"]
    rung = search["min_resource"] * search["reduction_factor"] ** search["min_early_stopping_rate"]
    while rung < epochs and search["pruner"] == "asha":
        ax.axvline(rung, color=ORANGE, ls=":", lw=1, zorder=0)
        rung *= search["reduction_factor"]
    done = summary["states"].get("COMPLETE", 0)
    name = ablation.condition_title(summary["condition"], {summary["condition"]: summary}).replace(" + ", "\n+ ")
    ax.set(title=f"{name}\n{len(summary['trials'])} trials, {done} to the end", xlabel="epoch")
    ax.set_ylabel(f"{summary['select_on']} accuracy of node 1 (%)")
    return ax


def plot_searches(summaries: Mapping[str, Mapping]) -> Figure:
    """`plot_search` for every condition; dotted lines are the rungs."""
    order = [name for name in ("none", "imagenet1k", "fractaldb1k", "mixed") if name in summaries]
    figure, axes = plt.subplots(
        1, len(order), figsize=(2.9 * len(order), 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], order, strict=True):
        plot_search(summaries[name], ax=axis)
        axis.label_outer()
    return figure


def plot_optimism(summaries: Mapping[str, Mapping]) -> Figure:
    """What each search promised, and what its best graph and the baselines gave with fresh seeds on the test split."""
    order = [name for name in ("none", "imagenet1k", "fractaldb1k", "mixed") if name in summaries]
    titles = {name: ablation.condition_title(name, summaries).replace(" + ", "\n+ ") for name in order}
    rows = [
        {"condition": titles[name], "graph": entry["label"], "accuracy": accuracy}
        for name in order
        for entry in summaries[name]["reevaluated"]
        for accuracy in entry["test_accuracy"]
    ]
    figure, axis = plt.subplots(figsize=(PAGE, 3.4), layout="constrained")
    table = pd.DataFrame(rows, columns=["condition", "graph", "accuracy"])
    sns.pointplot(
        table, x="condition", y="accuracy", hue="graph", order=list(titles.values()), ax=axis, dodge=0.45,
        errorbar=t_interval, linestyle="none", markersize=4, err_kws={"linewidth": 1.3},
    )  # fmt: skip
    promised = [summaries[name]["selection_value"] for name in order]
    split = "/".join(sorted({summaries[name]["select_on"] for name in order}))
    axis.scatter(
        range(len(order)), promised, marker="*", s=70, color=BLACK, label=f"best in the search ({split})", zorder=4
    )
    axis.set(xlabel="", ylabel="accuracy of node 1 (%)")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="mean, 95 % interval")
    return figure


# ---- gates, images, pre-training


def plot_gate_curves() -> Figure:
    """The gates as functions: of training progress, and of what share of a batch the source answers correctly."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.6), sharey=True, layout="constrained")
    progress, losses = np.linspace(0.02, 1, 50), torch.ones(100)
    shares = np.linspace(0, 1, 51)
    for name, gate in GATES.items():
        colour, line, _ = GATE_STYLES.get(name, (PINK, "-.", ""))
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
    """Training accuracy over the images seen, from a model card."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    curve = pd.DataFrame(card["curve"])
    ax.plot(curve["images"].cumsum() / 1000, curve["accuracy"], marker="o", ms=3, color=BLUE)
    ax.axhline(100 / card["classes"], color=BLACK, lw=0.8, ls=":", label="guessing")
    ax.set(title=ablation.title(card["source"]), xlabel="images seen (thousands)", ylabel="training accuracy (%)")
    ax.legend(frameon=False)
    return ax


def plot_filters(weight, ax: Axes | None = None, columns: int = 8) -> Axes:
    """The filters of a first layer, (O, 3, k, k), as colour pictures, each scaled to its own range."""
    weight = np.asarray(weight, float)
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
    figure: Figure, folder: str | Path, name: str, formats: Sequence[str] = ("pdf", "png"), note: str = ""
) -> list[Path]:
    """Write a figure as `<folder>/<name>.<format>`; the same figure gives the same bytes. `note` goes into the file."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    metadata = {
        "pdf": {"CreationDate": None, "ModDate": None, "Subject": note},
        "svg": {"Date": None, "Description": note},
        "png": {"Description": note},
    }
    paths = []
    for kind in formats:
        if kind not in metadata:
            raise ValueError(f"format is {kind!r}: allowed are {', '.join(metadata)}")
        paths.append(Path(folder) / f"{name}.{kind}")
        figure.savefig(paths[-1], metadata=metadata[kind], dpi=150, bbox_inches="tight")
    return paths


def draw_all(records: str | Path, folder: str | Path, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Every figure that the records of a run give, written to `folder`. Trains nothing.

    Raises FileNotFoundError when `records` has neither `table1.json` nor a search.
    """
    records = Path(records)
    figures = {"figure1_method": draw_method, "gates": plot_gate_curves}
    use_style()
    if (records / "table1.json").exists():
        runs = json.loads((records / "table1.json").read_text())
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
            "search_optimism": lambda: plot_optimism(summaries),
        }
    if len(figures) == 2:
        raise FileNotFoundError(f"{records} has no table1.json and no search/*.json: give the folder of a run")
    paths = []
    for name, draw in figures.items():
        figure = draw()
        paths += save_figure(figure, folder, name, formats, note=f"records {records.name}")
        plt.close(figure)
    return paths
