"""The notebooks under papermill: small ones made here, done once and again when a fact changed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import zmq
import zmq.asyncio
from filelock import FileLock
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.session import Session
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ktglite import reproduce as work
from ktglite.profiles import NOTEBOOKS

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
    notebook = new_notebook(
        cells=[prose, first, *map(new_code_cell, cells)], metadata={"kernelspec": kernel}
    )
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


@pytest.fixture
def without_kernel(monkeypatch):
    """Notebooks count as executed at once."""

    def execute(notebook, partial, given):
        finished = nbformat.read(notebook, as_version=4)
        finished.metadata["ktglite"] = {"seconds": 0}
        return finished

    monkeypatch.setattr(work, "_execute", execute)


def text_of(path):
    return nbformat.read(path, as_version=4).cells[-1].outputs[0].text


def test_executed_once_and_again_only_when_a_fact_changed(tmp_path, notebooks, capsys, monkeypatch):
    out = tmp_path / "out"
    package = tmp_path / "package/__pycache__"
    package.mkdir(parents=True)
    monkeypatch.setattr(work, "PACKAGE", package.parent)
    monkeypatch.setattr(work, "DATA", tmp_path / "data")
    recorded = tmp_path / "data/reference_runs/quick/table1.json"
    weights = tmp_path / "own weights/w.safetensors"
    for path in (recorded, weights):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    images = tmp_path / "cars/audi"
    images.mkdir(parents=True)
    (images / "1.png").write_bytes(b"1")
    (tmp_path / "cars/again").symlink_to(tmp_path / "cars")  # a circle
    record = out / "runs/a.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")

    def executed(**overrides):
        given = {"dataset": str(tmp_path / "cars"), "sources": f"[fractaldb1k, {weights}]"}
        given |= overrides
        work.reproduce("smoke", ["00"], out, given, notebooks)
        return "done and unchanged" not in capsys.readouterr().out

    assert executed()
    assert not executed()
    assert executed(**{"00.epochs": 3})
    assert not executed(**{"00.epochs": 3, "03.trials": 3})  # that is another notebook's
    assert executed()
    (record.parent / "b.json").write_text("{}")  # a later run's
    assert not executed()
    record.unlink()  # as doctor says, to retry a run
    assert executed()
    (out / "table1.json").write_text("{}")  # notebook 02 writes it anew whenever it is executed
    assert not executed()
    (package / "draw.nbi").write_text("Numba's, compiled by a later notebook")
    assert not executed()
    for path in (images / "1.png", package.parent / "code.py", recorded, weights):
        path.write_text("2 now")
        assert executed(), path
    write(notebooks, NOTEBOOKS[0], "print(1)")
    assert executed()
    assert not executed()


def test_what_is_unchanged_is_told_without_torch(tmp_path, notebooks, without_kernel):
    work.reproduce("smoke", None, tmp_path / "out", {}, notebooks)
    code = (
        "import sys, ktglite.reproduce as w;"
        f"w.reproduce('smoke', None, r'{tmp_path / 'out'}', {{}}, r'{notebooks}');"
        "sys.exit('torch' in sys.modules or 'papermill' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(work.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().count("done and unchanged") == len(NOTEBOOKS)


def test_a_failing_cell_names_itself_and_leaves_no_result(tmp_path, notebooks):
    write(notebooks, NOTEBOOKS[1], "1 / 0")
    with pytest.raises(work.NotebookError) as caught:
        work.reproduce("smoke", ["00", "01", "02"], tmp_path / "out", {}, notebooks)
    for words in ("01_pretraining, cell", "1 / 0", "ZeroDivisionError", "same command"):
        assert words in str(caught.value)
    names = {path.name for path in (tmp_path / "out/notebooks").glob("*.ipynb")}
    assert names == {f"{NOTEBOOKS[0]}.ipynb", f"{NOTEBOOKS[1]}.partial.ipynb"}


def test_the_kernel_is_this_python_whatever_is_called_python3(tmp_path, notebooks, monkeypatch):
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "P", "language": "python"}
    folder = tmp_path / "jupyter/kernels/python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write(notebooks, NOTEBOOKS[0], "import sys\nprint(sys.executable, sys.flags.utf8_mode)")
    done = work.reproduce("smoke", ["00"], tmp_path / "out", {}, notebooks)
    assert text_of(done[NOTEBOOKS[0]]) == f"{sys.executable} 1\n"


def test_an_answer_is_noticed_that_comes_while_something_is_sent():
    """As in cells with sliders: nothing would tell the event loop of it any more."""

    async def ask():
        session = Session()
        with zmq.Context() as context, context.socket(zmq.DEALER) as kernel:
            port = kernel.bind_to_random_port("tcp://127.0.0.1")
            with zmq.asyncio.Socket(context, zmq.DEALER) as socket:
                socket.connect(f"tcp://127.0.0.1:{port}")
                channel = AsyncZMQSocketChannel(socket, session)
                work.send_and_look(channel, session.msg("execute_request"))
                waiting = asyncio.ensure_future(channel.get_msg())
                await asyncio.sleep(0.2)
                session.send(kernel, "execute_reply")
                time.sleep(0.2)  # it arrives, and the event loop has not looked yet
                work.send_and_look(channel, session.msg("comm_msg"))
                return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(ask())["msg_type"] == "execute_reply"


def test_a_second_reproduce_in_a_folder_is_refused(tmp_path, notebooks):
    lock = tmp_path / "out/notebooks/.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(ValueError, match="another ktglite reproduce is at work"):
        work.reproduce("smoke", ["00"], tmp_path / "out", {}, notebooks)


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
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
        )
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
    assert last.startswith("ktglite: stopped; in 00_knowledge_transfer_graph, cell 5 of 6")
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
    assert 'href="../../../docs/search.md#what"' in page
    assert 'href="https://example.org/a.ipynb"' in page
    assert 'href="#chapter-one">Chapter one' in page
    assert 'id="chapter-one"' in page
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
        work.find_notebooks(tmp_path)
