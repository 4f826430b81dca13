"""Table 1: which nodes of an all-Through graph start from pre-trained weights, and what that does
to node 1. Patterns are data, `runs.run_all` trains them, `stats` and `claims` judge the records."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ktglite.experiments import stats
from ktglite.graph import Graph, Node, all_through, independent
from ktglite.models import title
from ktglite.store import atomic_write, from_checkout

__all__ = ["ablation_graphs", "ablation_grid", "ablation_table", "paper", "reproduction_check"]
__all__ += ["judged_runs", "write_table"]

Records = Sequence[Mapping]  # of runs of Table 1
Sources = Sequence[str] | None  # what is shown, in this order; by default all of the records
Summaries = Mapping[str, Mapping]  # of searches, by condition

# ---- the graphs


def patterns(n: int = 3) -> list[str]:
    """The numbers of the pre-trained nodes in the 2^n rows of Table 1: "none", "3", "2", "2+3", ..,
    binary in (node 1, node 2, ..)."""
    rows = product([False, True], repeat=n)
    return ["+".join(str(i + 1) for i in range(n) if row[i]) or "none" for row in rows]


def ablation_graphs(arch: str | Sequence[str], source: str, n: int = 3) -> dict[str, Graph]:
    """An all-Through graph of `n` nodes per pattern, the named nodes starting from `source`;
    `arch` is that of all nodes, or one for each."""
    archs = [arch] * n if isinstance(arch, str) else arch
    graphs = {}
    for pattern in patterns(n):
        chosen = [source if str(i + 1) in pattern.split("+") else "scratch" for i in range(n)]
        graphs[pattern] = all_through(*map(Node, archs, chosen))
    return graphs


def ablation_grid(
    arch: str | Sequence[str], sources: Sequence[str], n: int = 3
) -> dict[str, Graph]:
    """All rows of Table 1 by label: "none", which the sources share, and "<source>/<pattern>".

    Beside them every start alone, as a graph of one node: "alone" (from scratch) and
    "<source>/alone". Raises ValueError for fewer than two nodes, without sources, for those that
    pre-train nothing or that a table could not tell apart, and as `Node` for an unknown one.
    """
    if not sources:
        raise ValueError("sources is empty: Table 1 needs one, such as --sources fractaldb1k")
    if n < 2:
        raise ValueError(f"nodes is {n}: Table 1 needs an auxiliary node, such as --nodes 3 gives")
    if "scratch" in sources:
        others = "name sources of pre-trained weights alone, such as --sources fractaldb1k"
        raise ValueError(f"scratch is in every table as the row without pre-training: {others}")
    names = [title(source) for source in sources]
    if len(set(names)) < len(names):
        called = f"sources {', '.join(sources)} are called {', '.join(names)} in tables"
        raise ValueError(f"{called}: rename a file")
    target = arch if isinstance(arch, str) else arch[0]
    grid = {"none": ablation_graphs(arch, "scratch", n)["none"]}
    grid["alone"] = independent(Node(target))
    for source in sources:
        grid[f"{source}/alone"] = independent(Node(target, source))
        rows = ablation_graphs(arch, source, n)
        grid |= {f"{source}/{pattern}": rows[pattern] for pattern in patterns(n)[1:]}
    return grid


# ---- the paper's numbers, and words


@cache
def paper() -> dict:
    """The paper's published numbers, in percent and points."""
    return json.loads(files(__package__).joinpath("paper.json").read_text(encoding="utf-8"))


def paper_source(source: str) -> str | None:
    """The paper's column beside `source`: that of what a stand-in or a variant stands for."""
    name = source.partition("_")[0]
    return name if name in paper()["table1"] else None


def stands_for(title: str) -> str:
    """What the paper calls a source of this title: "ImageNet-1k" for its stand-in, too."""
    return re.sub(r" stand-in| \(.*\)", "", title)


def paper_arms(sources: Sequence[str], n: int = 3) -> dict[tuple[str, str], stats.Arm]:
    """The paper's Table 1 by (source, pattern), under the names of `sources`; it has 3 nodes."""
    table = paper()["table1"]
    columns = {source: paper_source(source) for source in sources if n == 3}
    return {
        (source, pattern): stats.Arm(**row)
        for source, column in columns.items()
        if column
        for pattern, row in {"none": table["none"], **table[column]}.items()
    }


# ---- from records


def read_runs(folder: str | Path) -> list[dict]:
    """The table1.json that notebook 02 or `ktglite ablation` left in a folder.

    Raises FileNotFoundError where there is none, ValueError when it is damaged.
    """
    path = Path(folder) / "table1.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run notebook 02 or ktglite ablation first")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        found = f"{path} is no table of runs ({error})"
        raise ValueError(f"{found}; ktglite ablation writes it again") from error


def split_label(record: Mapping) -> tuple[str, str]:
    """(source, pattern) of a record: "x/1+2" is ("x", "1+2"); "none" and "alone" are of scratch."""
    label = record["label"]
    if label is None:
        example = 'name its row, as in ktg.run(Run(.., label="fractaldb1k/1+2"), ..)'
        raise ValueError(f"label is None of the run with seed {record['seed']}: {example}")
    source, _, pattern = label.rpartition("/")
    return source or "scratch", pattern


