"""The search: the coordinator, its journal, processes that are killed, what is kept of a study."""

import dataclasses
import json
import math
import os
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
import psutil
import pytest
from conftest import random_split
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from safetensors.torch import save_file

from ktglite import models
from ktglite.data import Data
from ktglite.experiments import runs, search
from ktglite.experiments.networks import read_card
from ktglite.experiments.rungs import replay
from ktglite.experiments.search import best_graphs, load_study, read_summaries, reevaluate, rivals
from ktglite.experiments.space import SearchConfig, from_params, sample_graphs, to_params
from ktglite.models import file_hash
from ktglite.pool import open_pool
from ktglite.store import Checkpoint, write_record
from ktglite.trainer import TrainConfig

ARCH = "resnet18_w8"
CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation="none", precision="fp32", device="cpu")
SETTINGS = SearchConfig("none", arch=ARCH, nodes=2, trials=5)
replace = dataclasses.replace


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without Optuna's words, and without waiting for the disk after each small write."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setattr(os, "fsync", lambda file: None)


class HerePool:
    """Runs every task in this process, when it is submitted; it seems to have `size` workers."""

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

    def run_until(task, store, epoch):
        number = int(task.label.split()[-1])
        if asked is not None:
            asked.append((number, epoch))
        values = list(curves[number][:epoch])
        if any(map(math.isnan, values)):
            raise FloatingPointError("the loss of node 1 on edge label -> node 1 is nan")
        history = [{"epoch": i, "val_accuracy": [float(v), None]} for i, v in enumerate(values, 1)]
        if epoch == task.config.epochs:
            history[-1] |= {"reported_epoch": epoch, "test_accuracy": [values[-1] / 2, None]}
        return history

    return run_until


def run_scripted(monkeypatch, data, out, curves, pool=None, asked=None, **settings):
    monkeypatch.setattr(search, "run_until", scripted(curves, asked))
    settings = replace(SETTINGS, **{"trials": len(curves), **settings})
    config = replace(CONFIG, epochs=len(curves[0]))
    return search.search(settings, data, config, out, pool=pool or HerePool())


@pytest.fixture
def play(tiny_data, tmp_path, monkeypatch):
    """A search over given curves, in the test's folder or one below."""

    def play(curves, out="", **more):
        return run_scripted(monkeypatch, tiny_data, tmp_path / out, curves, **more)

    return play


def spent(study):
    return [len(trial.intermediate_values) for trial in study.trials]


def states(study):
    return [trial.state.name for trial in study.trials]


def random_curves(seed, graphs, epochs):
    return np.random.default_rng(seed).integers(0, 30, (graphs, epochs)).astype(float)


# ---- who trains next


def in_time(monkeypatch):
    """Stands in for `wait`: trials end as in `replay`, where an epoch takes one unit of time."""
    clock = [0]
    ends = {}
    trained = Counter()

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
def test_the_coordinator_decides_as_replayed(play, monkeypatch, pruner, workers):
    curves = random_curves(1, 30, 9)
    in_time(monkeypatch)
    study = play(curves, pool=HerePool(workers), pruner=pruner)
    assert spent(study) == replay(curves, pruner, workers=workers).tolist()
    assert states(study) == ["COMPLETE" if n == 9 else "PRUNED" for n in spent(study)]
    assert ("PRUNED" in states(study)) == (pruner != "none")


def test_promotion_by_hand(play):
    """Rungs 1 and 2 of 4 epochs; of two at a rung the better goes on, of four the better two."""
    asked = []
    curves = [[50, 50, 50, 50], [60, 10, 10, 10], [70, 70, 70, 70], [55, 80, 80, 5]]
    study = play(curves, asked=asked, pruner="promote")
    # 1 beats 0 at rung 1. Alone at rung 2, it waits. 2 belongs to the best one of three, 1 went on
    # already. 2 beats 1 at rung 2 and goes to the end. 3 makes it four at rung 1, of which 2 and 1
    # are the best: over.
    assert asked == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (3, 1)]
    assert states(study) == ["PRUNED", "PRUNED", "COMPLETE", "PRUNED"]
    assert [trial.value for trial in study.trials] == [50, 10, 70, 55]


