"""Step 3: the search for a good graph with ASHA, by Optuna, on one process or many.

A study holds a *plan*: N seeded random graphs, enqueued before the first training. Workers take them one by one,
report the target's accuracy after every epoch, and Optuna's `SuccessiveHalvingPruner` stops the weaker ones. Which
graphs are tried therefore depends on the seed alone, not on how many workers there are or when they die.
"""

import bisect
import json
import logging
import math
import os
import random
import socket
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy
import torch
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from ktglite import runs, stats
from ktglite.data import Data, load_data
from ktglite.devices import resolve_device, resolve_precision
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through, independent
from ktglite.trainer import TrainConfig, derive, epochs

log = logging.getLogger(__name__)

# The four searches of the paper: what a node may start from.
CONDITIONS = {
    "none": ("scratch",),
    "imagenet1k": ("scratch", "imagenet1k"),
    "fractaldb1k": ("scratch", "fractaldb1k"),
    "mixed": ("scratch", "imagenet1k", "fractaldb1k"),
}
SAMPLERS = ("random", "tpe")
PRUNERS = ("asha", "none")
OPEN = (TrialState.WAITING, TrialState.RUNNING)
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RETRIES = 2  # a graph whose worker was killed is tried again this often
GRACE = 10  # seconds: a worker signs a trial right after taking it; one that stays without a name is lost
POLL = 0.5  # seconds between two looks at the storage
AHEAD = 8  # trials enqueued at a time in a database: Optuna reads each unfinished one again at every step
HEARTBEAT = 60  # seconds, on a database only; a worker that misses two is taken for dead


@dataclass(frozen=True)
class SearchConfig:
    """What is searched and how. The defaults are the paper's: 1,500 graphs of three ResNet18, ASHA as released.

    - `condition`: one of `CONDITIONS`.  `sources`: the pre-trained initialisations at hand; "imagenet1k_standin"
      among them takes the place of "imagenet1k".
    - `arch`: one architecture, or several for every node to choose from.  `nodes`: N, the target included.
    - `trials`: how many graphs.  `seed`: of the plan, and of *every* training, so that two graphs differ by what
      they are and not by their random numbers.
    - `sampler`: "random" (uniform, no graph twice) or "tpe", which learns from the trials before.
    - `pruner`: "asha", with a rung at epochs `min_resource` x `reduction_factor`^(`min_early_stopping_rate` + i), or
      "none".
    - `select_on`: prune and select by accuracy on "val", or on "test" as the released code does; then the best
      value is no estimate of anything, and everything written says so.
    - `reuse`: take over the curve of a finished graph that trains the target bit for bit alike, see `same_training`.

    Raises ValueError naming the setting that is out of range.
    """

    condition: str = "mixed"
    sources: tuple[str, ...] = ("imagenet1k", "fractaldb1k")
    arch: str | tuple[str, ...] = "resnet18"
    nodes: int = 3
    trials: int = 1500
    seed: int = 0
    sampler: str = "random"
    pruner: str = "asha"
    min_resource: int = 1
    reduction_factor: int = 2
    min_early_stopping_rate: int = 0
    select_on: str = "val"
    reuse: bool = False

    def __post_init__(self):
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "arch", self.arch if isinstance(self.arch, str) else tuple(self.arch))
        for name, allowed in [("sampler", SAMPLERS), ("pruner", PRUNERS), ("select_on", ("val", "test"))]:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        lowest = {"nodes": 1, "trials": 1, "min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {low}")
        for arch in self.archs:
            for choice in self.choices:
                Node(arch, choice)

    @property
    def choices(self) -> tuple[str, ...]:
        """The initialisations a node may have."""
        return condition_choices(self.condition, self.sources)

    @property
    def archs(self) -> tuple[str, ...]:
        """The architectures a node may have."""
        return (self.arch,) if isinstance(self.arch, str) else self.arch


