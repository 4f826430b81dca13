"""Single networks, each start alone: accuracy by learning rate, epochs and stages taken over, for
choosing a profile.

A profile's rate and length are chosen by this table (validation accuracy of single networks) and by
nothing else, before any graph is trained. What is finished is kept under data/runs/single_networks.

    python benchmarks/single_networks.py --lr 0.01 0.03 0.1
    python benchmarks/single_networks.py --starts scratch my.safetensors --stages 3 5 --seeds 5
"""

import argparse
from itertools import product

import ktglite as ktg
from ktglite.profiles import parse_overrides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument(
        "--starts", nargs="+", help="sources or weights files (default: scratch and the profile's)"
    )
    parser.add_argument("--lr", nargs="+", type=float)
    parser.add_argument("--epochs", nargs="+", type=int)
    parser.add_argument("--stages", nargs="+", type=int, default=[5])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", default="data/runs/quick/weights")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()

    overrides = parse_overrides(given.set)
    settings = ktg.load_settings("02", given.profile, "data/runs/single_networks", **overrides)
    data, starts = settings.load_data(), given.starts or ("scratch", *settings.sources)
    lengths, rates = given.epochs or [settings.epochs], given.lr or [settings.lr]
    print(
        "start | epochs | lr | stages | validation % | test % | over scratch, points [95 %], paired by seed"
    )
    for epochs, lr, stages in product(lengths, rates, given.stages):
        config = settings.train_config(epochs=epochs, lr=lr, stages=stages)
        graphs = {start: ktg.independent(ktg.Node(settings.arch, start)) for start in starts}
        with ktg.open_pool(settings.jobs) as pool:
            where = f"{settings.out}/runs", given.weights, pool
            runs = ktg.run_all(graphs, data, config, range(given.seeds), *where)
        by_seed = {
            s: {r["seed"]: r["test_accuracy"][0] for r in runs if r["label"] == s} for s in starts
        }
        for start in starts:
            val = ktg.stats.summary([r["val_accuracy"][0] for r in runs if r["label"] == start])
            test = ktg.stats.summary(list(by_seed[start].values()))
            line = f"{start} | {epochs} | {lr:g} | {stages} | {val['mean']:.1f} ± {val['std']:.1f}"
            line += f" | {test['mean']:.1f} ± {test['std']:.1f} (n = {test['n']})"
            if start != "scratch" and "scratch" in starts:
                gain = ktg.stats.difference(by_seed[start], by_seed["scratch"])
                line += f" | {gain['effect']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main()