def test_asha_stops_at_the_rungs_and_never_at_the_end(play):
    curves = [[50, 60, 70, 80], [40, 90, 90, 90], [60, 50, 90, 90], [60, 70, 90, 10]]
    study = play(curves)
    # 1: the first runs on. 2: below it at epoch 1. 3: best at 1, below 60 at 2. 4: 10 at its end,
    # yet complete.
    assert spent(study) == [4, 1, 2, 4]
    assert states(study) == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [trial.value for trial in search.best_trials(study, 5)] == [80, 10]
    summary = search.study_summary(study)
    assert (summary["epochs_run"], summary["epochs_full"]) == (11, 16)
    assert [trial["test_accuracy"] for trial in summary["trials"]] == [40, None, None, 5]
    assert spent(play(curves, "later", min_resource=2)) == [4, 4, 2, 4]


@pytest.mark.parametrize("pruner", ["asha", "promote", "none"])
def test_a_diverging_training_fails_its_trial_only(play, tmp_path, pruner):
    curves = [[math.nan, 1], [50, 60], [70, math.nan], [60, 70], [55, 50]]
    study = play(curves, pruner=pruner)
    assert {"FAIL", "COMPLETE"} <= set(states(study))
    assert "label -> node 1 is nan" in search.study_summary(study)["trials"][0]["error"]
    asked = []
    assert states(play(curves, asked=asked, pruner=pruner)) == states(study)
    assert asked == []  # it is not tried again
    without = play([[math.nan, 1]] * 2, "without", pruner=pruner)
    summary = search.write_summary(without, tmp_path)
    assert summary["best"] is summary["selection_value"] is None
    with pytest.raises(ValueError, match="run more trials"):
        rivals(without, [1])


def test_workers_that_join_later_are_given_something_to_do(play, monkeypatch):
    class Growing(HerePool):
        """Its first worker does not answer before the others have done everything else."""

        first = None

        def submit(self, function, task, *arguments):
            future = super().submit(function, task, *arguments)
            if self.first is None:
                self.first = future
                self.late = future = Future()
                threading.Timer(0.1, setattr, (self, "size", 2)).start()
            elif task.label == "none 4":
                self.late.set_result(self.first.result())
            return future

    monkeypatch.setattr(search, "POLL", 0.05)
    study = play([[1, 2]] * 5, pool=Growing(), pruner="none")
    assert states(study) == ["COMPLETE"] * 5


def test_another_error_stops_the_search_and_the_same_command_goes_on(
    play, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "run_until", mock.Mock(side_effect=OSError("disk full")))
    monkeypatch.setattr(search, "portable", lambda task: task)
    with pytest.raises(OSError, match="disk full") as error:
        search.search(SETTINGS, tiny_data, CONFIG, tmp_path, pool=HerePool(2))
    assert "graph 0 of study 'none'" in error.value.__notes__[0]
    assert states(play([[1, 2]] * 5)) == ["COMPLETE"] * 5


@pytest.mark.parametrize("pruner", ["asha", "promote"])
def test_killed_at_any_moment_a_search_ends_as_if_it_had_not_been(
    play, tmp_path, monkeypatch, pruner
):
    """The journal is written to in many small steps. After any of them the coordinator may die."""
    curves = random_curves(2, 6, 4)
    whole = play(curves, "whole", pruner=pruner)
    assert set(states(whole)) == {"COMPLETE", "PRUNED"}
    real = JournalFileBackend.append_logs
    left = [0]

    class Killed(BaseException):
        pass

    def append_logs(self, logs):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_logs)
    writes = len((tmp_path / "whole/search/none.log").read_text().splitlines())
    for moment in range(1, writes):
        left[0] = moment
        with pytest.raises(Killed):
            play(curves, str(moment), pruner=pruner)
        left[0] = 0
        study = play(curves, str(moment), pruner=pruner)
        assert [t.params for t in study.trials] == [t.params for t in whole.trials]
        assert spent(study) == spent(whole)
        assert states(study) == states(whole)


# ---- one study, one set of settings, one coordinator


