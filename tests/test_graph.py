"""Graphs validate themselves, survive JSON, and know what can influence the target."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktglite import GATES, Graph, Node, all_through, distillation, independent, mutual

A, B, C = Node("resnet18_w8"), Node("resnet18_w16", "fractaldb1k"), Node("resnet18", "imagenet1k")


@st.composite
def graphs(draw, max_nodes=4):
    n = draw(st.integers(1, max_nodes))
    nodes = draw(st.lists(st.sampled_from([A, B, C]), min_size=n, max_size=n))
    row = st.lists(st.sampled_from(sorted(GATES)), min_size=n, max_size=n)
    gates = draw(st.lists(row, min_size=n, max_size=n))
    gates[0][0] = draw(st.sampled_from(["through", "linear", "correct"]))
    return Graph(nodes, gates, draw(st.floats(0, 2)))


@given(graphs())
@settings(max_examples=200, deadline=None)
def test_json_round_trip_and_canonical_is_idempotent(graph):
    again = Graph.from_dict(json.loads(json.dumps(graph.to_dict())))
    assert again == graph
    assert hash(again) == hash(graph)
    assert graph.canonical().canonical() == graph.canonical()


@given(graphs(max_nodes=3))
@settings(max_examples=200, deadline=None)
def test_canonical_ignores_the_order_of_auxiliary_nodes(graph):
    order = [0, *reversed(range(1, graph.size))]
    nodes = [graph.nodes[i] for i in order]
    gates = [[graph.gates[t][s] for s in order] for t in order]
    assert Graph(nodes, gates, graph.transfer_weight).canonical() == graph.canonical()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph([], []), "at least one node"),
        (lambda: Graph([A], [["open"]]), r"gates\[0\]\[0\] is 'open': allowed are through, cutoff"),
        (lambda: Graph([A, A], [["through", "through"]]), "row lengths"),
        (lambda: Graph([A, A], [["through"], ["through"]]), "row lengths"),
        (lambda: Graph([A, A], [["cutoff"] * 2, ["through"] * 2]), "target has no incoming edge"),
        (lambda: Graph(["resnet18"], [["through"]]), "not a Node"),
        (lambda: Node("resnet19"), "unknown arch 'resnet19'.*resnet18"),
        (lambda: Node("resnet18", "imagenet"), "unknown init 'imagenet'.*scratch, .*fractaldb1k"),
        (lambda: Graph.from_dict({"nodes": []}), "nodes, gates"),
        (lambda: Graph.from_dict({"nodes": [{"colour": 1}], "gates": [["through"]]}), "malformed"),
    ],
)
def test_what_is_no_graph_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_weight_is_a_number_however_it_is_written():
    for one in (1, 1.0, np.float32(1)):
        assert json.dumps(replace(mutual(A, A), transfer_weight=one).to_dict()).endswith(" 1.0}")


def test_presets():
    assert independent(A, B).gates == (("through", "cutoff"), ("cutoff", "through"))
    assert all_through(A, B, C).gates == (("through",) * 3,) * 3
    kd = distillation(A, B, gate="correct")
    assert kd.gates == (("through", "correct"), ("cutoff", "cutoff"))
    assert kd.learns(0)
    assert not kd.learns(1)
    assert mutual(A, B) == all_through(A, B)
    assert mutual(A, B, C).canonical().transfer_weight == 0.5
    assert all_through(A, B, C).transfer_weight == 1
    assert independent(A).size == 1


def test_only_nodes_with_an_open_path_reach_the_target():
    chain = [["through", "linear", "cutoff"], ["cutoff", "through", "correct"]]
    chain += [["cutoff", "cutoff", "through"]]
    assert Graph([A, B, C], chain).reaching_target() == {0, 1, 2}  # 3 -> 2 -> 1
    cut = [["through", "cutoff", "through"], ["through"] * 3, ["through", "cutoff", "through"]]
    assert Graph([A, B, C], cut).reaching_target() == {0, 2}  # 2 hears all, and nobody hears 2


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
