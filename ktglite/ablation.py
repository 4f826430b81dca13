"""Table 1: which nodes of an all-Through graph start from pre-trained weights, and what that does to node 1.

The eight patterns are data; training them is `runs.run_all`; what follows from the records is `stats`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import pandas as pd

from ktglite import stats
from ktglite.files import whole
from ktglite.graph import Graph, Node, all_through
from ktglite.models import WEIGHT_SUFFIXES

# How a source is called in tables and figures. The stand-in is never without that word.
TITLES = {
    "scratch": "no pre-training",
    "imagenet1k": "ImageNet-1k",
    "fractaldb1k": "FractalDB-1k",
    "imagenet1k_standin": "ImageNet-1k stand-in",
}


def title(source: str) -> str:
    """The name of a source for readers; a weights file goes by its stem."""
    return TITLES.get(source, Path(source).stem if source.endswith(WEIGHT_SUFFIXES) else source)


def patterns(n: int = 3) -> list[str]:
    """The 2^n patterns in the order of Table 1, binary in (node 1, node 2, ..): "none", "3", "2", "2+3", "1", .."""
    rows = product([False, True], repeat=n)
    return ["+".join(str(i + 1) for i in range(n) if row[i]) or "none" for row in rows]


def ablation_graphs(arch: str, source: str, n: int = 3) -> dict[str, Graph]:
    """One all-Through graph of `n` nodes per pattern, the named nodes starting from `source` (paper, Table 1)."""
    graphs = {}
    for pattern in patterns(n):
        chosen = [str(i + 1) in pattern.split("+") for i in range(n)]
        graphs[pattern] = all_through(*(Node(arch, source if on else "scratch") for on in chosen))
    return graphs


def ablation_grid(arch: str, sources: Sequence[str], n: int = 3) -> dict[str, Graph]:
    """All rows of Table 1 for several sources: "none", which they share, and "<source>/<pattern>".

    Raises ValueError for sources that a table could not tell apart, and what `Node` raises for an unknown one.
    """
    names = [title(source) for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources {', '.join(sources)} are called {', '.join(names)} in tables: rename a file")
    grid = {"none": ablation_graphs(arch, "scratch", n)["none"]}
    for source in sources:
        grid |= {f"{source}/{p}": graph for p, graph in ablation_graphs(arch, source, n).items() if p != "none"}
    return grid


def read_runs(folder: str | Path) -> list[dict]:
    """The records of Table 1 that notebook 02 or `ktglite ablation` left in `<folder>/table1.json`.

    Raises FileNotFoundError where there are none, ValueError when the file is none.
    """
    path = Path(folder) / "table1.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run notebook 02 or ktglite ablation first")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no table of runs ({error}); notebook 02 writes it again") from error


@cache
def paper() -> dict:
    """The paper's published numbers, in percent and points."""
    return json.loads(files("ktglite").joinpath("paper.json").read_text())


def paper_source(source: str) -> str | None:
    """The paper's column that stands beside `source`: a stand-in's is that of what it stands for."""
    name = source.removesuffix("_standin")
    return name if name in paper()["table1"] else None


def paper_arms(sources: Sequence[str], n: int = 3) -> dict[tuple[str, str], stats.Arm]:
    """The paper's Table 1 under the names of `sources`; nothing for graphs of other than its 3 nodes."""
    table, arms = paper()["table1"], {}
    for source in sources if n == 3 else ():
        column = paper_source(source)
        if column:
            rows = {"none": table["none"], **table[column]}
            arms |= {(source, pattern): stats.Arm(**row) for pattern, row in rows.items()}
    return arms


def sources_of(records: Iterable[Mapping]) -> list[str]:
    """The pre-training sources that occur in the labels of `records`, in order of appearance."""
    return list(dict.fromkeys(record["label"].rpartition("/")[0] for record in records if "/" in record["label"]))


