"""Table 1: which nodes of an all-Through graph start from pre-trained weights, and what that does
to node 1.

The eight patterns are data; training them is `runs.run_all`; what follows from the records is
`stats`.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import pandas as pd

from ktglite.experiments import stats
from ktglite.graph import Graph, Node, all_through, independent
from ktglite.models import title
from ktglite.store import atomic_write

__all__ = [
    "ablation_graphs",
    "ablation_grid",
    "ablation_table",
    "markdown",
    "paper",
    "tidy",
    "write_table",
]


def patterns(n: int = 3) -> list[str]:
    """The 2^n patterns in the order of Table 1, binary in (node 1, node 2, ..): "none", "3", "2", "2+3", "1", .."""
    rows = product([False, True], repeat=n)
    return ["+".join(str(i + 1) for i in range(n) if row[i]) or "none" for row in rows]


def ablation_graphs(arch: str | Sequence[str], source: str, n: int = 3) -> dict[str, Graph]:
    """One all-Through graph of `n` nodes per pattern, the named nodes starting from `source` (paper, Table 1).

    `arch`: of all nodes, or one for each.
    """
    archs = [arch] * n if isinstance(arch, str) else arch
    graphs = {}
    for pattern in patterns(n):
        chosen = [source if str(i + 1) in pattern.split("+") else "scratch" for i in range(n)]
        graphs[pattern] = all_through(*map(Node, archs, chosen))
    return graphs


def ablation_grid(arch: str | Sequence[str], sources: Sequence[str], n: int = 3) -> dict[str, Graph]:
    """All rows of Table 1 for several sources: "none", which they share, and "<source>/<pattern>";
    beside them every start alone, as a graph of one node: "alone" (from scratch) and
    "<source>/alone".

    Raises ValueError for sources that a table could not tell apart, and what `Node` raises for an
    unknown one.
    """
    names = [title(source) for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(
            f"sources {', '.join(sources)} are called {', '.join(names)} in tables: rename a file"
        )
    target = arch if isinstance(arch, str) else arch[0]
    none = ablation_graphs(arch, "scratch", n)["none"]
    grid = {"none": none, "alone": independent(Node(target))}
    for source in sources:
        grid |= {f"{source}/alone": independent(Node(target, source))}
        grid |= {
            f"{source}/{p}": graph
            for p, graph in ablation_graphs(arch, source, n).items()
            if p != "none"
        }
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
        raise ValueError(
            f"{path} is no table of runs ({error}); notebook 02 writes it again"
        ) from error


@cache
def paper() -> dict:
    """The paper's published numbers, in percent and points."""
    return json.loads(files("ktglite.experiments").joinpath("paper.json").read_text())


def paper_source(source: str) -> str | None:
    """The paper's column that stands beside `source`: a stand-in's or a variant's is that of what it stands for."""
    name = source.partition("_")[0]
    return name if name in paper()["table1"] else None


def stands_for(title: str) -> str:
    """What the paper calls a source of this title: "ImageNet-1k" for its stand-in and for its quantised weights."""
    return re.sub(r" stand-in| \(.*\)", "", title)


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
    return list(
        dict.fromkeys(
            record["label"].rpartition("/")[0] for record in records if "/" in record["label"]
        )
    )


def tidy(records: Sequence[Mapping], sources: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per run and source: `source`, `pattern`, `node 1`.., `seed`, `accuracy` (%, node 1,
    test), and of runs that were kept `ensemble`, `agreement` and `calibration_error`.

    "none" stands under every source.
    """
    names, rows = [f"node {i + 1}" for i in range(count_nodes(records))], []
    records = [record for record in records if record["label"].rpartition("/")[2] != "alone"]
    for source in sources or sources_of(records) or [""]:
        for record in records:
            of, _, pattern = record["label"].rpartition("/")
            if of == source or pattern == "none":
                on = {name: name[5:] in pattern.split("+") for name in names}
                run = {"seed": record["seed"], "accuracy": record["test_accuracy"][0]}
                rows.append(
                    {
                        "source": source,
                        "pattern": pattern,
                        **on,
                        **run,
                        **record.get("together", {}),
                    }
                )
    columns = ["source", "pattern", *names, "seed", "accuracy"]
    return pd.DataFrame(
        rows, columns=None if any("together" in record for record in records) else columns
    )


def run_arms(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> dict[tuple[str, str], stats.Arm]:
    """Our runs as arms by (source, pattern); each start alone by (source, "alone"), ("scratch", "alone")."""
    table = tidy(records, sources)
    alone = [record for record in records if record["label"].rpartition("/")[2] == "alone"]
    rows = [
        (r["label"].rpartition("/")[0] or "scratch", r["seed"], r["test_accuracy"][0])
        for r in alone
    ]
    single = pd.DataFrame(rows, columns=["source", "seed", "accuracy"]).assign(pattern="alone")
    return {
        key: stats.arm(dict(zip(part["seed"], part["accuracy"], strict=True)))
        for key, part in pd.concat([table, single]).groupby(["source", "pattern"], sort=False)
    }


def count_nodes(records: Sequence[Mapping]) -> int:
    """N of the graphs in `records`."""
    return max((len(record["graph"]["nodes"]) for record in records), default=3)


def ablation_table(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> pd.DataFrame:
    """Table 1 in numbers: a row per pattern, and per source `mean`, `std`, `n`, 95 % interval,
    beside the paper's.

    Columns are pairs (source title, quantity). Missing runs show as n = 0, not as an error.
    """
    sources = list(sources or sources_of(records))
    n = count_nodes(records)
    ours, theirs = run_arms(records, sources), paper_arms(sources, n)
    rows = {}
    for pattern in patterns(n):
        row = {
            ("", f"node {i + 1}"): "✓" if str(i + 1) in pattern.split("+") else "–"
            for i in range(n)
        }
        for source in sources:
            arm = ours.get((source, pattern))
            found = stats.summary(list(arm.by_seed.values()) if arm else [])
            row |= {(title(source), key): found[key] for key in ("mean", "std", "n", "low", "high")}
            published = theirs.get((source, pattern))
            if published:
                row |= {
                    (title(source), "paper mean"): published.mean,
                    (title(source), "paper std"): published.std,
                }
        rows[pattern] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """`ablation_table` for reading: one column of "mean ± std (n)" per source, and one of the paper's (n = 3)."""
    shown = table[""].copy()
    for source in dict.fromkeys(name for name in table.columns.get_level_values(0) if name):
        part = table[source]
        shown[source] = [
            f"{r['mean']:.2f} ± {r['std']:.2f} ({r['n']:.0f})" for _, r in part.iterrows()
        ]
        if "paper mean" in part:
            name = stands_for(source)
            shown[f"paper, {name}"] = [
                f"{r['paper mean']:.2f} ± {r['paper std']:.2f}" for _, r in part.iterrows()
            ]
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
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in texts]


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table."""
    lines = [frame.columns, ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def style_table(table: pd.DataFrame):
    """`format_table` as a pandas Styler, with a caption that says what the numbers are."""
    caption = "Accuracy of node 1 (%), test split: mean ± standard deviation (n seeds). ✓: starts pre-trained. Paper: n = 3."
    centred = [{"selector": "td, th", "props": "text-align: center"}]
    return (
        format_table(table).style.hide(axis="index").set_caption(caption).set_table_styles(centred)
    )
