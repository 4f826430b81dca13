"""The paper's own search: how far a study of 1,500 graphs by ASHA from epoch 1 has come, and what it
has found.

    ktglite search mixed --profile quick --trials 1500 --set pruner=asha --set min_resource=1 --out RUN
    python benchmarks/paper_search.py --run RUN --again W0 W1 W2 --save data/reference_runs/asha1500.json
    python benchmarks/paper_search.py
    python benchmarks/paper_search.py --restore RUN

The first command may be interrupted, and goes on. `--again` trains the best graph with Table 1's ten
seeds, from the pre-trained weights in these folders in turn. The third reads the record that came
with the kit.
On another machine `--restore RUN` makes the journal of the record anew, and the first command, with
the same weights, goes on from it there: graphs that are over count as they are, whichever version
of the kit has trained them.
"""

import argparse
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

import ktglite as ktg
from ktglite.experiments.claims import differs, winner_gaps
from ktglite.experiments.search import SCHEMA, load_study, reevaluate, study_summary
from ktglite.experiments.space import SearchConfig, sample_graphs, to_params
from ktglite.store import CORE, code_hash, read_record, torch_version, write_record

RECORD = Path("data/reference_runs/asha1500.json")
SEEDS = range(10, 20)  # of Table 1's records, whose networks alone the winner is compared with


def restore(summary: dict, run: Path) -> Path:
    """The journal of a study from its summary, as `ktglite search` would have left it."""
    search = summary["search"]
    names = ("condition", "arch", "nodes", "seed", "pruner", "min_resource", "reduction_factor")
    same = {name: search[name] for name in (*names, "teachers", "select_on")}
    trials = {trial["number"]: trial for trial in summary["trials"]}
    settings = SearchConfig(**same, sources=search["choices"][1:], trials=max(trials) + 1)
    first, *_ = settings.rungs(summary["training"]["epochs"]).epochs
    space = {name: CategoricalDistribution(of) for name, of in settings.space.items()}
    journal = run / "search" / f"{summary['study']}.log"
    if journal.exists():
        raise FileExistsError(f"{journal} is there: give another --restore")
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=summary["study"], direction="maximize")
    code = {"hash": code_hash(*CORE), "torch": torch_version()}
    for part in ("search", "training", "data", "weights"):
        study.set_user_attr(part, summary[part])
    study.set_user_attr("code", code)
    begun = datetime(2026, 1, 1)  # durations are kept, and dates are not
    for number, graph in enumerate(sample_graphs(settings)):
        own = {"params": to_params(graph), "distributions": space}
        trial = trials.get(number)
        if trial is None:  # it was in training, and begins anew
            attrs = {"until": first}
            study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attrs, **own))
            continue
        assert graph == ktg.Graph.from_dict(trial["graph"]), f"graph {number} is another one"
        own["intermediate_values"] = dict(enumerate(trial["values"], 1))
        own["user_attrs"] = {"until": len(trial["values"])}
        own["user_attrs"] |= {n: trial[n] for n in ("test_accuracy", "error") if trial[n]}
        value = None if trial["state"] == "FAIL" else trial["values"][-1]
        end = begun + timedelta(seconds=trial["seconds"] or 0)
        state = TrialState[trial["state"]]
        where = {"number": number, "trial_id": -1, "system_attrs": {}}
        when = {"datetime_start": begun, "datetime_complete": end}
        study.add_trial(FrozenTrial(state=state, value=value, **own, **where, **when))
    return journal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a search, finished or not")
    parser.add_argument("--condition", default="mixed")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--again", nargs="+", metavar="WEIGHTS", help="train the best graph again")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--restore", type=Path, help="folder of a run to go on with")
    given = parser.parse_args()
    if given.restore:
        print(restore(read_record(RECORD, SCHEMA), given.restore))
        return
    if given.run:
        journal = given.run / "search" / f"{given.condition}.log"
        summary = study_summary(load_study(given.condition, journal))
        running = summary["states"].pop("RUNNING")
        over = [trial for trial in summary["trials"] if trial["state"] != "RUNNING"]
        epochs = sum(len(trial["values"]) for trial in over)
        summary |= {"trials": over, "epochs_run": epochs}
        summary["epochs_full"] = summary["training"]["epochs"] * len(over)
        print(f"{running} graphs are still in training, and not counted")
    else:
        summary = read_record(RECORD, SCHEMA)
    if given.again:
        settings = ktg.load_settings("03", "quick", given.run)
        what = settings.load_data(), settings.train_config(), SEEDS, given.run / "runs", given.again
        winner = {"top 1": ktg.Graph.from_dict(summary["best"]["graph"])}
        with ktg.open_pool(given.jobs) as pool:
            summary["reevaluated"] = reevaluate(winner, *what, pool)
    if given.save:
        write_record(given.save, summary, SCHEMA, indent=None)

    trials = pd.DataFrame(summary["trials"])
    trials["start"] = [ktg.models.title(graph["nodes"][0]["init"]) for graph in trials.graph]
    whole = trials[trials.state == "COMPLETE"]
    share = 100 * summary["epochs_run"] / summary["epochs_full"]
    print(f"{len(trials)} graphs, {len(whole)} to the end, {share:.0f} % of all epochs\n")
    print("| node 1 starts from | graphs | to the end | best, validation % | its test % |")
    print("|---|---|---|---|---|")
    for start, part in trials.groupby("start", sort=False):
        ended = part[part.state == "COMPLETE"]
        best = ended.loc[ended.value.idxmax()] if len(ended) else None
        found = "– | –" if best is None else f"{best.value:.1f} | {best.test_accuracy:.1f}"
        print(f"| {start} | {len(part)} | {len(ended)} | {found} |")
    best = whole.loc[whole.value.idxmax()]
    print(f"\nThe best of all: {ktg.Graph.from_dict(best.graph)}")
    table1 = ktg.ablation.read_runs("data/reference_runs/quick")
    for gap in winner_gaps({summary["condition"]: summary}, table1).values():
        (again,) = summary["reevaluated"]
        mean, std = np.mean(again["test_accuracy"]), np.std(again["test_accuracy"], ddof=1)
        rows = ktg.ablation.run_arms(table1)
        through = rows[best.graph["nodes"][0]["init"], "1+2+3"].by_seed
        own = dict(zip(again["seeds"], again["test_accuracy"], strict=True))
        print(f"Trained again: {mean:.1f} ± {std:.1f} %, n = {gap['winner']}")
        print(f"Against its target alone: {differs(gap)}")
        print(
            f"Against Table 1's graph of this start, all Through: {differs(ktg.stats.difference(own, through))}"
        )


if __name__ == "__main__":
    main()
