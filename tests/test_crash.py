"""Faults made on purpose: killed processes, full and read-only disks, NaN, damaged files."""

import contextlib
import dataclasses
import os
import random
import resource
import socket
import subprocess
import time

import psutil
import pytest
import workloads
from safetensors.torch import save_file

from ktglite import Node, all_through, independent, load_data, models
from ktglite.experiments import runs
from ktglite.experiments.runs import Run, load_records, run
from ktglite.sources import fractaldb, pretrain
from ktglite.store import Checkpoint, atomic_write, read_record, write_json

A = Node("resnet18_w8")
CONFIG = workloads.SHARED
DIVERGING = dataclasses.replace(CONFIG, lr=1e6, batch_size=4)  # the third iteration of 8 is NaN


def alone(data, seed=0, config=CONFIG):
    return Run(independent(A), data, config, seed)


# ---- processes


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


COMMANDS = slow("FractalDB bank", "search", "ablation run", "ktglite reproduce")


@pytest.mark.parametrize("name", ["data cache", "pre-training", *COMMANDS])
def test_killed_twice_it_ends_as_if_nothing_had_happened(tmp_path, name):
    undisturbed = workloads.uninterrupted(name, tmp_path / "whole")
    seen = workloads.crash(name, tmp_path / "killed", undisturbed, 2, random.Random(0))
    assert seen.wrong == []
    if workloads.WORKLOADS[name].unit == "epochs":
        assert seen.lost <= seen.kills * workloads.WORKLOADS[name].workers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "ktglite reproduce"])
def test_nothing_listens_beyond_this_machine(tmp_path, name):
    """Jupyter's kernel talks over loopback; everything else has no socket that waits."""
    workloads.folder(name, tmp_path / "run")
    process = workloads.start(name, tmp_path / "run")
    heard = set()
    while process.is_alive():
        for member in workloads.family(process.pid):
            with contextlib.suppress(psutil.Error):
                sockets = member.net_connections("inet")
                heard |= {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
        time.sleep(0.1)
    assert process.exitcode == 0
    assert heard <= {"127.0.0.1", "::1"}


def test_two_processes_on_one_store_share_its_runs(tmp_path):
    """Each is trained once, and both end with the store that one process alone makes."""
    together, single = tmp_path / "together", tmp_path / "single"
    for store, count in ((together, 2), (single, 1)):
        store.mkdir()
        processes = [workloads.start("shared store", store) for _ in range(count)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * count
        assert workloads.counted(store) == 3 * workloads.SHARED.epochs
        assert workloads.leftovers(store) == []
    assert len(load_records(together / "runs")) == 3
    assert workloads.outcome(together) == workloads.outcome(single)


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    living = f"r.json.{host}-{os.getppid()}.partial"
    for name in (living, f"r.json.{host}-{dead.pid}.partial", "r.json.elsewhere-1.partial"):
        (tmp_path / name).write_text("{")
    write_json(tmp_path / "r.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"r.json", living, "r.json.elsewhere-1.partial"}


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
    return fractaldb.bank(64, fractaldb.categories(3), out / "cache")


def cache(out):
    return load_data("synthcars", 16, limit=90, cache=out / "cache")


def step1(out):
    return pretrain.pretrain(workloads.pretrain_config(epochs=1, images=64), out / "weights")


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
    done = run(alone(tiny_data), tmp_path)
    with full_disk(10_000), pytest.raises(OSError, match="ckpt could not be written"):
        run(alone(tiny_data, 1), tmp_path)
    assert load_records(tmp_path) == [done]
    again = run(alone(tiny_data, 1), tmp_path)
    elsewhere = run(alone(tiny_data, 1), tmp_path / "elsewhere")
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
    for work in (lambda: run(alone(tiny_data), store), lambda: bank(small_disk)):
        with pytest.raises(OSError, match="No space left on device"):
            work()
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    done = run(alone(tiny_data), store)
    packed = bank(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert run(alone(tiny_data), store) == done
    assert (bank(small_disk) == packed).all()
    with pytest.raises(OSError, match="Read-only file system"):
        run(alone(tiny_data, 1), store)
    with pytest.raises(OSError, match="could not be written"), atomic_write(small_disk / "x"):
        pass
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    run(alone(tiny_data, 1), store)
    assert len(load_records(store)) == 2


# ---- numbers


def test_a_learning_rate_of_a_million_leaves_a_failed_record(tiny_data, tmp_path, monkeypatch):
    wild = Run(all_through(A, A), tiny_data, DIVERGING, 0, label="wild")
    words = r"loss of node \d on edge .* -> node \d is (nan|inf) in epoch \d, iteration \d"
    with pytest.raises(FloatingPointError, match=words):
        run(wild, tmp_path)
    good = run(dataclasses.replace(wild, config=CONFIG), tmp_path)
    assert load_records(tmp_path) == [good]
    failed = read_record(tmp_path / f"{wild.key()}.json", 1)
    assert failed["status"] == "failed"
    assert failed["label"] == "wild"
    assert failed["test_accuracy"] is None
    assert "lower the learning rate" in failed["error"]
    assert not list(tmp_path.glob("*.ckpt"))
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained again"))
    with pytest.raises(FloatingPointError, match="delete it to try again"):
        run(wild, tmp_path)


def test_a_last_step_that_breaks_the_network_is_no_result(tiny_data, tmp_path):
    """One iteration: its loss is fine, and what it does to the weights shows in answers only."""
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=32, lr=1e30)
    words = "node 1 answers the val images with NaN or infinity"
    with pytest.raises(FloatingPointError, match=words):
        run(alone(tiny_data, config=config), tmp_path)


# ---- files that were damaged, edited, or are another's


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-200], "not a readable record"),
        (lambda text: text.replace("test_accuracy", "val_accuracy", 1), "not as it was written"),
        (lambda text: text.replace('"schema": 1', '"schema": 2', 1), "schema 2, this version"),
        (lambda text: text.replace("complete", "done"), "not as it was written"),
        (lambda text: "[" * 100_000, "not a readable record"),
    ],
)
def test_a_changed_record_is_named_and_never_used(tiny_data, tmp_path, change, words):
    record = run(alone(tiny_data), tmp_path)
    path = tmp_path / f"{record['key']}.json"
    path.write_text(change(path.read_text()))
    for read in (lambda: read_record(path, 1), lambda: load_records(tmp_path)):
        with pytest.raises(ValueError, match=words) as caught:
            read()
        assert str(path) in str(caught.value)


