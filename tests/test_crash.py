"""Faults made on purpose: killed processes, full and read-only disks, diverging losses, damaged files."""

import contextlib
import dataclasses
import json
import logging
import os
import random
import resource
import subprocess
import time

import numpy as np
import psutil
import pytest
import workloads
from optuna.trial import TrialState
from safetensors.torch import save_file

from ktglite import (
    Node,
    TrainConfig,
    all_through,
    epochs,
    independent,
    load_data,
    load_records,
    models,
    run,
)
from ktglite.experiments import runs, search
from ktglite.experiments.space import SearchConfig
from ktglite.sources import fractaldb, pretrain
from ktglite.store import HOST, Checkpoint, atomic_write, read_record, write_json

A = Node("resnet18_w8")
CONFIG = TrainConfig(epochs=2, batch_size=16, augmentation="shift", precision="fp32", device="cpu")
DIVERGING = dataclasses.replace(
    CONFIG, lr=1e6, batch_size=4
)  # eight iterations an epoch: the third is NaN


# ---- processes


@pytest.mark.parametrize("name", ["data cache", "FractalDB bank", "pre-training", "search"])
def test_killed_twice_it_ends_as_if_nothing_had_happened(tmp_path, name):
    undisturbed = workloads.uninterrupted(name, tmp_path / "whole")
    seen = workloads.crash(name, tmp_path / "killed", undisturbed, 2, random.Random(0))
    assert seen.wrong == []
    if workloads.WORKLOADS[name].unit == "epochs":
        assert seen.lost <= seen.kills


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ablation run", "ktglite reproduce"])
def test_killed_commands_go_on(tmp_path, name):
    undisturbed = workloads.uninterrupted(name, tmp_path / "whole")
    seen = workloads.crash(name, tmp_path / "killed", undisturbed, 2, random.Random(0))
    assert seen.wrong == []
    assert seen.lost <= 2 * seen.kills


@pytest.mark.parametrize(
    "name", ["search", pytest.param("ktglite reproduce", marks=pytest.mark.slow)]
)
def test_nothing_listens_beyond_this_machine(tmp_path, name):
    """Jupyter's kernel talks to papermill over loopback; everything else has no socket that waits."""
    workloads.folder(name, tmp_path / "run")
    process, heard = workloads.start(name, tmp_path / "run"), set()
    while process.is_alive():
        for member in workloads.family(process.pid):
            with contextlib.suppress(psutil.Error):
                heard |= {
                    c.laddr.ip
                    for c in member.net_connections("inet")
                    if c.status == psutil.CONN_LISTEN
                }
        time.sleep(0.1)
    assert process.exitcode == 0
    assert heard <= {"127.0.0.1", "::1"}


def test_two_processes_on_one_store_share_its_runs(tmp_path):
    """Both want the same three runs: each is trained once, and both end with the whole store."""
    processes = [workloads.start("shared store", tmp_path) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert workloads.counted(tmp_path) == 3 * workloads.SHARED.epochs
    assert len(load_records(tmp_path / "runs")) == 3
    assert workloads.leftovers(tmp_path) == []


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f"r.json.{HOST}-{pid}.partial").write_text("{")
    write_json(tmp_path / "r.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {
        "r.json",
        f"r.json.{HOST}-{os.getppid()}.partial",
    }


# ---- disks


