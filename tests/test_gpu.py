"""What only a GPU can show: a step replayed as one CUDA graph does what the step itself does. Skipped without one."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from ktglite import (
    Graph,
    Node,
    TrainConfig,
    all_through,
    captured,
    epochs,
    independent,
    initial_models,
    trainer,
)
from ktglite.models import file_hash
from ktglite.sources.pretrain import PretrainConfig, pretrain
from ktglite.store import Checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

A = Node("resnet18_w8")
CONFIG = TrainConfig(
    epochs=4, batch_size=8, lr=0.02, augmentation="shift", precision="fp32", device="cuda"
)
EVERY_GATE = Graph(
    (A, A, A), [["through", "linear", "correct"], ["correct", "linear", "through"], ["cutoff"] * 3]
)
FIRST = PretrainConfig(
    "fractaldb1k", "resnet18_w8", size=32, render=40, epochs=2, images_per_epoch=64, batch_size=8, categories=8,
    lr=0.02, precision="fp32", device="cuda",
)  # fmt: skip


def train(graph, data, config=CONFIG, **given):
    """The records of all epochs, without their times."""
    found = list(epochs(graph, data, config, 0, **given))
    for record in found:
        del record["seconds"]
    return found


def agree(ours, theirs):
    for row, expected in zip(ours["edge_loss"], theirs["edge_loss"], strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_replayed_step_is_the_step(tiny_data, monkeypatch):
    """16 iterations, the last 13 replayed: gates, progress and learning rate must change in it."""
    replayed = train(EVERY_GATE, tiny_data)
    monkeypatch.setattr(captured, "MAX_CAPTURED_SIZE", 0)
    for ours, theirs in zip(replayed, train(EVERY_GATE, tiny_data), strict=True):
        assert ours["lr"] == theirs["lr"]
        agree(ours, theirs)


@pytest.mark.parametrize("size", [0, 128])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_streams_leave_every_bit_as_it_is(tiny_data, monkeypatch, precision, size):
    """With the step replayed, and without."""
    monkeypatch.setattr(captured, "MAX_CAPTURED_SIZE", size)
    config = dataclasses.replace(CONFIG, precision=precision)
    side_by_side = train(EVERY_GATE, tiny_data, config)
    monkeypatch.setattr(trainer, "node_streams", lambda nets, device: [None] * len(nets))
    assert side_by_side == train(EVERY_GATE, tiny_data, config)


def test_gpu_and_cpu_learn_the_same(tiny_data):
    config = dataclasses.replace(CONFIG, epochs=1, lr=0.001)
    on_cpu = dataclasses.replace(config, device="cpu")
    agree(*train(EVERY_GATE, tiny_data, config), *train(EVERY_GATE, tiny_data, on_cpu))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_bits_again_and_after_a_resume(tiny_data, tmp_path, precision):
    config = dataclasses.replace(CONFIG, precision=precision)
    whole = train(EVERY_GATE, tiny_data, config)
    assert whole == train(EVERY_GATE, tiny_data, config)
    checkpoint = Checkpoint(tmp_path / "run.ckpt", "key")
    next(killed := epochs(EVERY_GATE, tiny_data, config, 0, checkpoint=checkpoint))
    killed.close()
    assert whole == train(EVERY_GATE, tiny_data, config, checkpoint=checkpoint)


def test_a_fixed_teacher_stays_as_it_is(tiny_data):
    graph = Graph((A, A), [["through", "through"], ["cutoff", "cutoff"]])
    nets = initial_models(graph, tiny_data, CONFIG, 0)
    before = {name: value.clone() for name, value in nets[1].state_dict().items()}
    train(graph, tiny_data, models=nets)
    assert all(torch.equal(value, before[name]) for name, value in nets[1].state_dict().items())


def test_one_training_after_another_in_a_process(tiny_data):
    """The memory of a graph that is gone is not read by the next one."""
    first = train(all_through(A, A), tiny_data)
    train(independent(A), tiny_data)
    assert first == train(all_through(A, A), tiny_data)


def test_pretraining_as_a_graph(tmp_path, monkeypatch):
    path = pretrain(FIRST, tmp_path / "a", tmp_path)
    for name, config in {"b": FIRST, "c": dataclasses.replace(FIRST, threads=3)}.items():
        assert file_hash(path) == file_hash(pretrain(config, tmp_path / name, tmp_path))
    monkeypatch.setattr(captured, "MAX_CAPTURED_SIZE", 0)
    plain = pretrain(FIRST, tmp_path / "d", tmp_path)
    ours, theirs = load_file(path), load_file(plain)
    for name, value in ours.items():
        assert torch.allclose(value.float(), theirs[name].float(), rtol=1e-2, atol=1e-3), name
