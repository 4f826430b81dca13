"""Step 3: the search for a good graph.

One coordinator hands "train graph i up to epoch r" to a pool, and asks the rungs who goes on. Only
it writes to the journal of the Optuna study, from which alone it goes on after a kill.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import product, starmap
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from tqdm import tqdm

from ktglite.data import Data
from ktglite.devices import resolve_device, resolve_precision
from ktglite.experiments import runs
from ktglite.experiments.runs import Run, Store, describe, portable, run_all, run_until
from ktglite.experiments.space import SearchConfig, from_params, outcome, sample_graphs, to_params
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through
from ktglite.pool import open_pool
from ktglite.store import CORE, Checkpoint, code_hash, read_record, torch_version, write_record
from ktglite.trainer import TrainConfig, derive

__all__ = ["best_graphs", "load_study", "read_summaries", "reevaluate", "rivals", "search"]
__all__ += ["study_summary", "write_summary"]

log = logging.getLogger(__name__)

SCHEMA = 1
POLL = 10  # seconds, after which workers that have joined a cluster are given something to do


def search(
    settings: SearchConfig,
    data: Data,
    config: TrainConfig,
    out: str | Path,
    weights: str | Path | Sequence[str | Path] = "data/weights",
    pool=None,
) -> optuna.Study:
    """Run the whole search and return its study; called again, it goes on with what is left.

    Afterwards each of the `trials` graphs is COMPLETE, PRUNED, or FAIL if its training diverged.

    Args:
        out: folder of the run. The study is the journal `<out>/search/<condition>.log`, trainings
            leave their records in `<out>/runs`.
        weights, pool: as for `run_all`.

    Raises:
        ValueError: when another process searches this study, or it was made with other settings,
            data, weights or code; only `trials` may grow.
        Exception: any other error of a training, which stops the search; the same call goes on.
    """
    out = Path(out)
    settings.rungs(config.epochs)  # what does not fit is told before there is a study
    folder = str(runs.weights_folder(weights, settings.seed))
    precision = resolve_precision(config.precision, resolve_device(config.device))
    config = replace(config, precision=precision)  # one for all workers
    starts = list(product(settings.archs, settings.choices))
    every_start = Run(all_through(*starmap(Node, starts)), data, config, settings.seed, folder)
    runs.check_starts([every_start])
    if settings.teachers == "trained":
        for arch in settings.archs:
            runs.train_teacher(arch, data, config, folder)
            starts.append((arch, "teacher"))
        every_start = replace(every_start, graph=all_through(*starmap(Node, starts)))
    coordinator = _Coordinator(settings, data, config, out, folder)
    journal = out / "search" / f"{settings.condition}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:  # one coordinator at a time; the system releases this lock when its holder dies
        claim = FileLock(f"{journal}.claim").acquire(timeout=0)
    except Timeout:
        way_out = "wait for it, end it, or give another --out"
        raise ValueError(f"{journal} is searched by another process: {way_out}") from None
    with claim as lock, open_pool() if pool is None else nullcontext(pool) as pool:
        study = _open_study(journal, lock, settings, _facts(settings, every_start))
        coordinator.run(study, pool)
    return study


# ---- the journal


def _open_journal(journal: Path, lock: FileLock | None = None) -> JournalStorage:
    """The journal as Optuna's storage; who has its `lock` writes to it. Raises ValueError that says
    what is wrong with it."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        torn = bool(lines) and not lines[-1].endswith(b"\n")
        if torn and lock is not None:  # by a crash: the next line would be appended to it
            log.warning("%s ended in half a line, which was dropped", journal)
            os.truncate(journal, journal.stat().st_size - len(lines[-1]))
        elif lines and not torn:
            json.loads(lines[-1])  # Optuna would only stumble over it at the next line
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    except Exception as error:  # whatever Optuna may raise over lines that it has not written
        what = f"is not a readable search journal ({type(error).__name__}: {error})"
        way_out = "restore it, or move it away and the search begins anew"
        raise ValueError(f"{journal} {what}; {way_out}") from error