def condition_choices(condition: str, sources: Sequence[str] = ("imagenet1k", "fractaldb1k")) -> tuple[str, ...]:
    """The initialisations of a condition, each under the name of the source at hand: the stand-in for ImageNet-1k
    is called "imagenet1k_standin" wherever it is used. Raises ValueError for an unknown condition or absent source.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"condition is {condition!r}: allowed are {', '.join(CONDITIONS)}")
    choices = []
    for name in CONDITIONS[condition]:
        found = [source for source in ("scratch", *sources) if source == name or source.startswith(f"{name}_")]
        if not found:
            raise ValueError(f"condition {condition!r} needs a source {name!r}; sources are {', '.join(sources)}")
        choices.append(found[0])
    return tuple(choices)


# ---- the search space: a graph as Optuna's parameters, and back


def dimensions(choices: Sequence[str], archs: Sequence[str], n_nodes: int) -> dict[str, tuple[str, ...]]:
    """The name and the choices of every parameter: "arch 1", "init 1", .., "gate label->1", "gate 2->1", .."""
    nodes = range(1, n_nodes + 1)
    names = {f"arch {i}": tuple(archs) for i in nodes} | {f"init {i}": tuple(choices) for i in nodes}
    return names | {edge_name(s, t): tuple(GATES) for t in range(n_nodes) for s in range(n_nodes)}


def edge_name(source: int, target: int) -> str:
    """Name of the gate on the edge source -> target; indices count from 0, names from 1 as in the paper."""
    return f"gate label->{target + 1}" if source == target else f"gate {source + 1}->{target + 1}"


def to_params(graph: Graph) -> dict[str, str]:
    """A graph as the parameters of an Optuna trial."""
    params = {f"arch {i}": node.arch for i, node in enumerate(graph.nodes, 1)}
    params |= {f"init {i}": node.init for i, node in enumerate(graph.nodes, 1)}
    return params | {edge_name(s, t): graph.gates[t][s] for t in range(graph.size) for s in range(graph.size)}


def to_graph_dict(params: dict[str, str]) -> dict:
    """The inverse of `to_params`, in the form of `Graph.to_dict`; not checked, since a sampler may draw a target
    that learns from nothing."""
    n = sum(name.startswith("init ") for name in params)
    nodes = [{"arch": params[f"arch {i}"], "init": params[f"init {i}"]} for i in range(1, n + 1)]
    gates = [[params[edge_name(s, t)] for s in range(n)] for t in range(n)]
    return {"nodes": nodes, "gates": gates, "transfer_weight": 1.0}


def to_graph(trial: FrozenTrial) -> Graph:
    """The graph of a trial. Raises ValueError where it is no valid one."""
    return Graph.from_dict(to_graph_dict(trial.params))


def sample_graphs(
    choices: Sequence[str], arch: str | Sequence[str], n_nodes: int, trials: int, seed: int
) -> list[Graph]:
    """`trials` different graphs, uniform over all whose target has an open edge; the plan of a random search.

    The first graphs stay the same when `trials` grows. Raises ValueError when there are not that many graphs.
    """
    archs = (arch,) if isinstance(arch, str) else tuple(arch)
    space = dimensions(choices, archs, n_nodes)
    gates = len(GATES)
    count = (len(choices) * len(archs)) ** n_nodes * (gates**n_nodes - 1) * gates ** (n_nodes * (n_nodes - 1))
    if trials > count:
        raise ValueError(
            f"trials is {trials}, but there are only {count} different graphs: ask for fewer, or more nodes"
        )
    rng, graphs = random.Random(seed), {}
    while len(graphs) < trials:
        drawn = to_graph_dict({name: rng.choice(values) for name, values in space.items()})
        if set(drawn["gates"][0]) != {"cutoff"}:
            graphs[Graph.from_dict(drawn)] = None
    return list(graphs)


def same_training(graph: Graph) -> tuple:
    """A key: graphs that share it give the target the same result to the last bit, from the same seed.

    Nodes that the target cannot hear are left out, and Correct on a label edge is Through. The others keep their
    places, unlike in `Graph.canonical`: every node draws its weights from its own number, so that a graph with nodes
    2 and 3 exchanged is equal in effect, and yet another draw.
    """
    rows = []
    for i in sorted(graph.reaching_target()):
        gates = ["through" if (s, gate) == (i, "correct") else gate for s, gate in enumerate(graph.gates[i])]
        rows.append((i, graph.nodes[i], tuple(gates)))
    return graph.transfer_weight, *rows


def expected_share_run(n_nodes: int) -> float:
    """The share of all nodes that the target can hear, exactly, over every assignment of the gates in which it learns.

    Only open or cut matters: 2^(n^2) patterns, each standing for (gates - 1)^(its open edges) assignments.
    """
    edges = n_nodes**2
    if edges > 16:
        raise ValueError(f"nodes is {n_nodes}: the exact sum over 2^{edges} patterns is for at most 4")
    patterns = np.arange(2**edges)[:, None] >> np.arange(edges) & 1
    opened = patterns.astype(bool).reshape(-1, n_nodes, n_nodes)  # [target, source]
    weights = (len(GATES) - 1.0) ** patterns.sum(1) * opened[:, 0].any(1)
    heard = np.zeros((len(opened), n_nodes), bool)
    heard[:, 0] = True
    for _ in range(n_nodes - 1):
        heard |= (heard[:, :, None] & opened).any(1)
    return float((weights * heard.mean(1)).sum() / weights.sum())


# ---- storage and study


def open_storage(storage: str | Path | None) -> BaseStorage | None:
    """None: in memory. A URL: that database, with heartbeat. Anything else: the path of a journal file.

    Raises ValueError when the database cannot be reached or its driver is not installed.
    """
    if storage is None:
        return None
    if is_database(storage):
        return open_database(str(storage))
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")  # the system releases it when its process is killed, Optuna's own would linger
    with lock:
        drop_torn_line(path)
    try:
        if path.exists() and path.stat().st_size:
            json.loads(path.read_bytes().splitlines()[-1])  # Optuna would only stumble over it at the next line
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except Exception as error:  # whatever Optuna makes of lines that it has not written
        raise ValueError(
            f"{path} is not a readable search journal ({type(error).__name__}: {error}); restore it, or move it away "
            f"and the search begins anew"
        ) from error


def open_database(url: str) -> RDBStorage:
    """Optuna's storage with a heartbeat, by which any worker notices another's death and fails its trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},  # a connection that broke over hours of training is renewed
                heartbeat_interval=HEARTBEAT,
            )
        except ImportError as error:
            hint = "PostgreSQL needs pip install 'ktglite[postgres]' and a URL that begins with postgresql+psycopg://"
            raise ValueError(f"{shown(url)}: its driver is not installed; {hint}") from error
        except sqlalchemy.exc.OperationalError as error:
            raise ValueError(f"{shown(url)} cannot be reached: {str(error.orig).strip()}") from error
        except sqlalchemy.exc.ArgumentError as error:
            raise ValueError("the storage is no valid URL: write postgresql+psycopg://USER@HOST/DATABASE") from error


def shown(storage: str | Path | None) -> str:
    """A storage as it may be printed: without its password."""
    if not is_database(storage):
        return str(storage)
    return sqlalchemy.make_url(str(storage)).render_as_string(hide_password=True)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without an end, left by a crash: the next line would be appended to it and both be lost."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+") as file:
        text = file.read()
        if not text.endswith(b"\n"):
            log.warning("%s ended in half a line, which was dropped", path)
            file.truncate(text.rfind(b"\n") + 1)


def check_workers(storage: str | Path | None, jobs: int) -> None:
    """Raise ValueError for a storage that cannot serve several workers."""
    if jobs > 1 and str(storage).startswith("sqlite"):
        raise ValueError(
            f"{shown(storage)} with {jobs} workers: SQLite hands one trial to two of them; use jobs=1, a journal file "
            f"(storage='search.log') on one machine, or PostgreSQL across machines"
        )
    if jobs > 1 and storage is None:
        raise ValueError(f"a study in memory cannot be shared by {jobs} workers: give a storage, or jobs=1")


