"""The explorer's page says of a graph what the package computes, and shows what was recorded."""

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import explorer_page as pages
import numpy as np
import pandas as pd
import pytest

from ktglite.experiments.ablation import read_runs
from ktglite.experiments.bench import Benchmark
from ktglite.gates import GATES
from ktglite.graph import Graph, Node

ROOT = Path(__file__).parents[1]
READ = """
const page = require(process.argv[1]);
const starts = JSON.parse(process.argv[2]);
const graphs = JSON.parse(require("fs").readFileSync(0, "utf-8")).map((text) => page.parse(text, starts));
"""
SAY = """
const say = (g) => ({
  address: page.address(g, starts), reaching: page.reaching(g), formulas: page.formulas(g),
  kinds: Object.keys(page.KINDS).filter((kind) => page.KINDS[kind](g)),
  words: ["en", "ja"].map((lang) => `${page.influence(g, lang)} ${page.verdict(g, lang)}`),
  apart: graphs.map((other) => page.differences(g, other, "en", (start) => start))});
console.log(JSON.stringify(graphs.map(say)));
"""
STARTS = ("scratch", "fractaldb1k", "teacher")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def random_graphs(count):
    rng = random.Random(0)
    found = []
    while len(found) < count:
        nodes = [Node("resnet18", rng.choice(STARTS)) for _ in range(3)]
        gates = [[rng.choice(tuple(GATES)) for _ in range(3)] for _ in range(3)]
        if set(gates[0]) != {"cutoff"}:
            found.append(Graph(nodes, gates, rng.choice((1, 0.5))))
    return found


def answer_of(script, asked):
    module = ROOT / "maintain" / "explorer" / "graph.js"
    command = ["node", "-e", script, module, json.dumps(STARTS)]
    run = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def ask(graphs):
    return answer_of(READ + SAY, [pages.address(graph, STARTS) for graph in graphs])


@needs_node
def test_the_page_knows_which_nodes_count_and_which_graphs_are_equal():
    graphs = random_graphs(60)
    forms = [graph.canonical() for graph in graphs]
    answers = ask(graphs + forms)  # canonical forms have one to three nodes
    for graph, answer in zip(graphs, answers, strict=False):
        assert answer["address"] == pages.address(graph, STARTS)
        assert answer["reaching"] == sorted(graph.reaching_target())
        learners = [i for i in graph.reaching_target() if graph.learns(i)]
        assert len(answer["formulas"]) == len(learners)
    for form, answer in zip(forms * 2, answers, strict=True):
        for other, apart in zip(forms * 2, answer["apart"], strict=True):
            assert (apart == []) == (form == other)
    wrong = ["", "000-TTT-TTT-TTT", "003-TTT-TTT-TTT-1", "000-TTT-TTQ-TTT-1", "000-TTT-TTT-TTT-2"]
    assert answer_of(READ + "console.log(JSON.stringify(graphs))", wrong) == [None] * len(wrong)


@needs_node
def test_the_page_names_known_methods_and_fixed_teachers():
    through, cut = "through", "cutoff"
    alone = [[through, cut, cut], [cut, through, cut], [cut, cut, through]]
    taught = [[through, through, cut], [cut] * 3, [cut] * 3]
    every = [[through] * 3] * 3
    nodes = [Node("resnet18")] * 3
    graphs = [Graph(nodes, gates) for gates in (alone, taught, every)]
    answers = ask([*graphs, Graph(nodes, every, 0.5)])
    words = [answer["words"][0] for answer in answers]
    methods = "independent", "distillation", "Table 1", "Deep Mutual"
    assert [method in text for text, method in zip(words, methods, strict=True)] == [True] * 4
    assert "fixed teacher" in words[1]
    assert "teaches noise" in words[1]
    assert [answer["kinds"] for answer in answers] == [["independent"], [], ["table1"], ["mutual"]]
    known = Graph([nodes[0], Node("resnet18", "teacher")], [[through, through], [cut] * 2])
    others = replace(known, nodes=[nodes[0], Node("resnet18", "fractaldb1k")])
    indirect = Graph(nodes, [[through, through, cut], [cut, through, through], [through] * 3])
    answers = ask([known, others, indirect])
    assert [answer["kinds"] for answer in answers] == [["distillation"], [], ["indirect"]]
    assert ["teaches noise" in answer["words"][0] for answer in answers] == [False, True, False]


def shown(page):
    """The recorded graphs of a page, by address."""
    return {run["graph"]: run for run in json.loads(re.search("RECORDS = (.*);", page)[1])["runs"]}


@pytest.fixture(scope="module")
def records():
    return read_runs(ROOT / "data" / "reference_runs" / "quick")


def recorded(records, rows):
    """A benchmark of (graph, seed, accuracy after every epoch), trained as `records` were."""
    graphs, seeds, values = zip(*rows, strict=True)
    val = np.array([np.full(records[0]["config"]["epochs"], value, float) for value in values])
    runs = pd.DataFrame({"seed": seeds, "diverged": np.isnan(val[:, -1])})
    about = {"training": records[0]["config"], "data": records[0]["data"], "seed": 0}
    return Benchmark(graphs, runs, val, val, about)


def test_every_graph_recorded_alike_is_shown_once_with_the_mean_over_its_seeds(records):
    node = Node("resnet18_w16")
    taught = Graph([node] * 2, [["through", "linear"], ["cutoff", "through"]])
    alone = Graph([node], [["through"]])
    rows = [(taught, 0, 20), (taught, 1, 30), (taught, 1, 99), (taught, 2, np.nan)]
    rows += [(alone, records[0]["seed"], 99), (alone, 0, 40)]
    rows += [(Graph([node], [["linear"]]), 0, np.nan)]
    bench = recorded(records, rows)
    table1, both = (shown(pages.explorer_page(records, b)) for b in (None, bench))
    assert len(table1) == 14  # its 18 rows, less four equal in effect to another
    seeds = len({record["seed"] for record in records})
    assert {run["n"] for run in table1.values()} == {seeds}
    assert set(both) - set(table1) == {"000-TLX-XTX-XXX-1"}
    assert both["000-TLX-XTX-XXX-1"]["n"] == 2
    assert both["000-TLX-XTX-XXX-1"]["curve"] == [25] * 20
    ends = [r["epochs"][-1]["val_accuracy"][0] for r in records if r["label"] == "alone"]
    assert both["000-TXX-XXX-XXX-1"]["n"] == seeds + 1
    assert both["000-TXX-XXX-XXX-1"]["curve"][-1] == pytest.approx(np.mean([*ends, 40]), abs=0.05)
    other = bench.about | {"training": bench.about["training"] | {"lr": 0.03}}
    with pytest.raises(ValueError, match="lr differ"):
        pages.explorer_page(records, replace(bench, about=other))


def test_the_committed_page_is_the_one_its_records_give(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["explorer_page.py", "--out", str(tmp_path / "page.html")])
    pages.main()
    committed = (ROOT / "docs" / "explorer.html").read_text(encoding="utf-8")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == committed
