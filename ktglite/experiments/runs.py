"""Run once and remember: every training is one JSON record under a key that hashes all that decides its result."""

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ktglite.data import Data
from ktglite.devices import resolve_device, resolve_precision
from ktglite.experiments import kept
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, independent
from ktglite.models import find_weights, initialise, read_weights
from ktglite.pool import open_pool
from ktglite.sources.datasets import load_data
from ktglite.store import (
    CORE,
    Checkpoint,
    code_hash,
    file_hash,
    log_progress,
    make_key,
    once,
    provenance,
    read_record,
    write_record,
)  # fmt: skip
from ktglite.trainer import TrainConfig, epochs, initial_models

__all__ = ["load_records", "run", "run_all", "run_until"]

log = logging.getLogger(__name__)

SCHEMA = 1
SHARE = 0.1  # of a run's time that its checkpoints may take


def run(
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    store: str | Path,
    weights: str | Path = "data/weights",
    label: str | None = None,
    keep: Literal["none", "target", "all"] = "none",
) -> dict:
    """Train `graph` to the end, or return the record of having done so before.

    The record is `<store>/<key>.json`; see `run_key` for what the key hashes. A killed run goes on from its last
    checkpoint: an epoch ago, unless writing one after each would take more than `SHARE` of the time. `label` names the
    run in tables and is not part of the key.

    `keep` writes the network of the target, or of all nodes that count, to `<store>/<key>.node1.safetensors` and so on,
    the test logits to `<key>.logits.safetensors`, and what they say (see `kept.together`) into the record. A run whose
    record is there and whose networks are not is trained again, to the same result.

    Raises FloatingPointError when a loss is no longer finite. The record then says so (`status` "failed", `error`), and
    the same call raises it again without training; deleting the record is how to try again.
    """
    hashes = weight_hashes(graph, weights)
    key = run_key(graph, data, config, seed, hashes)
    checkpoint = Checkpoint(Path(store) / f"{key}.ckpt", key, SHARE)
    make = partial(_train, graph, data, config, seed, weights, hashes, label, checkpoint, keep)
    path = Path(store) / f"{key}.json"
    failed = path.exists() and read_record(path, SCHEMA).get("status") == "failed"
    networks = [] if failed else kept.files(path, sorted(graph.reaching_target()), keep).values()
    once(path, make, networks)
    record = read_record(path, SCHEMA)
    if record.get("key") != key or record.get("status") not in ("complete", "failed"):
        raise ValueError(f"{path} is not the record of this run; delete it and the run is done again")
    checkpoint.drop()  # after the record: of a process that was killed in between, too
    if record["status"] == "failed":
        raise FloatingPointError(f"{record['error']} (see {path}; delete it to try the same again)")
    return {**record, "label": label}


def _train(
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    weights: str | Path,
    hashes: dict[str, str],
    label: str | None,
    checkpoint: Checkpoint,
    keep: str,
    path: Path,
) -> None:
    """Train to the end, or until a loss is no longer finite, and write the record, after what is kept beside it."""
    started, history, error = datetime.now(UTC), [], None
    nets = initial_models(graph, data, config, seed, weights)
    try:
        history += epochs(graph, data, config, seed, weights, nets, checkpoint)
    except FloatingPointError as failure:
        error = str(failure)
    last = history[-1] if history and error is None else {}
    reported = last.get("reported_epoch")
    record = {
        "key": path.stem,
        "label": label,
        "status": "complete" if error is None else "failed",
        "error": error,
        "graph": graph.to_dict(),
        "data": describe(data),
        "config": dataclasses.asdict(config),
        "seed": seed,
        "weights": hashes,
        "epochs": history,
        "epoch": reported,
        "val_accuracy": None if reported is None else history[reported - 1]["val_accuracy"],
        "test_accuracy": last.get("test_accuracy"),
        "seconds": sum(record["seconds"] for record in history),
        "provenance": provenance(config) | {"started": started.isoformat(timespec="seconds")},
    }
    if error is None and keep != "none":
        card = {name: value for name, value in record.items() if name != "epochs"}
        record["together"] = kept.save(nets, path, keep, data.test, data.classes, card)
    write_record(path, record, SCHEMA)


