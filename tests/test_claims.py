"""The claims: declared contrasts, verdicts from records, and the paper by the same rule."""

from pathlib import Path

import numpy as np
import pytest
from test_ablation import SOURCES, records

from ktglite import Node, all_through, independent
from ktglite.experiments import claims, stats
from ktglite.experiments.ablation import patterns, read_runs, run_arms
from ktglite.experiments.space import SearchConfig, sample_graphs

REFERENCE = Path(__file__).parents[1] / "data/reference_runs"


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_declared_contrast_is_a_difference(n):
    for name, weights in claims.primaries(patterns(n)).items():
        assert sum(weights.values()) == pytest.approx(0), name
    declared = claims.primaries(patterns(3))
    helpers = {"none": 0, "3": 1, "2": 1, "2+3": 2}
    gain = sum(weight * 7 * helpers[name] for name, weight in declared["C2"].items())
    assert gain == pytest.approx(7)  # per auxiliary
    trained = dict.fromkeys(["1", "1+3", "1+2", "1+2+3"], 0.25)
    assert declared["C1"] == trained | dict.fromkeys(["none", "3", "2", "2+3"], -0.25)


def verdicts(found, claim):
    table = claims.claims_table(found, scale="quick")
    assert set(table.scale) == {"quick"}
    return set(table[table.claim == claim].verdict)


def test_verdicts_follow_the_records():
    for given, claim, expected in (
        ({"gain": 20}, "C1", {"supported"}),
        ({"gain": -20}, "C1", {"contradicted"}),
        ({"gain": 0}, "C1", {"not resolved at this n"}),
        ({"seeds": 1}, "C1", {"not resolved at this n"}),
        ({"gain": 20}, "C2", {"not resolved at this n"}),  # only node 1 gains
        ({}, "C4", set()),
    ):
        assert verdicts(records(**given), claim) == expected, given
    assert "supported" in verdicts(records(gain=20), "C0")  # alone has no gain in these


def test_a_verdict_does_not_depend_on_who_asks():
    """Whichever part of the claims is shown, in whichever order, with searches or without."""
    found = records(gain=2.0)
    numbers, words = ["effect", "low", "high", "p", "p_holm", "n"], ["verdict", "paper verdict"]
    whole = claims.claims_table(found).set_index(["claim", "source"])
    turned = claims.claims_table(found, sources=SOURCES[::-1])
    assert list(turned.source)[:2] == ["no pre-training", "FractalDB-1k"]
    for asked in (
        claims.claims_table(found, SUMMARIES),
        turned,
        claims.claims_table(found, sources=SOURCES[1:]),
        claims.claims_table(found[::-1]),
    ):
        part = asked[asked.family != ""].set_index(["claim", "source"])
        same = whole.loc[part.index]
        np.testing.assert_allclose(part[numbers].astype(float), same[numbers].astype(float))
        assert part[words].equals(same[words])
    assert len(whole) == 1 + 2 * 4


def test_holm_is_over_c1_to_c3_of_all_sources_and_over_c0_apart():
    table = claims.claims_table(records(gain=2.0))
    for family, size in (("C0", 3), ("C1-C3", 6)):
        own = table[table.family == family]
        assert len(own) == size
        assert own.p_holm.to_list() == pytest.approx(stats.holm(own.p))
        assert own.p_holm.min() == pytest.approx(min(1, size * own.p.min()))


def test_all_recorded_seeds_are_used():
    """ "none" and "alone" have five seeds, the other rows three."""
    found = [r for r in records(seeds=5) if r["label"] in ("none", "alone") or r["seed"] < 3]
    table = claims.claims_table(found).set_index(["claim", "source"])

    def mean(label):
        return np.mean([r["test_accuracy"][0] for r in found if r["label"] == label])

    row = table.loc["C0", "no pre-training"]
    assert row.n == 5
    assert row.effect == pytest.approx(mean("none") - mean("alone"))
    row = table.loc["C3", "FractalDB-1k"]
    assert row.n == 3
    assert row.effect == pytest.approx(mean("fractaldb1k/1+2+3") - mean("none"))


# (effect, paired t by seed, Welch over rows), computed by an independent program
QUICK = {
    ("scratch", "C0"): (-10.2, (-22.7, 2.3), (-22.7, 2.4)),
    ("imagenet1k_standin", "C1"): (27.3, (21.8, 32.9), (24.9, 29.8)),
    ("imagenet1k_standin", "C2"): (9.5, (0.8, 18.2), (4.3, 14.6)),
    ("imagenet1k_standin", "C3"): (42.7, (30.1, 55.2), (30.3, 55.0)),
    ("fractaldb1k", "C0"): (-33.0, (-35.7, -30.3), (-36.7, -29.4)),
}
CARS = {("fractaldb1k", "C1"): (-2.8, (-3.9, -1.7), (-3.6, -2.1))}


