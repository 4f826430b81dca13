"""What the crash tests kill: commands on little data, each a function of a folder it goes on in."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import multiprocessing
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

from ktglite import Node, TrainConfig, all_through, cli, models, pool, trainer
from ktglite.experiments import runs, search
from ktglite.experiments.space import SearchConfig
from ktglite.pool import open_pool
from ktglite.sources import datasets, fractaldb, pretrain
from ktglite.sources.datasets import load_data
from ktglite.store import read_record

ARCH = "resnet18_w8"
SHARED = TrainConfig(epochs=2, batch_size=16, augmentation="shift", precision="fp32", device="cpu")
FEW = ["limit=60", "epochs=2", "batch_size=16", "seeds=1", "precision=fp32"]


def pretrain_config(epochs: int, images: int) -> pretrain.PretrainConfig:
    how = {"epochs": epochs, "images_per_epoch": images, "standin_images": images}
    how |= {"augmentation": "shift", "precision": "fp32", "device": "cpu"}
    return pretrain.PretrainConfig("imagenet1k_standin", ARCH, size=16, batch_size=32, **how)


def pretraining(out: Path) -> None:
    pretrain.pretrain(pretrain_config(5, 160), out / "weights", out / "cache")


def ablation_run(out: Path) -> None:
    """`ktglite ablation`: eight graphs of three networks in two processes, then the tables."""
    command("ablation", "--profile", "smoke", "--out", out, *settings(out, *FEW))


def search_run(out: Path) -> None:
    """One worker and no pruning: whom ASHA stops depends on who is first, which a kill changes."""
    config = dataclasses.replace(SHARED, epochs=3)
    plan = SearchConfig(condition="none", arch=ARCH, nodes=2, trials=4, pruner="none")
    cars = load_data("synthcars", 16, limit=60, cache=out / "cache")
    with open_pool(1) as pool:
        study = search.search(plan, cars, config, out, pool=pool)
    search.write_summary(study, out)


def reproduction(out: Path) -> None:
    """`ktglite reproduce` on the smoke profile: Table 1's notebook with its tables and figures."""
    (out / "site").mkdir(exist_ok=True)
    hook = "import workloads as w; w.count_calls(*w.EPOCH); w.save_every_epoch()"
    (out / "site" / "sitecustomize.py").write_text(hook)  # for the kernel and what it starts
    paths = [str(out / "site"), str(Path(__file__).parent), *sys.path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    pairs = settings(out, *FEW, "02.nodes=2")
    command("reproduce", "--profile", "smoke", "--only", "02", "--out", out, *pairs)


def fractal_bank(out: Path) -> None:
    fractaldb.bank(128, fractaldb.categories(24), out / "cache")


def data_cache(out: Path) -> None:
    load_data(str(out / "images"), 64, cache=out / "cache")


def shared_store(out: Path) -> None:
    """Three runs that another process may want too."""
    cars = load_data("synthcars", 16, limit=60, cache=out / "cache")
    pair = all_through(Node(ARCH), Node(ARCH))
    for seed in range(3):
        runs.run(runs.Run(pair, cars, SHARED, seed), out / "runs")


def command(*arguments: object) -> None:
    sys.argv = ["ktglite", *map(str, arguments)]
    cli.main()


def settings(out: Path, *pairs: str) -> list[str]:
    pairs = (*pairs, "sources=[fractaldb1k]", f"cache={out / 'cache'}")
    return [word for pair in pairs for word in ("--set", pair)]


# ---- what a folder holds before, and what of it must be the same in the end


def with_weights(out: Path) -> None:
    (out / "weights").mkdir(parents=True)
    state = models.initialise(ARCH, "scratch", 5, seed=1).state_dict()
    save_file(state, out / "weights" / f"fractaldb1k-{ARCH}.safetensors")


def with_images(out: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("audi", "bmw", "citroën"):
        (out / "images" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 256, (300, 400, 3), np.uint8)
            path = out / "images" / name / f"{i}.jpg"
            Image.fromarray(pixels).save(path)


CONTENTS = (".safetensors", ".npy", ".bin", ".csv", ".tex", ".md")


def name_in(out: Path, path: Path) -> str:
    """Below `out`; the name of a folder's cache holds the times of its files, which differ here."""
    return re.sub("folder-[0-9a-f]{16}", "folder", str(path.relative_to(out)))


def outcome(out: Path) -> dict[str, object]:
    """The final files: hashes of weights, banks, caches and tables; records without times."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = name_in(out, path)
        if path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix in CONTENTS:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_times(value: object) -> object:
    if isinstance(value, dict):
        times = {"seconds", "provenance", "images_per_second", "number"}
        if {"seconds", "trials"} & set(value):
            times.add("sha256")  # of a record, over its times too
        return {key: without_times(entry) for key, entry in value.items() if key not in times}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def torn(out: Path, whole: dict[str, object]) -> list[str]:
    """Files under a final name that are unreadable, cut short, or unlike those of `whole`."""
    bad = []
    for path in sorted(out.rglob("*")):
        name = name_in(out, path)
        if any(part.endswith(".partial") for part in path.relative_to(out).parts) or path.is_dir():
            continue
        try:
            if path.suffix == ".json" and path.parent.name == "runs":
                good = without_times(read_record(path, runs.SCHEMA)) == whole[name]
            elif path.suffix == ".json":
                found = without_times(json.loads(path.read_text()))
                good = name not in whole or found == whole[name]
            elif path.suffix == ".ckpt":
                text = path.read_bytes()
                good = hashlib.sha256(text[32:]).digest() == text[:32]
            elif name in whole:
                good = hashlib.sha256(path.read_bytes()).hexdigest() == whole[name]
            else:
                good = path.suffix not in (*CONTENTS, ".unused")
        except (OSError, ValueError, KeyError) as error:
            bad.append(f"{name}: {error}")
        else:
            bad += [] if good else [name]
    return bad


def leftovers(out: Path) -> list[str]:
    """What only an unfinished command may leave."""
    return [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if path.name.endswith((".partial", ".ckpt", ".unused", ".partial.ipynb"))
    ]


@dataclass(frozen=True)
class Workload:
    run: Callable[[Path], None]
    prepare: Callable[[Path], None] | None
    count: tuple[object, str]  # a module's function that is called once per unit of work
    unit: str
    kills: int  # that one command is given in a row
    workers: int = 1


EPOCH = (trainer, "learning_rate")
WORKLOADS = {
    "pre-training": Workload(pretraining, None, EPOCH, "epochs", 5),
    "ablation run": Workload(ablation_run, with_weights, EPOCH, "epochs", 5, workers=2),
    "search": Workload(search_run, None, EPOCH, "epochs", 5),
    "ktglite reproduce": Workload(reproduction, with_weights, EPOCH, "epochs", 3, workers=2),
    "FractalDB bank": Workload(fractal_bank, None, (fractaldb, "_reach_all"), "categories", 5),
    "shared store": Workload(shared_store, None, EPOCH, "epochs", 0),
    "data cache": Workload(data_cache, with_images, (datasets, "read_image"), "images", 5),
}


# ---- one process that runs a workload, forked from a warm server: a kill costs no import

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["workloads"])


def warm_up() -> None:
    """Start the server, so that the first workload is not timed with its imports."""
    process = SERVER.Process(target=os.getpid)
    process.start()
    process.join()


def start(name: str, out: Path):
    """The workload in a process of its own."""
    process = SERVER.Process(target=child, args=(name, str(out)))
    process.start()
    return process


def child(name: str, out: str) -> None:
    log = open(f"{out}/output.txt", "a")  # noqa: SIM115 (open until the end, whichever it is)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    tqdm.monitor_interval = 0  # no thread that a fork could catch with a lock in its hands
    torch.set_num_threads(1)
    save_every_epoch()
    logging.basicConfig()
    pool._context = lambda: FORK  # the workers of `run_all` are as warm as this process
    pool._begin_worker = begin_worker
    os.environ["KTGLITE_COUNT"] = f"{out}/count.txt"
    count_calls(*WORKLOADS[name].count)
    WORKLOADS[name].run(Path(out))
    for thread in threading.enumerate():  # of a pool that closes: a forked process would not wait
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def save_every_epoch() -> None:
    """Epochs of a workload are so short that saving one takes more than its share of the time."""
    runs.CHECKPOINT_TIME_SHARE = math.inf


FORK = multiprocessing.get_context("fork")


def begin_worker(place: int) -> None:
    """As the pool's own, but by the parent's number.

    Two workers forked at once hold the ends of each other's pipes, so that neither would hear of
    their parent's end. Those from a server, which the pool has, do not.
    """
    parent = multiprocessing.parent_process().pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def count_calls(module: object, function: str) -> None:
    """Let every call of a function write one byte, which a kill does not take back."""
    original, log = getattr(module, function), os.environ["KTGLITE_COUNT"]

    def counted(*arguments, **named):
        with open(log, "ab", buffering=0) as file:
            file.write(b".")
        return original(*arguments, **named)

    setattr(module, function, counted)


def counted(out: Path) -> int:
    """Units of work begun in this folder, in all processes."""
    log = out / "count.txt"
    return log.stat().st_size if log.exists() else 0


@dataclass
class Crashes:
    """What `crash` saw: kills of a workload, units of work done twice, and all that was wrong."""

    kills: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)


def uninterrupted(name: str, out: Path) -> tuple[dict[str, object], float, int]:
    """What the workload leaves undisturbed, the seconds and the units of work that it takes."""
    folder(name, out)
    warm_up()
    started = time.monotonic()
    process = start(name, out)
    process.join()
    if process.exitcode:
        said = (out / "output.txt").read_text()
        raise RuntimeError(f"{name} does not even run undisturbed:\n{said}")
    return outcome(out), time.monotonic() - started, counted(out)


def folder(name: str, out: Path) -> None:
    out.mkdir(parents=True)
    if WORKLOADS[name].prepare:
        WORKLOADS[name].prepare(out)


def crash(name: str, out: Path, undisturbed: tuple, kills: int, rng: random.Random) -> Crashes:
    """A command killed at random moments up to `kills` times, given again, and left to end."""
    whole, seconds, units = undisturbed
    folder(name, out)
    seen = Crashes()
    everyone = []
    while True:
        process = start(name, out)
        last = seen.kills >= kills
        process.join(None if last else rng.uniform(0, seconds))
        victims = family(process.pid) if process.is_alive() else []
        if victims:
            everyone += victims
            victim = rng.choice(victims) if rng.random() < 1 / 3 else victims[0]  # the command
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                seen.kills += 1
            process.join()
            seen.wrong += [f"torn: {file}" for file in torn(out, whole)]
            continue
        process.join()  # it may have ended a moment ago
        if process.exitcode == 0 or last:
            break
    if process.exitcode:
        seen.wrong.append(f"does not go on:\n{(out / 'output.txt').read_text()[-3000:]}")
    final = outcome(out)
    files = sorted({*final, *whole})
    seen.wrong += [f"differs: {file}" for file in files if final.get(file) != whole.get(file)]
    seen.wrong += [f"left over: {file}" for file in leftovers(out)]
    _, alive = psutil.wait_procs(everyone, timeout=60)
    seen.wrong += [f"outlives its parent: {process}" for process in alive]
    seen.lost = max(counted(out) - units, 0)
    return seen


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []
