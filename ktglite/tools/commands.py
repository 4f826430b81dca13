"""The console script `ktglite`: the commands of `ktglite.cli`, and those of the tools."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ktglite.cli import Pairs, app, find_records, run_app

__all__ = ["main"]

Positional = tyro.conf.Positional


@app.command
def plan(
    profile: str = "paper",
    set: Pairs = (),
    images_per_second: float | None = None,
    devices: int | None = None,
) -> None:
    """What a profile will cost: epochs, device-hours, wall time, disk and memory of every notebook;
    trains nothing.

    Args: profile: smoke, quick, lab, paper, cars64, or the path of a YAML file. set: a setting to
    change, NAME=VALUE. images_per_second: of one device training a graph of the profile (default:
    measured here, for a few batches). devices: how many GPUs, or CPU cores, work at once (default:
    those of this machine).
    """
    from ktglite.pool import default_jobs
    from ktglite.settings import NOTEBOOKS, load_settings, parse_overrides, select_settings
    from ktglite.tools import plan as planning

    pairs = parse_overrides(set)
    chosen = {
        stem[:2]: load_settings(stem[:2], profile, None, **select_settings(stem[:2], pairs))
        for stem in NOTEBOOKS
    }
    devices = devices or default_jobs()
    rows, speed = planning.plan(chosen, devices, images_per_second)
    images = speed.train / chosen["02"].nodes
    origin = "as given" if images_per_second else "measured here"
    title = f"Profile {profile} on {devices} device(s) of {images:.1f} images/s of a whole graph ({origin})"
    table = Table(
        "notebook",
        "epochs",
        "device-hours",
        "wall hours",
        "disk GB",
        "memory GB / process",
        title=title,
    )
    for row in rows:
        memory = f"{row['memory'] / 1e9:.1f}" if speed.memory else "not measured"
        cells = [
            f"{row['device_hours']:.3g}",
            f"{row['wall_hours']:.3g}",
            f"{row['disk'] / 1e9:.2g}",
            memory,
        ]
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

    Args: profile: whose records: those in data/runs/PROFILE, else the committed ones in
    data/reference_runs/PROFILE. records: another folder of a run. out: where the figures go.
    format: any of pdf, png, svg, with commas between. lang: en, or ja for Japanese (needs `pip
    install 'ktglite[ja]'`).
    """
    from ktglite.figures import draw_all

    records = records or find_records(profile)
    print(f"from {records}")
    for path in draw_all(records, out, format.replace(" ", "").split(","), lang):
        print(path)


@app.command
def explorer(
    profile: str = "quick", searches: Path | None = None, out: Path = Path("docs/explorer.html")
) -> None:
    """The explorer of graphs as one HTML file, which needs neither a kernel nor a network.

    Args: profile: whose Table 1: that in data/runs/PROFILE, else the committed one in
    data/reference_runs/PROFILE. searches: folder of searches whose graphs are shown (default:
    data/reference_runs/PROFILE_searches). out: the file.
    """
    from ktglite.experiments.ablation import read_runs
    from ktglite.experiments.search import read_summaries
    from ktglite.store import atomic_write, from_checkout
    from ktglite.tools.explorer_page import explorer_page

    found = read_summaries(searches or from_checkout(f"data/reference_runs/{profile}_searches"))
    with atomic_write(out) as file:
        file.write(explorer_page(read_runs(find_records(profile)), found).encode())
    print(out)


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

    Args: action: verify, show or export. folder: where `export` and `show` write. categories: the
    first so many of the 1,000. instances: images of each category (default: all, 1,000 of the patch
    variants, 100 of the point variants). size: side of the images in px. variant: patch_gray,
    patch_color, point_gray or point_color. csv: a folder of category files a,b,c,d,e,f,p, to export
    other categories than the published.
    """
    from ktglite.tools import fractaldb_tools as formula

    maps = None if csv is None else formula.read_csv_folder(csv)
    if action == "verify":
        sys.exit(0 if formula.verify() else 1)
    elif action == "export":
        count = formula.export(folder, size, categories, instances, variant=variant, maps=maps)
        print(f"{folder}: {count:,} images")
    elif action == "show":
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(formula.contact_sheet(variant=variant, maps=maps)).save(
            folder / "contact_sheet.png"
        )
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
    from ktglite.tools.doctor import examine

    troubles = 0
    for good, line in examine(out):
        troubles += not good
        print(f"{'ok     ' if good else 'TROUBLE'} {line}")
    if troubles:
        sys.exit(1)


def main() -> None:
    """Entry point of `ktglite`."""
    also = "And `ktglite pretrain`: Step 1 for one source, see `ktglite pretrain --help`."
    run_app(lambda arguments: app.cli(args=arguments, prog="ktglite", description=also))


if __name__ == "__main__":
    main()