def sources_of(records: Iterable[Mapping]) -> list[str]:
    """The pre-training sources in the labels of `records`, in order of appearance."""
    found = dict.fromkeys(split_label(record)[0] for record in records)
    return [source for source in found if source != "scratch"]


def count_nodes(records: Records) -> int:
    """N of the graphs in `records`."""
    return max((len(record["graph"]["nodes"]) for record in records), default=3)


def target_accuracy(record: Mapping) -> float:
    return record["test_accuracy"][0]


def nodes_accuracy(record: Mapping) -> float:
    """The mean over all nodes: for graphs whose nodes are exchangeable."""
    return float(np.mean(record["test_accuracy"]))


def share_architecture(records: Records) -> bool:
    """Whether all nodes have one architecture, so that those of one start are exchangeable."""
    archs = {node["arch"] for record in records for node in record["graph"]["nodes"]}
    return len(archs) <= 1


def run_arms(
    records: Records, sources: Sources = None, value: Callable[[Mapping], float] = target_accuracy
) -> dict[tuple[str, str], stats.Arm]:
    """Our runs as arms by (source, pattern), each by the `value` of its records.

    A start alone is (source, "alone"). What starts from scratch has the source "scratch"; its
    graph, "none", stands under every one of `sources`, too.
    """
    values, weights = defaultdict(dict), defaultdict(dict)
    for record in records:
        source, pattern = split_label(record)
        also = (sources or sources_of(records)) if pattern == "none" else ()
        for name in (source, *also):
            values[name, pattern][record["seed"]] = value(record)
            hashes = sorted(record.get("weights", {}).values())
            weights[name, pattern][record["seed"]] = tuple(hashes)
    return {name: stats.arm(values[name], weights[name]) for name in values}


def tidy(records: Records, sources: Sources = None) -> pd.DataFrame:
    """One row per run and source: `source`, `pattern`, `seed`, `accuracy` (%, node 1, test images).

    The row without pre-training is repeated for every source; networks alone are left out.
    """
    sources = list(sources or sources_of(records) or ["scratch"])
    rows = [
        (source, pattern, seed, accuracy)
        for (source, pattern), arm in run_arms(records, sources).items()
        if source in sources and pattern != "alone"
        for seed, accuracy in arm.by_seed.items()
    ]
    return pd.DataFrame(rows, columns=["source", "pattern", "seed", "accuracy"])


# ---- the table


def ablation_table(records: Records, sources: Sources = None) -> pd.DataFrame:
    """Table 1 in numbers: a row per pattern, columns (source title, quantity).

    Quantities are `mean`, sample `std`, `n`, `low` and `high` (95 % interval) of node 1's test
    accuracy (%), the number of `pretrainings`, and the paper's `paper mean` and `paper std`. Rows
    whose nodes are exchangeable (none and all pre-trained) also have their `mean over nodes` and
    `std over nodes`. Missing runs are n = 0.
    """
    sources = list(sources or sources_of(records))
    n = count_nodes(records)
    ours = run_arms(records, sources)
    alike = share_architecture(records)
    nodes = run_arms(records, sources, nodes_accuracy) if alike else {}
    theirs = paper_arms(sources, n)
    rows = {}
    for pattern in patterns(n):
        pretrained = pattern.split("+")
        row = {("", f"node {i}"): "✓" if str(i) in pretrained else "–" for i in range(1, n + 1)}
        for source in sources:
            arm = ours.get((source, pattern), stats.arm({}))
            cells = stats.summary(list(arm.by_seed.values())) | {"pretrainings": arm.pretrainings}
            if pattern in ("none", patterns(n)[-1]) and (source, pattern) in nodes:
                over = nodes[source, pattern]
                cells |= {"mean over nodes": over.mean, "std over nodes": over.std}
            if published := theirs.get((source, pattern)):
                cells |= {"paper mean": published.mean, "paper std": published.std}
            row |= {(title(source), name): value for name, value in cells.items()}
        rows[pattern] = row
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("pattern")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """`ablation_table` for reading: "mean ± std (n)" per source, and the paper's (n = 3)."""
    shown = table[""].copy()
    for source in dict.fromkeys(name for name in table.columns.get_level_values(0) if name):
        part = table[source]
        means = part["mean"].combine(part["std"], _mean_and_spread)
        shown[source] = means + part["n"].map(" ({:.0f})".format)
        if "paper mean" in part:
            means = part["paper mean"].combine(part["paper std"], _mean_and_spread)
            shown[f"paper, {stands_for(source)}"] = means
    return shown


