"""The command line: `ktglite reproduce`, and each step by itself."""

import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

app = tyro.extras.SubcommandApp()
Positional = tyro.conf.Positional


@app.command
def reproduce(
    profile: str = "quick",
    only: tuple[str, ...] = (),
    out: Path | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    notebooks: Path | None = None,
    skip_unreadable: bool = False,
    force: bool = False,
) -> None:
    """Execute the notebooks 00-04 in order; what is done and unchanged is skipped.

    Args:
        profile: smoke, quick, lab, paper, or the path of a YAML file.
        only: numbers of notebooks, such as 02 04.
        out: folder of the run (default: data/runs/PROFILE).
        set: a parameter to change, NAME=VALUE, in every notebook that has it; 03.NAME=VALUE in that one.
        notebooks: folder of the notebooks, if it is not ./notebooks.
        skip_unreadable: leave out image files that cannot be read instead of stopping.
        force: execute also what is done and unchanged.
    """
    from ktglite import reproduce as work

    overrides = work.parse_overrides(list(set))
    if skip_unreadable:
        overrides["skip_unreadable"] = True
    done = work.reproduce(profile, list(only), out, overrides, notebooks, force)
    show_results(Path(out or f"data/runs/{Path(profile).stem}"), done)


@app.command
def ablation(
    profile: str = "quick",
    out: Path | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    seeds: int | None = None,
    sources: tuple[str, ...] = (),
    arch: str | None = None,
    nodes: int | None = None,
    jobs: int | None = None,
    workers_per_device: int = 1,
    dask: str | None = None,
) -> None:
    """Table 1 without the notebook: train what is missing, write tables and claims. The same command resumes.

    Args:
        profile: smoke, quick, lab, paper, or the path of a YAML file.
        out: folder of the run (default: data/runs/PROFILE).
        set: any parameter of notebook 02 to change, NAME=VALUE, such as report=best or temperature=2.
        seeds: how many, from 0; finished ones are kept, so that 10 after 3 trains 7.
        sources: of pre-trained weights: fractaldb1k, imagenet1k, imagenet1k_standin, the path of a weights file,
            or a name of torchvision's such as ResNet50_Weights.IMAGENET1K_V2.
        arch: resnet18, resnet18_small, resnet18_narrow, resnet18_tiny, or a model of torchvision.
        nodes: of the graphs; N nodes have 2^N patterns.
        jobs: processes (default: workers-per-device for each GPU or core).
        workers_per_device: processes that share a GPU or a core.
        dask: address of a Dask scheduler, tcp://HOST:PORT, whose workers train instead; start them in this folder.
    """
    from ktglite import ablation as table1
    from ktglite import load_data, run_all, runs

    values, out = section("02", profile, out, set)
    given = {"seeds": seeds, "sources": list(sources) or None, "arch": arch, "nodes": nodes, "jobs": jobs, "dask": dask}
    values |= {name: value for name, value in given.items() if value is not None}
    if values["seeds"] < 1:
        raise ValueError(f"seeds is {values['seeds']}: it must be at least 1")
    graphs = table1.ablation_grid(values["arch"], values["sources"], values["nodes"])
    data, config = load_data(**data_arguments(values)), train_config(values)
    where = out / "runs", values["weights"], values["jobs"], "Table 1", workers_per_device, values["dask"]
    records = run_all(graphs, data, config, range(values["seeds"]), *where)
    runs.write_json(out / "table1.json", records)
    table1.write_table(table1.ablation_table(records, values["sources"]), out / "tables")
    claims = table1.claims_table(records, sources=values["sources"], scale=values["profile"])
    claims.to_csv(out / "tables" / "claims.csv", index=False)
    show_results(out, {})


@app.command
def search(
    condition: str,
    profile: str = "quick",
    trials: int | None = None,
    out: Path | None = None,
    storage: str | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    jobs: int | None = None,
    workers_per_device: int = 1,
) -> None:
    """Step 3 for one condition: none, imagenet1k, fractaldb1k or mixed. Other machines join with search-worker.

    Args:
        condition: what a node may start from.
        profile: smoke, quick, lab, paper, or the path of a YAML file.
        trials: how many graphs (default: the profile's).
        out: folder of the run (default: data/runs/PROFILE).
        storage: postgresql+psycopg://... for several machines (default: a journal file in the run's folder).
        set: a parameter of notebook 03 to change, NAME=VALUE.
        jobs: processes (default: workers-per-device for each GPU or core).
        workers_per_device: small networks leave a GPU idle between kernels; several trials at once fill it.
    """
    from ktglite import load_data
    from ktglite import search as step3

    values, out = section("03", profile, out, set)
    values |= {} if trials is None else {"trials": trials}
    data, config = load_data(**data_arguments(values)), train_config(values, values["search_epochs"])
    settings = search_config(values, condition)
    checkpoints = out / "search" / "checkpoints"
    jobs = jobs or values["jobs"]
    study = step3.search(
        settings, data, config, out, storage, values["weights"], jobs, None, checkpoints, workers_per_device
    )
    summary = step3.write_summary(study, out)
    value = summary["selection_value"]
    best = "no graph was trained to the end" if value is None else f"best {summary['select_on']} accuracy {value:.2f} %"
    print(f"{condition}: {summary['states']}, {best}")