@contextlib.contextmanager
def full_disk(size: int):
    """No file may grow beyond `size` bytes: the error of a full disk, as any user can have it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bank(out):
    return fractaldb.bank(64, 2000, fractaldb.categories(3), out / "cache")


def cache(out):
    return load_data("synthcars", 16, limit=90, cache=out / "cache")


def step1(out):
    settings = pretrain.PretrainConfig(
        "imagenet1k_standin", "resnet18_w8", 16, epochs=1, images_per_epoch=32, batch_size=16, standin_images=64,
        augmentation="none", precision="fp32", device="cpu",
    )  # fmt: skip
    return pretrain.pretrain(settings, out / "weights")


@pytest.mark.parametrize("work", [bank, cache, step1])
def test_a_full_disk_is_named_and_the_same_call_goes_on(tmp_path, work):
    with full_disk(10_000), pytest.raises(OSError, match="could not be written.*make room"):
        work(tmp_path)
    assert workloads.leftovers(tmp_path) == []
    work(tmp_path)
    work(tmp_path / "undisturbed")
    there = workloads.outcome(tmp_path / "undisturbed")
    assert there
    assert {name: workloads.outcome(tmp_path)[name] for name in there} == there


def test_a_full_disk_keeps_what_is_done(tiny_data, tmp_path):
    done = run(independent(A), tiny_data, CONFIG, 0, tmp_path)
    with full_disk(10_000), pytest.raises(OSError, match="ckpt could not be written"):
        run(independent(A), tiny_data, CONFIG, 1, tmp_path)
    assert load_records(tmp_path) == [{**done, "label": None}]
    again = run(independent(A), tiny_data, CONFIG, 1, tmp_path)
    elsewhere = run(independent(A), tiny_data, CONFIG, 1, tmp_path / "elsewhere")
    assert workloads.without_times(again) == workloads.without_times(elsewhere)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only root may mount a small disk: {error}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_really_full_disk_and_then_a_read_only_one(tiny_data, small_disk):
    store = small_disk / "runs"
    (small_disk / "ballast").write_bytes(bytes(290_000))
    with pytest.raises(OSError, match="No space left on device"):
        run(independent(A), tiny_data, CONFIG, 0, store)
    with pytest.raises(OSError, match="No space left on device"):
        fractaldb.bank(64, 2000, fractaldb.categories(3), small_disk / "cache")
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    done = run(independent(A), tiny_data, CONFIG, 0, store)
    packed = fractaldb.bank(64, 2000, fractaldb.categories(3), small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run(independent(A), tiny_data, CONFIG, 0, store) == done
    assert (
        fractaldb.bank(64, 2000, fractaldb.categories(3), small_disk / "cache")
        == packed
    ).all()
    with pytest.raises(OSError, match="Read-only file system"):
        run(independent(A), tiny_data, CONFIG, 1, store)
    with pytest.raises(OSError, match="could not be written"), atomic_write(small_disk / "x"):
        pass
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    run(independent(A), tiny_data, CONFIG, 1, store)
    assert len(load_records(store)) == 2


# ---- numbers


def test_a_learning_rate_of_a_million_leaves_a_failed_record(tiny_data, tmp_path, monkeypatch):
    words = r"loss of node \d on edge .* -> node \d is (nan|inf) in epoch \d, iteration \d"
    with pytest.raises(FloatingPointError, match=words):
        run(all_through(A, A), tiny_data, DIVERGING, 0, tmp_path, label="wild")
    good = run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path)
    assert load_records(tmp_path) == [good]
    (failed,) = load_records(tmp_path, "failed")
    assert failed["label"] == "wild"
    assert failed["test_accuracy"] is None
    assert "lower the learning rate" in failed["error"]
    assert not list(tmp_path.glob("*.ckpt"))
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained again"))
    with pytest.raises(FloatingPointError, match="delete it to try the same again"):
        run(all_through(A, A), tiny_data, DIVERGING, 0, tmp_path)


def test_one_diverging_run_does_not_stop_the_others(tiny_data, tmp_path, caplog):
    assert (
        runs._run_task(independent(A), tiny_data, DIVERGING, 3, str(tmp_path), "", "wild") is None
    )
    assert "wild, seed 3 failed and is left out" in caplog.text


def test_a_last_step_that_breaks_the_network_is_no_result(tiny_data, tmp_path):
    """One iteration: its loss is fine, and what it does to the weights shows in the answers only."""
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=32, lr=1e30)
    with pytest.raises(
        FloatingPointError, match="node 1 answers the val images with NaN or infinity"
    ):
        run(independent(A), tiny_data, config, 0, tmp_path)


def test_a_learning_rate_of_a_million_fails_its_trials_and_not_the_study(tiny_data, tmp_path):
    settings = SearchConfig(condition="none", arch="resnet18_w8", nodes=2, trials=2)
    study = search.search(settings, tiny_data, DIVERGING, tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert all("epoch" in trial.user_attrs["error"] for trial in study.trials)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert search.write_summary(study, tmp_path)["best"] is None


def test_pre_training_names_epoch_and_iteration(tmp_path):
    settings = pretrain.PretrainConfig(
        "imagenet1k_standin", "resnet18_w8", 16, epochs=2, batch_size=16, standin_images=64, lr=1e6, precision="fp32",
        device="cpu",
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"epoch 1, iteration \d|not finite after epoch 1"):
        pretrain.pretrain(settings, tmp_path)


# ---- files that were damaged, edited, or are another's


def edited(record: dict) -> dict:
    return {**record, "test_accuracy": [99.9]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-200], "not a readable record"),
        (lambda text: json.dumps(edited(json.loads(text))), "not as it was written"),
        (
            lambda text: text.replace('"schema": 1', '"schema": 2', 1),
            "schema 2, this version reads 1",
        ),
        (lambda text: text.replace("complete", "done"), "not as it was written"),
        (lambda text: "[" * 100_000, "not a readable record"),
    ],
)
def test_a_changed_record_is_named_and_never_used(tiny_data, tmp_path, change, words):
    record = run(independent(A), tiny_data, dataclasses.replace(CONFIG, epochs=1), 0, tmp_path)
    path = tmp_path / f"{record['key']}.json"
    path.write_text(change(path.read_text()))
    for read in (lambda: read_record(path, 1), lambda: load_records(tmp_path)):
        with pytest.raises(ValueError, match=words) as caught:
            read()
        assert str(path) in str(caught.value)


def test_a_record_under_another_name_is_not_taken_for_that_run(tiny_data, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1)
    one, two = (run(independent(A), tiny_data, config, seed, tmp_path) for seed in (0, 1))
    (tmp_path / f"{one['key']}.json").replace(tmp_path / f"{two['key']}.json")
    with pytest.raises(ValueError, match="is not the record of this run"):
        run(independent(A), tiny_data, config, 1, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "one bit", "another seed", "not ours"])
def test_a_bad_checkpoint_is_set_aside_and_the_result_is_right(tiny_data, tmp_path, damage, caplog):
    def seconds_apart(seed, checkpoint=None):
        found = list(epochs(independent(A), tiny_data, CONFIG, seed, checkpoint=checkpoint))
        return [{**record, "seconds": 0} for record in found]

    path, wanted = tmp_path / "x.ckpt", seconds_apart(0)
    key = "another" if damage == "another seed" else "mine"
    records = epochs(independent(A), tiny_data, CONFIG, 0, checkpoint=Checkpoint(path, key))
    next(records)
    records.close()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-100]
    elif damage == "one bit":
        content[len(content) // 2] ^= 1
    elif damage == "not ours":
        content = bytearray(b"PK\3\4 something else")
    path.write_bytes(content)
    assert seconds_apart(0, Checkpoint(path, "mine")) == wanted
    assert "the training begins anew" in caplog.text
    assert (tmp_path / "x.ckpt.unused").read_bytes() == content


def test_weights_that_are_not_those_of_their_card_are_refused(tiny_data, tmp_path):
    path = step1(tmp_path)
    state = {
        name: value.contiguous()
        for name, value in models.build("resnet18_w8", 3).state_dict().items()
    }
    save_file(state, path)
    graph = independent(Node("resnet18_w8", "imagenet1k_standin"))
    with pytest.raises(ValueError, match=r"not the file its card .*json was written for"):
        run(graph, tiny_data, CONFIG, 0, tmp_path / "runs", path.parent)


def test_a_damaged_cache_or_bank_is_named(tmp_path):
    cache(tmp_path)
    bank(tmp_path)
    for path in [*tmp_path.rglob("images.bin"), *tmp_path.rglob("fractaldb*.npy")]:
        path.write_bytes(path.read_bytes()[:-500])
    for work in (cache, bank):
        with pytest.raises(ValueError, match="is damaged .* delete it and it is made again"):
            work(tmp_path)


@pytest.mark.parametrize(
    "text", ["{\n", "[]\n", "hello\nworld\n", '{"op_code": 99, "worker_id": "x"}\n', "\0\1\n"]
)
def test_a_damaged_journal_is_named(tiny_data, tmp_path, text):
    settings = SearchConfig(condition="none", arch="resnet18_w8", nodes=2, trials=2)
    path = tmp_path / "search.log"
    search.search(settings, tiny_data, dataclasses.replace(CONFIG, epochs=1), tmp_path, path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]) + text)
    with pytest.raises(
        ValueError, match=r"search\.log is not a readable search journal .* move it away"
    ):
        search.load_study("none", path)


# ---- the same again


def test_the_same_seed_gives_the_same_record_resumed_or_in_another_process(tiny_data, tmp_path):
    """`test_runs.py` has the same across numbers of processes."""
    config = dataclasses.replace(CONFIG, epochs=3)
    whole_run = run(all_through(A, A), tiny_data, config, 0, tmp_path / "a")
    checkpoint = Checkpoint(tmp_path / "b" / f"{whole_run['key']}.ckpt", whole_run["key"])
    records = epochs(all_through(A, A), tiny_data, config, 0, checkpoint=checkpoint)
    next(records)
    records.close()
    resumed = run(all_through(A, A), tiny_data, config, 0, tmp_path / "b")
    assert workloads.without_times(resumed) == workloads.without_times(whole_run)
    stores = [tmp_path / "c", tmp_path / "d"]
    for store in stores:
        store.mkdir()
        process = workloads.start("shared store", store)
        process.join()
    here, there = (load_records(store / "runs") for store in stores)
    assert workloads.without_times(here) == workloads.without_times(there)
    assert np.isfinite(here[0]["test_accuracy"]).all()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING)
