"""The notebooks: what every cell must be, and all of them on the smoke profile from a shell."""

import ast
import base64
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
import yaml
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


def cells(stem, kind="code"):
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


@pytest.mark.parametrize("stem", STEMS)
def test_a_cell_is_short_and_defines_nothing(stem):
    for cell in cells(stem):
        tagged = "parameters" in cell.metadata.get("tags", [])
        assert tagged or cell.source.count("\n") < 15, cell.source
        for node in ast.walk(
            ast.parse(TransformerManager().transform_cell(cell.source))
        ):  # %pip is no Python
            written = cell.metadata.get("nbgrader", {}).get("solution")  # students write functions
            assert written or not isinstance(node, ast.FunctionDef | ast.ClassDef), cell.source


@pytest.mark.parametrize("stem", STEMS)
def test_parameters_are_literals_in_one_cell(stem):
    tagged = [cell for cell in cells(stem) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("stem", STEMS)
def test_parameters_are_few_and_what_a_run_puts_in(stem):
    (cell,) = [cell for cell in cells(stem) if "parameters" in cell.metadata.get("tags", [])]
    found = {
        line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body
    }
    assert len(found) <= 10
    wanted = {"profile": "quick", "out": None, "overrides": {}}
    assert {name: found[name] for name in wanted} == wanted
    assert all(
        "source_hidden" in c.metadata.get("jupyter", {})
        for c in cells(stem)
        if "hide" in c.metadata.get("tags", [])
    )


@pytest.mark.parametrize("stem", STEMS)
def test_it_opens_with_a_question_and_ends_with_exercises(stem):
    prose = [cell.source for cell in cells(stem, "markdown")]
    assert "**Question.**" in prose[0]
    assert 2 <= prose[-1].count("<details>") <= 4
    assert prose[-1].count("<details>") == prose[-1].count("</details>")


@pytest.mark.parametrize("stem", STEMS)
def test_it_ends_with_an_answer_from_the_records_and_says_where_it_stands(stem):
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    heads = [cell.source.split("\n")[0] for cell in notebook.cells]
    at = heads.index("## The answer")
    assert heads[at + 2] == "## Exercises"
    assert notebook.cells[at + 1].cell_type == "code"
    assert "ktg.say(" in notebook.cells[at + 1].source
    told = "".join(cell.source for cell in cells(stem, "markdown"))
    (here,) = re.findall(r"\*\*You are here:\*\*.*?\n\n", told, flags=re.S)
    linked = {name for name in STEMS if f"({name}.ipynb)" in here}
    assert linked == {*STEMS} - {stem}


@pytest.mark.parametrize("stem", STEMS)
def test_no_paragraph_is_longer_than_85_words(stem):
    for cell in cells(stem, "markdown"):
        if not books.is_head(cell):
            for part in re.split(r"\n\s*\n|\n(?=- |\|)", cell.source):
                assert len(part.split()) <= 85, part


def test_a_session_has_fifteen_to_twenty_slides():
    slides = {
        stem: [cell.metadata.slideshow.slide_type for cell in read(stem).cells].count("slide")
        for stem in STEMS
    }
    counts = list(slides.values())
    assert 15 <= sum(counts[:2]) <= 20
    assert 15 <= sum(counts[2:]) <= 20
    assert all(read(stem).cells[0].metadata.slideshow.slide_type == "slide" for stem in STEMS)


@pytest.mark.parametrize("stem", STEMS)
def test_code_follows_prose(stem):
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert all("code" in kinds[i : i + 4] or i > len(kinds) - 4 for i in range(len(kinds)))
    assert kinds.count("markdown") > 0.4 * kinds.count("code")


def read(stem):
    return nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)


def has_outputs(notebook):
    return any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("stem", STEMS)
