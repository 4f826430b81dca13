"""The scripts that measure must run, whatever they measure."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd

from ktglite.experiments.bench import Benchmark
from ktglite.graph import Graph, Node

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


def test_the_kit_s_step_and_a_plain_one_train_on_the_same_noise():
    script = runpy.run_path(SCRIPTS / "training_step.py")
    found = script["compare"]("resnet18_w8", 16, None, "fp32", 1)
    assert min(found.values()) > 0


def test_a_rung_is_judged_among_graphs_as_often_as_the_space_has_them():
    script = runpy.run_path(SCRIPTS / "asha_study.py")
    starts = ["fractaldb1k"] * 4 + ["scratch"] * 4 + ["scratch"] * 8
    graphs = [Graph([Node("resnet18_w8", start)], [["through"]]) for start in starts]
    final = np.array([6, 7, 8, 9, 5, 5, 5, 5] + [99] * 8)  # the last eight are never drawn
    val = np.stack([np.arange(16), final], axis=1).astype(float)
    runs = pd.DataFrame({"weight": [1.0] * 8 + [0.0] * 8})
    table = Benchmark(graphs, runs, val, val, {})
    found = script["early_rungs"](table, [1], 8).set_index("target")
    assert found.n.to_dict() == {"scratch": 4, "fractaldb1k": 4}
    assert found.deserved.to_dict() == {"scratch": 0.0, "fractaldb1k": 100.0}
    assert (found.loc["scratch", ["passed", "low"]] > 50).all()  # they begin better
    assert found.verdict.to_dict() == {"scratch": "favoured", "fractaldb1k": "held back"}
