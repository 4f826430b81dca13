"""Run once and remember: a training is one JSON record, under a key of all that decides it."""

import logging
import operator
import pickle
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from typing import Literal

from filelock import FileLock
from tqdm import tqdm

from ktglite import gates
from ktglite.data import Data, Split
from ktglite.devices import resolve_device, resolve_precision
from ktglite.experiments import networks
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, independent
from ktglite.models import file_hash, find_weights, initialise
from ktglite.pool import open_pool
from ktglite.sources.datasets import load_data
from ktglite.store import (
    CORE,
    Checkpoint,
    acquire,
    code_hash,
    make_key,
    make_once,
    provenance,
    read_record,
    torch_version,
    write_record,
)
from ktglite.trainer import TrainConfig, epochs, initial_models, predict

__all__ = ["Run", "run", "run_all"]

log = logging.getLogger(__name__)

SCHEMA = 1
CHECKPOINT_TIME_SHARE = 0.1  # of a run's time that its checkpoints may take
TEACHER_SEED = 100


@dataclass(frozen=True, eq=False)
class Run:
    """One training, as it is decided before it begins.

    - `weights`: folder of the pre-trained weights that nodes start from.
    - `label`: the run's name in tables; it does not count in the key.
    """

    graph: Graph
    data: Data
    config: TrainConfig
    seed: int
    weights: str | Path = "data/weights"
    label: str | None = None

    def __post_init__(self):
        kinds = {"graph": (Graph,), "data": (Data, Images), "config": (TrainConfig,)}
        for name, allowed in kinds.items():
            if not isinstance(value := getattr(self, name), allowed):
                wanted = allowed[0].__name__
                raise TypeError(f"{name} must be a {wanted}: {value!r:.40} is not")
        if isinstance(self.data, Data):
            self.data.check_unchanged()
        object.__setattr__(self, "seed", int(operator.index(self.seed)))

    def key(self) -> str:
        """32 hex digits over all that decides the result: the core's code, torch's version, graph,
        images, settings, seed, and the contents of weights files.

        The device does not count; the precision that "auto" stands for on it does. Raises
        ValueError for a gate from outside the package.
        """
        check_gates(gate for row in self.graph.gates for gate in row)
        settings = asdict(self.config)
        device = resolve_device(settings.pop("device"))
        settings["precision"] = resolve_precision(self.config.precision, device)
        code = [code_hash(*CORE), torch_version()]
        inputs = self.graph.to_dict(), self.data.fingerprint, settings, self.seed
        return make_key(SCHEMA, code, *inputs, self.weight_hashes())

    def weight_hashes(self) -> dict[str, str]:
        """SHA-256 of every weights file that a node which matters starts from, by "init arch"."""
        hashes = {}
        for node in sorted({self.graph.nodes[i] for i in self.graph.reaching_target()}):
            if path := find_weights(node.arch, node.init, self.weights):
                hashes[f"{node.init} {node.arch}"] = file_hash(path)
        return hashes

    def epochs(self, checkpoint: Checkpoint | None = None, models: list | None = None):
        """The training itself, see `ktglite.trainer.epochs`."""
        where = self.seed, self.weights
        return epochs(self.graph, self.data, self.config, *where, models, checkpoint)

    def initial_models(self) -> list:
        """The networks it begins with, see `ktglite.trainer.initial_models`."""
        return initial_models(self.graph, self.data, self.config, self.seed, self.weights)


@dataclass(frozen=True)
class Store:
    """A folder of records.

    - `keep`: writes the network of the "target", or of "all" nodes that count, to
      `<folder>/<key>.node1.safetensors` and so on; a run whose networks are not there is trained
      again, to the same result.
    - `ready`: records from elsewhere, such as those that come with the kit. A run of the same
      graph, images, settings and seed is taken from there instead of being trained.
    """

    folder: str | Path
    keep: Literal["none", "target", "all"] = "none"
    ready: Sequence[dict] = ()

    def __post_init__(self):
        if self.keep not in (allowed := ("none", "target", "all")):
            raise ValueError(f"keep is {self.keep!r}: allowed are {', '.join(allowed)}")

    def find_ready(self, task: Run) -> dict | None:
        """The ready record of a run, whose code, weights files and machine may be others.

        None where networks are to be kept, which no record has. Raises ValueError as `Run.key`.
        """
        config = asdict(task.config) | {"device": None}
        check_gates(gate for row in task.graph.gates for gate in row)
        wanted = task.seed, task.graph.to_dict(), task.data.fingerprint, config
        defaults = asdict(TrainConfig())  # of settings that are younger than a record
        for record in self.ready if self.keep == "none" else ():
            config = defaults | record["config"] | {"device": None}
            images = record["data"]["fingerprint"]
            if (record["seed"], record["graph"], images, config) == wanted:
                return record | {"label": task.label}
        return None