def test_the_japanese_edition_is_whole_and_has_the_same_code(stem):
    english = read(stem)
    catalogue = books.update_catalogue(FOLDER / f"ja/{stem}.po", english)
    to_do = [
        message.id.splitlines()[0]
        for message in catalogue
        if message.id and (message.fuzzy or not message.string)
    ]
    assert not to_do, f"not translated, or the English text has changed: see notebooks/ja/{stem}.po"
    assert not catalogue.obsolete
    japanese = nbformat.read(FOLDER / f"ja/{stem}.ipynb", as_version=4)
    made = books.translate(english, catalogue, *books.picture(stem, FOLDER.parent, "ja"))
    assert [cell.source for cell in japanese.cells] == [cell.source for cell in made.cells], (
        "give `make notebooks`"
    )
    for here, there in zip(english.cells, japanese.cells, strict=True):
        assert here.cell_type == there.cell_type
        told = "parameters" in here.metadata.get("tags", []) or books.is_head(here)
        assert told or here.cell_type != "code" or here.source == there.source
        pictures = ["image/png" in str(cell.get("outputs", [])) for cell in (here, there)]
        assert pictures[0] == pictures[1]
        if here.cell_type == "markdown":
            formulas = [
                sorted(re.findall(r"\$\$[^$]+\$\$|\$[^$]+\$", cell.source))
                for cell in (here, there)
            ]
            assert formulas[0] == formulas[1]
            assert there.source.isascii() is False


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_picture_is_told_in_words(stem, lang):
    """The one below the question has the caption of its figure, the others the prose before them."""
    notebook = nbformat.read(
        FOLDER / ("ja" if lang == "ja" else ".") / f"{stem}.ipynb", as_version=4
    )
    told = [output.metadata["image/png"]["alt"] for output in books._pictures(notebook)]
    assert all(told)
    assert all(text.isascii() is False for text in told if lang == "ja")
    text, attachments = books.picture(stem, FOLDER.parent, lang)
    assert notebook.cells[1].source == text, "give `make notebooks`"
    assert list(notebook.cells[1].attachments) == list(attachments)
    assert (FOLDER / f"ja/{stem}.ipynb").stat().st_size <= 1.05 * books.LIMIT


def test_an_html_copy_tells_its_pictures():
    html = pages.to_html(read(STEMS[-1]), STEMS[-1], FOLDER, FOLDER)
    assert "No description has been provided" not in html
    assert all(
        output.metadata["image/png"]["alt"] in unescape(html)
        for output in books._pictures(read(STEMS[-1]))
    )
    assert html.count("<img ") == 1 + len(books._pictures(read(STEMS[-1])))


def test_prose_that_is_new_or_has_changed_is_told(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(text) for text in ("One.", "Two [x](../y).")]
    )
    path, made = tmp_path / "a.po", books.update_catalogue(tmp_path / "a.po", notebook)
    made["One."].string = "一。"
    books._write_catalogue(path, made)
    again = books.update_catalogue(path, notebook)
    assert [cell.source for cell in books.translate(notebook, again).cells] == [
        "一。",
        "Two [x](../../y).",
    ]
    notebook.cells[0].source = "One!"
    changed = books.update_catalogue(path, notebook)
    assert changed["One!"].fuzzy or not changed["One!"].string
    assert books.translate(notebook, changed).cells[0].source == "One!"


@pytest.mark.parametrize("stem", STEMS)
def test_outputs_belong_to_the_cells(stem):
    notebook = read(stem)
    if has_outputs(notebook):
        assert notebook.metadata["ktglite"]["sources"] == books.digest(notebook), (
            "give `make reproduce notebooks`"
        )
    assert pages.WIDGET not in (FOLDER / f"{stem}.ipynb").read_text()
    assert (FOLDER / f"{stem}.ipynb").stat().st_size <= books.LIMIT


@pytest.mark.parametrize("stem", STEMS)
def test_it_carries_outputs_of_a_quick_run(stem):
    notebook = read(stem)
    if not has_outputs(notebook):
        pytest.skip("outputs come with `make reproduce notebooks`, after the records they show")
    assert books._pictures(notebook)
    assert notebook.metadata["ktglite"]["profile"] == "quick"


@pytest.mark.parametrize("stem", STEMS)
def test_head_cells_say_what_is_measured_and_where_this_is_published(stem):
    top, notebook = FOLDER.parent, read(stem)
    log = top / "data/run_times.json"
    expected = books.heads(
        stem, json.loads(log.read_text()) if log.exists() else {}, books.address(top)
    )
    assert [cell.source for cell in notebook.cells if books.is_head(cell)][1:] == [
        text.rstrip() for text in expected
    ]
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


