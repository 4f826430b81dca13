"""The command line: `ktglite reproduce`, and each step by itself."""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ktglite.settings import Settings, load_settings, parse_overrides, select_settings

__all__ = ["app"]

app = tyro.extras.SubcommandApp()
Pairs = tyro.conf.UseAppendAction[tuple[str, ...]]


@app.command
def reproduce(
    profile: str = "quick",
    only: tuple[str, ...] = (),
    out: Path | None = None,
    set: Pairs = (),
    notebooks: Path | None = None,
    skip_unreadable: bool = False,
    dask: str | None = None,
    force: bool = False,
) -> None:
    """Execute the notebooks 00-04 in order; what is done and unchanged is skipped.

    Args: profile: smoke, quick, lab, paper, cars64, or the path of a YAML file. only: numbers of
    notebooks, such as 02 04. out: folder of the run (default: data/runs/PROFILE). set: a setting to
    change, NAME=VALUE, in every notebook that has it; 03.NAME=VALUE in that one. notebooks: folder
    of the notebooks, if it is not ./notebooks. skip_unreadable: leave out image files that cannot
    be read instead of stopping. dask: address of a Dask scheduler, tcp://HOST:PORT, whose workers
    train instead; start them in this folder. force: execute also what is done and unchanged.
    """
    from ktglite import reproduce as work

    overrides = parse_overrides(set) | ({"skip_unreadable": True} if skip_unreadable else {})
    overrides |= {"dask": dask} if dask else {}
    done = work.reproduce(profile, list(only), out, overrides, notebooks, force)
    _show_results(Path(out or f"data/runs/{Path(profile).stem}"), done)


@app.command
def ablation(
    profile: str = "quick",
    out: Path | None = None,
    set: Pairs = (),
    seeds: int | None = None,
    sources: tuple[str, ...] = (),
    arch: str | None = None,
    nodes: int | None = None,
    jobs: int | None = None,
    dask: str | None = None,
) -> None:
    """Table 1 without the notebook: train what is missing, write tables and claims. The same
    command resumes.

    Args: profile: smoke, quick, lab, paper, cars64, or the path of a YAML file. out: folder of the
    run (default: data/runs/PROFILE). set: any setting of notebook 02 to change, NAME=VALUE, such as
    report=best or temperature=2. seeds: how many, from 0; finished ones are kept, so that 10 after
    3 trains 7. sources: of pre-trained weights: fractaldb1k, imagenet1k, imagenet1k_standin, the
    path of a weights file, or a name of torchvision's such as ResNet50_Weights.IMAGENET1K_V2. arch:
    resnet18, resnet18_w8, resnet18_w16, or a model of torchvision. nodes: of the graphs; N nodes
    have 2^N patterns. jobs: processes (default: one per GPU or core). dask: address of a Dask
    scheduler, tcp://HOST:PORT, whose workers train instead; start them in this folder.
    """
    from ktglite.experiments import ablation as table1
    from ktglite.experiments import claims
    from ktglite.experiments.runs import Store, run_all
    from ktglite.pool import open_pool
    from ktglite.store import write_json

    given = {
        "seeds": seeds,
        "sources": sources or None,
        "arch": arch,
        "nodes": nodes,
        "jobs": jobs,
        "dask": dask,
    }
    settings = settings_of("02", profile, out, set, given)
    out = Path(settings.out)
    graphs = table1.ablation_grid(settings.arch, settings.sources, settings.nodes)
    with open_pool(settings.jobs, settings.dask) as pool:
        where = Store(out / "runs", settings.keep), settings.weights, pool
        records = run_all(
            graphs, settings.load_data(), settings.train_config(), settings.seed_numbers, *where
        )
    write_json(out / "table1.json", records)
    table1.write_table(table1.ablation_table(records, settings.sources), out / "tables")
    table = claims.claims_table(records, sources=settings.sources, scale=settings.profile)
    table.to_csv(out / "tables" / "claims.csv", index=False)
    _show_results(out, {})


