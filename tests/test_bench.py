"""The recorded benchmark of graphs: asked, saved, searched by replay as by a live search."""

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from test_search import run_scripted

from ktglite.experiments import bench, search
from ktglite.experiments.bench import Benchmark, Rule
from ktglite.experiments.space import CONDITIONS, SearchConfig, sample_graphs
from ktglite.graph import Graph


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def recorded():
    return bench.load(bench.PATH)


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
    about |= {"training": {"epochs": 4}, "weights": {}}
    return Benchmark(forms, runs, val, np.full(val.shape, 1.5), about)


# ---- to ask


def test_a_graph_is_found_by_its_form(recorded):
    table = recorded.of("fractaldb1k")
    row = next(i for i, graph in enumerate(table.graphs) if graph.gates[0][0] == "through")
    graph = table.graphs[row]
    assert table.trajectory(graph).tolist() == table.val[row].tolist()
    swapped = graph.to_dict()
    swapped["gates"][0][0] = "correct"  # as Through, on a label edge
    assert table.query(Graph.from_dict(swapped)) == table.query(graph)
    at_three = table.query(graph, epoch=3)
    assert at_three["val"] == table.val[row, 2]
    assert "test" not in at_three
    assert table.query(graph)["test"] == table.runs.test[row]
    assert at_three["seconds"] == pytest.approx(table.seconds[row, :3].sum())
    for epoch in (-1, 0, table.val.shape[1] + 1):
        with pytest.raises(ValueError, match=f"epoch is {epoch}: graphs have epochs 1 to"):
            table.query(graph, epoch)
    with pytest.raises(KeyError, match="no run of this graph with seed 77"):
        table.query(graph, seed=77)
    with pytest.raises(ValueError, match="no graphs of condition 'all' are recorded, only"):
        recorded.of("all")


def test_a_recorded_graph_counts_wherever_its_starts_are_allowed(recorded):
    """Those from scratch weigh as much as the space has of them."""
    tables = {name: recorded.of(name) for name in CONDITIONS}
    for name, allowed in CONDITIONS.items():
        graphs = set(tables[name].graphs)
        starts = {node.init.removesuffix("_standin") for graph in graphs for node in graph.nodes}
        assert starts <= set(allowed)
        assert len(graphs) == len(tables[name])
        assert set(tables["none"].graphs) <= graphs <= set(tables["mixed"].graphs)
        scratch = [graph.nodes[0].init == "scratch" for graph in tables[name].graphs]
        share = tables[name].shares[scratch].sum()
        assert share == pytest.approx(1 / len(allowed), abs=0.02)
    assert {graph.canonical() for graph in recorded.graphs} == set(recorded.graphs)


def test_recorded_graphs_are_a_search_without_pruning(recorded):
    searches = recorded.as_searches()
    for name, summary in searches.items():
        table = recorded.of(name)
        assert len(summary["trials"]) == len(table) == summary["states"]["COMPLETE"]
        assert summary["selection_value"] == table.val[:, -1].max() == summary["best"]["value"]
        for trial in summary["trials"]:
            graph = Graph.from_dict(trial["graph"])
            assert trial["values"] == table.trajectory(graph).tolist()
            assert trial["test_accuracy"] == table.query(graph)["test"]
    assert searches["mixed"]["choices"] == ["scratch", "imagenet1k_standin", "fractaldb1k"]
    made_up = small_benchmark().as_searches()["none"]
    assert made_up["states"] == {"COMPLETE": 39, "FAIL": 1}
    assert [len(t["values"]) for t in made_up["trials"] if t["state"] == "FAIL"] == [2]


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


def whole_curves(study):
    """The trials of a search without pruning as a benchmark of one condition."""
    trials = search.study_summary(study)["trials"]
    rows = [{"condition": "none", "seed": 0, "test": trial["test_accuracy"]} for trial in trials]
    runs = pd.DataFrame(rows).assign(diverged=False, processor="", weight=1.0)
    val = np.array([trial["values"] for trial in trials])
    graphs = [Graph.from_dict(trial["graph"]).canonical() for trial in trials]
    return Benchmark(graphs, runs, val, np.ones(val.shape), {"seed": 0})


def test_a_replay_decides_as_a_live_search_of_the_same_graphs(tiny_data, tmp_path, monkeypatch):
    """Curves from a search that trains every graph to its end, decisions from those that do not."""
    curves = (100 * np.random.default_rng(0).random((12, 4))).tolist()
    study = run_scripted(monkeypatch, tiny_data, tmp_path / "none", curves, pruner="none")
    table = whole_curves(study)
    drawn = [curves[row] for row in table.draw(12, seed=0)]
    for pruner in ("asha", "promote"):
        live = run_scripted(monkeypatch, tiny_data, tmp_path / pruner, drawn, pruner=pruner)
        events = table.replay(Rule(pruner))
        trained = events.groupby("trial").epoch.max()
        assert trained.tolist() == [len(trial.intermediate_values) for trial in live.trials]
        assert len(set(trained)) > 1
        best = search.best_trials(live, 1)[0]
        assert events.val.iloc[-1] == best.value
        assert events.test.iloc[-1] == best.user_attrs["test_accuracy"]
        assert events.epochs.iloc[-1] == sum(trained)


