"""Write docs/explorer.html: the explorer of three-node graphs, one page without kernel or network.

    python maintain/explorer_page.py

Its words and pictures are maintain/explorer/. Its curves come from committed records of Table 1 and
of searches, both of version 0.2's quick profile until graphs of today's are recorded. Of equal
trainings the one with the most runs is shown.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ktglite.experiments.ablation import read_runs
from ktglite.experiments.search import read_summaries
from ktglite.figures.style import source_fill
from ktglite.graph import Graph
from ktglite.models import SOURCES
from ktglite.store import atomic_write

TEMPLATE = Path(__file__).with_name("explorer")
ROOT = Path(__file__).parents[1]


def explorer_page(records: Sequence[Mapping], summaries: Mapping[str, Mapping]) -> str:
    """The page.

    `records`: of Table 1, from `ablation.read_runs`.  `summaries`: from `search.read_summaries`.
    Raises ValueError where they hold no graph of three nodes.
    """
    runs = distinct([*table1_runs(records), *searched_runs(summaries)])
    if not runs:
        raise ValueError("there are no runs of three nodes to show: give the folder of a run")
    starts = dict.fromkeys(["scratch", *(start for run in runs for start in run["starts"])])
    first = records[0] if records else next(iter(summaries.values()))
    config = first["config"] if records else first["training"]
    name, images = first["data"]["name"], first["data"]["train"]
    settings = f"{images:,} x {config['epochs']}, lr {config['lr']:g}"
    values = {
        "starts": {s: {"title": SOURCES[s].title, "colour": source_fill(s)} for s in starts},
        "runs": runs,
        "alone": alone_accuracy(records),
        "arch": records[0]["graph"]["nodes"][0]["arch"] if records else "resnet18",
        "about": {
            "en": f"{len(runs)} recorded graphs on {name} (images x epochs: {settings}), by ktglite.",
            "ja": f"{name} で記録した{len(runs)}個のグラフ (画像数 x エポック数: {settings}; ktglite)。",
        },
    }
    text = (TEMPLATE / "explorer.html").read_text(encoding="utf-8")
    text = text.replace("/*GRAPH*/", (TEMPLATE / "graph.js").read_text(encoding="utf-8"))
    packed = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.replace("/*RECORDS*/", packed.replace("</", "<\\/"))


def flat(graph: Mapping) -> dict:
    return {
        "starts": [node["init"] for node in graph["nodes"]],
        "gates": graph["gates"],
        "weight": graph["transfer_weight"],
    }


def mean_curve(records: Sequence[Mapping]) -> list[float]:
    """Validation accuracy of node 1 by epoch, mean over runs."""
    curves = [[epoch["val_accuracy"][0] for epoch in record["epochs"]] for record in records]
    return np.mean(curves, axis=0).round(1).tolist()


def table1_runs(records: Sequence[Mapping]) -> Iterable[dict]:
    """Each row of Table 1, mean over seeds."""
    for label in dict.fromkeys(r["label"] for r in records if len(r["graph"]["nodes"]) == 3):
        own = [record for record in records if record["label"] == label]
        yield flat(own[0]["graph"]) | {"curve": mean_curve(own), "n": len(own), "row": True}


def searched_runs(summaries: Mapping[str, Mapping]) -> Iterable[dict]:
    """Each graph of a search that was trained to the end."""
    for summary in summaries.values():
        for trial in summary["trials"]:
            if trial["state"] == "COMPLETE" and len(trial["graph"]["nodes"]) == 3:
                curve = [round(value, 1) for value in trial["values"]]
                yield flat(trial["graph"]) | {"curve": curve, "n": 1, "number": trial["number"]}


def distinct(runs: Iterable[dict]) -> list[dict]:
    """One run for every graph in effect, that with the most seeds."""
    found = {}
    for run in runs:
        nodes = [{"arch": "resnet18", "init": start} for start in run["starts"]]
        graph = {"nodes": nodes, "gates": run["gates"], "transfer_weight": run["weight"]}
        form = Graph.from_dict(graph).canonical()
        if form not in found or run["n"] > found[form]["n"]:
            found[form] = run
    return list(found.values())


def alone_accuracy(records: Sequence[Mapping]) -> dict[str, dict]:
    """Final validation accuracy of one network alone, by its start."""
    found = {}
    for record in records:
        nodes = record["graph"]["nodes"]
        if len(nodes) == 1:
            found.setdefault(nodes[0]["init"], []).append(record)
    return {s: {"value": mean_curve(own)[-1], "n": len(own)} for s, own in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reference = ROOT / "data" / "reference_runs"
    parser.add_argument("--records", type=Path, default=reference / "quick_short")
    parser.add_argument("--searches", type=Path, default=reference / "quick_searches")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "explorer.html")
    given = parser.parse_args()
    page = explorer_page(read_runs(given.records), read_summaries(given.searches))
    with atomic_write(given.out) as file:
        file.write(page.encode())
    print(given.out)


if __name__ == "__main__":
    main()