def open_study(
    name: str,
    storage: str | Path | None,
    settings: SearchConfig,
    data: Data,
    config: TrainConfig,
    weights: str | Path = "data/weights",
    worker: int = 0,
) -> optuna.Study:
    """Create the study with its plan enqueued, or load it and enqueue what is left of its plan.

    - `storage`: path of a journal file (any number of workers on one machine), URL of a database, None for memory.
    - `worker`: number of this worker, for the random numbers of its sampler.

    A study remembers data, weights and settings, and raises ValueError when opened with others; only `trials` may
    grow. Raises FileNotFoundError when weights are missing, before anything is trained.
    """
    facts = study_facts(settings, data, config, weights)
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(storage),
        direction="maximize",
        sampler=make_sampler(settings, worker),
        pruner=make_pruner(settings),
        load_if_exists=True,
    )
    with plan_lock(storage):
        check_facts(study, facts, storage)
        if settings.trials < study.user_attrs.get("trials", 0):
            planned = study.user_attrs["trials"]
            where = f"study {name!r} in {shown(storage)}"
            raise ValueError(f"{where} has {planned} planned trials: {settings.trials} is fewer")
        for key, value in (facts | {"trials": settings.trials}).items():
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
        enqueue_plan(study, storage, again=True)
    if settings.select_on == "test":
        log.warning("study %r prunes and selects on the test split: its best value is not a test result", name)
    return study


def study_facts(settings: SearchConfig, data: Data, config: TrainConfig, weights: str | Path) -> dict:
    """All that decides a study's results, fit for JSON."""
    search = asdict(settings) | {"choices": settings.choices, "arch": settings.archs}
    search = {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in search.items()
        if key not in ("sources", "trials", "reuse")
    }
    training = asdict(config)
    training["precision"] = resolve_precision(config.precision, resolve_device(training.pop("device")))
    every_node = all_through(*(Node(arch, choice) for arch in settings.archs for choice in settings.choices))
    hashes = runs.weight_hashes(every_node, weights)
    return {"search": search, "training": training, "data": runs.describe(data), "weights": hashes}


def check_facts(study: optuna.Study, facts: dict, storage: str | Path | None) -> None:
    """Raise ValueError naming what differs between the study as it was made and as it is opened."""
    for part, new in facts.items():
        old = study.user_attrs.get(part, new)
        differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if differing:
            key = differing[0]
            raise ValueError(
                f"study {study.study_name!r} in {shown(storage)} was made with another {part} {key} "
                f"({old.get(key)!r}, now {new.get(key)!r}): restore the setting, or give another name or storage"
            )


