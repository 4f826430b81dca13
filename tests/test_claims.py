"""The claims: declared contrasts, verdicts computed from records, and the paper by the same rule."""

import numpy as np
import pytest
from test_ablation import SOURCES, records

from ktglite import Graph, Node, independent
from ktglite.experiments import claims
from ktglite.experiments.ablation import patterns
from ktglite.experiments.space import SearchConfig, sample_graphs


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_declared_contrast_is_a_difference(n):
    for name, weights in claims.primaries("x", patterns(n)).items():
        assert sum(weights.values()) == pytest.approx(0), name
    helpers = {"none": 0, "3": 1, "2": 1, "2+3": 2}
    slope = claims.primaries("x", patterns(3))["C2"]
    assert sum(weight * 7 * helpers[name] for name, weight in slope.items()) == pytest.approx(
        7
    )  # per auxiliary
    one = claims.primaries("x", patterns(3))["C1"]
    assert one == dict.fromkeys(["1", "1+3", "1+2", "1+2+3"], 0.25) | dict.fromkeys(
        ["none", "3", "2", "2+3"], -0.25
    )


def verdicts(found, claim):
    table = claims.claims_table(found, scale="quick")
    assert set(table.scale) == {"quick"}
    return set(table[table.claim == claim].verdict)


def test_verdicts_follow_the_records():
    assert verdicts(records(gain=20), "C1") == {"supported"}
    assert verdicts(records(gain=-20), "C1") == {"contradicted"}
    assert verdicts(records(gain=0), "C1") == {"not resolved at this n"}
    assert verdicts(records(seeds=1), "C1") == {"not resolved at this n"}
    assert verdicts(records(gain=20), "C2") == {
        "not resolved at this n"
    }  # only node 1 matters in these
    assert verdicts(records(gain=20), "C0") >= {"supported"}  # alone has no gain in these
    assert verdicts(records(), "C4") == set()


@pytest.mark.parametrize("claim", ["C1", "C2", "C3"])
@pytest.mark.parametrize("source", ["ImageNet-1k stand-in", "FractalDB-1k"])
def test_the_paper_s_own_numbers_support_its_claims(claim, source):
    table = claims.claims_table(records()).set_index(["claim", "source"])
    assert table.loc[(claim, source), "paper verdict"] == "supported"


def test_the_paper_s_effects_by_hand():
    table = claims.claims_table(records()).set_index(["claim", "source"])
    scratch, trained = [90.45, 91.97, 92.20, 93.84], [93.46, 94.08, 94.27, 93.96]
    main = np.mean(trained) - np.mean(scratch)
    assert table.loc[("C1", "FractalDB-1k"), "paper effect"] == pytest.approx(main)
    assert table.loc[("C2", "FractalDB-1k"), "paper effect"] == pytest.approx((93.84 - 90.45) / 2)
    assert table.loc[("C3", "FractalDB-1k"), "paper effect"] == pytest.approx(93.96 - 90.45)


def study(choices, values, graph=None, alone=None):
    seeds = list(range(7, 7 + len(values)))
    graph = (graph or Graph((Node("resnet18"),) * 2, [["through"] * 2] * 2)).to_dict()
    entries = [{"label": "top 1", "seeds": seeds, "test_accuracy": values}]
    entries.append(
        {"label": "independent", "seeds": seeds, "test_accuracy": alone or [v - 3 for v in values]}
    )
    return {"choices": ["scratch", *choices], "reevaluated": entries, "best": {"graph": graph}}


SUMMARIES = {
    "none": study([], [40.0, 41.0, 40.5]),
    "imagenet1k": study(["imagenet1k_standin"], [60.0, 61.2, 60.3]),
    "fractaldb1k": study(
        ["fractaldb1k"], [40.0, 41.5, 40.1], independent(Node("resnet18"), Node("resnet18"))
    ),
    "mixed": study(["imagenet1k_standin", "fractaldb1k"], [60.2, 61.0, 60.6]),
}


def test_search_claims_come_from_fresh_seeds():
    table = claims.claims_table(records(), SUMMARIES)
    assert table[table.claim == "C4"].verdict.tolist() == [
        "supported",
        "not resolved at this n",
        "supported",
    ]
    assert table[table.claim == "C4"]["paper effect"].tolist() == [4.43, 3.41, 4.64]
    c5 = table[table.claim == "C5"]
    assert c5.verdict.tolist() == ["not resolved at this n", "supported"]
    assert c5.p_equivalent.iloc[0] < 0.05 < c5.p_equivalent.iloc[1]
    assert all("one search each" in says for says in table[table.claim.isin(["C4", "C5"])].says)
    assert (
        "the winner is a single network"
        in table[table.source == "searched: FractalDB-1k"].says.iloc[0]
    )
    assert (
        "single network" not in table[table.source == "searched: ImageNet-1k stand-in"].says.iloc[0]
    )


def test_a_gain_splits_into_start_and_graph():
    split = claims.split_gain(SUMMARIES).set_index(["condition", "part"])
    total = np.mean([60.0, 61.2, 60.3]) - np.mean([40.0, 41.0, 40.5])
    parts = split.loc["ImageNet-1k stand-in"].effect
    assert parts.sum() == pytest.approx(total)
    assert parts["the graph adds"] == pytest.approx(
        0
    )  # each graph adds 3 points to its start alone


