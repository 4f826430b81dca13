"""The explorer as one HTML file without kernel or network: its words by explorer.js, its curves from records."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ktglite.figures import condition_label
from ktglite.models import title
from ktglite.tools.explorer import PRESETS

__all__ = ["explorer_page"]

HERE = Path(__file__).parent


def explorer_page(records: Sequence[Mapping], summaries: Mapping[str, Mapping]) -> str:
    """The page, with the runs of Table 1 (mean over seeds) and every graph of the searches that was
    trained to the end.

    `records`: from `ablation.read_runs`.  `summaries`: from `search.read_summaries`. Raises
    ValueError without runs.
    """
    runs = [*_table1(records), *_searches(summaries)]
    if not runs:
        raise ValueError(
            "there are no runs of three nodes to show: give the folder of a run of Table 1 or of a search"
        )
    starts = {
        start: title(start)
        for start in ["scratch", *dict.fromkeys(s for run in runs for s in run["starts"])]
    }
    about = f"{len(runs)} recorded graphs of {(records or list(summaries.values()))[0]['data']['name']}, by ktglite."
    text = (HERE / "explorer.html").read_text(encoding="utf-8")
    text = text.replace("/*LOGIC*/", (HERE / "explorer.js").read_text(encoding="utf-8"))
    text = text.replace("/*RECORDS*/", _json({"starts": starts, "runs": runs, "about": about}))
    return text.replace("/*PRESETS*/", _json(PRESETS))


def _json(value: object) -> str:
    """JSON that may stand in a script."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _graph(graph: Mapping) -> dict:
    return {
        "starts": [node["init"] for node in graph["nodes"]],
        "gates": graph["gates"],
        "weight": graph["transfer_weight"],
    }


def _table1(records: Sequence[Mapping]) -> Iterable[dict]:
    """Each row of Table 1: its mean validation curve."""
    for label in dict.fromkeys(r["label"] for r in records if len(r["graph"]["nodes"]) == 3):
        own = [record for record in records if record["label"] == label]
        curve = np.mean(
            [[epoch["val_accuracy"][0] for epoch in record["epochs"]] for record in own], axis=0
        )
        where = f"Table 1, mean of {len(own)} runs"
        yield _graph(own[0]["graph"]) | {
            "curve": curve.round(1).tolist(),
            "n": len(own),
            "from": where,
        }


def _searches(summaries: Mapping[str, Mapping]) -> Iterable[dict]:
    """Each graph of a search that was trained to the end."""
    for name, summary in summaries.items():
        for trial in summary["trials"]:
            if trial["state"] == "COMPLETE" and len(trial["graph"]["nodes"]) == 3:
                curve = [round(value, 1) for value in trial["values"]]
                where = f"search {condition_label(name, summaries)}, graph {trial['number']}"
                yield _graph(trial["graph"]) | {"curve": curve, "n": 1, "from": where}
