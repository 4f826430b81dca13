"""The captions and alternative texts of the notebooks' first pictures, from recorded numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from ktglite.experiments import ablation, claims
from ktglite.figures import graphs
from ktglite.figures.japanese import translate
from ktglite.models import title
from ktglite.store import from_checkout

TEXTS = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))


def caption(
    name: str,
    records: Sequence[Mapping],
    summaries: Mapping[str, Mapping],
    lang: str = "en",
    alt: bool = False,
) -> str:
    """What a figure of captions.yaml shows, and what is seen in it.

    `records`: runs of Table 1. `summaries`: of searches, by condition. `lang`: "en" or "ja". `alt`:
    whether the text stands for the figure, instead of below it.
    """
    texts = TEXTS[name]
    told = [texts["kind" if alt else "drawn"][lang].format(**_counts(records, summaries))]
    for fact in _seen(name, records, summaries):
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


def _seen(name: str, records, summaries) -> Iterator[dict]:
    """What is seen of a figure: a dictionary per panel or series, for `seen` of captions.yaml."""
    match name:
        case "table1":
            for source in ablation.sources_of(records):
                means = ablation.tidy(records, [source]).groupby("pattern").accuracy.mean()
                low = {"low": means.min(), "low_at": means.idxmin()}
                high = {"high": means.max(), "high_at": means.idxmax()}
                yield {"source": title(source), **low, **high}
        case "search_curves":
            for condition in graphs.in_order(summaries):
                trials = summaries[condition]["trials"]
                done = [trial for trial in trials if trial["state"] == "COMPLETE"]
                best = max(done, key=lambda trial: trial["value"])
                start = title(best["graph"]["nodes"][0]["init"])
                label = graphs.condition_label(condition, summaries)
                yield {"condition": label, "best": best["value"], "start": start}
        case "forest":
            cars = ablation.read_runs(from_checkout("data/reference_runs/cars64"))
            sets = {
                "Recorded runs, with the stand-in": (records, summaries),
                "photographs": (cars, {}),
            }
            table = claims.forest(sets)
            for part, rows in table[table.effect.notna()].groupby("set", sort=False):
                yield {"part": title(part), **_verdicts(rows)}
        case _:
            yield {}


def _verdicts(rows: pd.DataFrame) -> dict:
    """How many contrasts are judged, and how many of them have which verdict."""
    counts = Counter(rows.verdict)
    tested = len(rows) - counts["descriptive"]
    return {"all": tested, "supported": counts["supported"], "contradicted": counts["contradicted"]}
