"""What ASHA's rungs would have kept of graphs that were all trained to the end: the tables of
docs/asha_study.md, as Markdown.

    python benchmarks/asha_study.py
    python benchmarks/asha_study.py --first-rungs 1 2 4
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap

from ktglite.experiments.bench import PATH, Benchmark, Rule, load, regret, repeated_claims
from ktglite.experiments.rungs import replay
from ktglite.models import title

LETTERS = {"none": "(a)", "imagenet1k": "(b)", "fractaldb1k": "(c)", "mixed": "(d)"}
ORDERS = 200
ETA = 2
SEARCHES = 100  # of every rule and condition
RULES = {
    "asha, epoch 1": Rule("asha"),
    "asha, epoch 3": Rule("asha", min_resource=3),
    "promote, epoch 1": Rule("promote"),
    "promote, epoch 3": Rule("promote", min_resource=3),
    "none (random search)": Rule("none"),
}


def replays(table: Benchmark, pruner: str, rung: int, graphs: int) -> np.ndarray:
    """`replay` of searches of so many `graphs`, drawn by weight: epochs trained, int
    (ORDERS, graphs of the table), 0 for those that are not drawn."""
    rng = np.random.default_rng(0)
    trained = np.zeros((ORDERS, len(table)), int)
    for row in trained:
        order = rng.choice(len(table), graphs, replace=False, p=table.shares)
        row[order] = replay(table.val[order], pruner, ETA, rung)
    return trained


def best_kept(table: Benchmark, pruner: str, rung: int, graphs: int) -> list[str]:
    """In how many percent of the orders a graph of the best final value is trained to its end, with
    the 95 % interval over orders (Wilson), and the percentage of all epochs that is trained."""
    curves = table.val
    trained = replays(table, pruner, rung, graphs)
    final = np.where(trained > 0, curves[:, -1], -np.inf)
    best = (final == final.max(1, keepdims=True)) & (trained == curves.shape[1])
    kept = binomtest(int(best.any(1).sum()), ORDERS)
    low, high = kept.proportion_ci(method="wilson")
    spent = trained[trained > 0].mean() / curves.shape[1]
    return [f"{100 * kept.statistic:.0f} [{100 * low:.0f}, {100 * high:.0f}]", f"{100 * spent:.0f}"]


def early_rungs(table: Benchmark, first_rungs: Sequence[int], graphs: int) -> pd.DataFrame:
    """Whether a first rung decides for or against a start of the target: ASHA in searches of so
    many `graphs`, drawn by weight, so that starts meet as often as in the condition's space.

    By `rung` and `target` (its start), of `n` graphs, percent of the times they were drawn:
    `passed` the first rung; `deserved` to, being among the best 1/ETA of the search in the end; the
    difference, `bias`, with its 95 % interval over graphs (bootstrap), and in words as `verdict`.
    """
    starts = np.array([graph.nodes[0].init for graph in table.graphs])
    rows = []
    for rung in first_rungs:
        trained = replays(table, "asha", rung, graphs)
        final = np.where(trained > 0, table.val[:, -1], -np.inf)
        best = (trained > 0) & (final >= np.sort(final)[:, [-(graphs // ETA)]])
        for target in sorted(set(starts), reverse=True):
            own = (starts == target) & (trained > 0).any(0)
            times = (trained > 0).sum(0)[own]
            passed = (trained > rung).sum(0)[own]
            deserved = best.sum(0)[own]
            bias = bootstrap((passed - deserved, times), percent, paired=True, rng=0)
            row = {"rung": rung, "target": target, "n": own.sum()}
            row |= {"passed": percent(passed, times), "deserved": percent(deserved, times)}
            low, high = bias.confidence_interval
            row |= {"bias": row["passed"] - row["deserved"], "low": low, "high": high}
            rows.append(row | {"verdict": verdict(row)})
    return pd.DataFrame(rows)


def percent(counts: np.ndarray, times: np.ndarray, axis: int = -1) -> np.ndarray:
    """How many percent of all `times` are counted."""
    return 100 * counts.sum(axis) / times.sum(axis)


def verdict(bias: Mapping[str, float]) -> str:
    """A difference in words."""
    if bias["low"] > 0:
        return "favoured"
    return "held back" if bias["high"] < 0 else "not resolved"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", default=PATH)
    parser.add_argument("--first-rungs", type=int, nargs="+", default=[1, 3, 6])
    parser.add_argument("--few", type=int, default=16, help="graphs of a small search")
    parser.add_argument("--many", type=int, default=60, help="graphs of a larger one")
    given = parser.parse_args()
    bench = load(given.records)
    conditions = [name for name in LETTERS if name in bench.conditions]

    print("| graphs | first rung | asha: kept | epochs | promote: kept | epochs |")
    print("|---|---|---|---|---|---|")
    for name in conditions:
        for graphs in (given.many, given.few):
            for rung in given.first_rungs:
                cells = [f"{LETTERS[name]}, {graphs} graphs", f"epoch {rung}"]
                for pruner in ("asha", "promote"):
                    try:
                        cells += best_kept(bench.of(name), pruner, rung, graphs)
                    except ValueError:  # too few graphs to promote one to the end
                        cells += ["–", "–"]
                print(f"| {' | '.join(cells)} |")

    print(
        "\n| condition | first rung | target from | n | passed | deserved | difference | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in conditions:
        found = early_rungs(bench.of(name), given.first_rungs, given.many)
        for row in found.itertuples() if found.target.nunique() > 1 else ():
            gap = f"{row.bias:+.0f} [{row.low:+.0f}, {row.high:+.0f}]"
            cells = [LETTERS[name], f"epoch {row.rung}", title(row.target), str(row.n)]
            cells += [f"{row.passed:.0f}", f"{row.deserved:.0f}", gap, row.verdict]
            print(f"| {' | '.join(cells)} |")

    spent = [100, 200, 400, 800]
    print(f"\n| condition | rule | {' | '.join(f'{epochs} epochs' for epochs in spent)} |")
    print(f"|---|---|{'---|' * len(spent)}")
    late = {name: rule for name, rule in RULES.items() if "epoch 1" not in name}
    for name in conditions:
        table = bench.of(name)
        rules = RULES if len(table) >= 32 else late  # fewer cannot be promoted from epoch 1
        found = regret(table, rules, spent, repeats=SEARCHES).set_index("epochs")
        for rule in rules:
            own = found[found.rule == rule].reindex(spent)
            cells = [f"{row.regret:.1f} ± {row.high - row.regret:.1f}" for row in own.itertuples()]
            print(f"| {LETTERS[name]} | {rule} | {' | '.join(cells).replace('nan ± nan', '–')} |")

    print(f"\n| claim | graphs | {' | '.join(late)} |")
    print(f"|---|---|{'---|' * len(late)}")
    for few in (8, given.few):
        tables = [repeated_claims(bench, rule, few, SEARCHES) for rule in late.values()]
        for rows in zip(*(table.itertuples() for table in tables), strict=True):
            cells = [
                f"{r.effect:+.1f} [{r.low:+.1f}, {r.high:+.1f}], {r.positive:.0f} %" for r in rows
            ]
            what = f"{rows[0].claim}, {LETTERS[rows[0].condition]} − {LETTERS[rows[0].against]}"
            print(f"| {what} | {few} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
