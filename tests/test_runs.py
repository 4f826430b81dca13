"""Run once and remember: keys, records, resuming, processes."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from ktglite import Data, Node, TrainConfig, all_through, independent, models, run, run_all, runs
from ktglite.runs import load_records, read_record, run_key, write_json

A = Node("resnet18_tiny")
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
        run_key(graph, tiny_data, CONFIG, 0, {"fractaldb1k resnet18_tiny": "0"}),
    }
    assert len(keys) == len(dataclasses.fields(TrainConfig)) + 4


def test_other_weights_are_another_run(tiny_data, tmp_path):
    graph, keys = independent(Node("resnet18_tiny", "fractaldb1k")), set()
    for seed in (1, 2):
        state = models.initialise("resnet18_tiny", "scratch", 3, seed).state_dict()
        save_file(state, tmp_path / "fractaldb1k-resnet18_tiny.safetensors")
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
