"""The commands: what they print and leave, and how they refuse."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image

from ktglite import cli, load_network
from ktglite import figures as plots
from ktglite.cli import main
from ktglite.experiments import ablation, claims
from ktglite.graph import Graph, Node, mutual
from ktglite.pool import open_pool
from ktglite.single_run import read_graph
from ktglite.sources import pretrain as step1
from ktglite.store import CHECKOUT, from_checkout, read_record

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red 赤": (200, 50, 40)}


@pytest.fixture(autouse=True)
def usual_signals():
    """Ctrl-C as in a terminal (a background job ignores it), and what `main` sets is taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes of noisy colours, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("my pictures")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(12):
            pixels = rng.normal(colour, 40, (40, 50, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A graph of two nodes of different architectures, trained by the command."""
    out = tmp_path_factory.mktemp("trained") / "my run"
    arguments = ["train", "mutual:2", "--dataset", pictures, "--out", out, "--profile", "smoke"]
    arguments += ["--arch", "resnet18_w8", "resnet18_w16", "--epochs", "12"]
    for pair in (f"cache={out}/cache", "limit=null", "batch_size=8"):
        arguments += ["--set", pair]
    main([*map(str, arguments)])
    return out, arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["figures", "nowhere"], "no table1.json"),
        (["search", "best", "--profile", "smoke"], "condition is 'best'"),
        (["ablation", "--profile", "smoke", "--set", "dataset=nowhere"], "neither a folder nor"),
        (["ablation", "--profile", "smoke", "--sources", "a/x.pt", "b/x.pt"], "rename a file"),
        (["train", "ring", "--out", "x", "--profile", "smoke"], "graph is 'ring'"),
        (["train", "alone"], "give it a folder with --out"),
        (["train", "alone", "--out", "x", "--set", "epoch=3"], "no setting 'epoch'; did you mean"),
        (["predict", "nowhere.safetensors", "nowhere"], "nowhere does not exist"),
        (["export", "nowhere", "--to", "csv", "--out", "x"], "nowhere has no table1.json"),
        (["export", "begun", "--to", "csv", "--out", "x"], "runs/*.json of a finished run"),
        (["export", "begun", "--to", "optuna", "--out", "x"], "no summary of a search in begun"),
        (["export", "nowhere", "--to", "xls", "--out", "x"], "allowed are csv, parquet"),
    ],
)
def test_errors_name_the_cause_and_exit_with_1(monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/profile.json").write_text('{"profile": "smoke"}')
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert words in str(caught.value.code)
    assert str(caught.value.code).startswith("ktglite: ")


# ---- a graph of one's own


def test_a_graph_is_trained_on_a_folder_and_its_target_predicts(
    trained, pictures, capsys, tmp_path
):
    out, arguments = trained
    for name in ("target.safetensors", "training.png", "record.json"):
        assert (out / name).is_file()
    record = read_record(out / "record.json", 1)
    assert [node["arch"] for node in record["graph"]["nodes"]] == ["resnet18_w8", "resnet18_w16"]
    before = (out / "target.safetensors").stat().st_mtime_ns, len(list(out.glob("runs/*.json")))
    main([*map(str, arguments)])  # done already
    text = capsys.readouterr().out
    assert f"next: ktglite predict '{out}/target.safetensors'" in text
    assert before[1] == len(list(out.glob("runs/*.json"))) == 1

    pixels = np.random.default_rng(9).normal(COLOURS["green"], 40, (30, 30, 3)).clip(0, 255)
    (tmp_path / "new").mkdir()
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "new/green.gif")
    given = [str(tmp_path / "new"), str(pictures / "red 赤"), "--csv", str(tmp_path / "a/b.csv")]
    main(["predict", str(out / "target.safetensors"), *given])
    table = pd.read_csv(tmp_path / "a/b.csv")
    assert len(table) == 13
    assert table["class"][0] == "green"
    assert (table["class"][1:] == "red 赤").mean() > 0.8
    main(["predict", str(out / "target.safetensors"), given[0]])
    assert re.search(r"green\.gif +green +\d+\.\d\n$", capsys.readouterr().out)


def test_a_network_is_evaluated_on_its_own_test_images(
    trained, pictures, capsys, monkeypatch, tmp_path
):
    out, _ = trained
    monkeypatch.chdir(tmp_path)
    target = str(out / "target.safetensors")
    record = read_record(out / "record.json", 1)
    main(["evaluate", target])
    text = capsys.readouterr().out
    accuracy = record["test_accuracy"][0]
    assert f"accuracy {accuracy:.2f} % of {record['data']['test']} test images" in text
    assert load_network(target).classes == tuple(sorted(COLOURS))
    shutil.copytree(pictures, tmp_path / "moved")
    main(["evaluate", target, "--dataset", str(tmp_path / "moved")])
    assert text.splitlines()[-1] in capsys.readouterr().out  # not those it was trained on
    Image.new("RGB", (40, 40)).save(tmp_path / "moved/blue/new.png")
    main(["evaluate", target, "--dataset", str(tmp_path / "moved")])
    assert f"% of {record['data']['test'] + 1} test images" in capsys.readouterr().out
    places = [(pictures / "blue", pictures / "violet", "the network does not know 'violet'")]
    taken = next((pictures / "blue").iterdir())  # the split is another one then
    places += [(taken, tmp_path / taken.name, "is not as it was when .*target.*was trained")]
    for path, elsewhere, words in places:
        path.rename(elsewhere)
        try:
            with pytest.raises(SystemExit, match=words):
                main(["evaluate", target, "--dataset", str(pictures)])
        finally:
            elsewhere.rename(path)


def test_a_folder_of_other_images_is_tested_whole_or_by_its_own_test_split(
    trained, pictures, capsys, tmp_path
):
    """One image of one class will do: nothing is trained on them."""
    target = str(trained[0] / "target.safetensors")
    image = tmp_path / "new.png"
    Image.new("RGB", (40, 40), (0, 0, 250)).save(image)
    for place in ("few/blue", "parts/test/blue", "parts/train/blue", "parts/train/green"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(image, tmp_path / place)
    for folder in ("few", "parts"):
        main(["evaluate", target, "--dataset", str(tmp_path / folder)])
        told = capsys.readouterr().out
        assert re.search(r"accuracy (0|100)\.00 % of 1 test images", told)
    (tmp_path / "few/violet").mkdir()
    shutil.copy(image, tmp_path / "few/violet")
    with pytest.raises(SystemExit, match="does not know 'violet'"):
        main(["evaluate", target, "--dataset", str(tmp_path / "few")])


def test_graphs_by_name_and_from_files(tmp_path):
    one, archs = Node("resnet18_w8"), ["resnet18_w8"]
    sizes = {"alone": 1, "all-through": 3, "all-through:4": 4}
    assert {name: read_graph(name, archs).size for name in sizes} == sizes
    assert read_graph("mutual:3", archs) == mutual(one, one, one)
    fixed = read_graph("distillation", archs, ["scratch", "t.safetensors"])
    assert fixed.nodes[1].init == "t.safetensors"
    assert not fixed.learns(1)
    path = tmp_path / "graph.json"
    fixed.save(path)
    assert read_graph(str(path), ()) == fixed
    path.write_text(json.dumps({"graph": fixed.to_dict(), "seed": 1}))  # a record
    assert read_graph(str(path), (), ["scratch"]).nodes[1].init == "scratch"
    summary = from_checkout("data/reference_runs/quick/search/mixed.json")
    best = json.loads(summary.read_text())["best"]["graph"]
    assert read_graph(str(summary), ()) == Graph.from_dict(best)
    path.write_text('{"best": null}')
    wrong = dict.fromkeys(("mutual:x", "alone:2", "distillation:3", "all-through:0"), "graph is")
    for name, words in (wrong | {str(path): "no graph to the end"}).items():
        with pytest.raises(ValueError, match=words):
            read_graph(name, archs)
    with pytest.raises(ValueError, match="2 were given for 3 nodes"):
        read_graph("all-through", ["resnet18_w8", "resnet18"])


def test_a_search_ends_with_its_best_graph_and_the_command_that_trains_it(tmp_path, capsys):
    out = tmp_path / "a search"
    pairs = [f"cache={tmp_path}", "image_size=16", "limit=60", "epochs=1", "03.trials=2"]
    pairs += ["03.batch_size=8"]
    sets = [text for pair in pairs for text in ("--set", pair)]
    main(["search", "none", "--profile", "smoke", "--out", str(out), "--jobs", "1", *sets])
    lines = capsys.readouterr().out.splitlines()
    assert "none: 2 complete" in lines
    assert str(out / "search/none.json") in lines
    (following,) = (line for line in lines if line.startswith("next: ktglite "))
    main(shlex.split(following)[2:])
    best = json.loads((out / "search/none.json").read_text())["best"]["graph"]
    record = read_record(out / "best_none/record.json", 1)
    assert (record["graph"], record["seed"], record["config"]["batch_size"]) == (best, 1000, 8)


def test_pre_training_takes_its_settings_as_options(monkeypatch, capsys):
    seen = []

    def pretrain(config: step1.PretrainConfig) -> str:
        seen.append(config)
        return "a.safetensors"

    monkeypatch.setattr(step1, "pretrain", pretrain)
    row = {"epoch": 3, "loss": 0.0, "accuracy": 0.0}
    monkeypatch.setattr(step1, "read_card", lambda path: {"curve": [row]})
    options = "--epochs 3 --lr 1e-3 --images-per-epoch 90 --source imagenet1k_standin --no-tf32"
    main(["pretrain", *options.split()])
    (config,) = seen
    assert (config.epochs, config.lr, config.images_per_epoch, config.tf32) == (3, 1e-3, 90, False)
    assert config.source == "imagenet1k_standin"
    assert "a.safetensors: epoch 3" in capsys.readouterr().out


# ---- what a run left


def test_a_run_is_taken_away_as_tables(trained, tmp_path, monkeypatch):
    out, _ = trained
    main(["export", str(out), "--to", "csv", "--out", str(tmp_path)])
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert list(runs["label"]) == ["mutual:2"]
    assert {"graph", "seed", "lr", "test_accuracy"} <= set(runs.columns)
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert len(epochs) == 12 * 2
    record = read_record(out / "record.json", 1)
    assert runs["test_accuracy"][0] == record["test_accuracy"][0]
    second = epochs[epochs["node"] == 2]["val_accuracy"]
    assert list(second) == [epoch["val_accuracy"][1] for epoch in record["epochs"]]
    for to, package in (("parquet", "pyarrow"), ("tensorboard", "tensorboard")):
        for name in ("pyarrow", "fastparquet", "torch.utils.tensorboard"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SystemExit, match=f"pip install {package}"):
            main(["export", str(out), "--to", to, "--out", str(tmp_path)])


def test_recorded_searches_open_in_optuna(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(os, "symlink")  # as on Windows without developer mode, and on exFAT
    folder = from_checkout("data/reference_runs/quick/search")
    main(["export", str(folder), "--to", "optuna", "--out", str(tmp_path)])
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.log"))
    storage = optuna.storages.JournalStorage(backend)
    summary = json.loads((folder / "mixed.json").read_text())
    study = optuna.load_study(study_name="mixed", storage=storage)
    assert study.best_value == summary["selection_value"]
    assert len(study.trials) == len(summary["trials"])
    values = [*study.trials[0].intermediate_values.values()]
    assert values == summary["trials"][0]["values"]


def test_records_that_come_with_the_kit_are_found_from_any_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.find_run("quick") == CHECKOUT / "data/reference_runs/quick"
    assert str(cli.find_run("nowhere")) == "nowhere"
    (tmp_path / "data/runs/mine").mkdir(parents=True)
    assert str(cli.find_run("mine")) == "data/runs/mine"
    main(["claims"])
    text = capsys.readouterr().out
    assert "C1: pre-training node 1 helps" in text
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "runs", "mine"]


def test_figures_go_below_the_run(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("ktglite.figures.draw_all", lambda *given: drawn.append(given) or [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/table1.json").write_text("[]")
    main(["figures", "mine", "--format", "png, svg"])
    main(["figures", "quick", "--lang", "ja"])  # shipped records: not beside them
    mine = Path("mine"), Path("mine/figures"), ["png", "svg"], "en"
    shipped = CHECKOUT / "data/reference_runs/quick"
    assert drawn == [mine, (shipped, Path("data/runs/quick/figures"), ["pdf", "png"], "ja")]


def test_table_1_of_nodes_of_several_architectures():
    archs = ["resnet18_w8", "resnet18_w16", "resnet18"]
    grid = ablation.ablation_grid(archs, ["fractaldb1k"])
    assert [node.arch for node in grid["fractaldb1k/1+3"].nodes] == archs
    assert grid["fractaldb1k/alone"].nodes[0].arch == "resnet18_w8"
    one = ablation.read_runs(from_checkout("data/reference_runs/quick"))
    several = json.loads(json.dumps(one))
    for record in several:  # nodes 2 and 3 do not stand in the same place any more
        for node in record["graph"]["nodes"][2:]:
            node["arch"] = "resnet18"
    for runs, alike in ((one, True), (several, False)):
        told = claims.exploratory(runs)
        told = told[told["from"] == "this run"].contrast.str
        assert told.contains("by design").any() == told.contains("mean over nodes").any() == alike
        columns = ablation.ablation_table(runs).columns.get_level_values(1)
        assert ("mean over nodes" in columns) == alike
        assert len(plots.knowledge_table(runs, "quick")) == 15 * alike
        lines = set(plots.results.curve_table(runs, "fractaldb1k").neighbours)
        assert lines == {"none", "2+3"} | ({"2 or 3"} if alike else {"2", "3"})


# ---- ways out


def damaged(path):
    return read_record(path, 1)


def noted():
    error = ValueError("that is wrong")
    error.add_note("This was run 3.")
    raise error


def test_errors_that_say_their_cause_are_a_line_and_defects_keep_their_trace(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("{")

    def run(function, *arguments):
        monkeypatch.setattr(cli, "_run", lambda _: function(*arguments))
        main([])

    words = r"ktglite: .*a\.json is not a readable record"
    with pytest.raises(SystemExit, match=words):
        run(damaged, tmp_path / "a.json")
    with open_pool(1) as pool, pytest.raises(SystemExit, match=words):
        run(pool.submit(damaged, tmp_path / "a.json").result)
    with pytest.raises(json.JSONDecodeError, match="property name"):
        run(json.loads, "{")
    with pytest.raises(SystemExit, match="ktglite: that is wrong\nThis was run 3.$"):
        run(noted)
    monkeypatch.setenv("KTGLITE_DEBUG", "1")
    with pytest.raises(ValueError, match="is not a readable record"):
        run(damaged, tmp_path / "a.json")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_line_that_says_how_to_resume(monkeypatch, capsys, number, code):
    def interrupted(arguments):
        os.kill(os.getpid(), number)
        time.sleep(5)

    codes = []
    monkeypatch.setattr(cli, "_run", interrupted)
    monkeypatch.setattr(os, "_exit", codes.append)
    main([])
    assert codes == [code]
    assert capsys.readouterr().err == "\nktglite: stopped; the same command resumes\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_letters_that_a_locale_lacks_are_no_error(tmp_path, monkeypatch, is_terminal):
    with open(tmp_path / "log", "w", encoding="iso-8859-1") as stream:
        stream.isatty = lambda: is_terminal
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr(cli, "_run", lambda arguments: print("mean ± std 赤"))
        main([])
    expected = "mean ± std ?\n".encode("iso-8859-1") if is_terminal else "mean ± std 赤\n".encode()
    assert (tmp_path / "log").read_bytes() == expected


def test_the_home_is_meant_in_every_argument(trained, tmp_path, monkeypatch, capsys):
    """A shell puts it neither into --out=~/x nor into what stands in quotation marks."""
    out, _ = trained
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/run").symlink_to(out)
    main(["export", "~/run", "--to", "csv", "--out=~/tables"])
    assert str(tmp_path / "home/tables/runs.csv") in capsys.readouterr().out
    assert (tmp_path / "home/tables/runs.csv").is_file()
    assert not (tmp_path / "~").exists()


def test_a_graph_that_an_editor_saved_with_a_byte_order_mark_is_read(tmp_path):
    graph = mutual(Node("resnet18_w8"), Node("resnet18_w16"))
    (tmp_path / "graph.json").write_text(json.dumps(graph.to_dict()), encoding="utf-8-sig")
    assert read_graph(str(tmp_path / "graph.json"), ()) == graph