@app.command
def search_worker(
    study: str,
    storage: str,
    profile: str = "quick",
    out: Path | None = None,
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    device: str = "auto",
    workers_per_device: int = 1,
) -> None:
    """Join a search that `ktglite search` has begun, from this or another machine, until it is done.

    Args:
        study: its name, which is the condition.
        storage: the same as given to `ktglite search`.
        profile: the same as given to `ktglite search`.
        out: folder of the run, for weights and checkpoints (default: data/runs/PROFILE).
        set: the same as given to `ktglite search`.
        device: auto (a worker for every GPU), cpu, cuda:1, ...
        workers_per_device: so many processes on each device.
    """
    from dataclasses import replace

    import torch

    from ktglite import search as step3

    values, out = section("03", profile, out, set)
    config = replace(train_config(values, values["search_epochs"]), device=device)
    settings = search_config(values, study)
    checkpoints = out / "search" / "checkpoints"
    jobs = workers_per_device * (max(1, torch.cuda.device_count()) if device == "auto" else 1)
    step3.search_workers(jobs, study, storage, settings, data_arguments(values), config, values["weights"], checkpoints)


@app.command
def plan(
    profile: str = "paper",
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    images_per_second: float | None = None,
    devices: int | None = None,
) -> None:
    """What a profile will cost: epochs, device-hours, wall time, disk and memory of every notebook; trains nothing.

    Args:
        profile: smoke, quick, lab, paper, or the path of a YAML file.
        set: a parameter to change, NAME=VALUE.
        images_per_second: of one device training a graph of the profile (default: measured here, for a few batches).
        devices: how many GPUs, or CPU cores, work at once (default: those of this machine).
    """
    from ktglite import plan as planning
    from ktglite import reproduce as work
    from ktglite.runs import default_jobs

    out = Path(f"data/runs/{Path(profile).stem}")
    chosen = work.parameters(profile, out, work.parse_overrides(list(set)), work.find_notebooks())
    devices = devices or default_jobs()
    rows, speed = planning.plan(chosen, devices, images_per_second)
    images = speed.train / chosen["02_table1_ablation"]["nodes"]
    origin = "as given" if images_per_second else "measured here"
    title = f"Profile {profile} on {devices} device(s) of {images:.1f} images/s of a whole graph ({origin})"
    table = Table("notebook", "epochs", "device-hours", "wall hours", "disk GB", "memory GB / process", title=title)
    for row in rows:
        memory = f"{row['memory'] / 1e9:.1f}" if speed.memory else "not measured"
        cells = [f"{row['device_hours']:.3g}", f"{row['wall_hours']:.3g}", f"{row['disk'] / 1e9:.2g}", memory]
        table.add_row(row["notebook"], f"{row['epochs']:,.0f}", *cells, end_section=row is rows[-2])
    Console().print(table)


@app.command
def figures(
    profile: str = "quick",
    records: Path | None = None,
    out: Path = Path("figures"),
    format: str = "pdf,png",
    lang: str = "en",
) -> None:
    """Draw every figure again from the records of a run, without training.

    Args:
        profile: whose records: those in data/runs/PROFILE, else the committed ones in data/reference_runs/PROFILE.
        records: another folder of a run.
        out: where the figures go.
        format: any of pdf, png, svg, with commas between.
        lang: en, or ja for Japanese (needs `pip install 'ktglite[ja]'`).
    """
    from ktglite import plots

    if records is None:
        places = [Path("data") / kind / Path(profile).stem for kind in ("runs", "reference_runs")]
        records = next((place for place in places if (place / "table1.json").exists()), places[0])
    print(f"from {records}")
    for path in plots.draw_all(records, out, format.replace(" ", "").split(","), lang):
        print(path)


@app.command
def fractaldb(
    action: Annotated[str, Positional],
    folder: Annotated[Path, Positional] = Path("data/raw/fractaldb1k"),
    categories: int = 1000,
    instances: int | None = None,
    size: int = 362,
    variant: str = "patch_gray",
    csv: Path | None = None,
) -> None:
    """FractalDB-1k by formula: `verify` its hashes, `show` a contact sheet, or `export` it as PNG.

    Args:
        action: verify, show or export.
        folder: where `export` and `show` write.
        categories: the first so many of the 1,000.
        instances: images of each category (default: all, 1,000 of the patch variants, 100 of the point variants).
        size: side of the images in px.
        variant: patch_gray, patch_color, point_gray or point_color.
        csv: a folder of category files a,b,c,d,e,f,p, to export other categories than the published.
    """
    from ktglite import fractaldb as formula

    maps = None if csv is None else formula.read_csv_folder(csv)
    if action == "verify":
        sys.exit(0 if formula.verify() else 1)
    elif action == "export":
        count = formula.export(folder, size, categories, instances, variant=variant, maps=maps)
        print(f"{folder}: {count:,} images")
    elif action == "show":
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(formula.contact_sheet(variant=variant, maps=maps)).save(folder / "contact_sheet.png")
        print(folder / "contact_sheet.png")
    else:
        raise ValueError(f"action is {action!r}: allowed are verify, show, export")


