"""Settings from defaults, profiles and overrides, and how wrong ones are named."""

import dataclasses
import json

import pytest

import ktglite.settings
from ktglite import load_settings
from ktglite.experiments import ready
from ktglite.experiments.ablation import read_runs
from ktglite.profiles import NOTEBOOKS, PROFILES, parse_overrides, raw_settings
from ktglite.store import from_checkout


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's folder, with nothing in it, as current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults_then_shared_then_section_then_overrides(tmp_path):
    profile = tmp_path / "mine.yaml"
    table = '{lr: 1, figures: "{out}/x"}'
    profile.write_text(f"shared: {{epochs: 3}}\n02_table1_ablation: {table}\n")
    assert load_settings("00", profile).epochs == 3
    table = load_settings("02", profile, "data/there", epochs=7)
    assert (table.epochs, table.lr, table.figures, table.batch_size) == (7, 1.0, "data/there/x", 64)
    assert isinstance(table.lr, float)
    assert (table.out, table.weights, table.profile) == ("data/there", "data/there/weights", "mine")
    assert load_settings("02", profile).out == "data/runs/mine"
    assert load_settings("00", profile).figures == "data/runs/mine/figures"


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("number", [stem[:2] for stem in NOTEBOOKS])
def test_every_profile_is_whole(name, number):
    settings = load_settings(number, name)
    assert settings.train_config().epochs == settings.epochs
    drawn = [config for config in settings.pretrain_configs() if config.source == "fractaldb1k"]
    assert all(config.size == settings.pretrain_size for config in drawn)
    assert settings.search_config("none").trials == settings.trials


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 1}, "there is no setting 'epoch'; did you mean epochs"),
        ({"03.trial": 1}, "there is no setting '03.trial'; did you mean trials"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"schedule": "steps"}, "schedule is 'steps'"),
        ({"arch": "resnet9"}, "unknown arch 'resnet9'"),
        ({"arch": ["resnet18", "resnet34"]}, "arch names 2 networks, and nodes is 3"),
        ({"split": "[0.5, 0.5, 0.5]"}, "positive shares of train, val and test"),
        ({"image_size": 4}, "image_size is 4"),
        ({"sources": ["imagenet"]}, "unknown init 'imagenet'"),
        ({"sources": "scratch"}, "sources has 'scratch'"),
        ({"weights": "[]"}, "weights is \\(\\): .*at least 1 item"),
        ({"pretrain_render": 16}, "pretrain_render is 16"),
    ],
)
def test_wrong_settings_are_named(overrides, words):
    with pytest.raises(ValueError, match=words):
        load_settings("02", "quick", **overrides)


