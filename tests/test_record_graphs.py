"""benchmarks/record_graphs.py: which graphs are taken, how they weigh, and what the file keeps."""

import importlib.util
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ktglite.experiments.space import SearchConfig
from ktglite.store import write_record

SCRIPT = Path(__file__).parents[1] / "benchmarks/record_graphs.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("record_graphs", SCRIPT)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    module.DRAWS = 500
    return module


@pytest.fixture(scope="module")
def conditions():
    where = {"sources": ["fractaldb1k"], "arch": "resnet18_w8", "trials": 8}
    return [SearchConfig(name, **where) for name in ("none", "fractaldb1k")]


@pytest.fixture(scope="module")
def wanted(script, conditions):
    return script.plan(conditions, "none", count=40, seeds=2)


def test_strata_are_taken_by_their_share(script):
    strata = {("", "a", "through", 1): list("pqrstuvwxyz"), ("", "b", "through", 1): list("PQRST")}
    shares = {"none": dict(zip(strata, (0.7, 0.3), strict=True))}
    first = islice(script.in_turn(strata, shares), 10)
    assert Counter(graph.isupper() for graph in first) == {False: 7, True: 3}


def test_targets_alone_come_first_and_have_the_most_seeds(script, wanted):
    alone = [graph for graph in wanted.graph if graph.size == 1]
    assert [graph.size for graph in wanted.graph[:5]] == [1, 1, 1, 1, 3]  # two starts, two gates
    assert len(alone) == 4 * script.SEEDS_ALONE
    assert len(set(wanted.graph)) == 40


def test_a_condition_that_has_enough_waits_for_the_others(script, conditions, monkeypatch):
    monkeypatch.setattr(script, "LEAST", 12)
    wanted = script.plan(conditions, "none", count=40, seeds=2)
    first = wanted[: wanted.seed.ne(0).argmax()]  # before further seeds
    has = pd.DataFrame(list(first.share)) > 0
    assert has.none.sum() == 12 < has.fractaldb1k.sum()
    assert not (has.cumsum().shift(fill_value=0) >= 12).all(axis=1).any()
    assert len(set(wanted.graph)) == 40


def finished(seed: int) -> dict:
    curves = {"val": [10.0, 20.0], "seconds": [1.0, 1.0]}
    return {"test": 20.0 + seed, "diverged": False, "processor": "a processor", **curves}


def test_weights_add_up_to_the_space_that_is_covered(script, wanted):
    found = [finished(seed) for seed in wanted.seed]
    runs = script.pack(wanted, found, {}, seed=0).runs
    weights = runs[runs.seed == 0].groupby("condition").weight.sum()
    assert weights.between(0.9, 1.0 + 1e-9).all(), weights


def test_what_the_file_has_is_not_trained_again(script, wanted, tmp_path):
    about = {"seed": 0, "training": {"epochs": 2}, "data": {"val": 480, "test": 1440}}
    about |= {"weights": {}, "licence": "MIT", "origin": "made up"}
    some = [finished(seed) if i < 5 else None for i, seed in enumerate(wanted.seed)]
    path = tmp_path / "graphs.npz"
    assert script.read_file(path, about) == {}
    script.pack(wanted, some, dict(about), seed=0).save(path)
    known = script.read_file(path, about)
    assert set(known) == set(zip(wanted.graph[:5], wanted.seed[:5], strict=True))
    assert known[wanted.graph[0], 0]["test"] == pytest.approx(20.0, abs=0.04)
    with pytest.raises(ValueError, match="another training"):
        script.read_file(path, about | {"training": {"epochs": 3}})


@pytest.mark.parametrize(("device", "name"), [("cpu", "a processor"), ("cuda:0", "a card")])
def test_a_run_names_what_it_ran_on(script, tmp_path, device, name):
    hardware = {"cpu": "a processor", "gpus": ["a card"]}
    record = {"status": "complete", "test_accuracy": [50.0]}
    record["provenance"] = {"hardware": hardware, "device": device}
    record["epochs"] = [{"val_accuracy": [40.0], "seconds": 1.0}]
    write_record(tmp_path / "run.json", record, script.SCHEMA)
    run = script.read_run(tmp_path / "run.json", epochs=2)
    assert run["processor"] == name
    assert np.array_equal(run["val"], [40.0, np.nan], equal_nan=True)