def load_study(name: str, journal: str | Path) -> optuna.Study:
    """A study to look at, while it is searched too; `name` is its condition.

    Raises FileNotFoundError without the journal, KeyError when it has no study of that name.
    """
    if not Path(journal).exists():
        raise FileNotFoundError(f"no journal {journal}: run ktglite search {name} first")
    return optuna.load_study(study_name=name, storage=_open_journal(Path(journal)))


def _facts(settings: SearchConfig, every_start: Run) -> dict:
    """All that decides a study's results, fit for JSON."""
    search = asdict(settings) | {"arch": list(settings.archs), "choices": list(settings.choices)}
    search["gates"] = list(GATES)
    training = asdict(every_start.config)
    del search["sources"], search["trials"], training["device"]
    return {
        "search": search,
        "training": training,
        "data": describe(every_start.data),
        "weights": every_start.weight_hashes(),
        "code": {"hash": code_hash(*CORE), "torch": torch_version()},
    }


def _open_study(journal: Path, lock: FileLock, settings: SearchConfig, facts: dict) -> optuna.Study:
    """Create the study, or load it if it was made with these facts."""
    name = settings.condition
    how = {"storage": _open_journal(journal, lock), "direction": "maximize"}
    study = optuna.create_study(study_name=name, load_if_exists=True, **how)
    known = study.user_attrs
    for part, new in facts.items():
        old = known.get(part, new)
        for key in [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]:
            found = f"another {part} {key} ({old.get(key)!r}, now {new.get(key)!r})"
            way_out = "restore it, or give another --out"
            raise ValueError(f"{journal} was made with {found}: {way_out}")
    if settings.trials < known.get("trials", 0):
        planned = f"has {known['trials']} planned trials: {settings.trials} is fewer"
        raise ValueError(f"{journal} {planned}; give --trials {known['trials']}, or another --out")
    for key, value in (facts | {"trials": settings.trials}).items():
        if known.get(key) != value:
            study.set_user_attr(key, value)
    if settings.select_on == "test":
        what = "prunes and selects on the test split: its best value is not a test result"
        log.warning("study %r %s", name, what)
    return study


# ---- the coordinator