def make_sampler(settings: SearchConfig, worker: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler of one worker. A random plan is drawn beforehand; its sampler serves trials beyond the plan."""
    seed = derive(settings.seed, "sampler", worker) % 2**32
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # keeps workers off each other's graphs


def make_pruner(settings: SearchConfig) -> optuna.pruners.BasePruner:
    """ASHA as in the released code of Minami et al., or none."""
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=settings.min_resource,
        reduction_factor=settings.reduction_factor,
        min_early_stopping_rate=settings.min_early_stopping_rate,
        bootstrap_count=0,
    )


def asha_epochs(
    curves: np.ndarray, min_resource: int = 1, reduction_factor: int = 2, min_early_stopping_rate: int = 0
) -> np.ndarray:
    """After how many epochs ASHA stops each of these curves (trials, epochs), one after the other; int (trials,).

    The same decisions as `make_pruner`'s with one worker, without training anything: for planning, and to ask of
    whole curves what other rungs would have done to them. A curve that reaches its end was never stopped.
    """
    trials, epochs = curves.shape
    rungs, rung = [], min_resource * reduction_factor**min_early_stopping_rate
    while rung < epochs:
        rungs.append(rung)
        rung *= reduction_factor
    seen: list[list[float]] = [[] for _ in rungs]  # ascending
    stopped = np.full(trials, epochs)
    for i, curve in enumerate(curves):
        for rung, values in zip(rungs, seen, strict=True):
            value = curve[rung - 1]
            bisect.insort(values, value)
            if value < values[-max(1, len(values) // reduction_factor)]:
                stopped[i] = rung
                break
    return stopped


def early_rungs(summary: dict, first: Sequence[int] = (1, 2, 4), orders: int = 200, seed: int = 0):
    """What a first rung at these epochs would do to graphs that were all trained to the end, by the target's start.

    `summary` is `study_summary` of a search with `pruner="none"`. ASHA's decisions depend on who came before, so they
    are replayed (`asha_epochs`) over `orders` random orders of the same graphs. A DataFrame with a row per `rung` and
    `target` (its initialisation), all in percent: `passed`, the chance to pass the first rung, mean over the `n`
    graphs with its 95 % interval `low` to `high`; `deserved`, who of them end among the best 1/reduction_factor of
    all; `bias`, the paired difference passed - deserved with its interval `bias_low` to `bias_high`, and in words as
    `verdict`: "favoured", "held back", or "not resolved" when the interval holds 0; `best_kept`, the
    chance that the very best graph is trained to the end; `epochs`, what is spent of the whole. Raises ValueError
    when a graph was pruned.
    """
    import pandas as pd

    if summary["search"]["pruner"] != "none":
        raise ValueError(f"study {summary['study']!r} was pruned: search with pruner='none' to see whole curves")
    trials = [trial for trial in summary["trials"] if trial["state"] == "COMPLETE"]
    curves = np.array([trial["values"] for trial in trials])
    target = np.array([trial["graph"]["nodes"][0]["init"] for trial in trials])
    final, factor = curves[:, -1], summary["search"]["reduction_factor"]
    deserved = final >= np.sort(final)[-max(1, len(final) // factor)]
    rng, rows = np.random.default_rng(seed), []
    permutations = [rng.permutation(len(curves)) for _ in range(orders)]
    for rung in [rung for rung in first if rung < curves.shape[1]]:
        stopped = np.empty((orders, len(curves)), int)
        for k, order in enumerate(permutations):
            stopped[k, order] = asha_epochs(curves[order], rung, factor)
        passed = (stopped > rung).mean(0)
        kept = (stopped[:, final.argmax()] == curves.shape[1]).mean()
        for init in summary["choices"]:
            own = target == init
            mean, bias = stats.summary(100 * passed[own]), stats.summary(100 * (passed - deserved)[own])
            row = {"rung": rung, "target": init, "n": mean["n"], "passed": mean["mean"]}
            row |= {"low": mean["low"], "high": mean["high"], "deserved": 100 * deserved[own].mean()}
            row |= {"bias": bias["mean"], "bias_low": bias["low"], "bias_high": bias["high"]}
            row["verdict"] = "favoured" if bias["low"] > 0 else "held back" if bias["high"] < 0 else "not resolved"
            rows.append(row | {"best_kept": 100 * kept, "epochs": 100 * stopped.mean() / curves.shape[1]})
    return pd.DataFrame(rows)


def load_study(name: str, storage: str | Path) -> optuna.Study:
    """A study made before, to look at. Raises KeyError when the storage has none of that name."""
    return optuna.load_study(study_name=name, storage=open_storage(storage))


def plan_of(study: optuna.Study) -> list[dict]:
    """The parameters of every index of a study's plan. TPE chooses its graphs later: theirs are empty."""
    search, trials = study.user_attrs["search"], study.user_attrs["trials"]
    if search["sampler"] == "tpe":
        return [{}] * trials
    graphs = sample_graphs(search["choices"], search["arch"], search["nodes"], trials, search["seed"])
    return [to_params(graph) for graph in graphs]


def enqueue_plan(study: optuna.Study, storage: str | Path | None, again: bool = False) -> None:
    """Enqueue every index of the plan that no trial has settled or is about to; in a database the next `AHEAD`.

    A graph whose worker was killed comes back with the number of its attempts, of which there are `RETRIES` more at
    most; `again` forgets them, for a search that is opened anew. To be called under `plan_lock`.
    """
    search = study.user_attrs["search"]
    space = dimensions(search["choices"], search["arch"], search["nodes"])
    distributions = {name: CategoricalDistribution(values) for name, values in space.items()}
    latest = {trial.user_attrs["plan"]: trial for trial in planned_trials(study)}
    missing = [
        i
        for i in range(study.user_attrs["trials"])
        if i not in latest or not (latest[i].state in OPEN or is_settled(latest[i]))
    ]
    plan = plan_of(study) if missing else []
    for i in missing[:AHEAD] if is_database(storage) else missing:
        params, attempts = plan[i], {}
        if i in latest and not again:
            history = latest[i].system_attrs.get("retry_history", [])
            # with the rungs it has passed, so that it is not judged there a second time
            attempts = {**latest[i].system_attrs, "retry_history": [*history, latest[i].number]}
            params = latest[i].params
        trial = optuna.create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions={name: distributions[name] for name in params},
            user_attrs={"plan": i},
            system_attrs=attempts,
        )
        study.add_trial(trial)


def is_settled(trial: FrozenTrial) -> bool:
    """Whether a planned trial is over for good: finished, diverged, or its worker killed once too often.

    One that failed for another reason, such as a full disk, is enqueued again when the study is opened.
    """
    if trial.state == TrialState.FAIL:
        return "error" in trial.user_attrs or len(trial.system_attrs.get("retry_history", [])) >= RETRIES
    return trial.state in DONE


def planned_trials(study: optuna.Study) -> list[FrozenTrial]:
    """One trial per index of the plan, in its order: the settled or running one, or else the latest."""
    found: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        plan = trial.user_attrs.get("plan")
        if plan is not None and not (plan in found and (is_settled(found[plan]) or found[plan].state in OPEN)):
            found[plan] = trial
    return [found[plan] for plan in sorted(found)]


# ---- the objective


