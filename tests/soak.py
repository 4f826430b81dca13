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
from dataclasses import dataclass, field
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
    "disk full, read-only, NaN, two processes, damaged files": "test_crash.py",
    "image files": "test_images.py",
    "fuzzed readers": "test_fuzz.py",
    "properties": "test_properties.py",
}


@dataclass
class Row:
    """Of the table: what was tried and survived, what a kill cost, and all that was wrong."""

    name: str
    tried: int = 0
    survived: int = 0
    lost: str = "–"
    wrong: list[str] = field(default_factory=list)


def crashes(name: str, kills: int, seed: int, scratch: Path) -> Row:
    """Commands until `kills` were dealt."""
    rng = random.Random(f"{seed} {name}")
    workload = WORKLOADS[name]
    undisturbed = workloads.uninterrupted(name, scratch / name / "whole")
    row = Row(f"SIGKILL, {name}")
    lost = number = 0
    while row.tried < kills:
        number += 1
        wanted = min(workload.kills, kills - row.tried)
        seen = workloads.crash(name, scratch / name / str(number), undisturbed, wanted, rng)
        most = seen.kills * workload.workers
        if workload.unit == "epochs" and seen.lost > most:
            seen.wrong.append(f"{seen.lost} epochs lost in {seen.kills} kills: at most {most}")
        row.tried += seen.kills
        row.survived += 0 if seen.wrong else seen.kills
        row.wrong += [f"{name} {number}, {line}" for line in seen.wrong]
        lost += seen.lost
        told = f"{name}: {row.tried} of {kills} kills, {len(row.wrong)} wrong"
        print(told, file=sys.stderr, flush=True)
    row.lost = f"{lost / row.tried:.1f} of {undisturbed[2]} {workload.unit}"
    return row


def suite(name: str, profile: str) -> Row:
    """A test file: hypothesis' examples are counted one by one, other tests as one each."""
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-show-statistics"]
    command += [str(TESTS / SUITES[name]), "-k", "not killed"]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": profile}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1]
    print(f"{name}: {last}", file=sys.stderr, flush=True)

    def count(pattern: str, text: str) -> int:
        return sum(int(number) for number in re.findall(pattern, text))

    # "25 passing, 0 failing, and 2 invalid examples" below a line with the test's name
    passing, failing = (count(rf" (\d+) {word},? ", done.stdout) for word in ("passing", "failing"))
    passed, failed = (count(rf"(\d+) {word}", last) for word in ("passed", "failed"))
    with_examples = len(set(re.findall(r"^\S+::\S+:$", done.stdout, re.M)))
    tried = passing + failing + max(passed + failed - with_examples, 0)
    wrong = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.M)
    if done.returncode and not wrong:
        wrong = [f"{SUITES[name]}: {done.stdout[-300:]}"]
    return Row(name, tried, tried - failing - failed, wrong=wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the kills")
    parser.add_argument("--profile", default="soak", help="of hypothesis: fast or soak")
    parser.add_argument("--only", nargs="*", default=[*KILLS, *SUITES], choices=[*KILLS, *SUITES])
    given = parser.parse_args()
    started = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in filter(KILLS.get, given.only):
            kills = max(1, round(KILLS[name] * given.share))
            rows.append(crashes(name, kills, given.seed, Path(scratch)))
    rows += [suite(name, given.profile) for name in filter(SUITES.get, given.only)]
    kills = sum(row.tried for row in rows if row.name.startswith("SIGKILL"))
    wrong = [line for row in rows for line in row.wrong]
    tried = sum(row.tried for row in rows)
    survived = sum(row.survived for row in rows)
    rows.append(Row(f"all, {kills} kills among them", tried, survived, "", wrong))
    print("| fault or bad input | tried | survived | work lost per kill | wrong answers |")
    print("|---|---|---|---|---|")
    for row in rows:
        counts = f"{row.tried:,} | {row.survived:,} | {row.lost} | {len(row.wrong)}"
        print(f"| {row.name} | {counts} |")
    print(f"\nSeed {given.seed}, {(time.monotonic() - started) / 60:.0f} min.")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
