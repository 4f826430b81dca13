"""Table 1 as data, and the tables made from records."""

import json
import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from ktglite import data, models, trainer
from ktglite import figures as plots
from ktglite.experiments import ablation, claims, runs

SOURCES = ["imagenet1k_standin", "fractaldb1k"]
REFERENCE = Path(__file__).parents[1] / "data/reference_runs"


def records(seeds=3, gain=20.0, skip=(), sources=SOURCES, n=3):
    rng, found = np.random.default_rng(0), []
    for label, graph in ablation.ablation_grid("resnet18_w8", sources, n).items():
        for seed in range(seeds):
            accuracy = 40 + gain * ("1" in label.rpartition("/")[2]) + rng.normal()
            if (label, seed) not in skip:
                curve = [{"epoch": e, "val_accuracy": [accuracy * e / 3]} for e in (1, 2, 3)]
                run = {"label": label, "graph": graph.to_dict(), "seed": seed, "epochs": curve}
                run["data"] = {"name": "x", "fingerprint": "0"}
                found.append(run | {"test_accuracy": [accuracy, 1.0, 2.0]})
    return found


def test_eight_patterns_in_the_paper_s_order_and_each_start_alone():
    graphs = ablation.ablation_graphs("resnet18_w8", "fractaldb1k")
    assert list(graphs) == ["none", "3", "2", "2+3", "1", "1+3", "1+2", "1+2+3"]
    assert [node.init for node in graphs["1+3"].nodes] == ["fractaldb1k", "scratch", "fractaldb1k"]
    assert {gate for g in graphs.values() for row in g.gates for gate in row} == {"through"}
    grid = ablation.ablation_grid("resnet18_w8", SOURCES)
    alone = [label for label, graph in grid.items() if graph.size == 1]
    assert alone == ["alone", "imagenet1k_standin/alone", "fractaldb1k/alone"]
    assert len(grid) == len(set(grid.values())) == 15 + 3


@pytest.mark.parametrize("n", [2, 3, 4])
def test_any_number_of_nodes_to_table_figures_and_claims(tmp_path, n):
    found = records(seeds=5, n=n)
    table = ablation.ablation_table(found)
    assert list(table.index) == ablation.patterns(n)
    assert len(set(ablation.ablation_graphs("resnet18_w8", "fractaldb1k", n).values())) == 2**n
    assert list(table[""].columns) == [f"node {i + 1}" for i in range(n)]
    assert ("FractalDB-1k", "paper mean") in table or n != 3  # its table is one of three nodes
    ablation.write_table(table, tmp_path)
    assert (tmp_path / "table1.md").read_text().count("\n") == 2 + 2**n
    judged = claims.claims_table(found).set_index(["claim", "source"])
    assert judged.loc[("C1", "FractalDB-1k"), "verdict"] == "supported"
    assert (judged.loc[("C1", "FractalDB-1k"), "paper verdict"] == "not measured") == (n != 3)
    assert len(plots.plot_table1(found).axes) == (4 if n == 3 else 2)
    assert len(plots.plot_main_effects(found).axes) == (4 if n == 3 else 2)
    assert len(plots.plot_learning_curves(found).axes) == 4
    plt.close("all")


def test_weights_files_and_torchvision_s_names_are_sources(tmp_path):
    sources = ["some/where/my_weights.pt", "ResNet50_Weights.IMAGENET1K_V2", "fractaldb1k"]
    found = records(sources=sources)
    assert ablation.sources_of(found) == sources
    table = ablation.ablation_table(found)
    titles = list(dict.fromkeys(table.columns.get_level_values(0)))
    assert titles == ["", "my_weights", "ResNet50_Weights.IMAGENET1K_V2", "FractalDB-1k"]
    assert (table["my_weights", "n"] == 3).all()
    ablation.write_table(table, tmp_path)
    assert r"my\_weights" in (tmp_path / "table1.tex").read_text()
    text = claims.exploratory(found).to_csv() + claims.claims_table(found).to_csv()
    assert "my_weights" in text
    assert "some/where" not in text
    title = plots.plot_learning_curves(found).axes[0].get_title()
    assert title.startswith("my_weights: node 1 from scratch")
    plt.close("all")


