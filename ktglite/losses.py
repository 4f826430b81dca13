"""The losses of the Knowledge Transfer Graph (Minami et al., ACCV 2020; paper, section 2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ktglite.gates import GATES
from ktglite.graph import Graph

__all__ = ["edge_losses", "node_losses"]


def edge_losses(
    graph: Graph,
    logits: Sequence[Tensor | None],
    labels: Tensor,
    progress: float | Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """The gated loss on every edge, Tensor (N, N), row t and column s as in `graph.gates[t][s]`.

    Diagonal: gate(CE(logits_t, y)). Elsewhere: T^2 gate(KL(p_s || p_t)) times the graph's transfer
    weight, softmax at temperature T, the source detached.

    Args:
        logits: N tensors (B, C); None for a node that is not run, whose edges then count 0.
        labels: int64 (B,).
        progress: k / K in (0, 1], k the 1-based iteration of the K of the whole run; a Tensor ()
            on the device is taken unchecked, since looking at it would make the host wait.

    Raises:
        ValueError: for a progress outside (0, 1].

    >>> from ktglite.graph import Node, all_through
    >>> sure, unsure = torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> graph = all_through(Node("resnet18"), Node("resnet18"))
    >>> edge_losses(graph, [unsure, sure], torch.tensor([0]), progress=1.0)
    tensor([[0.6931, 0.6931],
            [9.3069, 0.0000]])
    """
    if not isinstance(progress, Tensor) and not 0 < progress <= 1:
        raise ValueError(f"progress is {progress}: it must be k / K in (0, 1]")
    run = [i for i, z in enumerate(logits) if z is not None]
    log_p = {i: F.log_softmax(logits[i].float() / temperature, dim=1) for i in run}
    right = {i: logits[i].argmax(1) == labels for i in run}
    zero = logits[run[0]].new_zeros((), dtype=torch.float32)
    rows = [[zero] * graph.size for _ in range(graph.size)]
    for t in run:
        for s in graph.sources(t):
            gate = GATES[graph.gates[t][s]]
            if s == t:  # the source of a label edge is the label itself: always right
                losses = F.cross_entropy(logits[t].float(), labels, reduction="none")
                rows[t][s] = gate(losses, torch.ones_like(right[t]), progress)
            elif s in log_p:
                log_p_s = log_p[s].detach()  # the edge changes its target only
                losses = temperature**2 * (log_p_s.exp() * (log_p_s - log_p[t])).sum(1)
                rows[t][s] = graph.transfer_weight * gate(losses, right[s], progress)
    return torch.stack([torch.stack(row) for row in rows])


def node_losses(
    graph: Graph,
    logits: Sequence[Tensor | None],
    labels: Tensor,
    progress: float | Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """L_t, the sum over the edges into node t; Tensor (N,). Arguments as in `edge_losses`.

    Sources are detached, so the gradient of the sum over t is every node's own gradient at once.

    >>> from ktglite.graph import Node, independent
    >>> unsure = torch.tensor([[0.0, 0.0]])
    >>> graph = independent(Node("resnet18"), Node("resnet18"))
    >>> node_losses(graph, [unsure, unsure], torch.tensor([0]), 1.0)
    tensor([0.6931, 0.6931])
    """
    return edge_losses(graph, logits, labels, progress, temperature).sum(dim=1)
