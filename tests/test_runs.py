"""Run once and remember: keys, records, resuming, processes."""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from ktglite import Data, Node, TrainConfig, all_through, independent, load_data, models, run, run_all, runs
from ktglite.runs import load_records, read_record, run_key, write_json

A = Node("resnet18_w8")
CONFIG = TrainConfig(epochs=1, batch_size=8, augmentation="shift", precision="fp32", device="cpu")


def test_a_second_call_reads_the_record(tiny_data, tmp_path, monkeypatch):
    first = run(independent(A), tiny_data, CONFIG, 0, tmp_path)
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained twice"))
    assert run(independent(A), tiny_data, CONFIG, 0, tmp_path) == first
    assert load_records(tmp_path) == [first]
    for name in ("graph", "data", "config", "seed", "epochs", "test_accuracy", "seconds", "provenance"):
        assert name in first
    for name in ("git", "dirty", "versions", "hardware", "device", "precision", "started"):
        assert name in first["provenance"]
    assert not list(tmp_path.glob("*.ckpt"))
    assert not list(tmp_path.glob("*.partial"))


def test_whatever_decides_the_result_changes_the_key(tiny_data):
    graph, base = independent(A), {}
    keys = {run_key(graph, tiny_data, CONFIG, 0, base)}
    for field in dataclasses.fields(TrainConfig):
        value = getattr(CONFIG, field.name)
        others = {"schedule": "cosine", "augmentation": "none", "precision": "bf16", "report": "best", "head": "new"}
        others["scale"] = "fresh"
        if field.name == "device":
            continue
        if field.name in others:
            other = others[field.name]
        else:
            other = not value if isinstance(value, bool) else value / 2 + 0.25
            other = 7 if isinstance(value, int) and not isinstance(value, bool) else other
        keys.add(run_key(graph, tiny_data, dataclasses.replace(CONFIG, **{field.name: other}), 0, base))
    changed = dataclasses.replace(tiny_data, test=tiny_data.val, fingerprint="")
    keys |= {
        run_key(graph, tiny_data, CONFIG, 1, base),
        run_key(all_through(A, A), tiny_data, CONFIG, 0, base),
        run_key(graph, changed, CONFIG, 0, base),
        run_key(graph, tiny_data, CONFIG, 0, {"fractaldb1k resnet18_w8": "0"}),
    }
    assert len(keys) == len(dataclasses.fields(TrainConfig)) + 4


def test_other_weights_are_another_run(tiny_data, tmp_path):
    graph, keys = independent(Node("resnet18_w8", "fractaldb1k")), set()
    for seed in (1, 2):
        state = models.initialise("resnet18_w8", "scratch", 3, seed).state_dict()
        save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
        keys.add(run(graph, tiny_data, CONFIG, 0, tmp_path / "runs", tmp_path)["key"])
    assert len(keys) == 2


def test_two_processes_give_the_numbers_of_one(tiny_data, tmp_path):
    graphs = {"a": independent(A), "b": all_through(A, A)}
    one = run_all(graphs, tiny_data, CONFIG, [0, 1], tmp_path / "1" / "runs", jobs=1)
    two = run_all(graphs, tiny_data, CONFIG, [0, 1], tmp_path / "2" / "runs", jobs=2)
    assert [r["label"] for r in one] == ["a", "a", "b", "b"]
    assert [r["seed"] for r in one] == [0, 1, 0, 1]
    assert [r["key"] for r in one] == [r["key"] for r in two]
    assert [r["test_accuracy"] for r in one] == [r["test_accuracy"] for r in two]
    assert [r["epochs"][0]["edge_loss"] for r in one] == [r["epochs"][0]["edge_loss"] for r in two]
    lines = [json.loads(line) for line in (tmp_path / "2" / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["done"] == lines[-1]["total"] == 4


def kill_workers(store, how_many):
    """A thread that kills so many worker processes, each once it has finished an epoch; its list of all it saw."""
    seen, before = (
        [],
        {child.pid for child in multiprocessing.active_children()},
    )  # of an earlier test, on their way out

    def work():
        killed = []
        while len(killed) < how_many:
            time.sleep(0.02)
            alive = [child.pid for child in multiprocessing.active_children() if child.pid not in before]
            seen.extend(pid for pid in alive if pid not in seen)
            if alive and list(store.glob("*.ckpt")):
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])

    threading.Thread(target=work, daemon=True).start()
    return seen


def test_a_killed_process_costs_its_own_run_only(tiny_data, tmp_path, monkeypatch):
    graphs, config = {"a": independent(A), "b": all_through(A, A)}, dataclasses.replace(CONFIG, epochs=6)
    seen = kill_workers(tmp_path / "runs", 1)
    made = []
    monkeypatch.setattr(
        runs, "ProcessPoolExecutor", lambda *a, real=runs.ProcessPoolExecutor: made.append(a) or real(*a)
    )
    found = run_all(graphs, tiny_data, config, [0], tmp_path / "runs", jobs=2)
    assert len(seen) == 2
    assert len(made) == 3  # two, and one in place of the killed: the other process went on
    whole = [run(graph, tiny_data, config, 0, tmp_path / "whole") for graph in graphs.values()]
    assert [r["test_accuracy"] for r in found] == [r["test_accuracy"] for r in whole]
    assert [e["train_loss"] for r in found for e in r["epochs"]] == [
        e["train_loss"] for r in whole for e in r["epochs"]
    ]


