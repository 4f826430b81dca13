"""Recorded runs and searches in place of trainings."""

import dataclasses
import json

import pytest

from ktglite import load_settings
from ktglite.experiments import ablation, bench, claims, ready
from ktglite.experiments.runs import Images
from ktglite.graph import Node, all_through, distillation, independent
from ktglite.store import from_checkout, write_record


def write(folder, seeds_of):
    runs = [{"label": label, "seed": s} for label, seeds in seeds_of.items() for s in seeds]
    (folder / "table1.json").write_text(json.dumps(runs))
    return str(folder)


def test_seeds_are_those_that_every_row_has(tmp_path):
    given = {"alone": [10, 11, 12, 14], "x/1": [10, 11, 14], "teacher": [100], None: [3]}
    folder = write(tmp_path, given)
    assert ready.recorded_seeds(folder) == {"first_seed": 10, "seeds": 2}
    assert ready.recorded_seeds("nowhere") == ready.recorded_seeds(None) == {}
    assert load_settings("02", "quick", ready_runs=folder).seed_numbers == range(10, 12)
    asked = load_settings("02", "quick", ready_runs=folder, seeds=5)
    assert asked.seed_numbers == range(20, 25)


def test_a_recorded_search_is_cut_where_a_live_one_would_stop(tmp_path):
    folder = write(tmp_path, {"alone": [10]})
    given = {"ready_runs": folder, "trials": 8, "min_resource": 3}
    found = ready.recorded_searches(load_settings("03", "quick", **given))
    assert list(found) == ["none", "imagenet1k", "fractaldb1k", "mixed"]
    whole = bench.load(bench.PATH).as_searches()
    for name, summary in found.items():
        trials = summary["trials"]
        assert len(trials) == 8
        stopped = [trial for trial in trials if trial["state"] == "PRUNED"]
        assert stopped
        assert {len(trial["values"]) for trial in stopped} <= {3, 6, 12}
        assert summary["epochs_run"] == sum(len(trial["values"]) for trial in trials)
        ends = [trial["value"] for trial in trials if trial["state"] == "COMPLETE"]
        assert summary["selection_value"] == max(ends)
        for trial, before in zip(trials, whole[name]["trials"], strict=False):
            assert trial["values"] == before["values"][: len(trial["values"])]
    assert ready.recorded_searches(load_settings("03", "quick")) == {}
    own = tmp_path / "own"
    write_record(own / "search/none.json", found["none"] | {"reevaluated": [1]}, 1)
    live = load_settings("04", "quick", own)
    assert list(ready.all_searches(live)) == ["none"]
    both = ready.all_searches(dataclasses.replace(live, ready_runs=str(folder), trials=8))
    assert set(both) == set(found)
    with pytest.raises(FileNotFoundError, match="no summary of a search"):
        ready.all_searches(load_settings("04", "quick", tmp_path / "nowhere"))
    others = [{"limit": 600}, {"arch": "resnet18_w8"}, {"lr": 0.1}]
    others += [{"nodes": 2}, {"select_on": "test"}, {"teachers": "trained"}]
    for other in others:
        assert ready.recorded_searches(load_settings("03", "quick", **given, **other)) == {}


def test_seeds_are_added_only_where_nothing_else_differs():
    settings = load_settings("00", "quick")
    node = Node(settings.arch)
    graphs = {"one": independent(node), "graph": all_through(node, node, node)}
    graphs["student"] = distillation(node, Node(settings.arch, "teacher"))
    folder = "data/reference_runs/quick"
    record = ablation.read_runs(from_checkout(folder))[0]
    data = Images(record["data"]["fingerprint"], None, None)
    config = settings.train_config()
    found = ready.more_seeds(graphs, data, config, [10, 11], folder)
    assert {run["label"] for run in found} == {*graphs}
    assert [run["seed"] for run in found[::3]] == [12, 13, 14, 15]  # seeds with all three
    assert len(ready.more_seeds({"one": independent(node)}, data, config, [10], folder)) == 9
    others = settings.train_config(lr=0.02)
    assert ready.more_seeds(graphs, data, others, [10], folder) == []
    assert ready.more_seeds(graphs, data, config, [10], "nowhere") == []


def test_an_effect_in_words_says_no_more_than_its_interval():
    say = claims.differs
    assert say({"effect": -9.5, "low": -12.0, "high": -7.0}) == "9.5 points worse [7.0, 12.0]"
    assert say({"effect": 2.0, "low": 1.0, "high": 3.0}) == "2.0 points better [1.0, 3.0]"
    assert say({"effect": 2.0, "low": -1.0, "high": 5.0}).startswith("not shown to be better or")
    assert "so few runs" in say({"effect": 2.0, "low": float("nan"), "high": float("nan")})


def test_the_overview_has_a_cell_for_every_claim_and_set():
    runs = ablation.read_runs(from_checkout("data/reference_runs/cars64"))
    table = claims.overview(claims.forest({"cars": (runs, {})}))
    assert {"C0", "C1", "C2", "C3"} <= set(table.index)
    assert {"cars", claims.PAPER} == set(table.columns)
    assert table.loc["C1", claims.PAPER] == (
        "ImageNet-1k: +3.0 [+2.7, +3.3], supported; FractalDB-1k: +1.8 [+1.3, +2.3], supported"
    )