@dataclass(frozen=True)
class Objective:
    """What Optuna maximises: the target's accuracy in percent after training the trial's graph.

    `config`, `data`, `weights` are as for `ktglite.epochs`. With a folder `checkpoints`, a trial whose worker was
    killed goes on from its last epoch; `drop_checkpoint` deletes what is no longer needed.
    """

    settings: SearchConfig
    data: Data
    config: TrainConfig
    weights: str | Path = "data/weights"
    checkpoints: str | Path | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        """Train, report after every epoch, and stop when ASHA says so.

        Raises `optuna.TrialPruned`. A diverging training gives NaN, by which Optuna fails the trial and no more.
        """
        settings = self.settings
        space = dimensions(settings.choices, settings.archs, settings.nodes)
        params = {name: trial.suggest_categorical(name, values) for name, values in space.items()}
        drawn = to_graph_dict(params)
        if set(drawn["gates"][0]) == {"cutoff"}:
            raise optuna.TrialPruned("every edge into the target is cut off")
        try:
            with runs.one_thread(self.config):
                return self.train(trial, Graph.from_dict(drawn))
        except FloatingPointError as error:
            trial.set_user_attr("error", str(error))
            return math.nan

    def train(self, trial: optuna.Trial, graph: Graph) -> float:
        """The loop over the epochs."""
        # Under `select_on="test"` the test images stand in for the validation images during the search.
        data = self.data if self.settings.select_on == "val" else replace(self.data, val=self.data.test)
        path = checkpoint_path(self.checkpoints, trial, trial.study.study_name)
        twin = self.twin(trial, graph)
        known = [] if twin is None else [twin.intermediate_values[step] for step in sorted(twin.intermediate_values)]
        values = []
        for value in known:  # judged at every rung like any other: what is known is only not computed again
            values.append(value)
            if self.stops(trial, values):
                trial.set_user_attr("reused", {"trial": twin.number, "epochs": len(values)})
                raise optuna.TrialPruned(f"below the rung at epoch {len(values)}")
        if twin is not None and twin.state == TrialState.COMPLETE:
            trial.set_user_attr("reused", {"trial": twin.number, "epochs": len(values)})
            trial.set_user_attr("test_accuracy", twin.user_attrs.get("test_accuracy"))
            return twin.value
        with closing(epochs(graph, data, self.config, self.settings.seed, self.weights, checkpoint=path)) as records:
            for record in records:
                if record["epoch"] <= len(known):  # ASHA lets this graph go on where it stopped its twin
                    continue
                values.append(record["val_accuracy"][0])
                if self.stops(trial, values):
                    raise optuna.TrialPruned(f"below the rung at epoch {record['epoch']}")
        if "test_accuracy" in record:  # kept beside the value, and no decision looks at it
            trial.set_user_attr("test_accuracy", record["test_accuracy"][0])
        return values[record["reported_epoch"] - 1]

    def stops(self, trial: optuna.Trial, values: list[float]) -> bool:
        """Report the last of the values, and ask whether ASHA stops here."""
        trial.report(values[-1], step=len(values))
        return len(values) < self.config.epochs and trial.should_prune()  # after the last, nothing is left to save

    def twin(self, trial: optuna.Trial, graph: Graph) -> FrozenTrial | None:
        """With `reuse`, the finished trial of this study with the longest curve that this graph would repeat."""
        if not self.settings.reuse:
            return None
        done = trial.study.get_trials(deepcopy=False, states=DONE)
        alike = [other for other in done if reaching(other) and same_training(to_graph(other)) == same_training(graph)]
        return max(alike, key=lambda other: len(other.intermediate_values), default=None)


def checkpoint_path(checkpoints: str | Path | None, trial: optuna.Trial | FrozenTrial, study: str) -> Path | None:
    """Where a graph's checkpoint is kept; a second attempt at the same index of the plan finds it."""
    if checkpoints is None:
        return None
    plan = trial.user_attrs.get("plan", f"free{trial.number}")
    return Path(checkpoints) / f"{study}-{plan}.ckpt"


def drop_checkpoint(study: optuna.Study, trial: FrozenTrial, checkpoints: str | Path | None) -> None:
    """For Optuna's `callbacks`: delete a trial's checkpoint when its result is in the storage, and not before."""
    path = checkpoint_path(checkpoints, trial, study.study_name)
    if path is not None:
        path.unlink(missing_ok=True)


# ---- workers


class NotPlanned(Exception):
    """Raised in a trial beyond the plan: two workers saw the last waiting trial, and one of them came second."""


def work(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    storage: str | Path | None,
    checkpoints: str | Path | None = None,
    callbacks: Sequence[Callable[[optuna.Study, FrozenTrial], None]] = (),
) -> None:
    """Train planned trials until each is settled, those of killed workers included; then no checkpoint is left."""
    callbacks = [partial(drop_checkpoint, checkpoints=checkpoints), *callbacks]
    unsigned: dict[int, float] = {}  # trials seen without a worker's name, and when by this machine's clock
    own_errors: list[Exception] = []
    with sign_in(storage) as name:

        def planned(trial: optuna.Trial) -> float:
            if "plan" not in trial.user_attrs:
                raise NotPlanned
            try:
                trial.set_user_attr("worker", name)
                return objective(trial)
            except (optuna.TrialPruned, UpdateFinishedTrialError):
                raise
            except Exception as error:
                own_errors.append(error)
                raise

        while is_unfinished(study, trials := study.get_trials(deepcopy=False)):
            requeue_lost(study, storage, unsigned, trials)
            if any(trial.state == TrialState.WAITING for trial in trials):
                try:
                    study.optimize(planned, n_trials=1, catch=(NotPlanned,), callbacks=callbacks)
                except (ValueError, UpdateFinishedTrialError) as error:
                    # Optuna may not tell the end of a trial that another worker has taken for dead and enqueued again:
                    # a pause, such as a laptop's sleep, outlasted the heartbeat, and the graph is the other's now.
                    if own_errors or not was_refused(error):
                        raise
                    log.warning("a trial of this worker was taken for dead and given to another: %s", error)
            else:
                with plan_lock(storage):
                    enqueue_plan(study, storage)
                if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                    time.sleep(POLL)
    for trial in trials:  # of a worker that was killed between its result and this
        drop_checkpoint(study, trial, checkpoints)


def is_unfinished(study: optuna.Study, trials: list[FrozenTrial]) -> bool:
    """Whether a trial is waiting or running, or an index of the plan not settled."""
    if any(trial.state in OPEN for trial in trials):
        return True
    return sum(map(is_settled, planned_trials(study))) < study.user_attrs.get("trials", 0)


def was_refused(error: Exception) -> bool:
    """Whether Optuna says with this error that the trial is over already."""
    return isinstance(error, UpdateFinishedTrialError) or str(error).startswith("Cannot tell a ")


def is_journal(storage: str | Path | None) -> bool:
    """Whether `storage` names a journal file, and neither a database nor, by None, this process's memory."""
    return storage is not None and "://" not in str(storage)


def is_database(storage: str | Path | None) -> bool:
    """Whether `storage` is the URL of a database."""
    return "://" in str(storage)


def worker_lock(storage: str | Path, name: str) -> FileLock:
    """A lock that a worker holds as long as it lives; the system releases it however the worker ends."""
    folder = Path(f"{storage}.workers")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


