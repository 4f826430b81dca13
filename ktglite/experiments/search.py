"""Step 3: the search for a good graph. One coordinator owns the Optuna study and hands "train graph
i up to epoch r" to a pool. Only it touches the storage, and from the storage alone it goes on after
a kill.
"""

import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from ktglite.data import Data
from ktglite.devices import resolve_device, resolve_precision
from ktglite.experiments.rungs import Rungs
from ktglite.experiments.runs import Run, describe, portable, run_all, run_until, train_teacher
from ktglite.experiments.space import (
    SearchConfig,
    expected_share_run,
    from_params,
    sample_graphs,
    to_params,
)
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through, independent
from ktglite.pool import open_pool
from ktglite.store import CORE, Checkpoint, code_hash, read_record, write_record
from ktglite.trainer import TrainConfig, derive

__all__ = [
    "best_graphs",
    "load_study",
    "read_summaries",
    "reevaluate",
    "search",
    "study_summary",
    "write_summary",
]

log = logging.getLogger(__name__)

SCHEMA = 1
POLL = 10  # seconds, after which workers that have joined a cluster are given something to do


def search(
    settings: SearchConfig, data: Data, config: TrainConfig, out: str | Path, storage: str | Path | None = None,
    weights: str | Path = "data/weights", pool=None, name: str | None = None,
) -> optuna.Study:  # fmt: skip
    """Run the whole search and return its study; called again, it goes on with what is left, if
    anything.

    - `out`: folder of the run. Trainings leave their records in `<out>/runs`; progress goes to
      `<out>/progress.jsonl`.
    - `storage`: path of a journal file, by default `<out>/search/<condition>.log`, or the URL of a
      database.
    - `pool`: where graphs are trained, see `open_pool`.  `name`: of the study, by default the
      condition.

    Afterwards each of the `trials` graphs is COMPLETE, PRUNED, or FAIL if its training diverged.
    Raises ValueError when another process searches this study, or it was made with other settings,
    data, weights or code; only `trials` may grow. Any other error of a training stops the search,
    and the same command goes on.
    """
    name, out = name or settings.condition, Path(out)
    if (settings.objective, config.report) == ("ensemble", "best"):
        raise ValueError(
            "report is 'best', the epoch that is best for the target: with objective 'ensemble' use 'last'"
        )
    storage = str(storage or out / "search" / f"{settings.condition}.log")
    precision = resolve_precision(
        config.precision, resolve_device(config.device)
    )  # one for all workers
    config = replace(config, precision=precision)
    if settings.teachers == "trained":
        for arch in settings.archs:
            train_teacher(arch, data, config, weights)
    # before there is a study, which would refuse the settings that are corrected
    coordinator = _Coordinator(settings, data, config, out, weights)
    opened = _open_storage(storage)
    with _hold(storage, name, out), open_pool() if pool is None else nullcontext(pool) as pool:
        study = _open_study(
            name, storage, opened, settings, _facts(settings, data, config, weights)
        )
        coordinator.run(study, pool)
    return study


# ---- storage and study