def test_more_workers_take_less_time_and_the_order_is_seeded(recorded):
    table = recorded.of("mixed")
    graphs, epochs = table.val.shape
    one = table.replay(Rule("none"))
    four = table.replay(Rule("none", workers=4))
    assert one.seconds.iloc[-1] == pytest.approx(table.seconds.sum())
    assert 3 < one.seconds.iloc[-1] / four.seconds.iloc[-1] <= 4
    assert four.epochs.iloc[-1] == one.epochs.iloc[-1] == graphs * epochs
    assert one.val.iloc[-1] == table.val[:, -1].max()
    assert one.val.is_monotonic_increasing
    assert table.replay(Rule(), 20, seed=3).equals(table.replay(Rule(), 20, seed=3))
    assert not table.replay(Rule(), 20, seed=3).equals(table.replay(Rule(), 20, seed=4))
    with pytest.raises(ValueError, match=f"trials is {graphs + 1}, but only {graphs} graphs are"):
        table.replay(Rule(), graphs + 1)
    with pytest.raises(ValueError, match="promotion to epoch 20 needs 32"):
        table.replay(Rule("promote"), 15)
    with pytest.raises(ValueError, match="one condition and one seed"):
        recorded.replay(Rule())
    with pytest.raises(ValueError, match="workers"):
        Rule(workers=0)


def test_graphs_are_drawn_by_weight_and_a_diverged_run_is_never_the_best():
    table = small_benchmark().of("none")
    events = table.replay(Rule("none"))
    out = events[events.row == int(np.flatnonzero(table.runs.diverged)[0])]
    assert out.epoch.tolist() == [2]
    assert events.val.iloc[-1] == np.nanmax(table.val[:, -1])
    rng = np.random.default_rng(0)
    assert len({table.sample(rng) for _ in range(300)}) > 30
    table.runs.loc[3, "weight"] = 1e6
    assert {table.replay(Rule("none"), 1, seed).row[0] for seed in range(20)} == {3}
    assert table.sample(rng) == table.graphs[3]


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


def test_luck_is_found_where_graphs_differ_less_than_their_measurement_errs():
    """A graph's worth spreads by 3 points, a seed's luck by 5 or by none."""
    lucky = small_benchmark(graphs=200, several=100)
    exact = replace(lucky, val=lucky.val.copy())
    exact.val[:, -1] = lucky.runs.test
    found = bench.optimism(lucky).iloc[0]
    table = lucky.of("none")
    assert 3 < found.low < found.effect < found.high
    assert found.spread == pytest.approx(np.nanstd(table.val[~table.runs.diverged, -1]), abs=0.1)
    assert found.noise == pytest.approx(100 * (0.25 / 480) ** 0.5, abs=0.1)
    assert bench.optimism(exact).effect[0] == pytest.approx(0)


def test_a_late_first_rung_keeps_the_best_more_often(recorded):
    table = small_benchmark()
    all_of_it = bench.kept_best(table, Rule("none")).iloc[0]
    assert all_of_it.kept == 100
    early, late = (bench.kept_best(table, Rule("asha", rung), 16, 30) for rung in (1, 3))
    assert early.spent[0] < late.spent[0] < 100
    assert early.kept[0] <= late.kept[0]
    found = bench.kept_best(recorded, Rule("promote", 3), trials=8, repeats=10)
    assert list(found.condition) == recorded.conditions
    assert found.kept.between(0, 100).all()


def test_regret_falls_with_what_is_spent(recorded):
    table = recorded.of("fractaldb1k")
    size = table.val.size  # everything is trained
    found = bench.regret(
        table, {"asha": Rule(), "random": Rule("none")}, [100, 400, size], repeats=20
    )
    found = found.set_index(["rule", "epochs"])
    assert found.regret["random"].is_monotonic_decreasing
    assert found.regret["random", size] == 0
    assert (found.regret >= 0).all()
    assert (found.n == 20).all()
    assert table.replay(Rule()).epochs.iloc[-1] < 0.7 * size


def test_the_target_alone_has_a_rank():
    table = small_benchmark().of("none")
    found = bench.rank_alone(table)
    assert len(found) == sum(graph.size == 1 for graph in table.graphs)
    for row in found.itertuples():
        ahead = (table.val[:, -1] > row.val).sum()
        assert row.better == pytest.approx(100 * ahead / len(table))


def test_claims_of_repeated_searches(recorded):
    found = bench.repeated_claims(recorded, Rule("promote", min_resource=3), 20, repeats=20)
    assert found.claim.tolist() == ["C4", "C4", "C4", "C5", "C5"]
    gain = found.set_index(["claim", "condition", "against"]).loc["C4", "imagenet1k", "none"]
    assert gain.low < gain.effect < gain.high
    assert gain.effect > 20  # Table 1's C1
    assert gain.positive == 100
