"""Write docs/explorer.html: the explorer of three-node graphs, one page without kernel or network.

    python maintain/explorer_page.py

Its words and pictures are maintain/explorer/. Its curves are those of Table 1, of other runs that
were recorded with it (distillation), and of a recorded benchmark of graphs, where there is one.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ktglite.experiments import bench
from ktglite.experiments.ablation import read_runs
from ktglite.experiments.runs import SCHEMA
from ktglite.figures.style import source_fill
from ktglite.graph import Graph
from ktglite.models import SOURCES
from ktglite.store import atomic_write, read_record

TEMPLATE = Path(__file__).with_name("explorer")
ROOT = Path(__file__).parents[1]
NODES = 3  # of a graph on the page

Training = tuple[Graph, int, Sequence[float]]  # graph, seed, validation accuracy of node 1 by epoch


def explorer_page(records: Sequence[Mapping], benchmark: bench.Benchmark | None = None) -> str:
    """The page.

    `records`: of runs.  `benchmark`: from `bench.load`. Trainings that diverged have no whole curve
    and are left out. Raises ValueError where there is no graph to show, or where not all were
    trained alike.
    """
    trainings = list(recorded_trainings(records))
    regimes = [(record["data"], record["config"]) for record in records]
    if benchmark is not None:
        trainings += benchmark_trainings(benchmark)
        regimes.append((benchmark.about["data"], benchmark.about["training"]))
    check_alike(regimes)
    found = by_graph(trainings)
    if not found:
        raise ValueError("there are no runs of three nodes to show: give the folder of a run")
    used = {node.init for graph in found for node in graph.nodes} | {"scratch"}
    starts = [source for source in SOURCES if source in used]
    runs = [
        {
            "graph": address(graph, starts),
            "curve": np.mean(list(curves.values()), axis=0).round(1).tolist(),
            "n": len(curves),
        }
        for graph, curves in sorted(found.items(), key=lambda item: count_open(item[0]))
    ]
    data, config = regimes[0]
    count, total = len(runs), sum(run["n"] for run in runs)
    values = {
        "starts": {s: {"title": SOURCES[s].title, "colour": source_fill(s)} for s in starts},
        "runs": runs,
        "arch": next(iter(found)).nodes[0].arch,
        "about": {
            "en": f"{count} graphs, recorded in {total} trainings on {data['name']}: "
            f"{data['train']:,} images, {config['epochs']} epochs, lr {config['lr']:g}. n counts seeds.",
            "ja": f"{data['name']} での{total}回の学習で記録した{count}個のグラフ: "
            f"画像{data['train']:,}枚，{config['epochs']}エポック，lr {config['lr']:g}。n はシードの数。",
        },
    }
    text = (TEMPLATE / "explorer.html").read_text(encoding="utf-8")
    text = text.replace("/*GRAPH*/", (TEMPLATE / "graph.js").read_text(encoding="utf-8"))
    packed = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.replace("/*RECORDS*/", packed.replace("</", "<\\/"))


def recorded_trainings(records: Sequence[Mapping]) -> Iterator[Training]:
    for record in [record for record in records if record["status"] == "complete"]:
        curve = [epoch["val_accuracy"][0] for epoch in record["epochs"]]
        yield Graph.from_dict(record["graph"]).canonical(), record["seed"], curve


def benchmark_trainings(benchmark: bench.Benchmark) -> Iterator[Training]:
    for row in np.flatnonzero(~benchmark.runs.diverged):
        yield benchmark.graphs[row], int(benchmark.runs.seed[row]), benchmark.val[row]


def by_graph(trainings: Iterable[Training]) -> dict[Graph, dict[int, Sequence[float]]]:
    """Curves by seed, by canonical graph; of trainings equal in both the first counts."""
    found = {}
    for graph, seed, curve in trainings:
        if graph.size <= NODES:
            found.setdefault(graph, {}).setdefault(seed, curve)
    return found


def check_alike(regimes: Sequence[tuple[Mapping, Mapping]]) -> None:
    """ValueError where data or training differ; devices may."""
    for regime in regimes[1:]:
        for first, other in zip(regimes[0], regime, strict=True):
            differ = {name for name in first if other.get(name) != first[name]} - {"device"}
            if differ:
                names = ", ".join(sorted(differ))
                raise ValueError(f"recorded graphs were not all trained alike: {names} differ")


def count_open(graph: Graph) -> int:
    return sum(gate != "cutoff" for row in graph.gates for gate in row)


def address(graph: Graph, starts: Sequence[str]) -> str:
    """The graph as the page's address has it: 012-TXX-TTX-XXT-1, the index of every node's start, a
    letter for every gate, the transfer weight. Nodes that are not there have no edge."""
    nodes = range(NODES)
    inits = [graph.nodes[i].init if i < graph.size else "scratch" for i in nodes]
    gates = [
        [graph.gates[t][s] if max(t, s) < graph.size else "cutoff" for s in nodes] for t in nodes
    ]
    rows = ["".join("X" if gate == "cutoff" else gate[0].upper() for gate in row) for row in gates]
    indices = "".join(str(starts.index(init)) for init in inits)
    return "-".join([indices, *rows, f"{graph.transfer_weight:g}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = ROOT / "data"
    parser.add_argument("--records", type=Path, default=data / "reference_runs" / "quick")
    parser.add_argument("--benchmark", type=Path, default=data / "graph_benchmark.npz")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "explorer.html")
    given = parser.parse_args()
    others = sorted((given.records / "runs").glob("*.json"))
    records = read_runs(given.records) + [read_record(path, SCHEMA) for path in others]
    benchmark = bench.load(given.benchmark) if given.benchmark.exists() else None
    with atomic_write(given.out) as file:
        file.write(explorer_page(records, benchmark).encode())
    print(given.out)


if __name__ == "__main__":
    main()
