"""Settings from defaults, profiles and overrides, and how wrong ones are named."""

import pytest

from ktglite import load_settings
from ktglite.settings import NOTEBOOKS, PROFILES, parse_overrides, select_settings


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        'shared:\n  epochs: 3\n  sources: [fractaldb1k]\n02_table1_ablation:\n  lr: 1\n  figures: "{out}/x"\n'
    )
    return path


def test_defaults_then_shared_then_section_then_overrides(profile):
    assert load_settings("00", profile).epochs == 3
    table = load_settings("02", profile, "data/there", epochs=7)
    assert (table.epochs, table.lr, table.figures, table.batch_size) == (7, 1.0, "data/there/x", 64)
    assert isinstance(table.lr, float)
    assert (table.out, table.weights, table.profile) == ("data/there", "data/there/weights", "mine")
    assert load_settings("02", profile).out == "data/runs/mine"


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("number", [stem[:2] for stem in NOTEBOOKS])
def test_every_profile_is_whole(name, number):
    settings = load_settings(number, name)
    assert settings.train_config().epochs == settings.epochs
    if number == "01":
        drawn = [config for config in settings.pretrain_configs() if config.source == "fractaldb1k"]
        assert drawn[0].size == settings.pretrain_size
    if number == "03":
        assert settings.search_config("mixed").choices == settings.choices["mixed"]
        assert settings.search_config("none").trials == settings.trials


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"epoch": 1}, "there is no setting 'epoch'; did you mean epochs"),
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"schedule": "steps"}, "schedule is 'steps'"),
        ({"dataset": 3.5, "arch": "resnet9"}, "unknown arch 'resnet9'"),
        ({"split": [0.5, 0.5]}, "split"),
        ({"sources": ["imagenet"]}, "unknown init 'imagenet'"),
    ],
)
def test_wrong_settings_are_named(overrides, words):
    with pytest.raises(ValueError, match=words):
        load_settings("02", "quick", **overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shred:\n  epochs: 3\n", "shred"),
        ("shared:\n  epoks: 3\n", "did you mean epochs"),
        ("shared: [1, 2]\n", "sections of name: value"),
        ("shared: {\n", "not readable YAML"),
        ("shared: !!python/object/apply:os.system ['true']\n", "not readable YAML"),
    ],
)
def test_wrong_profiles_are_named(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_settings("00", path)
    with pytest.raises(ValueError, match="profile is 'quik'"):
        load_settings("00", "quik")
    with pytest.raises(ValueError, match="no notebook '07'"):
        load_settings("07")


def test_override_texts():
    pairs = ["a=1", "03.b=0.5", "c=[x, y]", "d=null", "e=word"]
    assert parse_overrides(pairs) == {"a": 1, "03.b": 0.5, "c": ["x", "y"], "d": None, "e": "word"}
    with pytest.raises(ValueError, match="'a' is not name=value"):
        parse_overrides(["a"])
    assert load_settings("02", "quick", **parse_overrides(["lr=1e-3"])).lr == 0.001


def test_a_number_in_front_means_one_notebook():
    given = {"epochs": 2, "03.trials": 5, "02.lr": 0.5}
    assert select_settings("02", given) == {"epochs": 2, "lr": 0.5}
    assert select_settings("03", given) == {"epochs": 2, "trials": 5}
    with pytest.raises(ValueError, match=r"no setting '07.lr'"):
        select_settings("02", {"07.lr": 1})
    with pytest.raises(ValueError, match="did you mean trials"):
        select_settings("02", {"trails": 1})


def test_data_and_fit_come_from_settings(tmp_path):
    settings = load_settings("02", "smoke", cache=str(tmp_path), fit="crop", image_size=16)
    data = settings.load_data()
    assert data.spec["fit"] == "crop"
    assert (data.size, len(data.train) + len(data.val) + len(data.test)) == (16, 120)
