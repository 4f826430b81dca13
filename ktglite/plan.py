"""What a profile will cost on a device: a few measured iterations, and a simulated search, before anything is begun."""

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ktglite.data import Data, Split
from ktglite.devices import resolve_device, resolve_precision
from ktglite.graph import Node, all_through
from ktglite.models import build
from ktglite.pretrain import STANDIN, PretrainConfig, find_ready
from ktglite.reproduce import NOTEBOOKS
from ktglite.runs import one_thread
from ktglite.search import asha_epochs, expected_share_run
from ktglite.trainer import TrainConfig, accuracy, epochs

CLASSES = 20  # of the images that are measured; the head is a small part of a network
RECORD = 20e3  # bytes of one training's record
ASSUMED_IMAGES = 12_554  # the paper's, where the profile sets no limit
SOURCE_IMAGES = {"imagenet1k": 1_281_167}


@dataclass(frozen=True)
class Speed:
    """What one process on one device does: images per second of *one* network, trained or only evaluated.

    `start`: seconds until a new process can train.  `memory`: bytes that a training of the measured graph needs, its
    data aside.
    """

    train: float
    evaluate: float
    start: float = 0.0
    memory: float = 0.0


def clock(device: torch.device) -> float:
    """Seconds of this process's own work: on a CPU its processor time, which other programs do not lengthen."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def measure(values: Mapping, iterations: int = 6) -> Speed:
    """Train and evaluate random images for a few iterations, as notebook 02 would with these parameters."""
    batch, size, device = values["batch_size"], values["image_size"], resolve_device("auto")
    names = ("schedule", "augmentation", "precision", "batch_size")
    config = TrainConfig(epochs=4, **{name: values[name] for name in names})
    bf16 = resolve_precision(config.precision, device) == "bf16"

    def images(n: int) -> Split:
        return Split(torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8), torch.arange(n) % CLASSES)

    data = Data("random", size, tuple(map(str, range(CLASSES))), images(batch * iterations), images(2), images(2))
    graph = all_through(*[Node(values["arch"])] * values["nodes"])
    with one_thread(config):
        ends = [clock(device) for _ in epochs(graph, data, config, seed=0)]
        epoch = min(b - a for a, b in pairwise(ends))  # the first epoch, which warms up, is none of these
        net = build(values["arch"], CLASSES).to(device).eval()
        forward = []
        for _ in range(3):
            start = clock(device)
            accuracy(net, data.train, bf16)
            forward.append(clock(device) - start)
    train = values["nodes"] * batch * iterations / epoch
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    return Speed(train, batch * iterations / min(forward), start_seconds(), peak)


def peak_memory() -> float:
    """Bytes this process has needed at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def start_seconds() -> float:
    """Processor seconds that a process needs to import what trains."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import ktglite.search"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def simulated_curves(trials: int, epochs: int, seed: int = 0) -> np.ndarray:
    """Learning curves (trials, epochs) to try ASHA on: v(e) = q (1 - exp(-e / t)) + 0.1 z(e).

    Quality q is normal with mean 3 and deviation 1, the pace t log-uniform from 1 to a third of the epochs, the noise
    z(e) of an evaluation standard normal. Slow graphs are stopped though they may be good, as in a real search.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(3, 1, (trials, 1))
    pace = np.exp(rng.uniform(0, np.log(max(epochs / 3, 1.01)), (trials, 1)))
    return quality * (1 - np.exp(-np.arange(1, epochs + 1) / pace)) + 0.1 * rng.normal(size=(trials, epochs))


def search_epochs(values: Mapping, repeats: int = 5) -> float:
    """Epochs that one condition's search trains, ASHA's savings taken off; the mean over simulated searches."""
    trials, epochs = values["trials"], values["search_epochs"]
    if values["pruner"] == "none":
        return trials * epochs
    rungs = [values[name] for name in ("min_resource", "reduction_factor", "min_early_stopping_rate")]
    return float(np.mean([asha_epochs(simulated_curves(trials, epochs, s), *rungs).sum() for s in range(repeats)]))


def split_sizes(values: Mapping) -> list[int]:
    """About how many images train, validate and test."""
    limit = values["limit"] or ASSUMED_IMAGES
    return [round(limit * share) for share in values["split"]]


def adopted(pre: Mapping, passes: Mapping[str, int]) -> list[str]:
    """The sources whose finished weights notebook 01 finds; `passes`: the epochs of each."""
    same = {
        name: pre[f"pretrain_{name}"] for name in ("size", "render", "batch_size", "lr", "schedule", "augmentation")
    }
    same |= {"arch": pre["arch"], "images_per_epoch": pre["pretrain_images"], "categories": pre["pretrain_categories"]}
    same |= {"standin_images": pre["standin_images"]}
    drawn = [source for source in passes if source != "imagenet1k"]
    return [s for s in drawn if find_ready(PretrainConfig(s, epochs=passes[s], **same), pre["ready_weights"])]


