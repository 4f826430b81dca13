"""Write constraints*.txt: versions and hashes of all that `make` installs.

    pip install uv && python maintain/lock.py [--upgrade | --upgrade-package NAME]

constraints.txt is what `make setup` takes (the package and its extra `dev`), constraints-teach.txt
and constraints-browser.txt what `make teach` and `make test-browser` add to it. They hold for
Python >= 3.11 on every platform, and name no address. Versions stay as they are unless an upgrade
is asked for.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parents[1]
BASE = TOP / "constraints.txt"
LOCK = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"]
LOCK += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]


def packages(path: Path) -> list[str]:
    """The text of each pinned package: its version, the machines it is for, its hashes."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.startswith(" "):
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


def pin(extras: list[str], out: Path) -> None:
    """Pin the package with these extras into `out`, whose present versions are kept."""
    chosen = [word for extra in extras for word in ("--extra", extra)]
    subprocess.run([*LOCK, *chosen, *sys.argv[1:], "--output-file", out], cwd=TOP, check=True)


def main() -> None:
    pin(["dev"], BASE)
    for extra in ("teach", "browser"):
        added = TOP / f"constraints-{extra}.txt"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "all.txt"
            out.write_text("\n".join(packages(BASE) + packages(added)), encoding="utf-8")
            pin(["dev", extra], out)
            new = [package for package in packages(out) if package not in packages(BASE)]
        added.write_text("\n".join(new) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
