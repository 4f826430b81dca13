"""Imports run one way: the linter's contracts hold, and would notice one that does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def lint(top):
    program = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(top)}
    found = subprocess.run(
        [program, "--no-cache"], cwd=top, env=environment, capture_output=True, text=True
    )
    return found.returncode, found.stdout


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        (None, None, "0 broken"),
        ("graph.py", "import ktglite.store", "ktglite.graph -> ktglite.store"),
        ("losses.py", "import pandas", "ktglite.losses -> pandas"),
        (
            "experiments/runs.py",
            "from ktglite.experiments import search",
            "ktglite.experiments.runs -> ",
        ),
        ("cli.py", "from ktglite.tools import plan", "ktglite.cli -> ktglite.tools"),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path, module, line, words):
    shutil.copytree(
        TOP / "ktglite", tmp_path / "ktglite", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    if module:
        path = tmp_path / "ktglite" / module
        path.write_text(path.read_text() + f"\n{line}\n")
    code, text = lint(tmp_path)
    assert code == (0 if module is None else 1)
    assert words in " ".join(text.split())