def test_a_record_under_another_name_is_not_taken_for_that_run(tiny_data, tmp_path):
    one, two = (run(alone(tiny_data, seed), tmp_path) for seed in (0, 1))
    (tmp_path / f"{one['key']}.json").replace(tmp_path / f"{two['key']}.json")
    with pytest.raises(ValueError, match="is not the record of this run"):
        run(alone(tiny_data, 1), tmp_path)


@pytest.mark.parametrize(
    ("key", "damage"),
    [
        ("mine", lambda content: content[:-100]),
        ("mine", lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]),
        ("mine", lambda content: b"PK\3\4 something else"),
        ("of another seed", bytes),
    ],
)
def test_a_bad_checkpoint_is_set_aside_and_the_result_is_right(
    tiny_data, tmp_path, key, damage, caplog
):
    path = tmp_path / "x.ckpt"
    records = alone(tiny_data).epochs(Checkpoint(path, key))
    next(records)
    records.close()
    content = damage(path.read_bytes())
    path.write_bytes(content)
    found = list(alone(tiny_data).epochs(Checkpoint(path, "mine")))
    assert workloads.without_times(found) == workloads.without_times([*alone(tiny_data).epochs()])
    assert "the training begins anew" in caplog.text
    assert (tmp_path / "x.ckpt.unused").read_bytes() == content


def test_weights_that_are_not_those_of_their_card_are_refused(tiny_data, tmp_path):
    path = step1(tmp_path)
    save_file(models.build("resnet18_w8", 3).state_dict(), path)
    graph = independent(Node("resnet18_w8", "imagenet1k_standin"))
    with pytest.raises(ValueError, match=r"not the file its card .*json was written for"):
        run(Run(graph, tiny_data, CONFIG, 0, path.parent), tmp_path / "runs")
