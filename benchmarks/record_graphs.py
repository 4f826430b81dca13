"""Record a benchmark of graphs: whole curves of many graphs of each condition, in one file.

Graphs that differ in effect are drawn uniformly from the space of a search and taken from strata:
which starts the graph has, what node 1 starts from, the gate of its label edge, and how many edges
are open. A graph counts for every condition that has its starts, so that each training serves up to
four. First come the targets alone, the graphs that a live search of the profile draws, and graphs
of each condition until it has LEAST; then further seeds; then all other graphs. What is finished is
kept, and the same command goes on; the file has all that is finished so far, and what it has is not
trained again.

    python benchmarks/record_graphs.py --count 500 --weights data/runs/quick/weights
    python benchmarks/record_graphs.py --count 500 --pack-only
"""

import argparse
import dataclasses
import heapq
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import ktglite as ktg
from ktglite.experiments.bench import PATH, Benchmark, load
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
LEAST = 250  # graphs of each condition, before a condition has more
LIVE = 8  # graphs of the live search's plan
WITH_SEEDS = 50  # graphs that are trained with several seeds
SEEDS_ALONE = 10  # of every target alone
LICENCE = (
    "MIT, as the kit: images are drawn by formula, weights come with the kit or are made by it"
)
ORIGIN = (
    "gates and starts drawn uniformly, target learns, no two graphs equal in effect; taken from "
    "strata of starts, start and label gate of node 1, and open edges, by Sainte-Laguë's rule; a graph "
    "counts for every condition that has its starts; weight: share of the condition's space that "
    "its stratum has, shared equally; that of strata without a graph goes to those with the same "
    "start and label gate of node 1"
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


def in_turn(
    strata: Mapping[tuple, Sequence[Graph]], shares: Mapping[str, Mapping[tuple, float]]
) -> Iterator[Graph]:
    """The targets alone, then always a graph of the stratum whose graphs stand for the largest
    share of any condition's space (Sainte-Laguë's rule)."""
    for name in sorted(strata):
        if name[-1] == 0:
            yield from strata[name]
    largest = {name: max(own.get(name, 0) for own in shares.values()) for name in strata}
    queues = {name: iter(strata[name]) for name in strata if name[-1] > 0}
    heap = sorted((-largest[name], name, 1) for name in queues)
    while heap:
        _, name, count = heapq.heappop(heap)
        if (graph := next(queues[name], None)) is not None:
            heapq.heappush(heap, (-largest[name] / (2 * count + 1), name, count + 1))
            yield graph


def by_need(
    order: Sequence[Graph], shares: Mapping[str, Mapping[tuple, float]]
) -> tuple[list[Graph], list[Graph]]:
    """Graphs of a condition that has fewer than LEAST before them, and the others, in order."""
    counts = Counter()
    needed, others = [], []
    for graph in order:
        conditions = [name for name, own in shares.items() if stratum(graph) in own]
        lacking = any(counts[name] < LEAST for name in conditions)
        (needed if lacking else others).append(graph)
        counts.update(conditions)
    return needed, others


def plan(conditions: Sequence[SearchConfig], live: str, count: int, seeds: int) -> pd.DataFrame:
    """What to train, in order: `graph`, `seed`, and by condition the `share` of its stratum in the
    space, 0 where it does not belong, and that of its kind (start and label gate of node 1)."""
    strata: dict[tuple, list[Graph]] = {}
    shares = {}
    for settings in conditions:  # the smaller space first: what it has is the same in the larger
        found, drawn = draw_strata(settings)
        strata = found | strata
        shares[settings.condition] = {name: drawn[name] / DRAWS for name in drawn}
    first = [
        graph.canonical()
        for settings in conditions
        if settings.condition == live
        for graph in sample_graphs(settings, LIVE)
    ]
    order = list(in_turn(strata, shares))
    alone = sum(graph.size == 1 for graph in order)
    order = list(dict.fromkeys(order[:alone] + first + order[alone:]))[:count]
    needed, others = by_need(order, shares)
    seed = conditions[0].seed
    runs = [(graph, seed) for graph in needed]
    runs += [(graph, seed + i) for graph in order[:alone] for i in range(1, SEEDS_ALONE)]
    chosen = order[alone : alone + WITH_SEEDS]
    runs += [(graph, seed + i) for i in range(1, seeds) for graph in chosen]
    runs += [(graph, seed) for graph in others]
    rows = []
    kinds = {name: Counter() for name in shares}
    for name, has in shares.items():
        for each, share in has.items():
            kinds[name][each[1:3]] += share
    for graph, own in runs:
        place = stratum(graph)
        share = {name: has.get(place, 0) for name, has in shares.items()}
        of_kind = {name: has[place[1:3]] for name, has in kinds.items()}
        rows.append({"graph": graph, "seed": own, "share": share, "share_of_kind": of_kind})
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


def read_file(path: Path, about: Mapping) -> dict[tuple[Graph, int], dict]:
    """Runs that the file has already, by graph and seed: they need no record, nor another training.

    Raises ValueError where they were trained otherwise.
    """
    if not path.exists():
        return {}
    known = load(path)
    for part in ("training", "data", "weights"):
        if known.about[part] != json.loads(json.dumps(about[part])):
            raise ValueError(f"{path} is of another {part}: give another --file")
    runs = known.runs[["test", "diverged", "processor"]].to_dict("records")
    curves = zip(known.val, known.seconds, strict=True)
    found = [run | {"val": val, "seconds": of} for run, (val, of) in zip(runs, curves, strict=True)]
    return dict(zip(zip(known.graphs, known.runs.seed, strict=True), found, strict=True))


def read_run(path: Path, epochs: int) -> dict:
    """The same of a record."""
    record = read_record(path, SCHEMA)
    diverged = record["status"] == "failed"
    hardware = record["provenance"]["hardware"]
    on_gpu = record["provenance"]["device"].startswith("cuda")
    missing = [np.nan] * (epochs - len(record["epochs"]))
    return {
        "test": np.nan if diverged else record["test_accuracy"][0],
        "diverged": diverged,
        "processor": hardware["gpus"][0] if on_gpu else hardware["cpu"],
        "val": [epoch["val_accuracy"][0] for epoch in record["epochs"]] + missing,
        "seconds": [epoch["seconds"] for epoch in record["epochs"]] + missing,
    }


def pack(wanted: pd.DataFrame, found: Sequence[dict | None], about: dict, seed: int) -> Benchmark:
    """All that is finished of `wanted`, as a benchmark: a row for every condition of a run."""
    rows = [
        {"condition": name, "share": share, "share_of_kind": row.share_of_kind[name]}
        | {"graph": row.graph, "seed": row.seed, **run}
        for row, run in zip(wanted.itertuples(), found, strict=True)
        if run is not None
        for name, share in row.share.items()
        if share
    ]
    runs = pd.DataFrame(rows)
    graphs = list(runs.pop("graph"))
    runs["stratum"] = list(map(stratum, graphs))
    runs["kind"] = [name[1:3] for name in runs.stratum]
    val, seconds = (np.stack(runs.pop(name)) for name in ("val", "seconds"))
    first = runs[runs.seed == seed]
    counts = first.groupby(["condition", "stratum"]).size().rename("count")
    strata = first.drop_duplicates(["condition", "stratum"])
    covered = strata.groupby(["condition", "kind"]).share.sum().rename("covered")
    runs = runs.join(counts, on=["condition", "stratum"]).join(covered, on=["condition", "kind"])
    runs["weight"] = runs.share / runs["count"] * runs.share_of_kind / runs.covered
    about["share_of_the_space_covered"] = strata.groupby("condition").share.sum().to_dict()
    runs = runs[["condition", "seed", "test", "diverged", "processor", "weight"]].fillna(
        {"weight": 0}
    )
    return Benchmark(graphs, runs, val, seconds, about)


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
    parser.add_argument("--file", type=Path, default=Path(PATH))
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
    about = about_runs(tasks[0], conditions)
    known = read_file(given.file, about)
    store = out / "runs"
    places = list(zip(wanted.graph, wanted.seed, strict=True))
    try:
        if not given.pack_only:
            new = [task for task, place in zip(tasks, places, strict=True) if place not in known]
            train(new, store, given.jobs)
    finally:
        found = []
        for task, place in zip(tasks, places, strict=True):
            path = store / f"{task.key()}.json"
            run = read_run(path, config.epochs) if path.exists() else known.get(place)
            found.append(run)
        bench = pack(wanted, found, about, given.seed)
        digest = bench.save(given.file)
        size = given.file.stat().st_size / 1000
        done = sum(run is not None for run in found)
        print(f"{done} of {len(wanted)} runs in {given.file}, {size:.0f} kB, {digest}")


if __name__ == "__main__":
    main()
