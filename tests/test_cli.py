"""The commands: what they print, and how they refuse."""

import json
import sys

import pytest

from ktglite import cli
from ktglite.experiments import ablation
from ktglite.pool import open_pool
from ktglite.store import read_record
from ktglite.tools import commands


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ktglite", *map(str, arguments)])
    commands.main()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "--profile", "quik"], "profile is 'quik'"),
        (["reproduce", "--profile", "smoke", "--set", "epoks=3"], "did you mean epochs"),
        (["reproduce", "--profile", "smoke", "--set", "epochs"], "not name=value"),
        (["reproduce", "--profile", "smoke", "--only", "07"], "--only '07'"),
        (["fractaldb", "draw"], "allowed are verify, show, export"),
        (["figures", "--records", "nowhere"], "no table1.json"),
        (["search", "--condition", "best", "--profile", "smoke"], "condition is 'best'"),
        (["ablation", "--profile", "smoke", "--set", "dataset=nowhere"], "neither a folder nor"),
        (["ablation", "--profile", "smoke", "--seeds", "0"], "seeds is 0"),
        (["ablation", "--profile", "smoke", "--sources", "a/x.pt", "b/x.pt"], "rename a file"),
        (["ablation", "--profile", "smoke", "--arch", "resnet9"], "unknown arch 'resnet9'"),
        (["ablation", "--profile", "smoke", "--nodes", "0"], "nodes is 0"),
    ],
)
def test_errors_name_the_cause_and_exit_with_1(monkeypatch, arguments, words):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *arguments)
    assert words in str(caught.value.code)
    assert str(caught.value.code).startswith("ktglite: ")


def test_unknown_commands_and_options_are_errors(monkeypatch, capsys):
    for arguments in (["reprodce"], ["reproduce", "--profil", "quick"]):
        with pytest.raises(SystemExit) as caught:
            run(monkeypatch, *arguments)
        assert caught.value.code not in (0, None)
    capsys.readouterr()


def test_figures_from_records(monkeypatch, capsys, tmp_path):
    records = [
        {
            "label": label,
            "graph": graph.to_dict(),
            "seed": seed,
            "test_accuracy": [50.0 + seed, 1, 1],
            "epochs": [{"epoch": 1, "val_accuracy": [40.0 + seed]}],
            "data": {"name": "synthcars", "fingerprint": "0" * 64},
            "provenance": {"git": None},
        }
        for label, graph in ablation.ablation_grid(
            "resnet18_w8", ["imagenet1k_standin", "fractaldb1k"]
        ).items()
        for seed in (0, 1)
    ]
    (tmp_path / "table1.json").write_text(json.dumps(records))
    run(
        monkeypatch,
        "figures",
        "--records",
        tmp_path,
        "--out",
        tmp_path / "figures",
        "--format",
        "png",
    )
    assert str(tmp_path / "figures/table1.png") in capsys.readouterr().out


def test_the_end_of_a_run_shows_our_table_beside_the_paper_s(capsys, tmp_path):
    test_records = [
        {"label": label, "graph": graph.to_dict(), "seed": 0, "test_accuracy": [50.0, 1, 1]}
        for label, graph in ablation.ablation_grid("resnet18_w8", ["imagenet1k_standin"]).items()
    ]
    (tmp_path / "table1.json").write_text(json.dumps(test_records))
    cli._show_results(tmp_path, {})
    text = capsys.readouterr().out
    assert "stand-in" in text
    assert "90.45" in text


def ours(arguments):
    cli.settings_of("02", "quick", None, ["epoks=1"], {})


def damaged(path):
    return read_record(path, 1)


def not_json(text):
    return json.loads(text)


@pytest.mark.parametrize("function", [not_json, damaged])
def test_an_error_of_a_library_keeps_its_traceback_and_one_of_ours_does_not(tmp_path, function):
    """Whether it is raised in this process or in a worker."""
    (tmp_path / "a.json").write_text("{")
    argument, kind, words = (
        tmp_path / "a.json",
        SystemExit,
        "ktglite: .*a.json is not a readable record",
    )
    if function is not_json:
        argument, kind, words = "{", json.JSONDecodeError, "property name"
    with pytest.raises(kind, match=words):
        cli.run_app(lambda arguments: function(argument))
    with open_pool(1) as pool, pytest.raises(kind, match=words):
        cli.run_app(lambda arguments: pool.submit(function, argument).result())


def test_notes_are_told_and_a_variable_shows_the_traceback_of_ours_too(monkeypatch):
    def noted(arguments):
        try:
            ours(arguments)
        except ValueError as error:
            error.add_note("This was run 3.")
            raise

    with pytest.raises(SystemExit, match="ktglite: .*did you mean epochs.*\nThis was run 3.$"):
        cli.run_app(noted)
    monkeypatch.setenv("KTGLITE_DEBUG", "1")
    with pytest.raises(ValueError, match="did you mean epochs"):
        cli.run_app(ours)
