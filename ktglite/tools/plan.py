"""What a profile will cost on a device: a few measured iterations, and a simulated search, before anything is begun."""

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ktglite.data import Data, Split
from ktglite.devices import numerics, resolve_device
from ktglite.experiments.rungs import replay
from ktglite.experiments.space import expected_share_run
from ktglite.graph import Node, all_through
from ktglite.models import build
from ktglite.settings import NOTEBOOKS, Settings
from ktglite.sources.pretrain import find_ready
from ktglite.trainer import TrainConfig, epochs, predict

__all__ = ["plan"]

CLASSES = 20  # of the images that are measured; the head is a small part of a network
RECORD = 20e3  # bytes of one training's record
ASSUMED_IMAGES = 12_554  # the paper's, where the profile sets no limit
SOURCE_IMAGES = {"imagenet1k": 1_281_167}
LARGEST = 40_000  # pixels of a batch that is measured in full; of more images, fewer are taken


@dataclass(frozen=True)
class Speed:
    """What one process on one device does: images per second of *one* network, trained or only
    evaluated.

    `start`: seconds until a new process can train.  `memory`: bytes that a training of the measured
    graph needs, its data aside.
    """

    train: float
    evaluate: float
    start: float = 0.0
    memory: float = 0.0


def measure(settings: Settings) -> Speed:
    """Train and evaluate random images for two iterations, as notebook 02 would; of large images in
    smaller batches.

    On a CPU the clock is this process's processor time, which other programs do not lengthen.
    """
    device, size = resolve_device("auto"), settings.image_size
    batch = (
        min(settings.batch_size, max(2, LARGEST * 16 // size**2))
        if device.type == "cpu"
        else settings.batch_size
    )
    print(
        f"measuring 2 iterations of {settings.nodes} x {settings.arch}, batches of {batch}, {size} px ..",
        flush=True,
    )
    config = TrainConfig(
        epochs=2, schedule="constant", precision=settings.precision, batch_size=batch
    )

    def images(n: int) -> Split:
        return Split(
            torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8), torch.arange(n) % CLASSES
        )

    data = Data(
        "random", size, tuple(map(str, range(CLASSES))), images(batch), images(2), images(2)
    )
    graph = all_through(*[Node(settings.arch)] * settings.nodes)
    ends = [
        _clock(device) for _ in epochs(graph, data, config, seed=0)
    ]  # an iteration each; the first warms up
    with numerics(device):
        net, start = build(settings.arch, CLASSES).to(device), _clock(device)
        predict(net, data.train, settings.precision)
        forward = _clock(device) - start
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_memory()
    train = settings.nodes * batch / (ends[1] - ends[0])
    return Speed(train, batch / forward, _start_seconds(), peak * settings.batch_size / batch)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _peak_memory() -> float:
    """Bytes this process has needed at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _start_seconds() -> float:
    """Processor seconds that a process needs to import what trains."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import ktglite.experiments.runs"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def simulated_curves(trials: int, epochs: int, seed: int = 0) -> np.ndarray:
    """Learning curves (trials, epochs) to try ASHA on: v(e) = q (1 - exp(-e / t)) + 0.1 z(e).

    Quality q is normal with mean 3 and deviation 1, the pace t log-uniform from 1 to a third of the
    epochs, the noise z(e) of an evaluation standard normal. Slow graphs are stopped though they may
    be good, as in a real search.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(3, 1, (trials, 1))
    pace = np.exp(rng.uniform(0, np.log(max(epochs / 3, 1.01)), (trials, 1)))
    return quality * (1 - np.exp(-np.arange(1, epochs + 1) / pace)) + 0.1 * rng.normal(
        size=(trials, epochs)
    )


def search_epochs(settings: Settings, repeats: int = 5) -> float:
    """Epochs that one condition's search trains; the mean over simulated searches."""
    how = settings.pruner, settings.reduction_factor, settings.min_resource
    curves = [simulated_curves(settings.trials, settings.epochs, seed) for seed in range(repeats)]
    return float(np.mean([replay(curve, *how).sum() for curve in curves]))


def plan(
    chosen: Mapping[str, Settings], devices: int, images_per_second: float | None = None
) -> tuple[list[dict], Speed]:
    """One row per notebook and one for all: what `ktglite reproduce` will take with these settings.

    - `chosen`: settings by notebook number.  `devices`: how many GPUs, or CPU cores.
    - `images_per_second`: of one device training a whole graph of the profile; measured here if
      None.

    A row has `notebook`, `epochs` (over the training set; of a whole graph in 00, 02 and 03, of one
    network in 01), `device_hours`, `wall_hours`, `disk` and `memory` in bytes, the memory per
    process. Trainings are spread over the devices; the searches come one after the other; notebook
    01 uses a device per source. Only training, evaluation and the start of processes count: drawing
    figures and images does not.
    """
    table = chosen["02"]
    given = (images_per_second or 0) * table.nodes
    speed = Speed(given, 3 * given) if images_per_second else measure(table)
    weights = 4 * sum(p.numel() for p in build(table.arch, CLASSES).parameters())
    train, val, test = [round((table.limit or ASSUMED_IMAGES) * share) for share in table.split]
    pixels = 3 * table.image_size**2 * (train + val + test)

    def graph_seconds(epochs: float, nodes: float, trainings: float) -> float:
        batch = min(table.batch_size, train)
        seen = train // batch * batch
        return nodes * (
            epochs * (seen / speed.train + val / speed.evaluate) + trainings * test / speed.evaluate
        )

    def row(
        number: str, epochs: float, seconds: float, workers: int, starts: int, disk: float
    ) -> dict:
        wall = (seconds + starts * speed.start) / workers + speed.start
        total = seconds + starts * speed.start + speed.start
        name = next(stem for stem in NOTEBOOKS if stem.startswith(number))
        hours = {"device_hours": total / 3600, "wall_hours": wall / 3600}
        return {
            "notebook": name,
            "epochs": epochs,
            **hours,
            "disk": disk,
            "memory": speed.memory + pixels,
        }

    first = (
        chosen["00"].epochs
    )  # notebook 00: students alone, all Through and distilled; a graph kept, one live; a teacher
    parts = [
        (5, 1, first),
        (5, 3, first),
        (5, 2, first),
        (1, 3, first),
        (1, 2, first),
        (1, 1, 4 * first),
    ]
    lesson = sum(graph_seconds(runs * epochs, nodes, runs) for runs, nodes, epochs in parts)
    rows = [
        row("00", sum(runs * epochs for runs, _, epochs in parts), lesson, min(devices, 15), 15, 0),
        _pretraining(chosen["01"], table, speed, devices, row),
    ]
    runs = table.seeds * (1 + len(table.sources) * (2**table.nodes - 1))
    alone = table.seeds * (1 + len(table.sources))
    seconds = graph_seconds(runs * table.epochs, table.nodes, runs) + graph_seconds(
        alone * table.epochs, 1, alone
    )
    workers = min(devices, runs)
    disk = (
        runs * RECORD + workers * 2 * table.nodes * weights + pixels
    )  # checkpoints hold momentum, too
    rows.append(row("02", runs * table.epochs, seconds, workers, workers, disk))
    rows.append(_searches(chosen["03"], weights, graph_seconds, devices, row))
    every = {
        key: sum(r[key] for r in rows) for key in ("epochs", "device_hours", "wall_hours", "disk")
    }
    rows.append({"notebook": "all", **every, "memory": max(r["memory"] for r in rows)})
    return rows, speed


def _pretraining(settings: Settings, table: Settings, speed: Speed, devices: int, row) -> dict:
    """Notebook 01: sources whose finished weights are adopted cost nothing."""
    configs = [
        c for c in settings.pretrain_configs() if find_ready(c, settings.ready_weights) is None
    ]
    whole = {c.source: SOURCE_IMAGES.get(c.source, 1000 * c.categories) for c in configs}
    whole |= {c.source: c.standin_images for c in configs if c.source.endswith("_standin")}
    images = sum(
        c.epochs * min(c.images_per_epoch or whole[c.source], whole[c.source]) for c in configs
    )
    scale = (
        settings.pretrain_size / table.image_size
    ) ** 2  # a convolution's work goes with the area
    seconds = (images + settings.short_images) * scale / speed.train
    disk = (
        25
        * settings.pretrain_categories
        * max(256, settings.pretrain_render or settings.pretrain_size) ** 2
        / 8
    )
    return row(
        "01", sum(c.epochs for c in configs), seconds, min(devices, len(configs) or 1), 0, disk
    )


def _searches(settings: Settings, weights: float, graph_seconds, devices: int, row) -> dict:
    """Notebook 03: the searches of all conditions, and the re-evaluation of their best graphs."""
    studies, epochs = len(settings.conditions), search_epochs(settings)
    random_graphs = settings.top_k if settings.random_graphs is None else settings.random_graphs
    again = (settings.top_k + 2 + random_graphs) * settings.fresh_seeds
    run = settings.nodes * expected_share_run(settings.nodes)
    seconds = graph_seconds(epochs, run, epochs / settings.epochs)
    seconds += graph_seconds(again * settings.epochs, run, again)
    workers, kept = (
        min(devices, settings.trials),
        settings.trials if settings.pruner == "promote" else devices,
    )
    disk = (
        studies * (settings.trials * RECORD / 4 + again * RECORD)
        + kept * 2 * settings.nodes * weights
    )
    total = studies * (epochs + again * settings.epochs)
    return row("03", total, studies * seconds, workers, 2 * studies * workers, disk)