@contextmanager
def sign_in(storage: str | Path | None) -> Iterator[str]:
    """This worker's name; with a journal its lock is held (a database has heartbeats)."""
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    if not is_journal(storage):
        yield name
        return
    lock = worker_lock(storage, name)
    with lock:
        yield name
    Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def plan_lock(storage: str | Path | None) -> Iterator[None]:
    """Held while a plan is changed, so that two processes do not enqueue the same index.

    A file beside a journal, an advisory lock in PostgreSQL; both are released when their holder dies.
    """
    if is_journal(storage):
        with worker_lock(storage, "plan"):
            yield
    elif str(storage).startswith("postgresql"):
        engine = sqlalchemy.create_engine(str(storage), poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("select pg_advisory_lock(hashtext('ktglite plan'))"))
            yield
    else:
        yield


def requeue_lost(
    study: optuna.Study,
    storage: str | Path | None,
    unsigned: dict[int, float] | None = None,
    trials: list[FrozenTrial] | None = None,
) -> None:
    """Fail the running trials whose worker is dead, and enqueue their graphs again, `RETRIES` times at most.

    `unsigned` remembers between calls which trials had no worker's name yet: with a name, a journal's trial is lost
    when its worker's lock can be had, a database's when its heartbeat stops; without one, after `GRACE` seconds.
    """
    if storage is None:
        return
    unsigned = {} if unsigned is None else unsigned
    if is_database(storage):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
    if not any(is_lost(trial, storage, unsigned) for trial in running(study, trials)):
        return
    with plan_lock(storage):  # another worker may have been here first: look again
        for trial in [trial for trial in running(study) if is_lost(trial, storage, unsigned)]:
            study.tell(trial.number, state=TrialState.FAIL)
            if len(trial.system_attrs.get("retry_history", [])) >= RETRIES:
                log.warning("plan %s lost its worker %d times and is given up", trial.user_attrs["plan"], RETRIES + 1)
        enqueue_plan(study, storage)


def running(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> list[FrozenTrial]:
    """Trials that say they run, of all or of `trials`."""
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    return [trial for trial in trials if trial.state == TrialState.RUNNING]


def is_lost(trial: FrozenTrial, storage: str | Path, unsigned: dict[int, float]) -> bool:
    """Whether the worker of a running trial is dead; see `requeue_lost`."""
    if "worker" not in trial.user_attrs:
        return time.monotonic() - unsigned.setdefault(trial.number, time.monotonic()) > GRACE
    if is_database(storage):
        return False
    lock = worker_lock(storage, trial.user_attrs["worker"])
    try:
        with lock.acquire(timeout=0):
            pass
    except Timeout:
        return False
    Path(lock.lock_file).unlink(missing_ok=True)
    return True


def search(
    settings: SearchConfig,
    data: Data,
    config: TrainConfig,
    out: str | Path,
    storage: str | Path | None = None,
    weights: str | Path = "data/weights",
    jobs: int | None = None,
    name: str | None = None,
    checkpoints: str | Path | None = None,
    workers_per_device: int = 1,
) -> optuna.Study:
    """Run the whole search and return its study; called again, it goes on with what is left, if anything.

    - `out`: folder of the run; the journal is `<out>/search/<condition>.log` unless `storage` says otherwise, and
      progress goes to `<out>/progress.jsonl` besides the terminal.
    - `jobs`: processes of one thread each, by default `workers_per_device` per GPU or core; 1 stays in this process.
    - `name`: of the study, by default the condition.

    Afterwards each of the planned graphs is COMPLETE, PRUNED, or FAIL if its training diverged. Raises ValueError for
    several workers on SQLite, RuntimeError with a worker's traceback when one stopped with an error.
    """
    storage = storage or Path(out) / "search" / f"{settings.condition}.log"
    name = name or settings.condition
    jobs = max(1, min(jobs or runs.default_jobs() * workers_per_device, settings.trials))
    check_workers(storage, jobs)
    study = open_study(name, storage, settings, data, config, weights)
    with Progress(study, settings, config, out) as progress:
        if jobs == 1 or not study.get_trials(deepcopy=False, states=OPEN):
            objective = Objective(settings, data, config, weights, checkpoints)
            work(study, objective, storage, checkpoints, callbacks=[lambda study, trial: progress.update()])
        else:
            source = data if data.spec is None else data.spec
            arguments = (name, str(storage), settings, source, config, str(weights), checkpoints)
            supervise(arguments, jobs, progress.update)
        progress.update()
    return study


class Progress:
    """A bar in the terminal and lines in `<out>/progress.jsonl`, counting the settled graphs of a study."""

    def __init__(self, study: optuna.Study, settings: SearchConfig, config: TrainConfig, out: str | Path):
        self.study, self.out, self.total, self.epochs = study, out, settings.trials, config.epochs
        self.what = f"search {study.study_name}" + (" (selected on test)" if settings.select_on == "test" else "")

    def __enter__(self) -> "Progress":
        self.first, self.started = self.count(), time.perf_counter()
        self.bar = tqdm(total=self.total, initial=self.first, desc=self.what, unit="graph", mininterval=1)
        self.before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the bar says it in one line
        return self

    def __exit__(self, *error) -> None:
        optuna.logging.set_verbosity(self.before)
        self.bar.close()

    def count(self) -> int:
        return sum(map(is_settled, planned_trials(self.study)))

    def update(self) -> None:
        """Look at the study, and tell if it has moved."""
        done = self.count()
        if done > self.bar.n:
            self.bar.update(done - self.bar.n)
            pace = (time.perf_counter() - self.started) / (done - self.first)
            runs.log_progress(
                self.out, what=self.what, done=done, total=self.total, seconds_left=pace * (self.total - done)
            )


def supervise(arguments: tuple, jobs: int, update: Callable[[], None]) -> None:
    """Keep `jobs` worker processes going until they have nothing left to do; replace those that are killed."""
    context = runs.process_context()
    workers, started = {}, 0

    def start() -> None:
        nonlocal started
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work_in_process, args=(*arguments, started, sender), daemon=True)
        process.start()
        sender.close()
        workers[process] = receiver
        started += 1

    try:
        for _ in range(jobs):
            start()
        while workers:
            time.sleep(POLL)
            update()
            for process in [process for process in workers if not process.is_alive()]:
                receiver = workers.pop(process)
                if process.exitcode < 0 and started < jobs * (RETRIES + 1):
                    log.warning(
                        "search worker %d was killed by signal %d; another takes over", process.pid, -process.exitcode
                    )
                    start()
                elif process.exitcode < 0:
                    raise RuntimeError(f"search workers keep being killed (signal {-process.exitcode}); try fewer jobs")
                elif process.exitcode > 0:
                    raise RuntimeError(f"a search worker stopped with an error:\n{last_words(receiver)}")
    finally:
        for process in workers:
            process.terminate()
        for process in workers:
            process.join()