class _Coordinator:
    """Has the graphs of the plan trained from rung to rung, and tells the study what came of them.

    A trial's values and the epoch `until` which it may train are in the journal before anything
    follows from them; its checkpoint is deleted after its end is there.
    """

    def __init__(self, settings: SearchConfig, data: Data, config: TrainConfig, out, weights: str):
        if settings.select_on == "test":  # the test images stand in for the validation images
            spec = None if data.spec is None else data.spec | {"validate_on": "test"}
            data = replace(data, val=data.test).loaded_by(spec)
        self.settings = settings
        self.config = config
        self.data = data
        self.weights = weights
        self.store = out / "runs"
        self.plan = sample_graphs(settings)
        self.space = {name: CategoricalDistribution(of) for name, of in settings.space.items()}
        self.rungs = settings.rungs(config.epochs)
        self.active: dict[int, optuna.Trial] = {}  # trials that are not over
        self.reported = Counter()  # how many of their epochs are in the journal

    def run(self, study: optuna.Study, pool) -> None:
        """Go on with a study until every trial is over."""
        self.study = study
        for trial in study.get_trials(deepcopy=False):  # as the journal has them
            values, over = trial.intermediate_values, trial.state != TrialState.RUNNING
            self.rungs.restore(trial.number, trial.user_attrs["until"], values, over)
            self.reported[trial.number] = len(values)
            if not over:
                self.active[trial.number] = optuna.trial.Trial(study, trial._trial_id)
        on_test = " (selected on test)" if self.settings.select_on == "test" else ""
        what = f"search {study.study_name}{on_test}"
        over = len(self.rungs.over)
        running: dict[Future, int] = {}
        with tqdm(None, what, len(self.plan), initial=over, unit="graph", mininterval=1) as bar:
            try:
                while self._submit(pool, running):
                    done = wait(running, POLL, FIRST_COMPLETED).done
                    for future in sorted(done, key=running.get):
                        self._receive(running.pop(future), future)
                    bar.update(len(self.rungs.over) - bar.n)
            finally:
                for future in running:
                    future.cancel()
            for number in list(self.active):  # paused, and nobody is left who could make way
                self._end(number, TrialState.PRUNED)
            bar.update(len(self.rungs.over) - bar.n)
        if any(self.store.glob("*.ckpt")):  # of a coordinator killed before it deleted one
            for graph in self.plan:
                self._drop_checkpoint(graph)

    def _submit(self, pool, running: dict[Future, int]) -> bool:
        """Give every free worker something to do. False if none has anything."""
        while len(running) < pool.size and (number := self.rungs.pick()) is not None:
            until = self._save_goal(number)
            task = portable(self._task(self.plan[number], f"{self.study.study_name} {number}"))
            running[pool.submit(run_until, task, str(self.store), until)] = number
        return bool(running)

    def _save_goal(self, number: int) -> int:
        """Up to which epoch a trial may train, written down; of a new one with its graph: in either
        case one line of the journal."""
        until = self.rungs.until(number)
        if number not in self.active:
            attrs = {"user_attrs": {"until": until}, "params": to_params(self.plan[number])}
            trial = create_trial(state=TrialState.RUNNING, distributions=self.space, **attrs)
            self.study.add_trial(trial)
            begun = self.study.get_trials(deepcopy=False)[number]
            self.active[number] = optuna.trial.Trial(self.study, begun._trial_id)
        elif self.active[number].user_attrs["until"] != until:
            self.active[number].set_user_attr("until", until)
        return until

    def _receive(self, number: int, future: Future) -> None:
        """Report the new epochs of a trial, and do as the rungs say."""
        trial = self.active[number]
        try:
            history = future.result()
        except FloatingPointError as error:
            trial.set_user_attr("error", str(error))
            return self._end(number, TrialState.FAIL)
        except BaseException as error:
            name = f"graph {number} of study {self.study.study_name!r}"
            error.add_note(f"This was {name}; the same command goes on.")
            raise
        values = [record["val_accuracy"][0] for record in history]
        for epoch in range(self.reported[number] + 1, len(values) + 1):
            trial.report(values[epoch - 1], epoch)
        self.reported[number] = len(values)
        if len(values) == self.config.epochs:
            last = history[-1]  # no decision looks at what is tested
            trial.set_user_attr("test_accuracy", last["test_accuracy"][0])
            return self._end(number, TrialState.COMPLETE, values[last["reported_epoch"] - 1])
        self.rungs.arrive(number, values[-1])
        if number in self.rungs.over:
            self._end(number, TrialState.PRUNED)
        elif self.settings.pruner == "promote":
            for other in self.rungs.hopeless():
                self._end(other, TrialState.PRUNED)
        else:
            self._save_goal(number)  # before another arrives: decided again, it might be otherwise

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        self.study.tell(self.active.pop(number), value, state=state)
        self.rungs.over.add(number)
        self._drop_checkpoint(self.plan[number])

    def _task(self, graph: Graph, label: str | None = None) -> Run:
        return Run(graph, self.data, self.config, self.settings.seed, self.weights, label)

    def _drop_checkpoint(self, graph: Graph) -> None:
        key = self._task(graph).key()
        Checkpoint(self.store / f"{key}.ckpt", key).drop()


# ---- after the search