def train_teacher(arch: str, data: Data, config: TrainConfig, weights: str | Path, seed: int = 100) -> Path:
    """One network alone, trained once on these images as the start "teacher"; the path of its weights, head included.

    Raises ValueError where the folder has the teacher of another task or training.
    """
    graph, path = independent(Node(arch)), Path(weights) / f"teacher-{arch}.safetensors"
    card = {"key": run_key(graph, data, config, seed, {})}

    def make(file: Path) -> None:
        nets = initial_models(graph, data, config, seed, weights)
        *_, last = epochs(graph, data, config, seed, weights, nets)
        kept.save_network(nets[0], file, data.classes, card | {"test_accuracy": last["test_accuracy"][0]})

    if kept.read_header(once(path, make)).get("key") != card["key"]:
        raise ValueError(f"{path} was trained on other images or with other settings: remove it, and it is made again")
    return path


def run_until(
    graph: Graph,
    source: Data | dict,
    config: TrainConfig,
    seed: int,
    store: str | Path,
    weights: str | Path,
    epoch: int,
    label: str | None = None,
) -> list[dict]:
    """A pool's task: train up to `epoch` and return the records of epochs 1..epoch; at the last, those of `run`.

    The checkpoint `<store>/<key>.ckpt` stays, so that a later call goes on from there. `source`: data, or the arguments
    of `load_data`. Raises what `run` raises.
    """
    data = _load_once(source)
    with _one_training:
        if epoch >= config.epochs:
            return run(graph, data, config, seed, store, weights, label)["epochs"]
        key = run_key(graph, data, config, seed, weight_hashes(graph, weights))
        history = epochs(graph, data, config, seed, weights, checkpoint=Checkpoint(Path(store) / f"{key}.ckpt", key))
        return list(islice(history, epoch))


def run_all(
    graphs: dict[str, Graph],
    data: Data,
    config: TrainConfig,
    seeds: Sequence[int],
    store: str | Path,
    weights: str | Path = "data/weights",
    pool=None,
    what: str = "runs",
    keep: Literal["none", "target", "all"] = "none",
) -> list[dict]:
    """`run` for every graph and seed in a `pool` (by default one process per GPU or core); in (graph, seed) order.

    What is in the store already is not run again. A run whose loss is no longer finite is left out with a warning, and
    the others go on. Progress goes to the terminal and to `progress.jsonl` beside the store.

    Raises FileNotFoundError or ValueError for weights that are missing or do not fit, before anything is trained;
    ChildProcessError when the process of one run keeps being killed; what a run raises, with a note that names it.
    """
    for node in sorted({graph.nodes[i] for graph in graphs.values() for i in graph.reaching_target()}):
        initialise(node.arch, node.init, len(data.classes), 0, weights)  # what does not fit is told now, not in hours
    for label, graph in graphs.items():
        for i in _random_teachers(graph, data, config, weights):
            way_out = "start it from a network trained on these images, as keep= leaves them"
            log.warning("%s: node %d never learns, and its head is random: it teaches noise; %s", label, i + 1, way_out)
    source = data if data.spec is None else data.spec
    tasks = [(label, graph, seed) for label, graph in graphs.items() for seed in seeds]
    records, started, clock = {}, datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    with open_pool() if pool is None else nullcontext(pool) as pool:
        futures = {
            pool.submit(_run_task, graph, source, config, seed, str(store), str(weights), label, keep): i
            for i, (label, graph, seed) in enumerate(tasks)
        }
        for future in tqdm(as_completed(futures), what, len(tasks), unit="run", mininterval=1):
            i = futures[future]
            try:
                records[i] = future.result()
            except BaseException as error:
                error.add_note(f"This was run {tasks[i][0]!r}, seed {tasks[i][2]}; the finished ones are kept.")
                for other in futures:
                    other.cancel()
                raise
            new = sum(r is not None and r["provenance"]["started"] >= started for r in records.values())
            left = (time.perf_counter() - clock) / max(1, new) * (len(tasks) - len(records))
            log_progress(Path(store).parent, what=what, done=len(records), total=len(tasks), seconds_left=left)
    return [records[i] for i in range(len(tasks)) if records[i] is not None]