def test_a_forest_has_a_row_per_claim_and_the_paper_beside():
    table = claims.forest({"quick": (records(), SUMMARIES)})
    assert list(table.columns) == [
        "set",
        "claim",
        "source",
        "effect",
        "low",
        "high",
        "n",
        "verdict",
    ]
    assert set(table["set"]) == {"quick", "paper"}
    assert set(table[table["set"] == "quick"].claim) == {"C0", "C1", "C2", "C3", "C4", "C5"}


def test_the_papers_searches_are_one_run_each_and_stand_beside_searches_only():
    table = claims.forest({"quick": (records(), SUMMARIES)})
    once = table[(table["set"] == "paper") & table.claim.isin(["C4", "C5"])].set_index("source")
    assert once.loc["searched: ImageNet-1k", "effect"] == 4.43
    assert once.loc[
        "searched: ImageNet-1k + FractalDB-1k, against ImageNet-1k", "effect"
    ] == pytest.approx(0.21)
    assert once.low.isna().all()
    assert set(once.n) == {1}
    assert set(once.verdict) == {"not measured"}
    without = claims.forest({"quick": (records(), {})})
    assert not set(without.claim) & {"C4", "C5"}


def test_exploratory_effects_have_no_verdict_and_check_the_symmetry():
    table = claims.exploratory(records(seeds=5))
    assert "verdict" not in table
    ours = table[(table["from"] == "this run") & (table.source == "FractalDB-1k")].set_index(
        "contrast"
    )
    row = ours.loc["node 2 - node 3 (0 by design)"]
    assert row.low < 0 < row.high
    assert ours.loc["main effect of node 1", "effect"] == pytest.approx(20, abs=2)
    assert {f"node 1, when {name}" for name in ("none", "3", "2", "2+3")} <= set(ours.index)
    found = claims.run_arms(records(seeds=5))
    less = found["fractaldb1k", "1+2"].mean - found["fractaldb1k", "alone"].mean
    assert ours.loc["1+2 less its target alone", "effect"] == pytest.approx(less)
    less = found["fractaldb1k", "2+3"].mean - found["scratch", "alone"].mean
    assert ours.loc["2+3 less its target alone", "effect"] == pytest.approx(less)


def test_graphs_of_two_nodes_have_a_table_without_the_papers_numbers():
    table = claims.claims_table(records(n=2))
    assert table["paper effect"].isna().all()
    assert set(table["paper verdict"]) == {"not measured"}


def test_luck_of_smaller_searches():
    def trial(value, init):
        graph = {
            "nodes": [{"arch": "resnet18", "init": init}],
            "gates": [["through"]],
            "transfer_weight": 1.0,
        }
        return {"state": "COMPLETE", "value": value, "test_accuracy": value - 1, "graph": graph}

    summary = {"trials": [trial(float(v), "scratch") for v in range(10)] + [{"state": "PRUNED"}]}
    whole = claims.search_luck(summary, 10, repeats=5)
    assert set(whole.test) == {8.0}
    assert whole.single.all()
    few = claims.search_luck(summary, 2, repeats=400)
    assert few.selection.mean() == pytest.approx(
        6.33, abs=0.4
    )  # the expected maximum of two of 0..9
    with pytest.raises(ValueError, match="only 10 graphs"):
        claims.search_luck(summary, 11)


def test_gate_effects_are_found_again():
    settings = SearchConfig("fractaldb1k", arch="resnet18_w8", seed=3)
    rng, gain, trials = (
        np.random.default_rng(0),
        {"through": 5, "cutoff": 0, "linear": 2, "correct": -3},
        [],
    )
    for graph in (graph.to_dict() for graph in sample_graphs(settings, 80)):
        pretrained = [node["init"] != "scratch" for node in graph["nodes"]]
        value = (
            40
            + 10 * pretrained[0]
            + 2 * sum(pretrained[1:])
            + sum(gain[gate] for gate in graph["gates"][0][1:])
        )
        trials.append({"state": "COMPLETE", "graph": graph, "value": value + rng.normal(0, 0.5)})
    summary = {"trials": [*trials, {"state": "PRUNED"}], "choices": settings.choices}
    summary["search"] = {"gates": list(gain)}
    table = claims.gate_effects(summary).set_index("term")
    planted = {
        "node 1 from FractalDB-1k": 10,
        "an auxiliary from FractalDB-1k": 2,
        "label edge: through": 0,
    }
    for term, effect in (
        planted | {f"edge from an auxiliary: {g}": gain[g] for g in gain if gain[g]}
    ).items():
        assert table.effect[term] == pytest.approx(effect, abs=0.7)
        assert table.low[term] < table.effect[term] < table.high[term] < table.low[term] + 2
    assert len(table) == 8
    assert set(table.n) == {80}
    with pytest.raises(ValueError, match="8 graphs were trained to the end: too few for 9 effects"):
        claims.gate_effects(summary | {"trials": trials[:8]})


def test_sources_are_named_in_the_order_given():
    assert list(claims.claims_table(records(), sources=SOURCES[::-1]).source)[:2] == [
        "no pre-training",
        "FractalDB-1k",
    ]
