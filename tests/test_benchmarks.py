"""The scripts that measure must run, whatever they measure."""

import runpy
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def test_the_kit_s_step_and_a_plain_one_train_on_the_same_noise():
    script = runpy.run_path(SCRIPTS / "training_step.py")
    found = script["compare"]("resnet18_w8", 16, None, "fp32", 1)
    assert min(found.values()) > 0
