"""Recorded results where trainings would stand: all notebooks in minutes, for a class without hours
of processor time (`ready_runs`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ktglite.data import Data
from ktglite.experiments.ablation import read_runs, same_training
from ktglite.experiments.bench import load
from ktglite.experiments.rungs import replay
from ktglite.experiments.runs import SCHEMA, Run, Store, describe, load_records
from ktglite.experiments.space import CONDITIONS, SearchConfig, outcome
from ktglite.graph import Graph
from ktglite.store import from_checkout, read_record
from ktglite.trainer import TrainConfig

__all__ = ["all_searches", "more_seeds", "recorded_searches"]


def read_folder(folder: str | Path) -> list[dict]:
    """Every finished run that a folder has a record of, in runs/, table1.json or record.json.

    Raises FileNotFoundError where there is none.
    """
    folder = from_checkout(folder)
    found = load_records(folder / "runs")
    if (folder / "table1.json").exists():
        found += read_runs(folder)
    if (folder / "record.json").exists():
        found.append(read_record(folder / "record.json", SCHEMA))
    if not found and not (folder / "profile.json").exists():  # then it may be a runs/ itself
        found = load_records(folder)
    if not found:
        files = "no table1.json, record.json or runs/*.json"
        raise FileNotFoundError(f"{folder} has {files} of a finished run")
    return list({record.get("key", id(record)): record for record in found}.values())


def recorded_seeds(folder: str | Path | None) -> dict[str, int]:
    """`first_seed` and `seeds` of the first seeds in a row for which every row of Table 1 has a
    ready record; empty where there is none."""
    labels = set()
    with suppress(FileNotFoundError):  # told when the records are needed
        found = read_folder(Path(folder).expanduser()) if folder else []
        labels = {(run["seed"], run["label"] or "") for run in found}
    rows = Counter(seed for seed, label in labels if label in ("alone", "none") or "/" in label)
    whole = [seed for seed in sorted(rows) if rows[seed] == max(rows.values())]
    count = sum(seed == whole[0] + i for i, seed in enumerate(whole))
    return {"first_seed": whole[0], "seeds": count} if whole else {}


def more_seeds(
    graphs: Mapping[str, Graph], data: Data, config: TrainConfig, seeds: Sequence[int], folder: str
) -> list[dict]:
    """Recorded runs of `graphs`, by label, where all but the seed is the same: those of seeds that
    are not among `seeds` and that every graph has. Empty where `folder` has none."""
    try:
        ready = Store(folder, ready=read_folder(folder))
    except FileNotFoundError:
        return []
    runs = []
    for seed in sorted({record["seed"] for record in ready.ready} - {*seeds}):
        tasks = [Run(graph, data, config, seed, label=label) for label, graph in graphs.items()]
        found = [ready.find_ready(task) for task in tasks]
        runs += found if all(found) else []
    return runs


def recorded_searches(settings) -> dict[str, dict]:
    """Searches by condition that stand for those of this run; empty unless `ready_runs` is set.

    They are the finished searches in `<ready_runs>/search` where these had the settings' images,
    graphs and objective, and trained as they say; else what a search of `trials` graphs would have
    kept of the recorded ones (`recorded`), whose winners were not trained again, where that holds
    of them.
    """
    if settings.ready_runs is None:
        return {}
    from ktglite.experiments.search import read_summaries  # and Optuna with it

    folder = from_checkout(settings.ready_runs) / "search"
    found = read_summaries(folder) if any(folder.glob("*.json")) else {}
    if len(settings.with_these_starts(list(found.values()))) < len(found):
        found = {}
    asked = {"data": describe(settings.load_data()), "config": asdict(settings.train_config())}

    def alike(own: Mapping) -> bool:
        graphs = [trial["graph"]["nodes"] for trial in own["trials"]]
        archs = {node["arch"] for nodes in graphs for node in nodes}
        same = archs <= {*settings.archs} and max(map(len, graphs)) == settings.nodes
        for name in ("select_on", "teachers"):
            same &= own["search"].get(name, getattr(SearchConfig, name)) == getattr(settings, name)
        return same and same_training({"data": own["data"], "config": own["training"]}, asked)

    if not found or not all(map(alike, found.values())):
        whole = settings.with_these_starts([*load(settings.recorded).as_searches().values()])
        found = {own["condition"]: _early_stopped(own, settings) for own in whole if alike(own)}
    return {name: found[name] for name in CONDITIONS if name in found}


def all_searches(settings) -> dict[str, dict]:
    """The searches of this run by condition, and those recorded that stand for some.

    Raises FileNotFoundError where there is neither.
    """
    from ktglite.experiments.search import read_summaries

    recorded = recorded_searches(settings)
    folder = Path(settings.out, "search")
    live = read_summaries(folder) if any(folder.glob("*.json")) or not recorded else {}
    return live | recorded


def _early_stopped(summary: Mapping, settings) -> dict:
    """A recorded search of whole curves, cut where a search of its first graphs would stop them."""
    trials = [t for t in summary["trials"] if t["state"] == "COMPLETE"][: settings.trials]
    curves = np.array([trial["values"] for trial in trials])
    rule = {n: getattr(settings, n) for n in ("pruner", "reduction_factor", "min_resource")}
    ends = replay(curves, *rule.values())
    stopped = {"state": "PRUNED", "value": None, "test_accuracy": None}
    kept = [
        trial | {"values": trial["values"][:end]} | (stopped if end < curves.shape[1] else {})
        for trial, end in zip(trials, ends, strict=True)
    ]
    found = outcome(kept, curves.shape[1])
    return {**summary, **found, "reevaluated": [], "search": summary["search"] | rule}