def plan(
    parameters: Mapping[str, Mapping], devices: int, images_per_second: float | None = None
) -> tuple[list[dict], Speed]:
    """One row per notebook and one for all: what `ktglite reproduce` will take with these parameters.

    - `parameters`: of every notebook, as `reproduce.parameters` gives them.  `devices`: how many GPUs, or CPU cores.
    - `images_per_second`: of one device training a whole graph of the profile; measured here if None.

    A row has `notebook`, `epochs` (over the training set; of a whole graph in 00, 02 and 03, of one network in 01),
    `device_hours`, `wall_hours`, `disk` and `memory` in bytes, the memory per process. Trainings are spread over the
    devices; the searches come one after the other; notebook 01 uses a device per source. Only training, evaluation
    and the start of processes count: drawing figures and images does not.
    """
    table, search = parameters["02_table1_ablation"], parameters["03_asha_graph_search"]
    if images_per_second is None:
        speed = measure(table)
    else:
        speed = Speed(images_per_second * table["nodes"], 3 * images_per_second * table["nodes"])
    train, val, test = split_sizes(table)
    weights = 4 * sum(p.numel() for p in build(table["arch"], CLASSES).parameters())
    pixels = 3 * table["image_size"] ** 2 * sum(split_sizes(table))

    def graph_seconds(epochs: float, nodes: float, trainings: float) -> float:
        batch = min(table["batch_size"], train)
        seen = train // batch * batch
        return nodes * (epochs * (seen / speed.train + val / speed.evaluate) + trainings * test / speed.evaluate)

    def row(notebook: str, epochs: float, seconds: float, workers: int, starts: int, disk: float) -> dict:
        wall = (seconds + starts * speed.start) / workers + speed.start
        total = seconds + starts * speed.start + speed.start
        hours = {"device_hours": total / 3600, "wall_hours": wall / 3600}
        return {"notebook": notebook, "epochs": epochs, **hours, "disk": disk, "memory": speed.memory + pixels}

    first, pre = parameters["00_knowledge_transfer_graph"], parameters["01_pretraining"]
    rows = [row(NOTEBOOKS[0], first["epochs"], graph_seconds(first["epochs"], 2, 1), 1, 0, 0)]

    sources = [s for s in pre["sources"] if s != "imagenet1k" or pre["imagenet_folder"]]
    passes = {s: pre["standin_epochs"] if s == STANDIN else pre["pretrain_epochs"] for s in sources}
    whole = {s: SOURCE_IMAGES.get(s, 1000 * pre["pretrain_categories"]) for s in sources}
    whole |= {STANDIN: pre["standin_images"]}
    images = {s: passes[s] * min(pre["pretrain_images"] or whole[s], whole[s]) for s in sources}
    images |= dict.fromkeys(adopted(pre, passes), 0)
    scale = (pre["pretrain_size"] / table["image_size"]) ** 2  # a convolution's work goes with the area
    seconds = (sum(images.values()) + pre["short_images"]) * scale / speed.train
    bank = 25 * pre["pretrain_categories"] * max(256, pre["pretrain_render"] or pre["pretrain_size"]) ** 2 / 8
    disk = bank + len(sources) * weights
    trained = [s for s in sources if images[s]]
    rows.append(row(NOTEBOOKS[1], sum(map(passes.get, trained)), seconds, min(devices, len(trained) or 1), 0, disk))

    runs = table["seeds"] * (1 + len(table["sources"]) * (2 ** table["nodes"] - 1))
    seconds = graph_seconds(runs * table["epochs"], table["nodes"], runs)
    workers = min(devices, runs)
    disk = runs * RECORD + workers * 2 * table["nodes"] * weights + pixels  # checkpoints hold momentum, too
    rows.append(row(NOTEBOOKS[2], runs * table["epochs"], seconds, workers, workers, disk))

    studies, epochs = len(search["conditions"]), search_epochs(search)
    graphs = search["top_k"] + 2 + (search["top_k"] if search["random_graphs"] is None else search["random_graphs"])
    again = graphs * search["fresh_seeds"]
    heard = search["nodes"] * expected_share_run(search["nodes"])
    seconds = graph_seconds(epochs, heard, epochs / search["search_epochs"])
    seconds += graph_seconds(again * search["search_epochs"], heard, again)
    workers = min(devices, search["trials"])
    disk = studies * (search["trials"] * RECORD / 4 + again * RECORD) + workers * 2 * search["nodes"] * weights
    total = studies * (epochs + again * search["search_epochs"])
    rows.append(row(NOTEBOOKS[3], total, studies * seconds, workers, 2 * studies * workers, disk))

    every = {key: sum(r[key] for r in rows) for key in ("epochs", "device_hours", "wall_hours", "disk")}
    rows.append({"notebook": "all", **every, "memory": max(r["memory"] for r in rows)})
    return rows, speed
