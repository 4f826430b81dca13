"""Every figure: drawings of graphs, results, and all of them at once from the records of a run."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ktglite.experiments import ablation, bench, claims
from ktglite.experiments.search import read_summaries
from ktglite.figures import graphs, pictures, results, searches, style
from ktglite.figures.graphs import *  # noqa: F403
from ktglite.figures.japanese import translate
from ktglite.figures.pictures import *  # noqa: F403
from ktglite.figures.results import *  # noqa: F403
from ktglite.figures.searches import *  # noqa: F403
from ktglite.figures.style import *  # noqa: F403
from ktglite.store import CHECKOUT, from_checkout

__all__ = ["draw_all", "translate", *graphs.__all__, *pictures.__all__, *results.__all__]
__all__ += [*searches.__all__, *style.__all__]


def draw_all(
    records: str | Path, out: str | Path, formats: Sequence[str] = ("pdf", "png"), lang: str = "en"
) -> list[Path]:
    """Every figure that the records of a run give, into the folder `out`. Trains nothing.

    `records`: folder of a run, with `table1.json` or searches in `search/`; raises
    FileNotFoundError where it has neither. `formats`: of pdf, png, svg. `lang`: "en" or "ja".
    """
    records = Path(records)
    runs = ablation.read_runs(records) if (records / "table1.json").exists() else []
    searched = records / "search"
    summaries = read_summaries(searched) if any(searched.glob("*.json")) else {}
    if not runs and not summaries:
        found = f"{records} has no table1.json and no search/*.json"
        raise FileNotFoundError(f"{found}: give the folder of a run")
    drawn = {"figure1_method": graphs.draw_method, "gates": graphs.plot_gate_curves}
    if runs:
        first = (ablation.sources_of(runs) or ["imagenet1k"])[0]
        drawn["claim_card"] = partial(graphs.plot_claim_card, first, ablation.count_nodes(runs))
        found = dict.fromkeys(("table1", "learning_curves", "main_effects"), runs)
        found |= _tables(runs, summaries, records)
        drawn |= {name: partial(getattr(results, f"plot_{name}"), found[name]) for name in found}
    if summaries:
        drawn["figure2_best_graphs"] = partial(graphs.plot_best_graphs, summaries, runs)
        drawn["search_curves"] = partial(searches.plot_searches, _whole(summaries, records))
    paths = []
    with plt.rc_context():
        style.use_style(lang)
        for name, draw in drawn.items():
            figure = draw()
            paths += style.save_figure(figure, out, name, formats, f"records {records.name}")
            plt.close(figure)
    return paths


def _tables(runs: list[dict], summaries: dict, folder: Path) -> dict[str, pd.DataFrame]:
    """What is drawn of these records beside others: photographs, and the convergence."""
    shipped = from_checkout("data/reference_runs")
    sets = {"these runs": (runs, summaries)}
    if (shipped / "cars64").exists() and folder.name != "cars64":
        sets["photographs"] = ablation.read_runs(shipped / "cars64"), {}
    known = [results.knowledge_table(found, name) for name, (found, _) in sets.items()]
    tables = {"forest": claims.forest(sets), "gain_against_knowledge": pd.concat(known)}
    if (shipped / "convergence.json").exists():
        found = json.loads((shipped / "convergence.json").read_text(encoding="utf-8"))
        tables["convergence"] = claims.convergence_table(found)
    return {name: table for name, table in tables.items() if len(table)}


def _whole(summaries: dict, folder: Path) -> dict:
    """Of the records that come with the kit, the recorded graphs, none stopped, if they are of the
    same images; else these searches."""
    if folder.absolute().parent == CHECKOUT / "data/reference_runs":
        recorded = bench.load(bench.PATH)
        images = {summary["data"]["fingerprint"] for summary in summaries.values()}
        if images == {recorded.about["data"]["fingerprint"]}:
            return recorded.as_searches()
    return summaries
