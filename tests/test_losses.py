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


OPEN = two([["through"] * 2] * 2)


def mean(values):
    return pytest.approx(sum(values) / len(values), abs=1e-6)


def test_edges_by_hand():
    edges = edge_losses(OPEN, LOGITS, LABELS, 0.5)
    assert [edges[0, 0].item(), edges[1, 1].item()] == [mean(CE[0]), mean(CE[1])]
    assert [edges[0, 1].item(), edges[1, 0].item()] == [mean(KL[1, 0]), mean(KL[0, 1])]
    assert torch.equal(node_losses(OPEN, LOGITS, LABELS, 0.5), edges.sum(1))
    gated = two([["linear", "correct"], ["cutoff", "correct"]])
    edges = edge_losses(gated, LOGITS, LABELS, torch.tensor(0.25))  # or a number
    assert torch.equal(edges, edge_losses(gated, LOGITS, LABELS, 0.25))
    assert 4 * edges[0, 0].item() == mean(CE[0])
    # node 2 is right on the first sample only; the second one counts as 0 in a mean over both
    assert edges[0, 1].item() == mean([KL[1, 0][0], 0])
    assert edges[1, 0].item() == 0
    # on a label edge the source is the label, always right: Correct is Through there
    assert edges[1, 1].item() == mean(CE[1])


def test_the_transfer_losses_are_summed_and_mutual_averages_them():
    logits, labels = [torch.randn(4, 5) for _ in range(3)], torch.tensor([0, 1, 2, 3])
    edges = edge_losses(all_through(A, A, A), logits, labels, 1.0)
    averaged = node_losses(mutual(A, A, A), logits, labels, 1.0)
    expected = edges[0, 0] + (edges[0, 1] + edges[0, 2]) / 2
    assert averaged[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_temperature_softens_and_is_squared():
    soft = edge_losses(OPEN, LOGITS, LABELS, 1.0, temperature=3.0)
    expected = 9 * edge_losses(OPEN, [z / 3 for z in LOGITS], LABELS, 1.0)
    assert soft[0, 1].item() == pytest.approx(expected[0, 1].item(), rel=1e-5)
    assert soft[0, 0].item() == mean(CE[0])  # the labels know no temperature


def test_one_summed_backward_gives_the_gradients_of_one_backward_per_node():
    gates = [["through", "correct", "linear"], ["linear", "correct", "through"], ["through"] * 3]
    graph = Graph((A, A, A), gates)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    nets = [models.initialise("resnet18_w8", "scratch", 3, seed) for seed in range(3)]
    node_losses(graph, [net(images) for net in nets], labels, 0.4).sum().backward()
    losses = node_losses(graph, [net(images) for net in nets], labels, 0.4)
    for net, loss in zip(nets, losses, strict=True):
        parameters = list(net.parameters())
        own = torch.autograd.grad(loss, parameters, retain_graph=True)
        for gradient, parameter in zip(own, parameters, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("progress", [0, 1.1])
def test_progress_outside_its_range_is_refused(progress):
    with pytest.raises(ValueError, match="progress"):
        node_losses(OPEN, LOGITS, LABELS, progress)
