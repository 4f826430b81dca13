"""The paper's own search: how far a study of 1,500 graphs by ASHA from epoch 1 has come, and what it
has found.

    ktglite search mixed --profile quick --trials 1500 --set pruner=asha --set min_resource=1 --out RUN
    python benchmarks/paper_search.py --run RUN --save data/reference_runs/asha1500.json
    python benchmarks/paper_search.py

The first command may be interrupted, and goes on; the last reads the record that came with the kit.
"""

import argparse
from pathlib import Path

import pandas as pd

import ktglite as ktg
from ktglite.experiments.search import SCHEMA, load_study, study_summary
from ktglite.store import read_record, write_record

RECORD = Path("data/reference_runs/asha1500.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a search, finished or not")
    parser.add_argument("--condition", default="mixed")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
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


if __name__ == "__main__":
    main()