def _mean_and_spread(mean: float, std: float) -> str:
    """ "90.45 ± 0.42"; of one run its value, of none a dash."""
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f}" if np.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def write_table(table: pd.DataFrame, folder: str | Path) -> list[Path]:
    """`table1.csv` with every number, `table1.tex` (booktabs) and `table1.md` for reading; the same
    table gives the same bytes."""
    flat = table.set_axis([" ".join(filter(None, column)) for column in table], axis=1)
    shown = format_table(table)
    latex = shown.replace({" ± ": r" $\\pm$ ", "✓": r"$\\checkmark$", "–": "--"}, regex=True)
    lines = [shown.columns, ["---"] * shown.shape[1], *shown.astype(str).to_numpy().tolist()]
    lines = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
    latex = latex.rename(columns=lambda name: re.sub(r"([_%&#$])", r"\\\1", name))
    texts = {
        "table1.csv": flat.to_csv(float_format="%.4f"),
        "table1.tex": latex.to_latex(index=False, column_format="c" * latex.shape[1]),
        "table1.md": "".join(f"| {' | '.join(line)} |\n" for line in lines),
    }
    for name, text in texts.items():
        with atomic_write(Path(folder, name)) as file:
            file.write(text.encode())
    return [Path(folder, name) for name in texts]


def style_table(table: pd.DataFrame):
    """`format_table` as a pandas Styler, with a caption that says what the numbers are."""
    caption = "Accuracy of node 1 (%), test split: mean ± standard deviation (n seeds). "
    caption += "✓: starts pre-trained. Paper: n = 3."
    centred = [{"selector": "td, th", "props": "text-align: center"}]
    return format_table(table).style.set_caption(caption).set_table_styles(centred)


# ---- does this machine get what was recorded


def reproduction_check(live: Records, recorded: Records) -> pd.DataFrame:
    """For every row, does a live run lie where the recorded ones of the same row predict it?

    Recorded runs of a live seed are left out, since they are the same run. Returns a row per label
    of `live`: `row`, `live` (mean of its runs: node 1, test images, %), `mean` (recorded), `low`
    and `high` (95 % prediction interval, `stats.prediction`), `n` (recorded runs) and `inside`,
    which is missing where n is below 2.
    """
    rows = []
    for label in dict.fromkeys(record["label"] for record in live):
        ours = [record for record in live if record["label"] == label]
        seeds = {record["seed"] for record in ours}
        theirs = [r for r in recorded if r["label"] == label and r["seed"] not in seeds]
        values = [target_accuracy(r) for r in theirs if same_row(r, ours[0])]
        means = np.mean([target_accuracy(r) for r in ours]), stats.summary(values)["mean"]
        ends = stats.prediction(values, len(ours))
        rows.append((row_title(ours[0]), *means, *ends, len(values)))
    table = pd.DataFrame(rows, columns=["row", "live", "mean", "low", "high", "n"])
    # the same number may be summed up in another order
    inside = table.live.between(table.low - 1e-9, table.high + 1e-9).astype("boolean")
    return table.assign(inside=inside.mask(table.n < 2))


def judged_runs(live: Records, folder: str | Path) -> list[Mapping]:
    """The runs that verdicts rest on: never recorded ones and those of this machine together.

    Where the Table 1 in `folder` has two seeds or more of a row of `live`, of the same graph,
    images and settings, they count alone; the other rows have their live runs.
    """
    folder = from_checkout(folder)
    rows = {record["label"]: record for record in live}
    theirs = read_runs(folder) if rows and (folder / "table1.json").is_file() else []
    theirs = [r for r in theirs if r["label"] in rows and same_row(r, rows[r["label"]])]
    seeds = Counter(record["label"] for record in theirs)
    recorded = [record for record in theirs if seeds[record["label"]] > 1]
    return recorded + [record for record in live if seeds[record["label"]] < 2]


def row_title(record: Mapping) -> str:
    """A row for readers: "none", "FractalDB-1k alone", "FractalDB-1k on nodes 1+2"."""
    source, pattern = split_label(record)
    if source == "scratch":
        return pattern
    on = "" if pattern == "alone" else "on nodes " if "+" in pattern else "on node "
    return f"{title(source)} {on}{pattern}"


def same_row(a: Mapping, b: Mapping) -> bool:
    """Whether two records are of the same graph, images and settings."""
    return a["graph"] == b["graph"] and same_training(a, b)


def same_training(a: Mapping, b: Mapping) -> bool:
    """Whether two records are of the same images and settings, on whichever device."""
    ours, theirs = a.get("config", {}), b.get("config", {})
    shared = (ours.keys() & theirs.keys()) - {"device", "precision"}
    same = a["data"]["fingerprint"] == b["data"]["fingerprint"]
    return same and all(ours[name] == theirs[name] for name in shared)


def reproduction_sentence(check: pd.DataFrame) -> str:
    """How many rows of a `reproduction_check` lie inside, how many by chance, which do not."""
    known = check[check.inside.notna()]
    if known.empty:
        return "No row has two recorded runs of the same images and settings to compare with."
    told = f"{known.inside.sum()} of {len(known)} rows of this machine's run lie in the 95 % "
    told += f"prediction interval of the recorded runs; {stats.LEVEL * len(known):.1f} are "
    told += "expected if this machine reproduces the records."
    outside = [
        f"{row.row} ({row.live:.2f} %, recorded {row.low:.2f} to {row.high:.2f})"
        for row in known[~known.inside.astype(bool)].itertuples()
    ]
    return told + (f" Outside: {', '.join(outside)}." if outside else "")
