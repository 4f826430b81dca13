"""One graph of one's own: train it, keep its target, and see what the target is worth."""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from ktglite.experiments import networks
from ktglite.experiments.runs import SCHEMA, Run, check_starts, run, weights_folder
from ktglite.figures import plot_training, save_figure, use_style
from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
from ktglite.settings import Settings
from ktglite.sources.datasets import find_images, load_data, walk
from ktglite.store import atomic_write, write_record
from ktglite.trainer import predict

log = logging.getLogger(__name__)

PRESETS = {  # the graph, its usual number of nodes, and the numbers it may have
    "alone": (independent, 1, "1"),
    "all-through": (all_through, 3, "123456789"),
    "mutual": (mutual, 2, "23456789"),
    "distillation": (distillation, 2, "2"),
}


def read_graph(text: str, archs: Sequence[str], inits: Sequence[str] = ()) -> Graph:
    """The graph that a command names: a JSON file, or one of `PRESETS` such as "all-through:3".

    A file holds a graph, the record of a run, or the summary of a search, whose best graph it is.

    `archs` of the nodes, and `inits`, what they start from: one for all or one each; none keeps
    those of a file. Raises ValueError for anything else, and for numbers that do not agree.
    """
    name, _, count = text.partition(":")
    if text.endswith(".json"):
        try:
            content = json.loads(Path(text).expanduser().read_text(encoding="utf-8-sig"))
            if "best" in content and content["best"] is None:
                raise ValueError("this search trained no graph to the end; give it more trials")
            content = content.get("best", content)
            graph = Graph.from_dict(content.get("graph", content))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{text} is not a graph: {error}") from error
    elif name in PRESETS and count in ("", *PRESETS[name][2]):
        make, usual, _ = PRESETS[name]
        graph = make(*[Node("resnet18")] * int(count or usual))
    else:
        allowed = "a .json file, alone, all-through:3, mutual:2 (or another number), distillation"
        raise ValueError(f"graph is {text!r}: allowed are {allowed}")
    nodes = graph.nodes
    for field, given in (("arch", archs), ("init", inits)):
        if len(given) not in (0, 1, graph.size):
            found = f"{len(given)} were given for {graph.size} nodes"
            raise ValueError(f"{field}: {found}: give one, or one for each node")
        if given:
            values = given * graph.size if len(given) == 1 else given
            nodes = [replace(n, **{field: v}) for n, v in zip(nodes, values, strict=True)]
    return replace(graph, nodes=nodes)


def train_graph(graph: Graph, settings: Settings, label: str) -> dict:
    """Train one graph with the first of the settings' seeds, or find that it was trained.

    Writes `target.safetensors` (the network of node 1), `training.png`, `training.pdf` and
    `record.json` to the settings' `out`, and returns the record. A killed training resumes with the
    same call.
    """
    keep = "all" if settings.keep == "all" else "target"
    store = replace(settings.store(), keep=keep, ready=())
    what = graph, settings.load_data(), settings.train_config()
    seed = settings.first_seed
    task = Run(*what, seed, weights_folder(settings.weights, seed), label)
    check_starts([task])
    record = run(task, store)
    out = Path(settings.out)
    kept = networks.kept_files(store.folder / f"{record['key']}.json", [0], "target")
    with atomic_write(out / "target.safetensors") as file:
        file.write(kept[0].read_bytes())
    write_record(out / "record.json", record, SCHEMA)
    use_style(settings.lang)
    save_figure(plot_training(graph, record["epochs"]), out, "training")
    return record


def node_table(record: dict) -> pd.DataFrame:
    """A row for each node that a run trained: what it was, and its accuracies (%)."""
    table = pd.DataFrame(record["graph"]["nodes"])
    table.insert(0, "node", table.index + 1)
    for split in ("val", "test"):
        table[f"{split} %"] = pd.Series(record[f"{split}_accuracy"], dtype=float).round(2)
    return table.dropna()


