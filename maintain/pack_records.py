"""Records of finished runs for the repository: all of a folder's in one file, a line for each.

Losses and seconds of an epoch keep four digits, all other numbers eight. Seeds whose runs are not
all there are left out, so that every row of Table 1 has the same n.

    python maintain/pack_records.py data/runs/quick/runs data/reference_runs/quick/table1.json
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path


def rounded(value: object, digits: int = 8) -> object:
    """`value` with so many significant digits wherever it is a fraction."""
    if isinstance(value, dict):
        few = ("train_loss", "edge_loss", "seconds")
        return {name: rounded(of, 4 if name in few else digits) for name, of in value.items()}
    if isinstance(value, list):
        return [rounded(entry, digits) for entry in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def complete_seeds(records: list[dict]) -> list[dict]:
    """The records of seeds that have every label, ordered as the paper's table: ImageNet-1k first."""
    labels = defaultdict(set)
    for record in records:
        labels[record["seed"]].add(record["label"])
    every = set().union(*labels.values())
    kept = [record for record in records if labels[record["seed"]] == every]
    return sorted(kept, key=lambda r: (r["seed"], "fractaldb" in r["label"], r["label"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder of records, *.json")
    parser.add_argument("file", type=Path)
    parser.add_argument("--all", action="store_true", help="seeds that are not complete, too")
    given = parser.parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in given.runs.glob("*.json")]
    records = found if given.all else complete_seeds(found)
    for record in records:
        record.pop("sha256", None)  # of the record as it was written
    lines = [json.dumps(rounded(record), separators=(",", ":")) for record in records]
    given.file.parent.mkdir(parents=True, exist_ok=True)
    given.file.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    size = given.file.stat().st_size / 1000
    print(f"{len(records)} of {len(found)} records in {given.file}, {size:.0f} kB")


if __name__ == "__main__":
    main()
