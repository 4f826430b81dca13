"""The explorer without a kernel: its words are those of the package, and its page needs nothing but itself."""

import itertools
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ktglite import GATES, Graph, Node
from ktglite.experiments.ablation import read_runs
from ktglite.experiments.search import read_summaries
from ktglite.tools import explorer as ex
from ktglite.tools.explorer_page import HERE, explorer_page

QUICK = Path(__file__).parents[1] / "data/reference_runs/quick"
STARTS = ("scratch", "imagenet1k_standin", "fractaldb1k")


def random_graphs(n, seed=0):
    """Graphs of three nodes, half of their edges open or shut alone, so that known methods come up."""
    rng, found = random.Random(seed), []
    while len(found) < n:
        gates = [
            [rng.choice(rng.choice([("through", "cutoff"), tuple(GATES)])) for _ in range(3)]
            for _ in range(3)
        ]
        if set(gates[0]) != {"cutoff"}:
            nodes = [Node("resnet18", rng.choice(STARTS)) for _ in range(3)]
            found.append(Graph(nodes, gates, rng.choice([1.0, 0.5])))
    return found


def as_page(graph):
    return {
        "starts": [n.init for n in graph.nodes],
        "gates": graph.gates,
        "weight": graph.transfer_weight,
    }


def words(graph):
    return [
        sorted(graph.reaching_target()),
        ex.formulas(graph),
        ex.influence(graph),
        ex.verdict(graph),
    ]


def node(code, value):
    if shutil.which("node") is None:
        pytest.skip("needs node; the same comparison is made in Chromium by `make test-browser`")
    program = f"const e = require({json.dumps(str(HERE / 'explorer.js'))});"
    program += "const x = JSON.parse(require('fs').readFileSync(0));"
    program += f"console.log(JSON.stringify({code}))"
    found = subprocess.run(
        ["node", "-e", program], input=json.dumps(value), capture_output=True, text=True, check=True
    )
    return json.loads(found.stdout)


def test_it_says_of_2000_random_graphs_what_the_package_says():
    graphs = random_graphs(2000)
    told = node(
        "x.map((g) => [e.reaching(g), e.formulas(g), e.influence(g), e.verdict(g)])",
        [*map(as_page, graphs)],
    )
    assert told == [words(graph) for graph in graphs]
    assert len({verdict for *_, verdict in told}) > 4


def test_graphs_that_are_one_to_node_1_are_at_distance_0():
    graphs = random_graphs(300)
    code = "x.map(([a, b]) => Math.min(e.distance(a, b), 99))"  # JSON has no infinity
    pairs = [[as_page(g), as_page(g.canonical())] for g in graphs if g.canonical().size == 3]
    assert set(node(code, pairs)) == {0}
    pairs = [(g, h) for g, h in itertools.pairwise(graphs) if g.canonical() != h.canonical()]
    assert 0 not in node(code, [[as_page(g), as_page(h)] for g, h in pairs])


def test_the_page_needs_nothing_but_itself():
    page = explorer_page(read_runs(QUICK), read_summaries(QUICK / "search"))
    assert not re.findall(r"(?:src|href)=|https?://|@import|fetch\(", page)
    assert "/*RECORDS*/" not in page
    found = json.loads(re.search(r"const RECORDS = (.*);", page)[1])
    assert {run["from"] for run in found["runs"]} >= {"Table 1, mean of 3 runs"}
    assert sum(run["from"].startswith("Table 1") for run in found["runs"]) == 15
    assert found["starts"]["imagenet1k_standin"] == "ImageNet-1k stand-in"
    assert "23 recorded graphs of synthcars" in found["about"]
    committed = (QUICK.parents[2] / "docs/explorer.html").read_text(encoding="utf-8")
    assert committed == explorer_page(read_runs(QUICK), read_summaries(f"{QUICK}_searches")), (
        "give `ktglite explorer`"
    )
    with pytest.raises(ValueError, match="no runs of three nodes"):
        explorer_page([], {})
