"""An explorer of three-node graphs for the first notebook: choose gates and initialisations, see
what they mean, train.

What it says about a graph (`formulas`, `influence`, `known_method`) are plain functions of the
graph; the widgets only show it. Where no front end is alive, the same output is a picture.
"""

import asyncio
import base64
import html
import io
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import ipywidgets as widgets
from matplotlib.figure import Figure

from ktglite import figures as plots
from ktglite.data import Data
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
from ktglite.models import WEIGHT_SUFFIXES
from ktglite.sources.datasets import load_data
from ktglite.trainer import TrainConfig, epochs

__all__ = ["explore"]

CUT = "cutoff"
PRESETS = {  # gates and transfer weight of three nodes; their initialisations stay as they are
    "independent": ([["through", CUT, CUT], [CUT, "through", CUT], [CUT, CUT, "through"]], 1.0),
    "distillation: node 2 is fixed": ([["through", "through", CUT], [CUT] * 3, [CUT] * 3], 1.0),
    "mutual learning": ([["through"] * 3] * 3, 0.5),
    "Table 1: all Through": ([["through"] * 3] * 3, 1.0),
    "a chain: 3 → 2 → 1": (
        [["through", "linear", CUT], [CUT, "through", "correct"], [CUT, CUT, "through"]],
        1.0,
    ),
}
SYMBOLS = {
    "through": "",
    "linear": r"\frac{k}{K}\,",
}  # of a loss inside the batch mean; Correct names its source


# ---- what can be said of a graph


def formulas(graph: Graph) -> list[str]:
    """The loss of every node that is trained, as LaTeX without dollar signs; it reads as in
    `edge_losses`.

    Every gate is a batch mean of something, so that one mean stands in front: Linear weighs its
    term with k/K, Correct with 1 where the source is right. A gate added to `GATES` stands as a
    function of that name.
    """
    weight = "" if graph.transfer_weight == 1 else latex_number(graph.transfer_weight) + r"\,"
    lines = []
    for t in sorted(graph.reaching_target()):
        terms = []
        for s in sorted(graph.sources(t), key=lambda s: s != t):  # the label first
            gate = (
                "through" if s == t and graph.gates[t][s] == "correct" else graph.gates[t][s]
            )  # labels are right
            front = "" if s == t else weight + r"T^2\,"
            loss = (
                rf"\mathrm{{CE}}(p_{t + 1}, y)"
                if s == t
                else rf"\mathrm{{KL}}(p_{s + 1}\,\|\,p_{t + 1})"
            )
            if gate == "correct":
                front += rf"[\hat y_{s + 1} = y]\,"
            elif gate in SYMBOLS:
                front += SYMBOLS[gate]
            else:
                loss = rf"\mathrm{{{gate}}}({loss})"
            terms.append(front + loss)
        if terms:
            lines.append(rf"L_{t + 1} = \mathrm{{mean}}\left[\," + " + ".join(terms) + r"\,\right]")
    return lines


def latex_number(value: float) -> str:
    """1/2 as a fraction, 0.3141 as it is."""
    nice = Fraction(value).limit_denominator(12)
    if abs(nice - value) > 1e-9 or nice.denominator == 1:
        return f"{value:g}"
    return rf"\frac{{{nice.numerator}}}{{{nice.denominator}}}"


def influence(graph: Graph) -> str:
    """Which nodes can change node 1's result, which cannot, and which are fixed teachers, in sentences."""
    heard = sorted(graph.reaching_target() - {0})
    deaf = [i for i in range(1, graph.size) if i not in heard]
    far = [i for i in heard if i not in graph.sources(0)]
    fixed = [i for i in heard if not graph.learns(i)]
    if not heard:
        return "No other node can influence node 1" + (", and none is trained." if deaf else ".")
    said = [f"{names(heard)} can influence node 1."]
    if far:
        said.append(f"{names(far)} {'does' if len(far) == 1 else 'do'} so only by way of others.")
    if deaf:
        said.append(f"{names(deaf)} cannot, and {'is' if len(deaf) == 1 else 'are'} not trained.")
    for i in fixed:
        start = graph.nodes[i].init
        empty = (
            ""
            if start.endswith(WEIGHT_SUFFIXES)
            else ": its head is random, so it has nothing to teach"
        )
        empty = (
            ": it starts from random numbers and has nothing to teach"
            if start == "scratch"
            else empty
        )
        said.append(f"Node {i + 1} is a fixed teacher, since every edge into it is cut{empty}.")
    return " ".join(said)


