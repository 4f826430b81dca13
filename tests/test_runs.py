"""Run once and remember: keys, records, resuming, processes, and what is ready."""

import dataclasses
import functools
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from conftest import random_split
from safetensors.torch import save_file

from ktglite import GATES, Node, TrainConfig, all_through, distillation, independent, models
from ktglite.data import Data, Split
from ktglite.experiments import networks, runs
from ktglite.experiments.runs import Run, Store, load_records, portable, run, run_all, run_until
from ktglite.pool import open_pool
from ktglite.sources.datasets import load_data
from ktglite.trainer import derive

A = Node("resnet18_w8")
F = Node("resnet18_w8", "fractaldb1k")
CONFIG = TrainConfig(epochs=1, batch_size=8, augmentation="shift", precision="fp32", device="cpu")


def epochs(n, **changes):
    return dataclasses.replace(CONFIG, epochs=n, **changes)


def losses(record):
    return [epoch["train_loss"] for epoch in record["epochs"]]


def save_weights(folder, seed):
    state = models.initialise("resnet18_w8", "scratch", 3, seed).state_dict()
    save_file(state, folder / "fractaldb1k-resnet18_w8.safetensors")


# ---- records and keys


def test_a_second_call_reads_the_record(tiny_data, tmp_path, monkeypatch):
    task = Run(independent(A), tiny_data, CONFIG, 0)
    first = run(task, tmp_path)
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained twice"))
    assert run(task, tmp_path) == first
    assert load_records(tmp_path) == [first]
    names = "graph data config seed weights epochs test_accuracy val_accuracy seconds provenance"
    assert set(names.split()) <= set(first)
    facts = "git dirty versions hardware device precision started"
    assert set(facts.split()) == set(first["provenance"])
    assert [path.name for path in tmp_path.iterdir()] == [f"{first['key']}.json"]


def test_whatever_decides_the_result_changes_the_key(tiny_data, tmp_path, monkeypatch):
    alone = independent(A)

    def key(graph=alone, data=tiny_data, seed=0, **changes):
        return Run(graph, data, dataclasses.replace(CONFIG, **changes), seed, tmp_path).key()

    keys = {key()}
    others = {"schedule": "cosine", "augmentation": "none", "precision": "bf16", "report": "best"}
    others |= {"head": "new", "scale": "fresh", "epochs": 3, "batch_size": 3, "stages": 3}
    others |= {"warmup": 1}
    for name, value in dataclasses.asdict(CONFIG).items():
        changed = not value if isinstance(value, bool) else others.get(name)
        if name != "device":
            keys.add(key(**{name: value / 2 + 0.25 if changed is None else changed}))
    keys |= {key(seed=1), key(all_through(A, A))}
    keys.add(key(data=dataclasses.replace(tiny_data, test=tiny_data.val)))
    assert len(keys) == len(dataclasses.fields(TrainConfig)) + 3  # the first, all but the device
    cut = dataclasses.replace(distillation(A, F), gates=[["through", "cutoff"], ["cutoff"] * 2])
    before = key(cut)
    for seed in (1, 2):
        save_weights(tmp_path, seed)
        keys.add(key(independent(F)))
        assert key(cut) == before  # no node that counts starts from them
    for version in ("2.98.1", "2.99.0"):
        monkeypatch.setattr(torch, "__version__", version)
        keys.add(key())
    monkeypatch.setattr(torch, "__version__", "2.99.1+cpu")  # repairs leave results alone
    assert key() in keys
    monkeypatch.setattr(runs, "code_hash", lambda *modules: "another core")
    keys.add(key())
    assert len(keys) == len(dataclasses.fields(TrainConfig)) + 8


