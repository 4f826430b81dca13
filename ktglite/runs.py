"""Run once and remember: every training is one JSON record under a key that hashes all that decides its result."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from ktglite.data import Data, load_data
from ktglite.files import whole
from ktglite.graph import Graph
from ktglite.models import find_weights
from ktglite.trainer import TrainConfig, epochs, resolve_device, resolve_precision

log = logging.getLogger(__name__)

SCHEMA = 1


def run(
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    store: str | Path,
    weights: str | Path = "data/weights",
    label: str | None = None,
) -> dict:
    """Train `graph` to the end, or return the record of having done so before.

    The record is `<store>/<key>.json`; see `run_key` for what the key hashes. A killed run goes on from its last
    finished epoch. `label` names the run in tables and is not part of the key.

    Raises FloatingPointError when a loss is no longer finite. The record then says so (`status` "failed", `error`), and
    the same call raises it again without training; deleting the record is how to try again.
    """
    hashes = weight_hashes(graph, weights)
    key = run_key(graph, data, config, seed, hashes)
    path = Path(store) / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # released by the system when its process dies
            if not path.exists():
                train(path, graph, data, config, seed, weights, hashes, label)
    record = read_record(path)
    with suppress(OSError):  # of a process that was killed after its record was written, or the folder is read-only
        path.with_suffix(".ckpt").unlink(missing_ok=True)
    if record["status"] == "failed":
        raise FloatingPointError(f"{record['error']} (see {path}; delete it to try the same again)")
    return {**record, "label": label}


def train(
    path: Path,
    graph: Graph,
    data: Data,
    config: TrainConfig,
    seed: int,
    weights: str | Path,
    hashes: dict[str, str],
    label: str | None,
) -> None:
    """Train to the end, or until a loss is no longer finite, and write the record."""
    started, history, error = datetime.now(UTC), [], None
    try:
        with one_thread(config):
            history += epochs(graph, data, config, seed, weights, checkpoint=path.with_suffix(".ckpt"))
    except FloatingPointError as failure:
        error = str(failure)
    last = history[-1] if history and error is None else {}
    reported = last.get("reported_epoch")
    record = {
        "schema": SCHEMA,
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
    write_json(path, record | {"sha256": content_hash(record)})


def run_all(
    graphs: dict[str, Graph],
    data: Data,
    config: TrainConfig,
    seeds: list[int] | range,
    store: str | Path,
    weights: str | Path = "data/weights",
    jobs: int | None = None,
    what: str = "runs",
) -> list[dict]:
    """`run` for every graph and seed, in `jobs` processes of one thread each; records in (graph, seed) order.

    `jobs` defaults to the number of GPUs, or of cores. What is in the store already is not run again. A run whose loss
    is no longer finite is left out with a warning, and the others go on. Progress goes to the terminal and to
    `progress.jsonl` beside the store.
    """
    tasks = [(label, graph, seed) for label, graph in graphs.items() for seed in seeds]
    jobs = max(1, min(jobs or default_jobs(), len(tasks)))
    source = data if data.spec is None else data.spec
    records: dict[int, dict] = {}
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=len(tasks), desc=what, unit="run", mininterval=1)
    started = time.perf_counter()
    with bar, ProcessPoolExecutor(jobs, context, _start_worker, (source, config, context.Value("i", 0))) as pool:
        futures = {
            pool.submit(_run_task, graph, seed, str(store), str(weights), label): i
            for i, (label, graph, seed) in enumerate(tasks)
        }
        try:
            for future in as_completed(futures):
                records[futures[future]] = future.result()
                bar.update()
                spent = time.perf_counter() - started
                left = spent / len(records) * (len(tasks) - len(records))
                log_progress(Path(store).parent, what=what, done=len(records), total=len(tasks), seconds_left=left)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [records[i] for i in range(len(tasks)) if records[i] is not None]


_worker: dict = {}  # what a worker process keeps between its tasks


def _start_worker(source: Data | dict, config: TrainConfig, counter) -> None:
    parent = multiprocessing.parent_process()  # a worker must not outlive a parent that was killed
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    torch.set_num_threads(1)
    if config.device == "auto" and torch.cuda.device_count() > 1:
        config = dataclasses.replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
    _worker["data"] = load_data(**source) if isinstance(source, dict) else source
    _worker["config"] = config


def _run_task(graph: Graph, seed: int, store: str, weights: str, label: str) -> dict | None:
    try:
        return run(graph, _worker["data"], _worker["config"], seed, store, weights, label)
    except FloatingPointError as error:
        log.warning("%s, seed %d failed and is left out: %s", label, seed, error)
        return None


def end_with_parent() -> None:
    """In a worker process: end when the process that started it is gone, killed for instance."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def default_jobs() -> int:
    """One process per GPU, or per core where there is none."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


@contextmanager
def one_thread(config: TrainConfig) -> Iterator[None]:
    """One CPU thread, so that a result does not depend on the number of cores or of processes beside it."""
    before = torch.get_num_threads()
    if resolve_device(config.device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_key(graph: Graph, data: Data, config: TrainConfig, seed: int, weights: dict[str, str]) -> str:
    """Hex key over graph, data fingerprint, config, seed and the hashes of the weights its nodes start from.

    The device is left out, the precision that "auto" stands for on it goes in.
    """
    settings = dataclasses.asdict(config)
    settings["precision"] = resolve_precision(config.precision, resolve_device(settings.pop("device")))
    what = [SCHEMA, graph.to_dict(), data.fingerprint, settings, seed, weights]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def weight_hashes(graph: Graph, weights: str | Path) -> dict[str, str]:
    """SHA-256 of every weights file that a node of `graph` which can matter starts from, by "init arch"."""
    files = {}
    for i in sorted(graph.reaching_target()):
        node = graph.nodes[i]
        path = find_weights(node.arch, node.init, weights)
        if path is not None:
            files[f"{node.init} {node.arch}"] = file_hash(path)
    return files


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(data: Data) -> dict:
    """What a record says of its data."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "size": data.size,
        "classes": len(data.classes),
        "train": len(data.train),
        "val": len(data.val),
        "test": len(data.test),
    }


