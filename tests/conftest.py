"""Small data for every test: random 32 px images of three classes that differ in mean colour."""

import math
import os

import hypothesis
import pytest
import torch

from ktglite import GATES
from ktglite.data import Data, Split
from ktglite.experiments import runs

SLOW = [hypothesis.HealthCheck.too_slow]  # a busy machine is no fault
hypothesis.settings.register_profile(
    "fast",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=SLOW,
)
hypothesis.settings.register_profile(
    "soak", deadline=None, max_examples=1000, database=None, suppress_health_check=SLOW
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def random_split(n: int, seed: int, size: int = 32) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 200, (n, 3, size, size), generator=generator)
    images[torch.arange(n), labels] += 55
    return Split(images.to(torch.uint8), labels)


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    return Data(
        "random", 32, ("a", "b", "c"), random_split(32, 0), random_split(12, 1), random_split(12, 2)
    )


@pytest.fixture(autouse=True)
def every_epoch_is_kept(monkeypatch):
    """Epochs of tests are so short that saving one takes more than its share."""
    monkeypatch.setattr(runs, "CHECKPOINT_TIME_SHARE", math.inf)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def gates_as_they_were():
    """A gate that a test adds or takes away leaves no trace, not even in the table's order."""
    gates = dict(GATES)
    yield
    GATES.clear()
    GATES.update(gates)


@pytest.fixture
def four_gates(monkeypatch):
    """The four gates of the paper alone: numbers and words depend on how many there are."""
    for name in set(GATES) - {"through", "cutoff", "linear", "correct"}:
        monkeypatch.delitem(GATES, name)