def _random_teachers(graph: Graph, data: Data, config: TrainConfig, weights: str | Path) -> list[int]:
    """Fixed nodes that can influence the target and whose head was not trained on the classes of `data`."""
    found = []
    for i in (i for i in sorted(graph.reaching_target()) if not graph.learns(i)):
        path = find_weights(graph.nodes[i].arch, graph.nodes[i].init, weights)
        loads = path and config.head == "fit" and config.stages == 5
        header = read_weights(path)[1].get("ktglite") if loads else None
        if json.loads(header or "{}").get("classes") != list(data.classes):
            found.append(i)
    return found


_one_training = threading.Lock()  # a Dask worker may have several threads, but torch has one random state a process
_loaded: dict[str, Data] = {}  # what a worker process keeps between its tasks


def _load_once(source: Data | dict) -> Data:
    """The data, loaded once per process where only the arguments of `load_data` are given."""
    if isinstance(source, Data):
        return source
    with _one_training:
        if repr(source) not in _loaded:
            _loaded.clear()
            _loaded[repr(source)] = load_data(**source)
        return _loaded[repr(source)]


def _run_task(
    graph: Graph, source: Data | dict, config: TrainConfig, seed: int, store: str, weights: str, label: str,
    keep: str = "none",
) -> dict | None:  # fmt: skip
    """`run` in a worker process; None for one that diverges."""
    data = _load_once(source)
    try:
        with _one_training:
            return run(graph, data, config, seed, store, weights, label, keep)
    except FloatingPointError as error:
        log.warning("%s, seed %d failed and is left out: %s", label, seed, error)
        return None


def run_key(graph: Graph, data: Data, config: TrainConfig, seed: int, weights: dict[str, str]) -> str:
    """Hex key over all that decides a result: the core's code, graph, data fingerprint, config, seed, weight hashes.

    The device is left out; the precision that "auto" stands for on it goes in, and so does the code of gates that were
    added to `GATES` outside the package.
    """
    settings = dataclasses.asdict(config)
    settings["precision"] = resolve_precision(config.precision, resolve_device(settings.pop("device")))
    gates = {GATES[name] for row in graph.gates for name in row}
    bodies = [gate.__code__ for gate in gates if gate.__module__ != "ktglite.gates"]
    added = sorted(repr((body.co_code, body.co_consts, body.co_names)) for body in bodies)
    code = [code_hash(*CORE), *added]
    return make_key(SCHEMA, code, graph.to_dict(), data.fingerprint, settings, seed, weights)


def weight_hashes(graph: Graph, weights: str | Path) -> dict[str, str]:
    """SHA-256 of every weights file that a node of `graph` which can matter starts from, by "init arch"."""
    nodes = {graph.nodes[i] for i in graph.reaching_target()}
    files = {f"{node.init} {node.arch}": find_weights(node.arch, node.init, weights) for node in sorted(nodes)}
    return {name: file_hash(path) for name, path in files.items() if path is not None}


def describe(data: Data) -> dict:
    """What a record says of its data."""
    sizes = {name: len(getattr(data, name)) for name in ("train", "val", "test")}
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "size": data.size,
        "classes": len(data.classes),
        **sizes,
    }


def load_records(store: str | Path, status: str = "complete") -> list[dict]:
    """Every record of a store with this `status`, "complete" or "failed", sorted by key."""
    records = [read_record(path, SCHEMA) for path in sorted(Path(store).glob("*.json"))]
    return [record for record in records if record["status"] == status]
