"""Does a graph beat its target alone? It depends on how far training has gone.

One network alone and the graph of three, all Through, for several numbers of epochs, from scratch
and from each source of the profile: x is the training accuracy of the target alone, y the graph
minus its target alone (notebook 02; docs/results.md). What is finished is kept, and with `--ready`
taken from records that came with the kit. Of several folders of weights, seeds take turns.

    python benchmarks/convergence.py --weights W0 W1 W2 --save data/reference_runs/convergence.json
"""

import argparse
import json
from pathlib import Path

import ktglite as ktg
from ktglite.experiments.runs import Store, run_all
from ktglite.store import write_json

EPOCHS = (3, 6, 12, 24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--epochs", nargs="+", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--images", type=int, help="training images (default: the profile's)")
    parser.add_argument("--weights", nargs="+", default=["data/runs/quick/weights"])
    parser.add_argument("--out", type=Path, default=Path("data/runs/convergence"))
    parser.add_argument("--ready", type=Path, help="records of runs that are not trained again")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--save", type=Path, help="write all records to this JSON file")
    given = parser.parse_args()

    settings = ktg.load_settings("02", given.profile, given.out)
    data = settings.load_data()
    if given.images:
        others = len(data.val) + len(data.test)
        total = given.images + others
        split = (given.images / total, len(data.val) / total, len(data.test) / total)
        data = ktg.load_data(settings.dataset, settings.image_size, total, split)
    graphs = {}
    for start in ("scratch", *settings.sources):
        node = ktg.Node(settings.arch, start)
        alone, together = ("alone", "none")  # as the rows of Table 1 are called
        if start != "scratch":
            alone, together = f"{start}/alone", f"{start}/1+2+3"
        graphs[alone] = ktg.independent(node)
        graphs[together] = ktg.all_through(node, node, node)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    ready = json.loads(given.ready.read_text(encoding="utf-8")) if given.ready else ()
    store = Store(given.out / "runs", ready=ready)
    records = []
    with ktg.open_pool(given.jobs) as pool:
        for epochs in given.epochs:
            config = settings.train_config(epochs=epochs)
            found = run_all(graphs, data, config, seeds, store, given.weights, pool)
            records += found
            for label in graphs:
                runs = [run for run in found if run["label"] == label]
                test = ktg.stats.summary([run["test_accuracy"][0] for run in runs])
                train = ktg.stats.summary([run["epochs"][-1]["train_accuracy"][0] for run in runs])
                tested = f"test {test['mean']:.1f} ± {test['std']:.1f} % (n = {test['n']})"
                what = f"{len(data.train)} images, {epochs} epochs, {label}"
                print(f"{what}: {tested}, training {train['mean']:.1f} %", flush=True)
    if given.save:
        write_json(given.save, records)


if __name__ == "__main__":
    main()
