"""The notebooks under papermill: small ones made here, done once and again when something changed."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from ktglite import reproduce as work
from ktglite.settings import NOTEBOOKS

STEMS = list(NOTEBOOKS)
PARAMETERS = 'profile = "quick"\nout = "data/runs/quick"\noverrides = {}'


def write(folder, stem, *cells):
    first = new_code_cell(PARAMETERS)
    first.metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    prose = new_markdown_cell(
        "the loss $L_t = \\sum_s G_{t,s}$ and\n\n$$\\frac{k}{K}$$\n\nand `$HOME`, no formula: $a_$"
    )
    notebook = new_notebook(
        cells=[prose, first, *map(new_code_cell, cells)], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, folder / f"{stem}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stem in STEMS:
        write(folder, stem, "print(sorted(overrides.items()), out)")
    return folder


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "cars" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((9, 9, 3), 9 * i, np.uint8)).save(
                tmp_path / f"cars/{name}/{i}.png"
            )
    return tmp_path / "cars"


def text_of(path):
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


def test_executed_once_and_again_only_when_changed(tmp_path, notebooks, capsys):
    def go(**overrides):
        done = work.reproduce("smoke", ["00", "02"], tmp_path / "out", overrides, notebooks)
        return done, capsys.readouterr().out

    done, text = go()
    assert "unchanged" not in text
    assert text_of(done[STEMS[2]]) == f"[] {tmp_path / 'out'}\n"
    assert go()[1].count("done and unchanged") == 2
    # notebook 02 builds on 01, so that a change there is one for it; 00 comes before and stays
    assert go(**{"01.short_images": 200})[1].count("done and unchanged") == 1
    assert go(**{"01.short_images": 200})[1].count("done and unchanged") == 2
    done, text = go(epochs=3)
    assert text_of(done[STEMS[2]]).startswith("[('epochs', 3)]")


def test_other_images_or_weights_under_the_same_path_are_a_change(
    tmp_path, notebooks, images, capsys
):
    def unchanged():
        work.reproduce("smoke", ["02"], tmp_path / "out", {"dataset": str(images)}, notebooks)
        return capsys.readouterr().out.count("done and unchanged")

    assert [unchanged(), unchanged()] == [0, 1]
    (images / "a/2.png").unlink()
    assert [unchanged(), unchanged()] == [0, 1]
    Image.fromarray(np.full((9, 9, 3), 250, np.uint8)).save(images / "b/0.png")
    assert [unchanged(), unchanged()] == [0, 1]
    weights = tmp_path / "out/weights"
    weights.mkdir()
    for content in (b"1", b"2"):
        (weights / "fractaldb1k-resnet18_w8.safetensors").write_bytes(content)
        assert [unchanged(), unchanged()] == [0, 1]


def test_images_behind_a_link_count_and_so_do_weights_given_by_their_path(tmp_path, images):
    elsewhere, weights = tmp_path / "elsewhere", tmp_path / "mine.safetensors"
    (images / "b").rename(elsewhere)
    (images / "b").symlink_to(elsewhere)
    weights.write_bytes(b"1")
    settings = work.load_settings(
        "02", "smoke", tmp_path, dataset=str(images), sources=[str(weights)]
    )
    seen = [work._inputs(STEMS[2], settings)]
    (elsewhere / "0.png").unlink()
    seen.append(work._inputs(STEMS[2], settings))
    weights.write_bytes(b"2")
    seen.append(work._inputs(STEMS[2], settings))
    assert seen[0] != seen[1] != seen[2]


def test_code_counts_by_what_it_does(tmp_path, notebooks, monkeypatch):
    """In a copy of the package: other words change nothing, another number does, wherever it stands."""
    package, find = tmp_path / "ktglite", importlib.util.find_spec
    shutil.copytree(
        Path(work.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    settings = work.load_settings("02", "smoke", tmp_path)

    def find_copy(name):
        if not name.startswith("ktglite"):
            return find(name)
        return SimpleNamespace(
            origin=package / Path(find(name).origin).relative_to(Path(work.__file__).parent)
        )

    def fingerprint():
        work.code_hash.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", find_copy)
            return work._fingerprint(notebooks / f"{STEMS[2]}.ipynb", settings, "")

    def change(name, old, new):
        text = (package / name).read_text()
        assert old in text
        (package / name).write_text(text.replace(old, new, 1))
        return fingerprint()

    first = fingerprint()
    assert change("gates.py", '"""', '"""Other words. ') == first
    assert change("trainer.py", "import copy\n", "import copy  # a comment\n\n") == first
    assert change("gates.py", "return", "return 1 *") != first
    second = fingerprint()
    assert change("experiments/runs.py", "SCHEMA = ", "SCHEMA = 1 + ") != second
    work.code_hash.cache_clear()


def test_a_failing_cell_names_itself_and_leaves_no_result(tmp_path, notebooks):
    write(notebooks, STEMS[1], "1 / 0")
    with pytest.raises(work.NotebookError) as caught:
        work.reproduce("smoke", None, tmp_path / "out", {}, notebooks)
    for words in ("01_pretraining, cell", "1 / 0", "ZeroDivisionError", "same command"):
        assert words in str(caught.value)
    names = {path.name for path in (tmp_path / "out/notebooks").iterdir()}
    assert "00_knowledge_transfer_graph.ipynb" in names
    assert "01_pretraining.ipynb" not in names
    assert "02_table1_ablation.ipynb" not in names


def test_pages_need_no_network_for_their_formulas(tmp_path, notebooks):
    done = work.reproduce("smoke", ["00"], tmp_path / "out", {}, notebooks)
    page = done[STEMS[0]].with_suffix(".html").read_text()
    assert page.count("<math") == 2
    assert "mfrac" in page
    assert "$HOME" in page
    assert "$a_$" in page
    assert not re.search(r"//[^\s\"']*mathjax", page, re.I)
    assert 'src="http' not in page


def test_wrong_settings_are_named_before_anything_runs(tmp_path, notebooks):
    with pytest.raises(ValueError, match="did you mean epochs"):
        work.reproduce("smoke", None, tmp_path / "out", {"epoks": 3}, notebooks)
    with pytest.raises(ValueError, match="--only '9'"):
        work.reproduce("smoke", ["9"], tmp_path / "out", {}, notebooks)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(notebooks)
    with pytest.raises(FileNotFoundError, match="run this in a checkout"):
        work.find_notebooks(notebooks)


def test_progress_reads_the_newest_whole_line(tmp_path):
    log = tmp_path / "progress.jsonl"
    assert work._last_line(log, 0) is None
    lines = [
        {"time": 1.0, "what": "Table 1", "done": i, "total": 45, "seconds_left": 200.0}
        for i in (1, 2)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert work._progress_text(work._last_line(log, 0)) == "Table 1: 2 of 45, 3:20 left"
    assert work._last_line(log, log.stat().st_size) is None
    log.write_text(log.read_text() + '{"time"')
    assert work._last_line(log, 0) is None