def provenance(config: TrainConfig | None = None) -> dict:
    """Where a result comes from: code, package versions, hardware."""
    packages = ("ktglite", "torch", "torchvision", "numpy", "numba", "optuna", "scipy")
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hardware = {"cpu": cpu_name(), "cores": os.cpu_count(), "gpus": gpus, "system": platform.platform(terse=True)}
    facts = {"git": git("rev-parse", "HEAD"), "versions": versions, "hardware": hardware}
    facts["dirty"] = None if facts["git"] is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    if config is not None:
        device = resolve_device(config.device)
        facts |= {"device": str(device), "precision": resolve_precision(config.precision, device)}
    return facts


def cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git(*arguments: str) -> str | None:
    """Output of a git command in this package's checkout; None where there is no checkout or no git."""
    try:
        folder = Path(__file__).parent
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
        return result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def content_hash(record: dict) -> str:
    """SHA-256 over all that a record says, its label aside."""
    content = {key: value for key, value in record.items() if key not in ("label", "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(path: str | Path) -> dict:
    """One record. Raises ValueError that names the file and the way out when it is not one of this version, was cut
    short, or was changed after it was written.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable record ({error}); delete it and its run is done again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else None
        raise ValueError(
            f"{path} has schema {found}, this version reads {SCHEMA}; update ktglite or move the file away"
        )
    changed = record.get("key") != path.stem or record.get("status") not in ("complete", "failed")
    if changed or record.get("sha256", content_hash(record)) != content_hash(record):  # records of 0.1.0 have none
        raise ValueError(f"{path} is not as it was written; restore it, or delete it and its run is done again")
    return record


def load_records(store: str | Path, status: str = "complete") -> list[dict]:
    """Every record of a store with this `status`, "complete" or "failed", sorted by key."""
    records = [read_record(path) for path in sorted(Path(store).glob("*.json"))]
    return [record for record in records if record["status"] == status]


def write_json(path: str | Path, value: object) -> None:
    """Write JSON so that the file is either the old one or the whole new one, never a part."""
    text = json.dumps(value, indent=1, allow_nan=False)
    with whole(path) as file:
        file.write(text.encode())


def log_progress(out: str | Path, **fields: object) -> None:
    """Append one line to `<out>/progress.jsonl`, which whoever watches from outside reads."""
    Path(out).mkdir(parents=True, exist_ok=True)
    with open(Path(out) / "progress.jsonl", "a") as file:
        file.write(json.dumps({"time": time.time(), **fields}) + "\n")