def test_what_a_search_refuses_is_told_by_its_notebook_alone():
    wrong = {"conditions": ["mixed"], "sources": ["fractaldb1k"]}
    assert load_settings("02", "quick", **wrong)
    with pytest.raises(ValueError, match="notebook 03.*one source each"):
        load_settings("03", "quick", **wrong)
    assert load_settings("03", "smoke", conditions="none").conditions == ("none",)
    possible = load_settings("03", "smoke", sources=["fractaldb1k"]).conditions
    assert possible == ("none", "fractaldb1k")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shred:\n  epochs: 3\n", "shred"),
        ("shared:\n  epoks: 3\n", "did you mean epochs"),
        ("shared:\n  00.epochs: 3\n", "no setting '00.epochs'"),
        ("shared: [1, 2]\n", "sections of name: value"),
        ("shared: {out: here}", "bad.yaml: out is of the whole run, give --out"),
        ("shared: {profile: here}", "bad.yaml: profile is of the whole run, give --profile"),
        ("shared: !!python/object/apply:os.system ['true']\n", "not readable YAML"),
    ],
)
def test_wrong_profiles_are_named(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_settings("00", path)


def test_wrong_names_of_profiles_and_notebooks_are_named(tmp_path):
    (tmp_path / "quick.yaml").write_text("shared: {epochs: 3}")
    for notebook, name, words in (
        ("00", tmp_path / "quick.yaml", "the kit's profile quick; give the file another name"),
        ("00", "quik", "profile is 'quik'"),
        ("00", "nowhere.yaml", "profile is 'nowhere.yaml'"),
        ("07", "quick", "no notebook '07'"),
        ("02", "photos", "profile photos .* --set dataset=FOLDER"),
    ):
        with pytest.raises(ValueError, match=words):
            load_settings(notebook, name).load_data()


def test_texts_are_read_by_the_setting_s_type():
    for name in ("cars #2", "2024_05_01", "010", "2024-05-01", "on", "12:30"):
        given = parse_overrides([f"dataset={name}", f"sources=[{name}.pt, 1e3.pt]"])
        found = load_settings("02", "smoke", **given)
        assert (found.dataset, found.sources) == (name, (f"{name}.pt", "1e3.pt"))
    pairs = ["lr=1e-3", "epochs=5", "nesterov=false", "limit=null", "dask=none", "sources=w.pt"]
    found = load_settings("02", "smoke", **parse_overrides([*pairs, "split=[.5, .2, .3]"]))
    assert (found.lr, found.epochs, found.nesterov, found.limit) == (0.001, 5, False, None)
    assert (found.dask, found.split, found.sources) == (None, (0.5, 0.2, 0.3), ("w.pt",))
    assert load_settings("02", "smoke", sources="[]").sources == ()
    wrong = {"out=x": "give --out", "03.out=x": "give --out", "profile=lab": "give --profile"}
    for pair, words in (wrong | {"a": "is not NAME=VALUE"}).items():
        with pytest.raises(ValueError, match=f"'{pair}'.* {words}"):
            parse_overrides([pair])


def test_each_node_may_have_a_network_of_its_own():
    each = load_settings("02", "smoke", arch="[resnet18_w8, resnet18_w16, resnet18_w8]")
    assert each.archs == ("resnet18_w8", "resnet18_w16", "resnet18_w8")
    assert each.search_config("none").archs == ("resnet18_w8", "resnet18_w16")
    drawn = [(config.source, config.arch) for config in each.pretrain_configs()]
    assert drawn[:2] == [(each.sources[0], "resnet18_w8"), (each.sources[0], "resnet18_w16")]


def test_a_number_in_front_means_one_notebook():
    given = {"epochs": 2, "03.trials": 5, "02.lr": 0.5}
    assert raw_settings("02", "quick", given)["lr"] == 0.5
    assert raw_settings("03", "quick", given)["trials"] == 5
    assert raw_settings("02", "quick", given)["trials"] == raw_settings("00", "quick", {})["trials"]
    assert raw_settings("03", "quick", given)["epochs"] == 2


def test_the_home_is_meant_in_every_path(home):
    given = {"dataset": "~/x", "weights": ["~/w", "{out}/v"], "ready_runs": "~/r"}
    found = load_settings("02", "smoke", "~/out", **given)
    assert found.dataset == str(home / "x")
    assert found.weights == (str(home / "w"), str(home / "out/v"))
    assert (found.out, found.ready_runs) == (str(home / "out"), str(home / "r"))


def test_a_folder_belongs_to_one_profile(home):
    assert load_settings("02", "smoke").out == "data/runs/smoke"
    first = load_settings("02", "smoke", "here")
    assert first.store().folder == home.joinpath("here/runs").relative_to(home)
    assert load_settings("04", "smoke", "here")
    with pytest.raises(ValueError, match="here holds results of profile 'smoke', not 'quick'"):
        load_settings("02", "quick", "here")
    mark = home / "here/profile.json"
    before = mark.stat().st_mtime_ns
    first.store()
    assert mark.stat().st_mtime_ns == before
    for damaged in ("", "{}", "[]"):
        mark.write_text(damaged)
        with pytest.raises(ValueError, match="profile.json is damaged.* delete it if") as caught:
            load_settings("02", "smoke", "here")
        assert type(caught.value) is ValueError


def test_weights_that_come_with_the_kit_are_found_from_any_folder(home, monkeypatch):
    load_settings("02", "quick", "any out").store()
    assert (home / "any out/weights/fractaldb1k-resnet18_w16.safetensors").is_file()
    asked = []
    monkeypatch.setattr(ktglite.settings, "adopt", lambda *given, **how: asked.append(given))
    load_settings("02", "quick", "other").store()
    places = [place for config, place, *_ in asked if config.source == "imagenet1k_standin"]
    assert places == ["data/weights", "data/runs/quick/weights"]
    load_settings("02", "quick", "other", weights="mine").store()  # the kit's are not put there
    assert len(asked) == 2 * 2


def test_finished_runs_are_taken_from_a_folder(home):
    records = load_settings("02", "smoke", ready_runs="data/reference_runs/cars64").store().ready
    assert {"graph", "seed", "epochs"} <= set(records[0])
    (home / "mine").mkdir()
    (home / "mine/table1.json").write_text(json.dumps(records[:2]))
    assert load_settings("02", "smoke", ready_runs="mine").store().ready == records[:2]
    with pytest.raises(FileNotFoundError, match="nowhere has no table1"):
        load_settings("02", "smoke", ready_runs="nowhere").store()


def test_a_profile_s_split_is_for_its_own_data_set():
    """A third to train on is the task of quick; whoever brings photographs wants them used."""
    third = load_settings("02", "quick").split
    assert third[0] < 0.34
    for given, split in (
        ({"dataset": "synthcars"}, third),
        ({"dataset": "my cats"}, (0.7, 0.15, 0.15)),
        ({"02.dataset": "cats"}, (0.7, 0.15, 0.15)),
        ({"03.dataset": "cats"}, third),
        ({"dataset": "my cats", "split": "[.5, .2, .3]"}, (0.5, 0.2, 0.3)),
    ):
        found = load_settings("02", "quick", **given)
        assert found.split == split
        assert found.limit == (2880 if split == third else None)


def test_recorded_runs_judge_where_the_starts_are_those_of_the_profile(home):
    recorded = read_runs(from_checkout("data/reference_runs/quick"))
    live = [dict(record, seed=99) for record in recorded if record["seed"] == 10]
    judged = load_settings("02", "quick").judged_runs(live)
    assert {run["seed"] for run in judged} == {*range(10, 20)}
    one = load_settings("02", "quick", sources="[fractaldb1k]")
    assert len(one.judged_runs(live)) == len(recorded)
    for other in ({"standin_epochs": 1}, {"weights": "mine"}):
        assert load_settings("02", "quick", **other).judged_runs(live) == live
    mine = load_settings("02", "quick", weights="mine", ready_runs="data/reference_runs/quick")
    assert {run["label"] for run in mine.store().ready} == {"none", "alone"}  # from scratch
    assert ready.recorded_searches(dataclasses.replace(mine, conditions=("mixed",))) == {}


def test_data_and_fit_come_from_settings(tmp_path):
    settings = load_settings("02", "smoke", cache=str(tmp_path), fit="crop", image_size=16)
    data = settings.load_data()
    assert data.spec["fit"] == "crop"
    assert (data.size, len(data.train) + len(data.val) + len(data.test)) == (16, 120)


def test_a_setting_that_has_several_takes_them_with_commas_alone():
    given = {"split": ".6,.2,.2", "03.conditions": "none, fractaldb1k"}
    found = load_settings("03", "smoke", sources="fractaldb1k,w/mine.safetensors", **given)
    assert found.split == (0.6, 0.2, 0.2)
    assert found.sources == ("fractaldb1k", "w/mine.safetensors")
    assert found.conditions == ("none", "fractaldb1k")
    assert load_settings("02", "smoke", weights="a,b").weights == "a,b"  # a folder's name
