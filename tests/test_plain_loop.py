"""What `epochs` does, step by step as a plain loop: protocol, optimizer, progress, views, splits."""

import copy
import dataclasses

import pytest
import torch
from test_trainer import CONFIG, A

from ktglite import Graph, epochs, initial_models, node_losses
from ktglite.data import Split, apply_views, draw_views, normalise
from ktglite.trainer import generator, learning_rate


def train_plainly(graph, data, config, seed, nets):
    """Two epochs of four batches of 8, in plain PyTorch; the learning rate of every iteration."""
    optimizers = [
        torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=0.05, nesterov=True)
        for net in nets
    ]
    rates = []
    for k in range(1, 9):
        epoch = (k - 1) // 4 + 1
        at = slice((k - 1) % 4 * 8, (k - 1) % 4 * 8 + 8)
        index = torch.randperm(32, generator=generator(seed, "order", epoch))[at]
        views = draw_views(32, 32, "shift", generator(seed, "augmentation", epoch))[at]
        images = apply_views(data.train.images[index], views)
        logits = [net.train()(images) for net in nets]
        labels = data.train.labels[index]
        node_losses(graph, logits, labels, k / 8, temperature=2.0).sum().backward()
        rate = learning_rate(config, epoch)
        if config.warmup:
            rate *= min(1, k / (4 * config.warmup))
        rates.append(rate)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
    return rates


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_training_is_what_a_plain_loop_does(tiny_data, warmup):
    graph = Graph((A, A), [["through", "linear"], ["correct", "through"]])
    config = dataclasses.replace(CONFIG, lr=0.01, weight_decay=0.05, temperature=2.0, warmup=warmup)
    # no other split has such labels
    val = Split(tiny_data.val.images, torch.zeros_like(tiny_data.val.labels))
    data = dataclasses.replace(tiny_data, val=val)
    nets = initial_models(graph, data, config, seed=3)
    plain = copy.deepcopy(nets)
    records = list(epochs(graph, data, config, 3, models=nets))
    rates = train_plainly(graph, data, config, 3, plain)
    assert rates[0] == learning_rate(config, 1) / (8 if warmup else 1)
    assert [record["lr"] for record in records] == [rates[3], rates[7]]
    for ours, theirs in zip(nets, plain, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-5)
    for split, name in ((data.val, "val_accuracy"), (data.test, "test_accuracy")):
        answers = plain[0].eval()(normalise(split.images)).argmax(1)
        right = (answers == split.labels).sum()
        assert round(records[-1][name][0] * len(split) / 100) == right