def test_a_gate_from_outside_the_package_is_refused(tiny_data, tmp_path, monkeypatch):
    """Two closures have one code: nothing could tell their runs apart."""
    monkeypatch.setitem(GATES, "mine", lambda losses, right, progress: 2 * losses.mean())
    task = Run(distillation(A, A, gate="mine"), tiny_data, CONFIG, 0)
    with pytest.raises(ValueError, match="'mine' is not the package's own: .* ktglite/gates.py"):
        run(task, tmp_path)
    assert len(list(task.epochs())) == 1  # it can be trained, and is not remembered
    wrapped = functools.wraps(GATES["linear"])(lambda losses, right, progress: 2 * losses.mean())
    monkeypatch.setitem(GATES, "linear", wrapped)
    with pytest.raises(ValueError, match="'linear' is not the package's own"):
        run(
            Run(distillation(A, A, gate="linear"), tiny_data, CONFIG, 0),
            Store(tmp_path, ready=[{}]),
        )
    with pytest.raises(ValueError, match="keep is 'targets': allowed are none, target, all"):
        Store(tmp_path, "targets")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"graph": independent(A).to_dict()}, "graph must be a Graph: {'nodes"),
        ({"data": "synthcars"}, "data must be a Data: 'synthcars'"),
        ({"config": {"epochs": 1}}, "config must be a TrainConfig: {'epochs"),
        ({"seed": "3"}, "integer"),
        ({"seed": 3.0}, "integer"),
    ],
)
def test_what_a_run_cannot_be_made_of_is_named(tiny_data, change, words):
    with pytest.raises(TypeError, match=words):
        Run(**{"graph": independent(A), "data": tiny_data, "config": CONFIG, "seed": 0} | change)


def test_numpy_s_seeds_count_as_python_s_and_images_are_as_they_were(tiny_data):
    three = Run(independent(A), tiny_data, CONFIG, 3)
    assert dataclasses.replace(three, seed=np.int64(3)).key() == three.key()
    assert derive(np.int64(3), "init") == derive(3, "init")
    own = Split(tiny_data.train.images, tiny_data.train.labels.clone())
    data = dataclasses.replace(tiny_data, train=own)
    own.labels[:] = 0
    with pytest.raises(ValueError, match="changed in place"):
        Run(independent(A), data, CONFIG, 0)


# ---- killed and resumed


def test_up_to_an_epoch_and_on(tiny_data, tmp_path):
    """What a search does: the parts are a run like any other in the end."""
    task = Run(all_through(A, A), tiny_data, epochs(3), 0)
    whole = run(task, tmp_path / "whole")
    parts = tmp_path / "parts"
    for epoch in (1, 2, 2):
        found = run_until(portable(task), parts, epoch)
        assert [record["train_loss"] for record in found] == losses(whole)[:epoch]
        assert [path.suffix for path in parts.iterdir()] == [".ckpt"]
    assert [record["train_loss"] for record in run_until(task, parts, 3)] == losses(whole)
    assert load_records(parts)[0]["test_accuracy"] == whole["test_accuracy"]
    assert [path.suffix for path in parts.iterdir()] == [".json"]


def test_new_weights_never_meet_an_old_checkpoint(tiny_data, tmp_path):
    """Of a search that is gone on with after pre-training anew under the same name."""
    task = Run(independent(F), tiny_data, epochs(3), 0, tmp_path)
    found = []
    for seed in (1, 2, 2):
        save_weights(tmp_path, seed)
        found.append(run_until(task, tmp_path / "runs", 1)[0]["train_loss"])
    assert found[0] != found[1] == found[2]
    assert len(list((tmp_path / "runs").glob("*.ckpt"))) == 2


# ---- in processes


def here(graphs, data, config, store, seeds=(0,)):
    """The same runs in this process, one after another."""
    tasks = [
        Run(graph, data, config, seed, label=label)
        for label, graph in graphs.items()
        for seed in seeds
    ]
    return [run(task, store) for task in tasks]


def numbers(records):
    facts = ("label", "seed", "key", "test_accuracy")
    return [[*(record[name] for name in facts), losses(record)] for record in records]


def kill_a_worker(store):
    """A thread that kills a worker process once there is a checkpoint."""
    before = {child.pid for child in multiprocessing.active_children()}  # of an earlier test
    killed = []

    def work():
        while not list(store.glob("*.ckpt")):
            time.sleep(0.02)
        alive = {child.pid for child in multiprocessing.active_children()} - before
        killed.append(min(alive))
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=work, daemon=True).start()
    return killed


def test_two_processes_of_which_one_is_killed_give_the_numbers_of_this_one(tiny_data, tmp_path):
    graphs = {"a": independent(A), "b": all_through(A, A)}
    killed = kill_a_worker(tmp_path / "two")
    with open_pool(2) as pool:
        two = run_all(graphs, tiny_data, epochs(4), [0, 1], tmp_path / "two", pool=pool)
        assert len(pool._executors) == 3  # one in place of the killed: the other went on
    assert len(killed) == 1
    one = here(graphs, tiny_data, epochs(4), tmp_path / "one", (0, 1))
    assert numbers(two) == numbers(one)


