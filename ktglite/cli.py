"""The command line: each step of the paper by itself, and what to do with a trained network."""

import difflib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro
from tyro.conf import Positional, UseAppendAction, arg

import ktglite
from ktglite.profiles import PROFILES, parse_overrides, raw_settings, run_folder

__all__ = ["main"]

COMMANDS: dict[str, Callable[..., None]] = {}


def option(words: str, usual: str | None = None, metavar: str | None = None):
    """What the help says of an option, and what it calls its default."""
    hint = None if usual is None else f"(default: {usual})" if usual else ""
    return arg(help=words, help_behavior_hint=hint, metavar=metavar)


Profile = Annotated[str, option(f"{', '.join(PROFILES)}, or the path of a .yaml file.")]
Out = Annotated[Path | None, option("Folder of the run.", "data/runs/PROFILE", "DIR")]
RunFolder = Annotated[Path, option("Folder of a run.", metavar="RUN")]
Pairs = Annotated[
    UseAppendAction[tuple[str, ...]], option("A setting to change; repeat it.", "", "NAME=VALUE")
]
Jobs = Annotated[int | None, option("Processes.", "one per GPU or core", "N")]
Dask = Annotated[
    str | None,
    option("Dask scheduler whose workers train; start them in this folder.", "", "tcp://HOST:PORT"),
]
Nodes = Annotated[int | None, option("Nodes of a graph.", "the profile's", "N")]
Archs = Annotated[
    tuple[str, ...],
    option("Architecture, or one for each node: resnet18_w16, a model of torchvision.", "", "ARCH"),
]
Inits = Annotated[
    tuple[str, ...],
    option(
        "What a node starts from, or one for each: scratch, imagenet1k, fractaldb1k, a weights "
        "file, a name of torchvision's such as ResNet50_Weights.IMAGENET1K_V2.",
        "scratch, or the graph's own",
        "INIT",
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command of its name."""
    COMMANDS[function.__name__] = function
    return function


# ---- the paper's steps


@command
def reproduce(
    profile: Profile = "quick",
    only: Annotated[tuple[str, ...], option("Numbers, such as 02 04.", "all", "NUMBER")] = (),
    out: Out = None,
    set: Pairs = (),
    notebooks: Annotated[Path | None, option("Their folder.", "./notebooks", "DIR")] = None,
    dask: Dask = None,
    force: Annotated[bool, option("Execute also what is done and unchanged.", "")] = False,
) -> None:
    """Execute the notebooks 00-04 in order; what is done and unchanged is skipped.

    03.NAME=VALUE changes a setting in one notebook.
    """
    from ktglite.reproduce import reproduce as execute

    overrides = parse_overrides(set) | ({"dask": dask} if dask else {})
    with _kept_in(run_folder(profile, out)):
        done = execute(profile, only, out, overrides, notebooks, force)
    tables = run_folder(profile, out) / "tables"
    if (tables / "table1.md").exists():
        print((tables / "table1.md").read_text(encoding="utf-8"))
    _say_where(*sorted(tables.glob("*")), *(path.with_suffix(".html") for path in done.values()))


@command
def ablation(
    profile: Profile = "quick",
    out: Out = None,
    set: Pairs = (),
    seeds: Annotated[int | None, option("How many; finished ones are kept.", "", "N")] = None,
    sources: Annotated[tuple[str, ...], option("Pre-trained starts.", "", "INIT")] = (),
    arch: Archs = (),
    nodes: Nodes = None,
    jobs: Jobs = None,
    dask: Dask = None,
) -> None:
    """Table 1: train what is missing, write tables and claims. The same command resumes.

    Settings that no option has are given with --set, such as report=best or keep=target.
    """
    given = {"seeds": seeds, "sources": sources, "nodes": nodes, "jobs": jobs, "dask": dask}
    settings = _settings("02", profile, out, set, given | {"arch": _one_or_each(arch)})
    from ktglite.experiments import ablation as table1
    from ktglite.experiments import claims
    from ktglite.experiments.runs import run_all
    from ktglite.pool import open_pool
    from ktglite.store import write_json

    out = Path(settings.out)
    graphs = table1.ablation_grid(settings.arch, settings.sources, settings.nodes)
    data = settings.load_data()
    store = settings.store()
    with _kept_in(out), open_pool(settings.jobs, settings.dask) as pool:
        config = settings.train_config()
        seeds = settings.seed_numbers
        records = run_all(graphs, data, config, seeds, store, settings.weights, pool)
    write_json(out / "table1.json", records)
    frame = table1.ablation_table(records, settings.sources)
    paths = table1.write_table(frame, out / "tables")
    table = claims.claims_table(records, sources=settings.sources, scale=settings.profile)
    table.to_csv(out / "tables" / "claims.csv", index=False)
    _print_table(table1.format_table(frame), "Accuracy of node 1 (%), test: mean ± std (n)")
    _say_where(*paths, out / "tables" / "claims.csv")
    _say_next(f"ktglite figures {quote(str(out))}")


@command
def search(
    condition: Positional[
        Annotated[str, option("none, imagenet1k, fractaldb1k or mixed.", metavar="CONDITION")]
    ],
    profile: Profile = "quick",
    trials: Annotated[int | None, option("How many graphs.", "the profile's", "N")] = None,
    out: Out = None,
    set: Pairs = (),
    jobs: Jobs = None,
    dask: Dask = None,
) -> None:
    """Step 3: search the graph, where nodes may start from CONDITION. The same command resumes."""
    given = {"trials": trials, "jobs": jobs, "dask": dask}
    settings = _settings("03", profile, out, set, given)
    from ktglite.experiments import search as step3
    from ktglite.graph import Graph
    from ktglite.pool import open_pool

    chosen = settings.search_config(condition)
    out = Path(settings.out)
    data = settings.load_data()
    settings.store()
    weights = _each(settings.weights)[0]
    config = settings.train_config()
    with _kept_in(out), open_pool(settings.jobs, settings.dask) as pool:
        study = step3.search(chosen, data, config, out, weights=weights, pool=pool)
    summary = step3.write_summary(study, out)
    counts = [f"{n} {state.lower()}" for state, n in summary["states"].items() if n]
    print(f"{condition}: {', '.join(counts)}")
    path = out / "search" / f"{study.study_name}.json"
    _say_where(path)
    if summary["best"] is None:
        print("no graph was trained to the end")
        return
    value = f"{summary['select_on']} accuracy {summary['selection_value']:.2f} %"
    print(f"best graph, {value}: {Graph.from_dict(summary['best']['graph'])}")
    again = f"ktglite train {quote(str(path))} --profile {quote(str(profile))} --seed 1000"
    sets = "".join(f" --set {quote(pair)}" for pair in (*set, f"weights={weights}"))
    _say_next(f"{again}{sets} --out {quote(str(out / f'best_{condition}'))}")


@command
def pretrain() -> None:
    """Step 1: pre-train a single network on one source."""
    # Its options are the fields of PretrainConfig, see `_run`.


# ---- a graph of one's own


@command
def train(
    graph: Positional[
        Annotated[
            str,
            option("A .json file, alone, all-through:3, mutual:2, distillation.", metavar="GRAPH"),
        ]
    ],
    out: Annotated[Path, option("Folder for the network, its record and curves.", metavar="DIR")],
    dataset: Annotated[
        str | None, option("Folder of class folders.", "the profile's", "DIR")
    ] = None,
    profile: Profile = "quick",
    epochs: Annotated[int | None, option("How many.", "the profile's", "N")] = None,
    arch: Archs = (),
    init: Inits = (),
    seed: Annotated[int | None, option("Of all random numbers.", "0", "N")] = None,
    set: Pairs = (),
) -> None:
    """Train one graph and keep its target, node 1. The same command resumes.

    A .json file holds a graph (Graph.save), the record of a run, or the summary of a search, whose
    best graph is trained.
    """
    given = {"dataset": dataset, "epochs": epochs, "first_seed": seed}
    settings = _settings("02", profile, out, set, given)
    import pandas as pd

    from ktglite.single_run import read_graph, train_graph

    usual = () if graph.endswith(".json") else _each(settings.arch)
    chosen = read_graph(graph, arch or usual, init)
    with _kept_in(out):
        record = train_graph(chosen, settings, Path(graph).stem)
    rows = []
    for i in sorted(chosen.reaching_target()):
        accuracies = [f"{record[f'{split}_accuracy'][i]:.2f}" for split in ("val", "test")]
        rows.append((f"node {i + 1}", chosen.nodes[i].arch, chosen.nodes[i].init, *accuracies))
    columns = ["node", "architecture", "start", "validation %", "test %"]
    _print_table(pd.DataFrame(rows, columns=columns), f"{chosen}")
    target = out / "target.safetensors"
    _say_where(target, out / "training.png", out / "record.json")
    _say_next(f"ktglite predict {quote(str(target))} IMAGE_OR_FOLDER ..")


@command
def predict(
    target: Positional[
        Annotated[Path, option("A network: RUN/target.safetensors.", metavar="TARGET")]
    ],
    images: Positional[
        Annotated[tuple[Path, ...], option("Files, or folders of them.", "", "IMAGE")]
    ],
    csv: Annotated[Path | None, option("Write the answers to this file.", "", "FILE")] = None,
) -> None:
    """What a trained network takes images for."""
    import pandas as pd

    from ktglite.experiments.networks import classify, load_network
    from ktglite.single_run import image_files

    files = image_files(images)
    net = load_network(target)
    parts = [files[start : start + 256] for start in range(0, len(files), 256)]
    table = pd.concat([classify(net, part) for part in parts], ignore_index=True)
    if csv is None:
        _print_table(table.round(1), f"{len(files)} images")
    else:
        csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(csv, index=False)
        _say_where(csv)


@command
def evaluate(
    target: Positional[
        Annotated[Path, option("A network: RUN/target.safetensors.", metavar="TARGET")]
    ],
    dataset: Annotated[
        str | None, option("Folder of class folders.", "its own images", "DIR")
    ] = None,
    cache: str = "data/cache",
    raw: str = "data/raw",
) -> None:
    """Accuracy of a trained network on the test split of a data set, and by class."""
    from ktglite.experiments.networks import load_network
    from ktglite.single_run import class_table, load_test_images

    net = load_network(target)
    data = load_test_images(net, dataset, cache, raw)
    table = class_table(net, data)
    _print_table(table, f"{data.name}: {len(data.test)} test images")
    print(f"accuracy {100 * table['correct'].sum() / table['images'].sum():.2f} %")


# ---- what a run left


@command
def figures(
    run: Positional[
        Annotated[Path | None, option("Folder of a run.", "that of --profile", "RUN")]
    ] = None,
    profile: Profile = "quick",
    out: Annotated[Path | None, option("Where they go.", "RUN/figures", "DIR")] = None,
    format: Annotated[str, option("pdf, png, svg, with commas between.")] = "pdf,png",
    lang: Annotated[str, option("en or ja.")] = "en",
) -> None:
    """Draw the figures of a run again from its records; trains nothing.

    Of a folder that has single runs, their training is drawn.
    """
    from ktglite.figures import draw_all, plot_training, save_figure, use_style

    records = run or find_run(profile)
    out = out or (run or run_folder(profile)) / "figures"
    formats = format.replace(" ", "").split(",")
    print(f"from {records}")
    if (records / "table1.json").exists() or list(records.glob("search/*.json")):
        _say_where(*draw_all(records, out, formats, lang))
        return
    from ktglite.export import read_folder
    from ktglite.graph import Graph

    use_style()
    for record in read_folder(records):
        figure = plot_training(Graph.from_dict(record["graph"]), record["epochs"])
        _say_where(*save_figure(figure, out, f"training-{record['key'][:8]}", formats))


@command
def claims(
    run: Positional[
        Annotated[Path | None, option("Folder of a run.", "that of --profile", "RUN")]
    ] = None,
    profile: Profile = "quick",
) -> None:
    """The verdicts on the paper's claims, from the records of a run."""
    from ktglite.experiments import ablation as table1
    from ktglite.experiments import search as step3
    from ktglite.experiments.claims import claims_table

    run = run or find_run(profile)
    summaries = step3.read_summaries(run / "search") if list(run.glob("search/*.json")) else {}
    table = claims_table(table1.read_runs(run), summaries)
    span = table.apply(lambda row: f"{row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}]", axis=1)
    table = table.assign(points=span).rename(columns={"paper effect": "paper"}).round(2)
    shown = table[["claim", "source", "points", "n", "verdict", "paper"]]
    _print_table(shown, f"{run}: effects in points, with 95 % intervals")
    for claim, words in table.groupby("claim")["says"].first().items():
        print(f"{claim}: {words}")


@command
def export(
    run: Positional[RunFolder],
    to: Annotated[str, option("csv, parquet, tensorboard or optuna.")],
    out: Annotated[Path, option("Folder for what is written.", metavar="DIR")],
) -> None:
    """The records of a run as tables, for TensorBoard, or its searches for optuna-dashboard."""
    from ktglite.export import export as write

    paths = write(run, to, out)
    _say_where(*paths)
    if to == "tensorboard":
        _say_next(f"tensorboard --logdir {quote(str(out))}")
    elif to == "optuna":
        _say_next(f"optuna-dashboard {quote(str(paths[0]))}")


@command
def doctor(
    out: Annotated[Path, option("The folder of all runs.", metavar="DIR")] = Path("data/runs"),
) -> None:
    """This machine, and runs that are unfinished or failed; code 1 for what would stop a run."""
    from ktglite.doctor import examine

    lines = list(examine(out))
    for good, line in lines:
        print(f"{'ok     ' if good else 'TROUBLE'} {line}")
    if not all(good for good, _ in lines):
        sys.exit(1)


# ---- what commands share


def _settings(notebook: str, profile: str, out: Path | None, pairs: Sequence[str], given: dict):
    """The settings of a notebook, from `--set NAME=VALUE` and from a command's own options."""
    chosen = parse_overrides(pairs) | {name: v for name, v in given.items() if v not in (None, ())}
    raw_settings(notebook, profile, chosen)  # names are told before seconds of imports
    from ktglite.settings import load_settings

    return load_settings(notebook, profile, out, **chosen)


def _one_or_each(archs: tuple[str, ...]) -> str | tuple[str, ...]:
    return archs[0] if len(archs) == 1 else archs


def _each(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def find_run(profile: str) -> Path:
    """Where the records of a profile are: in data/runs, else those that come with the kit."""
    from ktglite.store import from_checkout

    own = run_folder(profile)
    shipped = from_checkout(f"data/reference_runs/{Path(profile).stem}")
    return own if (own / "table1.json").exists() or not shipped.is_dir() else shipped


@contextmanager
def _kept_in(out: Path) -> Iterator[None]:
    """Let an interruption say where a run stands."""
    try:
        yield
    except KeyboardInterrupt as stop:
        store = out / "runs"
        finished, begun = (len(list(store.glob(f"*.{kind}"))) for kind in ("json", "ckpt"))
        stop.add_note(f"{finished} finished and {begun} begun trainings are kept in {store}")
        raise


def _print_table(frame, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*map(str, frame.columns))
    for row in frame.itertuples(index=False):
        table.add_row(*("" if cell != cell else str(cell) for cell in row))  # NaN: nothing
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _say_where(*paths: Path) -> None:
    for path in paths:
        print(path)


def _say_next(line: str) -> None:
    print(f"next: {line}")


# ---- the program


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Slurm sends it."""


def _terminate(number, frame) -> None:
    raise Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `ktglite`. Errors that name their cause end with it and code 1;
    KTGLITE_DEBUG=1 shows where they were raised."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):  # files are UTF-8; a terminal may have no ±
        encoding = stream.encoding if stream.isatty() else "utf-8"
        stream.reconfigure(encoding=encoding, errors="replace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ktglite").setLevel(logging.INFO)
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as stop:
        where = "; ".join(["stopped", *getattr(stop, "__notes__", [])])
        print(f"\nktglite: {where}; the same command resumes", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(143 if isinstance(stop, Terminated) else 130)  # waits for no worker
    except Exception as error:
        if os.environ.get("KTGLITE_DEBUG") or not _is_told(error):
            raise
        sys.exit("\n".join([f"ktglite: {error}", *getattr(error, "__notes__", [])]))


def _is_told(error: Exception) -> bool:
    """Whether an error says in words what its reader can mend; others are defects, with a trace."""
    from ktglite.reproduce import NotebookError

    told = (OSError, FloatingPointError, NotebookError)  # ChildProcessError is an OSError
    return type(error) is ValueError or isinstance(error, told)


def _run(arguments: Sequence[str]) -> None:
    """Run the command that is named first."""
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(_help())
    elif name == "--version":
        print(ktglite.__version__)
    elif name == "pretrain":
        from ktglite.sources.pretrain import main as pretrain

        pretrain(rest)
    elif name in COMMANDS:
        config = (tyro.conf.FlagCreatePairsOff,)
        tyro.cli(COMMANDS[name], args=rest, prog=f"ktglite {name}", config=config)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"ktglite: no command {name}; {hint}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    lines = ["usage: ktglite COMMAND [OPTIONS], or ktglite COMMAND --help", ""]
    for name, function in COMMANDS.items():
        words = " ".join(inspect.getdoc(function).split("\n\n")[0].split())
        lines.append(f"  {name:<10} {words}")
    lines += [
        "",
        "KTGLITE_DEBUG=1 in the environment shows tracebacks. --version tells the version.",
    ]
    return "\n".join(lines)
