"""What storage costs a search: seconds per trial with a journal, and with PostgreSQL if $KTGLITE_STORAGE names one,
beside the time of the quick profile's trials, trained here. Processor time, which other programs do not lengthen.

Run: KTGLITE_STORAGE=postgresql+psycopg://USER@HOST/DB python benchmarks/search_overhead.py
"""

import os
import tempfile
import time
from pathlib import Path

import optuna
import torch

from ktglite import TrainConfig, cli, epochs, load_data, search
from ktglite.reproduce import find_notebooks, parameters

TRIALS = int(os.environ.get("TRIALS", 100))
TRAININGS = 2


def clocks() -> tuple[float, float]:
    """Wall and processor seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], count: int) -> tuple[float, float]:
    """Wall and processor seconds per trial."""
    return tuple((now - then) / count for now, then in zip(clocks(), start, strict=True))


def storage_seconds(storage: str, settings: search.SearchConfig, data, config: TrainConfig) -> tuple[float, float]:
    """A whole search without its training: the plan, every parameter, every report, every question to ASHA."""
    space = search.dimensions(settings.choices, settings.archs, settings.nodes)
    curves = torch.rand(settings.trials, config.epochs, generator=torch.Generator().manual_seed(0))

    def objective(trial: optuna.Trial) -> float:
        for name, values in space.items():
            trial.suggest_categorical(name, values)
        for step, value in enumerate(curves[trial.user_attrs["plan"]].tolist(), 1):
            trial.report(value, step)
            if step < config.epochs and trial.should_prune():
                raise optuna.TrialPruned
        return value

    start = clocks()
    study = search.open_study(f"overhead {time.time_ns()}", storage, settings, data, config)
    search.work(study, objective, storage)
    return since(start, settings.trials)


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    values = parameters("quick", "data/runs/quick", {}, find_notebooks())["03_asha_graph_search"]
    data = load_data(**cli.data_arguments(values))
    config = cli.train_config(values, values["search_epochs"])
    settings = cli.search_config(values | {"trials": TRIALS}, "none")
    graphs = search.sample_graphs(settings.choices, settings.arch, settings.nodes, TRAININGS, settings.seed)
    start, trained = clocks(), 0
    for graph in graphs:
        trained += len(list(epochs(graph, data, config, settings.seed)))
    _, epoch = since(start, trained)
    curves = torch.rand(TRIALS, config.epochs, generator=torch.Generator().manual_seed(0)).numpy()
    stopped = search.asha_epochs(curves, settings.min_resource, settings.reduction_factor)
    trial = epoch * stopped.mean()  # pruned like those below: the shortest, so the overhead weighs most
    print(f"quick profile: {epoch:.2f} s per epoch, {trial:.2f} s per trial of {stopped.mean():.2f} epochs (processor)")
    with tempfile.TemporaryDirectory() as folder:
        storages = {"journal": str(Path(folder) / "search.log"), "database": os.environ.get("KTGLITE_STORAGE")}
        for name, storage in storages.items():
            if storage:
                wall, own = storage_seconds(storage, settings, data, config)
                print(f"{name}: {1000 * own:.1f} ms per trial (wall {1000 * wall:.1f}), {100 * own / trial:.2f} %")
            else:
                print(f"{name}: not measured, KTGLITE_STORAGE is not set")


if __name__ == "__main__":
    main()
