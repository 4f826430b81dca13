"""The notebooks: what every cell must be, and all of them on the smoke profile from a shell."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ktglite import reproduce as work

FOLDER = Path(__file__).parents[1] / "notebooks"


def cells(stem, kind="code"):
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_a_cell_is_short_and_defines_nothing(stem):
    for cell in cells(stem):
        tagged = "parameters" in cell.metadata.get("tags", [])
        assert tagged or cell.source.count("\n") < 15, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef), cell.source


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_parameters_are_literals_in_one_cell(stem):
    tagged = [cell for cell in cells(stem) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_it_opens_with_a_question_and_ends_with_exercises(stem):
    prose = [cell.source for cell in cells(stem, "markdown")]
    assert "**Question.**" in prose[0]
    assert 2 <= prose[-1].count("<details>") <= 4
    assert prose[-1].count("<details>") == prose[-1].count("</details>")


@pytest.mark.parametrize("stem", work.NOTEBOOKS)
def test_code_follows_prose(stem):
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert all("code" in kinds[i : i + 3] or i > len(kinds) - 3 for i in range(len(kinds)))
    assert kinds.count("markdown") > 0.4 * kinds.count("code")


@pytest.mark.parametrize("profile", work.PROFILES)
def test_every_profile_fits_the_notebooks(profile):
    values = work.parameters(profile, "there", {}, FOLDER)
    assert set(values) == set(work.NOTEBOOKS)
    # a run keeps to its folder: two runs side by side must not exchange weights
    assert {part["weights"] for part in values.values() if "weights" in part} == {"there/weights"}


def test_the_paper_profile_is_the_paper():
    values = work.parameters("paper", "there", {}, FOLDER)
    table1, search = values["02_table1_ablation"], values["03_asha_graph_search"]
    wanted = {"arch": "resnet18", "image_size": 224, "epochs": 200, "lr": 0.01, "batch_size": 64, "seeds": 3}
    assert {name: table1[name] for name in wanted} == wanted
    assert table1["limit"] == 12_554
    assert (search["trials"], search["nodes"], search["search_epochs"], search["select_on"]) == (1500, 3, 200, "val")
    assert search["conditions"] == ["none", "imagenet1k", "fractaldb1k", "mixed"]
    assert table1["sources"] == ["imagenet1k", "fractaldb1k"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every notebook on smoke through the command, as a user types it."""
    out = tmp_path_factory.mktemp("smoke")
    command = [sys.executable, "-m", "ktglite.cli", "reproduce", "--profile", "smoke", "--out", str(out)]
    command += ["--set", f"cache={out}/cache"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-6000:]
    return out, command, first.stdout


def test_all_notebooks_run_on_smoke(smoke):
    out, _, text = smoke
    for stem in work.NOTEBOOKS:
        notebook = nbformat.read(out / f"notebooks/{stem}.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"]
        assert any("image/png" in output.get("data", {}) for output in outputs), f"{stem} shows no picture"
        assert (out / f"notebooks/{stem}.html").stat().st_size > 10_000
    assert "Table 1" in text
    assert "stand-in" in text


def test_smoke_leaves_whole_records(smoke):
    out, *_ = smoke
    records = json.loads((out / "table1.json").read_text())
    assert len({record["label"] for record in records}) == 15
    assert len(records) == 15 * 2
    assert all(record["status"] == "complete" for record in records)
    assert {path.stem for path in (out / "search").glob("*.json")} == {"none", "imagenet1k", "fractaldb1k", "mixed"}
    assert list((out / "figures").glob("*.pdf"))
    assert {path.suffix for path in (out / "tables").iterdir()} >= {".csv", ".tex"}
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".ckpt")]


def test_a_second_call_finds_everything_done(smoke):
    _, command, _ = smoke
    again = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent)
    assert again.returncode == 0
    assert again.stdout.count("done and unchanged") == len(work.NOTEBOOKS)
