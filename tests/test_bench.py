"""The recorded benchmark of graphs: asked, saved, searched by replay as by a live search."""

import json
import math

import numpy as np
import optuna
import pandas as pd
import pytest
from test_search import run_scripted

from ktglite.experiments import bench, search
from ktglite.experiments.bench import Benchmark, Rule
from ktglite.experiments.space import SearchConfig, sample_graphs
from ktglite.graph import Graph

RECORDED = "data/reference_runs/quick_searches"


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def recorded():
    return bench.load(RECORDED)


def small_benchmark(graphs=40, several=10):
    """Made-up runs of one condition: a graph's worth (spread 3), a seed's luck (5), every so many
    with a second seed, and one that diverged."""
    rng = np.random.default_rng(0)
    settings = SearchConfig("none", arch="resnet18_w16", trials=graphs)
    rows, right, forms = [], [], []
    for i, graph in enumerate(sample_graphs(settings)):
        worth = rng.normal(50, 3)
        for seed in range(1 + (i % (graphs // several) == 0)):
            final = 4.8 * (worth + rng.normal(0, 5))
            right.append([round(final * share) for share in (0.3, 0.6, 0.9, 1)])
            test = 100 * round(14.4 * (worth + rng.normal(0, 1))) / 1440
            rows.append({"condition": "none", "seed": seed, "test": test, "diverged": False})
            forms.append(graph.canonical())
    runs = pd.DataFrame(rows).assign(processor="a processor", weight=1.0)
    val = 100 * np.array(right) / 480
    runs.loc[2, ["test", "diverged"]] = math.nan, True
    val[2, 2:] = math.nan
    about = {"seed": 0, "data": {"val": 480, "test": 1440}, "licence": "MIT", "origin": "made up"}
    return Benchmark(forms, runs, val, np.full(val.shape, 1.5), about)


# ---- to ask


def test_a_graph_is_found_by_its_form(recorded):
    table = recorded.of("fractaldb1k")
    assert len(table) == 59  # two of the sixty are equal in effect
    summary = search.read_summaries(RECORDED)["fractaldb1k"]
    trial = summary["trials"][9]
    graph = Graph.from_dict(trial["graph"])
    assert table.trajectory(graph).tolist() == trial["values"]
    swapped = graph.to_dict()
    swapped["gates"][0][0] = "correct" if graph.gates[0][0] == "through" else "through"
    assert table.query(Graph.from_dict(swapped)) == table.query(graph)
    at_three = table.query(graph, epoch=3)
    assert at_three["val"] == trial["values"][2]
    assert "test" not in at_three
    assert table.query(graph)["test"] == trial["test_accuracy"]
    assert at_three["seconds"] == pytest.approx(trial["seconds"] / 4)
    with pytest.raises(KeyError, match="no run of this graph with seed 7"):
        table.query(graph, seed=7)
    with pytest.raises(ValueError, match="no graphs of condition 'all' are recorded, only"):
        recorded.of("all")
    rng = np.random.default_rng(0)
    assert {table.sample(rng) for _ in range(300)} <= set(table.graphs)


def test_a_pruned_search_is_no_benchmark(recorded):
    summary = search.read_summaries(RECORDED)["none"]
    pruned = summary | {"search": summary["search"] | {"pruner": "asha"}}
    with pytest.raises(ValueError, match="was pruned: search with pruner='none'"):
        bench.from_summaries({"none": pruned})


@pytest.mark.parametrize("of", ["recorded", "made up"])
def test_a_file_holds_all_of_it_without_pickles(tmp_path, recorded, of):
    table = recorded if of == "recorded" else small_benchmark()
    path = tmp_path / "graphs.npz"
    digest = table.save(path)
    assert path.stat().st_size < 100 * len(table)
    again = bench.load(path)
    assert list(again.graphs) == list(table.graphs)
    np.testing.assert_allclose(again.val, table.val, rtol=0, atol=0)
    np.testing.assert_allclose(again.seconds, table.seconds, rtol=1e-3)
    pd.testing.assert_frame_equal(again.runs[table.runs.columns], table.runs, rtol=1e-6)
    assert again.about == json.loads(json.dumps(table.about))
    assert again.save(tmp_path / "again.npz") == digest
    content = bytearray(path.read_bytes())
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (content[:-100], changed, b"something else"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a benchmark of graphs"):
            bench.load(path)
    with pytest.raises(FileNotFoundError, match=r"record_graphs\.py makes one"):
        bench.load(tmp_path / "nowhere.npz")


# ---- to search


def test_a_replay_decides_as_a_live_search_of_the_same_graphs(tiny_data, tmp_path, monkeypatch):
    """Curves from a search that trains every graph to its end, decisions from those that do not."""
    curves = (100 * np.random.default_rng(0).random((12, 4))).tolist()
    studies = {
        pruner: run_scripted(monkeypatch, tiny_data, tmp_path / pruner, curves, pruner=pruner)
        for pruner in ("none", "asha", "promote")
    }
    table = bench.from_summaries({"none": search.study_summary(studies.pop("none"))}).of("none")
    for pruner, live in studies.items():
        events = table.replay(Rule(pruner), order=range(12))
        trained = events.groupby("trial").epoch.max()
        assert trained.tolist() == [len(trial.intermediate_values) for trial in live.trials]
        assert len(set(trained)) > 1
        best = search.best_trials(live, 1)[0]
        assert events.val.iloc[-1] == best.value
        assert events.test.iloc[-1] == best.user_attrs["test_accuracy"]
        assert events.epochs.iloc[-1] == sum(trained)


def test_more_workers_take_less_time_and_the_order_is_seeded(recorded):
    table = recorded.of("mixed")
    one = table.replay(Rule("none"))
    four = table.replay(Rule("none", workers=4))
    assert one.seconds.iloc[-1] == pytest.approx(table.seconds.sum())
    assert 3 < one.seconds.iloc[-1] / four.seconds.iloc[-1] <= 4
    assert four.epochs.iloc[-1] == one.epochs.iloc[-1] == 720
    assert one.val.iloc[-1] == table.val[:, -1].max()
    assert one.val.is_monotonic_increasing
    assert table.replay(Rule(), 20, seed=3).equals(table.replay(Rule(), 20, seed=3))
    assert not table.replay(Rule(), 20, seed=3).equals(table.replay(Rule(), 20, seed=4))
    with pytest.raises(ValueError, match="trials is 61, but only 60 graphs are recorded"):
        table.replay(Rule(), 61)
    with pytest.raises(ValueError, match="promotion to epoch 12 needs 16"):
        table.replay(Rule("promote"), 15)
    with pytest.raises(ValueError, match="one condition and one seed"):
        recorded.replay(Rule())
    with pytest.raises(ValueError, match="workers"):
        Rule(workers=0)


def test_graphs_are_drawn_by_weight():
    table = small_benchmark().of("none")
    table.runs.loc[3, "weight"] = 1e6
    assert {table.replay(Rule("none"), 1, seed).row[0] for seed in range(20)} == {3}
    assert table.sample(np.random.default_rng(0)) == table.graphs[3]


def test_a_diverged_run_is_never_the_best():
    table = small_benchmark().of("none")
    events = table.replay(Rule("none"))
    out = events[events.row == int(np.flatnonzero(table.runs.diverged)[0])]
    assert out.epoch.tolist() == [2]
    assert events.val.iloc[-1] == np.nanmax(table.val[:, -1])


# ---- what the whole table tells


def test_the_best_of_many_is_too_good():
    table = small_benchmark(graphs=200, several=100)
    found = bench.best_of(table, (1, 8, 64, 500), 300).set_index(["measure", "n"])
    seen, test = found.accuracy["in the search"], found.accuracy["test images"]
    assert abs(seen[1] - test[1]) < 0.5
    assert seen[64] - test[64] > 3  # the luck of the best of 64 at a noise of 5 points
    assert (found.low <= found.accuracy).all()
    assert (found.accuracy <= found.high).all()
    assert set(found.graphs) == {199}  # one diverged


def test_regret_falls_with_what_is_spent(recorded):
    table = recorded.of("fractaldb1k")
    rules = {"asha": Rule(), "random": Rule("none")}
    found = bench.regret(table, rules, [60, 240, 708], repeats=20).set_index(["rule", "epochs"])
    assert found.regret["random"].is_monotonic_decreasing
    assert found.regret["random", 708] == 0  # everything is trained
    assert found.regret["asha", 60] < found.regret["random", 60]
    assert (found.n == 20).all()
    assert found.test["asha", 708] == table.runs.test[np.argmax(table.val[:, -1])]


def test_the_target_alone_has_a_rank(recorded):
    found = bench.rank_alone(recorded).set_index(["condition", "start", "gate"])
    assert found["rank"]["fractaldb1k", "fractaldb1k", "through"] == 1
    assert found["rank"]["none", "scratch", "through"] == 5
    assert set(found.of) == {59, 60}


def test_claims_of_repeated_searches(recorded):
    found = bench.repeated_claims(recorded, Rule("promote", min_resource=3), 20, repeats=20)
    assert found.claim.tolist() == ["C4", "C4", "C4", "C5", "C5"]
    gain = found.set_index(["claim", "condition", "against"]).loc["C4", "imagenet1k", "none"]
    assert gain.low < gain.effect < gain.high
    assert gain.effect == pytest.approx(32, abs=5)
    assert gain.positive == 100
