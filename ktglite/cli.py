"""The command line: each step of the paper by itself, and what to do with a trained network.

Names of `ktglite` are imported when they are used, so that help and errors of usage need no torch.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

import ktglite
from ktglite.profiles import load_profile, parse_overrides, run_folder

optional = partial(arg, help_behavior_hint="")
Number = Annotated[int | None, optional(metavar="N")]
Names = Annotated[tuple[str, ...], optional(metavar="NAME")]
Pairs = Annotated[UseAppendAction[tuple[str, ...]], optional(metavar="NAME=VALUE")]
Text = Annotated[str | None, optional(metavar="TEXT")]
Folder = Annotated[Path | None, optional(metavar="DIR")]
File = Annotated[Path | None, optional(metavar="FILE")]
Argument = Positional[Annotated[str, arg(metavar="WHICH")]]
Network = Positional[Annotated[Path, arg(metavar="TARGET")]]
Images = Positional[Annotated[tuple[Path, ...], optional(metavar="IMAGE")]]
Run = Positional[Annotated[str, arg(metavar="RUN")]]


@dataclass
class Choice:
    """Where the settings come from, where results go, and who computes."""

    profile: str = "quick"
    """smoke, quick, photos, lab, paper, cars64, or the path of a .yaml file"""
    out: Folder = None
    """folder of the run; data/runs/PROFILE if not given"""
    set: Pairs = ()
    """a setting to change; repeat it"""
    jobs: Number = None
    """processes; one per GPU or core if not given"""
    dask: Text = None
    """tcp://HOST:PORT of a Dask scheduler; start its workers in this folder"""

    def overrides(self, **given: object) -> dict[str, object]:
        given |= {"jobs": self.jobs, "dask": self.dask}
        return parse_overrides(self.set) | {n: v for n, v in given.items() if v not in (None, ())}

    def settings(self, notebook: str, **given: object):
        """The settings of a notebook, from `--set` and from a command's own options."""
        load_profile(self.profile)  # its errors are told before seconds of imports
        return ktglite.load_settings(notebook, self.profile, self.out, **self.overrides(**given))


# ---- the paper's steps


def reproduce(run: Choice, only: Names = (), notebooks: Folder = None) -> None:
    """Execute the notebooks 00-04 in order; trainings that are done are not done again.

    --set 03.NAME=VALUE changes a setting in one notebook.

    Args:
        only: numbers, such as 02 04.
        notebooks: their folder; ./notebooks if not given.
    """
    from ktglite.reproduce import reproduce as execute

    out = run_folder(run.profile, run.out)
    done = execute(run.profile, only, out, run.overrides(), notebooks)
    table = out / "tables/table1.md"
    if table.exists():
        print(table.read_text(encoding="utf-8"))
    print(*sorted(out.glob("tables/*")), *(p.with_suffix(".html") for p in done.values()), sep="\n")


def ablation(
    run: Choice, seeds: Number = None, sources: Names = (), arch: Names = (), nodes: Number = None
) -> None:
    """Table 1: train what is missing, write tables and claims. The same command resumes.

    Settings that no option has are given with --set, such as report=best or keep=target.

    Args:
        seeds: how many; finished ones are kept.
        sources: pre-trained starts, such as fractaldb1k or a weights file.
        arch: one for all nodes, or one for each: resnet18_w16, a model of torchvision.
        nodes: of a graph.
    """
    archs = arch[0] if len(arch) == 1 else arch
    settings = run.settings("02", seeds=seeds, sources=sources, arch=archs, nodes=nodes)
    out = Path(settings.out)
    graphs = ktglite.ablation_grid(settings.arch, settings.sources, settings.nodes)
    what = graphs, settings.load_data(), settings.train_config(), settings.seed_numbers
    store = settings.store()
    with ktglite.open_pool(settings.jobs, settings.dask) as pool:
        records = ktglite.run_all(*what, store, settings.weights, pool)
    ktglite.store.write_json(out / "table1.json", records)
    paths = ktglite.claims.write_tables(records, out / "tables", settings.sources, settings.profile)
    print("Accuracy of node 1 (%), test: mean ± std (n)")
    _print_table(ktglite.ablation.format_table(ktglite.ablation_table(records, settings.sources)))
    print(*paths, sep="\n")
    print(f"next: ktglite figures {quote(str(out))}")


