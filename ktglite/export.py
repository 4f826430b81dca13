"""What a run left, in other tools' formats: tables, TensorBoard, Optuna."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ktglite.experiments import ablation
from ktglite.experiments.runs import SCHEMA, load_records
from ktglite.experiments.search import read_summaries
from ktglite.experiments.space import to_params
from ktglite.graph import Graph
from ktglite.store import read_record

__all__ = ["FORMATS", "export", "read_folder", "tidy_epochs", "tidy_runs"]

FORMATS = ("csv", "parquet", "tensorboard", "optuna")


def read_folder(folder: str | Path) -> list[dict]:
    """Every finished run that a folder has a record of, in table1.json, record.json or runs/.

    Raises FileNotFoundError where there is none.
    """
    folder = Path(folder)
    found = ablation.read_runs(folder) if (folder / "table1.json").exists() else []
    if (folder / "record.json").exists():
        found.append(read_record(folder / "record.json", SCHEMA))
    found += load_records(folder / "runs") or (load_records(folder) if not found else [])
    if not found:
        raise FileNotFoundError(f"{folder} has no table1.json, record.json or runs/*.json")
    return list({record["key"]: record for record in reversed(found)}.values())[::-1]


def tidy_runs(records: Sequence[dict]) -> pd.DataFrame:
    """A row per run: what it was, its settings, and the accuracies (%) of node 1."""
    rows = []
    for record in records:
        last = record["epochs"][-1]
        row = {name: record[name] for name in ("key", "label", "seed", "seconds")}
        row["graph"] = str(Graph.from_dict(record["graph"]))
        row["dataset"] = record["data"]["name"]
        row["train_accuracy"] = last["train_accuracy"][0]
        row["val_accuracy"] = record["val_accuracy"][0]
        row["test_accuracy"] = record["test_accuracy"][0]
        rows.append(row | record["config"])
    return pd.DataFrame(rows)


def tidy_epochs(records: Sequence[dict]) -> pd.DataFrame:
    """A row per run, epoch and node that was trained: losses, and accuracies in percent."""
    names = ("train_loss", "train_accuracy", "val_accuracy")
    rows = []
    for record in records:
        run = {name: record[name] for name in ("key", "label", "seed")}
        for epoch in record["epochs"]:
            for node, accuracy in enumerate(epoch["val_accuracy"]):
                if accuracy is not None:
                    values = {name: epoch[name][node] for name in names}
                    rows.append(run | {"epoch": epoch["epoch"], "node": node + 1} | values)
    return pd.DataFrame(rows)


def export(folder: str | Path, to: str, out: str | Path) -> list[Path]:
    """Write a run's records to the folder `out`; one of `FORMATS`. Returns what was written.

    Raises ValueError for another format, and for one whose package is not installed.
    """
    if to not in FORMATS:
        raise ValueError(f"--to {to!r}: allowed are {', '.join(FORMATS)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if to == "optuna":
        return [_to_optuna(folder, out / "optuna.log")]
    records = read_folder(folder)
    if to == "tensorboard":
        return _to_tensorboard(records, out)
    frames = {"runs": tidy_runs(records), "epochs": tidy_epochs(records)}
    for name, frame in frames.items():
        if to == "csv":
            frame.to_csv(out / f"{name}.csv", index=False)
            continue
        try:
            frame.to_parquet(out / f"{name}.parquet")
        except ImportError as error:
            raise ValueError("parquet needs a package: pip install pyarrow") from error
    return [out / f"{name}.{to}" for name in frames]


def _to_tensorboard(records: Sequence[dict], out: Path) -> list[Path]:
    """A run of TensorBoard for each of ours, its scalars by node."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard is not installed: pip install tensorboard") from error
    paths = []
    for record in records:
        label = re.sub(r"[^\w+.-]+", "_", record["label"] or "run")
        paths.append(out / f"{label}-seed{record['seed']}-{record['key'][:8]}")
        with SummaryWriter(str(paths[-1])) as writer:
            for row in tidy_epochs([record]).to_dict("records"):
                for name in ("train_loss", "train_accuracy", "val_accuracy"):
                    writer.add_scalar(f"{name}/node {row['node']}", row[name], row["epoch"])
            writer.add_text("graph", str(Graph.from_dict(record["graph"])))
    return paths


def _to_optuna(folder: str | Path, path: Path) -> Path:
    """The recorded searches as studies of a journal file, with every epoch's value."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    searches = Path(folder) / "search"
    summaries = read_summaries(searches if searches.is_dir() else folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.unlink(missing_ok=True)  # a journal is appended to
    storage = JournalStorage(JournalFileBackend(str(path)))
    for name, summary in summaries.items():
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        study.add_trials(_trials(summary))
    return path


def _trials(summary: dict) -> list:
    """The ended trials of a search as Optuna's own."""
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    search = summary["search"]
    starts = (*search["choices"], *["teacher"] * (search.get("teachers") == "trained"))
    choices = {"arch": search["arch"], "init": starts, "gate": search["gates"]}
    trials = []
    for trial in summary["trials"]:
        state = TrialState[trial["state"]]
        if not state.is_finished():
            continue
        params = to_params(Graph.from_dict(trial["graph"]))
        values = enumerate(trial["values"], 1)
        found = create_trial(
            state=state,
            value=trial["value"],
            params=params,
            distributions={n: CategoricalDistribution(choices[n.split()[0]]) for n in params},
            user_attrs={"test_accuracy": trial["test_accuracy"], "seconds": trial["seconds"]},
            intermediate_values=dict(values),
        )
        trials.append(found)
    return trials
