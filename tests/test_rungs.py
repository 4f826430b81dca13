"""ASHA's rungs: the same decisions as Optuna's, and what replays on whole curves tell."""

import numpy as np
import optuna
import pytest

from ktglite.experiments.rungs import early_rungs, pruner_table, replay
from ktglite.experiments.search import read_summaries
from ktglite.settings import load_settings
from ktglite.store import from_checkout


@pytest.mark.parametrize("rungs", [(1, 2), (2, 2), (3, 3), (9, 2), (12, 2)])
def test_replayed_asha_decides_as_optunas_does(rungs):
    curves = np.random.default_rng(0).integers(0, 12, (60, 9)).astype(float)  # with ties
    pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=rungs[0],
        reduction_factor=rungs[1],
        min_early_stopping_rate=0,
        bootstrap_count=0,
    )
    study = optuna.create_study(direction="maximize", pruner=pruner)

    def objective(trial):
        for step, value in enumerate(curves[trial.number], 1):
            trial.report(value, step)
            if step < 9 and trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=60)
    assert replay(curves, "asha", eta=rungs[1], first_rung=rungs[0]).tolist() == [
        len(trial.intermediate_values) for trial in study.trials
    ]


def test_promotion_never_keeps_what_asha_would_let_on_by_being_first():
    """ASHA lets the first graph run to its end, however bad; promotion waits for rivals."""
    curves = np.array([[1.0, 1, 1, 1]] + [[50 + i, 50, 50, 50 + i] for i in range(7)])
    assert replay(curves, "asha")[0] == 4
    assert replay(curves, "promote")[0] == 1
    assert replay(curves, "none").tolist() == [4] * 8


def test_early_rungs_tell_a_slow_start_from_a_bad_graph():
    """Slow targets start below all others and end above them: the first rung stops them, a later one does not."""
    trials = []
    for i in range(40):
        slow = i % 2
        values = [1 + i / 100, 50 + i, 60 + i, 70 + i] if slow else [10 + i / 100, 11, 12, 13]
        nodes = [{"init": "scratch" if slow else "fractaldb1k"}]
        trials.append({"state": "COMPLETE", "values": values, "graph": {"nodes": nodes}})
    summary = {"study": "s", "choices": ["scratch", "fractaldb1k"], "trials": trials}
    summary["search"] = {"pruner": "none", "reduction_factor": 2}
    table = early_rungs(summary, (1, 2, 4)).set_index(["rung", "target"])
    assert list(table.index) == [
        (r, t) for r in (1, 2) for t in ("scratch", "fractaldb1k")
    ]  # 4 is the end
    assert (table.n == 20).all()
    assert table.deserved.to_dict() == {key: 100.0 * (key[1] == "scratch") for key in table.index}
    assert table.passed[1, "scratch"] < 25 < 70 < table.passed[2, "scratch"]
    assert table.bias_high[1, "scratch"] < 0
    assert (table.verdict[1, "scratch"], table.verdict[1, "fractaldb1k"]) == (
        "held back",
        "favoured",
    )
    pruners = pruner_table(summary, (1, 2)).set_index(["pruner", "first_rung"])
    for pruner in ("asha", "promote"):
        assert pruners.best_kept[pruner, 1] < 80 < pruners.best_kept[pruner, 2] == 100
    assert (pruners.low <= pruners.best_kept).all()
    assert (pruners.best_kept <= pruners.high).all()
    assert pruners.epochs.between(25, 100).all()
    with pytest.raises(ValueError, match="was pruned"):
        early_rungs(summary | {"search": {"pruner": "asha"}})


def test_of_several_best_graphs_one_is_enough():
    """Accuracies of few images are often equal: whoever keeps one of the best has lost nothing."""
    curves = np.array([[1.0, 9], [5, 9], [6, 8], [3, 7], [2, 6], [4, 5], [0, 4], [7, 3]])
    table = pruner_table(curves, (1,)).set_index("pruner")
    last = pruner_table(curves[1:], (1,)).set_index("pruner")  # without the one that starts badly
    assert table.best_kept["promote"] == last.best_kept["promote"] == 100
    few = pruner_table(curves, (1,), graphs=2).set_index("pruner")
    assert few.best_kept["promote"] < 100
    assert few.epochs["promote"] == 75  # of two, one is promoted


def test_the_stored_curves_give_the_table_of_the_docs(tmp_path, monkeypatch):
    """Found from any folder; sixty graphs a condition, all trained to the end at the settings of the quick profile."""
    monkeypatch.chdir(tmp_path)
    whole = read_summaries(from_checkout(load_settings("03").recorded))
    quick = read_summaries(from_checkout("data/reference_runs/quick/search"))
    for name, summary in whole.items():
        assert summary["states"]["COMPLETE"] == 60
        assert [summary[part] for part in ("training", "data")] == [
            quick[name][part] for part in ("training", "data")
        ]
    table = pruner_table(whole["imagenet1k"], (1, 3, 6)).set_index(["pruner", "first_rung"])
    assert table.best_kept["asha"].round().tolist() == [57, 98, 100]
    assert table.best_kept["promote"].tolist() == [100, 100, 100]
    assert {
        len(early_rungs(summary, (1, 3, 6)))
        for summary in whole.values()
        if len(summary["choices"]) == 2
    } == {6}
    assert not from_checkout("data/not there").exists()
