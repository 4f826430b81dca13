"""The notebooks under papermill: small ones that are made here."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ktglite import reproduce as work
from ktglite.profiles import NOTEBOOKS

NOTEBOOK_FOLDER = Path(__file__).parents[1] / "notebooks"
PARAMETERS = 'profile = "quick"\nout = None\noverrides = {}'


def write(folder, stem, *cells):
    first = new_code_cell(PARAMETERS)
    first.metadata["tags"] = ["parameters"]
    prose = new_markdown_cell(
        "# Title\n\nthe loss $L_t = \\sum_s G_{t,s}$ and\n\n$$\\frac{k}{K}$$\n\nand `$HOME`\n\n"
        "## Chapter one\n\n[next](01_pretraining.ipynb), [docs](../docs/search.md#what), "
        "[away](https://example.org/a.ipynb)"
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [prose, first, *map(new_code_cell, cells)]
    nbformat.write(notebook, folder / f"{stem}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/search.md").write_text("search")
    for stem in NOTEBOOKS:
        write(folder, stem, "print(sorted(overrides.items()), out)")
    return folder


def text_of(path):
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


def test_a_failing_cell_names_itself_and_leaves_no_result(tmp_path, notebooks):
    write(notebooks, NOTEBOOKS[1], "1 / 0")
    with pytest.raises(work.NotebookError) as caught:
        work.reproduce("smoke", ["00", "01", "02"], tmp_path / "out", {}, notebooks)
    for words in ("01_pretraining, cell", "1 / 0", "ZeroDivisionError", "same command"):
        assert words in str(caught.value)
    names = {path.name for path in (tmp_path / "out/notebooks").glob("*.ipynb")}
    assert names == {f"{NOTEBOOKS[0]}.ipynb", f"{NOTEBOOKS[1]}.partial.ipynb"}
    write(notebooks, NOTEBOOKS[1], "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(work.NotebookError, match="01_pretraining: .*memory(.|\n)*same command"):
        work.reproduce("smoke", ["01"], tmp_path / "out", {}, notebooks)


def test_the_kernel_is_this_python_whatever_is_called_python3(tmp_path, notebooks, monkeypatch):
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "P", "language": "python"}
    folder = tmp_path / "jupyter/kernels/python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write(notebooks, NOTEBOOKS[0], "import sys\nprint(sys.executable, sys.flags.utf8_mode)")
    done = work.reproduce("smoke", ["00"], tmp_path / "out", {}, notebooks)
    assert text_of(done[NOTEBOOKS[0]]) == f"{sys.executable} 1\n"


def test_paths_are_those_of_the_folder_where_the_command_is_given(tmp_path, notebooks, monkeypatch):
    """In a folder of the checkout, too, out of which a notebook that is opened by hand goes up."""
    up = "import os\nif 'KTGLITE_STAY' not in os.environ:\n    os.chdir('..')"
    write(notebooks, NOTEBOOKS[0], up, "print(*map(os.path.abspath, (out, profile)))")
    monkeypatch.chdir(tmp_path / "docs")
    Path("own.yaml").write_text("shared: {epochs: 1}")
    done = work.reproduce("own.yaml", ["00"], "out", {}, notebooks)
    here = tmp_path / "docs"
    assert text_of(done[NOTEBOOKS[0]]) == f"{here / 'out'} {here / 'own.yaml'}\n"
    head = nbformat.read(NOTEBOOK_FOLDER / f"{NOTEBOOKS[0]}.ipynb", as_version=4).cells[3].source
    assert "KTGLITE_STAY" in head


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_one_line_and_leaves_no_kernel(tmp_path, notebooks, number, code):
    begun = tmp_path / "begun"
    cell = f"import os, time, pathlib; pathlib.Path(r'{begun}').write_text(str(os.getpid()))"
    write(notebooks, NOTEBOOKS[0], cell, "time.sleep(60)", "never")
    environment = os.environ | {"PYTHONPATH": str(Path(work.__file__).parents[1])}
    command = [sys.executable, "-m", "ktglite", "reproduce", "--profile", "smoke", "--only", "00"]
    command += ["--out", str(tmp_path / "out"), "--notebooks", str(notebooks)]
    log = tmp_path / "log"
    with open(log, "w") as file:
        options = {"env": environment, "stdout": file, "stderr": file}
        as_in_a_terminal = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, **options, preexec_fn=as_in_a_terminal)
    deadline = time.monotonic() + 180
    while not begun.exists() or not begun.read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(60) == code
    text = log.read_text()
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("ktglite: stopped; in 00_knowledge_transfer_graph")
    assert last.endswith("the same command resumes")
    time.sleep(1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_pages_stand_alone_and_their_links_work(tmp_path, notebooks):
    write(notebooks, NOTEBOOKS[0], "x = 1\n### BEGIN SOLUTION\nprint(x)\n### END SOLUTION")
    done = work.reproduce("smoke", ["00"], tmp_path / "out/deep", {}, notebooks)
    page = done[NOTEBOOKS[0]].with_suffix(".html").read_text(encoding="utf-8")
    assert "<title>Title</title>" in page
    assert '<html lang="en">' in page
    assert page.count("<math") == 2
    for words in ("mfrac", "$HOME", "STIX Two Math", 'href="01_pretraining.html"'):
        assert words in page
    for words in ('href="../../../docs/search.md#what"', 'href="https://example.org/a.ipynb"'):
        assert words in page
    for words in ('href="#Chapter-one">Chapter one', 'id="Chapter-one"'):
        assert words in page
    assert page.index("<summary>Solution") < page.index("BEGIN SOLUTION")
    assert 'src="http' not in page


def test_wrong_settings_are_named_before_anything_runs(tmp_path, notebooks):
    for wrong, words in (
        ({"epoks": 3}, "did you mean epochs"),
        ({"03.trials": 0}, "trials is 0"),
        ({"pretrain_render": 16}, "pretrain_render is 16"),
    ):
        with pytest.raises(ValueError, match=words):
            work.reproduce("smoke", None, tmp_path / "out", wrong, notebooks)
    with pytest.raises(ValueError, match="--only '9'"):
        work.reproduce("smoke", ["9"], tmp_path / "out", {}, notebooks)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="run this in a checkout"):
        work.reproduce("smoke", None, tmp_path / "out", {}, tmp_path)
    lock = tmp_path / "out/notebooks/.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(ValueError, match="another ktglite reproduce is at work"):
        work.reproduce("smoke", ["00"], tmp_path / "out", {}, notebooks)