def mini(source="print(1)", colour=0):
    """A notebook of a parameters cell and one more; executed, it shows a noisy picture."""
    cells = [
        nbformat.v4.new_markdown_cell("# one", id="a"),
        nbformat.v4.new_code_cell("x = 1", id="b", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source, id="c"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def execute(notebook, side=64):
    done = nbformat.from_dict(json.loads(nbformat.writes(notebook)))
    injected = {"tags": ["injected-parameters"]}
    done.cells.insert(2, nbformat.v4.new_code_cell("x = 2", id="i", metadata=injected))
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    data = {
        "image/png": base64.b64encode(file.getvalue()).decode(),
        pages.WIDGET: {"model_id": "1"},
    }
    text = "runs: 100%|#####| 3/3 [00:01]\nsaid\n"
    done.cells[-1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=text),
        nbformat.v4.new_output("display_data", data=data),
    ]
    done.metadata["ktglite"] = {
        "profile": "quick",
        "seconds": 61.0,
        "machine": "2 cores, X",
        "fingerprint": "0",
    }
    done.metadata["widgets"] = {"state": {}}
    return done


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with a run of its notebooks."""
    for place in ("notebooks", "data", "run/notebooks"):
        (tmp_path / place).mkdir(parents=True)
    for place in (
        "figures",
        "data/reference_runs",
        "data/graph_benchmark.npz",
    ):  # of which the first picture and its caption are made
        (tmp_path / place).symlink_to(FOLDER.parent / place)
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump({"title": "x"}))
    for stem in STEMS:
        nbformat.write(mini(), tmp_path / f"notebooks/{stem}.ipynb")
        nbformat.write(execute(mini()), tmp_path / f"run/notebooks/{stem}.ipynb")
    return tmp_path


def test_refresh_puts_outputs_times_and_heads(checkout):
    books.refresh(checkout / "run", checkout)
    for stem in STEMS:
        notebook = nbformat.read(checkout / f"notebooks/{stem}.ipynb", as_version=4)
        assert [cell.id for cell in notebook.cells] == [
            "a",
            "head-picture",
            "head-times",
            "head-install",
            "b",
            "c",
        ]
        assert "`quick` 1.0 min (2 cores, X)" in notebook.cells[2].source
        assert (
            notebook.metadata["ktglite"]["sources"]
            == books.digest(notebook)
            == books.digest(mini())
        )
        stream, shown = notebook.cells[-1].outputs
        assert stream.text == "said\n"
        assert list(shown.data) == ["image/png"]
        assert "widgets" not in notebook.metadata
    first = [path.read_bytes() for path in sorted((checkout / "notebooks").glob("**/*.*"))]
    assert len(first) == 3 * len(STEMS)  # English, Japanese, catalogue
    books.refresh(checkout / "run", checkout)
    assert [path.read_bytes() for path in sorted((checkout / "notebooks").glob("**/*.*"))] == first


def test_refresh_refuses_outputs_of_other_cells(checkout):
    stem = STEMS[3]
    nbformat.write(mini("print(2)"), checkout / f"notebooks/{stem}.ipynb")
    before = [path.read_bytes() for path in sorted((checkout / "notebooks").iterdir())]
    with pytest.raises(ValueError, match=rf"{stem}: its cells have changed"):
        books.refresh(checkout / "run", checkout)
    assert [path.read_bytes() for path in sorted((checkout / "notebooks").iterdir())] == before
    assert not (checkout / "data/run_times.json").exists()


def test_large_pictures_are_made_to_fit(checkout, monkeypatch):
    stem = STEMS[0]
    nbformat.write(execute(mini(), side=500), checkout / f"run/notebooks/{stem}.ipynb")
    assert (checkout / f"run/notebooks/{stem}.ipynb").stat().st_size > books.LIMIT
    books.refresh(checkout / "run", checkout)
    assert (checkout / f"notebooks/{stem}.ipynb").stat().st_size <= books.LIMIT
    monkeypatch.setattr(books, "LIMIT", 1000)
    with pytest.raises(ValueError, match="1,000 are allowed"):
        books.refresh(checkout / "run", checkout)


def test_the_paper_profile_is_the_paper():
    table1, search = load_settings("02", "paper"), load_settings("03", "paper")
    wanted = {
        "arch": "resnet18",
        "image_size": 224,
        "epochs": 200,
        "lr": 0.01,
        "batch_size": 64,
        "seeds": 3,
    }
    assert {name: getattr(table1, name) for name in wanted} == wanted
    assert table1.limit == 12_554
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
    overrides = {
        "conditions": ["none"],
        "trials": 2,
        "pruner": "none",
        "epochs": 3,
        "limit": 60,
        "image_size": 16,
    }
    names = {
        "profile": "smoke",
        "out": str(tmp_path),
        "overrides": overrides | {"cache": str(tmp_path / "cache")},
    }
    words = "load_settings(", ".load_data(", ".search_config(", "= search("
    code = "\n".join(
        cell.source for cell in cells(STEMS[3]) if any(word in cell.source for word in words)
    )
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
    command = [
        sys.executable,
        "-m",
        "ktglite",
        "reproduce",
        "--profile",
        "smoke",
        "--out",
        str(out),
    ]
    command += ["--set", f"cache={out}/cache"]
    first = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=FOLDER.parent
    )
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-6000:]
    return out, command, first.stdout


def test_all_notebooks_run_on_smoke(smoke):
    out, *_ = smoke
    for stem in STEMS:
        notebook = nbformat.read(out / f"notebooks/{stem}.ipynb", as_version=4)
        outputs = [
            output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        ]
        assert not [output for output in outputs if output.output_type == "error"]
        assert any("image/png" in output.get("data", {}) for output in outputs), (
            f"{stem} shows no picture"
        )
        assert (out / f"notebooks/{stem}.html").stat().st_size > 10_000
    for stem in STEMS:  # the answer is there, with numbers
        notebook = nbformat.read(out / f"notebooks/{stem}.ipynb", as_version=4)
        (answer,) = [cell for cell in notebook.cells if cell.id == "answer"]
        said = "".join(str(output.get("text", output.get("data"))) for output in answer.outputs)
        assert re.search(r"\d", said)
        assert "nan" not in said


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


def test_a_second_call_trains_nothing_again(smoke):
    out, command, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}
    again = subprocess.run([*command, "--only", "02"], capture_output=True, cwd=FOLDER.parent)
    assert again.returncode == 0, again.stderr[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}


@pytest.mark.parametrize("stem", STEMS)
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


@pytest.mark.parametrize("stem", STEMS)
def test_solutions_get_full_marks_and_the_students_edition_none(smoke, stem):
    """The students' edition, cleared by nbgrader's rules, runs on what the run left."""
    solved, student = (
        nbformat.read(smoke[0] / f"notebooks/{stem}.ipynb", as_version=4),
        released(stem),
    )
    put_in = [
        cell for cell in solved.cells if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    student.cells[[c.metadata.get("tags") for c in student.cells].index(["parameters"])] = put_in[0]
    here = {"metadata": {"path": str(FOLDER.parent)}}
    NotebookClient(student, timeout=600, allow_errors=True, resources=here).execute()
    for notebook, fails in ((solved, False), (student, True)):
        failed = [
            any(o.output_type == "error" for o in cell.get("outputs", []))
            for cell in notebook.cells
        ]
        assert failed == [fails and "nbgrader" in cell.metadata for cell in notebook.cells]
        assert sum(cell.metadata.get("nbgrader", {}).get("grade", False) for cell in notebook.cells)


def test_smoke_leaves_whole_records(smoke):
    out, *_ = smoke
    records = json.loads((out / "table1.json").read_text())
    assert len({record["label"] for record in records}) == 15 + 3  # and each start alone
    assert len(records) == 18 * 2
    assert all(record["status"] == "complete" for record in records)
    assert {path.stem for path in (out / "search").glob("*.json")} == {
        "none",
        "imagenet1k",
        "fractaldb1k",
        "mixed",
    }
    assert list((out / "figures").glob("*.pdf"))
    assert {path.suffix for path in (out / "tables").iterdir()} >= {".csv", ".tex"}
    assert not [path for path in out.rglob("*") if path.suffix in (".partial", ".ckpt")]
