"""One graph of one's own: train it, keep its target, and see what the target is worth."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from ktglite.data import Data
from ktglite.experiments import networks
from ktglite.experiments.runs import SCHEMA, Run, run
from ktglite.figures import plot_training, save_figure, use_style
from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
from ktglite.settings import Settings
from ktglite.sources.datasets import load_data
from ktglite.store import atomic_write, write_record
from ktglite.trainer import predict

__all__ = ["class_table", "image_files", "load_test_images", "read_graph", "train_graph"]

PRESETS = {  # the graph, and how many nodes it has unless a number says so
    "alone": (independent, 1),
    "all-through": (all_through, 3),
    "mutual": (mutual, 2),
    "distillation": (distillation, 2),
}


def read_graph(text: str, archs: Sequence[str], inits: Sequence[str] = ()) -> Graph:
    """The graph that a command names: a JSON file, or one of `PRESETS` such as "all-through:3".

    A file holds a graph, the record of a run, or the summary of a search, whose best graph it is.

    Args:
        archs: of the nodes, one for all or one each; none keeps those of a file.
        inits: what they start from, likewise.

    Raises:
        ValueError: for anything else, and for numbers that do not agree.
    """
    if text.endswith(".json"):
        graph = _graph_of_file(Path(text).expanduser())
    else:
        name, _, count = text.partition(":")
        if name not in PRESETS or not re.fullmatch(r"[1-9]?", count):
            allowed = f"a .json file, {', '.join(PRESETS)}, with a number as in all-through:3"
            raise ValueError(f"graph is {text!r}: allowed are {allowed}")
        make, usual = PRESETS[name]
        if count and name in ("alone", "distillation"):
            raise ValueError(f"graph is {text!r}: {name} has {usual} node(s), give no number")
        graph = make(*[Node("resnet18")] * int(count or usual))
    nodes = graph.nodes
    for field, given in (("arch", archs), ("init", inits)):
        if not given:
            continue
        if len(given) not in (1, graph.size):
            found = f"{len(given)} were given for {graph.size} nodes"
            raise ValueError(f"{field}: {found}: give one, or one for each node")
        values = given * graph.size if len(given) == 1 else given
        nodes = [replace(n, **{field: v}) for n, v in zip(nodes, values, strict=True)]
    return replace(graph, nodes=nodes)


def _graph_of_file(path: Path) -> Graph:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a graph: {error}") from error
    if isinstance(content, dict) and "best" in content:
        if content["best"] is None:
            raise ValueError(
                f"{path}: this search trained no graph to the end; give it more trials"
            )
        return Graph.from_dict(content["best"]["graph"])
    if isinstance(content, dict) and "graph" in content:
        return Graph.from_dict(content["graph"])
    return Graph.load(path)


@dataclass(frozen=True, eq=False)
class _ShownRun(Run):
    """A run that shows its epochs in the terminal."""

    def epochs(self, checkpoint=None, models=None) -> Iterator[dict]:
        bar = tqdm(super().epochs(checkpoint, models), "epochs", self.config.epochs, unit="epoch")
        for record in bar:
            bar.set_postfix_str(f"validation {record['val_accuracy'][0]:.1f} %")
            yield record


def train_graph(graph: Graph, settings: Settings, label: str) -> dict:
    """Train one graph with the first of the settings' seeds, or find that it was trained.

    Writes `target.safetensors` (the network of node 1), `training.png` and `record.json` to the
    settings' `out`, and returns the record. A killed training resumes with the same call.
    """
    store = settings.store()
    store = replace(store, keep="all" if store.keep == "all" else "target", ready=())
    data = settings.load_data()
    folders = (settings.weights,) if isinstance(settings.weights, str) else settings.weights
    seed = settings.first_seed
    weights = folders[seed % len(folders)]
    record = run(_ShownRun(graph, data, settings.train_config(), seed, weights, label), store)
    out = Path(settings.out)
    kept = networks.kept_files(Path(store.folder) / f"{record['key']}.json", [0], "target")
    with atomic_write(out / "target.safetensors") as file:
        file.write(kept[0].read_bytes())
    write_record(out / "record.json", record, SCHEMA)
    use_style()
    save_figure(plot_training(graph, record["epochs"]), out, "training", ("png",))
    return record


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files among `paths`, and every image below the folders among them, sorted.

    Raises FileNotFoundError for a path that is not there, and for folders without images.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        found = [path] if path.is_file() else sorted(path.rglob("[!.]*"))
        files += [f for f in found if f == path or f.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise FileNotFoundError(f"no images in {', '.join(map(str, paths))}")
    return files


def load_test_images(net: nn.Module, dataset: str | None, cache: str, raw: str) -> Data:
    """A data set as a loaded network takes it, split as for its training; by default that one.

    Raises ValueError for a data set with classes that the network does not know.
    """
    spec = {**(net.card.get("dataset") or {}), "cache": cache, "raw": raw}
    name = dataset or spec.get("name_or_folder")
    if name is None:
        raise ValueError("the network does not say which images it was trained on: give --dataset")
    data = load_data(**spec | {"name_or_folder": name, "size": net.size, "fit": net.fit})
    if unknown := set(data.classes) - set(net.classes):
        known = ", ".join(net.classes[:5])
        raise ValueError(f"{name}: the network does not know {min(unknown)!r}; it knows {known} ..")
    return data


def class_table(net: nn.Module, data: Data) -> pd.DataFrame:
    """What a network classifies correctly of the test images: a row per class, columns `class`,
    `images`, `correct`."""
    answers = [net.classes[i] for i in predict(net, data.test).argmax(1).tolist()]
    truth = [data.classes[i] for i in data.test.labels.tolist()]
    hits = [answer == right for answer, right in zip(answers, truth, strict=True)]
    frame = pd.DataFrame({"class": truth, "correct": hits})
    table = frame.groupby("class").agg(images=("correct", "size"), correct=("correct", "sum"))
    return table.reset_index()