def best_trials(study: optuna.Study, k: int) -> list[FrozenTrial]:
    """The k complete trials of the highest value, best first; fewer if fewer are complete. Values
    of pruned trials come from shorter trainings and do not compete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))[:k]


def best_graphs(study: optuna.Study, k: int = 1) -> list[Graph]:
    """The graphs of the `best_trials`, no two of them equal in effect."""
    return [Graph.from_dict(from_params(trial.params)) for trial in best_trials(study, k)]


def rivals(
    study: optuna.Study, seeds: Sequence[int], k: int = 3, random_graphs: int | None = None
) -> dict[str, Graph]:
    """What to train again with new `seeds`, by label, since a search's best is the luckiest.

    "top 1" to "top k"; and "random 1" .., `random_graphs` (k unless given) drawn from the same
    space. Their target alone is a row of Table 1. Raises ValueError when a seed is the search's
    own, or when no trial is complete.
    """
    search = study.user_attrs["search"]
    if search["seed"] in seeds:
        found = f"seed {search['seed']} trained the search itself"
        raise ValueError(f"{found}: train its graphs again with other seeds")
    top = best_graphs(study, k)
    if not top:
        name = study.study_name
        raise ValueError(f"study {name!r} has no complete trial to train again: run more trials")
    graphs = {f"top {i}": graph for i, graph in enumerate(top, 1)}
    same = {name: search[name] for name in ("condition", "arch", "nodes", "teachers")}
    space = SearchConfig(**same, sources=search["choices"][1:], trials=1)
    count = k if random_graphs is None else random_graphs
    drawn = sample_graphs(space, count, derive(search["seed"], "baseline"))
    return graphs | {f"random {i}": graph for i, graph in enumerate(drawn, 1)}


def reevaluate(
    graphs: Mapping[str, Graph],
    data: Data,
    config: TrainConfig,
    seeds: Sequence[int],
    store: str | Path | Store,
    weights: str | Path | Sequence[str | Path] = "data/weights",
    pool=None,
) -> list[dict]:
    """Train `rivals` with every seed, each tested once at its end; arguments as for `run_all`.

    Returns a dictionary per graph: `label`, `graph`, `epochs`, and per seed, without those that
    diverged, `seeds`, `records` (keys in `store`), `val_accuracy` and `test_accuracy` of node 1 in
    percent.
    """
    records = run_all(graphs, data, config, seeds, store, weights, pool)
    entries = []
    for label, graph in graphs.items():
        own = [record for record in records if record["label"] == label]
        entry = {"label": label, "graph": graph.to_dict(), "epochs": config.epochs}
        entry |= {"seeds": [r["seed"] for r in own], "records": [r["key"] for r in own]}
        for accuracy in ("val_accuracy", "test_accuracy"):
            entry[accuracy] = [record[accuracy][0] for record in own]
        entries.append(entry)
    return entries


def study_summary(study: optuna.Study, reevaluated: Sequence[dict] = ()) -> dict:
    """All that tables and figures need of a study, fit for JSON; accuracies in percent.

    - What it was made with: `search`, `training`, `data`, `weights`, `code`.
    - `trials`, and how many have which of Optuna's `states`; `epochs_run`, of `epochs_full`.
    - `best`: the trial of the highest value, with its graph in words as `text`; `selection_value`
      is that value as the search saw it, on the split `select_on`. `reevaluated`: see there.
    """
    facts = study.user_attrs
    search = facts["search"]
    trials = [_describe(trial, search["seed"]) for trial in study.get_trials(deepcopy=False)]
    return {
        "study": study.study_name,
        **{part: search[part] for part in ("condition", "choices", "select_on")},
        **{part: facts[part] for part in ("search", "training", "data", "weights", "code")},
        **outcome(trials, facts["training"]["epochs"]),
        "reevaluated": list(reevaluated),
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
        "test_accuracy": trial.user_attrs.get("test_accuracy"),
        "error": trial.user_attrs.get("error"),
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
    }


def write_summary(study: optuna.Study, out: str | Path, reevaluated: Sequence[dict] = ()) -> dict:
    """Write `study_summary` to `<out>/search/<study>.json`, and return it.

    Without `reevaluated`, that of an earlier summary of the same training, with the same
    best graph, is kept.
    """
    path = Path(out) / "search" / f"{study.study_name}.json"
    summary = study_summary(study, reevaluated)
    if summary["best"] and not reevaluated and path.exists():
        before = read_record(path, SCHEMA)
        parts = ("data", "training", "weights", "code")
        same = all(before[part] == summary[part] for part in parts)
        if same and before["best"] and before["best"]["graph"] == summary["best"]["graph"]:
            summary["reevaluated"] = before["reevaluated"]
    write_record(path, summary, SCHEMA, indent=None)  # 1,500 graphs in less than 1 MB
    return summary


def read_summaries(folder: str | Path) -> dict[str, dict]:
    """What `write_summary` wrote, by study, from `folder/*.json`; graphs are not checked.

    Raises FileNotFoundError where there is none, ValueError naming a file that is not one.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        way_out = "run notebook 03 or ktglite search first"
        raise FileNotFoundError(f"no summary of a search in {folder}: {way_out}")
    return {path.stem: read_record(path, SCHEMA) for path in paths}
