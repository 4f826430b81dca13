"""`make soak`: break things on purpose for minutes, and print one table of what came of it.

Every kill is a SIGKILL at a seeded random moment, after which the same command is given again; its results must be
those of a command that nothing happened to, bit for bit.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import workloads
from workloads import WORKLOADS

# Kills of each workload, by how long one takes.
KILLS = {
    "pre-training": 25,
    "ablation run": 20,
    "search worker": 20,
    "ktglite reproduce": 6,
    "FractalDB bank": 20,
    "data cache": 20,
}


def crashes(name: str, kills: int, seed: int, scratch: Path) -> workloads.Crashes:
    """Commands until `kills` were survived; all that was seen in one."""
    rng, total = random.Random(f"{seed} {name}"), workloads.Crashes()
    undisturbed = workloads.uninterrupted(name, scratch / name / "whole")
    number = 0
    while total.kills < kills:
        number += 1
        wanted = min(WORKLOADS[name].kills, kills - total.kills)
        seen = workloads.crash(name, scratch / name / str(number), undisturbed, wanted, rng)
        total.kills += seen.kills
        total.units, total.lost, total.most = seen.units, total.lost + seen.lost, max(total.most, seen.most)
        total.wrong += [f"{name} {number}, {line}" for line in seen.wrong]
        print(f"{name}: {total.kills} of {kills} kills, {len(total.wrong)} wrong", file=sys.stderr, flush=True)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the kills and examples")
    parser.add_argument("--only", nargs="*", default=list(KILLS), choices=list(KILLS))
    arguments = parser.parse_args()
    rows, wrong, started = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            seen = crashes(name, max(1, round(KILLS[name] * arguments.share)), arguments.seed, Path(scratch))
            unit = WORKLOADS[name].unit
            rows.append((f"SIGKILL, {name}", seen.kills, f"{seen.lost / seen.kills:.2f} of {seen.units} {unit}", 0))
            wrong += seen.wrong
    print(rows, wrong, time.monotonic() - started)


if __name__ == "__main__":
    main()
