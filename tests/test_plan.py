"""What a profile will cost: the simulation, the sums, and the command's table."""

import json
import sys

import numpy as np
import pytest

from ktglite import trainer
from ktglite.models import file_hash
from ktglite.settings import NOTEBOOKS, load_settings, parse_overrides, select_settings
from ktglite.sources import pretrain
from ktglite.tools import commands, plan


def parameters(profile, *pairs):
    given = parse_overrides(pairs)
    return {
        stem[:2]: load_settings(stem[:2], profile, "there", **select_settings(stem[:2], given))
        for stem in NOTEBOOKS
    }


def hours(rows):
    return {row["notebook"][:2]: row["device_hours"] for row in rows}


def test_simulated_searches_are_seeded_and_cost_what_searches_of_this_size_do():
    values = parameters("paper")["03"]
    assert plan.search_epochs(values) == plan.search_epochs(values)
    assert 7_000 < plan.search_epochs(values) < 13_300  # 35 to 67 whole trainings of 200 epochs
    assert plan.search_epochs(values.model_copy(update={"pruner": "none"})) == 1500 * 200
    assert plan.search_epochs(
        values.model_copy(update={"min_resource": 8})
    ) > 1.5 * plan.search_epochs(values)
    curves = plan.simulated_curves(300, 200)
    assert (curves == plan.simulated_curves(300, 200)).all()
    assert (
        np.corrcoef(curves[:, 0], curves[:, -1])[0, 1]
        < np.corrcoef(curves[:, 63], curves[:, -1])[0, 1]
    )


def test_the_sum_of_table_1_by_hand():
    rows, speed = plan.plan(parameters("paper"), devices=4, images_per_second=100)
    assert (speed.train, speed.start) == (300, 0)
    train, val, test = 8788, 1883, 1883
    seconds = 45 * (200 * (train // 64 * 64 / 100 + val / 300) + test / 300)
    seconds += 9 * (200 * (train // 64 * 64 / 300 + val / 900) + test / 900)  # each start alone
    table = rows[2]
    assert table["epochs"] == 45 * 200
    assert table["device_hours"] == pytest.approx(seconds / 3600)
    assert table["wall_hours"] == pytest.approx(seconds / 3600 / 4)
    assert rows[-1]["notebook"] == "all"
    assert rows[-1]["device_hours"] == pytest.approx(sum(row["device_hours"] for row in rows[:-1]))


def test_the_sum_of_notebook_00_by_hand():
    """Its fifteen students, the graph that is kept, the live one and the teacher."""
    rows, _ = plan.plan(parameters("quick"), devices=1, images_per_second=100)
    epochs = 12 * (15 + 1 + 1 + 4)
    passes = 12 * (
        5 * 1 + 5 * 3 + 5 * 2 + 3 + 2 + 4
    )  # of one network over the training and validation images
    tests = 5 * 1 + 5 * 3 + 5 * 2 + 3 + 2 + 1
    seconds = passes * (1280 / 300 + 480 / 900) + tests * 1440 / 900
    assert rows[0]["epochs"] == epochs
    assert rows[0]["device_hours"] == pytest.approx(seconds / 3600)


def test_finished_weights_cost_nothing(tmp_path):
    def cost():
        return hours(plan.plan(parameters("quick", f"ready_weights={tmp_path}"), 1, 100)[0])["01"]

    trained = cost()
    config = parameters("quick")["01"].pretrain_configs()[1]
    path = tmp_path / f"{config.source}-{config.arch}.safetensors"
    path.write_bytes(b"weights")
    card = {
        "schema": pretrain.SCHEMA,
        "settings_key": pretrain._settings_key(config),
        "sha256": file_hash(path),
    }
    path.with_suffix(".json").write_text(json.dumps(card))
    assert trained - cost() == pytest.approx(5_000_000 / 300 / 3600)


def test_what_grows_when_a_setting_does():
    base = hours(plan.plan(parameters("paper"), 1, 100)[0])
    trials = hours(plan.plan(parameters("paper", "trials=3000"), 1, 100)[0])
    seeds = hours(plan.plan(parameters("paper", "seeds=6"), 1, 100)[0])
    fast = hours(plan.plan(parameters("paper"), 1, 200)[0])
    assert 1.2 < trials["03"] / base["03"] < 2  # the re-evaluation stays as it is
    assert trials["02"] == base["02"]
    assert seeds["02"] == pytest.approx(2 * base["02"])
    assert fast["al"] == pytest.approx(base["al"] / 2)


def test_the_command_measures_this_device_and_says_so_first(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["ktglite", "plan", "--profile", "smoke", "--devices", "2"])
    commands.main()
    text = capsys.readouterr().out
    assert text.startswith("measuring 2 iterations of 3 x resnet18_w8")
    assert "measured here" in text
    assert "03_asha_graph_search" in text
    monkeypatch.setattr(
        sys, "argv", ["ktglite", "plan", "--profile", "paper", "--images-per-second", "100"]
    )
    commands.main()
    assert "not measured" in capsys.readouterr().out


def test_the_paper_is_measured_in_two_iterations_of_few_images(monkeypatch, capsys):
    """A plan must not take as long as what it plans: counted here, whatever the clock says."""
    seen, forward = [], trainer._forward

    def counted(net, images, learns):
        seen.append(tuple(images.shape))
        return forward(net, images, learns)

    monkeypatch.setattr(trainer, "_forward", counted)
    monkeypatch.setattr(plan, "_start_seconds", lambda: 1.0)
    speed = plan.measure(parameters("paper")["02"])
    assert capsys.readouterr().out.startswith("measuring 2 iterations of 3 x resnet18, batches of ")
    assert len(seen) == 2 * 3
    assert {shape[2:] for shape in seen} == {(224, 224)}
    assert 2 <= seen[0][0] <= 16
    assert min(speed.train, speed.evaluate, speed.memory) > 0