def weights_folder(weights: str | Path | Sequence[str | Path], seed: int) -> str | Path:
    """Where a seed's weights lie: of several folders, repeated pre-trainings, seeds take turns."""
    return weights if isinstance(weights, str | Path) else weights[seed % len(weights)]


def check_gates(names: Iterable[str]) -> None:
    """Raise ValueError for a gate from outside the package, whose code no key can know."""
    for name in sorted(set(names)):
        if GATES[name] is not getattr(gates, name, None):
            way_out = "train it by ktglite.epochs, or write it into ktglite/gates.py"
            raise ValueError(f"gate {name!r} is not the package's own: {way_out}")


def run(task: Run, store: str | Path | Store) -> dict:
    """Train to the end, or return the record of having done so before, see `Store`.

    The record is `<folder>/<key>.json`. A killed run resumes from its last checkpoint: an epoch
    ago, unless writing one after each would take more than a tenth of the time.

    Raises FloatingPointError when a loss is no longer finite. The record then says so (`status`
    "failed", `error`), and the same call raises it again without training until it is deleted.
    """
    store = store if isinstance(store, Store) else Store(store)
    if ready := store.find_ready(task):
        return ready
    with _begin(task) as task:
        key = task.key()
        path = Path(store.folder) / f"{key}.json"
        checkpoint = Checkpoint(path.with_suffix(".ckpt"), key, CHECKPOINT_TIME_SHARE)
        failed = path.exists() and read_record(path, SCHEMA).get("status") == "failed"
        nodes = sorted(task.graph.reaching_target())
        kept = networks.kept_files(path, nodes, "none" if failed else store.keep)
        make_once(path, lambda path: _train(task, path, checkpoint, kept), kept.values())
    record = read_record(path, SCHEMA)
    if record.get("key") != key or record.get("status") not in ("complete", "failed"):
        raise ValueError(f"{path} is not the record of this run; delete it and it is done again")
    checkpoint.drop()  # after the record: of a process that was killed in between, too
    if record["status"] == "failed":
        raise FloatingPointError(f"{record['error']} (see {path}; delete it to try again)")
    return {**record, "label": task.label}


