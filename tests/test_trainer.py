"""The loop that trains a graph."""

import copy
import dataclasses
import json
import math
from itertools import cycle

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ktglite import (
    Graph,
    Node,
    TrainConfig,
    all_through,
    distillation,
    epochs,
    independent,
    initial_models,
    trainer,
)
from ktglite.captured import captured, restore
from ktglite.data import Data, Split
from ktglite.store import Checkpoint
from ktglite.trainer import learning_rate

A = Node("resnet18_w8")
PAIR = all_through(A, A)
CONFIG = TrainConfig(
    epochs=2, batch_size=8, lr=0.05, augmentation="shift", precision="fp32", device="cpu"
)


def train(graph, data, seed=0, models=None, checkpoint=None, **changes):
    """The records of all epochs, without their times."""
    config = dataclasses.replace(CONFIG, **changes)
    found = list(epochs(graph, data, config, seed, models=models, checkpoint=checkpoint))
    for record in found:
        del record["seconds"]
    return found


class HostReads(TorchDispatchMode):
    """Counts how often a number is read out of a tensor: a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_the_host_reads_nothing_inside_an_epoch(tiny_data):
    graph = Graph((A, A), [["linear", "correct"], ["correct", "through"]])
    counts = []
    for size in (16, 4):  # 2 and 8 iterations an epoch
        with HostReads() as reads:
            next(epochs(graph, tiny_data, dataclasses.replace(CONFIG, batch_size=size), seed=0))
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_a_step_is_captured_on_a_gpu_at_small_sizes_only():
    assert captured(len, torch.device("cpu"), 32) is len
    assert captured(len, torch.device("cuda"), 224) is len


def test_a_restored_optimizer_keeps_its_learning_rate_where_a_captured_step_reads_it():
    """A CPU saves a number; on a GPU the rate is a tensor, whose address was captured."""
    weight = torch.nn.Parameter(torch.ones(2))
    saved = torch.optim.SGD([weight], 0.5, momentum=0.9, fused=True)
    weight.grad = torch.ones(2)
    saved.step()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([weight], rate, momentum=0.9, fused=True)
    restore(optimizer, saved.state_dict())
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.ones(2))


def test_records_are_complete_and_the_same_for_the_same_seed(tiny_data):
    first = train(PAIR, tiny_data, seed=3)
    assert first == train(PAIR, tiny_data, seed=3) != train(PAIR, tiny_data, seed=4)
    assert [record["epoch"] for record in first] == [1, 2]
    assert "test_accuracy" not in first[0]
    last = first[-1]
    for name in ("train_loss", "train_accuracy", "val_accuracy", "test_accuracy"):
        assert len(last[name]) == 2
    percent = last["test_accuracy"] + [last["val_ensemble"], last["test_ensemble"]]
    assert all(0 <= value <= 100 for value in percent)
    assert last["train_loss"][0] == pytest.approx(sum(last["edge_loss"][0]), rel=1e-5)


def test_test_images_are_looked_at_once_after_the_last_epoch(tiny_data, monkeypatch):
    seen = []
    real = trainer.predict
    monkeypatch.setattr(
        trainer, "predict", lambda net, split, *a: seen.append(split) or real(net, split, *a)
    )
    records = epochs(independent(A), tiny_data, CONFIG, seed=0)
    next(records)
    assert not any(split is tiny_data.test for split in seen)
    list(records)
    assert sum(split is tiny_data.test for split in seen) == 1


def test_a_fixed_teacher_is_bit_identical_after_training(tiny_data):
    graph = distillation(A, A)
    models = initial_models(graph, tiny_data, CONFIG, seed=1)
    student, teacher = copy.deepcopy([net.state_dict() for net in models])
    train(graph, tiny_data, 1, models)
    for name, value in models[1].state_dict().items():  # BatchNorm statistics included
        assert torch.equal(teacher[name], value), name
    assert not torch.equal(student["conv1.weight"], models[0].conv1.weight)


def test_leaving_out_a_node_nobody_hears_does_not_change_the_target(tiny_data):
    gates = [["through", "through", "cutoff"], ["through", "through", "cutoff"], ["through"] * 3]
    with_dead = train(Graph((A, A, A), gates), tiny_data)[-1]
    without = train(PAIR, tiny_data)[-1]
    assert with_dead["test_accuracy"][:2] == without["test_accuracy"]
    assert with_dead["train_loss"] == [*without["train_loss"], None]


@pytest.mark.parametrize("graph", [PAIR, independent(Node("squeezenet1_1"))])  # it has dropout
def test_an_interrupted_training_resumes_to_the_same_records(tiny_data, tmp_path, graph):
    few = {"epochs": 3, "lr": 0.01}
    torch.manual_seed(1)
    whole = train(graph, tiny_data, **few)
    checkpoint = Checkpoint(tmp_path / "c.ckpt", "key")
    config = dataclasses.replace(CONFIG, **few)
    interrupted = epochs(graph, tiny_data, config, seed=0, checkpoint=checkpoint)
    next(interrupted)
    interrupted.close()
    torch.manual_seed(2)  # whatever happened before in this process
    assert train(graph, tiny_data, checkpoint=checkpoint, **few) == whole


def test_best_reports_the_epoch_with_the_best_validation_accuracy(tiny_data):
    records = train(independent(A), tiny_data, epochs=4, report="best")
    values = [record["val_accuracy"][0] for record in records]
    assert records[-1]["reported_epoch"] == values.index(max(values)) + 1


def test_schedules():
    step = TrainConfig(epochs=10, lr=1.0)
    rates = [learning_rate(step, e) for e in range(1, 11)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])
    cosine = TrainConfig(epochs=10, lr=1.0, schedule="cosine")
    assert [learning_rate(cosine, e) for e in (1, 6)] == pytest.approx([1, 0.5])


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("epochs", "3", ": it must be a whole number"),
        ("epochs", 2.5, ": it must be a whole number"),
        ("epochs", True, ": it must be a whole number"),
        ("lr", "0.1", ": it must be a number"),
        ("nesterov", "false", ": it must be True or False"),
        ("schedule", "steps", ""),
        ("epochs", 0, ""),
        ("precision", "fp8", ""),
        ("temperature", 0, ""),
        ("lr", -1, ""),
    ],
)
def test_bad_settings_are_named(setting, value, words):
    with pytest.raises(ValueError, match=f"{setting} is {value!r}{words}"):
        TrainConfig(**{setting: value})


def test_numbers_become_python_s_own():
    config = TrainConfig(epochs=np.int64(3), temperature=4)
    assert json.dumps(dataclasses.asdict(config))
    assert type(config.temperature) is float


MIXED = all_through(A, Node("resnet18_w16"), Node("mobilenet_v3_small"), A)


@pytest.mark.parametrize(
    ("graph", "precision", "images"), [(MIXED, "fp32", 32), (PAIR, "bf16", 32), (PAIR, "fp32", 6)]
)
def test_what_trains_too(tiny_data, graph, precision, images):
    """Several architectures, bf16, and fewer images than a batch."""
    few = Split(tiny_data.train.images[:images], tiny_data.train.labels[:images])
    data = Data("few", 32, tiny_data.classes, few, tiny_data.val, tiny_data.test)
    (last,) = train(graph, data, epochs=1, precision=precision)
    assert len(last["test_accuracy"]) == graph.size
    assert all(0 < loss < math.inf for loss in last["train_loss"])


def test_nodes_start_apart_and_an_ensemble_of_one_is_the_node(tiny_data):
    first, second = initial_models(PAIR, tiny_data, CONFIG, seed=0)
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    alone = train(independent(A), tiny_data)[-1]
    assert alone["test_ensemble"] == alone["test_accuracy"][0]


def test_an_ensemble_is_the_mean_of_the_softmaxes(tiny_data, monkeypatch):
    """Two nodes that are rather sure outvote one that is very sure, as its logits would not."""
    answers = cycle(torch.tensor([[20.0, 0, 0], [0, 5, 0], [0, 5, 0]]))
    monkeypatch.setattr(
        trainer, "predict", lambda net, split, *a: next(answers).expand(len(split), 3)
    )
    ones = Split(tiny_data.test.images, torch.ones_like(tiny_data.test.labels))
    last = train(all_through(A, A, A), dataclasses.replace(tiny_data, test=ones), epochs=1)[-1]
    assert last["test_accuracy"] == [0, 100, 100]
    assert last["test_ensemble"] == 100


def test_an_epoch_computes_as_its_settings_say_and_restores_the_rest(tiny_data, monkeypatch):
    seen, real, cudnn = [], trainer._step, torch.backends.cudnn

    def numerics():
        algorithms = torch.are_deterministic_algorithms_enabled()
        return cudnn.deterministic, cudnn.allow_tf32, algorithms

    monkeypatch.setattr(trainer, "_step", lambda *a: seen.append(numerics()) or real(*a))
    before = numerics()
    train(independent(A), tiny_data, epochs=1)
    assert numerics() == before
    train(independent(A), tiny_data, epochs=1, deterministic=False, tf32=True)
    assert seen == [(True, False, True)] * 4 + [(False, True, before[2])] * 4
