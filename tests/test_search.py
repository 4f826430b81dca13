"""The search: the coordinator and its storage, processes that are killed, what is kept of a study."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import numpy as np
import optuna
import pytest
from conftest import random_split
from ktglite.experiments.kept import read_header
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from safetensors.torch import save_file

from ktglite import models, trainer
from ktglite.data import Data
from ktglite.experiments import rungs, runs, search
from ktglite.experiments.claims import claims_table
from ktglite.experiments.rungs import replay
from ktglite.experiments.search import (
    best_graphs,
    best_trials,
    load_study,
    read_summaries,
    reevaluate,
    study_summary,
    write_summary,
)
from ktglite.experiments.space import SearchConfig, from_params, sample_graphs, to_params
from ktglite.graph import Graph, Node, all_through
from ktglite.models import file_hash
from ktglite.pool import open_pool
from ktglite.store import Checkpoint
from ktglite.trainer import TrainConfig, epochs

ARCH = "resnet18_w8"
CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation="shift", precision="fp32", device="cpu")
SETTINGS = SearchConfig("none", arch=ARCH, nodes=2, trials=5)
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without Optuna's words, and without waiting for the disk after each of thousands of small writes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setattr(os, "fsync", lambda file: None)


class HerePool:
    """Runs every task in this process, as soon as it is submitted; it seems to have `size` workers."""

    def __init__(self, size=1):
        self.size = size

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def scripted(curves, asked=None):
    """A stand-in for `run_until`: graph i has the i-th curve, and diverges where it is NaN."""

    def run_until(graph, source, config, seed, store, weights, epoch, label):
        number = int(label.split()[-1])
        if asked is not None:
            asked.append((number, epoch))
        values = list(curves[number][:epoch])
        if any(map(math.isnan, values)):
            raise FloatingPointError(
                "the loss of node 1 on edge label -> node 1 is nan in epoch 1, iteration 1"
            )
        history = [{"epoch": i, "val_accuracy": [float(v), None]} for i, v in enumerate(values, 1)]
        if epoch == config.epochs:
            history[-1] |= {"reported_epoch": epoch, "test_accuracy": [values[-1] / 2, None]}
        return history

    return run_until


def run_scripted(monkeypatch, data, out, curves, pool=None, asked=None, **settings):
    monkeypatch.setattr(search, "run_until", scripted(curves, asked))
    settings = dataclasses.replace(SETTINGS, **{"trials": len(curves), **settings})
    config = dataclasses.replace(CONFIG, epochs=len(curves[0]))
    return search.search(settings, data, config, out, pool=pool or HerePool(), name="s")


def spent(study):
    return [len(trial.intermediate_values) for trial in study.trials]


def states(study):
    return [trial.state.name for trial in study.trials]


# ---- who trains next


def first_of_the_clock(monkeypatch):
    """Stands in for `wait`: of the running trials, one comes first as in `replay`, where an epoch takes one unit."""
    clock, ends, trained = [0], {}, Counter()

    def wait(running, timeout, return_when):
        for future, number in running.items():
            if future not in ends:
                until = len(future.result())
                ends[future] = (clock[0] + until - trained[number], number)
                trained[number] = until
        first = min(running, key=ends.get)
        clock[0] = ends[first][0]
        return mock.Mock(done={first})

    monkeypatch.setattr(search, "wait", wait)


@pytest.mark.parametrize("pruner", ["asha", "promote", "none"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_coordinator_decides_as_replayed(tiny_data, tmp_path, monkeypatch, pruner, workers):
    curves = np.random.default_rng(1).integers(0, 30, (40, 9)).astype(float)
    first_of_the_clock(monkeypatch)
    study = run_scripted(monkeypatch, tiny_data, tmp_path, curves, HerePool(workers), pruner=pruner)
    assert spent(study) == replay(curves, pruner, workers=workers).tolist()
    ends = {"COMPLETE" if n == 9 else "PRUNED" for n in spent(study)}
    assert states(study) == ["COMPLETE" if n == 9 else "PRUNED" for n in spent(study)]
    assert ends == ({"COMPLETE"} if pruner == "none" else {"COMPLETE", "PRUNED"})


def test_promotion_by_hand(tiny_data, tmp_path, monkeypatch):
    """Rungs 1 and 2 of 4 epochs, eta 2; of two at a rung the better goes on, of four the better two, in any order."""
    curves = [[50, 50, 50, 50], [60, 10, 10, 10], [70, 70, 70, 70], [55, 80, 80, 5]]
    asked = []
    study = run_scripted(monkeypatch, tiny_data, tmp_path, curves, asked=asked, pruner="promote")
    # 1 beats 0 at rung 1. Alone at rung 2, it waits. 2 belongs to the best one of three, 1 went on
    # already. 2 beats 1 at rung 2 and goes to the end. 3 makes it four at rung 1, of which 2 and 1
    # are the best: over.
    assert asked == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (3, 1)]
    assert states(study) == ["PRUNED", "PRUNED", "COMPLETE", "PRUNED"]
    assert [trial.value for trial in study.trials] == [50, 10, 70, 55]


@pytest.mark.parametrize("seed", range(20))
def test_hopeless_trials_are_never_promoted_and_leave_early(tiny_data, tmp_path, monkeypatch, seed):
    """Told as soon as it is certain: the same trials are promoted as if all had waited until the end."""
    curves = np.random.default_rng(seed).integers(0, 30, (24, 8)).astype(float)
    told = []
    real = rungs.Rungs.hopeless

    def spy(self):
        found = real(self)
        told.append(len(found))
        return found

    monkeypatch.setattr(rungs.Rungs, "hopeless", spy)
    early = run_scripted(
        monkeypatch, tiny_data, tmp_path / "early", curves, HerePool(3), pruner="promote"
    )
    monkeypatch.setattr(rungs.Rungs, "hopeless", lambda self: set())
    late = run_scripted(
        monkeypatch, tiny_data, tmp_path / "late", curves, HerePool(3), pruner="promote"
    )
    assert [(t.state, t.intermediate_values) for t in early.trials] == [
        (t.state, t.intermediate_values) for t in late.trials
    ]
    assert sum(map(bool, told[:-3])) > 3  # not only at the end


# ---- the coordinator


def test_asha_stops_at_the_rungs_and_never_at_the_end(tiny_data, tmp_path, monkeypatch):
    curves = [[50, 60, 70, 80], [40, 90, 90, 90], [60, 50, 90, 90], [60, 70, 90, 10]]
    study = run_scripted(monkeypatch, tiny_data, tmp_path, curves)
    # 1: the first runs on. 2: below it at epoch 1. 3: best at 1, below 60 at 2. 4: 10 at its end,
    # yet complete.
    assert spent(study) == [4, 1, 2, 4]
    assert states(study) == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [t.value for t in best_trials(study, 5)] == [80, 10]
    summary = study_summary(study)
    assert (summary["epochs_run"], summary["epochs_full"], summary["epochs_saved_by_asha"]) == (
        11,
        16,
        5,
    )
    assert [t["test_accuracy"] for t in summary["trials"]] == [40, None, None, 5]
    assert summary["paper_protocol"] == 40


def test_min_resource_moves_the_first_rung_and_pruning_can_be_off(tiny_data, tmp_path, monkeypatch):
    curves = [[50, 60, 70, 80], [40, 50, 90, 90]]
    assert spent(run_scripted(monkeypatch, tiny_data, tmp_path / "2", curves, min_resource=2)) == [
        4,
        2,
    ]
    assert spent(run_scripted(monkeypatch, tiny_data, tmp_path / "no", curves, pruner="none")) == [
        4,
        4,
    ]


@pytest.mark.parametrize("pruner", ["asha", "promote", "none"])
def test_a_diverging_training_fails_its_trial_only(tiny_data, tmp_path, monkeypatch, pruner):
    curves = [[math.nan, 1], [50, 60], [70, math.nan], [60, 70], [55, 50]]
    study = run_scripted(monkeypatch, tiny_data, tmp_path, curves, pruner=pruner)
    assert "FAIL" in states(study)
    assert "COMPLETE" in states(study)
    summary = study_summary(study)
    assert "label -> node 1 is nan" in summary["trials"][0]["error"]
    assert sum(summary["states"].values()) == 5
    again = run_scripted(
        monkeypatch, tiny_data, tmp_path, curves, asked=(asked := []), pruner=pruner
    )
    assert asked == []  # and it is not tried again
    assert states(again) == states(study)


def test_workers_that_join_later_are_given_something_to_do(tiny_data, tmp_path, monkeypatch):
    class Growing(HerePool):
        """Its first worker never answers before the others have done everything else."""

        def __init__(self):
            super().__init__()
            self.first = None

        def submit(self, function, *arguments):
            future = super().submit(function, *arguments)
            if self.first is None:
                self.first, future = future, Future()
                threading.Timer(0.3, setattr, (self, "size", 2)).start()
                self.late = future
            elif arguments[-1] == "s 4":
                self.late.set_result(self.first.result())
            return future

    monkeypatch.setattr(search, "POLL", 0.1)
    study = run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 5, Growing(), pruner="none")
    assert states(study) == ["COMPLETE"] * 5


def test_another_error_stops_the_search_and_the_same_command_goes_on(
    tiny_data, tmp_path, monkeypatch
):
    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(search, "run_until", broken)
    with pytest.raises(OSError, match="disk full") as error:
        search.search(SETTINGS, tiny_data, CONFIG, tmp_path, pool=HerePool(2), name="s")
    assert "graph 0 of study 's'" in error.value.__notes__[0]
    study = run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 5)
    assert states(study) == ["COMPLETE"] * 5


@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_killed_at_any_moment_a_search_ends_as_if_it_had_not_been(
    tiny_data, tmp_path, monkeypatch, pruner
):
    """The storage is written to in many small steps. After any of them the coordinator may die."""
    curves = np.random.default_rng(2).integers(0, 30, (9, 4)).astype(float)
    whole = run_scripted(monkeypatch, tiny_data, tmp_path / "whole", curves, pruner=pruner)
    real, left = JournalFileBackend.append_logs, [0]

    class Killed(BaseException):
        pass

    def append_logs(self, logs):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_logs)
    writes = len((tmp_path / "whole/search/none.log").read_text().splitlines())
    for moment in range(3, writes, 2):
        left[0] = moment
        with pytest.raises(Killed):
            run_scripted(monkeypatch, tiny_data, tmp_path / str(moment), curves, pruner=pruner)
        left[0] = 0
        study = run_scripted(monkeypatch, tiny_data, tmp_path / str(moment), curves, pruner=pruner)
        assert [t.params for t in study.trials] == [t.params for t in whole.trials]
        assert all(t.state in OVER for t in study.trials)
        extra = np.array(spent(study)) - spent(whole)
        if (
            pruner == "asha"
        ):  # killed between Optuna's verdict and its being carried out, one graph may go on
            assert (extra >= 0).all()
            assert (extra > 0).sum() <= 1
        else:
            assert not extra.any()


def test_a_study_is_not_continued_with_other_settings(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "run_until", scripted([[1, 2]] * 7))

    def again(settings=SETTINGS, data=tiny_data, config=CONFIG):
        return search.search(settings, data, config, tmp_path, pool=HerePool(), name="s")

    assert len(again().trials) == len(again().trials) == 5
    more = dataclasses.replace(SETTINGS, trials=7)
    assert [from_params(t.params) for t in again(more).trials] == [
        g.to_dict() for g in sample_graphs(more)
    ]
    with pytest.raises(ValueError, match="7 planned trials: 5 is fewer"):
        again()
    with pytest.raises(ValueError, match=r"another training epochs \(2, now 3\)"):
        again(more, config=dataclasses.replace(CONFIG, epochs=3))
    with pytest.raises(ValueError, match="another search min_resource"):
        again(dataclasses.replace(more, min_resource=2))
    with pytest.raises(ValueError, match="another data fingerprint"):
        again(more, dataclasses.replace(tiny_data, val=tiny_data.test, fingerprint=""))
    monkeypatch.setattr(search, "code_hash", lambda *modules: "another loop")
    with pytest.raises(ValueError, match="another code hash"):
        again(more)


def test_what_does_not_fit_is_told_before_there_is_a_study(tiny_data, tmp_path, monkeypatch):
    """Else the corrected command would be refused as another study."""
    with pytest.raises(ValueError, match="promotion to epoch 4 needs 4, or a later first rung"):
        run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2, 3, 4]] * 2, pruner="promote")
    with pytest.raises(ValueError, match="different graphs"):
        run_scripted(
            monkeypatch, tiny_data, tmp_path, [[1, 2, 3, 4]], trials=10_000, min_resource=2
        )
    study = run_scripted(
        monkeypatch, tiny_data, tmp_path, [[1, 2, 3, 4]] * 2, pruner="promote", min_resource=2
    )
    assert sorted(states(study)) == ["COMPLETE", "PRUNED"]


def test_new_weights_are_another_study(tiny_data, tmp_path, monkeypatch):
    weights = standin_weights(tmp_path / "weights")
    monkeypatch.setattr(search, "run_until", scripted([[1, 2]] * 5))
    settings = dataclasses.replace(SETTINGS, condition="fractaldb1k")
    search.search(settings, tiny_data, CONFIG, tmp_path, weights=weights, pool=HerePool())
    standin_weights(weights, seed=2)
    with pytest.raises(ValueError, match=f"another weights fractaldb1k {ARCH}"):
        search.search(settings, tiny_data, CONFIG, tmp_path, weights=weights, pool=HerePool())
    with pytest.raises(FileNotFoundError, match=f"fractaldb1k-{ARCH}"):
        search.search(settings, tiny_data, CONFIG, tmp_path, weights=tmp_path, pool=HerePool())


def standin_weights(folder, seed=1):
    folder.mkdir(exist_ok=True)
    for source in ("fractaldb1k", "imagenet1k_standin"):
        state = models.initialise(ARCH, "scratch", 3, seed).state_dict()
        save_file(state, folder / f"{source}-{ARCH}.safetensors")
    return folder


def test_half_a_line_at_the_end_of_a_journal_is_dropped(tiny_data, tmp_path, monkeypatch, caplog):
    run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 5)
    journal = tmp_path / "search/none.log"
    with open(journal, "a") as file:
        file.write('{"op_code": 4, "wor')
    assert len(run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 6).trials) == 6
    assert "half a line" in caplog.text
    assert states(load_study("s", journal)) == ["COMPLETE"] * 6


@pytest.mark.parametrize(
    "text", ["{\n", "[]\n", "hello\nworld\n", '{"op_code": 99, "worker_id": "x"}\n', "\0\1\n"]
)
def test_a_damaged_journal_is_named(tiny_data, tmp_path, monkeypatch, text):
    run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 2)
    journal = tmp_path / "search/none.log"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]) + text)
    with pytest.raises(
        ValueError, match=r"none\.log is not a readable search journal .* move it away"
    ):
        load_study("s", journal)


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/s.db"])
def test_a_second_coordinator_is_refused(tiny_data, tmp_path, monkeypatch, storage):
    storage = storage and storage.format(tmp_path)

    def second(*arguments):
        with pytest.raises(ValueError, match="study 's' in .* is searched by another process"):
            search.search(SETTINGS, tiny_data, CONFIG, tmp_path, storage, pool=HerePool(), name="s")
        return scripted([[1, 2]] * 5)(*arguments)

    monkeypatch.setattr(search, "run_until", second)
    study = search.search(
        SETTINGS, tiny_data, CONFIG, tmp_path, storage, pool=HerePool(2), name="s"
    )
    assert states(study) == ["COMPLETE"] * 5


def test_selecting_on_test_is_possible_and_labelled(tiny_data, tmp_path, monkeypatch, caplog):
    spec = {"name": "somewhere", "validate_on": "val"}
    for select_on, split in (("test", tiny_data.test), ("val", tiny_data.val)):
        seen = []

        def spy(graph, source, *arguments, seen=seen):
            seen.append(source)
            return scripted([[1, 2]] * 2)(graph, source, *arguments)

        monkeypatch.setattr(search, "run_until", spy)
        settings = dataclasses.replace(SETTINGS, trials=2, select_on=select_on)
        study = search.search(settings, tiny_data, CONFIG, tmp_path / select_on, pool=HerePool())
        assert ("not a test result" in caplog.text) == (select_on == "test")
        assert all(data.val is split for data in seen)
        assert study_summary(study)["select_on"] == select_on
        data = dataclasses.replace(tiny_data, spec=spec)
        search.search(settings, data, CONFIG, tmp_path / f"{select_on} by spec", pool=HerePool())
        assert seen[-1] == spec | {"validate_on": select_on}
        caplog.clear()


def test_tpe_asks_as_often_as_planned_and_depends_on_the_storage_alone(
    tiny_data, tmp_path, monkeypatch
):
    curves = [[i, i + 1] for i in range(14)]
    study = run_scripted(monkeypatch, tiny_data, tmp_path / "whole", curves, sampler="tpe")
    assert all(t.state in OVER for t in study.trials)
    assert len({str(t.params) for t in study.trials}) > 10
    run_scripted(monkeypatch, tiny_data, tmp_path / "two", curves[:12], sampler="tpe")
    two = run_scripted(monkeypatch, tiny_data, tmp_path / "two", curves, sampler="tpe")
    assert [t.params for t in two.trials] == [t.params for t in study.trials]


class CutOff(optuna.samplers.RandomSampler):
    """Draws a target that learns from nothing, and then from label and node 2."""

    def sample_independent(self, study, trial, name, distribution):
        return (
            ("through" if trial.number else "cutoff")
            if name.startswith("gate")
            else distribution.choices[0]
        )


def test_a_drawn_target_that_learns_nothing_is_over_untrained(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **options: CutOff())
    study = run_scripted(monkeypatch, tiny_data, tmp_path, [[1, 2]] * 3, sampler="tpe")
    assert states(study) == ["PRUNED", "COMPLETE", "COMPLETE"]
    summary = study_summary(study)
    assert summary["trials"][0]["values"] == []
    assert summary["trials"][0]["graph"]["gates"][0] == ["cutoff", "cutoff"]
    assert (summary["epochs_saved_by_asha"], summary["epochs_full"]) == (
        0,
        4,
    )  # nothing was to be trained
    assert len(best_graphs(study, 3)) == 1  # twice the same


# ---- real trainings


def test_two_processes_search_what_one_searches(tiny_data, tmp_path):
    one = search.search(SETTINGS, tiny_data, CONFIG, tmp_path / "1", pool=HerePool())
    with open_pool(2) as pool:
        two = search.search(SETTINGS, tiny_data, CONFIG, tmp_path / "2", pool=pool)
        again = search.search(
            SETTINGS, tiny_data, CONFIG, tmp_path / "2", pool=pool
        )  # nothing is left to do
    plan = sample_graphs(SETTINGS)
    assert (
        [t.params for t in one.trials]
        == [t.params for t in two.trials]
        == [to_params(g) for g in plan]
    )
    assert [t.intermediate_values[1] for t in one.trials] == [
        t.intermediate_values[1] for t in two.trials
    ]
    assert all(
        (t.state == TrialState.COMPLETE) == (len(t.intermediate_values) == 2)
        for t in one.trials + two.trials
    )
    records = list(epochs(plan[0], tiny_data, CONFIG, SETTINGS.seed))
    assert list(one.trials[0].intermediate_values.values()) == [
        record["val_accuracy"][0] for record in records
    ]
    assert one.trials[0].user_attrs["test_accuracy"] == records[-1]["test_accuracy"][0]
    lines = [json.loads(line) for line in (tmp_path / "2/progress.jsonl").read_text().splitlines()]
    assert lines[-1]["done"] == lines[-1]["total"] == 5
    assert again.trials == two.trials
    for out, study in ((tmp_path / "1", one), (tmp_path / "2", two)):
        stored = {record["label"] for record in runs.load_records(out / "runs")}
        assert stored == {
            f"none {t.number}" for t in study.trials if t.state == TrialState.COMPLETE
        }
        assert not list(out.rglob("*.ckpt"))


def test_a_checkpoint_is_kept_until_the_result_is_told(tiny_data, tmp_path, monkeypatch):
    """Of a search that is killed before it is told, nothing is trained again."""
    saved = []
    real = Checkpoint.save
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, state: (saved.append(self.key), real(self, state))
    )
    settings, tell = dataclasses.replace(SETTINGS, trials=6, pruner="promote"), optuna.Study.tell

    def killed(self, *arguments, **more):
        if TrialState.PRUNED in (*arguments, *more.values()):
            raise KeyboardInterrupt
        return tell(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            search.search(settings, tiny_data, CONFIG, tmp_path, pool=HerePool(3))
    before = len(saved)
    assert list(tmp_path.rglob("*.ckpt"))
    study = search.search(settings, tiny_data, CONFIG, tmp_path, pool=HerePool(3))
    assert before > 2
    assert len(saved) == sum(spent(study))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_learning_rate_of_a_million_fails_its_trials_and_not_the_study(tiny_data, tmp_path):
    config = dataclasses.replace(CONFIG, lr=1e6)
    study = search.search(
        dataclasses.replace(SETTINGS, trials=2), tiny_data, config, tmp_path, pool=HerePool()
    )
    assert states(study) == ["FAIL", "FAIL"]
    assert all("epoch" in trial.user_attrs["error"] for trial in study.trials)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert write_summary(study, tmp_path)["best"] is None


# ---- processes that are killed


def counted_run_until(graph, source, config, seed, store, weights, epoch, label):
    """`run_until` that writes down, beside the store, every epoch that is begun and every one that is kept."""
    log, save, rate = Path(store).parent / "epochs.log", Checkpoint.save, trainer.learning_rate

    def note(what):
        with open(log, "a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def counted_save(self, state):
        save(self, state)
        note(f"kept {label.split()[-1]} {len(state['records'])}")

    def counted_rate(config, epoch):
        note(f"begun {label.split()[-1]} {epoch}")
        return rate(config, epoch)

    with (
        mock.patch.object(Checkpoint, "save", counted_save),
        mock.patch.object(trainer, "learning_rate", counted_rate),
    ):
        return runs.run_until(graph, source, config, seed, store, weights, epoch, label)


def read_log(out):
    """The events of `counted_run_until`: (begun or kept, trial, epoch, process)."""
    path = Path(out) / "epochs.log"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [
        (what, int(trial), int(epoch), int(pid))
        for what, trial, epoch, pid in map(str.split, lines)
    ]


def coordinate(out, trials, storage=None, dask=None, pruner="asha"):
    """A search on tiny data by two workers: what the tests below start in a process of its own, and kill."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    splits = [random_split(n, seed) for seed, n in enumerate((32, 12, 12))]
    search.run_until = counted_run_until
    settings = dataclasses.replace(SETTINGS, trials=trials, nodes=3, pruner=pruner)
    config = dataclasses.replace(CONFIG, epochs=5)
    with open_pool(None if dask else 2, dask) as pool:
        data = Data("random", 16, ("a", "b", "c"), *splits)
        return search.search(settings, data, config, out, storage, pool=pool, name="s")


