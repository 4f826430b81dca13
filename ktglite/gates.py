"""The four gates of the Knowledge Transfer Graph (Minami et al., ACCV 2020; paper, section 2).

A gate turns the per-sample losses of one edge into the scalar that the edge adds to its target's
loss::

    gate(losses, source_right, progress) -> scalar

- `losses`: Tensor (B,), the loss of every sample of the batch on this edge, >= 0.
- `source_right`: bool Tensor (B,), whether the *source* of the edge classified the sample
  correctly.
- `progress`: k / K in (0, 1], the 1-based training iteration k over the K iterations of the run.

>>> import torch
>>> losses, source_right = torch.tensor([1.0, 3.0]), torch.tensor([True, False])
>>> {name: gate(losses, source_right, 0.25).item() for name, gate in GATES.items()}
{'through': 2.0, 'cutoff': 0.0, 'linear': 0.5, 'correct': 0.5}
"""

from collections.abc import Callable

from torch import Tensor

__all__ = ["GATES"]

Gate = Callable[[Tensor, Tensor, float], Tensor]


def through(losses: Tensor, source_right: Tensor, progress: float) -> Tensor:
    """Let everything pass: the batch mean."""
    return losses.mean()


def cutoff(losses: Tensor, source_right: Tensor, progress: float) -> Tensor:
    """Let nothing pass: 0, as if there were no edge."""
    return losses.new_zeros(())


def linear(losses: Tensor, source_right: Tensor, progress: float) -> Tensor:
    """Open with time: k/K times the batch mean, exactly the mean at the last iteration."""
    return progress * losses.mean()


def correct(losses: Tensor, source_right: Tensor, progress: float) -> Tensor:
    """Let pass what the source knows: the mean over the *whole* batch, wrong samples counting 0."""
    return (losses * source_right).mean()


GATES: dict[str, Gate] = {
    "through": through,
    "cutoff": cutoff,
    "linear": linear,
    "correct": correct,
}
