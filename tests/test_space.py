"""The search space: conditions, seeded plans, Optuna's parameters and back."""

from collections import Counter

import numpy as np
import pytest

from ktglite.experiments.space import (
    SearchConfig,
    expected_share_run,
    from_params,
    sample_graphs,
    to_params,
)
from ktglite.graph import Graph

ARCH = "resnet18_w8"
FRACTALS = SearchConfig("fractaldb1k", arch=ARCH)


def test_conditions_name_the_source_that_is_at_hand():
    assert SearchConfig("none").choices == ("scratch",)
    assert SearchConfig("mixed").choices == ("scratch", "imagenet1k", "fractaldb1k")
    sources = ("imagenet1k_standin", "fractaldb1k")
    assert SearchConfig("imagenet1k", sources).choices == ("scratch", "imagenet1k_standin")
    assert SearchConfig("mixed", sources).choices == (
        "scratch",
        "imagenet1k_standin",
        "fractaldb1k",
    )
    with pytest.raises(
        ValueError, match="'mixed' needs one source each for imagenet1k, fractaldb1k"
    ):
        SearchConfig("mixed", ("imagenet1k",))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("condition", "all"),
        ("sampler", "grid"),
        ("pruner", "x"),
        ("select_on", "train"),
        ("trials", 0),
        ("reduction_factor", 1),
        ("arch", "?"),
    ],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        SearchConfig(**{setting: value})
    with pytest.raises(ValueError, match="use 'asha'"):
        SearchConfig(sampler="tpe", pruner="promote")


def test_plan_is_seeded_valid_without_repeats_and_grows_at_its_end(four_gates):
    plan = sample_graphs(FRACTALS, 300, seed=1)
    assert len(set(plan)) == 300
    assert plan[:50] == sample_graphs(FRACTALS, 50, seed=1)
    assert plan[:50] != sample_graphs(FRACTALS, 50, seed=2)
    assert sample_graphs(FRACTALS, 0) == []
    gates = Counter(gate for graph in plan for row in graph.gates[1:] for gate in row)
    assert len(gates) == 4
    assert all(abs(count / 1800 - 1 / 4) < 0.05 for count in gates.values())
    inits = Counter(node.init for graph in plan for node in graph.nodes)
    assert abs(inits["scratch"] / 900 - 1 / 2) < 0.06
    two = SearchConfig("none", arch=(ARCH, "resnet18"), nodes=2, trials=40)
    assert {node.arch for graph in sample_graphs(two) for node in graph.nodes} == {ARCH, "resnet18"}


def test_the_plan_of_a_seed_never_changes(four_gates):
    """Recorded searches are resumed by it."""
    drawn = str(sample_graphs(FRACTALS, 1, seed=0)[0])
    node1, rest = (
        "1 fractaldb1k <- label linear, 2 correct, 3 linear",
        "3 fractaldb1k <- 2 through, label linear",
    )
    assert drawn == f"{node1}; 2 fractaldb1k <- 3 linear; {rest}"


def test_plan_can_exhaust_a_small_space_and_no_more(four_gates):
    small = SearchConfig("none", arch=ARCH, nodes=2)
    assert len(set(sample_graphs(small, 15 * 16))) == 240
    with pytest.raises(ValueError, match="only 240 different graphs"):
        sample_graphs(small, 241)


def test_graphs_survive_optunas_parameters():
    graph = sample_graphs(FRACTALS, 1, seed=3)[0]
    params = to_params(graph)
    assert params["gate 2->1"] == graph.gates[0][1]
    assert params["gate label->3"] == graph.gates[2][2]
    assert Graph.from_dict(from_params(params)) == graph
    assert list(params) == list(FRACTALS.space)
    assert all(value in FRACTALS.space[name] for name, value in params.items())


def brute_force_share_run(n):
    """Every assignment of the four gates, one Graph-free matrix each: paths to the target as powers of a matrix."""
    codes = np.arange(4 ** (n * n))[:, None] // 4 ** np.arange(n * n) % 4
    opened = (codes != 1).reshape(-1, n, n)
    opened = opened[opened[:, 0].any(1)].astype(int)
    step = opened + np.eye(n, dtype=int)
    return (np.linalg.matrix_power(step, n)[:, 0] > 0).mean()


def test_unreachable_nodes_are_counted_exactly(four_gates):
    assert expected_share_run(1) == 1
    assert expected_share_run(2) == pytest.approx(brute_force_share_run(2), abs=1e-12)
    assert expected_share_run(3) == pytest.approx(brute_force_share_run(3), abs=1e-12)  # all 4^9
    graphs = sample_graphs(SearchConfig("none", arch=ARCH), 4000)
    shares = [len(graph.reaching_target()) / 3 for graph in graphs]
    assert abs(np.mean(shares) - expected_share_run(3)) < 4 * np.std(shares) / 4000**0.5


@pytest.mark.parametrize(("sources", "nodes"), [(("fractaldb1k",), 2), ((), 2)])
def test_a_fixed_node_may_be_a_trained_teacher(sources, nodes):
    condition = "fractaldb1k" if sources else "none"
    settings = SearchConfig(condition, sources, ARCH, nodes, teachers="trained")
    plain = SearchConfig(condition, sources, ARCH, nodes)
    starts = len(settings.choices)
    every = (
        starts * 15 * (starts * 15 + 1)
    )  # a fixed node has one start, and any other start that was drawn is gone
    graphs = sample_graphs(settings, every)
    assert len(set(graphs)) == every
    assert {node.init for g in graphs for i, node in enumerate(g.nodes) if not g.learns(i)} == {
        "teacher"
    }
    assert "teacher" not in {
        node.init for g in graphs for i, node in enumerate(g.nodes) if g.learns(i)
    }
    assert "teacher" not in {node.init for g in sample_graphs(plain, 200) for node in g.nodes}
    assert all(
        settings.space[name].count(value)
        for g in graphs[:50]
        for name, value in to_params(g).items()
    )
    with pytest.raises(ValueError, match=f"only {every} different graphs"):
        sample_graphs(settings, every + 1)
    with pytest.raises(ValueError, match="use 'random'"):
        SearchConfig(condition, sources, ARCH, nodes, sampler="tpe", teachers="trained")