def _train(task: Run, path: Path, checkpoint: Checkpoint, kept: Mapping) -> None:
    """Train to the end, or until a loss is not finite; write the record after what is kept."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    history = []
    error = None
    nets = task.initial_models()
    bar = {"total": task.config.epochs, "unit": "epoch", "disable": parent_process() is not None}
    try:
        for epoch in (shown := tqdm(task.epochs(checkpoint, nets), "epochs", **bar)):
            history.append(epoch)
            shown.set_postfix_str(f"validation {epoch['val_accuracy'][0]:.1f} %")
    except FloatingPointError as failure:
        error = str(failure)
    last = history[-1] if error is None else {}
    reported = last.get("reported_epoch")
    record = {
        "key": path.stem,
        "label": task.label,
        "status": "complete" if error is None else "failed",
        "error": error,
        "graph": task.graph.to_dict(),
        "data": describe(task.data),
        "config": asdict(task.config),
        "seed": task.seed,
        "weights": task.weight_hashes(),
        "epochs": history,
        "epoch": reported,
        "val_accuracy": None if reported is None else history[reported - 1]["val_accuracy"],
        "test_accuracy": last.get("test_accuracy"),
        "seconds": sum(record["seconds"] for record in history),
        "provenance": provenance(task.config) | {"started": started},
    }
    for node, file in kept.items() if error is None else ():
        networks.save_network(nets[node], file, networks.card_of(record, task.data, node + 1))
    write_record(path, record, SCHEMA)


def train_teacher(
    arch: str, data: "Data | Images", config: TrainConfig, weights: str | Path
) -> Path:
    """One network alone, trained once on these images as the start "teacher"; its weights file.

    A killed one resumes. One of other code, torch or precision is made again. Raises ValueError
    where the folder has the teacher of another task or training.
    """
    data = data.load() if isinstance(data, Images) else data
    path = Path(weights) / f"teacher-{arch}.safetensors"
    teacher = Run(independent(Node(arch)), data, config, TEACHER_SEED, weights)
    record = {"key": teacher.key(), "graph": teacher.graph.to_dict(), "data": describe(data)}
    record["config"] = asdict(config)

    checkpoint = Checkpoint(path.with_suffix(".ckpt"), record["key"], CHECKPOINT_TIME_SHARE)

    def make(file: Path) -> None:
        nets = teacher.initial_models()
        *_, last = teacher.epochs(checkpoint, nets)
        record["test_accuracy"] = last["test_accuracy"][0]
        networks.save_network(nets[0], file, networks.card_of(record, data, node=1))
        checkpoint.drop()

    card = networks.read_card(make_once(path, make))
    if card.get("key") != record["key"]:
        changed = dict(record["config"].items() ^ card.get("config", {}).items())
        others = card["data"]["fingerprint"] != data.fingerprint
        if others or changed.keys() - {"device", "precision"}:
            found = f"{path} was trained on other images or with other settings"
            raise ValueError(f"{found}: remove it, and it is made again")
        with acquire(FileLock(f"{path}.lock")):
            if networks.read_card(path).get("key") != record["key"]:
                make(path)
    return path


def run_until(task: Run, store: str | Path, epoch: int) -> list[dict]:
    """A pool's task: train up to `epoch` and return the records of epochs 1..epoch.

    At the last epoch they are those of `run`. The checkpoint `<store>/<key>.ckpt` stays, so that a
    later call resumes from it. Raises what `run` raises.
    """
    if epoch >= task.config.epochs:
        return run(task, store)["epochs"]
    with _begin(task) as task:
        key = task.key()
        checkpoint = Checkpoint(Path(store) / f"{key}.ckpt", key)
        return list(islice(task.epochs(checkpoint), epoch))


def run_all(
    graphs: Mapping[str, Graph],
    data: Data,
    config: TrainConfig,
    seeds: Sequence[int],
    store: str | Path | Store,
    weights: str | Path | Sequence[str | Path] = "data/weights",
    pool=None,
) -> list[dict]:
    """`run` for every graph, by label, and seed in a pool; the records in (graph, seed) order.

    A run that diverges, or whose process keeps being killed, is left out with a warning, and the
    others go on.

    Args:
        weights: a folder, or several that stand for repeated pre-trainings: a run with seed s
            takes number s modulo their count.
        pool: see `ktglite.pool.open_pool`; by default one process per GPU or core.

    Raises:
        FileNotFoundError, ValueError: for weights that are missing or do not fit, before anything
            is trained.
        Exception: what a run raises, with a note that names it; of a run that was left out only
            when no other has a record.
    """
    store = store if isinstance(store, Store) else Store(store)
    tasks = {
        (label, seed): Run(graph, data, config, seed, weights_folder(weights, seed), label)
        for seed in seeds  # so that a table that is not whole has every row equally often
        for label, graph in sorted(graphs.items(), key=_by_size)  # no core waits for a large one
    }
    records = {name: found for name, task in tasks.items() if (found := store.find_ready(task))}
    tasks = {name: task for name, task in tasks.items() if name not in records}
    check_starts(tasks.values())
    store = replace(store, ready=())
    failure = None
    with open_pool() if pool is None else nullcontext(pool) as pool:
        futures = {pool.submit(run, portable(task), store): name for name, task in tasks.items()}
        for future in tqdm(as_completed(futures), "runs", len(tasks), unit="run", mininterval=1):
            label, seed = futures[future]
            try:
                records[label, seed] = future.result()
            except (FloatingPointError, ChildProcessError) as error:
                log.warning("%s, seed %d failed and is left out: %s", label, seed, error)
                failure = error
            except BaseException as error:
                error.add_note(f"This was run {label!r}, seed {seed}; finished ones are kept.")
                for other in futures:
                    other.cancel()
                raise
    if failure and not records:
        failure.add_note("No run of this command came to its end, and this was the last of them.")
        raise failure
    order = [(label, seed) for label in graphs for seed in seeds]
    return [records[name] for name in order if name in records]


def _by_size(named: tuple[str, Graph]) -> int:
    return -len(named[1].reaching_target())


def check_starts(tasks: Iterable[Run]) -> None:
    """Load every start once, and show it an image: what is missing or does not fit is told now, and
    not in hours."""
    starts = defaultdict(list)  # whether the nodes learn that have it
    for task in tasks:
        for i in task.graph.reaching_target():
            start = task.graph.nodes[i], task.weights, task.data, task.config
            starts[start].append(task.graph.learns(i))
    for (node, folder, data, config), learns in starts.items():
        how = {"scale": config.scale, "stages": config.stages}
        try:
            net = initialise(node.arch, node.init, len(data.classes), 0, folder, **how)
        except FileNotFoundError as error:
            elsewhere = "; where they lie elsewhere, give --set weights=FOLDER"
            raise FileNotFoundError(f"{error}{elsewhere}") from None
        try:
            predict(net, Split(data.val.images[:1], data.val.labels[:1]))
        except (RuntimeError, AssertionError, ValueError) as error:
            found = f"{node.arch} cannot take images of {data.size} px ({error})"
            raise ValueError(f"{found}: give another image_size or arch") from error
        path = find_weights(node.arch, node.init, folder)
        card = networks.read_header(path) if path and path.suffix == ".safetensors" else {}
        images = card.get("data", {})
        same_classes = card.get("classes") == [*data.classes]
        alike = same_classes or images.get("name") == data.name
        if alike and images.get("fingerprint") != data.fingerprint:
            trained = f"{path} was trained on other images of {data.name}, or another split: test"
            risk = "images of this one may be among its training images, and accuracies too high"
            log.warning("%s %s; train it on the same split", trained, risk)
        whole = config.head == "fit" and config.stages == 5
        if not all(learns) and not (whole and same_classes):
            noise = "never learns, and its head is random: it teaches noise"
            way_out = "start it from a network trained on these images, as keep= leaves them"
            log.warning("a node that starts from %s %s; %s", node.init, noise, way_out)


# ---- in worker processes


_one_training = threading.Lock()  # torch has one random state a process, a Dask worker threads
_loaded: dict[str, Data] = {}  # what a process keeps between its tasks, by fingerprint


@dataclass(frozen=True)
class Images:
    """What a task says of its images: which they are, how to load them, or they as `content`."""

    fingerprint: str
    spec: dict | None
    content: bytes | None

    def load(self) -> Data:
        """The data. Raises ValueError where the images are others now."""
        if self.fingerprint not in _loaded:
            _loaded.clear()
            found = load_data(**self.spec) if self.content is None else pickle.loads(self.content)
            if found.fingerprint != self.fingerprint:
                name = f"the images of {found.name} are not those the command began with"
                raise ValueError(f"{name}: they were changed, or differ between machines")
            _loaded[self.fingerprint] = found
        return _loaded[self.fingerprint]


@lru_cache(maxsize=1)
def _pickled(data: Data) -> bytes:
    """Images as bytes: tensors would go through shared memory, of which containers have little.
    Cloned, so that they come without the rest of a tensor that they are a view of."""
    splits = {name: getattr(data, name) for name in ("train", "val", "test")}
    own = {n: Split(split.images.clone(), split.labels.clone()) for n, split in splits.items()}
    return pickle.dumps(replace(data, **own))


def portable(task: Run) -> Run:
    """A run as it is sent to another process, which loads its images if `load_data` made them."""
    return replace(task, data=portable_images(task.data))


def portable_images(data: Data) -> Images:
    """Images as they are sent to another process."""
    content = _pickled(data) if data.spec is None else None
    return Images(data.fingerprint, data.spec, content)


@contextmanager
def _begin(task: Run) -> Iterator[Run]:
    """A task with its images, while no other trains in this process."""
    with _one_training:
        yield replace(task, data=task.data.load()) if isinstance(task.data, Images) else task


def describe(data: Data) -> dict:
    """What a record says of its data."""
    facts = {name: getattr(data, name) for name in ("name", "fingerprint", "size")}
    return facts | {part: len(getattr(data, part)) for part in ("classes", "train", "val", "test")}


def load_records(store: str | Path) -> list[dict]:
    """Every record of a store whose run came to its end, sorted by key."""
    records = [read_record(path, SCHEMA) for path in sorted(Path(store).glob("*.json"))]
    return [record for record in records if record["status"] == "complete"]
