"""The best graph of each recorded search, trained on other images: do the edges that won there help
here?

A graph keeps its gates and its starts, but for ImageNet-1k's stand-in, which becomes `--imagenet`.
Beside it stands its target alone, with the same start, budget and seeds. Without `--weights`, from
the records that come with the kit.

    python benchmarks/winners.py
    python benchmarks/winners.py --set dataset=cars64 --weights WEIGHTS --imagenet imagenet1k_quantised

The records are of the best graphs that version 0.2 recorded; trained anew, the graphs are those of
today's data/graph_benchmark.npz, which are others.
"""

import argparse
import json
from pathlib import Path

import ktglite as ktg
from ktglite.experiments.bench import PATH, load
from ktglite.profiles import parse_overrides


def transferred(graph: dict, imagenet: str, arch: str) -> ktg.Graph:
    """A searched graph with another network on its nodes, and another source for ImageNet-1k's stand-in."""
    starts = [
        imagenet if node["init"].startswith("imagenet1k") else node["init"]
        for node in graph["nodes"]
    ]
    return ktg.Graph(tuple(ktg.Node(arch, start) for start in starts), graph["gates"])


def train(given: argparse.Namespace) -> list[dict]:
    """The winner of every condition and its target alone, all seeds."""
    overrides = parse_overrides(given.set)
    settings = ktg.load_settings("02", given.profile, "data/runs/winners", **overrides)
    found, graphs = load(given.searches).as_searches(), {}
    for name in given.conditions:
        graph = transferred(found[name]["best"]["graph"], given.imagenet, settings.arch)
        graphs |= {f"{name}/winner": graph, f"{name}/alone": ktg.independent(graph.nodes[0])}
    data, config = settings.load_data(), settings.train_config()
    with ktg.open_pool(given.jobs) as pool:
        runs = ktg.run_all(
            graphs, data, config, range(given.seeds), f"{settings.out}/runs", given.weights, pool
        )
    (Path(settings.out) / "winners.json").write_text(json.dumps(runs))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cars64")
    parser.add_argument("--searches", default=PATH)
    parser.add_argument("--conditions", nargs="+", default=["none", "imagenet1k"])
    parser.add_argument("--imagenet", default="imagenet1k")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--records", default="data/reference_runs/cars64/winners.json")
    given = parser.parse_args()
    runs = train(given) if given.weights else json.loads(Path(given.records).read_text())

    arms = {}
    for run in runs:
        arms.setdefault(run["label"], {})[run["seed"]] = run["test_accuracy"][0]
    for label, found in arms.items():
        each = ktg.stats.summary(list(found.values()))
        print(f"{label}: {each['mean']:.1f} ± {each['std']:.1f} (n = {each['n']})")
    pairs = [
        (label, label.replace("winner", "alone")) for label in arms if label.endswith("winner")
    ]
    for a, b in [*pairs, ("imagenet1k/winner", "none/winner"), ("imagenet1k/alone", "none/alone")]:
        if {a, b} <= arms.keys():
            gap = ktg.stats.difference(arms[a], arms[b])
            print(f"{a} - {b}: {gap['effect']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}]")


if __name__ == "__main__":
    main()