def tidy(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per run and source: `source`, `pattern`, `node 1`.., `seed`, `accuracy` (%, node 1, test).

    "none" stands under every source.
    """
    names, rows = [f"node {i + 1}" for i in range(count_nodes(records))], []
    for source in sources or sources_of(records) or [""]:
        for record in records:
            of, _, pattern = record["label"].rpartition("/")
            if of == source or pattern == "none":
                on = {name: name[5:] in pattern.split("+") for name in names}
                run = {"seed": record["seed"], "accuracy": record["test_accuracy"][0]}
                rows.append({"source": source, "pattern": pattern, **on, **run})
    return pd.DataFrame(rows, columns=["source", "pattern", *names, "seed", "accuracy"])


def run_arms(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> dict[tuple[str, str], stats.Arm]:
    """Our runs as arms by (source, pattern)."""
    table = tidy(records, sources)
    return {
        key: stats.arm(dict(zip(part["seed"], part["accuracy"], strict=True)))
        for key, part in table.groupby(["source", "pattern"], sort=False)
    }


def count_nodes(records: Sequence[Mapping]) -> int:
    """N of the graphs in `records`."""
    return len(records[0]["graph"]["nodes"]) if records else 3


def ablation_table(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> pd.DataFrame:
    """Table 1 in numbers: a row per pattern, and per source `mean`, `std`, `n`, 95 % interval, beside the paper's.

    Columns are pairs (source title, quantity). Missing runs show as n = 0, not as an error.
    """
    sources = list(sources or sources_of(records))
    n = count_nodes(records)
    ours, theirs = run_arms(records, sources), paper_arms(sources, n)
    rows = {}
    for pattern in patterns(n):
        row = {("", f"node {i + 1}"): "✓" if str(i + 1) in pattern.split("+") else "–" for i in range(n)}
        for source in sources:
            arm = ours.get((source, pattern))
            found = stats.summary(list(arm.by_seed.values()) if arm else [])
            row |= {(title(source), key): found[key] for key in ("mean", "std", "n", "low", "high")}
            published = theirs.get((source, pattern))
            if published:
                row |= {(title(source), "paper mean"): published.mean, (title(source), "paper std"): published.std}
        rows[pattern] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """`ablation_table` for reading: one column of "mean ± std (n)" per source, and one of the paper's (n = 3)."""
    shown = table[""].copy()
    for source in dict.fromkeys(name for name in table.columns.get_level_values(0) if name):
        part = table[source]
        shown[source] = [f"{r['mean']:.2f} ± {r['std']:.2f} ({r['n']:.0f})" for _, r in part.iterrows()]
        if "paper mean" in part:
            name = source.removesuffix(" stand-in")
            shown[f"paper, {name}"] = [f"{r['paper mean']:.2f} ± {r['paper std']:.2f}" for _, r in part.iterrows()]
    return shown


def write_table(table: pd.DataFrame, folder: str | Path) -> list[Path]:
    """`table1.csv` with every number, `table1.tex` (booktabs) and `table1.md` for reading. Same table, same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat = table.copy()
    flat.columns = [" ".join(filter(None, column)) for column in table.columns]
    shown = format_table(table)
    latex = shown.replace({" ± ": r" $\\pm$ ", "✓": r"$\\checkmark$", "–": "--"}, regex=True)
    latex = latex.rename(columns=lambda name: re.sub(r"([_%&#$])", r"\\\1", name))
    texts = {
        "table1.csv": flat.to_csv(index_label="pattern", float_format="%.4f"),
        "table1.tex": latex.to_latex(index=False, column_format="c" * latex.shape[1]),
        "table1.md": markdown(shown),
    }
    for name, text in texts.items():
        with whole(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in texts]


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table."""
    lines = [frame.columns, ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def style_table(table: pd.DataFrame):
    """`format_table` as a pandas Styler, with a caption that says what the numbers are."""
    caption = (
        "Accuracy of node 1 (%), test split: mean ± standard deviation (n seeds). ✓: starts pre-trained. Paper: n = 3."
    )
    centred = [{"selector": "td, th", "props": "text-align: center"}]
    return format_table(table).style.hide(axis="index").set_caption(caption).set_table_styles(centred)


# ---- the claims


def contrasts_beside_paper(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> pd.DataFrame:
    """The declared contrasts, once from our runs and once from the paper's published summaries; column `from`.

    `source` is a title, for readers.
    """
    sources, n = list(sources or sources_of(records)), count_nodes(records)
    family = stats.contrasts(sources, patterns(n), title)
    ours = stats.contrast_table(run_arms(records, sources), family)
    theirs = stats.contrast_table(paper_arms(sources, n), family)
    both = [ours.assign(**{"from": "this run"}), theirs.assign(**{"from": "paper"})]
    return pd.concat(both, ignore_index=True)


def claims_table(
    records: Sequence[Mapping],
    summaries: Mapping[str, Mapping] | None = None,
    sources: Sequence[str] | None = None,
    scale: str = "",
) -> pd.DataFrame:
    """The paper's claims C1-C5 put to our numbers, and C1-C3 to its own by the same rule.

    - `summaries`: `search.study_summary` by condition, re-evaluated, for C4 and C5.
    - `scale`: the profile the numbers come from, which every row names: a verdict holds at that scale only.

    C1 and C2 use Holm's p over all contrasts of Table 1; C4 and C5 over their own tests, fresh seeds only.
    """
    sources = list(sources or sources_of(records))
    every = contrasts_beside_paper(records, sources)
    rows = []
    texts = {
        "C1": "pre-training node 1 helps, whatever the auxiliaries are",
        "C2": "pre-trained auxiliaries alone help",
    }
    for claim, text in texts.items():
        for source in sources:
            row = {"claim": claim, "says": text, "source": title(source)}
            for name, part in every[(every.claim == claim) & (every.source == title(source))].groupby("from"):
                row[f"{name} effect"] = effect_range(part)
                row[f"{name} verdict"] = stats.verdict(part.effect, part.p_holm)
                row["n"] = int(part.n.min()) if name == "this run" else row.get("n", 0)
            rows.append(row)
    for source in sources:
        rows.append(largest_gain(records, source, sources))
    rows += search_claims(summaries or {})
    return pd.DataFrame(rows).assign(scale=scale).fillna("–")


def effect_range(part: pd.DataFrame) -> str:
    """The effects of several contrasts in points: "least .. most [low, high]", from the lowest end of their 95 %
    intervals to the highest. Without intervals, where n is too small for them, the effects alone.
    """
    if part.effect.isna().any():
        return "–"
    least, most = part.effect.min(), part.effect.max()
    text = f"{least:+.2f}" + (f" .. {most:+.2f}" if len(part) > 1 else "")
    return text if part.low.isna().any() else f"{text} [{part.low.min():+.2f}, {part.high.max():+.2f}]"


def largest_gain(records: Sequence[Mapping], source: str, sources: Sequence[str]) -> dict:
    """C3: the largest gain over no pre-training. The pattern is picked by its result, so Bonferroni pays for it."""
    row = {"claim": "C3", "says": "the largest gain over no pre-training", "source": title(source)}
    n = count_nodes(records)
    for name, arms in (("this run", run_arms(records, sources)), ("paper", paper_arms(sources, n))):
        rest = [p for p in patterns(n) if p != "none" and (source, p) in arms]
        if not rest or (source, "none") not in arms:
            row[f"{name} verdict"] = "not measured"
            continue
        best = max(rest, key=lambda p: arms[source, p].mean)
        found = stats.compare(arms[source, best], arms[source, "none"])
        row[f"{name} effect"] = f"{found['effect']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}], nodes {best}"
        row[f"{name} verdict"] = stats.verdict([found["effect"]], [min(1.0, found["p"] * len(rest))])
        row["n"] = found["n"] if name == "this run" else row.get("n", 0)
    return row


def search_claims(summaries: Mapping[str, Mapping]) -> list[dict]:
    """C4: each condition's best graph beats that without pre-training. C5: mixed is best."""
    arms = {}
    for condition, summary in summaries.items():
        top = next((entry for entry in summary["reevaluated"] if entry["label"] == "top 1"), None)
        if top:
            arms[condition] = stats.arm(dict(zip(top["seeds"], top["test_accuracy"], strict=True)))
    gains = paper()["search_gain"]
    pairs = [("C4", c, "none", gains[c]) for c in ("imagenet1k", "fractaldb1k", "mixed")]
    pairs += [("C5", "mixed", c, gains["mixed"] - gains[c]) for c in ("imagenet1k", "fractaldb1k")]
    found = [stats.compare(arms[a], arms[b]) if {a, b} <= set(arms) else None for _, a, b, _ in pairs]
    adjusted = stats.holm([f["p"] if f else float("nan") for f in found])
    rows = []
    for (claim, a, b, gain), result, p in zip(pairs, found, adjusted, strict=True):
        says = f"searched graph: {condition_title(a, summaries)} beats {condition_title(b, summaries)}"
        row = {"claim": claim, "says": says, "source": condition_title(a, summaries), "paper effect": f"{gain:+.2f}"}
        row |= {"paper verdict": stats.verdict([gain], [float("nan")])}  # one run each, no spread was published
        row |= {"this run verdict": "not measured", "n": 0}
        if result:
            effect = f"{result['effect']:+.2f} [{result['low']:+.2f}, {result['high']:+.2f}]"
            verdict = stats.verdict([result["effect"]], [p])
            row |= {"this run effect": effect, "this run verdict": verdict, "n": result["n"]}
        rows.append(row)
    return rows


def condition_title(condition: str, summaries: Mapping[str, Mapping]) -> str:
    """A condition for readers, with its stand-in named: "mixed (ImageNet-1k stand-in, FractalDB-1k)"."""
    known = {"none": [], "imagenet1k": ["imagenet1k"], "fractaldb1k": ["fractaldb1k"]}
    known["mixed"] = known["imagenet1k"] + known["fractaldb1k"]
    choices = summaries[condition]["choices"] if condition in summaries else known.get(condition, [])
    names = " + ".join(title(choice) for choice in choices if choice != "scratch")
    return names or "no pre-training"
