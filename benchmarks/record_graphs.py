"""Record a benchmark of graphs: whole curves of many graphs of each condition, in one file.

Graphs that differ in effect are drawn uniformly from the space of a search and taken in turn from
strata: which starts the graph has, what node 1 starts from, the gate of its label edge, and how
many edges are open. A graph counts for every condition that has its starts, so that each training
serves up to four. First come the targets alone, and the graphs that a live search of the profile
draws; last, further seeds. What is finished is kept, and the same command goes on; the file has
all that is finished so far.

    python benchmarks/record_graphs.py --count 500 --weights data/runs/quick/weights
    python benchmarks/record_graphs.py --count 500 --pack-only
"""

import argparse
import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import ktglite as ktg
from ktglite.experiments.bench import Benchmark
from ktglite.experiments.runs import SCHEMA, Run, describe, portable, run_until
from ktglite.experiments.space import (
    CONDITIONS,
    SearchConfig,
    count_graphs,
    from_params,
    sample_graphs,
)
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through
from ktglite.store import read_record

DRAWS = 20_000  # of a condition's space, for its strata and their shares
BANDS = (3, 5, 7)  # open edges: up to 3, up to 5, up to 7, more
LIVE = 8  # graphs of the live search's plan
WITH_SEEDS = 50  # graphs that are trained with several seeds
SEEDS_ALONE = 10  # of every target alone
LICENCE = (
    "MIT, as the kit: images are drawn by formula, weights come with the kit or are made by it"
)
ORIGIN = (
    "gates and starts drawn uniformly, target learns, no two graphs equal in effect; taken in turn "
    "from strata of starts, start and label gate of node 1, and open edges; a graph counts for "
    "every condition that has its starts; weight: share of the condition's space that its stratum "
    "has, shared equally"
)


def stratum(graph: Graph) -> tuple:
    """All starts, start of node 1, gate of its label edge, and how many edges are open, of a
    canonical graph; the target alone is a stratum of its own."""
    starts = tuple(sorted({node.init for node in graph.nodes} - {"scratch"}))
    opened = sum(gate != "cutoff" for row in graph.gates for gate in row)
    band = 0 if graph.size == 1 else 1 + int(np.searchsorted(BANDS, opened))
    return starts, graph.nodes[0].init, graph.gates[0][0], band


def draw_strata(settings: SearchConfig) -> tuple[dict[tuple, list[Graph]], Counter]:
    """Different graphs by stratum, in the order in which uniform draws bring them, and how many of
    DRAWS each stratum has."""
    rng = random.Random(f"graphs to record, {settings.condition}")
    found: dict[tuple, dict[Graph, None]] = {}
    shares = Counter()
    while shares.total() < DRAWS:
        drawn = from_params({name: rng.choice(of) for name, of in settings.space.items()})
        if set(drawn["gates"][0]) != {"cutoff"}:
            graph = Graph.from_dict(drawn).canonical()
            shares[stratum(graph)] += 1
            found.setdefault(stratum(graph), {})[graph] = None
    return {name: list(graphs) for name, graphs in found.items()}, shares


def in_turn(strata: Mapping[tuple, Sequence[Graph]], turns: Mapping[tuple, int]) -> Iterable[Graph]:
    """The targets alone, then the graphs of all strata by rounds; in a round each stratum has as
    many `turns` as there are conditions that it counts for."""
    rng = random.Random("rounds")
    for name in sorted(strata):
        if name[-1] == 0:
            yield from strata[name]
    queues = {name: iter(strata[name]) for name in sorted(strata) if name[-1] > 0}
    while queues:
        order = [name for name in queues for _ in range(turns[name])]
        rng.shuffle(order)
        for name in order:
            graph = next(queues.get(name, iter(())), None)
            if graph is None:
                queues.pop(name, None)
            else:
                yield graph


def plan(conditions: Sequence[SearchConfig], live: str, count: int, seeds: int) -> pd.DataFrame:
    """What to train, in order: `graph`, `seed`, and by condition the `share` of its stratum in the
    space, 0 where it does not belong."""
    strata: dict[tuple, list[Graph]] = {}
    shares = {}
    for (
        settings
    ) in conditions:  # the smaller space first: a stratum is the same in all that have it
        found, drawn = draw_strata(settings)
        strata = found | strata
        shares[settings.condition] = {name: drawn[name] / DRAWS for name in drawn}
    turns = {name: sum(name in own for own in shares.values()) for name in strata}
    first = [
        graph.canonical()
        for settings in conditions
        if settings.condition == live
        for graph in sample_graphs(settings, LIVE)
    ]
    order = list(in_turn(strata, turns))
    alone = sum(graph.size == 1 for graph in order)
    order = list(dict.fromkeys(order[:alone] + first + order[alone:]))[:count]
    seed = conditions[0].seed
    runs = [(graph, seed) for graph in order]
    runs += [(graph, seed + i) for graph in order[:alone] for i in range(1, SEEDS_ALONE)]
    chosen = order[alone : alone + WITH_SEEDS]
    runs += [(graph, seed + i) for i in range(1, seeds) for graph in chosen]
    rows = []
    for graph, own in runs:
        share = {name: has.get(stratum(graph), 0) for name, has in shares.items()}
        rows.append({"graph": graph, "seed": own, "share": share})
    return pd.DataFrame(rows)


