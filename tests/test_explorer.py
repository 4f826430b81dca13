"""What the explorer says of a graph, and what its fields do; how it looks was judged in a browser."""

import matplotlib

matplotlib.use("Agg")

import re

import pytest
import torch

from ktglite import (
    GATES,
    Graph,
    Node,
    TrainConfig,
    all_through,
    distillation,
    edge_losses,
    independent,
    mutual,
)
from ktglite.tools import explorer as ex

ARCH = "resnet18_w8"
N, F = Node(ARCH), Node(ARCH, "fractaldb1k")
CHAIN = [
    ["through", "linear", "cutoff"],
    ["cutoff", "through", "correct"],
    ["cutoff", "cutoff", "through"],
]


def test_a_formula_reads_as_the_gates():
    one, two, three = ex.formulas(Graph((N, N, N), CHAIN))
    assert (
        one
        == r"L_1 = \mathrm{mean}\left[\,\mathrm{CE}(p_1, y) + T^2\,\frac{k}{K}\,\mathrm{KL}(p_2\,\|\,p_1)\,\right]"
    )
    assert r"T^2\,[\hat y_3 = y]\,\mathrm{KL}(p_3\,\|\,p_2)" in two
    assert three == r"L_3 = \mathrm{mean}\left[\,\mathrm{CE}(p_3, y)\,\right]"


def value(formula, logits, labels, progress, temperature):
    """A formula of `formulas`, put in numbers: every symbol as the notebook defines it."""
    t, terms = re.fullmatch(
        r"L_(\d) = \\mathrm\{mean\}\\left\[\\,(.*)\\,\\right\]", formula
    ).groups()
    total = 0
    for term in terms.split(" + "):
        factor = torch.ones(len(labels))
        factor = (
            factor
            * (temperature**2 if "T^2" in term else 1)
            * (progress if r"\frac{k}{K}" in term else 1)
        )
        factor = factor * (0.5 if r"\frac{1}{2}" in term else 1)
        if right := re.search(r"hat y_(\d) = y", term):
            factor = factor * (logits[int(right[1]) - 1].argmax(1) == labels)
        if "CE" in term:
            losses = torch.nn.functional.cross_entropy(logits[int(t) - 1], labels, reduction="none")
        else:
            s = int(re.search(r"KL\}\(p_(\d)", term)[1])
            p, q = (torch.softmax(logits[i - 1] / temperature, 1) for i in (s, int(t)))
            losses = (p * (p / q).log()).sum(1)
        total += (factor * losses).mean()
    return int(t) - 1, total


@pytest.mark.parametrize(
    "graph", [Graph((N, N, N), CHAIN), mutual(N, N, N), distillation(N, N, "correct")]
)
def test_a_formula_is_what_is_trained(graph):
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(12, 3, generator=generator) for _ in graph.nodes]
    labels = torch.arange(12) % 3
    losses = edge_losses(graph, logits, labels, 0.3, temperature=2.0).sum(1)
    for formula in ex.formulas(graph):
        t, total = value(formula, logits, labels, 0.3, 2.0)
        assert total == pytest.approx(losses[t].item(), rel=1e-5)


def test_a_gate_added_later_stands_by_its_name(monkeypatch):
    monkeypatch.setitem(GATES, "early", GATES["through"])
    graph = Graph((N, N), [["through", "early"], ["cutoff", "through"]])
    assert r"T^2\,\mathrm{early}(\mathrm{KL}(p_2\,\|\,p_1))" in ex.formulas(graph)[0]


def test_what_cannot_matter_has_no_formula():
    assert len(ex.formulas(independent(N, N, N))) == 1
    assert len(ex.formulas(distillation(N, N))) == 1  # nothing is taught to a fixed teacher


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (independent(N, N), "No other node can influence node 1, and none is trained."),
        (independent(N), "No other node can influence node 1."),
        (all_through(N, N, N), "Nodes 2 and 3 can influence node 1."),
        (
            Graph(
                (N, N, N),
                [
                    ["through", "through", "cutoff"],
                    ["through", "through", "cutoff"],
                    ["through"] * 3,
                ],
            ),
            "Node 2 can influence node 1. Node 3 cannot, and is not trained.",
        ),
        (
            Graph((N, N, N), CHAIN),
            "Nodes 2 and 3 can influence node 1. Node 3 does so only by way of others.",
        ),
        (
            distillation(N, N),
            "Node 2 is a fixed teacher, since every edge into it is cut: it starts from random",
        ),
    ],
)
def test_influence_is_said(graph, words):
    assert words in ex.influence(graph)
    assert "its head is random, so it has nothing to teach" in ex.influence(distillation(N, F))
    assert "nothing to teach" not in ex.influence(
        distillation(N, Node(ARCH, "teacher.safetensors"))
    )