def test_a_study_is_not_continued_with_other_settings(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "run_until", scripted([[1, 2, 3]] * 7))

    def again(data=tiny_data, config=CONFIG, **changes):
        return search.search(replace(SETTINGS, **changes), data, config, tmp_path, pool=HerePool())

    assert len(again().trials) == len(again().trials) == 5
    drawn = [from_params(trial.params) for trial in again(trials=7).trials]
    assert drawn == [graph.to_dict() for graph in sample_graphs(replace(SETTINGS, trials=7))]
    with pytest.raises(ValueError, match="7 planned trials: 5 is fewer; give --trials 7, or"):
        again()
    with pytest.raises(ValueError, match=r"another training epochs \(2, now 3\).* another --out"):
        again(trials=7, config=replace(CONFIG, epochs=3))
    with pytest.raises(ValueError, match="another search min_resource"):
        again(trials=7, min_resource=2)
    with pytest.raises(ValueError, match="another data fingerprint"):
        again(trials=7, data=replace(tiny_data, val=tiny_data.test))
    monkeypatch.setattr(search, "code_hash", lambda *modules: "another loop")
    with pytest.raises(ValueError, match="another code hash"):
        again(trials=7)


def test_what_does_not_fit_is_told_before_there_is_a_study(play, tmp_path, monkeypatch):
    """Else the corrected command would be refused as another study."""
    few = [[1, 2, 3, 4]] * 2
    for settings, words in (
        ({"pruner": "promote"}, "promotion to epoch 4 needs 4, or a later first rung"),
        ({"min_resource": 5}, "min_resource is 5, but a graph has 4 epochs"),
        ({"arch": (ARCH, "vit_b_16")}, "vit_b_16 cannot take images of 32 px"),
    ):
        with pytest.raises(ValueError, match=words):
            play(few, **settings)
    with monkeypatch.context() as patch:
        patch.setitem(search.GATES, "mine", lambda losses, correct, progress: losses.sum())
        with pytest.raises(ValueError, match="gate 'mine' is not the package's own"):
            play(few)
    assert not (tmp_path / "search").exists()
    assert sorted(states(play(few, pruner="promote", min_resource=2))) == ["COMPLETE", "PRUNED"]


def standin_weights(folder, seed=1):
    folder.mkdir(exist_ok=True)
    for source in ("fractaldb1k", "imagenet1k_standin"):
        state = models.initialise(ARCH, "scratch", 3, seed).state_dict()
        save_file(state, folder / f"{source}-{ARCH}.safetensors")
    return folder


def test_new_weights_are_another_study(tiny_data, tmp_path, monkeypatch):
    weights = [standin_weights(tmp_path / f"weights {i}", i) for i in range(2)]
    monkeypatch.setattr(search, "run_until", scripted([[1, 2]] * 5))
    settings = replace(SETTINGS, condition="fractaldb1k", seed=3)
    study = search.search(settings, tiny_data, CONFIG, tmp_path, weights, HerePool())
    used = study.user_attrs["weights"][f"fractaldb1k {ARCH}"]
    assert used == file_hash(weights[3 % 2] / f"fractaldb1k-{ARCH}.safetensors")
    standin_weights(weights[1], seed=7)
    with pytest.raises(ValueError, match=f"another weights fractaldb1k {ARCH}"):
        search.search(settings, tiny_data, CONFIG, tmp_path, weights, HerePool())
    with pytest.raises(FileNotFoundError, match=f"fractaldb1k-{ARCH}"):
        search.search(settings, tiny_data, CONFIG, tmp_path, tmp_path, HerePool())


def test_half_a_line_at_the_end_of_a_journal_is_dropped(play, tmp_path, caplog):
    play([[1, 2]] * 5)
    journal = tmp_path / "search/none.log"
    with open(journal, "a") as file:
        file.write('{"op_code": 4, "wor')
    assert len(load_study("none", journal).trials) == 5  # to look at does not change it
    assert len(play([[1, 2]] * 6).trials) == 6
    assert "half a line" in caplog.text
    assert states(load_study("none", journal)) == ["COMPLETE"] * 6


@pytest.mark.parametrize(
    "text", ["{\n", "[]\n", "hello\nworld\n", '{"op_code": 99, "worker_id": "x"}\n', "\0\1\n"]
)
def test_a_damaged_journal_is_named(play, tmp_path, text):
    play([[1, 2]] * 2)
    journal = tmp_path / "search/none.log"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]) + text)
    found = r"none\.log is not a readable search journal .* move it away"
    with pytest.raises(ValueError, match=found):
        load_study("none", journal)
    with pytest.raises(ValueError, match=found):
        play([[1, 2]] * 2)
    with pytest.raises(FileNotFoundError, match="run ktglite search none first"):
        load_study("none", tmp_path / "elsewhere.log")