def test_an_error_of_one_run_ends_all_at_once_and_names_it(tiny_data, tmp_path):
    damaged = tmp_path / f"{Run(independent(A), tiny_data, epochs(10**6), 3).key()}.json"
    damaged.write_text("{")
    graphs = {"takes days": all_through(A, A), "damaged": independent(A)}
    started = time.monotonic()
    with pytest.raises(ValueError, match="not a readable record") as caught, open_pool(2) as pool:
        run_all(graphs, tiny_data, epochs(10**6), [3], tmp_path, pool=pool)
    assert "run 'damaged', seed 3" in caught.value.__notes__[0]
    assert time.monotonic() - started < 60
    (record,) = tmp_path.glob("*.json")
    assert record == damaged


class Settled:
    """A pool whose futures are settled by `outcome(task)`, in this process."""

    size = 1

    def __init__(self, outcome):
        self.outcome = outcome

    def submit(self, function, task, store):
        future = Future()
        try:
            future.set_result(self.outcome(task))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("error", [ChildProcessError, FloatingPointError])
def test_a_run_that_diverges_or_loses_its_processes_is_left_out(tiny_data, tmp_path, caplog, error):
    def outcome(task):
        if task.label == "large":
            raise error("its process keeps being killed")
        return {"label": task.label}

    graphs = {"large": all_through(A, A), "small": independent(A)}
    found = run_all(graphs, tiny_data, CONFIG, [0], tmp_path, pool=Settled(outcome))
    assert found == [{"label": "small"}]
    assert "large, seed 0 failed and is left out: its process keeps being" in caplog.text
    with pytest.raises(error) as caught:  # nothing is left to go on with
        run_all({"large": graphs["large"]}, tiny_data, CONFIG, [0], tmp_path, pool=Settled(outcome))
    assert "No run of this command came to its end" in caught.value.__notes__[0]


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dask_cluster_gives_the_numbers_of_one_process(
    tiny_data, tmp_path, monkeypatch, processes
):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    cars = load_data("synthcars", 32, 60, cache="cache")
    graphs = {"a": independent(A), "b": all_through(A, A)}
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    options |= {"host": "127.0.0.1"} if processes else {}  # loopback alone
    with (
        distributed.LocalCluster(processes=processes, **options) as cluster,
        open_pool(dask=cluster.scheduler_address) as pool,
    ):
        for name, data in (("loaded there", cars), ("sent", tiny_data)):
            far = run_all(graphs, data, CONFIG, [0], f"{name}/dask", pool=pool)
            assert numbers(far) == numbers(here(graphs, data, CONFIG, f"{name}/here"))
    assert len(list((tmp_path / "sent/dask").glob("*.json"))) == 2


def test_a_worker_refuses_images_that_are_not_the_command_s(tmp_path):
    """A worker of a cluster outlives commands, and may have loaded what was there before."""
    there = load_data("synthcars", 16, 60, cache=tmp_path)
    task = Run(independent(A), there, CONFIG, 0)
    sent = pickle.loads(pickle.dumps(portable(task)))
    assert run_until(sent, tmp_path / "runs", 1)[0]["epoch"] == 1
    changed = dataclasses.replace(sent.data, fingerprint="of other images")
    with pytest.raises(ValueError, match="images of synthcars are not those the command began"):
        run_until(dataclasses.replace(sent, data=changed), tmp_path / "runs", 1)


def test_images_of_one_s_own_are_sent_by_value_and_once(tmp_path):
    """Not through shared memory, of which containers have little, and not with what lies around."""
    many = random_split(600, 0)
    parts = [Split(many.images[i : i + 20], many.labels[i : i + 20]) for i in (0, 20, 40)]
    data = Data("mine", 32, ("a", "b", "c"), *parts)
    sent = pickle.dumps(portable(Run(independent(A), data, CONFIG, 0)))
    assert len(sent) < 1.1 * 60 * 3 * 32 * 32
    assert pickle.loads(sent).data.load().fingerprint == data.fingerprint


# ---- what nodes start from


