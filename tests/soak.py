"""`make soak`: break things on purpose for minutes, and print one table of what came of it.

Every kill is a SIGKILL at a seeded random moment, after which the same command is given again; its
results must be those of a command that nothing happened to, bit for bit. Then the tests of faults
and bad files run, and those of properties and readers on many more examples than `make test` gives
them.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import workloads
from workloads import WORKLOADS

TESTS = Path(__file__).parent
KILLS = {  # of each workload, by how long one takes
    "data cache": 25,
    "FractalDB bank": 20,
    "pre-training": 25,
    "search": 14,
    "ablation run": 14,
    "ktglite reproduce": 4,
}
SUITES = {
    "disk full, read-only, NaN, two processes, damaged files": (
        "test_crash.py",
        ["-k", "not killed"],
    ),
    "image files": ("test_images.py", []),
    "fuzzed readers": ("test_fuzz.py", []),
    "properties": ("test_properties.py", []),
}


def crashes(name: str, kills: int, seed: int, scratch: Path) -> tuple:
    """A row of the table: commands until `kills` were dealt, and what was wrong after them."""
    rng, workload = random.Random(f"{seed} {name}"), WORKLOADS[name]
    undisturbed = workloads.uninterrupted(name, scratch / name / "whole")
    number = dealt = survived = lost = 0
    wrong = []
    while dealt < kills:
        number += 1
        wanted = min(workload.kills, kills - dealt)
        seen = workloads.crash(name, scratch / name / str(number), undisturbed, wanted, rng)
        if workload.unit == "epochs" and seen.lost > seen.kills * workload.workers:
            seen.wrong.append(
                f"{seen.lost} epochs lost in {seen.kills} kills of {workload.workers} process(es)"
            )
        dealt, lost = dealt + seen.kills, lost + seen.lost
        survived += 0 if seen.wrong else seen.kills
        wrong += [f"{name} {number}, {line}" for line in seen.wrong]
        print(f"{name}: {dealt} of {kills} kills, {len(wrong)} wrong", file=sys.stderr, flush=True)
    return (
        f"SIGKILL, {name}",
        dealt,
        survived,
        f"{lost / dealt:.1f} of {undisturbed[2]} {workload.unit}",
        wrong,
    )


def suite(name: str, profile: str) -> tuple:
    """A row of the table: a test file, its hypothesis examples counted one by one and its other tests as one each."""
    file, options = SUITES[name]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--hypothesis-show-statistics",
        str(TESTS / file),
        *options,
    ]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": profile}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    text = done.stdout
    examples = [
        int(n) for n in re.findall(r"- (\d+) passing,? ", text)
    ]  # "25 passing, 0 failing, and 2 invalid"
    bad = [int(n) for n in re.findall(r" (\d+) failing,? ", text)]
    plain, failed = (
        sum(map(int, re.findall(rf"(\d+) {word}", text.splitlines()[-1])))
        for word in ("passed", "failed")
    )
    tried = (
        sum(examples)
        + sum(bad)
        + max(plain + failed - len(set(re.findall(r"^\S+::\S+:$", text, re.M))), 0)
    )
    print(text.splitlines()[-1], file=sys.stderr, flush=True)
    wrong = re.findall(r"^(?:FAILED|ERROR) .*", text, re.M) or [f"{file}: {text[-300:]}"] * bool(
        done.returncode
    )
    return name, tried, tried - sum(bad) - failed, "–", wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the kills")
    parser.add_argument("--profile", default="soak", help="of hypothesis: fast or soak")
    parser.add_argument("--only", nargs="*", default=[*KILLS, *SUITES], choices=[*KILLS, *SUITES])
    arguments = parser.parse_args()
    rows, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for name in filter(KILLS.get, arguments.only):
            rows.append(
                crashes(
                    name,
                    max(1, round(KILLS[name] * arguments.share)),
                    arguments.seed,
                    Path(scratch),
                )
            )
    rows += [suite(name, arguments.profile) for name in filter(SUITES.get, arguments.only)]
    print(
        "| fault or bad input | tried | survived | work lost per kill | wrong answers |\n|---|---|---|---|---|"
    )
    for name, tried, survived, lost, wrong in rows:
        print(f"| {name} | {tried:,} | {survived:,} | {lost} | {len(wrong)} |")
    kills = sum(row[1] for row in rows if row[0].startswith("SIGKILL"))
    wrong = [line for row in rows for line in row[4]]
    print(
        f"| all, {kills} kills among them | {sum(row[1] for row in rows):,} | {sum(row[2] for row in rows):,} "
        f"| | {len(wrong)} |"
    )
    print(f"\nSeed {arguments.seed}, {(time.monotonic() - started) / 60:.0f} min.")
    for line in wrong:
        print(line)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