@app.command
def doctor(out: Path = Path("data/runs")) -> None:
    """Versions, devices, disk, folders, and runs that are unfinished or failed, with how to go on.

    Ends with code 1 when something is wrong that would stop a run.

    Args:
        out: the folder of all runs.
    """
    from ktglite import health

    troubles = 0
    for good, line in health.examine(out):
        troubles += not good
        print(f"{'ok     ' if good else 'TROUBLE'} {line}")
    if troubles:
        sys.exit(1)


# ---- shared by the commands


def section(number: str, profile: str, out: Path | None, pairs: tuple[str, ...]) -> tuple[dict, Path]:
    """The parameters of one notebook, and the folder of the run."""
    from ktglite import reproduce as work

    out = Path(out or f"data/runs/{Path(profile).stem}")
    chosen = work.parameters(profile, out, work.parse_overrides(list(pairs)), work.find_notebooks())
    stem = next(stem for stem in work.NOTEBOOKS if stem.startswith(number))
    return chosen[stem], out


def data_arguments(values: dict) -> dict:
    """The arguments of `load_data` among a notebook's parameters."""
    return {
        "name_or_folder": values["dataset"],
        "size": values["image_size"],
        "limit": values["limit"],
        "split": tuple(values["split"]),
        "split_seed": values["split_seed"],
        "skip_unreadable": values["skip_unreadable"],
        "cache": values["cache"],
    }


def train_config(values: dict, epochs: int | None = None):
    """The `TrainConfig` among a notebook's parameters."""
    from dataclasses import fields

    from ktglite import TrainConfig

    chosen = {f.name: values[f.name] for f in fields(TrainConfig) if f.name in values}
    return TrainConfig(**chosen | ({} if epochs is None else {"epochs": epochs}))


def search_config(values: dict, condition: str):
    """The `SearchConfig` among notebook 03's parameters."""
    from dataclasses import fields

    from ktglite.search import SearchConfig

    chosen = {f.name: values[f.name] for f in fields(SearchConfig) if f.name in values}
    return SearchConfig(**chosen | {"condition": condition})


def show_results(out: Path, done: dict[str, Path]) -> None:
    """The end of a run on the terminal: Table 1 beside the paper's, the best graph per condition, where things are."""
    import json

    from ktglite import ablation as table1
    from ktglite.graph import Graph

    console = Console()
    if (out / "table1.json").exists():
        records = table1.read_runs(out)
        frame = table1.format_table(table1.ablation_table(records)).rename(
            columns=lambda name: name.removeprefix("node ")
        )
        table = Table(*map(str, frame.columns), title="Table 1: accuracy of node 1 (%), test split, mean ± std (n)")
        for row in frame.astype(str).itertuples(index=False):
            table.add_row(*row)
        console.print(table)
    summaries = sorted((out / "search").glob("*.json"))
    if summaries:
        table = Table("condition", "best graph", "search", "re-evaluated", title="Best graph per condition (%)")
        for path in summaries:
            summary = json.loads(path.read_text())
            top = next((entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None)
            if summary["best"]:
                again = "not yet" if top is None else mean_std(top["test_accuracy"])
                graph = Graph.from_dict(summary["best"]["graph"])
                table.add_row(summary["condition"], str(graph), f"{summary['selection_value']:.2f}", again)
        console.print(table)
    for path in done.values():
        console.print(f"{path.with_suffix('.html')}", soft_wrap=True)


def mean_std(values: list[float]) -> str:
    from ktglite.stats import summary

    found = summary(values)
    return f"{found['mean']:.2f} ± {found['std']:.2f} ({found['n']})"


def main() -> None:
    """Errors that name their cause end with it and code 1; anything else keeps its traceback."""
    if sys.argv[1:2] == ["pretrain"]:  # has an entry point of its own, for torchrun
        from ktglite.pretrain import main as pretrain

        run, arguments = pretrain, sys.argv[2:]
    else:
        run, arguments = (lambda args: app.cli(args=args, prog="ktglite")), sys.argv[1:]
    try:
        run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit("\n".join([f"ktglite: {error}", *getattr(error, "__notes__", [])]))
    except KeyboardInterrupt:
        sys.exit("ktglite: stopped; the same command goes on")
    except BrokenExecutor:
        sys.exit("ktglite: a worker was killed, perhaps for want of memory; the same command goes on, or fewer --jobs")
    except Exception as error:
        from ktglite.reproduce import NotebookError

        if isinstance(error, NotebookError):
            sys.exit(f"ktglite: {error}")
        raise


if __name__ == "__main__":
    main()
