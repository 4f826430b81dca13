"""The search: plan, storage, workers that die, objective, what is kept of a study."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from safetensors.torch import save_file

from ktglite import Graph, Node, TrainConfig, all_through, epochs, models, search
from ktglite.files import shipped
from ktglite.search import (
    Objective,
    SearchConfig,
    best_graphs,
    best_trials,
    condition_choices,
    is_settled,
    open_study,
    planned_trials,
    reevaluate,
    sample_graphs,
    study_summary,
    work,
    write_summary,
)

CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation="shift", precision="fp32", device="cpu")
SETTINGS = SearchConfig(condition="none", arch="resnet18_tiny", nodes=2, trials=5)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def standin_weights(folder):
    for source in ("fractaldb1k", "imagenet1k_standin"):
        state = models.initialise("resnet18_tiny", "scratch", 3, 1).state_dict()
        save_file(state, folder / f"{source}-resnet18_tiny.safetensors")
    return folder


# ---- space and plan


def test_conditions_name_the_source_that_is_at_hand():
    assert condition_choices("none") == ("scratch",)
    assert condition_choices("mixed") == ("scratch", "imagenet1k", "fractaldb1k")
    sources = ("imagenet1k_standin", "fractaldb1k")
    assert condition_choices("imagenet1k", sources) == ("scratch", "imagenet1k_standin")
    assert condition_choices("mixed", sources) == ("scratch", "imagenet1k_standin", "fractaldb1k")
    with pytest.raises(ValueError, match="condition is 'all'"):
        condition_choices("all")
    with pytest.raises(ValueError, match="needs a source 'fractaldb1k'"):
        condition_choices("mixed", ("imagenet1k",))


def test_plan_is_seeded_valid_without_repeats_and_grows_at_its_end(four_gates):
    choices = ("scratch", "fractaldb1k")
    plan = sample_graphs(choices, "resnet18_tiny", 3, 300, seed=1)
    assert len(set(plan)) == 300
    assert plan[:50] == sample_graphs(choices, "resnet18_tiny", 3, 50, seed=1)
    assert plan[:50] != sample_graphs(choices, "resnet18_tiny", 3, 50, seed=2)
    gates = Counter(gate for graph in plan for row in graph.gates[1:] for gate in row)
    assert len(gates) == 4
    assert all(abs(count / 1800 - 1 / 4) < 0.05 for count in gates.values())
    inits = Counter(node.init for graph in plan for node in graph.nodes)
    assert abs(inits["scratch"] / 900 - 1 / 2) < 0.06
    archs = {
        node.arch for graph in sample_graphs(choices, ("resnet18_tiny", "resnet18"), 2, 40, 0) for node in graph.nodes
    }
    assert archs == {"resnet18_tiny", "resnet18"}


def test_plan_can_exhaust_a_small_space_and_no_more(four_gates):
    assert len(set(sample_graphs(("scratch",), "resnet18_tiny", 2, 15 * 16, 0))) == 240
    with pytest.raises(ValueError, match="only 240 different graphs"):
        sample_graphs(("scratch",), "resnet18_tiny", 2, 241, 0)


def test_graphs_survive_optunas_parameters():
    graph = sample_graphs(("scratch", "fractaldb1k"), "resnet18_tiny", 3, 1, 3)[0]
    params = search.to_params(graph)
    assert params["gate 2->1"] == graph.gates[0][1]
    assert params["gate label->3"] == graph.gates[2][2]
    assert Graph.from_dict(search.to_graph_dict(params)) == graph
    assert set(params) == set(search.dimensions(("scratch",), ("resnet18_tiny",), 3))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
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


def brute_force_share_run(n):
    """Every assignment of the four gates, one Graph-free matrix each: paths to the target as powers of a matrix."""
    codes = np.arange(4 ** (n * n))[:, None] // 4 ** np.arange(n * n) % 4
    opened = (codes != 1).reshape(-1, n, n)
    opened = opened[opened[:, 0].any(1)].astype(int)
    step = opened + np.eye(n, dtype=int)
    return (np.linalg.matrix_power(step, n)[:, 0] > 0).mean()


def test_unreachable_nodes_are_counted_exactly(four_gates):
    assert search.expected_share_run(1) == 1
    assert search.expected_share_run(2) == pytest.approx(brute_force_share_run(2), abs=1e-12)
    assert search.expected_share_run(3) == pytest.approx(brute_force_share_run(3), abs=1e-12)  # all 4^9
    graphs = sample_graphs(("scratch",), "resnet18_tiny", 3, 4000, seed=0)
    shares = [len(graph.reaching_target()) / 3 for graph in graphs]
    assert abs(np.mean(shares) - search.expected_share_run(3)) < 4 * np.std(shares) / 4000**0.5
    with pytest.raises(ValueError, match="nodes is 5"):
        search.expected_share_run(5)


@pytest.mark.parametrize("rungs", [(1, 2, 0), (2, 2, 0), (1, 3, 1), (9, 2, 0)])
def test_replayed_asha_decides_as_optunas_does(rungs):
    curves = np.random.default_rng(0).integers(0, 12, (60, 9)).astype(float)  # with ties
    settings = SearchConfig("none", min_resource=rungs[0], reduction_factor=rungs[1], min_early_stopping_rate=rungs[2])
    study = optuna.create_study(direction="maximize", pruner=search.make_pruner(settings))

    def objective(trial):
        for step, value in enumerate(curves[trial.number], 1):
            trial.report(value, step)
            if step < 9 and trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=60)
    assert search.asha_epochs(curves, *rungs).tolist() == [len(t.intermediate_values) for t in study.trials]


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
    table = search.early_rungs(summary, (1, 2, 4)).set_index(["rung", "target"])
    assert list(table.index) == [(r, t) for r in (1, 2) for t in ("scratch", "fractaldb1k")]  # 4 is the end
    assert (table.n == 20).all()
    assert table.deserved.to_dict() == {key: 100.0 * (key[1] == "scratch") for key in table.index}
    assert table.passed[1, "scratch"] < 25 < 70 < table.passed[2, "scratch"]
    assert table.bias_high[1, "scratch"] < 0
    assert (table.verdict[1, "scratch"], table.verdict[1, "fractaldb1k"]) == ("held back", "favoured")
    assert table.best_kept[1, "scratch"] < table.best_kept[2, "scratch"]
    with pytest.raises(ValueError, match="was pruned"):
        search.early_rungs(summary | {"search": {"pruner": "asha"}})


def test_summaries_are_read_where_they_are_and_told_where_they_are_not(tmp_path):
    (tmp_path / "none.json").write_text('{"schema": 1, "study": "none"}')
    assert search.read_summaries(tmp_path) == {"none": {"schema": 1, "study": "none"}}
    (tmp_path / "none.json").write_text('{"schema": 1, "stu')
    with pytest.raises(ValueError, match="none.json is no summary"):
        search.read_summaries(tmp_path)
    with pytest.raises(FileNotFoundError, match="ktglite search first"):
        search.read_summaries(tmp_path / "nowhere")


def test_the_record_of_early_rungs_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = search.read_summaries(shipped("data/reference_runs/early_rungs"))
    assert {name: len(search.early_rungs(summary)) for name, summary in whole.items()} == {
        "fractaldb1k": 6,
        "imagenet1k": 6,
    }
    assert not shipped("data/not there").exists()


# ---- storage


def test_several_workers_on_sqlite_or_in_memory_are_refused(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="SQLite hands one trial to two"):
        search.search(SETTINGS, tiny_data, CONFIG, tmp_path, f"sqlite:///{tmp_path}/s.db", jobs=2)
    with pytest.raises(ValueError, match="SQLite"):
        search.search_worker("none", f"sqlite:///{tmp_path}/s.db", SETTINGS, tiny_data, CONFIG)
    with pytest.raises(ValueError, match="in memory"):
        search.check_workers(None, 2)
    assert not (tmp_path / "s.db").exists()


def test_a_study_is_not_continued_with_other_settings(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    study = open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    assert len(open_study("s", journal, SETTINGS, tiny_data, CONFIG).trials) == len(study.trials) == 5
    more = dataclasses.replace(SETTINGS, trials=7)
    plans = [t.user_attrs["plan"] for t in open_study("s", journal, more, tiny_data, CONFIG).trials]
    assert plans == list(range(7))
    with pytest.raises(ValueError, match="7 planned trials: 5 is fewer"):
        open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    with pytest.raises(ValueError, match=r"another training epochs \(2, now 3\)"):
        open_study("s", journal, more, tiny_data, dataclasses.replace(CONFIG, epochs=3))
    with pytest.raises(ValueError, match="another search min_resource"):
        open_study("s", journal, dataclasses.replace(more, min_resource=2), tiny_data, CONFIG)
    with pytest.raises(ValueError, match="another data fingerprint"):
        open_study("s", journal, more, dataclasses.replace(tiny_data, val=tiny_data.test, fingerprint=""), CONFIG)


def test_missing_weights_are_told_before_the_first_trial(tiny_data, tmp_path):
    settings = dataclasses.replace(SETTINGS, condition="fractaldb1k")
    with pytest.raises(FileNotFoundError, match="fractaldb1k-resnet18_tiny"):
        open_study("s", None, settings, tiny_data, CONFIG, tmp_path)


def test_half_a_line_at_the_end_of_a_journal_is_dropped(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    with open(journal, "a") as file:
        file.write('{"op_code": 4, "wor')
    study = open_study("s", journal, dataclasses.replace(SETTINGS, trials=6), tiny_data, CONFIG)
    assert len(study.trials) == len(search.load_study("s", journal).trials) == 6


# ---- workers


def fake_objective(trial):
    """Two reports and ASHA, without training."""
    trial.suggest_categorical("gate label->1", tuple(search.GATES))
    for step in (1, 2):
        time.sleep(0.003)
        trial.report(hash(str(trial.user_attrs["plan"])) % 100, step)
        if step == 1 and trial.should_prune():
            raise optuna.TrialPruned
    return 1.0


def hanging_objective(trial):
    time.sleep(600)


def fake_worker(journal, objective=fake_objective):
    settings = dataclasses.replace(SETTINGS, trials=80)
    storage = search.open_storage(journal)
    study = optuna.load_study(study_name="s", storage=storage, pruner=search.make_pruner(settings))
    work(study, objective, journal)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_every_planned_graph_finishes_once_though_a_worker_is_killed(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    study = open_study("s", journal, dataclasses.replace(SETTINGS, trials=80), tiny_data, CONFIG)
    context = multiprocessing.get_context("fork")  # quick to start; the objective uses no torch
    hanging = context.Process(target=fake_worker, args=(journal, hanging_objective))
    hanging.start()
    while not any("worker" in t.user_attrs for t in study.trials):
        time.sleep(0.02)
    workers = [context.Process(target=fake_worker, args=(journal,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    while sum(is_settled(t) for t in study.trials) < 20:
        time.sleep(0.02)
    os.kill(hanging.pid, signal.SIGKILL)  # in the middle of a trial
    for process in [hanging, *workers]:
        process.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    finished = [t.user_attrs["plan"] for t in study.trials if t.state in search.DONE]
    assert sorted(finished) == list(range(80))  # none lost, none twice
    assert [t.state for t in study.trials if t.state in search.OPEN] == []
    retried = [t for t in study.trials if "retry_history" in t.system_attrs]
    assert len(retried) == 1
    lost = study.trials[retried[0].system_attrs["retry_history"][0]]
    assert lost.state == TrialState.FAIL
    assert lost.params == retried[0].params
    assert not list((tmp_path / "s.log.workers").glob(f"*-{hanging.pid}-*"))


def test_a_graph_that_kills_its_workers_is_given_up(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    study = open_study("s", journal, dataclasses.replace(SETTINGS, trials=1), tiny_data, CONFIG)
    for _ in range(search.RETRIES + 1):
        trial = study.ask()
        trial.set_user_attr("worker", "somebody-who-died")
        search.requeue_lost(study, journal)
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 3
    assert is_settled(planned_trials(study)[0])


def test_a_trial_just_taken_is_not_lost(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    study = open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    study.ask()
    search.requeue_lost(study, journal)
    assert len(search.running(study)) == 1


def test_a_trial_beyond_the_plan_is_refused(tiny_data):
    settings = dataclasses.replace(SETTINGS, trials=1)
    study = open_study("s", None, settings, tiny_data, CONFIG)
    study.enqueue_trial({})  # as if another worker had taken the last one
    work(study, fake_objective, None)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert len(planned_trials(study)) == 1


def kill_one_midway(name, storage, after):
    """A thread that kills one of this process's workers when so many graphs are settled; join it for the pid."""
    killed = []

    def watch():
        while True:
            time.sleep(0.5)
            workers = multiprocessing.active_children()
            if workers and sum(map(is_settled, search.load_study(name, storage).trials)) >= after:
                killed.append(workers[0].pid)
                return os.kill(workers[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread, killed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_300_real_trainings_on_a_journal_with_a_worker_killed_midway(tiny_data, tmp_path):
    settings = dataclasses.replace(SETTINGS, trials=300, nodes=3)
    journal = tmp_path / "s.log"
    open_study("s", journal, settings, tiny_data, CONFIG)
    thread, killed = kill_one_midway("s", journal, 150)
    study = search.search(settings, tiny_data, CONFIG, tmp_path, journal, jobs=2, name="s", checkpoints=tmp_path / "c")
    thread.join()
    assert len(killed) == 1
    finished = [t.user_attrs["plan"] for t in study.trials if t.state in search.DONE]
    assert sorted(finished) == list(range(300))  # exactly: none lost, none twice
    assert not list((tmp_path / "c").iterdir())


def test_a_trial_that_failed_as_its_worker_died_is_not_lost(tiny_data, tmp_path):
    journal = tmp_path / "s.log"
    study = open_study("s", journal, dataclasses.replace(SETTINGS, trials=3), tiny_data, CONFIG)
    study.tell(study.ask(), state=TrialState.FAIL)  # and nobody enqueued it again
    work(study, fake_objective, journal)
    assert sorted(t.user_attrs["plan"] for t in study.trials if t.state in search.DONE) == [0, 1, 2]


def test_workers_are_spread_over_devices(tiny_data, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(search.runs, "default_jobs", lambda: 2)
    monkeypatch.setattr(search, "supervise", lambda arguments, jobs, update: begun.append(jobs))
    search.search(SETTINGS, tiny_data, CONFIG, tmp_path, workers_per_device=2)
    search.search_workers(3, "s", str(tmp_path / "s.log"), SETTINGS, tiny_data, CONFIG)
    assert begun == [4, 3]
    devices = []
    monkeypatch.setattr(search.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(search, "study_facts", lambda settings, data, config, weights: devices.append(config.device))
    for number in range(4):
        with pytest.raises(AttributeError):  # the facts are None: it goes no further
            search.search_worker("none", tmp_path / "search/none.log", SETTINGS, tiny_data,
                                 dataclasses.replace(CONFIG, device="auto"), number=number)  # fmt: skip
    assert devices == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


# ---- objective


def test_two_processes_search_what_one_searches(tiny_data, tmp_path):
    one = search.search(SETTINGS, tiny_data, CONFIG, tmp_path / "1", jobs=1)
    two = search.search(SETTINGS, tiny_data, CONFIG, tmp_path / "2", jobs=2)
    first, second = planned_trials(one), planned_trials(two)
    plan = sample_graphs(("scratch",), "resnet18_tiny", 2, 5, SETTINGS.seed)
    assert [t.params for t in first] == [t.params for t in second] == [search.to_params(g) for g in plan]
    assert [t.intermediate_values[1] for t in first] == [t.intermediate_values[1] for t in second]
    for trial in [*first, *second]:
        assert trial.state in search.DONE
        assert trial.state == TrialState.COMPLETE or len(trial.intermediate_values) < CONFIG.epochs
    record = next(epochs(plan[0], tiny_data, CONFIG, SETTINGS.seed))
    assert first[0].intermediate_values[1] == record["val_accuracy"][0]
    lines = [json.loads(line) for line in (tmp_path / "2" / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["done"] == lines[-1]["total"] == 5

    again = search.search(SETTINGS, tiny_data, CONFIG, tmp_path / "2", jobs=2)  # nothing is left to do
    assert again.trials == two.trials


def scripted(curves):
    """A stand-in for `epochs` that gives the n-th call the n-th curve."""
    calls = iter(curves)

    def fake(graph, data, config, seed, weights, checkpoint=None):
        for i, value in enumerate(next(calls), 1):
            if math.isnan(value):
                raise FloatingPointError("the loss on edge label -> node 1 is nan in epoch 1, iteration 1")
            yield {"epoch": i, "val_accuracy": [value, None], "reported_epoch": config.epochs}

    return fake


def run_scripted(monkeypatch, data, curves, **settings):
    monkeypatch.setattr(search, "epochs", scripted(curves))
    settings = dataclasses.replace(SETTINGS, trials=len(curves), **settings)
    config = dataclasses.replace(CONFIG, epochs=len(curves[0]))
    study = open_study("s", None, settings, data, config)
    work(study, Objective(settings, data, config), None)
    return study


def test_asha_stops_at_the_rungs_and_never_at_the_end(tiny_data, monkeypatch):
    curves = [[50, 60, 70, 80], [40, 90, 90, 90], [60, 50, 90, 90], [60, 70, 90, 10]]
    study = run_scripted(monkeypatch, tiny_data, curves)
    # 1: the first runs on. 2: below it at epoch 1. 3: best at 1, below 60 at 2. 4: 10 at its end, yet complete.
    assert [len(t.intermediate_values) for t in study.trials] == [4, 1, 2, 4]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [t.value for t in best_trials(study, 5)] == [80, 10]
    summary = study_summary(study)
    assert summary["epochs_run"] == 11
    assert summary["epochs_full"] == 16
    assert summary["epochs_saved_by_asha"] == 5
    assert summary["node_epochs_run"] + summary["node_epochs_unreachable"] == 22


def test_min_resource_moves_the_first_rung_and_pruning_can_be_off(tiny_data, monkeypatch):
    curves = [[50, 60, 70, 80], [40, 50, 90, 90]]
    study = run_scripted(monkeypatch, tiny_data, curves, min_resource=2)
    assert [len(t.intermediate_values) for t in study.trials] == [4, 2]
    study = run_scripted(monkeypatch, tiny_data, curves, pruner="none")
    assert [len(t.intermediate_values) for t in study.trials] == [4, 4]


def test_a_diverging_training_fails_its_trial_only(tiny_data, monkeypatch):
    study = run_scripted(monkeypatch, tiny_data, [[math.nan], [50]])
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert "node 1 is nan" in study_summary(study)["trials"][0]["error"]
    assert all(map(is_settled, study.trials))  # and it is not tried again
    assert study_summary(study)["states"] == {"RUNNING": 0, "COMPLETE": 1, "PRUNED": 0, "FAIL": 1, "WAITING": 0}


def test_another_error_stops_the_search_and_the_graph_is_tried_again(tiny_data, tmp_path, monkeypatch):
    journal = tmp_path / "s.log"

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(search, "epochs", broken)
    study = open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    with pytest.raises(OSError, match="disk full"):
        work(study, Objective(SETTINGS, tiny_data, CONFIG), journal)
    monkeypatch.setattr(search, "epochs", scripted([[1, 2]] * 5))
    study = open_study("s", journal, SETTINGS, tiny_data, CONFIG)
    work(study, Objective(SETTINGS, tiny_data, CONFIG), journal)
    assert [t.state in search.DONE for t in planned_trials(study)] == [True] * 5


def test_selecting_on_test_is_possible_and_labelled(tiny_data, monkeypatch, caplog):
    seen = []
    real = scripted([[1, 2]] * 4)

    def spy(graph, data, *args, **kwargs):
        seen.append(data.val)
        return real(graph, data, *args, **kwargs)

    for select_on, split in (("test", tiny_data.test), ("val", tiny_data.val)):
        settings = dataclasses.replace(SETTINGS, trials=2, select_on=select_on)
        study = open_study("s", None, settings, tiny_data, CONFIG)
        assert ("not a test result" in caplog.text) == (select_on == "test")
        caplog.clear()
        monkeypatch.setattr(search, "epochs", spy)
        work(study, Objective(settings, tiny_data, CONFIG), None)
        assert seen
        assert all(val is split for val in seen)
        assert study_summary(study)["select_on"] == select_on
        seen.clear()


def test_tpe_finishes_the_plan_too(tiny_data, monkeypatch):
    study = run_scripted(monkeypatch, tiny_data, [[i, i + 1] for i in range(14)], sampler="tpe")
    assert [t.state in search.DONE for t in planned_trials(study)] == [True] * 14
    assert len({str(t.params) for t in study.trials}) > 10


def test_a_drawn_target_that_learns_nothing_is_pruned_untrained(tiny_data):
    settings = dataclasses.replace(SETTINGS, trials=1, sampler="tpe")
    study = open_study("s", None, settings, tiny_data, CONFIG)
    study.enqueue_trial({"gate label->1": "cutoff", "gate 2->1": "cutoff"}, user_attrs={"plan": 1})
    trial = study.ask()
    trial.set_user_attr("error", "so that it is not tried again")
    study.tell(trial, state=TrialState.FAIL)
    work(study, Objective(settings, tiny_data, CONFIG), None)
    assert study.trials[1].state == TrialState.PRUNED
    assert study_summary(study)["trials"][1]["values"] == []
    assert best_graphs(study) == []


def test_optuna_stays_usable_by_hand(tiny_data):
    study = open_study("s", None, SETTINGS, tiny_data, CONFIG)
    study.optimize(Objective(SETTINGS, tiny_data, CONFIG), n_trials=1)
    assert study.best_trial.number == 0
    assert best_graphs(study) == sample_graphs(("scratch",), "resnet18_tiny", 2, 1, 0)


def test_checkpoint_of_a_lost_trial_is_taken_up(tiny_data, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=3)
    settings = dataclasses.replace(SETTINGS, trials=1)
    plan = sample_graphs(("scratch",), "resnet18_tiny", 2, 1, 0)[0]
    path = tmp_path / "s-0.ckpt"
    interrupted = epochs(plan, tiny_data, config, 0, checkpoint=path)
    next(interrupted)
    interrupted.close()
    study = open_study("s", None, settings, tiny_data, config)
    work(study, Objective(settings, tiny_data, config, checkpoints=tmp_path), None, tmp_path)
    whole = [record["val_accuracy"][0] for record in epochs(plan, tiny_data, config, 0)]
    assert list(study.trials[0].intermediate_values.values()) == whole
    assert not path.exists()


def test_a_checkpoint_is_kept_until_the_result_is_told(tiny_data, tmp_path):
    study = open_study("s", None, dataclasses.replace(SETTINGS, trials=1), tiny_data, CONFIG)
    trial = study.ask()
    value = Objective(SETTINGS, tiny_data, CONFIG, checkpoints=tmp_path)(trial)
    assert (tmp_path / "s-0.ckpt").exists()  # killed here, it is not trained again
    study.tell(trial, value)
    work(study, fake_objective, None, tmp_path)
    assert not list(tmp_path.iterdir())


# ---- reuse


def test_graphs_that_share_a_key_train_the_target_to_the_same_bits(tiny_data):
    nodes = (Node("resnet18_tiny"), Node("resnet18_tiny"), Node("resnet18_tiny"))
    heard = [["through", "linear", "cutoff"], ["correct", "through", "cutoff"], ["cutoff"] * 3]
    alike = [["correct", "linear", "cutoff"], ["correct", "correct", "cutoff"], ["linear", "through", "correct"]]
    exchanged = [["through", "cutoff", "linear"], ["cutoff"] * 3, ["correct", "cutoff", "through"]]
    graphs = [Graph(nodes, gates) for gates in (heard, alike, exchanged)]
    histories = [list(epochs(graph, tiny_data, CONFIG, 0)) for graph in graphs]
    curves = [[(r["val_accuracy"][0], r["edge_loss"][0][:2]) for r in history] for history in histories]
    keys = list(map(search.same_training, graphs))
    assert keys[0] == keys[1] != keys[2]
    assert curves[0] == curves[1] != curves[2]
    assert graphs[0].canonical() == graphs[1].canonical() == graphs[2].canonical()


def test_reuse_trains_less_and_changes_nothing(tiny_data, monkeypatch, four_gates):
    settings = dataclasses.replace(SETTINGS, trials=14, seed=2)
    config = dataclasses.replace(CONFIG, epochs=3)
    real, trained, studies = search.epochs, [], []

    def spy(graph, *args, **kwargs):
        for record in real(graph, *args, **kwargs):
            trained[-1] += 1
            yield record

    monkeypatch.setattr(search, "epochs", spy)
    for reuse in (False, True):
        trained.append(0)
        studies.append(open_study("s", None, dataclasses.replace(settings, reuse=reuse), tiny_data, config))
        work(studies[-1], Objective(dataclasses.replace(settings, reuse=reuse), tiny_data, config), None)
    without, reusing = map(study_summary, studies)
    assert [t.intermediate_values for t in studies[0].trials] == [t.intermediate_values for t in studies[1].trials]
    assert [(t.state, t.value) for t in studies[0].trials] == [(t.state, t.value) for t in studies[1].trials]
    saved = reusing["epochs_saved_by_reuse"]
    assert saved > 0
    assert trained == [without["epochs_run"], reusing["epochs_run"]]
    assert without["epochs_saved_by_reuse"] == 0
    for summary in (without, reusing):
        parts = ("epochs_run", "epochs_saved_by_asha", "epochs_saved_by_reuse")
        assert sum(summary[part] for part in parts) == summary["epochs_full"]


def test_a_graph_that_outlives_its_pruned_twin_is_trained_on(tiny_data, monkeypatch):
    settings = dataclasses.replace(SETTINGS, trials=6, reuse=True)
    curves = {0: [90, 90], 1: [50, 60], 2: [10, 20], 3: [11, 20], 4: [50, 60], 5: [50, 60]}
    asked = []

    def fake(graph, *args, **kwargs):
        asked.append(graph)
        yield from scripted([curves[plan[graph]]])(graph, tiny_data, CONFIG, 0, "")

    alone = [["through", "cutoff"], ["through", "cutoff"]]
    nodes = (Node("resnet18_tiny"),) * 2
    graphs = [
        Graph(nodes, [["linear", "through"], ["through", "through"]]),
        Graph(nodes, alone),
        Graph(nodes, [["linear", "linear"], ["through", "through"]]),
        Graph(nodes, [["through", "correct"], ["through", "through"]]),
        Graph(nodes, [["correct", "cutoff"], ["linear", "cutoff"]]),  # alone, as the second
        Graph(nodes, [["correct", "cutoff"], ["linear", "linear"]]),  # and again
    ]
    plan = {graph: i for i, graph in enumerate(graphs)}
    monkeypatch.setattr(search, "epochs", fake)
    monkeypatch.setattr(search, "sample_graphs", lambda *args: graphs)
    study = open_study("s", None, settings, tiny_data, CONFIG)
    work(study, Objective(settings, tiny_data, CONFIG), None)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [plan[graph] for graph in asked] == [0, 1, 2, 3, 4]  # the last takes all over from the fifth
    assert [search.reused_epochs(t) for t in study.trials] == [0, 0, 0, 0, 0, 2]
    assert study.trials[4].intermediate_values == study.trials[5].intermediate_values == {1: 50, 2: 60}


# ---- after the search


def test_reevaluation_uses_fresh_seeds_and_has_baselines(tiny_data, tmp_path):
    weights = standin_weights(tmp_path)
    sources = ("imagenet1k_standin", "fractaldb1k")
    settings = dataclasses.replace(SETTINGS, condition="mixed", sources=sources, trials=4, pruner="none")
    config = dataclasses.replace(CONFIG, epochs=1)
    study = search.search(settings, tiny_data, config, tmp_path, weights=weights, jobs=1)
    with pytest.raises(ValueError, match="seed 0 trained the search"):
        reevaluate(study, tiny_data, config, [0, 1], tmp_path / "runs", weights)
    again = reevaluate(study, tiny_data, config, [1, 2], tmp_path / "runs", weights, k=2, random_graphs=1, jobs=1)
    assert [entry["label"] for entry in again] == ["top 1", "top 2", "all through", "independent", "random 1"]
    assert all(len(entry["test_accuracy"]) == len(entry["records"]) == 2 for entry in again)
    top = best_graphs(study)[0]
    assert again[0]["graph"] == top.to_dict()
    assert again[2]["graph"] == all_through(*top.nodes).to_dict()
    assert (tmp_path / "runs" / f"{again[0]['records'][0]}.json").exists()
    summary = write_summary(study, tmp_path, again)
    assert json.loads((tmp_path / "search" / "mixed.json").read_text()) == summary
    assert summary["choices"] == ["scratch", *sources]
    tests = [t.user_attrs["test_accuracy"] for t in study.trials]
    assert summary["paper_protocol"] == max(tests)
    assert (
        tests[0]
        == list(epochs(search.to_graph(study.trials[0]), tiny_data, config, 0, weights))[-1]["test_accuracy"][0]
    )
    assert summary["selection_value"] == summary["best"]["value"] == max(t["value"] for t in summary["trials"])
    assert summary["optimism_gap"] == pytest.approx(summary["selection_value"] - sum(again[0]["test_accuracy"]) / 2)
    assert summary["optimism_gap_same_split"] == pytest.approx(
        summary["selection_value"] - sum(again[0]["val_accuracy"]) / 2
    )


def test_best_graphs_are_different_in_effect(tiny_data):
    study = open_study("s", None, dataclasses.replace(SETTINGS, trials=1, nodes=3), tiny_data, CONFIG)
    a, b = Node("resnet18_tiny"), Node("resnet18_tiny")
    cut = [["through", "cutoff", "cutoff"], ["through"] * 3, ["linear"] * 3]
    same = [["correct", "cutoff", "cutoff"], ["cutoff"] * 3, ["linear"] * 3]
    other = [["through", "through", "cutoff"], ["through"] * 3, ["linear"] * 3]
    space = search.dimensions(("scratch",), ("resnet18_tiny",), 3)
    for value, gates in [(90, cut), (80, same), (70, other)]:
        params = search.to_params(Graph((a, b, b), gates))
        distributions = {name: optuna.distributions.CategoricalDistribution(space[name]) for name in params}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
    assert [t.value for t in best_trials(study, 3)] == [90, 70]


def test_the_package_does_not_import_optuna():
    code = "import ktglite, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
