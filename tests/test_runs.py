"""Run once and remember: keys, records, resuming, processes."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest
import torch
from ktglite.experiments.kept import save_network
from safetensors.torch import save_file

from ktglite import (
    GATES,
    Node,
    TrainConfig,
    all_through,
    distillation,
    independent,
    load_data,
    load_settings,
    models,
    run,
    run_all,
    trainer,
)  # fmt: skip
from ktglite.experiments import kept, runs
from ktglite.experiments.ablation import tidy
from ktglite.experiments.runs import load_records, run_key, run_until
from ktglite.pool import open_pool
from ktglite.store import from_checkout

A = Node("resnet18_w8")
CONFIG = TrainConfig(epochs=1, batch_size=8, augmentation="shift", precision="fp32", device="cpu")


def test_a_second_call_reads_the_record(tiny_data, tmp_path, monkeypatch):
    first = run(independent(A), tiny_data, CONFIG, 0, tmp_path)
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained twice"))
    assert run(independent(A), tiny_data, CONFIG, 0, tmp_path) == first
    assert load_records(tmp_path) == [first]
    for name in (
        "graph",
        "data",
        "config",
        "seed",
        "epochs",
        "test_accuracy",
        "seconds",
        "provenance",
    ):
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
        others = {
            "schedule": "cosine",
            "augmentation": "none",
            "precision": "bf16",
            "report": "best",
            "head": "new",
        }
        others["scale"] = "fresh"
        if field.name == "device":
            continue
        if field.name in others:
            other = others[field.name]
        else:
            other = not value if isinstance(value, bool) else value / 2 + 0.25
            other = 3 if isinstance(value, int) and not isinstance(value, bool) else other
        keys.add(
            run_key(graph, tiny_data, dataclasses.replace(CONFIG, **{field.name: other}), 0, base)
        )
    changed = dataclasses.replace(tiny_data, test=tiny_data.val, fingerprint="")
    keys |= {
        run_key(graph, tiny_data, CONFIG, 1, base),
        run_key(all_through(A, A), tiny_data, CONFIG, 0, base),
        run_key(graph, changed, CONFIG, 0, base),
        run_key(graph, tiny_data, CONFIG, 0, {"fractaldb1k resnet18_w8": "0"}),
    }
    assert (
        len(keys) == len(dataclasses.fields(TrainConfig)) + 4
    )  # all but the device, and the first key itself


def test_other_weights_are_another_run(tiny_data, tmp_path):
    graph, keys = independent(Node("resnet18_w8", "fractaldb1k")), set()
    for seed in (1, 2):
        state = models.initialise("resnet18_w8", "scratch", 3, seed).state_dict()
        save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
        keys.add(run(graph, tiny_data, CONFIG, 0, tmp_path / "runs", tmp_path)["key"])
    assert len(keys) == 2


def test_two_processes_give_the_numbers_of_one(tiny_data, tmp_path):
    graphs = {"a": independent(A), "b": all_through(A, A)}
    with open_pool(1) as one_place, open_pool(2) as two_places:
        one = run_all(graphs, tiny_data, CONFIG, [0, 1], tmp_path / "1" / "runs", pool=one_place)
        two = run_all(graphs, tiny_data, CONFIG, [0, 1], tmp_path / "2" / "runs", pool=two_places)
    assert [r["label"] for r in one] == ["a", "a", "b", "b"]
    assert [r["seed"] for r in one] == [0, 1, 0, 1]
    assert [r["key"] for r in one] == [r["key"] for r in two]
    assert [r["test_accuracy"] for r in one] == [r["test_accuracy"] for r in two]
    assert [r["epochs"][0]["edge_loss"] for r in one] == [r["epochs"][0]["edge_loss"] for r in two]
    lines = [
        json.loads(line) for line in (tmp_path / "2" / "progress.jsonl").read_text().splitlines()
    ]
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
            alive = [
                child.pid for child in multiprocessing.active_children() if child.pid not in before
            ]
            seen.extend(pid for pid in alive if pid not in seen)
            if alive and list(store.glob("*.ckpt")):
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])

    threading.Thread(target=work, daemon=True).start()
    return seen


def test_what_a_run_raises_names_the_run(tiny_data, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / f"runs/{runs.run_key(independent(A), tiny_data, CONFIG, 3, {})}.json").write_text(
        "{"
    )
    with pytest.raises(ValueError, match="not a readable record") as caught:
        run_all({"a": independent(A)}, tiny_data, CONFIG, [3], tmp_path / "runs")
    assert "run 'a', seed 3" in caught.value.__notes__[0]


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
    assert [e["train_loss"] for e in resumed["epochs"]] == [
        e["train_loss"] for e in whole["epochs"]
    ]


def test_a_killed_process_costs_its_own_run_only(tiny_data, tmp_path):
    graphs, config = (
        {"a": independent(A), "b": all_through(A, A)},
        dataclasses.replace(CONFIG, epochs=6),
    )
    seen = kill_workers(tmp_path / "runs", 1)
    with open_pool(2) as pool:
        found = run_all(graphs, tiny_data, config, [0], tmp_path / "runs", pool=pool)
        assert (
            len(pool._executors) == 3
        )  # two, and one in place of the killed: the other process went on
    assert len(seen) >= 2
    whole = [run(graph, tiny_data, config, 0, tmp_path / "whole") for graph in graphs.values()]
    assert [r["test_accuracy"] for r in found] == [r["test_accuracy"] for r in whole]
    losses = [[e["train_loss"] for r in records for e in r["epochs"]] for records in (found, whole)]
    assert losses[0] == losses[1]


def test_missing_or_wrong_weights_stop_it_before_anything_is_trained(tiny_data, tmp_path):
    class Untouched:
        def submit(self, *arguments):
            pytest.fail("started")

    graphs = {"none": independent(A), "x": independent(Node("resnet18_w8", "fractaldb1k"))}
    with pytest.raises(FileNotFoundError, match="ktglite pretrain"):
        run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "runs", tmp_path, Untouched())
    state = models.initialise("resnet18_w16", "scratch", 3, 0).state_dict()
    save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
    with pytest.raises(ValueError, match="do not fit the model"):
        run_all(graphs, tiny_data, CONFIG, [0], tmp_path / "runs", tmp_path, Untouched())


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dask_cluster_gives_the_numbers_of_one_process(
    tiny_data, tmp_path, monkeypatch, processes
):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    data = load_data("synthcars", 32, 60, cache="cache")
    graphs = {"a": independent(A), "b": all_through(A, A)}
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    options |= {"host": "127.0.0.1"} if processes else {}  # loopback alone
    with (
        distributed.LocalCluster(processes=processes, **options) as cluster,
        open_pool(dask=cluster.scheduler_address) as pool,
    ):
        for name, part in (("folder", data), ("tensors", tiny_data)):  # loaded there, or sent
            far = run_all(graphs, part, CONFIG, [0, 1], f"{name}/dask", pool=pool)
            near = [
                run(g, part, CONFIG, seed, f"{name}/here", label=a)
                for a, g in graphs.items()
                for seed in (0, 1)
            ]
            assert [(r["label"], r["seed"]) for r in far] == [
                ("a", 0),
                ("a", 1),
                ("b", 0),
                ("b", 1),
            ]
            assert [r["key"] for r in far] == [r["key"] for r in near]
            assert [r["test_accuracy"] for r in far] == [r["test_accuracy"] for r in near]
            assert [r["epochs"][0]["edge_loss"] for r in far] == [
                r["epochs"][0]["edge_loss"] for r in near
            ]
    assert len(list((tmp_path / "folder/dask").glob("*.json"))) == 4


def test_a_gate_with_another_body_is_another_run(tiny_data, monkeypatch):
    keys = set()
    for body in (
        lambda losses, correct, progress: losses.mean(),
        lambda losses, correct, progress: 2 * losses.mean(),
    ):
        monkeypatch.setitem(GATES, "mine", body)
        graph = distillation(A, A, gate="mine")
        keys.add(run_key(graph, tiny_data, CONFIG, 0, {}))
    assert len(keys) == 2
    monkeypatch.setattr(runs, "code_hash", lambda *modules: "another body of a gate of ours")
    assert run_key(independent(A), tiny_data, CONFIG, 0, {}) not in keys


def test_up_to_an_epoch_and_on(tiny_data, tmp_path):
    config, graph = dataclasses.replace(CONFIG, epochs=3), all_through(A, A)
    whole = run(graph, tiny_data, config, 0, tmp_path / "whole")
    where = tiny_data, config, 0, tmp_path / "parts", "data/weights"
    for epoch in (1, 2, 2):
        part = run_until(graph, *where, epoch)
        assert [e["train_loss"] for e in part] == [e["train_loss"] for e in whole["epochs"][:epoch]]
        assert len(list((tmp_path / "parts").glob("*.ckpt"))) == 1
        assert not list((tmp_path / "parts").glob("*.json"))
    assert [e["train_loss"] for e in run_until(graph, *where, 3)] == [
        e["train_loss"] for e in whole["epochs"]
    ]
    (record,) = load_records(tmp_path / "parts")
    assert record["test_accuracy"] == whole["test_accuracy"]
    assert not list((tmp_path / "parts").glob("*.ckpt"))


def test_new_weights_never_meet_an_old_checkpoint(tiny_data, tmp_path):
    """A search that is gone on with after pre-training anew under the same name begins this graph anew."""
    graph, config, losses = (
        independent(Node("resnet18_w8", "fractaldb1k")),
        dataclasses.replace(CONFIG, epochs=3),
        [],
    )
    for seed in (1, 2, 2):
        state = models.initialise("resnet18_w8", "scratch", 3, seed).state_dict()
        save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
        losses.append(
            run_until(graph, tiny_data, config, 0, tmp_path / "runs", tmp_path, 1)[0]["train_loss"]
        )
    assert losses[0] != losses[1] == losses[2]
    assert len(list((tmp_path / "runs").glob("*.ckpt"))) == 2


def test_a_network_that_is_kept_teaches_with_its_head(tiny_data, tmp_path):
    teacher = models.initialise("resnet18_w8", "scratch", 3, 5)
    path = save_network(teacher, tmp_path / "teacher.safetensors", tiny_data.classes)
    again = models.initialise("resnet18_w8", str(path), 3, 0, classes=tiny_data.classes)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), teacher.state_dict().values(), strict=True)
    )
    other = models.initialise("resnet18_w8", str(path), 3, 0, classes=("x", "y", "z"))
    assert not torch.equal(other.fc.weight, teacher.fc.weight)


PLAIN = """
import sys
import torch
from safetensors import safe_open
from torchvision.models import resnet18