@pytest.mark.parametrize(("folder", "known"), [("quick_short", QUICK), ("cars64", CARS)])
def test_recorded_runs_give_the_intervals_of_an_independent_program(folder, known):
    found = read_runs(REFERENCE / folder)
    arms = run_arms(found)
    known_alone = {name: stats.Arm(arm.mean, arm.std, arm.n) for name, arm in arms.items()}
    for (source, claim), (effect, paired, welch) in known.items():
        weights = claims.primaries(patterns(3))[claim]
        if source == "scratch":
            weights = {"none": 1.0, "alone": -1.0}
        weights = {(source, pattern): weight for pattern, weight in weights.items()}
        for given, interval in ((arms, paired), (known_alone, welch)):
            row = stats.contrast(given, weights)
            assert row["effect"] == pytest.approx(effect, abs=0.06)
            assert (row["low"], row["high"]) == pytest.approx(interval, abs=0.06)


def test_the_paper_s_own_numbers_support_its_claims_with_effects_by_hand():
    table = claims.claims_table(records()).set_index(["claim", "source"])
    judged = table[table.index.get_level_values("claim") != "C0"]
    assert len(judged) == 3 * 2
    assert set(judged["paper verdict"]) == {"supported"}
    scratch, trained = [90.45, 91.97, 92.20, 93.84], [93.46, 94.08, 94.27, 93.96]
    main = np.mean(trained) - np.mean(scratch)
    effects = table["paper effect"]
    assert effects["C1", "FractalDB-1k"] == pytest.approx(main)
    assert effects["C2", "FractalDB-1k"] == pytest.approx((93.84 - 90.45) / 2)
    assert effects["C3", "FractalDB-1k"] == pytest.approx(93.96 - 90.45)


def rows_of(table, claim, origin="paper"):
    own = table[(table.claim == claim) & (table["from"] == origin)]
    return own.set_index("source").drop(columns=["from", "claim"])


def test_the_paper_s_secondary_effects_by_hand():
    """S1 and S2 of its Table 1 by Welch's test; Student's t for 6.17 degrees is 2.431."""
    table = claims.exploratory(records())
    s1 = rows_of(table, "S1").loc["ImageNet-1k stand-in"]
    assert s1.effect == pytest.approx((95.37 - 94.26) / 2 - (93.13 - 90.45) / 2)
    error = np.sqrt((0.25**2 + 0.21**2 + 0.30**2 + 0.42**2) / 4 / 3)
    assert s1.high - s1.effect == pytest.approx(2.431 * error, rel=1e-3)
    assert [round(end, 2) for end in (s1.low, s1.high)] == [-1.21, -0.36]
    s1 = rows_of(table, "S1").loc["FractalDB-1k"]
    assert [round(x, 2) for x in (s1.effect, s1.low, s1.high)] == [-1.45, -2.06, -0.83]
    s2 = rows_of(table, "S2")
    assert s2.effect.to_list() == pytest.approx([93.46 - 94.26, 93.84 - 93.13])
    assert s2.contrast.to_list() == ["as start of node 1: row 1", "as auxiliaries: row 2+3"]
    assert set(s2.index) == {"FractalDB-1k minus ImageNet-1k stand-in"}
    assert "S3" not in set(table[table["from"] == "paper"].claim)


def test_epochs_to_what_a_network_from_scratch_ends_with():
    """Alone from scratch ends at 30, 32 and 31 %: the median, 31, is what others have to reach."""
    found = records()
    for record in found:
        curve = [10.0, 20.0, 25.0, [30.0, 32.0, 31.0][record["seed"]]]
        if "fractaldb1k" in record["label"]:
            curve = [30.5, 31.0, 40.0, 50.0]
        record["epochs"] = [{"val_accuracy": [value]} for value in curve]
    table = rows_of(claims.exploratory(found), "S3", "this run")
    assert set(table.unit) == {"epochs"}
    one, graph = table.loc["FractalDB-1k"].effect
    assert one == graph == 2 - 4  # from scratch in the last epoch, or never


