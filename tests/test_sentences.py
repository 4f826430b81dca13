"""What records show in words: no more than their intervals, and all of it in Japanese, too."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_ablation import records
from test_claims import SUMMARIES

from ktglite import figures as plots
from ktglite.experiments import claims
from ktglite.figures import sentences

LINES = {"C1": "pre-training node 1", "C0": "the graph, over its target alone"}
QUESTIONS = {"C1": "Pre-training node 1", "C3": "Pre-training all nodes"}
KEPT = pd.DataFrame({"condition": ["none", "mixed"], "kept": [47.0, 80], "spent": [38.0, 39]})
LUCK = pd.DataFrame({"condition": ["none", "mixed"], "effect": [1.2, -0.1]})
LUCK = LUCK.assign(low=[-0.3, -0.9], high=[2, 0.8])
GAP = {"effect": -0.5, "low": -2.3, "high": 1.3, "winner": 4, "alone": 10}
REPEATED = pd.DataFrame(
    [("C4", "mixed", "none", 30.0, 20.0, 35.0, 100.0, 100),
     ("C5", "mixed", "imagenet1k", 0.2, -1.0, 1.5, 55.0, 100)],
    columns=["claim", "condition", "against", "effect", "low", "high", "positive", "n"],
)  # fmt: skip
SEARCHES = {
    name: {**found, "trials": [0] * 8, "states": {"COMPLETE": 1}, "selection_value": 72.3}
    | {"epochs_run": 35, "epochs_full": 100}
    for name, found in SUMMARIES.items()
}


def primary(gain=20.0):
    return claims.claims_table(records(seeds=5, gain=gain))


def test_claims_stand_beside_sources_with_interval_and_verdict():
    table = sentences.claim_table(primary(), LINES)
    assert list(table.index) == [f"{claim}: {what}" for claim, what in LINES.items()]
    assert {*table} == {"no pre-training", "ImageNet-1k stand-in", "FractalDB-1k"}
    cell = table.loc["C1: pre-training node 1", "FractalDB-1k"]
    assert re.fullmatch(r"\+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\], supported", cell)
    assert table.loc["C1: pre-training node 1", "no pre-training"] == ""


def test_sources_or_places_are_said_to_differ_only_where_their_intervals_are_apart():
    told = sentences.sources_matter(primary())
    assert "With FractalDB-1k, pre-training node 1 adds" in told
    assert "each pre-trained neighbour is not resolved (" in told
    assert "matters" not in told
    table = primary()
    other = (table.claim == "C1") & (table.source == "FractalDB-1k")
    table.loc[other, ["effect", "low", "high", "verdict"]] = -5, -6, -4, "contradicted"
    told = sentences.sources_matter(table)
    assert "With FractalDB-1k, pre-training node 1 costs 5.0 points [4.0, 6.0]" in told
    assert told.endswith("So the source matters.")
    lines = sentences.symmetry(claims.exploratory(records(seeds=5))).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("these runs, ImageNet-1k stand-in: node 2 minus node 3 ")
    assert lines[2].startswith("the paper's runs, ImageNet-1k: node 2 minus node 3 +0.1 [")
    assert all(line.endswith(("contains 0, as it should", "excludes 0")) for line in lines)


def test_a_search_says_what_it_saved_and_a_rule_how_often_it_kept_the_best():
    told = sentences.searches(SEARCHES, ["none"]).splitlines()
    words = "8 graphs, 1 to the end; 65 % of the epochs saved; the winner has 72.3 % (validation)"
    assert told[0] == f"(a) no pre-training (recorded): {words}"
    assert "(searched here)" in told[1]
    best = "of 100 searches of 8 graphs the best is kept in 47 (a), 80 (d)"
    assert sentences.early_stopping(KEPT, 8) == best
    saved = "early stopping saved 65 % of the epochs; "
    assert sentences.early_stopping(KEPT, 8, SEARCHES) == saved + best
    assert sentences.best_graphs(SEARCHES).endswith("stand-in + FractalDB-1k 72.3 %")
    chosen = {name: search | {"select_on": "test"} for name, search in SEARCHES.items()}
    assert "72.3 % (test)" in sentences.searches(chosen, ())
    assert "one run each (test): " in sentences.best_graphs(chosen)
    lost = {"best": None, "selection_value": None, "states": {"FAIL": 8}}
    found = {name: search | lost for name, search in SEARCHES.items()}
    assert "no winner" in sentences.searches(found, ())
    assert sentences.best_graphs(found) == "no graph was trained to the end"
    for text in (sentences.searches(found, ()), sentences.best_graphs(found)):
        assert not re.search("winner|graph was", plots.translate(text))


def test_luck_and_a_graph_are_shown_only_where_an_interval_says_so():
    told = sentences.luck(LUCK)
    assert "rises by +1.2 [−0.3, +2.0] (a), −0.1 [−0.9, +0.8] (d) points more" in told
    assert told.endswith("none is distinguishable from 0")
    assert sentences.luck(LUCK.assign(low=0.1)).endswith("2 of 2 are above 0")
    told = sentences.winners({"mixed": GAP}, SUMMARIES)
    words = "(−0.5 points [−2.3, +1.3]), n = 4 and 10: that a graph was needed is not shown"
    assert told.endswith(words)
    told = sentences.winners({"mixed": GAP | {"low": 0.2, "effect": 0.7}}, SUMMARIES)
    assert "not shown" not in told
    assert sentences.winners({}, SUMMARIES).startswith("no winner was trained again")


def test_the_last_answer_has_a_line_per_question_with_every_effect_under_its_verdict():
    forest = claims.forest({"quick": (records(seeds=5), {})})
    told = sentences.by_question(forest, REPEATED, QUESTIONS).splitlines()
    assert re.match(r"Pre-training node 1: it helps with ImageNet-1k stand-in \(quick, \+", told[0])
    assert told[0].count("n = 5") == 2
    assert told[2].endswith("of 100 pairs of winners (d) beats (a) in 100 (+30.0 [+20.0, +35.0])")
    assert told[3].endswith("(d) beats (b) in 55 (+0.2 [−1.0, +1.5]); not shown for (d) over (b)")
    unresolved = claims.forest({"quick": (records(gain=0), {})})
    none = sentences.by_question(unresolved, REPEATED, QUESTIONS)
    assert "Pre-training node 1: not resolved with" in none
    cells = sentences.repeated_claims(REPEATED, SUMMARIES)
    assert cells["C5"] == "(d) − (b) ImageNet-1k stand-in: +0.2 [−1.0, +1.5]"


@pytest.mark.parametrize("gain", [20.0, 0.0, -20.0])
def test_every_sentence_has_its_japanese(gain):
    """Names of sources, the profile, and letters of conditions stay."""
    pytest.importorskip("matplotlib_fontja")
    kept = r"(ImageNet|FractalDB)-1k|quick|C\d|\([a-d]\)|\bn (=|では)|この n "
    forest = claims.forest({"quick": (records(gain=gain), {})})
    told = [
        sentences.sources_matter(primary(gain)),
        sentences.symmetry(claims.exploratory(records())),
        sentences.searches(SEARCHES, ["none"]),
        sentences.early_stopping(KEPT, 8, SEARCHES),
        sentences.early_stopping(KEPT, 60),
        sentences.best_graphs(SEARCHES),
        sentences.luck(LUCK),
        sentences.luck(LUCK.assign(low=0.1)),
        sentences.winners({"mixed": GAP}, SUMMARIES),
        sentences.winners({}, SUMMARIES),
        sentences.by_question(forest, REPEATED, QUESTIONS),
        *sentences.claim_table(primary(gain), LINES).index,
        *sentences.claim_table(primary(gain), LINES)["FractalDB-1k"],
    ]
    with plt.rc_context():
        plots.use_style("ja")
        words = [plots.hint(text) for text in told]
    assert [text for text in words if re.search("[A-Za-z]", re.sub(kept, "", text))] == []
