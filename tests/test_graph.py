"""Graphs validate themselves, survive JSON, and know what can influence the target."""

import json
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktglite import GATES, Graph, Node, all_through, distillation, independent, mutual

A, B, C = Node("resnet18_w8"), Node("resnet18_w16", "fractaldb1k"), Node("resnet18", "imagenet1k")


@st.composite
def graphs(draw, max_nodes=4):
    n = draw(st.integers(1, max_nodes))
    nodes = draw(st.lists(st.sampled_from([A, B, C]), min_size=n, max_size=n))
    gates = draw(
        st.lists(
            st.lists(st.sampled_from(sorted(GATES)), min_size=n, max_size=n), min_size=n, max_size=n
        )
    )
    gates[0][0] = draw(st.sampled_from(["through", "linear", "correct"]))
    return Graph(nodes, gates, draw(st.floats(0, 2)))


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_json_round_trip(graph):
    again = Graph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert again == graph
    assert hash(again) == hash(graph)


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_canonical_is_idempotent(graph):
    assert graph.canonical().canonical() == graph.canonical()


@given(graphs(max_nodes=3), st.permutations([1, 2]))
@settings(max_examples=200, deadline=None)
def test_canonical_ignores_the_order_of_auxiliary_nodes(graph, order):
    if graph.size < 3:
        return
    order = [0, *order]
    swapped = Graph(
        [graph.nodes[i] for i in order],
        [[graph.gates[t][s] for s in order] for t in order],
        graph.transfer_weight,
    )
    assert swapped.canonical() == graph.canonical()


@pytest.mark.parametrize(
    ("nodes", "gates", "message"),
    [
        ([], [], "at least one node"),
        (
            [A],
            [["open"]],
            r"gates\[0\]\[0\] is 'open': allowed are through, cutoff, linear, correct",
        ),
        ([A, A], [["through", "through"]], "row lengths"),
        ([A, A], [["through"], ["through"]], "row lengths"),
        ([A, A], [["cutoff", "cutoff"], ["through", "through"]], "target has no incoming edge"),
        (["resnet18"], [["through"]], "not a Node"),
    ],
)
def test_invalid_graph(nodes, gates, message):
    with pytest.raises(ValueError, match=message):
        Graph(nodes, gates)


def test_invalid_node():
    with pytest.raises(ValueError, match="unknown arch 'resnet19'.*resnet18"):
        Node("resnet19")
    with pytest.raises(
        ValueError, match="unknown init 'imagenet'.*scratch, imagenet1k, .*fractaldb1k"
    ):
        Node("resnet18", "imagenet")
    assert Node("resnet18", "mine/car.safetensors").init.endswith("car.safetensors")


def test_bad_dictionaries_are_named():
    with pytest.raises(ValueError, match="nodes, gates"):
        Graph.from_dict({"nodes": []})
    with pytest.raises(ValueError, match="malformed"):
        Graph.from_dict({"nodes": [{"arch": "resnet18", "colour": 1}], "gates": [["through"]]})


def test_presets():
    assert independent(A, B).gates == (("through", "cutoff"), ("cutoff", "through"))
    assert all_through(A, B, C).gates == (("through",) * 3,) * 3
    kd = distillation(A, B, gate="correct")
    assert kd.gates == (("through", "correct"), ("cutoff", "cutoff"))
    assert kd.learns(0)
    assert not kd.learns(1)
    assert mutual(A, B) == all_through(A, B)
    assert mutual(A, B, C).transfer_weight == 0.5
    assert all_through(A, B, C).transfer_weight == 1
    assert independent(A).size == 1


def test_only_nodes_with_an_open_path_reach_the_target():
    chain = Graph(
        [A, B, C],
        [
            ["through", "linear", "cutoff"],
            ["cutoff", "through", "correct"],
            ["cutoff", "cutoff", "through"],
        ],
    )
    assert chain.reaching_target() == {0, 1, 2}  # 3 -> 2 -> 1
    cut = Graph(
        [A, B, C],
        [["through", "cutoff", "through"], ["through"] * 3, ["through", "cutoff", "through"]],
    )
    assert cut.reaching_target() == {0, 2}  # node 2 hears everyone, and nobody hears node 2


def test_how_many_nodes_matter_over_all_gate_assignments():
    """4^9 gate assignments of three nodes; only the six transfer edges decide, open (3 gates) or cut (1)."""
    count = dict.fromkeys((1, 2, 3), 0)
    for is_open in product([True, False], repeat=6):
        e = iter("through" if o else "cutoff" for o in is_open)
        gates = [["through" if s == t else next(e) for s in range(3)] for t in range(3)]
        count[len(Graph([A] * 3, gates).reaching_target())] += 3 ** sum(is_open)
    share = {k: v / 4**6 for k, v in count.items()}
    assert share[3] == pytest.approx(0.84375)
    assert share[2] == pytest.approx(0.09375)
    assert share[1] == pytest.approx(0.0625)


def test_a_graph_is_the_same_after_a_file(tmp_path):
    graph = Graph((Node("resnet18_w8"), Node("resnet18")), [["linear", "correct"], ["through"] * 2])
    graph.save(tmp_path / "graph.json")
    assert Graph.load(tmp_path / "graph.json") == graph
    text = (tmp_path / "graph.json").read_text("utf-8")
    (tmp_path / "graph.json").write_text(text, encoding="utf-8-sig")  # as editors on Windows do
    assert Graph.load(tmp_path / "graph.json") == graph
    (tmp_path / "other.json").write_text('{"nodes": []}')
    with pytest.raises(ValueError, match="other.json is not a graph"):
        Graph.load(tmp_path / "other.json")
