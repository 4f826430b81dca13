"""Every gate against arithmetic done by hand."""

import pytest
import torch

from ktglite.gates import GATES

LOSSES = torch.tensor([1.0, 2.0, 6.0, 3.0])
CORRECT = torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("through", 0.5, 3.0),  # (1 + 2 + 6 + 3) / 4
        ("cutoff", 0.5, 0.0),
        ("linear", 0.25, 0.75),  # a quarter of the mean
        ("linear", 1.0, 3.0),  # exactly open at the last iteration
        (
            "correct",
            0.5,
            1.75,
        ),  # (1 + 6) / 4: over the whole batch, not over the two correct samples
    ],
)
def test_value(name, progress, expected):
    assert GATES[name](LOSSES, CORRECT, progress).item() == expected


def test_the_papers_four_come_first():
    assert list(GATES)[:4] == ["through", "cutoff", "linear", "correct"]


@pytest.mark.parametrize("name", GATES)
def test_order_of_the_samples_does_not_matter(name):
    order = torch.tensor([2, 0, 3, 1])
    shuffled = GATES[name](LOSSES[order], CORRECT[order], 0.3)
    torch.testing.assert_close(shuffled, GATES[name](LOSSES, CORRECT, 0.3))


@pytest.mark.parametrize("name", GATES)
def test_no_gate_amplifies(name):
    assert 0 <= GATES[name](LOSSES, CORRECT, 0.7) <= LOSSES.mean()
