"""Statistics against published and hand-computed cases, and the paper's own table put through them."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from ktglite import ablation, stats
from ktglite.stats import Arm


def test_summary_by_hand():
    found = stats.summary([1.0, 2.0, 3.0])
    assert (found["mean"], found["std"], found["n"]) == (2.0, 1.0, 3)
    assert found["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)  # t(0.975, 2 df)
    single = stats.summary([5.0])
    assert single["mean"] == 5
    assert math.isnan(single["std"])
    assert math.isnan(single["low"])
    assert stats.summary([])["n"] == 0


def test_paired_by_hand_and_by_scipy():
    a, b = {0: 12.0, 1: 15.0, 2: 11.0, 9: 99.0}, {0: 10.0, 1: 14.0, 2: 8.0, 5: 0.0}
    found = stats.paired(a, b)
    assert found["effect"] == 2
    assert found["n"] == 3
    expected = reference.ttest_rel([12, 15, 11], [10, 14, 8])
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))


def test_welch_agrees_with_scipy():
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]
    arms = [Arm(np.mean(x), np.std(x, ddof=1), len(x)) for x in (a, b)]
    found, expected = stats.welch(*arms), reference.ttest_ind(a, b, equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))


SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_student_s_sleep_data():
    # Student (1908), hours of sleep gained by ten patients under two drugs; the numbers are those of R's t.test
    first, second = ({i: value for i, value in enumerate(values)} for values in SLEEP)
    found = stats.paired(first, second)
    assert (round(found["effect"], 2), round(found["p"], 6), found["n"]) == (-1.58, 0.002833, 10)
    assert (found["low"], found["high"]) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    found = stats.welch(stats.arm(first), stats.arm(second))
    assert round(found["p"], 5) == 0.07939
    assert (found["low"], found["high"]) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)


@pytest.mark.parametrize("column", ["imagenet1k", "fractaldb1k"])
def test_the_paper_s_contrasts_agree_with_scipy_from_summaries(column):
    arms = ablation.paper_arms([column])
    family = stats.contrasts([column], ablation.patterns(3))
    table = stats.contrast_table(arms, family)
    a, b = ([arms[key] for key in (getattr(c, side) for c in family)] for side in ("plus", "minus"))
    expected = reference.ttest_ind_from_stats(
        *(np.array([getattr(arm, key) for arm in side]) for side in (a, b) for key in ("mean", "std", "n")),
        equal_var=False,
    )
    assert table.p.to_numpy() == pytest.approx(expected.pvalue)
    assert len(table) == 4 + 3 + 2


def test_holm_as_r_does_it():
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert stats.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_holm_example():
    # the usual textbook case: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_nan = stats.holm([0.01, math.nan, 0.04])
    assert with_nan[0] == pytest.approx(0.02)
    assert math.isnan(with_nan[1])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_no_spread_is_no_proof():
    same = {0: 50.0, 1: 50.0, 2: 50.0}
    found = stats.paired({seed: 60.0 for seed in same}, same)
    assert found["effect"] == 10
    assert math.isnan(found["p"])
    assert stats.verdict([found["effect"]], [found["p"]]) == "not resolved at this n"


def test_paired_only_where_seeds_are_shared():
    a, b = stats.arm({0: 1.0, 1: 3.0}), stats.arm({5: 1.0, 6: 2.5})
    assert stats.compare(a, b)["p"] == stats.welch(a, b)["p"]
    b = stats.arm({0: 1.0, 1: 2.5})
    assert stats.compare(a, b)["p"] == stats.paired(a.by_seed, b.by_seed)["p"]


def test_the_family_is_declared_per_source():
    family = stats.contrasts(["x", "y"], ablation.patterns(3))
    assert sum(c.claim == "C1" and c.source == "x" for c in family) == 4
    assert sum(c.claim == "C2" and c.source == "x" for c in family) == 3
    assert {(c.plus[1], c.minus[1]) for c in family if c.source == "x" and not c.claim} == {
        ("1+2", "1"),
        ("1+2+3", "1+2"),
    }
    assert family[-1].plus == ("x", "1+2+3")
    assert family[-1].minus == ("y", "1+2+3")
    flips = {(c.plus[1], c.minus[1]) for c in family if c.claim == "C1"}
    assert flips == {("1", "none"), ("1+3", "3"), ("1+2", "2"), ("1+2+3", "2+3")}


def test_the_paper_s_own_flip_with_two_fractal_auxiliaries():
    arms = ablation.paper_arms(["fractaldb1k"])
    found = stats.compare(arms["fractaldb1k", "1+2+3"], arms["fractaldb1k", "2+3"])
    assert found["effect"] == pytest.approx(0.12)
    assert round(found["p"], 2) == 0.77


@pytest.mark.parametrize(
    ("effects", "p", "verdict"),
    [
        ([1, 2], [0.01, 0.02], "supported"),
        ([1, 2], [0.01, 0.2], "not resolved at this n"),
        ([1, -2], [0.01, 0.02], "contradicted"),
        ([1, math.nan], [0.01, math.nan], "not measured"),
        ([], [], "not measured"),
    ],
)
def test_verdicts(effects, p, verdict):
    assert stats.verdict(effects, p) == verdict


def test_main_effects_by_hand():
    rows = {"none": 0, "3": 1, "2": 2, "2+3": 3, "1": 10, "1+3": 11, "1+2": 12, "1+2+3": 13}
    arms = {("x", pattern): stats.arm({0: value, 1: value + 1.0}) for pattern, value in rows.items()}
    found = stats.main_effects(arms, "x", list(rows)).set_index("node")
    assert found["mean"].to_dict() == {1: 10, 2: 2, 3: 1}
    published = {key: Arm(arm.mean, 0.5, 3) for key, arm in arms.items()}
    found = stats.main_effects(published, "x", list(rows)).set_index("node")
    assert found["mean"].to_dict() == {1: 10, 2: 2, 3: 1}
    # the error of a mean of four differences, each of two means of three: sqrt(8 x 0.25 / 3) / 4, 16 degrees of freedom
    assert found["high"][1] - 10 == pytest.approx(2.119905 * math.sqrt(2 / 3) / 4, abs=1e-5)