@pytest.mark.parametrize(
    ("node", "scale", "error", "words"),
    [
        (F, "kept", FileNotFoundError, "ktglite pretrain.* --set weights=FOLDER"),
        (("resnet18_w8", "./resnet18_w16.pt"), "kept", ValueError, "do not fit .*; and .* more"),
        (
            ("mobilenet_v3_small", "./mobilenet_v3_small.pt"),
            "fresh",
            ValueError,
            "'fresh' is for ResNets",
        ),
        (("vit_b_16",), "kept", ValueError, "vit_b_16 cannot take images of 32 px .*image_size"),
        (("alexnet",), "kept", ValueError, "alexnet cannot take images of 32 px .*image_size"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is(
    tiny_data, tmp_path, monkeypatch, node, scale, error, words
):
    monkeypatch.chdir(tmp_path)
    for arch in ("resnet18_w16", "mobilenet_v3_small"):
        torch.save(models.build(arch, 3).state_dict(), f"{arch}.pt")
    graphs = {"none": independent(A), "x": independent(node if node is F else Node(*node))}
    pool = Settled(lambda task: pytest.fail("trained"))
    config = dataclasses.replace(CONFIG, scale=scale)
    with pytest.raises(error, match=words):
        run_all(graphs, tiny_data, config, [0], "runs", "weights", pool)
    assert not (tmp_path / "runs").exists()


def test_what_a_start_cannot_be_good_for_is_told(tiny_data, tmp_path, caplog):
    """A fixed teacher with a random head, and a start that was trained on another split."""
    net = models.build("resnet18_w8", 3)
    how = {"arch": "resnet18_w8", "size": 32, "fit": "squash"}

    def saved(name, classes, fingerprint=tiny_data.fingerprint):
        facts = {"name": tiny_data.name, "fingerprint": fingerprint}
        card = how | {"classes": classes, "data": facts}
        return Node("resnet18_w8", str(networks.save_network(net, tmp_path / name, card)))

    known = saved("known.safetensors", ["a", "b", "c"])
    other = saved("other.safetensors", ["x", "y", "z"])
    split = saved("split.safetensors", ["a", "b", "c"], "of another split")
    teachers = {"scratch": A, "other": other, "known": known}
    graphs = {name: distillation(A, teacher) for name, teacher in teachers.items()}
    graphs |= {"learns": all_through(A, other), "split": all_through(A, split)}
    run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "runs", pool=Settled(lambda task: None))
    told = [record.message for record in caplog.records]
    assert len(told) == 3
    assert "starts from scratch never learns, and its head is random" in told[0]
    assert f"starts from {other.init} never learns" in told[1]
    assert f"{split.init} was trained on other images of random, or another split" in told[2]


# ---- records from elsewhere


def test_ready_records_are_taken_for_the_same_training_alone(tiny_data, tmp_path):
    """As they come with the kit: of other code, before there was a setting `warmup`."""
    save_weights(tmp_path, 0)
    graphs = {"a": independent(A), "b": all_through(A, F)}
    made = run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "made", tmp_path)
    records = json.loads(json.dumps(made))
    for record in records:
        del record["config"]["warmup"]
        record |= {"key": "of other code", "label": "another name"}
        record["config"]["device"] = "cuda"
    store = Store(tmp_path / "runs", ready=records)
    nowhere = tmp_path / "no weights here"
    pool = Settled(lambda task: pytest.fail("trained"))
    found = run_all(graphs, tiny_data, CONFIG, [0], store, nowhere, pool)
    named = zip(graphs, records, strict=True)
    assert found == [record | {"label": label} for label, record in named]
    assert run(Run(graphs["a"], tiny_data, CONFIG, 0, nowhere), store)["key"] == "of other code"
    assert not (tmp_path / "runs").exists()
    task = Run(graphs["b"], tiny_data, CONFIG, 0, tmp_path)
    assert store.find_ready(task)
    for changes in (
        {"config": epochs(2)},
        {"config": epochs(1, warmup=1)},
        {"seed": 1},
        {"graph": all_through(F, A)},
        {"data": dataclasses.replace(tiny_data, val=tiny_data.test)},
    ):
        assert store.find_ready(dataclasses.replace(task, **changes)) is None
    assert dataclasses.replace(store, keep="all").find_ready(task) is None  # it has no networks
    (left,) = run_all({"a": graphs["a"]}, tiny_data, CONFIG, [1], store)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{left['key']}.json"]


# ---- networks that are kept


def test_what_is_kept_can_be_asked_for_later(tiny_data, tmp_path, monkeypatch):
    """The record is there and the networks are not: trained again, to the same result, once."""
    task = Run(all_through(A, A), tiny_data, CONFIG, 0)
    first = run(task, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    stopped = pytest.MonkeyPatch()
    stopped.setattr(networks, "save_network", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(task, Store(tmp_path, "all"))
    stopped.undo()
    assert run(task, tmp_path) == first  # the record is still there
    again = run(task, Store(tmp_path, "all"))
    assert again["test_accuracy"] == first["test_accuracy"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained again"))
    assert run(task, Store(tmp_path, "all")) == again
