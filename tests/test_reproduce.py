"""Profiles, parameters and the papermill runs around them, on small notebooks made here."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ktglite import reproduce as work


def write(folder, stem, parameters, *cells):
    first = new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=[first, *map(new_code_cell, cells)], metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / f"{stem}.ipynb")


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stem in work.NOTEBOOKS:
        write(folder, stem, 'out = ""\nlr = 0.1\nepochs = 1\nname = "a"\nsplit = [0.5, 0.5]', "print(epochs * lr)")
    return folder


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text('shared:\n  epochs: 3\n02_table1_ablation:\n  lr: 1\n  name: "{out}/x"\n')
    return path


def chosen(profile, notebooks, **overrides):
    return work.parameters(profile, "data/there", overrides, notebooks)


def test_defaults_then_shared_then_section_then_overrides(profile, notebooks):
    values = chosen(profile, notebooks, **{"03.epochs": 7})
    assert values["00_knowledge_transfer_graph"]["epochs"] == 3
    assert values["02_table1_ablation"]["lr"] == 1.0
    assert isinstance(values["02_table1_ablation"]["lr"], float)
    assert values["02_table1_ablation"]["name"] == "data/there/x"
    assert values["03_asha_graph_search"]["epochs"] == 7
    assert all(part["out"] == "data/there" for part in values.values())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 1}, "no notebook has a parameter 'epoch'; did you mean epochs"),
        ({"07.epochs": 1}, "no notebook has a parameter '07.epochs'"),
        ({"epochs": "many"}, "epochs is 'many', but 00_knowledge_transfer_graph takes a value like 1"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"name": 3}, "name is 3"),
    ],
)
def test_wrong_overrides_are_named_before_anything_runs(profile, notebooks, overrides, words):
    with pytest.raises(ValueError, match=words):
        chosen(profile, notebooks, **overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shred:\n  epochs: 3\n", "unknown section 'shred'"),
        ("shared:\n  epoks: 3\n", "did you mean epochs"),
        ("shared: [1, 2]\n", "sections of name: value"),
        ("shared: {\n", "not readable YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not readable YAML"),
    ],
)
def test_wrong_profiles_are_named(tmp_path, notebooks, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        chosen(path, notebooks)
    with pytest.raises(ValueError, match="profile is 'quik'"):
        work.load_profile("quik")


def test_override_texts():
    pairs = ["a=1", "03.b=1e-3", "c=[x, y]", "d=null", "e=word", "f=0.5"]
    values = {"a": 1, "03.b": 0.001, "c": ["x", "y"], "d": None, "e": "word", "f": 0.5}
    assert work.parse_overrides(pairs) == values
    with pytest.raises(ValueError, match="'a' is not name=value"):
        work.parse_overrides(["a"])


def test_executed_once_and_again_only_when_changed(tmp_path, profile, notebooks, capsys):
    def go(**overrides):
        done = work.reproduce(profile, ["00", "02"], tmp_path / "out", overrides, notebooks)
        return done, capsys.readouterr().out

    done, text = go()
    assert "unchanged" not in text
    executed = nbformat.read(done["02_table1_ablation"], as_version=4)
    assert executed.cells[-1].outputs[0].text == "3.0\n"
    assert done["02_table1_ablation"].with_suffix(".html").exists()
    assert go()[1].count("done and unchanged") == 2
    # notebook 02 builds on 01, so that a change there is one for it; 00 comes before and stays
    assert go(**{"01.lr": 0.2})[1].count("done and unchanged") == 1
    assert go(**{"01.lr": 0.2})[1].count("done and unchanged") == 2


def test_a_failing_cell_names_itself_and_leaves_no_result(tmp_path, profile, notebooks):
    write(notebooks, work.NOTEBOOKS[1], "epochs = 1", "1 / 0")
    with pytest.raises(work.NotebookError) as caught:
        work.reproduce(profile, None, tmp_path / "out", {}, notebooks)
    for words in ("01_pretraining, cell", "1 / 0", "ZeroDivisionError", "same command"):
        assert words in str(caught.value)
    names = {path.name for path in (tmp_path / "out/notebooks").iterdir()}
    assert "00_knowledge_transfer_graph.ipynb" in names
    assert "01_pretraining.ipynb" not in names
    assert "02_table1_ablation.ipynb" not in names


def test_progress_reads_the_newest_whole_line(tmp_path):
    log = tmp_path / "progress.jsonl"
    assert work.last_line(log, 0) is None
    lines = [{"time": 1.0, "what": "Table 1", "done": i, "total": 45, "seconds_left": 200.0} for i in (1, 2)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert work.progress_text(work.last_line(log, 0)) == "Table 1: 2 of 45, 3:20 left"
    assert work.last_line(log, log.stat().st_size) is None
    log.write_text(log.read_text() + '{"time"')
    assert work.last_line(log, 0) is None


def test_unknown_notebook_number(tmp_path, profile, notebooks):
    with pytest.raises(ValueError, match="--only '9'"):
        work.reproduce(profile, ["9"], tmp_path / "out", {}, notebooks)