def test_a_second_coordinator_is_refused_and_looking_is_not(tiny_data, tmp_path, monkeypatch):
    def second(*arguments):
        with pytest.raises(ValueError, match=r"none\.log is searched by another process"):
            search.search(SETTINGS, tiny_data, CONFIG, tmp_path, pool=HerePool())
        assert "RUNNING" in states(load_study("none", tmp_path / "search/none.log"))
        return scripted([[1, 2]] * 5)(*arguments)

    monkeypatch.setattr(search, "run_until", second)
    study = search.search(SETTINGS, tiny_data, CONFIG, tmp_path, pool=HerePool(2))
    assert states(study) == ["COMPLETE"] * 5


@pytest.mark.parametrize("select_on", ["test", "val"])
def test_selecting_on_test_is_possible_and_labelled(
    tiny_data, tmp_path, monkeypatch, caplog, select_on
):
    seen = []

    def spy(task, *arguments):
        seen.append(task.data)
        return scripted([[1, 2]] * 2)(task, *arguments)

    monkeypatch.setattr(search, "portable", lambda task: task)
    monkeypatch.setattr(search, "run_until", spy)
    settings = replace(SETTINGS, trials=2, select_on=select_on)
    spec = {"name": "somewhere", "validate_on": "val"}
    for name, data in {"a": tiny_data, "b": replace(tiny_data).loaded_by(spec)}.items():
        study = search.search(settings, data, CONFIG, tmp_path / name, pool=HerePool())
    assert ("not a test result" in caplog.text) == (select_on == "test")
    assert all(data.val is getattr(tiny_data, select_on) for data in seen)
    assert seen[-1].spec == spec | {"validate_on": select_on}
    assert search.study_summary(study)["select_on"] == select_on


# ---- real trainings


def test_a_checkpoint_is_kept_until_the_result_is_told(tiny_data, tmp_path, monkeypatch):
    """Of a search that is killed before it is told, nothing is trained again."""
    saved = []
    save, tell = Checkpoint.save, optuna.Study.tell
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, state: (saved.append(self.key), save(self, state))
    )
    settings = replace(SETTINGS, trials=4, pruner="promote")

    def killed(self, *arguments, **more):
        if TrialState.PRUNED in (*arguments, *more.values()):
            raise KeyboardInterrupt
        return tell(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            search.search(settings, tiny_data, CONFIG, tmp_path, pool=HerePool(3))
    assert len(saved) > 2
    assert list(tmp_path.rglob("*.ckpt"))
    study = search.search(settings, tiny_data, CONFIG, tmp_path, pool=HerePool(3))
    assert len(saved) == sum(spent(study))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_winner_is_trained_again(tiny_data, tmp_path):
    weights = standin_weights(tmp_path / "weights")
    sources = ("imagenet1k_standin", "fractaldb1k")
    settings = SearchConfig("mixed", sources, ARCH, nodes=2, trials=3, pruner="none")
    config = replace(CONFIG, epochs=1)
    pool = HerePool()
    study = search.search(settings, tiny_data, config, tmp_path, weights, pool)
    with pytest.raises(ValueError, match="seed 0 trained the search"):
        rivals(study, [0, 1])
    graphs = rivals(study, [1, 2], k=2, random_graphs=1)
    assert list(graphs) == ["top 1", "top 2", "random 1"]
    top = graphs["top 1"]
    assert top == best_graphs(study)[0]
    again = reevaluate({"top 1": top}, tiny_data, config, [1, 2], tmp_path / "runs", weights, pool)
    (entry,) = again
    assert (entry["seeds"], entry["graph"]) == ([1, 2], top.to_dict())
    record = runs.load_records(tmp_path / "runs")
    found = next(own for own in record if own["key"] == entry["records"][1])
    assert entry["test_accuracy"][1] == found["test_accuracy"][0]
    summary = search.write_summary(study, tmp_path, again)
    stored = read_summaries(tmp_path / "search")["mixed"]
    assert summary["best"]["text"] == str(top)
    assert stored | summary == stored
    assert search.write_summary(study, tmp_path)["reevaluated"] == again  # by the command
    other = search.study_summary(study, again) | {"data": {"name": "other images"}}
    write_record(tmp_path / "search/mixed.json", other, search.SCHEMA)
    assert search.write_summary(study, tmp_path)["reevaluated"] == []
    assert summary["choices"] == ["scratch", *sources]
    assert summary["selection_value"] == max(trial["value"] for trial in summary["trials"])
    (tmp_path / "search/mixed.json").write_text('{"schema": 1, "stu')
    with pytest.raises(ValueError, match=r"mixed\.json is not a readable record"):
        read_summaries(tmp_path / "search")
    with pytest.raises(FileNotFoundError, match="ktglite search first"):
        read_summaries(tmp_path / "nowhere")


def test_a_search_with_trained_teachers(tiny_data, tmp_path, monkeypatch):
    """The teacher is trained once, heads included, and is what every fixed node starts from."""
    settings = replace(SETTINGS, trials=15, teachers="trained")
    config = replace(CONFIG, epochs=1)
    monkeypatch.setattr(search, "run_until", scripted([[i] for i in range(15)]))
    weights = tmp_path / "weights"
    study = search.search(settings, tiny_data, config, tmp_path, weights, HerePool())
    path = weights / f"teacher-{ARCH}.safetensors"
    assert study.user_attrs["weights"] == {f"teacher {ARCH}": file_hash(path)}
    assert read_card(path)["classes"] == list(tiny_data.classes)
    fixed = [graph for graph in best_graphs(study, 15) if not graph.learns(1)]
    assert {graph.nodes[1].init for graph in fixed} == {"teacher"}
    with pytest.raises(ValueError, match="other images or with other settings: remove it"):
        runs.train_teacher(ARCH, tiny_data, replace(config, lr=0.5), weights)
    with monkeypatch.context() as patch:  # as after an update
        patch.setattr(runs.Run, "key", lambda run: "of other code")
        runs.train_teacher(ARCH, tiny_data, config, weights)
        patch.setattr(runs.Run, "epochs", None)  # it is not trained a second time
        assert runs.train_teacher(ARCH, tiny_data, config, weights) == path
    assert read_card(path)["key"] == "of other code"
    assert runs.train_teacher(ARCH, tiny_data, config, weights) == path
    assert study.user_attrs["weights"] == {f"teacher {ARCH}": file_hash(path)}


# ---- processes that are killed


def coordinate(out, trials, dask=None, pruner="asha"):
    """A search on tiny data, which a test starts in a process of its own, and kills."""
    splits = [random_split(n, seed, size=16) for seed, n in enumerate((32, 12, 12))]
    settings = replace(SETTINGS, trials=trials, nodes=3, pruner=pruner)
    with open_pool(None if dask else 2, dask) as pool:
        data = Data("random", 16, ("a", "b", "c"), *splits)
        search.search(settings, data, replace(CONFIG, epochs=5), out, pool=pool)


def start(*arguments):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": paths})


def wait_until(so, process=None):
    end = time.monotonic() + 600
    while not so():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.5)