def test_the_number_of_pretrainings_stands_beside_n():
    found = records(seeds=6)
    for record in found:
        source = record["label"].rpartition("/")[0]
        weights = {f"{source} resnet18_w8": f"{source}{record['seed'] % 3}"} if source else {}
        record["weights"] = weights if source != "fractaldb1k" else dict.fromkeys(weights, "one")
    table = claims.claims_table(found).set_index(["claim", "source"])
    assert table.pretrainings["C1", "ImageNet-1k stand-in"] == 3
    assert table.pretrainings["C1", "FractalDB-1k"] == 1
    assert table.pretrainings["C0", "no pre-training"] == 0
    row = table.loc["C1", "ImageNet-1k stand-in"]
    assert row.low_pretrainings < row.effect < row.high_pretrainings
    assert np.isnan(table.low_pretrainings["C1", "FractalDB-1k"])


def test_c0_against_convergence():
    labels = ("none", "alone", "fractaldb1k/alone", "fractaldb1k/1+2+3")
    found = []
    for epochs in (6, 3):
        for record in [record for record in records(seeds=2) if record["label"] in labels]:
            nodes = len(record["graph"]["nodes"])
            own = 50.0 + record["seed"] + (epochs if nodes > 1 else 0)
            record["test_accuracy"] = [own, own + 3, own][:nodes]
            record["epochs"] = [{"train_accuracy": [fit]} for fit in (10.0, 16.0 * epochs)]
            record["config"] = {"epochs": epochs}
            record["data"] = {"train": 640}
            found.append(record)
    table = claims.convergence_table(found)
    assert table.start.to_list() == ["no pre-training", "FractalDB-1k"] * 2
    assert table.epochs.to_list() == [3, 3, 6, 6]
    assert table.effect.to_list() == [3, 3, 6, 6]
    assert table.train_accuracy.to_list() == [48, 48, 96, 96]
    assert set(table.images) == {640}
    assert set(table.n) == {2}


def study(choices, values, make=all_through):
    entries = [{"label": "top 1", "seeds": [7, 8, 9], "test_accuracy": values}]
    found = {"choices": ["scratch", *choices], "reevaluated": entries, "select_on": "val"}
    found["best"] = {"graph": make(Node("resnet18_w8"), Node("resnet18_w8")).to_dict()}
    return found | {"data": {"name": "x", "fingerprint": "0"}, "training": {"epochs": 3}}


SUMMARIES = {
    "none": study([], [40.0, 41.0, 40.5]),
    "imagenet1k": study(["imagenet1k_standin"], [60.0, 61.2, 60.3]),
    "fractaldb1k": study(["fractaldb1k"], [40.0, 41.5, 40.1], independent),
    "mixed": study(["imagenet1k_standin", "fractaldb1k"], [60.2, 61.0, 60.6]),
}


def test_search_claims_come_from_fresh_seeds_and_have_no_verdict():
    table = claims.claims_table(records(), SUMMARIES)
    searched = table[table.source.str.startswith("searched")]
    assert set(searched.verdict) == {"descriptive"}
    assert searched.p_holm.isna().all()
    c4 = table[table.claim == "C4"]
    assert c4.effect.to_list() == pytest.approx([20, 40.533 - 40.5, 60.6 - 40.5], abs=0.01)
    assert c4["paper effect"].to_list() == [4.43, 3.41, 4.64]
    assert set(c4["paper verdict"]) == {"not measured"}
    assert table[table.claim == "C5"].effect.to_list() == pytest.approx([0.1, 20.067], abs=0.01)
    says = searched.set_index("source").says
    assert says.str.contains("one search each").all()
    assert "the winner is a single network" in says["searched: FractalDB-1k"].iloc[0]
    assert "single network" not in says["searched: ImageNet-1k stand-in"].iloc[0]


def test_a_searched_graph_is_held_against_table_1_s_target_alone():
    """Seeds differ, so that this is Welch's test."""
    found = records(seeds=5)
    table = claims.claims_table(found, SUMMARIES).set_index(["claim", "source"])
    row = table.loc["C0", "searched: no pre-training"]
    assert row.effect == pytest.approx(40.5 - run_arms(found)["scratch", "alone"].mean)
    assert not np.isnan(row.low)
    gap = claims.winner_gaps(SUMMARIES, found)["none"]
    assert gap["effect"] == pytest.approx(row.effect)
    assert (gap["winner"], gap["alone"]) == (3, 5)
    assert claims.winner_gaps(SUMMARIES, []) == {}