def names(nodes: Sequence[int]) -> str:
    """ "Node 2", "Nodes 2 and 3"."""
    numbers = [str(i + 1) for i in nodes]
    return (
        f"Node {numbers[0]}"
        if len(numbers) == 1
        else f"Nodes {', '.join(numbers[:-1])} and {numbers[-1]}"
    )


def known_method(graph: Graph) -> str:
    """The name of the published method that trains node 1 as this graph does; empty if it is none
    that the kit knows.

    Only what can influence node 1 counts, and where nodes start from does not.
    """
    kept = sorted(graph.reaching_target())
    size, same = len(kept), Node(graph.nodes[0].arch)
    form = Graph([same] * graph.size, graph.gates, graph.transfer_weight).canonical()
    if form == independent(same).canonical():
        return "independent training: node 1 learns alone"
    if form == distillation(same, same).canonical():
        return "knowledge distillation (Hinton et al., 2015): a student and a fixed teacher"
    teachers = [["through"] * size, *[[CUT] * size] * (size - 1)]
    how = {1: "summed", 1 / max(1, size - 1): "averaged"}.get(graph.transfer_weight)
    if form.gates == tuple(map(tuple, teachers)) and size > 2 and how:
        return f"knowledge distillation from {size - 1} fixed teachers, {how}"
    if form == all_through(*[same] * size).canonical():
        if size == 2:
            return (
                "Deep Mutual Learning (Zhang et al., 2018); for two nodes, all Through is the same"
            )
        pre = [i for i in kept if graph.nodes[i].init != "scratch"]
        start = f"{names(pre).lower()} pre-trained" if pre else "no node pre-trained"
        return (
            f"all Through, the graph of the paper's Table 1, {start}"
            if size == 3
            else f"all Through, {start}"
        )
    if form == mutual(*[same] * size).canonical():
        return (
            "Deep Mutual Learning (Zhang et al., 2018): all Through, averaged over the other nodes"
        )
    return ""


def verdict(graph: Graph) -> str:
    """`known_method` as a sentence."""
    method = known_method(graph)
    return f"This is {method}." if method else "It matches no published method that the kit knows."


# ---- pictures


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def draw(graph: Graph) -> Figure:
    """The graph with its legend. Made without pyplot, since a kernel may answer a click in another thread."""
    figure = Figure(figsize=(3.7, 3.8), layout="constrained")
    plots.draw_graph(graph, ax=figure.subplots(), show_cutoff=True, legend=True)
    return figure