def last_words(receiver) -> str:
    """The traceback a worker sent before it ended, if it came to that."""
    try:
        return receiver.recv() if receiver.poll() else "(it left no message; see the terminal)"
    except EOFError:
        return "(it left no message; see the terminal)"


def work_in_process(
    name: str,
    storage: str,
    settings: SearchConfig,
    source: Data | dict,
    config: TrainConfig,
    weights: str,
    checkpoints: str | Path | None,
    number: int,
    sender,
) -> None:
    """`work` in a process of its own, which ends with the process that started it."""
    runs.end_with_parent()
    try:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        search_worker(name, storage, settings, source, config, weights, checkpoints, number)
    except BaseException:
        sender.send(traceback.format_exc())
        raise


def search_worker(
    name: str,
    storage: str,
    settings: SearchConfig,
    source: Data | dict,
    config: TrainConfig,
    weights: str | Path = "data/weights",
    checkpoints: str | Path | None = None,
    number: int = 0,
) -> None:
    """Join the search of a study that exists, from this or another machine, until it is done.

    `source` is the data, or the arguments of `load_data`. `number` tells the workers of one machine apart: it
    spreads them over the GPUs and over the sampler's random numbers. Raises ValueError for SQLite, and for a study
    that is not there or was made with other settings.
    """
    check_workers(storage, jobs=2)
    if config.device == "auto" and torch.cuda.device_count() > 1:
        config = replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
    data = load_data(**source) if isinstance(source, dict) else source
    try:
        study = optuna.load_study(
            study_name=name,
            storage=open_storage(storage),
            sampler=make_sampler(settings, number),
            pruner=make_pruner(settings),
        )
    except KeyError:
        raise ValueError(f"{shown(storage)} has no study {name!r}: begin it with ktglite search") from None
    with plan_lock(storage):  # the plan of a search that was killed while it enqueued is completed
        check_facts(study, study_facts(settings, data, config, weights), storage)
        enqueue_plan(study, storage)
    work(study, Objective(settings, data, config, weights, checkpoints), storage, checkpoints)


def search_workers(jobs: int, *arguments) -> None:
    """`search_worker` in `jobs` processes of one thread each, spread over this machine's GPUs; the killed replaced."""
    if jobs == 1:
        search_worker(*arguments)
    else:
        supervise(arguments, jobs, lambda: None)


# ---- after the search


