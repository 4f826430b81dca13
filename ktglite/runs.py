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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from ktglite.data import Data, load_data
from ktglite.devices import cores, cpu_name, resolve_device, resolve_precision
from ktglite.files import whole
from ktglite.graph import Graph
from ktglite.models import find_weights, initialise
from ktglite.trainer import TrainConfig, epochs

log = logging.getLogger(__name__)

SCHEMA = 1
RESTARTS = 2  # a run whose process was killed is taken up again this often


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
    workers_per_device: int = 1,
    dask: str | None = None,
) -> list[dict]:
    """`run` for every graph and seed, in `jobs` processes of one thread each; records in (graph, seed) order.

    - `jobs`: by default `workers_per_device` for each GPU, or each core where there is none.
    - `dask`: address of a Dask scheduler, whose workers run everything instead. They must be started in the same
      folder of a file system that they share.

    What is in the store already is not run again. A process that is killed costs its own run only, which goes on
    from its last epoch in a new one. A run whose loss is no longer finite is left out with a warning, and the others
    go on. Progress goes to the terminal and to `progress.jsonl` beside the store.

    Raises FileNotFoundError or ValueError for weights that are missing or do not fit, before anything is trained;
    ChildProcessError when the process of one run keeps being killed; what a run raises, with a note that names it.
    """
    for node in sorted({graph.nodes[i] for graph in graphs.values() for i in graph.reaching_target()}):
        initialise(node.arch, node.init, len(data.classes), 0, weights)  # what does not fit is told now, not in hours
    where, source = (str(store), str(weights)), data if data.spec is None else data.spec
    tasks = [(label, graph, seed) for label, graph in graphs.items() for seed in seeds]
    jobs = max(1, min(jobs or default_jobs(workers_per_device), len(tasks)))
    records, new = {}, 0
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    with dask_executors(dask, len(tasks)) if dask else nullcontext(local_executors(jobs)) as executors:
        calls = [(source, config, graph, seed, *where, label) for label, graph, seed in tasks]
        for i, record in tqdm(complete(calls, executors), what, len(tasks), unit="run", mininterval=1):
            records[i] = record
            new += record is not None and record["provenance"]["started"] >= started
            left = (time.perf_counter() - clock) / max(1, new) * (len(tasks) - len(records))
            log_progress(Path(store).parent, what=what, done=len(records), total=len(tasks), seconds_left=left)
    return [records[i] for i in range(len(tasks)) if records[i] is not None]


def complete(calls: Sequence[tuple], executors: Sequence[Callable[[], Executor]]) -> Iterator[tuple[int, dict | None]]:
    """(i, record) for each of `calls` of `run_task` as it is done, one at a time on each of the executors.

    An executor of one process breaks when that process is killed: it is made again, and takes the same call.
    """
    waiting, killed = deque(range(len(calls))), Counter()
    open_ones = [make() for make in executors]
    free, running = deque(range(len(executors))), {}
    try:
        while waiting or running:
            while waiting and free:
                place, i = free.popleft(), waiting.popleft()
                try:
                    future = open_ones[place].submit(run_task, *calls[i])
                except BrokenProcessPool:  # killed between two runs
                    open_ones[place] = executors[place]()
                    future = open_ones[place].submit(run_task, *calls[i])
                running[future] = place, i
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place, i = running.pop(future)
                free.append(place)
                error = future.exception()
                if isinstance(error, BrokenProcessPool) and killed[i] < RESTARTS:
                    killed[i] += 1
                    open_ones[place] = executors[place]()
                    waiting.appendleft(i)
                    continue
                if isinstance(error, BrokenProcessPool):
                    error = ChildProcessError("its process keeps being killed (out of memory?): try fewer jobs")
                if error is not None:
                    *_, seed, _, _, label = calls[i]
                    error.add_note(f"This was run {label!r}, seed {seed}; the finished ones are kept.")
                    raise error
                yield i, future.result()
    finally:
        for executor in open_ones:
            executor.shutdown(wait=False)


def local_executors(jobs: int) -> list[Callable[[], Executor]]:
    """What makes the executor in each of `jobs` places: one process each, so that a killed one breaks no other."""
    context = process_context()
    return [partial(ProcessPoolExecutor, 1, context, start_worker, (place,)) for place in range(jobs)]


def process_context() -> multiprocessing.context.BaseContext:
    """How worker processes start: forked from a server that has imported torch once and run nothing, where the system
    can; importing takes seconds, and a study starts processes several times.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ktglite.search"])
    return context


@contextmanager
def dask_executors(address: str, tasks: int) -> Iterator[list[Callable[[], Executor]]]:
    """The executor of a Dask cluster in as many places as there are tasks: Dask itself knows its workers.

    Raises ValueError when Dask is not installed, or there is no scheduler at `address`.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("--dask needs Dask: pip install 'ktglite[dask]', here and on the workers") from error
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        executor = client.get_executor(pure=False)
        yield [lambda: executor] * tasks


def end_with_parent() -> None:
    """In a worker process: end when the process that started it is gone, killed for instance."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def start_worker(place: int) -> None:
    """What a worker process does first: it takes its GPU, and must not outlive a parent that was killed."""
    end_with_parent()
    torch.set_num_threads(1)
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())


_loaded: dict[str, Data] = {}  # what a worker process keeps between its tasks
_one_run = threading.Lock()  # a Dask worker may have several threads, but torch has one random state per process


def run_task(
    source: Data | dict, config: TrainConfig, graph: Graph, seed: int, store: str, weights: str, label: str
) -> dict | None:
    """`run` in a worker process, None for one that diverges.

    `source`: the data, or the arguments of `load_data`, which is then called once.
    """
    with _one_run:
        if isinstance(source, dict):
            if repr(source) not in _loaded:
                _loaded.clear()
                _loaded[repr(source)] = load_data(**source)
            source = _loaded[repr(source)]
        try:
            return run(graph, source, config, seed, store, weights, label)
        except FloatingPointError as error:
            log.warning("%s, seed %d failed and is left out: %s", label, seed, error)
            return None


def default_jobs(workers_per_device: int = 1) -> int:
    """So many processes per GPU, or per core where there is none."""
    return workers_per_device * (torch.cuda.device_count() or cores())


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
