"""What a run left, in other tools' formats: tables, TensorBoard, Optuna."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ktglite.experiments.ready import read_folder
from ktglite.experiments.search import read_summaries
from ktglite.experiments.space import to_params
from ktglite.graph import Graph

BY_NODE = ["train_loss", "train_accuracy", "val_accuracy"]


def tidy_runs(records: Sequence[dict]) -> pd.DataFrame:
    """A row per run: what it was, its settings, and the accuracies (%) of node 1."""
    frame = pd.DataFrame(list(records))
    facts = frame[["key", "label", "seed", "seconds"]].assign(
        graph=[str(Graph.from_dict(graph)) for graph in frame["graph"]],
        dataset=frame["data"].str["name"],
        val_accuracy=frame["val_accuracy"].str[0],
        test_accuracy=frame["test_accuracy"].str[0],
        train_accuracy=frame["epochs"].str[-1].str["train_accuracy"].str[0],
    )
    return facts.join(pd.DataFrame(frame["config"].tolist()))


def tidy_epochs(records: Sequence[dict]) -> pd.DataFrame:
    """A row per run, epoch and node that was trained: losses, and accuracies in percent."""
    run = ["key", "label", "seed"]
    frame = pd.json_normalize(list(records), "epochs", run, max_level=0)
    frame["node"] = [[*range(1, len(row) + 1)] for row in frame["val_accuracy"]]
    rows = frame[[*run, "epoch", "node", *BY_NODE]].explode(["node", *BY_NODE], ignore_index=True)
    return rows.dropna(subset="val_accuracy").infer_objects()


def export(folder: str | Path, to: str, out: str | Path) -> list[Path]:
    """Write a run's records to the folder `out` as csv, parquet, tensorboard or optuna.

    Returns what was written. Raises ValueError for another format, and for one whose package is not
    installed.
    """
    if to not in ("csv", "parquet", "tensorboard", "optuna"):
        raise ValueError(f"--to {to!r}: allowed are csv, parquet, tensorboard, optuna")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if to == "optuna":
        return [_to_optuna(folder, out / "optuna.log")]
    records = read_folder(folder)
    try:
        if to == "tensorboard":
            return _to_tensorboard(records, out)
        frames = {"runs": tidy_runs(records), "epochs": tidy_epochs(records)}
        paths = {out / f"{name}.{to}": frame for name, frame in frames.items()}
        for path, frame in paths.items():
            frame.to_csv(path, index=False) if to == "csv" else frame.to_parquet(path)
    except ImportError as error:
        package = "pyarrow" if to == "parquet" else to
        raise ValueError(f"--to {to} needs a package: pip install {package}") from error
    return list(paths)


def _to_tensorboard(records: Sequence[dict], out: Path) -> list[Path]:
    """A run of TensorBoard for each of ours, its scalars by node."""
    from torch.utils.tensorboard import SummaryWriter

    paths = []
    for record in records:
        label = re.sub(r"[^\w+.-]+", "_", record["label"] or "run")
        paths.append(out / f"{label}-seed{record['seed']}-{record['key'][:8]}")
        with SummaryWriter(str(paths[-1])) as writer:
            for row in tidy_epochs([record]).to_dict("records"):
                for name in BY_NODE:
                    writer.add_scalar(f"{name}/node {row['node']}", row[name], row["epoch"])
            writer.add_text("graph", str(Graph.from_dict(record["graph"])))
    return paths


def _to_optuna(folder: str | Path, path: Path) -> Path:
    """The recorded searches as studies of a journal file, with every epoch's value."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    folder = Path(folder)
    summaries = read_summaries(folder if folder.name == "search" else folder / "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.unlink(missing_ok=True)  # a journal is appended to
    lock = JournalFileOpenLock(str(path))  # Optuna's own is a symlink, which Windows refuses
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    for name, summary in summaries.items():
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        drawn = [to_params(Graph.from_dict(trial["graph"])) for trial in summary["trials"]]
        frame = pd.DataFrame(drawn)
        kinds = {param: CategoricalDistribution(sorted(frame[param].unique())) for param in frame}
        for trial, params in zip(summary["trials"], drawn, strict=True):
            found = optuna.trial.create_trial(
                state=optuna.trial.TrialState[trial["state"]],
                value=trial["value"],
                params=params,
                distributions=kinds,
                user_attrs={"test_accuracy": trial["test_accuracy"], "seconds": trial["seconds"]},
                intermediate_values=dict(enumerate(trial["values"], 1)),
            )
            if found.state.is_finished():
                study.add_trial(found)
    return path