def train(tasks: Iterable[Run], store: Path, jobs: int | None) -> None:
    """Train what has no record yet, in order."""
    missing = [task for task in tasks if not (store / f"{task.key()}.json").exists()]
    with ktg.open_pool(jobs) as pool:
        epochs = [task.config.epochs for task in missing]
        futures = [
            pool.submit(run_until, portable(task), str(store), last)
            for task, last in zip(missing, epochs, strict=True)
        ]
        for future in tqdm(as_completed(futures), "graphs", len(futures), unit="run"):
            if not isinstance(
                future.exception(), FloatingPointError
            ):  # diverged: its record says so
                future.result()


def pack(
    wanted: pd.DataFrame, tasks: Sequence[Run], store: Path, conditions: Sequence[SearchConfig]
) -> Benchmark:
    """All that is finished of `wanted`, as a benchmark: a row for every condition of a run."""
    epochs = tasks[0].config.epochs
    rows, val, seconds = [], [], []
    for row, task in zip(wanted.itertuples(), tasks, strict=True):
        path = store / f"{task.key()}.json"
        if not path.exists():
            continue
        record = read_record(path, SCHEMA)
        diverged = record["status"] == "failed"
        run = {
            "seed": row.seed,
            "test": np.nan if diverged else record["test_accuracy"][0],
            "diverged": diverged,
            "processor": record["provenance"]["hardware"]["cpu"],
            "graph": row.graph,
        }
        missing = [np.nan] * (epochs - len(record["epochs"]))
        for condition, share in row.share.items():
            if share:
                rows.append({"condition": condition, "share": share, **run})
                val.append([epoch["val_accuracy"][0] for epoch in record["epochs"]] + missing)
                seconds.append([epoch["seconds"] for epoch in record["epochs"]] + missing)
    runs = pd.DataFrame(rows)
    graphs = list(runs.pop("graph"))
    runs["stratum"] = list(map(stratum, graphs))
    searched = runs[runs.seed == conditions[0].seed].groupby(["condition", "stratum"]).size()
    counts = [searched.get((row.condition, row.stratum), 1) for row in runs.itertuples()]
    runs["weight"] = runs.pop("share") / counts
    about = about_runs(tasks[0], conditions)
    return Benchmark(graphs, runs.drop(columns="stratum"), np.array(val), np.array(seconds), about)


def about_runs(task: Run, conditions: Sequence[SearchConfig]) -> dict:
    """How the runs were made, fit for JSON."""
    starts = {Node(own.archs[0], start) for own in conditions for start in own.choices}
    every_start = dataclasses.replace(task, graph=all_through(*sorted(starts)))
    space = {}
    for settings in conditions:
        k = len(settings.choices) * len(settings.archs)
        space[settings.condition] = count_graphs(k, k, len(GATES), settings.nodes)
    return {
        "seed": settings.seed,
        "training": {**dataclasses.asdict(task.config), "device": "auto"},
        "data": describe(task.data),
        "weights": every_start.weight_hashes(),
        "origin": ORIGIN,
        "graphs_in_the_space": space,
        "splits": "val: for a search; test: to judge what it found, never given to a search",
        "licence": LICENCE,
        "ktglite": ktg.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--count", type=int, default=800, help="graphs in all")
    parser.add_argument("--seeds", type=int, default=3, help=f"of the first {WITH_SEEDS} graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first, to search on")
    parser.add_argument("--weights", nargs="+", help="folders, taken in turn by seed")
    parser.add_argument("--out", type=Path, help="default: data/runs/PROFILE_graphs")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--pack-only", action="store_true", help="train nothing")
    parser.add_argument("--file", type=Path, default=Path("data/graph_benchmark.npz"))
    given = parser.parse_args()

    out = given.out or Path(f"data/runs/{given.profile}_graphs")
    settings = ktg.load_settings("02", given.profile, out)
    config = settings.train_config()
    data = settings.load_data()
    own = settings.weights
    weights = given.weights or ([own] if isinstance(own, str) else list(own))
    where = {"sources": settings.sources, "arch": settings.arch, "nodes": settings.nodes}
    conditions = [SearchConfig(name, **where, trials=1, seed=given.seed) for name in CONDITIONS]
    live = ktg.load_settings("03", given.profile, out).conditions[0]
    wanted = plan(conditions, live, given.count, given.seeds)
    tasks = [
        Run(row.graph, data, config, row.seed, weights[row.seed % len(weights)])
        for row in wanted.itertuples()
    ]
    store = out / "runs"
    try:
        if not given.pack_only:
            train(tasks, store, given.jobs)
    finally:
        bench = pack(wanted, tasks, store, conditions)
        digest = bench.save(given.file)
        size = given.file.stat().st_size / 1000
        print(f"{len(bench)} of {len(wanted)} runs in {given.file}, {size:.0f} kB, {digest}")


if __name__ == "__main__":
    main()