def _shown(storage: str) -> str:
    """A storage as it may be printed: without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)


def _open_storage(storage: str) -> BaseStorage:
    """A journal file, or a database by its URL. Raises ValueError that says what is wrong with it."""
    try:
        if "://" in storage:
            return RDBStorage(
                storage, engine_kwargs={"pool_pre_ping": True}
            )  # long trainings outlast connections
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(
            f"{storage}.lock"
        )  # the system releases it when its holder dies, Optuna's own would linger
        with lock:
            _drop_torn_line(Path(storage))
        return JournalStorage(JournalFileBackend(storage, lock_obj=lock))
    except (
        Exception
    ) as error:  # whatever a driver may raise, or Optuna over lines that it has not written
        what, hint = (
            "is not a readable search journal",
            "restore it, or move it away and the search begins anew",
        )
        if "://" in storage:
            what, hint = (
                "cannot be reached",
                "for PostgreSQL: ktglite[postgres] and postgresql+psycopg://USER@HOST/NAME",
            )
        raise ValueError(
            f"{_shown(storage)} {what} ({type(error).__name__}: {error}); {hint}"
        ) from error


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line without an end, left by a crash: the next would be appended to it and both be lost."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        log.warning("%s ended in half a line, which was dropped", path)
        os.truncate(path, path.stat().st_size - len(lines[-1]))
    elif lines:
        json.loads(lines[-1])  # Optuna would only stumble over it at the next line


@contextmanager
def _hold(storage: str, name: str, out: Path) -> Iterator[None]:
    """Claim a study: it has one coordinator at a time. The claim of one that dies ends with it."""
    busy = ValueError(
        f"study {name!r} in {_shown(storage)} is searched by another process: wait for it, or end it"
    )
    if storage.startswith("postgresql"):
        engine = sqlalchemy.create_engine(
            storage, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )
        claim = sqlalchemy.text("select pg_try_advisory_lock(hashtext(:name))").bindparams(
            name=f"ktglite {name}"
        )
        with engine.connect() as connection:
            if not connection.execute(claim).scalar():
                raise busy
            yield
        return
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(
            out / f"{name}.lock" if "://" in storage else f"{storage}.{name}.lock", timeout=0
        ):
            yield
    except Timeout:
        raise busy from None


def load_study(name: str, storage: str | Path) -> optuna.Study:
    """A study made before, to look at. Raises KeyError when the storage has none of that name."""
    return optuna.load_study(study_name=name, storage=_open_storage(str(storage)))


def _facts(
    settings: SearchConfig, data: Data, config: TrainConfig, weights: str | Path
) -> dict[str, dict]:
    """All that decides a study's results, fit for JSON."""
    search = asdict(settings) | {
        "arch": list(settings.archs),
        "choices": list(settings.choices),
        "gates": list(GATES),
    }
    del search["sources"], search["trials"]
    for name, usual in (("teachers", "random"), ("objective", "target")):
        if search[name] == usual:
            del search[name]  # studies from before there was a choice go on
    training = {name: value for name, value in asdict(config).items() if name != "device"}
    starts = (*settings.choices, *["teacher"] * (settings.teachers == "trained"))
    every_node = all_through(*(Node(arch, start) for arch in settings.archs for start in starts))
    facts = {"search": search, "training": training, "data": describe(data)}
    return facts | {
        "weights": Run(every_node, data, config, 0, weights).weight_hashes(),
        "code": {"hash": code_hash(*CORE)},
    }


def _open_study(
    name: str, storage: str, opened: BaseStorage, settings: SearchConfig, facts: dict
) -> optuna.Study:
    """Create the study, or load it if it was made with these facts."""
    rungs = {"min_resource": settings.min_resource, "reduction_factor": settings.reduction_factor}
    pruner = optuna.pruners.SuccessiveHalvingPruner(
        **rungs, min_early_stopping_rate=0, bootstrap_count=0
    )
    options = {"pruner": pruner, "direction": "maximize", "load_if_exists": True}
    study = optuna.create_study(study_name=name, storage=opened, **options)
    where, known = f"study {name!r} in {_shown(storage)}", study.user_attrs
    for part, new in facts.items():
        old = known.get(part, new)
        for key in [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]:
            found = f"another {part} {key} ({old.get(key)!r}, now {new.get(key)!r})"
            raise ValueError(
                f"{where} was made with {found}: restore it, or give another name or storage"
            )
    if settings.trials < known.get("trials", 0):
        raise ValueError(
            f"{where} has {known['trials']} planned trials: {settings.trials} is fewer"
        )
    for key, value in (facts | {"trials": settings.trials}).items():
        if known.get(key) != value:
            study.set_user_attr(key, value)
    if settings.select_on == "test":
        log.warning(
            "study %r prunes and selects on the test split: its best value is not a test result",
            name,
        )
    return study


# ---- the coordinator