def search(condition: Argument, run: Choice, trials: Number = None) -> None:
    """Step 3: search the graph, where nodes may start from CONDITION. The same command resumes.

    Args:
        condition: none, imagenet1k, fractaldb1k or mixed.
        trials: how many graphs.
    """
    settings = run.settings("03", trials=trials)
    out = Path(settings.out)
    what = settings.search_config(condition), settings.load_data(), settings.train_config()
    settings.store()
    weights = ktglite.runs.weights_folder(settings.weights, settings.seed)
    with ktglite.open_pool(settings.jobs, settings.dask) as pool:
        study = ktglite.search.search(*what, out, weights=weights, pool=pool)
    summary = ktglite.search.write_summary(study, out)
    counts = [f"{n} {state.lower()}" for state, n in summary["states"].items() if n]
    print(f"{condition}: {', '.join(counts)}")
    path = out / "search" / f"{study.study_name}.json"
    print(path)
    if summary["best"] is None:
        print("no graph was trained to the end: give more --trials")
        return
    value = f"{summary['select_on']} accuracy {summary['selection_value']:.2f} %"
    print(f"best graph, {value}: {summary['best']['text']}")
    again = f"ktglite train {quote(str(path))} --profile {quote(run.profile)} --seed 1000"
    own = [pair.strip().removeprefix("03.") for pair in run.set]  # what `train` reads is 02's
    sets = "".join(f" --set {quote(pair)}" for pair in (*own, f"weights={weights}"))
    print(f"next: {again}{sets} --out {quote(str(out / f'best_{condition}'))}")


def pretrain() -> None:
    """Step 1: pre-train a single network on one source."""
    # Its options are the fields of PretrainConfig, see `_run`.


# ---- a graph of one's own


def train(
    graph: Argument,
    run: Choice,
    dataset: Text = None,
    epochs: Number = None,
    arch: Names = (),
    init: Names = (),
    seed: Number = None,
) -> None:
    """Train one graph into --out and keep its target, node 1. The same command resumes.

    Args:
        graph: alone, all-through:3, mutual:2, distillation, or a .json file: a graph (Graph.save),
            the record of a run, or the summary of a search, whose best graph is trained.
        dataset: folder with a folder of images for each class; the profile's if not given.
        epochs: how many; the profile's if not given.
        arch: one for all nodes, or one for each: resnet18_w16, a model of torchvision.
        init: what a node starts from, or one for each: scratch, imagenet1k, fractaldb1k, a weights
            file, a name of torchvision's such as ResNet50_Weights.IMAGENET1K_V2.
        seed: of all random numbers; the profile's first if not given.
    """
    if run.out is None:
        raise ValueError("train writes a network: give it a folder with --out, say --out my_run")
    settings = run.settings("02", dataset=dataset, epochs=epochs, first_seed=seed)
    from ktglite.single_run import node_table, read_graph, train_graph

    usual = (settings.arch,) if isinstance(settings.arch, str) else settings.arch
    chosen = read_graph(graph, arch or (() if graph.endswith(".json") else usual), init)
    record = train_graph(chosen, settings, Path(graph).stem)
    print(chosen)
    _print_table(node_table(record))
    target = run.out / "target.safetensors"
    print(target, run.out / "training.png", run.out / "record.json", sep="\n")
    print(f"next: ktglite predict {quote(str(target))} IMAGE_OR_FOLDER ..")


def predict(target: Network, images: Images, csv: File = None) -> None:
    """What a trained network takes images for, and with which probability (%).

    Args:
        target: a network, such as RUN/target.safetensors.
        images: files, or folders of them.
        csv: file to write the answers to.
    """
    from ktglite.single_run import answers

    table = answers(target, images)
    if csv is None:
        _print_table(table)
        return
    with ktglite.store.atomic_write(csv) as file:
        # a file's name need not be UTF-8
        file.write(table.to_csv(index=False).encode(errors="surrogateescape"))
    print(csv)


def evaluate(target: Network, dataset: Text = None) -> None:
    """Accuracy of a trained network on test images, and by class.

    Args:
        target: a network, such as RUN/target.safetensors.
        dataset: folder with a folder of images for each class: all that are new to the network are
            tested, or those of its test/; the test images of its training if not given.
    """
    from ktglite.single_run import class_table

    table = class_table(target, dataset)
    _print_table(table)
    right, of = table["correct"].sum(), table["images"].sum()
    print(f"accuracy {100 * right / of:.2f} % of {of} test images")


# ---- what a run left


def figures(
    run: Run = "quick", out: Folder = None, format: str = "pdf,png", lang: str = "en"
) -> None:
    """Draw the figures of a run again from its records; trains nothing.

    Args:
        run: folder of a run, or the profile whose run it is.
        out: where they go; RUN/figures if not given.
        format: pdf, png, svg, with commas between.
        lang: en or ja.
    """
    records = find_run(run)
    out = out or (records if records == Path(run) else run_folder(run)) / "figures"
    formats = format.replace(" ", "").split(",")
    print(f"from {records}")
    print(*ktglite.plots.draw_all(records, out, formats, lang), sep="\n")