@pytest.mark.parametrize(
    ("sources", "nodes", "words"),
    [
        (SOURCES, 1, "nodes is 1: Table 1 needs an auxiliary node"),
        (["fractaldb1k", "scratch"], 3, "scratch is in every table .* --sources fractaldb1k"),
        (["a/x.pt", "b/x.pt"], 3, "rename a file"),
        ([], 3, "sources is empty: Table 1 needs one"),
        (["ResNet18_Weights.V9"], 3, "unknown init 'ResNet18_Weights.V9'"),
    ],
)
def test_what_is_no_table_is_refused(sources, nodes, words):
    with pytest.raises(ValueError, match=words):
        ablation.ablation_grid("resnet18_w8", sources, nodes)


def test_arms_of_one_seed_share_all_but_the_weights(tiny_data, tmp_path, monkeypatch):
    """Head, batches and views of a seed are the same in every arm, and others of another seed."""
    state = models.initialise("resnet18_w8", "scratch", 3, seed=99).state_dict()
    save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
    how = {"batch_size": 8, "augmentation": "shift", "precision": "fp32", "device": "cpu"}
    config = trainer.TrainConfig(epochs=1, **how)
    seen = []
    apply = data.apply_views
    monkeypatch.setattr(trainer, "apply_views", lambda *a: seen.append(apply(*a)) or seen[-1])

    def arm(pattern, seed):
        seen.clear()
        graph = ablation.ablation_graphs("resnet18_w8", "fractaldb1k", 2)[pattern]
        nets = trainer.initial_models(graph, tiny_data, config, seed, tmp_path)
        start = [(net.conv1.weight.clone(), net.fc.weight.clone()) for net in nets]
        list(trainer.epochs(graph, tiny_data, config, seed, tmp_path, models=nets))
        return start, torch.cat(seen)

    [(conv, head), (conv_2, head_2)], views = arm("none", 0)
    [(loaded, same_head), (same_conv_2, same_head_2)], same_views = arm("1", 0)
    [(_, other_head), _], other_views = arm("none", 1)
    for one, other in (
        (views, same_views),
        (head, same_head),
        (head_2, same_head_2),
        (conv_2, same_conv_2),
        (loaded, state["conv1.weight"]),
    ):
        assert torch.equal(one, other)
    for one, other in ((conv, conv_2), (head, other_head), (views, other_views)):
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in REFERENCE.glob("*/table1.json"))
)
def test_committed_records_redraw_everything_without_training(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(runs, "epochs", lambda *a, **k: pytest.fail("trained"))
    found = json.loads((REFERENCE / folder / "table1.json").read_text())
    table = ablation.ablation_table(found)
    assert (table.xs("n", axis=1, level=1) >= 3).all(axis=None)
    written = claims.write_tables(found, tmp_path, scale=folder)
    committed = list((REFERENCE / folder / "tables").iterdir())
    assert {"table1.csv", "table1.md", "table1.tex"} <= {path.name for path in committed}
    assert {path.name for path in committed} <= {path.name for path in written}
    for path in committed:
        assert (tmp_path / path.name).read_text() == path.read_text()
    judged = claims.claims_table(found)
    judged = judged[judged.claim.isin(["C1", "C2", "C3"])]
    assert "not measured" not in judged.verdict.to_list()
    for draw in (plots.plot_table1, plots.plot_learning_curves, plots.plot_main_effects):
        assert draw(found).axes[0].has_data()
    plt.close("all")


def test_table_has_mean_std_n_and_the_paper_beside():
    found = records()
    for record in found:
        start = "fractaldb1k/" in record["label"]
        record["weights"] = {"fractaldb1k resnet18_w8": f"{record['seed'] % 2}"} if start else {}
    table = ablation.ablation_table(found)
    own = [r["test_accuracy"][0] for r in found if r["label"] == "fractaldb1k/1+2"]
    row = table.loc["1+2", "FractalDB-1k"]
    assert row["mean"] == pytest.approx(np.mean(own))
    assert row["std"] == pytest.approx(np.std(own, ddof=1))
    assert row["n"] == 3
    assert row["paper mean"] == 94.27
    assert list(table.loc["1+3", ""]) == ["✓", "–", "✓"]
    means = table.loc["none"].xs("mean", level=1)
    assert means["ImageNet-1k stand-in"] == means["FractalDB-1k"]
    table = table["FractalDB-1k"]
    assert table["pretrainings"].to_list() == [0, *[2] * 7]
    assert all(pd.api.types.is_integer_dtype(table[count]) for count in ("n", "pretrainings"))
    for row in ("none", "1+2+3"):  # exchangeable nodes: the other two have 1 and 2 %
        assert table["mean over nodes"][row] == pytest.approx((table["mean"][row] + 3) / 3)
    assert table["mean over nodes"].notna().sum() == 2
    with pytest.raises(ValueError, match="label is None of the run with seed 0: name its row"):
        ablation.ablation_table([found[0] | {"label": None}])


def test_a_stand_in_is_never_without_the_word():
    table = ablation.ablation_table(records())
    for text in (
        ablation.format_table(table).to_csv(),
        ablation.style_table(table).to_html(),
        claims.claims_table(records(), scale="quick").to_csv(),
    ):
        named = text.replace("paper, ImageNet-1k", "").count("ImageNet-1k")
        assert named == text.count("ImageNet-1k stand-in")


def test_missing_runs_lower_n_and_one_has_a_value_without_spread(tmp_path):
    skip = {("fractaldb1k/1", seed) for seed in range(3)} | {("none", 2)}
    skip |= {("fractaldb1k/1+2", 0), ("fractaldb1k/1+2", 1)}
    found = records(skip=skip)
    table = ablation.ablation_table(found)
    assert table["FractalDB-1k", "n"][["1", "none", "1+2"]].to_list() == [0, 2, 1]
    shown = ablation.format_table(table)["FractalDB-1k"]
    own = next(r for r in found if r["label"] == "fractaldb1k/1+2")["test_accuracy"][0]
    assert shown["1+2"] == f"{own:.2f} (1)"
    assert shown["1"] == "– (0)"
    for path in ablation.write_table(table, tmp_path)[1:]:
        assert "nan" not in path.read_text(encoding="utf-8")
    judged = claims.claims_table(found).set_index(["claim", "source"])
    assert judged.loc[("C1", "FractalDB-1k"), "verdict"] == "not measured"


def test_live_runs_lie_where_the_recorded_ones_predict_them():
    recorded = records(seeds=10)
    live = [r | {"seed": 99, "test_accuracy": [40.0 + 20 * ("1" in r["label"].rpartition("/")[2])]}
            for r in recorded if r["seed"] == 0]  # fmt: skip
    check = ablation.reproduction_check(live, recorded).set_index("row")
    assert len(check) == 18
    assert check.inside.all()
    row = check.loc["FractalDB-1k on nodes 1+2"]
    own = [r["test_accuracy"][0] for r in recorded if r["label"] == "fractaldb1k/1+2"]
    half = 2.262157 * np.std(own, ddof=1) * np.sqrt(1 + 1 / 10)  # t(0.975, 9 df)
    assert (row.low, row.high) == pytest.approx((np.mean(own) - half, np.mean(own) + half))
    assert (row.live, row.n) == (60.0, 10)
    twice = [record | {"seed": seed} for record in live for seed in (98, 99)]
    row = ablation.reproduction_check(twice, recorded).set_index("row")
    row = row.loc["FractalDB-1k on nodes 1+2"]
    half *= np.sqrt(1 / 2 + 1 / 10) / np.sqrt(1 + 1 / 10)  # of the mean of two runs
    assert row.high - row["mean"] == pytest.approx(half)
    live = [r | {"test_accuracy": [90.0]} if r["label"] == "fractaldb1k/2" else r for r in live]
    text = ablation.reproduction_sentence(ablation.reproduction_check(live, recorded))
    assert text.startswith("17 of 18 rows of this machine's run lie in the 95 % prediction")
    assert "17.1 are expected if this machine reproduces the records" in text
    assert "Outside: FractalDB-1k on node 2 (90.00 %, recorded" in text


def test_only_other_seeds_of_the_same_training_predict_a_live_run():
    recorded = [r | {"config": {"epochs": 3, "device": "cpu"}} for r in records(seeds=4)]
    live = [r | {"config": {"epochs": 3, "device": "cuda"}} for r in recorded if r["seed"] == 0]
    check = ablation.reproduction_check(live, recorded)
    assert set(check.n) == {3}
    other = [r | {"config": {"epochs": 4, "device": "cpu"}} for r in live]
    check = ablation.reproduction_check(other, recorded)
    assert set(check.n) == {0}
    assert check.inside.isna().all()
    assert ablation.reproduction_sentence(check).startswith("No row has two recorded runs")


def test_a_live_run_never_counts_beside_recorded_ones(tmp_path):
    """A live seed may be one that was looked at before the contrasts were declared."""
    recorded = [r | {"config": {"epochs": 3}, "seed": r["seed"] + 10} for r in records(seeds=3)]
    live = [r | {"seed": 0, "test_accuracy": [99.0]} for r in recorded if r["seed"] == 10]
    (tmp_path / "table1.json").write_text(json.dumps(recorded))
    judged = ablation.judged_runs(live, tmp_path)
    assert judged == recorded
    assert set(claims.claims_table(judged).n) == {3}
    once = [r for r in recorded if r["label"] != "none" or r["seed"] == 10]  # one is no sample
    (tmp_path / "table1.json").write_text(json.dumps(once))
    judged = ablation.judged_runs(live, tmp_path)
    assert [r["seed"] for r in judged if r["label"] == "none"] == [0]
    assert sorted(r["seed"] for r in judged if r["label"] == "alone") == [10, 11, 12]


def test_this_machine_s_runs_count_where_nothing_alike_is_recorded(tmp_path):
    recorded = [r | {"config": {"epochs": 3}} for r in records(seeds=3)]
    (tmp_path / "table1.json").write_text(json.dumps(recorded))
    longer = [r | {"config": {"epochs": 4}} for r in recorded]
    wider = ablation.ablation_grid("resnet18_w16", SOURCES)
    wider = [r | {"graph": wider[r["label"]].to_dict()} for r in recorded]
    for live in ([], longer, [r | {"data": {"fingerprint": "1"}} for r in recorded], wider):
        assert ablation.judged_runs(live, tmp_path) == live
    assert ablation.judged_runs(longer, tmp_path / "nowhere") == longer
    kit = ablation.read_runs(REFERENCE / "quick")
    assert ablation.judged_runs(kit[:50], REFERENCE / "cars64") == kit[:50]
    rows = {record["label"] for record in kit[:50]}
    assert {r["label"] for r in ablation.judged_runs(kit[:50], REFERENCE / "quick")} == rows


def test_files_do_not_depend_on_the_order_of_records(tmp_path):
    found = records()
    shuffled = random.Random(0).sample(found, len(found))
    for folder, order in (("a", found), ("b", shuffled)):
        ablation.write_table(ablation.ablation_table(order, SOURCES), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert r"\toprule" in (tmp_path / "a/table1.tex").read_text()


def test_runs_that_are_not_there_or_cut_short_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebook 02"):
        ablation.read_runs(tmp_path)
    (tmp_path / "table1.json").write_text('[{"label": "no')
    with pytest.raises(ValueError, match="table1.json is no table of runs"):
        ablation.read_runs(tmp_path)
    for records in ([], [{"label": "none"}]):  # the second time too: what a later run wrote
        (tmp_path / "table1.json").write_text(json.dumps(records))
        assert ablation.read_runs(tmp_path) == records
