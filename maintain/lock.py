"""Write constraints.txt and constraints-extra.txt: versions and hashes of all that `make` installs.

    pip install uv && python maintain/lock.py [--upgrade | --upgrade-package NAME]

The first file is what `make setup` takes (the package and its extra `dev`), the second what
`make teach` and `make test-browser` add. Both hold for Python >= 3.11 on every platform, and name
no address. Versions stay as they are unless an upgrade is asked for.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parents[1]
BASE, EXTRA = TOP / "constraints.txt", TOP / "constraints-extra.txt"
LOCK = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11"]
LOCK += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet"]


def packages(path: Path) -> list[str]:
    """The text of each pinned package: its version, the machines it is for, its hashes."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


def compile_extras(extras: list[str], out: Path) -> None:
    """Pin the package with these extras into `out`, whose present versions are kept."""
    chosen = [word for extra in extras for word in ("--extra", extra)]
    subprocess.run([*LOCK, *chosen, *sys.argv[1:], "--output-file", out], cwd=TOP, check=True)


def main() -> None:
    compile_extras(["dev"], BASE)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.txt"
        out.write_text("\n".join(packages(BASE) + packages(EXTRA)), encoding="utf-8")
        compile_extras(["dev", "teach", "browser"], out)
        new = [package for package in packages(out) if package not in packages(BASE)]
    EXTRA.write_text("\n".join(new) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
