"""Imports run one way, names are found when they are asked for, and usage needs no torch."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ktglite

TOP = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(TOP)}


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("graph.py", "", "0 broken"),
        ("graph.py", "import ktglite.store", "ktglite.graph -> ktglite.store"),
        ("losses.py", "import pandas", "ktglite.losses -> pandas"),
        ("experiments/runs.py", "import ktglite.experiments.search", "ktglite.experiments.runs ->"),
    ],
)
def test_a_wrong_import_is_noticed(tmp_path, module, line, words):
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "ktglite", tmp_path / "ktglite", ignore=hidden)
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    with open(tmp_path / "ktglite" / module, "a") as file:
        file.write(f"\n{line}\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    here = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert done.returncode == bool(line)
    assert words in " ".join(done.stdout.split())


def test_every_public_name_is_there_and_completed_by_tab():
    assert set(ktglite.__all__) <= set(dir(ktglite))
    assert len(ktglite.__all__) > 50
    for name in ktglite.__all__:
        if name != "bench" or importlib.util.find_spec("ktglite.experiments.bench"):
            assert getattr(ktglite, name) is not None
    assert ktglite.run is ktglite.runs.run
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        ktglite.runn  # noqa: B018


def test_whoever_asks_the_package_for_a_name_knows_all_sources():
    code = "from ktglite import Node; print(Node('resnet18', 'fractaldb1k').init)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True)
    assert done.stdout == b"fractaldb1k\n", done.stderr.decode()


def test_help_and_errors_of_usage_need_no_torch():
    code = """
import sys
from ktglite.cli import main

for line in sys.argv[1:]:
    try:
        main(line.split())
        code = 0
    except SystemExit as stop:
        code = stop.code
    print("==", line, code, "torch" in sys.modules, "pandas" in sys.modules, flush=True)
"""
    expected = {
        "--help": 0,
        "--version": 0,
        "train --help": 0,
        "trian": 2,
        "ablation --sedds 3": 2,
        "search": 2,
        "ablation --profile quik": "ktglite: profile is 'quik': allowed are",
        "reproduce --only 07": "ktglite: --only '07': allowed are",
    }
    command = [sys.executable, "-c", code, *expected]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    ends = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert len(ends) == len(expected), done.stderr
    for end, (line, wanted) in zip(ends, expected.items(), strict=True):
        assert end.startswith(f"== {line} {wanted}")
        assert end.endswith(" False False")
    assert "Available subcommands: reproduce, pretrain" in done.stderr
    assert "--seeds" in done.stdout + done.stderr


def test_ctrl_c_while_commands_are_imported_is_a_line(monkeypatch, capsys):
    from ktglite.__main__ import run

    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "ktglite.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "ktglite.cli", raising=False)
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\nktglite: stopped; the same command resumes\n"