def picture(graph: Graph) -> Figure:
    """All that the explorer says of a graph, for where there are no widgets: the drawing, the losses, the sentences."""
    figure = Figure(figsize=(9.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    plots.draw_graph(graph, ax=left, show_cutoff=True)
    right.axis("off")
    lines = [(f"${formula}$", 10, 0.17) for formula in formulas(graph)]
    for sentence in (influence(graph), verdict(graph)):
        lines.append(("", 9.5, 0.04))
        lines += [(line, 9.5, 0.08) for line in textwrap.wrap(sentence, 76)]
    y = 0.5 + sum(step for *_, step in lines) / 2
    for text, size, step in lines:
        right.text(0, y, text, fontsize=size, va="top", transform=right.transAxes)
        y -= step
    handles = [*plots.gate_legend(cutoff=True), *plots.init_legend([graph])]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
    )
    return figure


# ---- widgets


class Explorer(widgets.VBox):
    """The widgets of `explore`. `graph` is the graph that is chosen (None while it is none), `history` its records."""

    def __init__(
        self,
        graph: Graph,
        data: Data | None,
        config: TrainConfig,
        inits: Sequence[str],
        weights,
        seed: int,
    ):
        self.data, self.config, self.weights, self.seed = data, config, weights, seed
        self.graph, self.history, self.training, self.filling = graph, [], False, False
        self.arch = [node.arch for node in graph.nodes]
        n, width = graph.size, widgets.Layout(width="158px")
        close = {"description_width": "62px"}
        self.preset = widgets.Dropdown(
            options=["your own", *PRESETS] if n == 3 else ["your own"], description="graph"
        )
        weights_offered = {"summed": 1.0, "averaged": 1 / max(n - 1, 1)}
        if graph.transfer_weight not in weights_offered.values():
            weights_offered[f"times {graph.transfer_weight:g}"] = graph.transfer_weight
        self.average = widgets.Dropdown(
            options=list(weights_offered.items()),
            description="transfer losses",
            layout=widgets.Layout(width="230px"),
            style={"description_width": "110px"},
        )
        self.inits = [
            widgets.Dropdown(
                options=inits, value=node.init, description="starts as", layout=width, style=close
            )
            for node in graph.nodes
        ]
        self.gates = [
            [
                widgets.Dropdown(
                    options=list(GATES),
                    value=graph.gates[t][s],
                    description="label →" if s == t else f"node {s + 1} →",
                    layout=width,
                    style=close,
                )
                for s in range(n)
            ]
            for t in range(n)
        ]
        self.image, self.curve = widgets.Image(format="png"), widgets.Image(format="png")
        self.text, self.message, self.status = widgets.HTMLMath(), widgets.HTML(), widgets.HTML()
        self.length = widgets.IntSlider(min(config.epochs, 10), 1, 10, description="epochs")
        self.button = widgets.Button(description="Train", button_style="primary", icon="play")
        rows = []
        for t in range(n):
            word = " (target)" if t == 0 else ""
            head = widgets.HTML(
                f"<b>into node {t + 1}</b>{word}", layout=widgets.Layout(width="150px")
            )
            edges = [self.gates[t][t], *(self.gates[t][s] for s in range(n) if s != t)]
            rows.append(
                widgets.HBox(
                    [head, self.inits[t], *edges], layout=widgets.Layout(flex_flow="row wrap")
                )
            )
        told = widgets.VBox(
            [self.text, self.message], layout=widgets.Layout(flex="1 1 380px", padding="8px")
        )
        super().__init__(
            [
                widgets.HBox([self.preset, self.average]),
                *rows,
                widgets.HBox(
                    [self.image, told],
                    layout=widgets.Layout(align_items="center", flex_flow="row wrap"),
                ),
                widgets.HBox([self.length, self.button, self.status]),
                self.curve,
            ]
        )
        self.average.value = graph.transfer_weight
        for control in (*self.inits, *(gate for row in self.gates for gate in row), self.average):
            control.observe(self.changed, "value")
        self.preset.observe(self.fill, "value")
        self.button.on_click(self.clicked)
        self.show()

    def _repr_mimebundle_(self, **kwargs) -> dict:
        """The widgets for a front end that is alive, the picture for every other, words for a terminal."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        if self.graph is not None:
            bundle["image/png"] = base64.b64encode(png(picture(self.graph))).decode()
            bundle["text/plain"] = f"{self.graph}\n{influence(self.graph)}\n{verdict(self.graph)}"
        return bundle

    def fill(self, change: dict) -> None:
        """Put the gates of a preset into the fields, and show the graph once."""
        if change["new"] not in PRESETS:
            return
        gates, weight = PRESETS[change["new"]]
        self.filling = True
        for fields, row in zip(self.gates, gates, strict=True):
            for field, gate in zip(fields, row, strict=True):
                field.value = gate
        self.average.value = weight
        self.filling = False
        self.show()

    def changed(self, change: dict) -> None:
        """A field was changed by hand."""
        if self.filling:
            return
        if self.preset.value in PRESETS and change["owner"] not in self.inits:
            self.preset.value = "your own"
        self.show()

    def show(self) -> None:
        """Read the fields, and draw and describe their graph, or say what is wrong with it."""
        self.training, self.history = False, []  # a training under way is of another graph
        self.curve.layout.display = "none"
        self.status.value = ""
        nodes = [Node(arch, init.value) for arch, init in zip(self.arch, self.inits, strict=True)]
        gates = [[field.value for field in row] for row in self.gates]
        try:
            self.graph = Graph(nodes, gates, self.average.value)
        except ValueError as error:
            self.graph = None
            way_out = "Open an edge into node 1." if set(gates[0]) == {CUT} else ""
            self.message.value = f'<p style="color:{plots.TARGET_RED}"><b>Not a graph yet.</b> {error}. {way_out}</p>'
        else:
            self.image.value = png(draw(self.graph))
            self.text.value = "".join(
                f"<p>${html.escape(formula)}$</p>" for formula in formulas(self.graph)
            )
            self.message.value = (
                f"<p>{influence(self.graph)}</p><p><b>{verdict(self.graph)}</b></p>"
            )
        for part in (self.image, self.text):
            part.layout.display = None if self.graph is not None else "none"
        self.button.disabled = self.graph is None

    def clicked(self, _: widgets.Button) -> None:
        """Start, or stop after the epoch that is running."""
        if self.training:
            self.training = False
            return
        try:
            asyncio.get_running_loop().create_task(self.train())
        except RuntimeError:  # no loop is running: a script
            asyncio.run(self.train())

    async def train(self) -> None:
        """Train the graph, the curve after every epoch; between epochs the kernel hears other clicks."""
        graph, config = self.graph, TrainConfig(**vars(self.config) | {"epochs": self.length.value})
        self.training, self.history = True, []
        self.button.description, self.button.icon, self.button.button_style = (
            "Stop",
            "stop",
            "warning",
        )
        self.status.value = "training .."
        try:
            if self.data is None:
                self.data = load_data("synthcars", 32, 1000)
            for record in epochs(graph, self.data, config, self.seed, self.weights):
                if not self.training or graph is not self.graph:
                    break
                self.history.append(record)
                self.curve.value = png(plots.plot_training(graph, self.history, config.epochs))
                self.curve.layout.display = None
                self.status.value = said(record, config.epochs)
                await asyncio.sleep(0.01)
        except (ValueError, FileNotFoundError, FloatingPointError) as error:
            self.status.value = f'<span style="color:{plots.TARGET_RED}">{error}</span>'
        finally:
            if graph is self.graph:
                self.training = False
            self.button.description, self.button.icon, self.button.button_style = (
                "Train",
                "play",
                "primary",
            )


def said(record: dict, of: int) -> str:
    """One line on an epoch; the test split is left alone, since looking at it again and again would use it up."""
    return f"epoch {record['epoch']} of {of}: validation accuracy of node 1 {record['val_accuracy'][0]:.1f} % (n = 1)"


def explore(
    data: Data | None = None,
    config: TrainConfig | None = None,
    graph: Graph | None = None,
    inits: Sequence[str] = ("scratch", "imagenet1k_standin", "fractaldb1k"),
    weights: str | Path = "data/weights",
    seed: int = 0,
) -> Explorer:
    """Widgets to choose the gates and initialisations of a graph, see it, read what it does, and
    train it.

    - `data`: 1,000 images of the embedded cars by default, drawn when they are first needed.
    - `config`: of the training; its `epochs` are where the slider starts, 10 at most.
    - `graph`: what is shown first; by default three small networks that listen in a chain.
    - `inits`, `weights`: what a node may start from, and the folder of those weights.
    """
    config = config or TrainConfig(5, 16, 0.03, schedule="cosine", augmentation="shift")
    if graph is None:
        graph = Graph([Node("resnet18_w8")] * 3, *PRESETS["a chain: 3 → 2 → 1"])
    return Explorer(
        graph,
        data,
        config,
        list(dict.fromkeys([*inits, *(node.init for node in graph.nodes)])),
        weights,
        seed,
    )