@pytest.fixture
def cluster(tmp_path):
    """A Dask cluster of two processes on this machine: its address, and the parent of both."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    place = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1"]
    workers = ["-m", "distributed.cli.dask_worker", "--nworkers", "2", "--nthreads", "1"]
    processes = [start(*command, *place) for command in (scheduler, workers)]
    wait_until(file.exists)
    yield json.loads(file.read_text())["address"], processes[1]
    for process in reversed(processes):
        process.terminate()
        process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("where", "pruner"), [("here", "asha"), ("here", "promote"), ("dask", "asha")]
)
def test_30_graphs_with_a_worker_and_the_coordinator_killed(tmp_path, request, where, pruner):
    """Every graph of the plan is over once, and nothing is left."""
    address, parent = request.getfixturevalue("cluster") if where == "dask" else (None, None)
    journal = tmp_path / "search/none.log"
    how = f"Path({str(tmp_path)!r}), 30, {address!r}, {pruner!r}"
    command = ["-c", f"from test_search import *; coordinate({how})"]

    def over():
        if not journal.exists() or not journal.stat().st_size:
            return 0
        return sum(state != "RUNNING" for state in states(load_study("none", journal)))

    first = start(*command)
    wait_until(lambda: over() >= 10, first)
    workers = psutil.Process((parent or first).pid).children(recursive=True)
    workers[-1].kill()
    wait_until(lambda: over() >= 20, first)
    first.kill()
    first.wait()
    assert over() < 30
    assert start(*command).wait(600) == 0
    study = load_study("none", journal)
    plan = sample_graphs(replace(SETTINGS, trials=30, nodes=3))
    assert [t.params for t in study.trials] == [to_params(g) for g in plan]
    assert set(states(study)) == {"COMPLETE", "PRUNED"}
    assert not list(tmp_path.rglob("*.ckpt"))