@pytest.mark.parametrize(
    ("graph", "method"),
    [
        (independent(N, F, N), "independent training"),
        (
            Graph((N,), [["correct"]]),
            "independent training",
        ),  # on a label edge, the same as Through
        (distillation(N, F), "knowledge distillation (Hinton"),
        (
            Graph((N, F, F), [["through"] * 3, ["cutoff"] * 3, ["cutoff"] * 3]),
            "distillation from 2 fixed teachers",
        ),
        (mutual(N, N), "Deep Mutual Learning (Zhang et al., 2018); for two nodes"),
        (mutual(N, N, F), "Deep Mutual Learning (Zhang et al., 2018): all Through, averaged"),
        (all_through(N, N, N), "Table 1, no node pre-trained"),
        (all_through(F, N, F), "Table 1, nodes 1 and 3 pre-trained"),
        (all_through(F, N, N, N), "all Through, node 1 pre-trained"),
    ],
)
def test_known_methods_are_named(graph, method):
    assert method in ex.known_method(graph)


@pytest.mark.parametrize(
    "graph", [Graph((N, N, N), CHAIN), distillation(N, F, "linear"), Graph((N,), [["linear"]])]
)
def test_other_graphs_are_nobodys(graph):
    assert ex.known_method(graph) == ""
    assert "matches no published method" in ex.verdict(graph)


def test_the_weight_of_the_sum_counts():
    assert "averaged" in ex.known_method(mutual(N, N, N))
    assert "averaged" not in ex.known_method(all_through(N, N, N))
    assert ex.latex_number(1 / 3) == r"\frac{1}{3}"
    assert ex.latex_number(0.123) == "0.123"


@pytest.fixture
def shown(tiny_data):
    return ex.explore(tiny_data, TrainConfig(2, 8, 0.05, augmentation="none", precision="fp32"))


def test_the_output_has_widgets_a_picture_and_words(shown):
    bundle = shown._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/png"].startswith("iVBOR")
    assert "VBox" not in bundle["text/plain"]
    assert "can influence node 1" in bundle["text/plain"]


def test_a_preset_fills_the_fields_and_a_field_leaves_the_preset(shown):
    shown.inits[2].value = "fractaldb1k"
    shown.preset.value = "mutual learning"
    assert shown.graph == mutual(N, N, F)
    before = shown.image.value
    shown.gates[0][2].value = "correct"
    assert shown.graph.gates[0] == ("through", "through", "correct")
    assert shown.preset.value == "your own"
    assert shown.image.value != before
    assert r"[\hat y_3 = y]" in shown.text.value


def test_no_graph_gives_a_message_in_its_place(shown):
    shown.preset.value = "independent"
    shown.gates[0][0].value = "cutoff"
    assert "Open an edge into node 1" in shown.message.value
    assert (shown.graph, shown.image.layout.display, shown.button.disabled) == (None, "none", True)
    assert "image/png" not in shown._repr_mimebundle_()
    shown.gates[0][0].value = "through"
    assert (shown.image.layout.display, shown.button.disabled) == (None, False)


def test_it_trains_and_draws_every_epoch(shown):
    curves = []
    shown.curve.observe(lambda change: curves.append(change["new"]), "value")
    shown.button.click()
    assert [record["epoch"] for record in shown.history] == [1, 2]
    assert len(set(curves)) == 2
    assert "epoch 2 of 2" in shown.status.value
    assert shown.button.description == "Train"


def test_another_graph_stops_the_training(shown):
    shown.curve.observe(lambda _: setattr(shown.gates[0][1], "value", "through"), "value")
    shown.button.click()
    assert shown.graph.gates[0][1] == "through"
    assert shown.history == []  # the records were of the graph before
    assert not shown.training


def test_missing_weights_are_said_in_place(shown):
    shown.inits[1].value = "imagenet1k_standin"
    shown.button.click()
    assert "run notebook 01" in shown.status.value
    assert not shown.training


def test_another_weight_of_the_transfer_losses_is_offered():
    shown = ex.explore(graph=Graph((N, N), [["through"] * 2] * 2, transfer_weight=0.3))
    assert shown.average.value == 0.3
    assert shown.graph.transfer_weight == 0.3