class _Coordinator:
    """Asks Optuna for graphs, has them trained in a pool from rung to rung, and tells what came of
    them.

    A trial's values and the epoch `until` which it may train are in the storage before anything
    follows from them; its checkpoint is deleted after its end is there.
    """

    def __init__(
        self,
        settings: SearchConfig,
        data: Data,
        config: TrainConfig,
        out: Path,
        weights: str | Path,
    ):
        if settings.select_on == "test":  # the test images stand in for the validation images
            spec = None if data.spec is None else data.spec | {"validate_on": "test"}
            data = replace(data, val=data.test, fingerprint="", spec=spec)
        self.settings, self.data, self.config = settings, data, config
        self.out, self.weights, self.plan = out, str(weights), []
        first, eta = settings.min_resource, settings.reduction_factor
        self.rungs = Rungs(settings.pruner, first, eta, config.epochs, settings.trials)
        self.open: dict[int, tuple[optuna.Trial, Graph]] = {}  # trials that are not over
        self.reported = Counter()  # how many of their epochs are in the storage
        if settings.sampler == "random":
            self.plan = [to_params(graph) for graph in sample_graphs(settings)]

    def _restore(self, trial: FrozenTrial) -> None:
        """Take up a trial as the storage has it."""
        number, values, steps = trial.number, trial.intermediate_values, self.rungs.steps
        for rung, step in enumerate(
            steps[: steps.index(trial.user_attrs.get("until", steps[0])) + 1]
        ):
            self.rungs.goal[number] = rung
            if step in values:
                self.rungs.arrive(number, values[step])
        self.reported[number] = len(values)
        if trial.state != TrialState.RUNNING:
            self.rungs.over.add(number)
        elif self._open(optuna.trial.Trial(self.study, trial._trial_id)):
            until = self.rungs.until(number)
            if not (
                self.settings.pruner == "promote" and until in values and until < self.config.epochs
            ):
                self.rungs.ready.append(number)  # the others are paused

    def _open(self, trial: optuna.Trial) -> bool:
        """Draw the graph of a trial. False, and the trial is over, if its target would learn from nothing."""
        if not self.plan:  # seeded by the number: what is drawn depends on the storage alone
            seed = derive(self.settings.seed, "sampler", trial.number) % 2**32
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        drawn = from_params(
            {name: trial.suggest_categorical(name, v) for name, v in self.settings.space.items()}
        )
        if learns := set(drawn["gates"][0]) != {"cutoff"}:
            self.open[trial.number] = trial, Graph.from_dict(drawn)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
            self.rungs.over.add(trial.number)
        return learns

    def run(self, study: optuna.Study, pool) -> None:
        """Go on with a study until every trial is over."""
        self.study = study
        for trial in study.get_trials(deepcopy=False):
            if (
                trial.state != TrialState.WAITING
            ):  # of a coordinator killed as it began it; the next `ask` gives it
                self._restore(trial)
        self.clock, self.first, total, running = (
            time.perf_counter(),
            len(self.rungs.over),
            self.settings.trials,
            {},
        )
        self.what = f"search {study.study_name}{' (selected on test)' * (self.settings.select_on == 'test')}"
        with tqdm(
            None, self.what, total, initial=self.first, unit="graph", mininterval=1
        ) as self.bar:
            try:
                while self._submit(pool, running):
                    done = wait(running, POLL, FIRST_COMPLETED).done
                    for future in sorted(done, key=running.get):
                        self._receive(running.pop(future), future)
            finally:
                for future in running:
                    future.cancel()
            for number in list(self.open):  # paused, and nobody is left who could make way
                self._end(number, TrialState.PRUNED)
        for graph in filter(None, map(_graph, study.get_trials(deepcopy=False))):
            self._drop_checkpoint(
                graph
            )  # of a coordinator that was killed between a trial's end and this

    def _submit(self, pool, running: dict[Future, int]) -> bool:
        """Give every free worker something to do. False if none has anything."""
        store = str(self.out / "runs")
        while len(running) < pool.size and (number := self.rungs.pick()) is not None:
            if number not in self.open and self.plan:
                self.study.enqueue_trial(self.plan[number], skip_if_exists=True)
            if number in self.open or self._open(self.study.ask()):
                trial, graph = self.open[number]
                until, label = self.rungs.until(number), f"{self.study.study_name} {number}"
                trial.set_user_attr("until", until)
                task = portable(self._task(graph, label))
                running[pool.submit(run_until, task, store, until)] = number
        return bool(running)

    def _receive(self, number: int, future: Future) -> None:
        """Report the new epochs of a trial, and decide: over, on, or paused."""
        trial = self.open[number][0]
        try:
            history = future.result()
        except FloatingPointError as error:
            trial.set_user_attr("error", str(error))
            return self._end(number, TrialState.FAIL)
        except BaseException as error:
            error.add_note(
                f"This was graph {number} of study {self.study.study_name!r}; the same command goes on."
            )
            raise
        values = [_accuracy(record, "val", self.settings.objective) for record in history]
        for record, value in list(zip(history, values, strict=True))[self.reported[number] :]:
            trial.report(value, record["epoch"])
        self.reported[number], last = len(history), history[-1]
        if last["epoch"] == self.config.epochs:
            tested = _accuracy(last, "test", self.settings.objective)  # no decision looks at it
            trial.set_user_attr("test_accuracy", tested)
            self._end(number, TrialState.COMPLETE, values[last["reported_epoch"] - 1])
        elif self.settings.pruner == "promote":
            self.rungs.arrive(number, values[-1])
            for other in self.rungs.hopeless():
                self._end(other, TrialState.PRUNED)
        elif trial.should_prune():
            self._end(number, TrialState.PRUNED)
        else:
            self.rungs.let_on(number)

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        trial, graph = self.open.pop(number)
        self.study.tell(trial, value, state=state)
        self.rungs.over.add(number)
        if all(graph != other for _, other in self.open.values()):  # TPE may draw a graph twice
            self._drop_checkpoint(graph)
        done = len(self.rungs.over)
        self.bar.update(done - self.bar.n)

    def _task(self, graph: Graph, label: str | None = None) -> Run:
        return Run(graph, self.data, self.config, self.settings.seed, self.weights, label)

    def _drop_checkpoint(self, graph: Graph) -> None:
        key = self._task(graph).key()
        Checkpoint(self.out / "runs" / f"{key}.ckpt", key).drop()