def claims(run: Run = "quick") -> None:
    """The verdicts on the paper's claims, from the records of a run.

    Args:
        run: folder of a run, or the profile whose run it is.
    """
    folder = find_run(run)
    searched = list(folder.glob("search/*.json"))
    summaries = ktglite.search.read_summaries(folder / "search") if searched else {}
    searches_only = summaries and not (folder / "table1.json").exists()
    runs = [] if searches_only else ktglite.ablation.read_runs(folder)
    table = ktglite.claims.claims_table(runs, summaries)
    print(f"{folder}: effects in points, with 95 % intervals")
    columns = ["claim", "source", "effect", "low", "high", "n", "verdict", "paper effect"]
    _print_table(table[columns].round(2))
    for row in table[["claim", "says"]].drop_duplicates().itertuples():
        print(f"{row.claim}: {row.says}")


def export(run: Run, to: str, out: Path) -> None:
    """The records of a run as tables, for TensorBoard, or its searches for optuna-dashboard.

    Args:
        run: folder of a run.
        to: csv, parquet, tensorboard or optuna.
        out: folder for what is written.
    """
    from ktglite.export import export as write

    paths = write(run, to, out)
    print(*paths, sep="\n")
    if to == "tensorboard":
        print(f"next: tensorboard --logdir {quote(str(out))}")
    elif to == "optuna":
        print(f"next: optuna-dashboard {quote(str(paths[0]))}")


def doctor(out: Path = Path("data/runs")) -> None:
    """This machine, and runs that are unfinished or failed; code 1 for what would stop a run.

    Args:
        out: the folder of all runs.
    """
    from ktglite.doctor import examine

    lines = list(examine(out))
    for good, line in lines:
        print(f"{'ok     ' if good else 'TROUBLE'} {line}")
    if not all(good for good, _ in lines):
        sys.exit(1)


# ---- what commands share


def find_run(run: str) -> Path:
    """The folder `run`; or of a profile, that in data/runs, else what comes with the kit."""
    own = run_folder(run)
    shipped = ktglite.store.from_checkout(f"data/reference_runs/{run}")
    if Path(run).is_dir() or not (own.is_dir() or shipped.is_dir()):
        return Path(run)
    return shipped if shipped.is_dir() and not (own / "table1.json").exists() else own


def _print_table(frame) -> None:
    print(frame.to_string(index=False, na_rep=""))


STEPS = (reproduce, pretrain, ablation, search, train)
AFTER = (predict, evaluate, figures, claims, export, doctor)
COMMANDS = {function.__name__: function for function in (*STEPS, *AFTER)}


def _terminate(number, frame) -> None:
    """Let SIGTERM, as Slurm sends it, end a run as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def _at_home(argument: str) -> str:
    """The home for "~" in front of an argument, and in --out=~/x, where no shell puts it."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--"):
        return option + equals + os.path.expanduser(value)
    return os.path.expanduser(argument)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ktglite`. Errors that name their cause end with it and code 1;
    KTGLITE_DEBUG=1 shows where they were raised."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):  # files are UTF-8; a terminal may have no ±
        if hasattr(stream, "reconfigure"):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ktglite").setLevel(logging.INFO)
    try:
        _run([*map(_at_home, sys.argv[1:] if arguments is None else arguments)])
    except KeyboardInterrupt as stop:
        where = "; ".join(["stopped", *getattr(stop, "__notes__", [])])
        print(f"\nktglite: {where}; the same command resumes", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(143 if stop.args else 130)  # waits for no worker
    except Exception as error:
        from ktglite.reproduce import NotebookError

        # Others, subclasses of ValueError among them, are defects and keep their trace.
        told = isinstance(error, (OSError, FloatingPointError, NotebookError))
        if os.environ.get("KTGLITE_DEBUG") or not (told or type(error) is ValueError):
            raise
        sys.exit("\n".join([f"ktglite: {error}", *getattr(error, "__notes__", [])]))


def _run(arguments: Sequence[str]) -> None:
    """Run the command that is named first."""
    if arguments[:1] == ["pretrain"]:  # whose options need torch
        from ktglite.sources.pretrain import main as pretrain

        pretrain(arguments[1:])
    elif arguments == ["--version"]:
        print(ktglite.__version__)
    else:
        more = "The Knowledge Transfer Graph, and what pre-training does in it. "
        more += "KTGLITE_DEBUG=1 in the environment shows tracebacks; --version tells the version."
        config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
        given = {"prog": "ktglite", "description": more, "args": arguments or ["--help"]}
        tyro.extras.subcommand_cli_from_dict(COMMANDS, config=config, **given)
