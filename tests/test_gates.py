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
        ("correct", 0.5, 1.75),  # (1 + 6) / 4: over the whole batch
    ],
)
def test_value(name, progress, expected):
    assert GATES[name](LOSSES, CORRECT, progress).item() == expected


def test_the_papers_four_come_first():
    assert list(GATES)[:4] == ["through", "cutoff", "linear", "correct"]