def answers(target: Path, images: Iterable[Path]) -> pd.DataFrame:
    """What the network in a file takes images for: columns `file`, `class`, `probability` (%).

    Folders stand for every image below them, found as those of a data set are. Raises
    FileNotFoundError for a path that is not there, and for folders without images, ValueError
    where none is given.
    """
    images = list(images)
    if not images:
        raise ValueError("no IMAGE is given: name image files, or folders of them")
    files = []
    for path in images:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        files += [path] if path.is_file() else [path.joinpath(*parts) for parts in walk(path)[0]]
    if not files:
        raise FileNotFoundError(f"no images in {', '.join(map(str, images))}")
    several = len(files) > 1
    table = networks.classify(networks.load_network(target), files, skip_unreadable=several)
    return table.assign(probability=table["probability"].astype(float).round(1))


def class_table(target: Path, dataset: str | None = None) -> pd.DataFrame:
    """What the network in a file classifies correctly of a data set's test images.

    By default they are those of its training. Of a folder of other images all are tested, or its
    test split where it has one. A frame with a row per class: `class`, `images`, `correct`. Raises
    ValueError for a data set with classes that the network does not know, and for its own where
    that was changed.
    """
    net = networks.load_network(target)
    name = dataset or (net.card.get("dataset") or {}).get("name_or_folder")
    if name is None:
        raise ValueError(f"{target} does not say on which images it was trained: give --dataset")
    labels, given = _answers_to_test_images(net, os.path.expanduser(name), target)
    frame = pd.DataFrame({"class": labels, "correct": np.array(labels) == np.array(given)})
    return frame.groupby("class", as_index=False)["correct"].agg(images="size", correct="sum")


def _answers_to_test_images(net: nn.Module, name: str, target: Path) -> tuple[list, list]:
    """The classes of a data set's test images, and what a loaded network takes them for."""
    spec = net.card.get("dataset") or {}
    own = bool(spec) and os.path.realpath(name) == os.path.realpath(spec["name_or_folder"])
    if os.path.isdir(name) and not own:
        return _answers_to_new_images(net, name)
    try:
        data = load_data(**spec | {"name_or_folder": name, "size": net.size, "fit": net.fit})
    except FileNotFoundError as error:
        way = "where its images lie elsewhere, give --dataset FOLDER"
        raise FileNotFoundError(f"{error}; {way}") from error
    _check_known(net, data.classes, name)
    known = (net.card.get("data") or {}).get("fingerprint")
    if own and known not in (None, data.fingerprint):
        found = f"{name} is not as it was when {target} was trained"
        risk = "its test split now has images that the network was trained on"
        raise ValueError(f"{found}: {risk}; restore it, or give --dataset of new images")
    labels = [data.classes[i] for i in data.test.labels]
    return labels, [net.classes[i] for i in predict(net, data.test).argmax(1)]


def _answers_to_new_images(net: nn.Module, folder: str) -> tuple[list, list]:
    """The same for another folder, without the images that the network was trained on."""
    found = find_images(Path(folder))
    last = max(split for *_, split in found)  # test, or val where there is none, or no split
    tested = {str(path): label for path, label, split in found if split == last}
    _check_known(net, tested.values(), folder)
    if "seen" not in net.card:
        log.warning("%s must be new to the network: it does not say what it has seen", folder)
    skip = (net.card.get("dataset") or {}).get("skip_unreadable", False)
    table = networks.classify(net, tested, skip, {*net.card.get("seen", ())})
    if left_out := len(tested) - len(table):
        message = (
            "%s: %d of %d images are left out: the network has seen them, or they cannot be read"
        )
        log.warning(message, folder, left_out, len(tested))
    if table.empty:
        raise ValueError(f"{folder} has no image that is new to the network: give --dataset others")
    return [tested[file] for file in table.file], table["class"].to_list()


def _check_known(net: nn.Module, classes: Iterable[str], name: str) -> None:
    if unknown := set(classes) - set(net.classes):
        known = ", ".join(net.classes[:5])
        raise ValueError(f"{name}: the network does not know {min(unknown)!r}; it knows {known} ..")