def _accuracy(record: dict, split: str, objective: str) -> float:
    """What a search maximises, of an epoch's record: node 1's accuracy, or that of the nodes' mean softmax."""
    return (
        record[f"{split}_ensemble"] if objective == "ensemble" else record[f"{split}_accuracy"][0]
    )


# ---- after the search


def _graph(trial: FrozenTrial) -> Graph | None:
    """The graph of a trial; None where it is no valid one."""
    try:
        return Graph.from_dict(from_params(trial.params))
    except (KeyError, ValueError):
        return None


def best_trials(study: optuna.Study, k: int) -> list[FrozenTrial]:
    """The k complete trials of the highest value, best first, no two graphs of them equal in
    effect.

    Values of pruned trials come from shorter trainings and do not compete; fewer than k may be
    left.
    """
    complete, best = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), {}
    for trial in sorted(complete, key=lambda trial: (-trial.value, trial.number)):
        best.setdefault(_graph(trial).canonical(), trial)
    return list(best.values())[:k]


def best_graphs(study: optuna.Study, k: int = 1) -> list[Graph]:
    """The graphs of `best_trials`."""
    return [_graph(trial) for trial in best_trials(study, k)]


def reevaluate(
    study: optuna.Study, data: Data, config: TrainConfig, seeds: Sequence[int], store: str | Path,
    weights: str | Path = "data/weights", k: int = 3, random_graphs: int | None = None, pool=None,
) -> list[dict]:  # fmt: skip
    """Train the k best graphs again with fresh seeds, and baselines beside them, each tested once
    at its end.

    The value of a search's best graph is too good: it is the luckiest of many. These numbers are
    not. Baselines at the same budget: "all through" and "independent" with the initialisations of
    the best graph, and `random_graphs` (k unless given) graphs drawn from the same space. A list
    with one dictionary per graph: `label`, `graph`, `seeds`, `epochs`, and per seed `records` (keys
    in `store`), `val_accuracy`, `test_accuracy`: of node 1, or of the ensemble where that was
    searched for. Raises ValueError when a seed is the search's own, or when no
    trial is complete.
    """
    search, top = study.user_attrs["search"], best_graphs(study, k)
    objective = search.get("objective", "target")
    if search["seed"] in seeds:
        raise ValueError(
            f"seed {search['seed']} trained the search itself: re-evaluate with other seeds"
        )
    if not top:
        raise ValueError(
            f"study {study.study_name!r} has no complete trial to re-evaluate: run more trials"
        )
    graphs = {f"top {i}": graph for i, graph in enumerate(top, 1)}
    nodes = [
        Node(node.arch) if node.init == "teacher" else node for node in top[0].nodes
    ]  # here every node learns
    graphs |= {"all through": all_through(*nodes), "independent": independent(*nodes)}
    space = SearchConfig(
        search["condition"], search["choices"][1:], search["arch"], search["nodes"]
    )
    space = replace(space, teachers=search.get("teachers", "random"))
    drawn = sample_graphs(
        space, k if random_graphs is None else random_graphs, derive(search["seed"], "baseline")
    )
    graphs |= {f"random {i}": graph for i, graph in enumerate(drawn, 1)}
    records = run_all(graphs, data, config, list(seeds), store, weights, pool)
    entries = []
    for label, graph in graphs.items():
        own = [
            record for record in records if record["label"] == label
        ]  # without those that diverged
        entry = {"label": label, "graph": graph.to_dict(), "epochs": config.epochs}
        entry |= {
            "seeds": [record["seed"] for record in own],
            "records": [record["key"] for record in own],
        }
        entry["val_accuracy"] = [
            _accuracy(record["epochs"][record["epoch"] - 1], "val", objective) for record in own
        ]
        entry["test_accuracy"] = [
            _accuracy(record["epochs"][-1], "test", objective) for record in own
        ]
        entries.append(entry)
    return entries