def start_coordinator(*arguments):
    code = f"import test_search; test_search.coordinate(*{tuple(map(str_or_none, arguments))!r})"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths})


def str_or_none(value):
    return str(value) if isinstance(value, Path) else value


def wait_until(so, seconds=600):
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def kept(out):
    return sum(what == "kept" for what, *_ in read_log(out))


def kill_a_worker(out):
    """The one that has begun the latest epoch."""
    os.kill(read_log(out)[-1][3], signal.SIGKILL)


def check_that_nothing_is_lost(study, out, trials, kills):
    """Every graph is over once, and the kills cost no epoch that was kept in a checkpoint."""
    assert [t.number for t in study.trials] == list(range(trials))
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.trials)
    events = read_log(out)
    times = Counter((trial, epoch) for what, trial, epoch, _ in events if what == "kept")
    assert set(times) == {
        (t.number, epoch) for t in study.trials for epoch in t.intermediate_values
    }
    begun, again = sum(what == "begun" for what, *_ in events), sum(times.values()) - len(times)
    print(
        f"{trials} graphs, {len(times)} epochs, {begun} begun, {again} trained twice, {kills} workers killed"
    )
    assert begun - len(times) <= kills
    assert not list(Path(out).rglob("*.ckpt"))
    plan = [
        to_params(g) for g in sample_graphs(dataclasses.replace(SETTINGS, trials=trials, nodes=3))
    ]
    assert [t.params for t in study.trials] == plan


needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")


@needs_kill
def test_a_killed_worker_costs_the_epoch_it_was_at(tmp_path, monkeypatch):
    killed = threading.Thread(
        target=lambda: (wait_until(lambda: kept(tmp_path) >= 6), kill_a_worker(tmp_path)),
        daemon=True,
    )
    killed.start()
    monkeypatch.setattr(search, "run_until", search.run_until)  # `coordinate` replaces it
    study = coordinate(tmp_path, 8)
    killed.join()
    check_that_nothing_is_lost(study, tmp_path, 8, kills=1)


def kill_worker_and_coordinator(out, trials, *arguments):
    """One worker at a third, the coordinator, whose local workers end with it, at two thirds; then the same again."""
    first = start_coordinator(out, trials, *arguments)
    wait_until(lambda: kept(out) >= trials // 2)
    kill_a_worker(out)
    wait_until(lambda: kept(out) >= trials)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert (
        0
        < sum(
            t.state in OVER for t in load_study("s", arguments[0] or out / "search/none.log").trials
        )
        < trials
    )
    second = start_coordinator(out, trials, *arguments)
    assert second.wait(600) == 0
    return load_study("s", arguments[0] or out / "search/none.log")


@pytest.mark.slow
@needs_kill
@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_60_graphs_by_two_local_workers_with_a_worker_and_the_coordinator_killed(tmp_path, pruner):
    study = kill_worker_and_coordinator(tmp_path, 60, None, None, pruner)
    check_that_nothing_is_lost(study, tmp_path, 60, kills=3)


@pytest.fixture
def cluster(tmp_path):
    """Address of a Dask cluster of two processes on this machine."""
    file = tmp_path / "scheduler.json"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    begin, place = [sys.executable, "-m"], ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = [
        *begin,
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--host",
        "127.0.0.1",
        *place,
    ]
    worker = [*begin, "distributed.cli.dask_worker", "--nworkers", "2", "--nthreads", "1", *place]
    with open(tmp_path / "dask.txt", "w") as log:
        processes = [
            subprocess.Popen(c, env=environment, stdout=log, stderr=log)
            for c in (scheduler, worker)
        ]
        try:
            wait_until(file.exists, 60)
            yield json.loads(file.read_text())["address"]
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(60)


@pytest.mark.slow
@needs_kill
def test_60_graphs_on_a_dask_cluster_with_a_worker_and_the_coordinator_killed(tmp_path, cluster):
    """The tasks of a coordinator that is killed go on in the cluster, so that an epoch may be trained twice."""
    pytest.importorskip("distributed")
    study = kill_worker_and_coordinator(tmp_path, 60, None, cluster)
    check_that_nothing_is_lost(study, tmp_path, 60, kills=3)


# ---- after the search


def test_reevaluation_uses_fresh_seeds_and_has_baselines(tiny_data, tmp_path):
    weights = standin_weights(tmp_path / "weights")
    sources = ("imagenet1k_standin", "fractaldb1k")
    settings = dataclasses.replace(
        SETTINGS, condition="mixed", sources=sources, trials=4, pruner="none"
    )
    config, pool = dataclasses.replace(CONFIG, epochs=1), HerePool()
    study = search.search(settings, tiny_data, config, tmp_path, weights=weights, pool=pool)
    with pytest.raises(ValueError, match="seed 0 trained the search"):
        reevaluate(study, tiny_data, config, [0, 1], tmp_path / "runs", weights)
    again = reevaluate(
        study,
        tiny_data,
        config,
        [1, 2],
        tmp_path / "runs",
        weights,
        k=2,
        random_graphs=1,
        pool=pool,
    )
    assert [entry["label"] for entry in again] == [
        "top 1",
        "top 2",
        "all through",
        "independent",
        "random 1",
    ]
    assert all(len(entry["test_accuracy"]) == len(entry["records"]) == 2 for entry in again)
    top = best_graphs(study)[0]
    assert again[0]["graph"] == top.to_dict()
    assert again[2]["graph"] == all_through(*top.nodes).to_dict()
    assert (tmp_path / "runs" / f"{again[0]['records'][0]}.json").exists()
    summary = write_summary(study, tmp_path, again)
    stored = read_summaries(tmp_path / "search")["mixed"]
    assert {key: stored[key] for key in summary} == summary
    assert summary["choices"] == ["scratch", *sources]
    assert summary["paper_protocol"] == max(trial["test_accuracy"] for trial in summary["trials"])
    assert (
        summary["selection_value"]
        == summary["best"]["value"]
        == max(t["value"] for t in summary["trials"])
    )
    gap = summary["selection_value"] - sum(again[0]["val_accuracy"]) / 2
    assert summary["optimism_gap_same_split"] == pytest.approx(gap)
    with pytest.raises(ValueError, match="run more trials"):
        reevaluate(search.load_study("x", empty(tmp_path)), tiny_data, config, [1], tmp_path)


def empty(folder):
    """A journal with a study of no trials."""
    path = str(folder / "empty.log")
    study = optuna.create_study(
        study_name="x", storage=search._open_storage(path), direction="maximize"
    )
    study.set_user_attr("search", {"seed": 0})
    return path


def with_graphs(tiny_data, tmp_path, monkeypatch, curves, gates):
    """A study of three nodes whose i-th graph has these gates and this curve."""
    graphs = [Graph((Node(ARCH),) * 3, rows) for rows in gates]
    monkeypatch.setattr(search, "sample_graphs", lambda settings: graphs)
    return run_scripted(monkeypatch, tiny_data, tmp_path, curves, nodes=3, pruner="none")


def test_best_graphs_are_different_in_effect(tiny_data, tmp_path, monkeypatch):
    alone = [["through", "cutoff", "cutoff"], ["through"] * 3, ["linear"] * 3]
    same = [["correct", "cutoff", "cutoff"], ["cutoff"] * 3, ["linear"] * 3]
    other = [["through", "through", "cutoff"], ["through"] * 3, ["linear"] * 3]
    study = with_graphs(
        tiny_data, tmp_path, monkeypatch, [[1, 90], [1, 80], [1, 70]], [alone, same, other]
    )
    assert [t.value for t in best_trials(study, 3)] == [90, 70]


def test_a_fixed_teacher_is_not_counted_as_training(tiny_data, tmp_path, monkeypatch):
    taught = [
        ["through", "through", "cutoff"],
        ["cutoff"] * 3,
        ["linear"] * 3,
    ]  # node 2 teaches, node 3 is unreachable
    study = with_graphs(tiny_data, tmp_path, monkeypatch, [[1, 2, 3]], [taught])
    summary = study_summary(study)
    assert (
        summary["epochs_run"],
        summary["node_epochs_run"],
        summary["node_epochs_unreachable"],
    ) == (3, 3, 3)
    assert summary["unreachable_share"] == pytest.approx(1 / 3)


def test_summaries_are_read_where_they_are_and_told_where_they_are_not(tmp_path):
    (tmp_path / "none.json").write_text('{"schema": 1, "study": "none"}')
    assert read_summaries(tmp_path) == {"none": {"schema": 1, "study": "none"}}
    (tmp_path / "none.json").write_text('{"schema": 1, "stu')
    with pytest.raises(ValueError, match=r"none\.json is not a readable record"):
        read_summaries(tmp_path)
    with pytest.raises(FileNotFoundError, match="ktglite search first"):
        read_summaries(tmp_path / "nowhere")


def test_the_package_does_not_import_optuna():
    code = "import ktglite, sys; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_search_with_trained_teachers(tiny_data, tmp_path):
    """The teacher is trained once, heads included, and is what every fixed node starts from; its baselines learn."""
    settings = SearchConfig(
        "none", arch=ARCH, nodes=2, trials=60, pruner="none", teachers="trained"
    )
    config = dataclasses.replace(CONFIG, epochs=1)
    fixed = [
        i
        for i, graph in enumerate(sample_graphs(settings))
        if not graph.learns(1) and 1 in graph.reaching_target()
    ]
    settings = dataclasses.replace(settings, trials=fixed[0] + 1)
    study = search.search(
        settings, tiny_data, config, tmp_path, weights=tmp_path / "weights", pool=HerePool()
    )
    path = tmp_path / "weights" / f"teacher-{ARCH}.safetensors"
    summary = study_summary(study)
    assert summary["trials"][fixed[0]]["graph"]["nodes"][1]["init"] == "teacher"
    assert summary["weights"] == {f"teacher {ARCH}": file_hash(path)}
    card = read_header(path)
    assert card["classes"] == list(tiny_data.classes)
    again = reevaluate(
        study,
        tiny_data,
        config,
        [7],
        tmp_path / "runs",
        tmp_path / "weights",
        k=1,
        random_graphs=1,
        pool=HerePool(),
    )
    starts = {
        node["init"]
        for entry in again
        if entry["label"] == "all through"
        for node in entry["graph"]["nodes"]
    }
    assert starts == {"scratch"}
    with pytest.raises(ValueError, match="other images or with other settings: remove it"):
        runs.train_teacher(
            ARCH, tiny_data, dataclasses.replace(config, lr=0.5), tmp_path / "weights"
        )


def test_a_search_for_the_best_ensemble(tiny_data, tmp_path):
    """Values, tests and the re-evaluation are those of the nodes' mean softmax, as the records have them."""
    settings = SearchConfig(
        "none", arch=ARCH, nodes=2, trials=3, pruner="none", objective="ensemble"
    )
    study = search.search(settings, tiny_data, CONFIG, tmp_path, pool=HerePool())
    paths = (tmp_path / "runs").glob("*.json")
    found = {record["label"]: record for record in (json.loads(path.read_text()) for path in paths)}
    for trial in study.trials:
        epochs = found[f"none {trial.number}"]["epochs"]
        assert list(trial.intermediate_values.values()) == [
            epoch["val_ensemble"] for epoch in epochs
        ]
        assert trial.user_attrs["test_accuracy"] == epochs[-1]["test_ensemble"]
        assert trial.value == epochs[-1]["val_ensemble"]
    (again, *_) = reevaluate(
        study, tiny_data, CONFIG, [7], tmp_path / "runs", k=1, random_graphs=0, pool=HerePool()
    )
    record = json.loads((tmp_path / "runs" / f"{again['records'][0]}.json").read_text())
    assert again["test_accuracy"] == [record["epochs"][-1]["test_ensemble"]]
    assert again["val_accuracy"] == [record["epochs"][-1]["val_ensemble"]]
    assert any(
        r["epochs"][-1]["val_ensemble"] != r["val_accuracy"][0] for r in found.values()
    )  # it makes a difference
    judged = claims_table(
        [], {"none": study_summary(study, [again, {**again, "label": "independent"}])}
    )
    assert set(judged.verdict) == {"not measured"}  # the claims are about node 1
    with pytest.raises(ValueError, match="report is 'best'"):
        search.search(
            settings,
            tiny_data,
            dataclasses.replace(CONFIG, report="best"),
            tmp_path / "b",
            pool=HerePool(),
        )
    with pytest.raises(ValueError, match="objective"):
        search.search(
            dataclasses.replace(settings, objective="target"),
            tiny_data,
            CONFIG,
            tmp_path,
            pool=HerePool(),
        )
