"""The search space: conditions, seeded plans without repeats, Optuna's parameters and back."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from ktglite.experiments import space
from ktglite.experiments.space import SearchConfig, from_params, sample_graphs, to_params
from ktglite.graph import Graph

ARCH = "resnet18_w8"
FRACTALS = SearchConfig("fractaldb1k", arch=ARCH)


def test_conditions_name_the_source_that_is_at_hand():
    assert SearchConfig("none").choices == ("scratch",)
    assert SearchConfig("mixed").choices == ("scratch", "imagenet1k", "fractaldb1k")
    sources = ("imagenet1k_standin", "fractaldb1k")
    assert SearchConfig("imagenet1k", sources).choices == ("scratch", "imagenet1k_standin")
    assert SearchConfig("mixed", sources).choices == ("scratch", *sources)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"condition": "all"}, "condition"),
        ({"pruner": "x"}, "pruner"),
        ({"select_on": "train"}, "select_on"),
        ({"trials": 0}, "trials"),
        ({"trials": 2_000_000}, "trials"),
        ({"reduction_factor": 1}, "reduction_factor"),
        ({"arch": "?"}, "arch"),
        (
            {"condition": "mixed", "sources": ("imagenet1k",)},
            "needs one source each for imagenet1k, fractaldb1k",
        ),
        (
            {"condition": "mixed", "sources": ("imagenet1k", "imagenet1k_standin")},
            "needs one source each for imagenet1k, fractaldb1k",
        ),
        ({"min_resource": 13}, "min_resource is 13, but a graph has 12 epochs"),
        ({"pruner": "promote", "trials": 15}, "trials is 15: promotion to epoch 12 needs 16"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        SearchConfig(**{"condition": "none"} | settings).rungs(12)


def test_rungs_are_told():
    assert SearchConfig("none").rungs(12).epochs == [1, 2, 4, 8, 12]
    thirds = SearchConfig("none", min_resource=3, reduction_factor=3)
    assert thirds.rungs(30).epochs == [3, 9, 27, 30]
    assert SearchConfig("none", pruner="none", min_resource=50).rungs(12).epochs == [12]


def test_a_plan_is_seeded_grows_at_its_end_and_has_no_graph_twice(four_gates):
    plan = sample_graphs(FRACTALS, 300, seed=1)
    assert len({graph.canonical() for graph in plan}) == 300
    assert plan[:50] == sample_graphs(FRACTALS, 50, seed=1)
    assert plan[:50] != sample_graphs(FRACTALS, 50, seed=2)
    gates = Counter(gate for graph in plan for row in graph.gates[1:] for gate in row)
    assert len(gates) == 4
    assert all(abs(count / 1800 - 1 / 4) < 0.05 for count in gates.values())
    inits = Counter(node.init for graph in plan for node in graph.nodes)
    assert abs(inits["scratch"] / 900 - 1 / 2) < 0.06
    two = SearchConfig("none", arch=(ARCH, "resnet18"), nodes=2, trials=40)
    assert {node.arch for graph in sample_graphs(two) for node in graph.nodes} == {ARCH, "resnet18"}
    # Recorded searches are resumed by it: it never changes.
    target = "1 fractaldb1k <- label linear, 2 correct, 3 linear"
    rest = "2 fractaldb1k <- 3 linear; 3 fractaldb1k <- 2 through, label linear"
    assert str(sample_graphs(FRACTALS, 1, seed=0)[0]) == f"{target}; {rest}"


def every_graph(settings):
    """All graphs of a small space, by their parameters."""
    starts = {
        name: settings.choices if name.startswith("init") else values
        for name, values in settings.space.items()
    }
    for values in product(*starts.values()):
        drawn = from_params(dict(zip(starts, values, strict=True)))
        if set(drawn["gates"][0]) != {"cutoff"}:
            for node, row in zip(drawn["nodes"], drawn["gates"], strict=True):
                if settings.teachers == "trained" and set(row) == {"cutoff"}:
                    node["init"] = "teacher"
            yield Graph.from_dict(drawn)


@pytest.mark.parametrize("teachers", ["random", "trained"])
@pytest.mark.parametrize(("condition", "nodes"), [("none", 1), ("none", 2), ("fractaldb1k", 2)])
def test_a_plan_can_exhaust_a_space_and_no_more(four_gates, condition, nodes, teachers):
    settings = SearchConfig(condition, arch=ARCH, nodes=nodes, trials=1, teachers=teachers)
    every = {graph.canonical() for graph in every_graph(settings)}
    assert {g.canonical() for g in sample_graphs(settings, len(every))} == every
    with pytest.raises(ValueError, match=f"only {len(every)} different graphs of {nodes} nodes"):
        sample_graphs(settings, len(every) + 1)


def test_graphs_of_three_nodes_are_counted(monkeypatch):
    """46,656 k^3 + 324 k^2 + 2 k for k starts; of a smaller space, every graph."""
    assert [space.count_graphs(k, k, 4, 3) for k in (1, 2, 3)] == [46_982, 374_548, 1_262_634]
    for gate in ("linear", "correct"):
        monkeypatch.delitem(space.GATES, gate)
    monkeypatch.setitem(space.GATES, "correct", space.GATES["through"])
    settings = SearchConfig("none", arch=ARCH, trials=1)
    every = {graph.canonical() for graph in every_graph(settings)}
    assert len(every) == space.count_graphs(1, 1, len(space.GATES), 3)


def test_graphs_survive_optunas_parameters():
    graph = sample_graphs(FRACTALS, 1, seed=3)[0]
    params = to_params(graph)
    assert params["gate 2->1"] == graph.gates[0][1]
    assert params["gate label->3"] == graph.gates[2][2]
    assert Graph.from_dict(from_params(params)) == graph
    assert list(params) == list(FRACTALS.space)
    assert all(value in FRACTALS.space[name] for name, value in params.items())


def test_only_the_package_s_gates_are_searched(monkeypatch):
    monkeypatch.setitem(space.GATES, "mine", lambda losses, correct, progress: losses.sum())
    with pytest.raises(ValueError, match="gate 'mine' is not the package's own: train it by"):
        sample_graphs(SearchConfig("none", arch=ARCH), 1)


def brute_force_share_run(n):
    """Every assignment of the four gates: paths to the target as powers of a matrix."""
    codes = np.arange(4 ** (n * n))[:, None] // 4 ** np.arange(n * n) % 4
    opened = (codes != 1).reshape(-1, n, n)
    opened = opened[opened[:, 0].any(1)].astype(int)
    step = opened + np.eye(n, dtype=int)
    return (np.linalg.matrix_power(step, n)[:, 0] > 0).mean()


def test_unreachable_nodes_are_counted_exactly(four_gates):
    for n in (1, 2, 3):  # of three nodes all 4^9
        assert space.expected_share_run(n) == pytest.approx(brute_force_share_run(n), abs=1e-12)
