"""Table 1 as data, and the tables made from records."""

import random

import numpy as np
import pytest

from ktglite import ablation

SOURCES = ["imagenet1k_standin", "fractaldb1k"]


def records(seeds=3, gain=20.0, skip=()):
    rng, found = np.random.default_rng(0), []
    for label, graph in ablation.ablation_grid("resnet18_tiny", SOURCES).items():
        for seed in range(seeds):
            accuracy = 40 + gain * ("1" in label.rpartition("/")[2]) + rng.normal()
            if (label, seed) not in skip:
                found.append(
                    {"label": label, "graph": graph.to_dict(), "seed": seed, "test_accuracy": [accuracy, 1.0, 2.0]}
                )
    return found


def test_eight_patterns_in_the_paper_s_order():
    graphs = ablation.ablation_graphs("resnet18_tiny", "fractaldb1k")
    assert list(graphs) == ["none", "3", "2", "2+3", "1", "1+3", "1+2", "1+2+3"]
    assert [node.init for node in graphs["1+3"].nodes] == ["fractaldb1k", "scratch", "fractaldb1k"]
    assert all(gate == "through" for graph in graphs.values() for row in graph.gates for gate in row)


@pytest.mark.parametrize(("n", "rows"), [(2, 4), (3, 8), (4, 16)])
def test_other_sizes(n, rows):
    assert len(set(ablation.ablation_graphs("resnet18_tiny", "fractaldb1k", n).values())) == rows


def test_fifteen_distinct_graphs():
    grid = ablation.ablation_grid("resnet18_tiny", SOURCES)
    assert len(grid) == len(set(grid.values())) == 15


def test_table_has_mean_std_n_and_the_paper_beside():
    table = ablation.ablation_table(records())
    own = [r["test_accuracy"][0] for r in records() if r["label"] == "fractaldb1k/1+2"]
    row = table.loc["1+2", "FractalDB-1k"]
    assert row["mean"] == pytest.approx(np.mean(own))
    assert row["std"] == pytest.approx(np.std(own, ddof=1))
    assert row["n"] == 3
    assert row["paper mean"] == 94.27
    assert list(table.loc["1+3", ""]) == ["✓", "–", "✓"]
    assert (table.loc["none", "ImageNet-1k stand-in"]["mean"]) == table.loc["none", "FractalDB-1k"]["mean"]


def test_a_stand_in_is_never_without_the_word():
    table = ablation.ablation_table(records())
    for text in (
        ablation.markdown(ablation.format_table(table)),
        ablation.style_table(table).to_html(),
        ablation.claims_table(records(), scale="quick").query("claim in ['C1', 'C2', 'C3']").to_csv(),
    ):
        assert text.replace("paper, ImageNet-1k", "").count("ImageNet-1k") == text.count("ImageNet-1k stand-in")


def test_missing_runs_lower_n_and_break_nothing():
    skip = {("fractaldb1k/1", seed) for seed in range(3)} | {("none", 2)}
    found = records(skip=skip)
    table = ablation.ablation_table(found)
    assert table.loc["1", "FractalDB-1k"]["n"] == 0
    assert table.loc["none", "FractalDB-1k"]["n"] == 2
    claims = ablation.claims_table(found)
    row = claims[(claims.claim == "C1") & (claims.source == "FractalDB-1k")].iloc[0]
    assert row["this run verdict"] == "not measured"


def test_files_do_not_depend_on_the_order_of_records(tmp_path):
    found = records()
    shuffled = random.Random(0).sample(found, len(found))
    for folder, order in (("a", found), ("b", shuffled)):
        ablation.write_table(ablation.ablation_table(order, SOURCES), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert r"\toprule" in (tmp_path / "a/table1.tex").read_text()


def test_claims_are_computed():
    def verdicts(found, claim):
        table = ablation.claims_table(found, scale="quick")
        assert set(table.scale) == {"quick"}
        return set(table[table.claim == claim]["this run verdict"])

    assert verdicts(records(gain=20), "C1") == {"supported"}
    assert verdicts(records(gain=-20), "C1") == {"contradicted"}
    assert verdicts(records(gain=0), "C1") == {"not resolved at this n"}
    assert verdicts(records(seeds=1), "C1") == {"not resolved at this n"}
    assert verdicts(records(), "C4") == {"not measured"}


def test_the_paper_through_the_same_rule():
    table = ablation.claims_table(records(), scale="quick").set_index(["claim", "source"])
    assert table.loc[("C1", "ImageNet-1k stand-in"), "paper verdict"] == "supported"
    assert table.loc[("C1", "FractalDB-1k"), "paper verdict"] == "not resolved at this n"
    assert table.loc[("C3", "FractalDB-1k"), "paper effect"].startswith("+3.82")


def test_search_claims_come_from_fresh_seeds():
    def study(choices, values):
        entry = {"label": "top 1", "seeds": [7, 8, 9], "test_accuracy": values}
        return {"choices": ["scratch", *choices], "reevaluated": [entry]}

    summaries = {
        "none": study([], [40.0, 41.0, 40.5]),
        "imagenet1k": study(["imagenet1k_standin"], [60.0, 61.2, 60.3]),
        "fractaldb1k": study(["fractaldb1k"], [40.0, 41.5, 40.1]),
        "mixed": study(["imagenet1k_standin", "fractaldb1k"], [60.2, 61.0, 60.6]),
    }
    table = ablation.claims_table(records(), summaries)
    c4 = table[table.claim == "C4"]["this run verdict"].tolist()
    assert c4 == ["supported", "not resolved at this n", "supported"]
    assert "stand-in" in table[table.claim == "C5"].iloc[0]["says"]
