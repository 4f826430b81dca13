"""The notebooks: what every cell must be, and all of them on the smoke profile from a shell."""

import ast
import base64
import copy
import io
import json
import re
import subprocess
import sys
from concurrent.futures import Future
from contextlib import nullcontext
from html import unescape
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pytest
import refresh_notebooks as books
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image
from students_edition import StripSolutions

import ktglite
from ktglite import load_settings, pages, trainer
from ktglite.profiles import NOTEBOOKS
from ktglite.store import Checkpoint

FOLDER = Path(__file__).parents[1] / "notebooks"
STEMS = list(NOTEBOOKS)


EACH = pytest.mark.parametrize("stem", STEMS)


def load(path):
    return nbformat.read(path, as_version=4)


def read(stem, lang="en"):
    return load(FOLDER / ("ja" if lang == "ja" else ".") / f"{stem}.ipynb")


def cells(stem, kind="code"):
    return [cell for cell in read(stem).cells if cell.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def has_outputs(notebook):
    return any(cell.get("outputs") for cell in notebook.cells)


# ---- what every notebook must be


@EACH
def test_a_cell_is_short_and_defines_nothing(stem):
    for cell in cells(stem):
        assert "parameters" in tags(cell) or cell.source.count("\n") < 15, cell.source
        assert "hide" not in tags(cell) or "source_hidden" in cell.metadata.jupyter
        written = cell.metadata.get("nbgrader", {}).get("solution")  # students write functions
        code = TransformerManager().transform_cell(cell.source)  # %pip is no Python
        for node in ast.walk(ast.parse(code)):
            assert written or not isinstance(node, ast.FunctionDef | ast.ClassDef), cell.source


@EACH
def test_parameters_are_few_literals_and_what_a_run_puts_in(stem):
    (cell,) = [cell for cell in cells(stem) if "parameters" in tags(cell)]
    found = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        found[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert len(found) <= 10
    assert found.items() >= {"profile": "quick", "out": None}.items()
    assert found["overrides"] == {}


@EACH
def test_it_asks_a_question_answers_it_from_the_records_and_ends_with_exercises(stem):
    notebook, prose = read(stem), [cell.source for cell in cells(stem, "markdown")]
    assert "**Question.**" in prose[0]
    assert 2 <= prose[-1].count("<details>") <= 4
    assert prose[-1].count("<details>") == prose[-1].count("</details>")
    heads = [cell.source.split("\n")[0] for cell in notebook.cells]
    at = heads.index("## The answer")
    assert heads[at + 2] == "## Exercises"
    assert notebook.cells[at + 1].cell_type == "code"
    assert "ktg.say(" in notebook.cells[at + 1].source
    (here,) = re.findall(r"\*\*You are here:\*\*.*?\n\n", "".join(prose), flags=re.S)
    assert {name for name in STEMS if f"({name}.ipynb)" in here} == {*STEMS} - {stem}


@EACH
def test_code_follows_prose_in_short_paragraphs(stem):
    notebook = read(stem)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert all("code" in kinds[i : i + 4] or i > len(kinds) - 4 for i in range(len(kinds)))
    assert kinds.count("markdown") > 0.4 * kinds.count("code")
    for cell in cells(stem, "markdown"):
        for part in re.split(r"\n\s*\n|\n(?=- |\|)", cell.source):
            assert books.is_head(cell) or len(part.split()) <= 85, part


def test_a_session_has_fifteen_to_twenty_slides():
    slides = [[cell.metadata.slideshow.slide_type for cell in read(stem).cells] for stem in STEMS]
    counts = [found.count("slide") for found in slides]
    assert 15 <= sum(counts[:2]) <= 20
    assert 15 <= sum(counts[2:]) <= 20
    assert {found[0] for found in slides} == {"slide"}


@EACH
def test_the_japanese_edition_is_whole_and_has_the_same_code(stem):
    english, japanese = read(stem), read(stem, "ja")
    catalogue = books.update_catalogue(FOLDER / f"ja/{stem}.po", english)
    to_do = [m.id for m in catalogue if m.id and (m.fuzzy or not m.string)]
    assert not to_do, f"not translated, or the English text has changed: see notebooks/ja/{stem}.po"
    assert not catalogue.obsolete
    made = books.translate(english, catalogue, *books.picture(stem, FOLDER.parent, "ja"))
    same = [cell.source for cell in japanese.cells] == [cell.source for cell in made.cells]
    assert same, "give `make notebooks`"
    for here, there in zip(english.cells, japanese.cells, strict=True):
        assert here.cell_type == there.cell_type
        told = "parameters" in tags(here) or books.is_head(here)
        assert told or here.cell_type != "code" or here.source == there.source
        pictures = ["image/png" in str(cell.get("outputs", [])) for cell in (here, there)]
        assert pictures[0] == pictures[1]
        if here.cell_type == "markdown":
            formula = r"\$\$[^$]+\$\$|\$[^$]+\$"
            formulas = [sorted(re.findall(formula, cell.source)) for cell in (here, there)]
            assert formulas[0] == formulas[1]
            assert not there.source.isascii()


@EACH
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_picture_is_told_in_words(stem, lang):
    """The one below the question has the caption of its figure, the others the prose before them."""
    notebook = read(stem, lang)
    told = [output.metadata["image/png"]["alt"] for output in books._pictures(notebook)]
    assert all(text and text.isascii() <= (lang == "en") for text in told)
    text, attachments = books.picture(stem, FOLDER.parent, lang)
    assert notebook.cells[1].source == text, "give `make notebooks`"
    assert list(notebook.cells[1].attachments) == list(attachments)


def test_an_html_copy_tells_its_pictures():
    notebook = read(STEMS[-1])
    html = pages.to_html(notebook, STEMS[-1], FOLDER, FOLDER)
    assert "No description has been provided" not in html
    pictures = books._pictures(notebook)
    assert all(picture.metadata["image/png"]["alt"] in unescape(html) for picture in pictures)
    assert html.count("<img ") == 1 + len(pictures)


def test_prose_that_is_new_or_has_changed_is_told(tmp_path):
    def texts(catalogue):
        return [cell.source for cell in books.translate(notebook, catalogue).cells]

    prose = map(nbformat.v4.new_markdown_cell, ("One.", "Two [x](../y)."))
    notebook = nbformat.v4.new_notebook(cells=list(prose))
    path = tmp_path / "a.po"
    made = books.update_catalogue(path, notebook)
    made["One."].string = "一。"
    books._write_catalogue(path, made)
    assert texts(books.update_catalogue(path, notebook)) == ["一。", "Two [x](../../y)."]
    notebook.cells[0].source = "One!"
    changed = books.update_catalogue(path, notebook)
    assert changed["One!"].fuzzy or not changed["One!"].string
    assert texts(changed)[0] == "One!"


@EACH
def test_outputs_belong_to_the_cells_and_are_those_of_a_quick_run(stem):
    notebook = read(stem)
    for name in (stem, f"ja/{stem}"):
        assert (FOLDER / f"{name}.ipynb").stat().st_size <= 1.05 * books.LIMIT
    assert pages.WIDGET not in (FOLDER / f"{stem}.ipynb").read_text()
    if not has_outputs(notebook):
        pytest.skip("outputs come with `make reproduce notebooks`, after the records they show")
    facts = notebook.metadata["ktglite"]
    assert facts["sources"] == books.digest(notebook), "give `make reproduce notebooks`"
    assert books._pictures(notebook)
    assert facts["profile"] == "quick"


@EACH
def test_head_cells_say_what_is_measured_and_where_this_is_published(stem):
    top, notebook = FOLDER.parent, read(stem)
    times = json.loads((top / "data/run_times.json").read_text())
    expected = [text.rstrip() for text in books.heads(stem, times, books.address(top))]
    assert [cell.source for cell in notebook.cells if books.is_head(cell)][1:] == expected
    assert [i for i, cell in enumerate(notebook.cells) if books.is_head(cell)] == [1, 2, 3]


def test_badges_are_there_when_they_can_work():
    times = {"quick": {"machine": "2 cores, X", "seconds": {"01_pretraining": 90.0}}}
    prose, code = books.heads("01_pretraining", times, "https://github.com/someone/ktglite")
    assert prose.count("[![Open in") == 2
    assert "github/someone/ktglite/blob/main/notebooks/01_pretraining.ipynb" in prose
    assert "`quick` 1.5 min (2 cores, X)" in prose
    assert 'repository = "https://github.com/someone/ktglite"' in code
    bare, code = books.heads("02_table1_ablation", times, "")
    assert "[![" not in bare
    assert "not yet" in bare
    assert 'repository = ""' in code


# ---- outputs of a run, put into the notebooks of a checkout


def mini(source="print(1)"):
    cells = [
        nbformat.v4.new_markdown_cell("# one", id="a"),
        nbformat.v4.new_code_cell("x = 1", id="b", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source, id="c"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def execute(notebook, side=64):
    """As a run leaves it, with a noisy picture."""
    done = copy.deepcopy(notebook)
    injected = {"tags": ["injected-parameters"]}
    done.cells.insert(2, nbformat.v4.new_code_cell("x = 2", id="i", metadata=injected))
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    picture = base64.b64encode(file.getvalue()).decode()
    text = "runs: 100%|#####| 3/3 [00:01]\nsaid\n"
    done.cells[-1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=text),
        nbformat.v4.new_output("display_data", data={"image/png": picture, pages.WIDGET: {}}),
    ]
    facts = {"profile": "quick", "seconds": 61.0, "machine": "2 cores, X", "fingerprint": "0"}
    done.metadata |= {"ktglite": facts, "widgets": {"state": {}}}
    return done


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with a run of its notebooks."""
    for place in ("notebooks", "data", "run/notebooks"):
        (tmp_path / place).mkdir(parents=True)
    # of which the first picture and its caption are made
    for place in ("figures", "data/reference_runs", "data/graph_benchmark.npz"):
        (tmp_path / place).symlink_to(FOLDER.parent / place)
    (tmp_path / "CITATION.cff").write_text("title: x")
    for stem in STEMS:
        nbformat.write(mini(), tmp_path / f"notebooks/{stem}.ipynb")
        nbformat.write(execute(mini()), tmp_path / f"run/notebooks/{stem}.ipynb")
    return tmp_path


def contents(checkout):
    return [path.read_bytes() for path in sorted((checkout / "notebooks").glob("**/*.*"))]


def test_refresh_puts_outputs_times_and_heads(checkout):
    books.refresh(checkout / "run", checkout)
    for stem in STEMS:
        notebook = load(checkout / f"notebooks/{stem}.ipynb")
        heads = ["head-picture", "head-times", "head-install"]
        assert [cell.id for cell in notebook.cells] == ["a", *heads, "b", "c"]
        assert "`quick` 1.0 min (2 cores, X)" in notebook.cells[2].source
        assert notebook.metadata["ktglite"]["sources"] == books.digest(notebook)
        assert books.digest(notebook) == books.digest(mini())
        stream, shown = notebook.cells[-1].outputs
        assert stream.text == "said\n"
        assert list(shown.data) == ["image/png"]
        assert "widgets" not in notebook.metadata
    first = contents(checkout)
    assert len(first) == 3 * len(STEMS)  # English, Japanese, catalogue
    books.refresh(checkout / "run", checkout)
    assert contents(checkout) == first


def test_refresh_refuses_outputs_of_other_cells(checkout):
    stem = STEMS[3]
    nbformat.write(mini("print(2)"), checkout / f"notebooks/{stem}.ipynb")
    before = contents(checkout)
    with pytest.raises(ValueError, match=rf"{stem}: its cells have changed"):
        books.refresh(checkout / "run", checkout)
    assert contents(checkout) == before
    assert not (checkout / "data/run_times.json").exists()


# ---- notebooks that run


def test_the_paper_profile_is_the_paper():
    table1, search = load_settings("02", "paper"), load_settings("03", "paper")
    training = table1.arch, table1.image_size, table1.epochs, table1.lr, table1.batch_size
    assert training == ("resnet18", 224, 200, 0.01, 64)
    assert (table1.seeds, table1.limit) == (3, 12_554)
    assert (search.trials, search.nodes, search.epochs, search.select_on) == (1500, 3, 200, "val")
    assert (search.pruner, search.min_resource, search.reduction_factor) == ("asha", 1, 2)
    assert search.conditions == ("none", "imagenet1k", "fractaldb1k", "mixed")
    assert table1.sources == ("imagenet1k", "fractaldb1k")


class HerePool:
    """Runs tasks in this process; a KeyboardInterrupt kills it."""

    size = 1

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


def test_a_killed_search_of_notebook_03_goes_on_in_the_middle_of_a_graph(tmp_path, monkeypatch):
    """Its own cells, killed as the second epoch of the first graph has been kept: two graphs of three epochs."""
    begun, saved = [], []
    save, rate = Checkpoint.save, trainer.learning_rate

    def save_and_die(checkpoint, state):
        save(checkpoint, state)
        saved.append(len(state["records"]))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_die)

    def rate_of(config, epoch):
        if begun[-1:] != [epoch]:  # asked for every iteration
            begun.append(epoch)
        return rate(config, epoch)

    monkeypatch.setattr(trainer, "learning_rate", rate_of)
    monkeypatch.setattr(ktglite, "open_pool", lambda *arguments: nullcontext(HerePool()))
    overrides = {"conditions": ["none"], "pruner": "none", "cache": str(tmp_path / "cache")}
    overrides |= {"trials": 2, "epochs": 3, "limit": 60, "image_size": 16}
    names = {"profile": "smoke", "out": str(tmp_path), "overrides": overrides}
    words = "load_settings(", ".load_data(", ".search_config(", "= search("
    sources = [cell.source for cell in cells(STEMS[3])]
    code = "\n".join(text for text in sources if any(word in text for word in words))
    with matplotlib.rc_context():
        with pytest.raises(KeyboardInterrupt):
            exec(code, dict(names))
        assert list(tmp_path.rglob("runs/*.ckpt"))
        exec(code, names)
    assert [trial.state.name for trial in names["studies"]["none"].trials] == ["COMPLETE"] * 2
    assert begun == saved == [1, 2, 3, 1, 2, 3]
    assert not list(tmp_path.rglob("runs/*.ckpt"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every notebook on smoke through the command, as a user types it."""
    out = tmp_path_factory.mktemp("smoke")
    arguments = ["reproduce", "--profile", "smoke", "--out", out, "--set", f"cache={out}/cache"]
    command = [sys.executable, "-m", "ktglite", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return out, command


def test_all_notebooks_run_on_smoke_and_leave_whole_records(smoke):
    out, _ = smoke
    for stem in STEMS:
        notebook = load(out / f"notebooks/{stem}.ipynb")
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        assert any("image/png" in output.get("data", {}) for output in outputs), stem
        assert (out / f"notebooks/{stem}.html").stat().st_size > 10_000
        (answer,) = [cell for cell in notebook.cells if cell.id == "answer"]
        said = "".join(str(output.get("text", output.get("data"))) for output in answer.outputs)
        assert re.search(r"\d", said)
        assert "nan" not in said
    records = json.loads((out / "table1.json").read_text())
    assert len({record["label"] for record in records}) == 15 + 3  # and each start alone
    assert len(records) == 18 * 2
    assert all(record["status"] == "complete" for record in records)
    searches = {path.stem for path in (out / "search").glob("*.json")}
    assert searches == {"none", "imagenet1k", "fractaldb1k", "mixed"}
    assert list((out / "figures").glob("*.pdf"))
    assert {path.suffix for path in (out / "tables").iterdir()} >= {".csv", ".tex"}
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".ckpt")]


def test_a_second_call_trains_nothing_again(smoke):
    out, command = smoke
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}
    again = subprocess.run([*command, "--only", "02"], capture_output=True, cwd=FOLDER.parent)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}