def study_summary(study: optuna.Study, reevaluated: Sequence[dict] = ()) -> dict:
    """All that tables and figures need of a study, fit for JSON; accuracies in percent.

    - `selection_value`: the best value as the search saw it, on the split `select_on`.
    - `paper_protocol`: the highest test accuracy of any trial, chosen by itself as in the released
      code; no estimate.
    - `optimism_gap_same_split`: `selection_value` minus the mean accuracy of the same graph with
      fresh seeds on the split of the selection, so that only the luck of the selection is in it.
    - `epochs_run` of `epochs_full`, the cost without pruning; `epochs_saved_by_asha`. Node-epochs
      count the nodes that train (no fixed teachers), and `node_epochs_unreachable` those saved by
      not running nodes without a path to the target: `unreachable_share` of the graphs' nodes,
      beside its exact mean over all gates, `unreachable_expected`.
    """
    facts, best = study.user_attrs, best_trials(study, 1)
    search, epochs = facts["search"], facts["training"]["epochs"]
    parameters = search["nodes"] * (
        search["nodes"] + 2
    )  # of a running search, one trial may not have all of them yet
    trials = [
        trial for trial in study.get_trials(deepcopy=False) if len(trial.params) == parameters
    ]
    valid = [
        (trial, graph, len(trial.intermediate_values))
        for trial in trials
        if (graph := _graph(trial))
    ]
    unreachable = [search["nodes"] - len(graph.reaching_target()) for _, graph, _ in valid]
    learning = [sum(map(graph.learns, graph.reaching_target())) for _, graph, _ in valid]
    tested = [
        trial.user_attrs["test_accuracy"] for trial in trials if "test_accuracy" in trial.user_attrs
    ]
    again = [
        entry[f"{search['select_on']}_accuracy"]
        for entry in reevaluated
        if entry["label"] == "top 1"
    ]
    return {
        "study": study.study_name,
        "condition": search["condition"],
        "choices": search["choices"],
        **{part: facts[part] for part in ("search", "training", "data", "weights", "code")},
        "select_on": search["select_on"],
        "planned": facts["trials"],
        "states": {
            state.name: sum(trial.state == state for trial in trials) for state in TrialState
        },
        "trials": [_describe(trial, search["seed"]) for trial in trials],
        "epochs_run": sum(steps for _, _, steps in valid),
        "epochs_full": epochs * len(valid),
        "epochs_saved_by_asha": sum(
            epochs - steps for t, _, steps in valid if t.state == TrialState.PRUNED
        ),
        "node_epochs_run": sum(steps * n for (_, _, steps), n in zip(valid, learning, strict=True)),
        "node_epochs_unreachable": sum(
            steps * n for (_, _, steps), n in zip(valid, unreachable, strict=True)
        ),
        "unreachable_share": sum(unreachable) / max(1, search["nodes"] * len(valid)),
        "unreachable_expected": 1 - expected_share_run(search["nodes"])
        if search["nodes"] <= 4
        else None,
        "best": _describe(best[0], search["seed"]) if best else None,
        "reevaluated": list(reevaluated),
        "selection_value": best[0].value if best else None,
        "paper_protocol": max(tested, default=None),
        "optimism_gap_same_split": best[0].value - float(np.mean(again[0]))
        if best and again and again[0]
        else None,
    }


def _describe(trial: FrozenTrial, seed: int) -> dict:
    """One trial of a summary; `values` are the accuracies (%) after epochs 1, 2, .."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "graph": from_params(trial.params),
        "values": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seed": seed,
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        **{name: trial.user_attrs.get(name) for name in ("test_accuracy", "error")},
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
    }


def write_summary(study: optuna.Study, out: str | Path, reevaluated: Sequence[dict] = ()) -> dict:
    """Write `study_summary` to `<out>/search/<study>.json` and return it."""
    summary = study_summary(study, reevaluated)
    write_record(Path(out) / "search" / f"{study.study_name}.json", summary, SCHEMA)
    return summary


def read_summaries(folder: str | Path) -> dict[str, dict]:
    """What `write_summary` wrote, by study, from `folder/*.json`; graphs are not checked.

    Raises FileNotFoundError where there is none, ValueError naming a file that is not one or of
    another version.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"no summary of a search in {folder}: run notebook 03 or ktglite search first"
        )
    return {path.stem: read_record(path, SCHEMA) for path in paths}