def test_a_run_that_is_killed_again_and_again_is_named(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RESTARTS", 0)
    kill_workers(tmp_path / "runs", 1)
    config = dataclasses.replace(CONFIG, epochs=50)
    with pytest.raises(ChildProcessError, match="try fewer jobs") as caught:
        run_all({"source/1+2": all_through(A, A)}, tiny_data, config, [7], tmp_path / "runs", jobs=1)
    assert "run 'source/1+2', seed 7" in caught.value.__notes__[0]


def test_what_a_run_raises_names_the_run(tiny_data, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / f"runs/{runs.run_key(independent(A), tiny_data, CONFIG, 3, {})}.json").write_text("{")
    with pytest.raises(ValueError, match="not a readable record") as caught:
        run_all({"a": independent(A)}, tiny_data, CONFIG, [3], tmp_path / "runs")
    assert "run 'a', seed 3" in caught.value.__notes__[0]


def test_missing_or_wrong_weights_stop_it_before_anything_is_trained(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "local_executors", lambda jobs: pytest.fail("started"))
    graphs = {"none": independent(A), "x": independent(Node("resnet18_w8", "fractaldb1k"))}
    with pytest.raises(FileNotFoundError, match="ktglite pretrain"):
        run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "runs", tmp_path)
    state = models.initialise("resnet18_w16", "scratch", 3, 0).state_dict()
    save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
    with pytest.raises(ValueError, match="do not fit the model"):
        run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "runs", tmp_path)


def test_workers_per_device(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (runs.default_jobs(), runs.default_jobs(2)) == (3, 6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (runs.default_jobs(), runs.default_jobs(2)) == (4, 8)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dask_cluster_gives_the_numbers_of_one_process(tiny_data, tmp_path, monkeypatch, processes):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    data = load_data("synthcars", 16, 60, cache="cache")
    graphs = {"a": independent(A), "b": all_through(A, A)}
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    options |= {"host": "127.0.0.1"} if processes else {}  # loopback alone
    with distributed.LocalCluster(processes=processes, **options) as cluster:
        for name, part in (("folder", data), ("tensors", tiny_data)):  # loaded there, or sent
            far = run_all(graphs, part, CONFIG, [0, 1], f"{name}/dask", dask=cluster.scheduler_address)
            near = [run(g, part, CONFIG, seed, f"{name}/here", label=a) for a, g in graphs.items() for seed in (0, 1)]
            assert [(r["label"], r["seed"]) for r in far] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
            assert [r["key"] for r in far] == [r["key"] for r in near]
            assert [r["test_accuracy"] for r in far] == [r["test_accuracy"] for r in near]
            assert [r["epochs"][0]["edge_loss"] for r in far] == [r["epochs"][0]["edge_loss"] for r in near]
    assert len(list((tmp_path / "folder/dask").glob("*.json"))) == 4


def test_no_scheduler_is_an_error_that_names_the_address(tiny_data, tmp_path):
    dask = pytest.importorskip("dask")
    refused = pytest.raises(ValueError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), refused:
        run_all({"a": independent(A)}, tiny_data, CONFIG, [0], tmp_path / "runs", dask="tcp://127.0.0.1:9")


def test_a_killed_run_goes_on_from_its_last_epoch(tiny_data, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=3)
    whole = run(independent(A), tiny_data, config, 0, tmp_path / "whole")
    real = runs.epochs

    def killed(*args, **kwargs):
        yield next(real(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "epochs", killed)
    with pytest.raises(KeyboardInterrupt):
        run(independent(A), tiny_data, config, 0, tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*.json"))
    monkeypatch.setattr(runs, "epochs", real)
    resumed = run(independent(A), tiny_data, config, 0, tmp_path / "cut")
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    assert [e["train_loss"] for e in resumed["epochs"]] == [e["train_loss"] for e in whole["epochs"]]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"), [("{", "readable record"), ("[]", "schema"), ('{"schema": 99}', "schema 99")]
)
def test_foreign_records_are_named(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_record(tmp_path / "x.json")
    assert "x.json" in str(error.value)


def test_fingerprint_sees_one_changed_pixel(tiny_data):
    images = tiny_data.train.images.clone()
    images[0, 0, 0, 0] ^= 1
    train = dataclasses.replace(tiny_data.train, images=images)
    assert (
        Data("random", 16, tiny_data.classes, train, tiny_data.val, tiny_data.test).fingerprint != tiny_data.fingerprint
    )
    assert torch.equal(tiny_data.train.labels, train.labels)