@app.command
def search(
    condition: str,
    profile: str = "quick",
    trials: int | None = None,
    out: Path | None = None,
    storage: str | None = None,
    set: Pairs = (),
    jobs: int | None = None,
    dask: str | None = None,
) -> None:
    """Step 3 for one condition: none, imagenet1k, fractaldb1k or mixed. The same command goes on
    with what is left.

    Args: condition: what a node may start from. profile: smoke, quick, lab, paper, cars64, or the
    path of a YAML file. trials: how many graphs (default: the profile's). out: folder of the run
    (default: data/runs/PROFILE). storage: postgresql+psycopg://... (default: a journal file in the
    run's folder). set: a setting of notebook 03 to change, NAME=VALUE. jobs: processes (default:
    one per GPU or core). dask: address of a Dask scheduler, tcp://HOST:PORT, whose workers train
    instead; start them in this folder.
    """
    from ktglite.experiments import search as step3
    from ktglite.pool import open_pool

    settings = settings_of("03", profile, out, set, {"trials": trials, "jobs": jobs, "dask": dask})
    chosen, data, out = settings.search_config(condition), settings.load_data(), Path(settings.out)
    with open_pool(settings.jobs, settings.dask) as pool:
        study = step3.search(
            chosen, data, settings.train_config(), out, storage, settings.weights, pool
        )
    summary = step3.write_summary(study, out)
    value = summary["selection_value"]
    best = (
        "no graph was trained to the end"
        if value is None
        else f"best {summary['select_on']} accuracy {value:.2f} %"
    )
    print(f"{condition}: {summary['states']}, {best}")


def settings_of(
    notebook: str, profile: str, out: Path | None, pairs: Sequence[str], given: dict
) -> Settings:
    """The settings of a notebook from `--set NAME=VALUE` and from what a command has flags for."""
    chosen = select_settings(notebook, parse_overrides(pairs))
    chosen |= {name: value for name, value in given.items() if value is not None}
    return load_settings(notebook, profile, out, **chosen)


def find_records(profile: str) -> Path:
    """Where the records of a profile are: in data/runs, else the committed ones in data/reference_runs."""
    places = [Path("data") / kind / Path(profile).stem for kind in ("runs", "reference_runs")]
    return next((place for place in places if (place / "table1.json").exists()), places[0])


def _show_results(out: Path, done: dict[str, Path]) -> None:
    """The end of a run on the terminal: Table 1 beside the paper's, the best graph per condition, where things are."""
    from ktglite.experiments import ablation as table1
    from ktglite.graph import Graph

    console = Console()
    if (out / "table1.json").exists():
        frame = table1.format_table(table1.ablation_table(table1.read_runs(out)))
        frame = frame.rename(columns=lambda name: name.removeprefix("node "))
        table = Table(
            *map(str, frame.columns),
            title="Table 1: accuracy of node 1 (%), test split, mean ± std (n)",
        )
        for row in frame.astype(str).itertuples(index=False):
            table.add_row(*row)
        console.print(table)
    summaries = sorted((out / "search").glob("*.json"))
    if summaries:
        table = Table(
            "condition",
            "best graph",
            "search",
            "re-evaluated",
            title="Best graph per condition (%)",
        )
        for path in summaries:
            summary = json.loads(path.read_text())
            top = next(
                (entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None
            )
            if summary["best"]:
                again = "not yet" if top is None else _mean_std(top["test_accuracy"])
                graph = Graph.from_dict(summary["best"]["graph"])
                table.add_row(
                    summary["condition"], str(graph), f"{summary['selection_value']:.2f}", again
                )
        console.print(table)
    for path in done.values():
        console.print(f"{path.with_suffix('.html')}", soft_wrap=True)


def _mean_std(values: list[float]) -> str:
    from ktglite.experiments.stats import summary

    found = summary(values)
    return f"{found['mean']:.2f} ± {found['std']:.2f} ({found['n']})"


def run_app(commands: Callable[[Sequence[str]], None]) -> None:
    """Run the command line. Errors that name their cause end with it and code 1; KTGLITE_DEBUG=1 shows tracebacks."""
    from ktglite.sources.pretrain import (
        main as pretrain,
    )  # has an entry point of its own, for torchrun

    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["pretrain"]:
            pretrain(arguments[1:])
        else:
            commands(arguments)
    except KeyboardInterrupt:
        sys.exit("ktglite: stopped; the same command goes on")
    except BrokenExecutor:
        sys.exit(
            "ktglite: a worker was killed, perhaps for want of memory; the same command goes on, or fewer --jobs"
        )
    except Exception as error:
        if os.environ.get("KTGLITE_DEBUG") or not _is_ours(error):
            raise
        sys.exit("\n".join([f"ktglite: {error}", *getattr(error, "__notes__", [])]))


def _is_ours(error: Exception) -> bool:
    """Whether an error was raised here to say what its user can mend, and is no defect of a library."""
    from ktglite.reproduce import NotebookError

    if isinstance(error, OSError | FloatingPointError | ChildProcessError | NotebookError):
        return True
    if (
        type(error.__cause__).__name__ == "_RemoteTraceback"
    ):  # it was raised in a worker, and comes with its words
        trace = str(error.__cause__)
    else:
        trace = "".join(traceback.format_tb(error.__traceback__))
    raised_in = re.findall(r'^  File "(.+?)", line', trace, re.M)[-1]
    return isinstance(error, ValueError) and Path(raised_in).is_relative_to(Path(__file__).parent)
