"""Captions and alternative texts: what a figure shows, and what is seen in it, from its numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ktglite.experiments import ablation, claims
from ktglite.figures import graphs, results
from ktglite.figures.japanese import read, translate
from ktglite.figures.style import mark_of
from ktglite.models import title

__all__ = ["caption"]


def caption(
    name: str, records: Sequence[Mapping] = (), summaries: Mapping[str, Mapping] | None = None,
    lang: str = "en", table: pd.DataFrame | Sequence[Mapping] | None = None, alt: bool = False,
) -> str:  # fmt: skip
    """What a figure shows and what is seen in it; "" for a figure that is not in words.yaml.

    Args:
        name: of the figure, as in words.yaml: its file's.
        records: runs of Table 1.
        summaries: of searches, by condition.
        lang: "en" or "ja".
        table: what the figure was drawn from, where that is neither records nor summaries.
        alt: whether the text stands for the figure, instead of below it.
    """
    texts = read("words.yaml")["figures"].get(name)
    if texts is None:
        return ""
    summaries = summaries or {}
    told = [texts["kind" if alt else "drawn"][lang].format(**_counts(records, summaries))]
    for fact in _seen(name, records, summaries, table):
        if lang == "ja":
            fact = {k: translate(v) if isinstance(v, str) else v for k, v in fact.items()}
        told.append(texts["seen"][lang].format(**fact))
    return (" " if lang == "en" else "").join(told)


def _counts(records: Sequence[Mapping], summaries: Mapping[str, Mapping]) -> dict[str, str]:
    """Seeds of a row, data sets, and graphs of a search."""
    seeds = sorted(set(Counter(record["label"] for record in records).values()))
    data = {r["data"]["name"] for r in (*records, *summaries.values()) if "data" in r}
    sizes = sorted({len(summary["trials"]) for summary in summaries.values()})
    ends = dict.fromkeys(str(n) for n in (*seeds[:1], *seeds[-1:]))
    found = {"n": "–".join(ends), "data": ", ".join(sorted(data))}
    return found | {"graphs": "/".join(map(str, sizes))}


def _seen(name: str, records, summaries, table) -> Iterator[dict]:
    """What is seen of a figure: a dictionary per panel or series, for `seen` of words.yaml."""
    sources = ablation.sources_of(records)
    match name:
        case "table1":
            for source in sources:
                means = ablation.tidy(records, [source]).groupby("pattern").accuracy.mean()
                low = {"low": means.min(), "low_at": means.idxmin()}
                high = {"high": means.max(), "high_at": means.idxmax()}
                yield {"source": title(source), **low, **high}
        case "learning_curves":
            for source in sources:
                gains = results.curve_gains(records, source)
                trained = gains.pop("pre-trained")
                yield {"source": title(source), "trained": trained, **gains}
        case "main_effects":
            for panel, part in results.main_effects(records).groupby("panel", sort=False):
                effects = [f"{row.node} {row.effect:+.1f}" for row in part.dropna().itertuples()]
                yield {"panel": panel, "effects": ", ".join(effects)}
        case "figure2_best_graphs":
            for condition, arm in graphs.winners(summaries).items():
                own = graphs.reevaluated(summaries[condition], "independent")
                fact = {"mean": arm.mean, "alone": np.mean(own["test_accuracy"]) if own else np.nan}
                yield {"condition": graphs.condition_label(condition, summaries), **fact}
        case "search_curves":
            for condition in graphs.in_order(summaries):
                trials = summaries[condition]["trials"]
                done = [trial for trial in trials if trial["state"] == "COMPLETE"]
                for best in sorted(done, key=lambda trial: -trial["value"])[:1]:
                    fact = {
                        "best": best["value"],
                        "start": title(best["graph"]["nodes"][0]["init"]),
                    }
                    yield {"condition": graphs.condition_label(condition, summaries), **fact}
        case "sources":
            for data, part in results.start_gains(table).groupby("data", sort=False):
                gains = [f"{row.source} {row.effect:+.1f}" for row in part.itertuples()]
                yield {"data": data, "gains": ", ".join(gains)}
        case "forest" | "convergence" | "gain_against_knowledge":
            if table is None:
                table = claims.forest({"this run": (records, summaries)})
            group = {"forest": "set", "convergence": "start"}.get(name, "data")
            for part, rows in table[table.effect.notna()].groupby(group, sort=False):
                yield {"part": title(part), **_EFFECTS[name](rows)}
        case _:
            yield {}


def _verdicts(rows: pd.DataFrame) -> dict:
    marks = [mark_of(row) for row in rows.itertuples()]
    names = map(results.claim_row, rows.claim, rows.source)
    named = pd.Series(list(names), dtype=str).groupby(marks).agg("; ".join)
    told = {mark: named.get(mark, "none") for mark in ("supported", "contradicted")}
    return {"open": sum(mark not in told for mark in marks), "all": len(rows), **told}


def _line(rows: pd.DataFrame) -> dict:
    first, last = rows.sort_values("train_accuracy", kind="stable").iloc[[0, -1]].itertuples()
    ends = {"first": first.effect, "last": last.effect}
    return ends | {"first_at": first.train_accuracy, "last_at": last.train_accuracy}


def _knowledge(rows: pd.DataFrame) -> dict:
    fact = {}
    for key, those in (("more", rows.knowledge > 0), ("less", rows.knowledge <= 0)):
        up, down = sum(those & (rows.low > 0)), sum(those & (rows.high < 0))
        fact |= {key: sum(those), f"{key}_up": up, f"{key}_down": down}
    return fact


_EFFECTS = {"forest": _verdicts, "convergence": _line, "gain_against_knowledge": _knowledge}
