"""The explorer's page says of a graph what the package computes."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ktglite.gates import GATES
from ktglite.graph import Graph, Node

ROOT = Path(__file__).parents[1]
SCRIPT = """
const page = require(process.argv[1]);
const graphs = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const say = (g) => ({
  reaching: page.reaching(g), form: page.canonical(g), formulas: page.formulas(g),
  words: ["en", "ja"].map((lang) => `${page.influence(g, lang)} ${page.verdict(g, lang)}`)});
const same = graphs.map((g) => page.differences(g, g, "en", (start) => start));
console.log(JSON.stringify({said: graphs.map(say), same}));
"""
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def random_graphs(count):
    rng = random.Random(0)
    found = []
    while len(found) < count:
        starts = [rng.choice(("scratch", "fractaldb1k")) for _ in range(3)]
        gates = [[rng.choice(tuple(GATES)) for _ in range(3)] for _ in range(3)]
        if set(gates[0]) != {"cutoff"}:
            found.append({"starts": starts, "gates": gates, "weight": rng.choice((1, 0.5))})
    return found


def as_graph(flat):
    nodes = [Node("resnet18", start) for start in flat["starts"]]
    return Graph(nodes, flat["gates"], flat["weight"])


def ask(graphs):
    command = ["node", "-e", SCRIPT, str(ROOT / "maintain" / "explorer" / "graph.js")]
    run = subprocess.run(command, input=json.dumps(graphs), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@needs_node
def test_the_page_knows_which_nodes_count_and_which_graphs_are_equal():
    flats = random_graphs(400)
    answers = ask(flats)
    forms = {}
    for flat, answer in zip(flats, answers["said"], strict=True):
        graph = as_graph(flat)
        assert answer["reaching"] == sorted(graph.reaching_target())
        learners = [i for i in graph.reaching_target() if graph.learns(i)]
        assert len(answer["formulas"]) == len(learners)
        assert forms.setdefault(graph.canonical(), answer["form"]) == answer["form"]
    assert len(set(forms.values())) == len(forms)
    assert answers["same"] == [[]] * len(flats)


@needs_node
def test_the_page_names_known_methods_and_fixed_teachers():
    through, cut = "through", "cutoff"
    alone = [[through, cut, cut], [cut, through, cut], [cut, cut, through]]
    taught = [[through, through, cut], [cut] * 3, [cut] * 3]
    starts = ["scratch"] * 3
    graphs = [
        {"starts": starts, "gates": gates, "weight": weight}
        for gates, weight in (
            (alone, 1),
            (taught, 1),
            ([[through] * 3] * 3, 1),
            ([[through] * 3] * 3, 0.5),
        )
    ]
    words = [answer["words"][0] for answer in ask(graphs)["said"]]
    for text, method in zip(
        words, ("independent", "distillation", "Table 1", "Deep Mutual"), strict=True
    ):
        assert method in text
    assert "fixed teacher" in words[1]
    assert "teaches noise" in words[1]


def test_the_committed_page_is_the_one_its_records_give(tmp_path):
    command = [sys.executable, str(ROOT / "maintain" / "explorer_page.py"), "--out"]
    subprocess.run([*command, str(tmp_path / "page.html")], check=True, cwd=ROOT)
    committed = (ROOT / "docs" / "explorer.html").read_text(encoding="utf-8")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == committed
