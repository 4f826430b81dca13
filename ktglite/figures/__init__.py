"""Every figure: drawings of graphs, results, and all of them at once from the records of a run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from ktglite.experiments import ablation, claims
from ktglite.figures.captions import caption
from ktglite.figures.graphs import (
    condition_label,
    draw_graph,
    draw_method,
    gate_legend,
    init_legend,
    plot_best_graphs,
    plot_gate_curves,
)  # fmt: skip
from ktglite.figures.results import (
    plot_early_rungs,
    plot_filters,
    plot_forest,
    plot_images,
    plot_learning_curves,
    plot_luck,
    plot_main_effects,
    plot_optimism,
    plot_pretraining,
    plot_pruners,
    plot_searches,
    plot_sources,
    plot_table1,
    plot_training,
)  # fmt: skip
from ktglite.figures.style import COLUMN, PAGE, TARGET_RED, describe_records, save_figure, use_style
from ktglite.store import from_checkout

__all__ = [
    "COLUMN", "PAGE", "TARGET_RED", "caption", "condition_label", "describe_records", "draw_all", "draw_graph",
    "draw_method", "gate_legend", "init_legend", "plot_best_graphs", "plot_early_rungs", "plot_filters", "plot_forest",
    "plot_gate_curves", "plot_images", "plot_learning_curves", "plot_luck", "plot_main_effects", "plot_optimism",
    "plot_pretraining", "plot_pruners", "plot_searches", "plot_sources", "plot_table1", "plot_training", "save_figure",
    "use_style",
]  # fmt: skip


def draw_all(
    records: str | Path, folder: str | Path, formats: Sequence[str] = ("pdf", "png"), lang: str = "en",
    translate: Callable | None = None, width: str = "page",
) -> list[Path]:  # fmt: skip
    """Every figure that the records of a run give, written to `folder` with captions. Trains
    nothing.

    `lang`: of the captions, "en" or "ja".  `translate`: a function that changes a figure's words.
    Raises FileNotFoundError when `records` has neither `table1.json` nor a search, ValueError for
    another format.
    """
    records = Path(records)
    figures = {"figure1_method": draw_method, "gates": plot_gate_curves}
    runs = ablation.read_runs(records) if (records / "table1.json").exists() else []
    summaries = _summaries(records / "search")
    recorded = (
        _summaries(from_checkout(f"data/reference_runs/{records.name}_searches")) or summaries
    )  # whole searches
    if translate is None:
        use_style()  # a translation has set a font of its own
    cars = from_checkout("data/reference_runs/cars64")
    photographs = (
        {"photographs": (ablation.read_runs(cars), {})}
        if cars.exists() and cars.name != records.name
        else {}
    )
    if runs:
        figures |= {
            "forest": lambda: plot_forest(
                claims.forest({"this run": (runs, summaries)} | photographs)
            ),
            "table1": lambda: plot_table1(runs),
            "learning_curves": lambda: plot_learning_curves(runs),
            "main_effects": lambda: plot_main_effects(runs),
        }
    if summaries:
        figures |= {
            "figure2_best_graphs": lambda: plot_best_graphs(summaries),
            "search_curves": lambda: plot_searches(
                recorded, summaries if recorded is not summaries else None
            ),
            "search_optimism": lambda: plot_optimism(summaries),
        }
    if len(figures) == 2:
        raise FileNotFoundError(
            f"{records} has no table1.json and no search/*.json: give the folder of a run"
        )
    note = ", ".join(
        filter(None, [f"records {records.name}", describe_records([*runs, *summaries.values()])])
    )
    paths = []
    for name, draw in figures.items():
        figure = draw() if translate is None else translate(draw())
        shown = recorded if name == "search_curves" else summaries
        paths += save_figure(
            figure, folder, name, formats, note, caption(name, runs, shown, lang), width
        )
        plt.close(figure)
    return paths


def _summaries(folder: Path) -> dict:
    """The summaries of searches in a folder, by condition."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
