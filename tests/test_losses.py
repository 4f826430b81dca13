"""The losses by hand."""

import math

import pytest
import torch

from ktglite import Graph, Node, all_through, edge_losses, models, mutual, node_losses

A = Node("resnet18_w8")

# Two samples, two classes. Node 1 answers 0, 1; node 2 answers 0, 0; the labels are 0, 1.
LOGITS = [
    torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]]),
    torch.tensor([[math.log(4.0), 0.0], [math.log(4.0), 0.0]]),
]
LABELS = torch.tensor([0, 1])
P = [[(0.75, 0.25), (0.25, 0.75)], [(0.8, 0.2), (0.8, 0.2)]]  # softmax of LOGITS, by hand
CE = [[-math.log(P[i][b][LABELS[b]]) for b in range(2)] for i in range(2)]
KL = {
    (s, t): [
        sum(ps * math.log(ps / pt) for ps, pt in zip(P[s][b], P[t][b], strict=True))
        for b in range(2)
    ]
    for s, t in [(0, 1), (1, 0)]
}


def two(gates):
    return Graph((A, A), gates)


def test_through_is_cross_entropy_plus_kl_from_the_source():
    losses = node_losses(two([["through"] * 2] * 2), LOGITS, LABELS, 0.5)
    assert losses[0].item() == pytest.approx(sum(CE[0]) / 2 + sum(KL[1, 0]) / 2, abs=1e-6)
    assert losses[1].item() == pytest.approx(sum(CE[1]) / 2 + sum(KL[0, 1]) / 2, abs=1e-6)


def test_cutoff_linear_and_correct_edges():
    edges = edge_losses(two([["linear", "correct"], ["cutoff", "correct"]]), LOGITS, LABELS, 0.25)
    assert edges[0, 0].item() == pytest.approx(0.25 * sum(CE[0]) / 2, abs=1e-6)
    # node 2 is right on the first sample only; the second one counts as 0 in a mean over both
    assert edges[0, 1].item() == pytest.approx(KL[1, 0][0] / 2, abs=1e-6)
    assert edges[1, 0].item() == 0
    # on a label edge the source is the label, always right: Correct is Through there
    assert edges[1, 1].item() == pytest.approx(sum(CE[1]) / 2, abs=1e-6)


def test_linear_is_exactly_through_at_the_last_iteration():
    open_, linear = ["through"] * 2, ["linear"] * 2
    assert torch.equal(
        node_losses(two([open_, open_]), LOGITS, LABELS, 0.1),
        node_losses(two([linear, linear]), LOGITS, LABELS, 1.0),
    )


def test_the_transfer_losses_are_summed_and_mutual_averages_them():
    logits = [torch.randn(4, 5) for _ in range(3)]
    labels = torch.tensor([0, 1, 2, 3])
    edges = edge_losses(all_through(A, A, A), logits, labels, 1.0)
    mean = node_losses(mutual(A, A, A), logits, labels, 1.0)
    assert mean[0].item() == pytest.approx(
        (edges[0, 0] + (edges[0, 1] + edges[0, 2]) / 2).item(), rel=1e-5
    )


def test_temperature_softens_and_is_squared():
    soft = edge_losses(two([["through"] * 2] * 2), LOGITS, LABELS, 1.0, temperature=3.0)
    expected = 9 * edge_losses(two([["through"] * 2] * 2), [z / 3 for z in LOGITS], LABELS, 1.0)
    assert soft[0, 1].item() == pytest.approx(expected[0, 1].item(), rel=1e-5)
    assert soft[0, 0].item() == pytest.approx(
        sum(CE[0]) / 2, abs=1e-6
    )  # the labels know no temperature


def test_one_summed_backward_gives_the_gradients_of_one_backward_per_node():
    graph = Graph(
        (A, A, A),
        [["through", "correct", "linear"], ["linear", "correct", "through"], ["through"] * 3],
    )
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(0)
    nets = [models.initialise("resnet18_w8", "scratch", 3, seed) for seed in range(3)]
    node_losses(graph, [net(images) for net in nets], labels, 0.4).sum().backward()
    summed = [[p.grad.clone() for p in net.parameters()] for net in nets]
    losses = node_losses(graph, [net(images) for net in nets], labels, 0.4)
    for net, loss, expected in zip(nets, losses, summed, strict=True):
        own = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
        for a, b in zip(own, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_progress_outside_its_range_is_refused():
    for progress in (0, 1.1):
        with pytest.raises(ValueError, match="progress"):
            node_losses(two([["through"] * 2] * 2), LOGITS, LABELS, progress)


def test_progress_may_be_a_tensor():
    graph = two([["linear", "correct"], ["through", "linear"]])
    assert torch.equal(
        edge_losses(graph, LOGITS, LABELS, 0.25),
        edge_losses(graph, LOGITS, LABELS, torch.tensor(0.25)),
    )