def released(stem):
    """The students' edition, by the kit's preprocessor and nbgrader's rules, without outputs."""
    student, _ = StripSolutions().preprocess(read(stem), {})
    for cell in student.cells:
        if "nbgrader" in cell.metadata:
            hidden = r" *### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS\n?"
            cell.source = re.sub(hidden, "", cell.source, flags=re.S)
            written = r"### BEGIN SOLUTION.*?### END SOLUTION"
            cell.source = re.sub(written, "raise NotImplementedError", cell.source, flags=re.S)
            if cell.metadata.nbgrader.solution:
                assert cell.source == "raise NotImplementedError"
        if cell.cell_type == "code":
            cell.outputs = []
    return student


@EACH
def test_the_students_edition_leaks_no_solution_and_no_hidden_number(stem):
    text = "\n".join(cell.source for cell in released(stem).cells)
    assert not [word for word in ("<details>", "Solution", "SOLUTION", "HIDDEN") if word in text]
    for cell in read(stem).cells:
        secret = re.findall(r"<details>.*?</details>", cell.source, flags=re.S)
        secret += re.findall(r"### BEGIN [A-Z ]+\n(.*?)### END", cell.source, flags=re.S)
        for line in "\n".join(secret).splitlines():
            assert len(line) < 25 or line.strip() not in text, line
    for cell in released(stem).cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            assert not re.search(r"\b\d+\.\d{2,}|\b\d{4,}", cell.source), cell.source


@EACH
def test_solutions_get_full_marks_and_the_students_edition_none(smoke, stem):
    """The students' edition, cleared by nbgrader's rules, runs on what the run left."""
    solved, student = load(smoke[0] / f"notebooks/{stem}.ipynb"), released(stem)
    (put_in,) = [cell for cell in solved.cells if "injected-parameters" in tags(cell)]
    student.cells[[tags(cell) for cell in student.cells].index(["parameters"])] = put_in
    here = {"metadata": {"path": str(FOLDER.parent)}}
    NotebookClient(student, timeout=600, allow_errors=True, resources=here).execute()
    for notebook, fails in ((solved, False), (student, True)):
        for cell in notebook.cells:
            failed = any(output.output_type == "error" for output in cell.get("outputs", []))
            assert failed == (fails and "nbgrader" in cell.metadata), cell.source
        assert any(cell.metadata.get("nbgrader", {}).get("grade") for cell in notebook.cells)