def best_trials(study: optuna.Study, k: int) -> list[FrozenTrial]:
    """The k complete trials of the highest value, best first, no two graphs of them equal in effect.

    Values of pruned trials come from shorter trainings and do not compete; fewer than k may be left.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best: dict[Graph, FrozenTrial] = {}
    # Equal values in the order of the plan: which was finished first depends on workers, and on when they die.
    for trial in sorted(complete, key=lambda trial: (-trial.value, trial.user_attrs.get("plan", trial.number))):
        best.setdefault(to_graph(trial).canonical(), trial)
    return list(best.values())[:k]


def best_graphs(study: optuna.Study, k: int = 1) -> list[Graph]:
    """The graphs of `best_trials`."""
    return [to_graph(trial) for trial in best_trials(study, k)]


def reevaluate(
    study: optuna.Study,
    data: Data,
    config: TrainConfig,
    seeds: Sequence[int],
    store: str | Path,
    weights: str | Path = "data/weights",
    k: int = 3,
    random_graphs: int | None = None,
    jobs: int | None = None,
) -> list[dict]:
    """Train the k best graphs again with fresh seeds, and baselines beside them, each tested once at its end.

    The value of a search's best graph is too good: it is the luckiest of many. These numbers are not. Baselines at
    the same budget: "all through" and "independent" with the initialisations of the best graph, and
    `random_graphs` (k unless given) graphs drawn from the same space. A list with one dictionary per graph:
    `label`, `graph`, `seeds`, `epochs`, and per seed `records` (keys in `store`), `val_accuracy`, `test_accuracy`.
    Raises ValueError when a seed is the search's own, or when no trial is complete.
    """
    search = study.user_attrs["search"]
    if search["seed"] in seeds:
        raise ValueError(f"seed {search['seed']} trained the search itself: re-evaluate with other seeds")
    top = best_graphs(study, k)
    if not top:
        raise ValueError(f"study {study.study_name!r} has no complete trial to re-evaluate: run more trials")
    graphs = {f"top {i}": graph for i, graph in enumerate(top, 1)}
    graphs |= {"all through": all_through(*top[0].nodes), "independent": independent(*top[0].nodes)}
    count, seed = k if random_graphs is None else random_graphs, derive(search["seed"], "baseline")
    drawn = sample_graphs(search["choices"], search["arch"], search["nodes"], count, seed)
    graphs |= {f"random {i}": graph for i, graph in enumerate(drawn, 1)}
    seeds = list(seeds)
    what = f"re-evaluate {study.study_name}"
    records = runs.run_all(graphs, data, config, seeds, store, weights, jobs, what)
    entries = []
    for label, graph in graphs.items():
        own = [record for record in records if record["label"] == label]  # without those that diverged
        entries.append(
            {
                "label": label,
                "graph": graph.to_dict(),
                "seeds": [record["seed"] for record in own],
                "epochs": config.epochs,
                "records": [record["key"] for record in own],
                "val_accuracy": [record["val_accuracy"][0] for record in own],
                "test_accuracy": [record["test_accuracy"][0] for record in own],
            }
        )
    return entries


def study_summary(study: optuna.Study, reevaluated: Sequence[dict] = ()) -> dict:
    """All that tables and figures need of a study, fit for JSON; accuracies in percent.

    - `selection_value`: the best value as the search saw it, on the split `select_on`.
    - `paper_protocol`: the highest test accuracy of any trial, chosen by itself as in the released code; no estimate.
    - `optimism_gap`: `selection_value` minus the mean test accuracy of the same graph with fresh seeds;
      `optimism_gap_same_split` has the accuracy on the split of the selection instead, so that only the luck of the
      selection is in it.
    - `epochs_run` of `epochs_full`, the cost without pruning; `epochs_saved_by_asha` and `epochs_saved_by_reuse`;
      `epochs_lost` with killed workers. Node-epochs count each node that trains, and `node_epochs_unreachable` those
      saved by not running nodes the target never hears: `unreachable_share` of the planned graphs' nodes, beside
      `unreachable_expected`, the exact mean over all assignments of gates.
    """
    search, training = study.user_attrs["search"], study.user_attrs["training"]
    trials = planned_trials(study)
    best = best_trials(study, 1)
    value = best[0].value if best else None
    steps = {trial.number: len(trial.intermediate_values) - reused_epochs(trial) for trial in trials}
    every = study.get_trials(deepcopy=False)
    heard = {trial.number: len(reaching(trial)) for trial in trials}
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    summary = {
        "schema": 1,
        "study": study.study_name,
        "condition": search["condition"],
        "choices": search["choices"],
        "search": search,
        "training": training,
        "data": study.user_attrs["data"],
        "weights": study.user_attrs["weights"],
        "select_on": search["select_on"],
        "planned": study.user_attrs["trials"],
        "states": {s.name: sum(t.state == s for t in trials) for s in TrialState},
        "trials": [describe_trial(trial, search["seed"]) for trial in trials],
        "epochs_run": sum(steps.values()),
        "epochs_full": training["epochs"] * len(trials),
        "epochs_saved_by_asha": sum(training["epochs"] - len(trial.intermediate_values) for trial in pruned),
        "epochs_saved_by_reuse": sum(map(reused_epochs, trials)),
        "epochs_lost": sum(len(t.intermediate_values) for t in every if t.number not in steps),
        "node_epochs_run": sum(steps[n] * heard[n] for n in steps),
        "node_epochs_unreachable": sum(steps[n] * (search["nodes"] - heard[n]) for n in steps),
        "unreachable_share": 1 - sum(heard.values()) / max(1, search["nodes"] * sum(map(bool, heard.values()))),
        "unreachable_expected": 1 - expected_share_run(search["nodes"]) if search["nodes"] <= 4 else None,
        "best": describe_trial(best[0], search["seed"]) if best else None,
        "reevaluated": list(reevaluated),
        "selection_value": value,
        "paper_protocol": max(filter(None, (t.user_attrs.get("test_accuracy") for t in trials)), default=None),
        "optimism_gap": None,
        "optimism_gap_same_split": None,
    }
    top = next((entry for entry in reevaluated if entry["label"] == "top 1"), None)
    if top is not None and top["seeds"] and value is not None:
        same = top[f"{search['select_on']}_accuracy"]
        summary["optimism_gap"] = value - sum(top["test_accuracy"]) / len(top["test_accuracy"])
        summary["optimism_gap_same_split"] = value - sum(same) / len(same)
    return summary


def reused_epochs(trial: FrozenTrial) -> int:
    """How many epochs of a trial were not trained but taken from another."""
    return trial.user_attrs.get("reused", {"epochs": 0})["epochs"]


def describe_trial(trial: FrozenTrial, seed: int) -> dict:
    """One trial of a summary; `values` are the accuracies (%) after epochs 1, 2, .."""
    duration = trial.duration
    return {
        "number": trial.number,
        "plan": trial.user_attrs.get("plan"),
        "state": trial.state.name,
        "graph": to_graph_dict(trial.params) if trial.params else None,
        "values": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seed": seed,
        "reused": reused_epochs(trial),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "error": trial.user_attrs.get("error"),
        "seconds": duration.total_seconds() if duration is not None else None,
    }


def reaching(trial: FrozenTrial) -> frozenset[int]:
    """Nodes that the trial's training runs; none for a trial without a valid graph."""
    try:
        return to_graph(trial).reaching_target()
    except (KeyError, ValueError):
        return frozenset()


def read_summaries(folder: str | Path) -> dict[str, dict]:
    """What `write_summary` wrote, by study, from `folder/*.json`.

    Raises FileNotFoundError where there is none, ValueError naming a file that is not one or of another version.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no summary of a search in {folder}: run notebook 03 or ktglite search first")
    summaries = {}
    for path in paths:
        try:
            summary = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is no summary of a search ({error}); ktglite search writes it again") from error
        if not isinstance(summary, dict) or summary.get("schema") != 1:
            raise ValueError(f"{path} is no summary of a search, or of another version; ktglite search writes it again")
        summaries[path.stem] = summary
    return summaries


def write_summary(study: optuna.Study, out: str | Path, reevaluated: Sequence[dict] = ()) -> dict:
    """Write `study_summary` to `<out>/search/<study>.json` and return it."""
    summary = study_summary(study, reevaluated)
    runs.write_json(Path(out) / "search" / f"{study.study_name}.json", summary)
    return summary