folder, key = sys.argv[1:]
with safe_open(f"{folder}/{key}.node1.safetensors", "pt") as file:
    state, card = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["ktglite"]
net = resnet18(num_classes=3)
net.load_state_dict(state)
images, labels = torch.load(f"{folder}/test.pt")
mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
with torch.no_grad():
    found = net.eval()((images / 255 - mean) / std).argmax(1)
assert key in card
print(100 * (found == labels).sum().item() / len(labels))
"""


def test_a_fixed_teacher_with_a_random_head_is_told(tiny_data, tmp_path, caplog):
    """A start that knows other classes teaches noise, too; one that was trained on these images does not."""

    class NoPool:
        def submit(self, *arguments):
            (future := Future()).set_result(None)
            return future

    net = models.build("resnet18_w8", 3)
    known = kept.save_network(net, tmp_path / "known.safetensors", tiny_data.classes)
    other = kept.save_network(net, tmp_path / "other.safetensors", ["x", "y", "z"])
    graphs = {name: distillation(A, Node(A.arch, start)) for name, start in
              {"fresh": "scratch", "other": str(other), "known": str(known)}.items()}  # fmt: skip
    run_all(
        graphs | {"both learn": all_through(A, A)},
        tiny_data,
        CONFIG,
        [0],
        tmp_path / "runs",
        pool=NoPool(),
    )
    assert [record.message.split(":")[0] for record in caplog.records] == ["fresh", "other"]
    assert "node 2 never learns" in caplog.text


def test_a_kept_target_gives_its_accuracy_in_plain_torchvision(tiny_data, tmp_path):
    node = Node("resnet18")
    config = dataclasses.replace(CONFIG, epochs=2)
    record = run(all_through(node, node), tiny_data, config, 0, tmp_path, keep="target")
    torch.save((tiny_data.test.images, tiny_data.test.labels), tmp_path / "test.pt")
    command = [sys.executable, "-c", PLAIN, str(tmp_path), record["key"]]
    assert (
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        == record["test_accuracy"][0]
    )
    assert {path.name.partition(".")[2] for path in tmp_path.glob("*.safetensors")} == {
        "node1.safetensors", "logits.safetensors",
    }  # fmt: skip
    logits, labels = kept.read_logits(tmp_path / f"{record['key']}.logits.safetensors")
    found = kept.together(logits, labels)
    assert record["together"] == found
    row = tidy([record | {"label": "x/1"}], ["x"]).iloc[0]
    assert row[["ensemble", "agreement", "calibration_error"]].to_dict() == found
    assert found["ensemble"] == record["epochs"][-1]["test_ensemble"]
    answers = [z.argmax(1) for z in logits.values()]
    assert found["agreement"] == pytest.approx(
        100 * (answers[0] == answers[1]).double().mean().item()
    )
    assert 0 <= found["calibration_error"] <= 100


def test_the_network_that_comes_with_the_kit_answers_as_its_card_says():
    """Within three images of 1,440: it was trained and tested on one kind of processor, and may be read on another."""
    path = from_checkout("data/networks/table1-standin-all.safetensors")
    card, settings = kept.read_header(path), load_settings("02", "quick")
    data = settings.load_data()
    assert card["data"]["fingerprint"] == data.fingerprint
    net = models.initialise(settings.arch, str(path), len(data.classes), 0, classes=data.classes)
    found = trainer.accuracy(trainer.predict(net, data.test), data.test.labels)
    assert found == pytest.approx(card["test_accuracy"][0], abs=0.21)


def test_what_is_kept_can_be_asked_for_later(tiny_data, tmp_path, monkeypatch):
    """The record is there and the networks are not: trained again, to the same result, once."""
    first = run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    monkeypatch.setattr(
        kept, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt)
    )  # stopped before its end
    with pytest.raises(KeyboardInterrupt):
        run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path, keep="all")
    assert (
        run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path) == first
    )  # the record is still there
    monkeypatch.undo()
    again = run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path, keep="all")
    assert again["test_accuracy"] == first["test_accuracy"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # two networks and the logits
    assert run(all_through(A, A), tiny_data, CONFIG, 0, tmp_path, keep="all") == again
    start = models.initialise(
        "resnet18_w8", str(tmp_path / f"{again['key']}.node2.safetensors"), 3, 0, classes=()
    )
    assert start.conv1.weight.shape[0] == 8


def test_calibration_is_measured_by_the_gap_of_confidence_and_accuracy():
    sure, labels = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])
    found = kept.together({"node 1": sure}, labels)
    assert found["calibration_error"] == pytest.approx(50, abs=0.1)  # sure of all, right in half
    assert found["agreement"] != found["agreement"]  # NaN: there is nobody to agree with
    even = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert kept.together({"node 1": even}, labels)["calibration_error"] == pytest.approx(
        0, abs=1e-6
    )
