"""How much does another pre-training of the same source change? One network alone and all three
nodes, from every pre-training of a source, with the same seeds.

The first pre-training's runs are those of Table 1. Further ones are made by Step 1 with another
seed, each in a folder of its own (quick: 3.5 minutes on a GPU, an hour on a core). What is finished
is kept, and without `--weights` the table is made of the records that came with the kit.

    python benchmarks/pretrainings.py
    python benchmarks/pretrainings.py --weights FOLDER1 FOLDER2 --save FILE
"""

import argparse
import json
from pathlib import Path

import ktglite as ktg
from ktglite.store import write_json

RECORDS = Path("data/reference_runs/pretrainings.json")
TABLE1 = Path("data/reference_runs/quick/table1.json")


def by_seed(records: list[dict], label: str) -> dict[int, float]:
    """Test accuracy of node 1 (%) by seed, of a row."""
    return {r["seed"]: r["test_accuracy"][0] for r in records if r["label"] == label}


def train(given: argparse.Namespace) -> list[dict]:
    """Both rows from the weights of every folder, all seeds."""
    settings = ktg.load_settings("02", given.profile, given.out)
    node = ktg.Node(settings.arch, given.source)
    graphs = {
        f"{given.source}/alone": ktg.independent(node),
        f"{given.source}/1+2+3": ktg.all_through(node, node, node),
    }
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    records = []
    with ktg.open_pool(given.jobs) as pool:
        for weights in given.weights:
            how = settings.load_data(), settings.train_config(), seeds, given.out / "runs"
            records += ktg.run_all(graphs, *how, weights, pool)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--source", default="fractaldb1k")
    parser.add_argument("--weights", nargs="+", help="a folder for every further pre-training")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("data/runs/pretrainings"))
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--save", type=Path, help="write the records to this JSON file")
    given = parser.parse_args()
    records = train(given) if given.weights else json.loads(RECORDS.read_text(encoding="utf-8"))
    if given.save:
        write_json(given.save, records)

    table = json.loads(TABLE1.read_text(encoding="utf-8"))
    groups: dict[str, list] = {}
    for record in [*table, *records]:
        if str(record["label"]).startswith(f"{given.source}/"):
            groups.setdefault(next(iter(record["weights"].values())), []).append(record)
    print("| pre-training | rows | accuracy, % | minus the same from scratch, points [95 %] |")
    print("|---|---|---|---|")
    for row, scratch in (("alone", "alone"), ("1+2+3", "none")):
        gains = []
        for number, (digest, found) in enumerate(groups.items(), 1):
            own = by_seed(found, f"{given.source}/{row}")
            each = ktg.stats.summary(list(own.values()))
            gap = ktg.stats.difference(own, by_seed(table, scratch))
            gains.append(gap["effect"])
            accuracy = f"{each['mean']:.1f} ± {each['std']:.1f} (n = {each['n']})"
            gain = f"{gap['effect']:+.1f} [{gap['low']:+.1f}, {gap['high']:+.1f}]"
            print(f"| {number} ({digest[:8]}) | {row} | {accuracy} | {gain} |")
        each = ktg.stats.summary(gains)
        mean = f"{each['mean']:+.1f} [{each['low']:+.1f}, {each['high']:+.1f}]"
        print(f"| all {each['n']} | {row} | | {mean} |")


if __name__ == "__main__":
    main()