def test_a_target_alone_of_another_training_is_none():
    runs = [run | {"config": {"epochs": 3}} for run in records()]
    alone = run_arms(runs)["scratch", "alone"]
    assert claims.search_arms(SUMMARIES, runs)["none", "independent"].by_seed == alone.by_seed
    wider = SUMMARIES["none"]["best"]["graph"]["nodes"][0] | {"arch": "resnet18"}
    other = {"data": {"name": "x", "fingerprint": "1"}, "config": {"epochs": 9}}
    for what in (*({name: value} for name, value in other.items()), {"graph": {"nodes": [wider]}}):
        arms = claims.search_arms(SUMMARIES, [run | what for run in runs])
        assert arms["none", "independent"].n == 0, what


def test_a_forest_has_the_paper_beside_with_its_searches_as_one_run_each():
    table = claims.forest({"quick": (records(), SUMMARIES)})
    columns = ["set", "claim", "source", "effect", "low", "high", "n", "verdict"]
    assert list(table.columns) == columns
    assert set(table["set"]) == {"quick", claims.PAPER}
    assert set(table[table["set"] == "quick"].claim) == {"C0", "C1", "C2", "C3", "C4", "C5"}
    once = table[(table["set"] == claims.PAPER) & table.claim.isin(["C4", "C5"])].set_index(
        "source"
    )
    assert once.effect["searched: ImageNet-1k"] == 4.43
    mixed = "searched: ImageNet-1k + FractalDB-1k"
    assert once.effect[f"{mixed}, against ImageNet-1k"] == pytest.approx(0.21)
    assert once.low.isna().all()
    assert set(once.n) == {1}
    assert set(once.verdict) == {"descriptive"}
    without = claims.forest({"quick": (records(), {})})
    assert not set(without.claim) & {"C4", "C5"}


def test_exploratory_effects_have_no_verdict_and_check_the_symmetry():
    table = claims.exploratory(records(seeds=5))
    assert "verdict" not in table
    ours = table[(table["from"] == "this run") & (table.source == "FractalDB-1k")]
    ours = ours.set_index("contrast")
    row = ours.loc["node 2 - node 3 (0 by design)"]
    assert row.low < 0 < row.high
    assert ours.loc["main effect of node 1", "effect"] == pytest.approx(20, abs=2)
    assert {f"node 1, when {name}" for name in ("none", "3", "2", "2+3")} <= set(ours.index)
    means = {name: arm.mean for name, arm in run_arms(records(seeds=5)).items()}
    gain = means["fractaldb1k", "1+2+3"] - means["scratch", "none"]  # other nodes: 1 and 2 %
    for contrast, effect in {
        "1+2 minus its target alone": means["fractaldb1k", "1+2"] - means["fractaldb1k", "alone"],
        "2+3 minus its target alone": means["fractaldb1k", "2+3"] - means["scratch", "alone"],
        "1+2+3 minus none, mean over nodes": gain / 3,
    }.items():
        assert ours.effect[contrast] == pytest.approx(effect)


def test_gate_effects_are_found_again():
    settings = SearchConfig("fractaldb1k", arch="resnet18_w8", seed=3)
    rng = np.random.default_rng(0)
    gain = {"through": 5, "cutoff": 0, "linear": 2, "correct": -3}
    trials = []
    for graph in sample_graphs(settings, 80):
        heard = graph.canonical()  # a node without a path to the target does nothing
        first, *others = [node.init != "scratch" for node in heard.nodes]
        value = 40 + 10 * first + 2 * sum(others) + rng.normal(0, 0.5)
        value += sum(gain[gate] for gate in heard.gates[0][1:])
        trials.append({"state": "COMPLETE", "graph": graph.to_dict(), "value": value})
    summary = {"trials": [*trials, {"state": "PRUNED"}], "choices": settings.choices}
    summary["search"] = {"gates": list(gain)}
    table = claims.gate_effects(summary).set_index("term")
    planted = {f"edge from an auxiliary: {g.title()}": gain[g] for g in gain if gain[g]}
    planted |= {"node 1 from FractalDB-1k": 10, "an auxiliary from FractalDB-1k": 2}
    for term, effect in (planted | {"label edge: Through": 0}).items():
        assert table.effect[term] == pytest.approx(effect, abs=0.7)
        assert table.low[term] < table.effect[term] < table.high[term] < table.low[term] + 2
    assert len(table) == 7  # on a label edge Correct is Through
    assert set(table.n) == {80}
    with pytest.raises(ValueError, match="8 graphs were trained to the end: too few for 8 effects"):
        claims.gate_effects(summary | {"trials": trials[:8]})
