"""ASHA's rungs: the same decisions as Optuna's, and as an independent promotion; taken up again."""

import numpy as np
import optuna
import pytest

from ktglite.experiments.rungs import Rungs, replay, simulate


@pytest.mark.parametrize("rungs", [(1, 2), (2, 2), (3, 3), (9, 2)])
def test_replayed_asha_decides_as_optunas_does(rungs):
    curves = np.random.default_rng(0).integers(0, 12, (60, 9)).astype(float)  # with ties
    pruner = optuna.pruners.SuccessiveHalvingPruner(*rungs)
    study = optuna.create_study(direction="maximize", pruner=pruner)

    def objective(trial):
        for step, value in enumerate(curves[trial.number], 1):
            trial.report(value, step)
            if step < 9 and trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=60)
    spent = [len(trial.intermediate_values) for trial in study.trials]
    assert replay(curves, "asha", eta=rungs[1], first_rung=rungs[0]).tolist() == spent


def promoted_by_the_book(curves, eta):
    """ASHA of Li et al. (2020), algorithm 2, for one worker: how many epochs each curve trains."""
    steps = Rungs("promote", 1, eta, curves.shape[1], len(curves)).epochs
    results = [{} for _ in steps]
    started = 0
    while True:
        for k in reversed(range(len(steps) - 1)):
            best = sorted(results[k], key=lambda i: (-results[k][i], i))[: len(results[k]) // eta]
            waiting = [i for i in best if i not in results[k + 1]]
            if waiting:
                results[k + 1][waiting[0]] = curves[waiting[0], steps[k + 1] - 1]
                break
        else:
            if started == len(curves):
                last = [sum(i in found for found in results) - 1 for i in range(len(curves))]
                return [steps[rung] for rung in last]
            results[0][started] = curves[started, steps[0] - 1]
            started += 1


@pytest.mark.parametrize("eta", [2, 3])
def test_replayed_promotion_is_the_published_algorithm(eta):
    for seed in range(20):
        curves = np.random.default_rng(seed).integers(0, 20, (30, 9)).astype(float)
        assert replay(curves, "promote", eta).tolist() == promoted_by_the_book(curves, eta)


def test_promotion_never_keeps_what_asha_would_let_on_by_being_first():
    """ASHA lets the first graph run to its end, however bad; promotion waits for rivals."""
    curves = np.array([[1.0, 1, 1, 1]] + [[50 + i, 50, 50, 50 + i] for i in range(7)])
    assert replay(curves, "asha")[0] == 4
    assert replay(curves, "promote")[0] == 1
    assert replay(curves, "none").tolist() == [4] * 8


@pytest.mark.parametrize("seed", range(10))
def test_hopeless_trials_are_never_promoted_and_found_early(seed):
    curves = np.random.default_rng(seed).integers(0, 30, (24, 8)).astype(float)
    whole = replay(curves, "promote", workers=3)
    rungs = Rungs("promote", 1, 2, 8, 24)
    trained = np.zeros(24, int)
    early = 0
    for _, trial, epoch in simulate(rungs, lambda i: (curves[i], np.ones(8)), 3):
        trained[trial] = epoch
        found = rungs.hopeless()
        assert all(trained[lost] == whole[lost] for lost in found)
        rungs.over |= found
        early += len(found) * (len(rungs.goal) < 24)
    assert trained.tolist() == whole.tolist()
    assert early > 0


@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_taken_up_at_any_moment_the_rungs_decide_as_before(pruner):
    curves = np.random.default_rng(3).integers(0, 30, (20, 8)).astype(float)
    whole = replay(curves, pruner)

    def begin(trial):
        return curves[trial], np.ones(8)

    events = len(list(simulate(Rungs(pruner, 1, 2, 8, 20), begin)))
    for moment in range(1, events, 3):
        rungs = Rungs(pruner, 1, 2, 8, 20)
        trained = np.zeros(20, int)
        for at, (_, trial, epoch) in enumerate(simulate(rungs, begin)):
            trained[trial] = epoch
            if at == moment:
                break  # before it has arrived
        again = Rungs(pruner, 1, 2, 8, 20)
        for i in reversed(rungs.goal):
            values = {e: curves[i, e - 1] for e in range(1, trained[i] + 1)}
            again.restore(i, rungs.until(i), values, i in rungs.over or trained[i] == 8)
        if pruner == "asha":
            assert list(again.ready) == ([trial] if trained[trial] < 8 else [])
        for _, trial, epoch in simulate(again, begin):
            trained[trial] = epoch
        assert trained.tolist() == whole.tolist()


def test_simulated_workers_share_the_time_and_a_diverged_graph_takes_its_own():
    """Two workers: the second graph ends first and makes room for the third."""
    curves, seconds = np.array([[1.0, 2]] * 3), np.array([[3.0, 3], [1, 1], [2, 2]])
    rungs = Rungs("none", 1, 2, 2, 3)
    events = simulate(rungs, lambda i: (curves[i], seconds[i]), workers=2)
    assert list(events) == [(2, 1, 2), (6, 0, 2), (6, 2, 2)]
    curves = np.array([[9.0, np.nan, np.nan, np.nan], [5, 5, 5, 5], [6, 6, 6, 6]])
    rungs = Rungs("asha", 1, 2, 4, 3)
    events = list(simulate(rungs, lambda i: (curves[i], np.ones(4))))
    assert events[:2] == [(1, 0, 1), (2, 0, 1)]  # epoch 2 was begun
    assert 0 in rungs.over
