"""The node losses by hand, and the loop that trains a graph."""

import copy
import dataclasses
import json
import math

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
from ktglite.data import Data, Split, augment
from ktglite.store import Checkpoint
from ktglite.trainer import learning_rate

A = Node("resnet18_w8")
CONFIG = TrainConfig(
    epochs=2, batch_size=8, lr=0.05, augmentation="shift", precision="fp32", device="cpu"
)


class HostReads(TorchDispatchMode):
    """Counts how often a number is read out of a tensor, for which a GPU would have to be waited for."""

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
    """A CPU saves a number; on a GPU the rate is a tensor, and must stay the one whose address was captured."""
    weight = torch.nn.Parameter(torch.ones(2))
    saved = torch.optim.SGD([weight], 0.5, momentum=0.9, fused=True)
    weight.grad = torch.ones(2)
    saved.step()
    rate = torch.tensor(0.1)
    optimizer = torch.optim.SGD([weight], rate, momentum=0.9, fused=True)
    restore(optimizer, saved.state_dict())
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.ones(2))


def without_seconds(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_records_are_complete_and_the_same_for_the_same_seed(tiny_data):
    graph = all_through(A, A)
    first, again = (without_seconds(epochs(graph, tiny_data, CONFIG, seed=3)) for _ in range(2))
    assert first == again
    assert [record["epoch"] for record in first] == [1, 2]
    assert "test_accuracy" not in first[0]
    last = first[-1]
    for name in ("train_loss", "train_accuracy", "val_accuracy", "test_accuracy"):
        assert len(last[name]) == 2
    assert all(0 <= last[name] <= 100 for name in ("val_ensemble", "test_ensemble"))
    assert last["train_loss"][0] == pytest.approx(sum(last["edge_loss"][0]), rel=1e-5)
    assert all(0 <= a <= 100 for a in last["test_accuracy"])
    assert without_seconds(epochs(graph, tiny_data, CONFIG, seed=4)) != first


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


def test_training_learns_something(tiny_data):
    config = dataclasses.replace(CONFIG, epochs=12, schedule="cosine", augmentation="none")
    last = list(epochs(independent(A), tiny_data, config, seed=0))[-1]
    assert last["train_accuracy"][0] > 70
    assert last["test_accuracy"][0] > 50  # three classes: chance is 33


def test_a_graph_of_cut_off_edges_is_plain_single_training(tiny_data):
    config = dataclasses.replace(
        CONFIG, nesterov=False, weight_decay=0.0, momentum=0.0, augmentation="none"
    )
    records = list(epochs(independent(A, A), tiny_data, config, seed=5))
    net = initial_models(independent(A), tiny_data, config, seed=5)[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=config.lr)
    for epoch in (1, 2):
        optimizer.param_groups[0]["lr"] = learning_rate(config, epoch)
        order = torch.randperm(32, generator=trainer.generator(5, "order", epoch))
        losses = []
        for index in order.split(8):
            images = augment(tiny_data.train.images[index], "none", None)
            loss = torch.nn.functional.cross_entropy(net(images), tiny_data.train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert records[epoch - 1]["train_loss"][0] == pytest.approx(sum(losses) / 4, rel=1e-4)
    assert records[0]["train_loss"][1] is None  # nobody hears node 2, so it is not run


def test_fixed_teacher_is_bit_identical_after_training(tiny_data):
    graph = distillation(A, A)
    models = initial_models(graph, tiny_data, CONFIG, seed=1)
    before = copy.deepcopy([net.state_dict() for net in models])
    list(epochs(graph, tiny_data, CONFIG, seed=1, models=models))
    after = [net.state_dict() for net in models]
    assert all(
        torch.equal(before[1][name], after[1][name]) for name in before[1]
    )  # BatchNorm statistics included
    assert not torch.equal(before[0]["conv1.weight"], after[0]["conv1.weight"])


def test_leaving_out_a_node_nobody_hears_does_not_change_the_target(tiny_data):
    cut = Graph(
        (A, A, A),
        [["through", "through", "cutoff"], ["through", "through", "cutoff"], ["through"] * 3],
    )
    with_dead = list(epochs(cut, tiny_data, CONFIG, seed=2))
    without = list(epochs(all_through(A, A), tiny_data, CONFIG, seed=2))
    assert with_dead[-1]["test_accuracy"][:2] == without[-1]["test_accuracy"]
    assert with_dead[-1]["train_loss"][:2] == without[-1]["train_loss"]


def test_an_interrupted_training_resumes_to_the_same_records(tiny_data, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=3)
    whole = without_seconds(epochs(all_through(A, A), tiny_data, config, seed=0))
    interrupted = epochs(
        all_through(A, A),
        tiny_data,
        config,
        seed=0,
        checkpoint=Checkpoint(tmp_path / "c.ckpt", "key"),
    )
    next(interrupted)
    interrupted.close()
    resumed = without_seconds(
        epochs(
            all_through(A, A),
            tiny_data,
            config,
            seed=0,
            checkpoint=Checkpoint(tmp_path / "c.ckpt", "key"),
        )
    )
    assert resumed == whole


def test_best_reports_the_epoch_with_the_best_validation_accuracy(tiny_data):
    config = dataclasses.replace(CONFIG, epochs=4, report="best")
    records = list(epochs(independent(A), tiny_data, config, seed=0))
    values = [record["val_accuracy"][0] for record in records]
    assert records[-1]["reported_epoch"] == values.index(max(values)) + 1


def test_a_diverging_run_stops_and_names_the_edge(tiny_data):
    config = dataclasses.replace(CONFIG, lr=1e30, epochs=3, schedule="constant")
    with pytest.raises(FloatingPointError, match=r"edge .* in epoch \d+, iteration \d+"):
        list(epochs(all_through(A, A), tiny_data, config, seed=0))


def test_schedules():
    step = TrainConfig(epochs=10, lr=1.0)
    rates = [learning_rate(step, e) for e in range(1, 11)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])
    cosine = TrainConfig(epochs=10, lr=1.0, schedule="cosine")
    assert learning_rate(cosine, 1) == 1
    assert learning_rate(cosine, 6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("epochs", "3", "a whole number"),
        ("epochs", 2.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("lr", "0.1", "a number"),
        ("nesterov", "false", "True or False"),
    ],
)
def test_settings_of_another_type_are_named(setting, value, words):
    with pytest.raises(ValueError, match=f"{setting} is {value!r}: it must be {words}"):
        TrainConfig(**{setting: value})


def test_numbers_become_python_s_own():
    config = TrainConfig(epochs=np.int64(3), temperature=4)
    assert json.dumps(dataclasses.asdict(config))
    assert type(config.temperature) is float


@pytest.mark.parametrize(
    ("setting", "value"),
    [("schedule", "steps"), ("epochs", 0), ("precision", "fp8"), ("temperature", 0), ("lr", -1)],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=setting):
        TrainConfig(**{setting: value})


def test_nodes_may_differ_in_architecture_and_number(tiny_data):
    graph = all_through(A, Node("resnet18_w16"), Node("mobilenet_v3_small"), A)
    config = dataclasses.replace(CONFIG, epochs=1)
    assert len(list(epochs(graph, tiny_data, config, seed=0))[-1]["test_accuracy"]) == 4


def test_bf16_trains(tiny_data):
    config = dataclasses.replace(CONFIG, precision="bf16", epochs=1)
    assert math.isfinite(
        list(epochs(all_through(A, A), tiny_data, config, seed=0))[-1]["train_loss"][0]
    )


def test_fewer_images_than_a_batch_still_train(tiny_data):
    few = Split(tiny_data.train.images[:6], tiny_data.train.labels[:6])
    data = Data("few", 32, tiny_data.classes, few, tiny_data.val, tiny_data.test)
    assert list(epochs(independent(A), data, CONFIG, seed=0))[-1]["train_loss"][0] > 0


def test_an_ensemble_is_the_mean_of_the_softmaxes(tiny_data):
    models = initial_models(all_through(A, A), tiny_data, CONFIG, seed=0)
    last = list(epochs(all_through(A, A), tiny_data, CONFIG, seed=0, models=models))[-1]
    mean = sum(trainer.predict(net, tiny_data.test).softmax(1) for net in models)
    assert last["test_ensemble"] == trainer.accuracy(mean, tiny_data.test.labels)
    alone = list(epochs(independent(A), tiny_data, CONFIG, seed=0))[-1]
    assert alone["test_ensemble"] == alone["test_accuracy"][0]


def test_nodes_of_one_architecture_start_apart(tiny_data):
    first, second = initial_models(all_through(A, A), tiny_data, CONFIG, seed=0)
    assert not torch.equal(first.conv1.weight, second.conv1.weight)


def test_an_epoch_computes_as_its_settings_say_and_restores_the_rest(tiny_data, monkeypatch):
    seen, real = [], trainer._step
    cudnn = torch.backends.cudnn

    def spy(*arguments):
        seen.append(
            (cudnn.deterministic, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())
        )
        return real(*arguments)

    monkeypatch.setattr(trainer, "_step", spy)
    before = (cudnn.deterministic, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())
    next(epochs(independent(A), tiny_data, CONFIG, seed=0))
    assert (
        cudnn.deterministic,
        cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    ) == before
    next(
        epochs(
            independent(A),
            tiny_data,
            dataclasses.replace(CONFIG, deterministic=False, tf32=True),
            seed=0,
        )
    )
    assert seen == [(True, False, True)] * 4 + [(False, True, before[2])] * 4


def test_dropout_draws_the_same_in_an_epoch_that_is_resumed(tiny_data, tmp_path):
    graph = independent(Node("squeezenet1_1"))
    data = dataclasses.replace(tiny_data)

    def train(name, epochs_at_once):
        checkpoint = Checkpoint(tmp_path / name, "key")
        for stop in epochs_at_once:
            torch.manual_seed(stop)  # whatever happened before in this process
            for record in epochs(graph, data, CONFIG, 0, checkpoint=checkpoint):
                if record["epoch"] == stop:
                    break
        return record["train_loss"]

    assert train("whole", [2]) == train("parts", [1, 2])
