"""Statistics against published and hand-computed cases."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from ktglite.experiments import stats
from ktglite.experiments.stats import Arm


def test_summary_by_hand():
    found = stats.summary([1.0, 2.0, 3.0])
    assert (found["mean"], found["std"], found["n"]) == (2.0, 1.0, 3)
    assert found["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)  # t(0.975, 2 df)
    single = stats.summary([5.0])
    assert single["mean"] == 5
    assert math.isnan(single["std"])
    assert math.isnan(single["low"])
    assert stats.summary([])["n"] == 0


def test_a_pair_by_hand_and_by_scipy():
    a, b = {0: 12.0, 1: 15.0, 2: 11.0, 9: 99.0}, {0: 10.0, 1: 14.0, 2: 8.0, 5: 0.0}
    found = stats.pair(a, b)
    assert found["effect"] == 2
    assert found["n"] == 3
    expected = reference.ttest_rel([12, 15, 11], [10, 14, 8])
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))


SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)


def test_student_s_sleep_data():
    # Student (1908), hours of sleep gained by ten patients under two drugs; the numbers are those
    # of R's t.test
    first, second = ({i: value for i, value in enumerate(values)} for values in SLEEP)
    found = stats.pair(first, second)
    assert (round(found["effect"], 2), round(found["p"], 6), found["n"]) == (-1.58, 0.002833, 10)
    assert (found["low"], found["high"]) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    arms = {"a": stats.arm(first), "b": stats.arm(second)}
    found = stats.contrast(arms, {"a": 1, "b": -1})  # two lone arms: Welch's test
    assert round(found["p"], 5) == 0.07939
    assert (found["low"], found["high"]) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    together = stats.contrast(
        arms, {"a": 1, "b": -1}, [["a", "b"]]
    )  # two arms of a group: the paired test
    assert round(together["p"], 6) == 0.002833


def test_lone_published_arms_are_welch_s():
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]
    arms = {name: Arm(np.mean(x), np.std(x, ddof=1), len(x)) for name, x in (("a", a), ("b", b))}
    found = stats.contrast(arms, {"a": 1, "b": -1})
    expected = reference.ttest_ind(a, b, equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    pooled = stats.contrast(
        arms, {"a": 1, "b": -1}, [["a", "b"]]
    )  # one variance in a group: Student's own test
    assert pooled["p"] == pytest.approx(reference.ttest_ind(a, b).pvalue)


def test_a_split_plot_by_hand():
    """Group {a, b} with seeds 0, 1, 2, and c alone. By seed: a - mean = -2, 0, 2; b - mean = 0, -1, 1."""
    arms = {"a": stats.arm({0: 8.0, 1: 10.0, 2: 12.0}), "b": stats.arm({0: 5.0, 1: 4.0, 2: 6.0})}
    arms["c"] = stats.arm({0: 1.0, 1: 2.0, 2: 3.0})
    found = stats.contrast(arms, {"a": 0.5, "b": 0.5, "c": -1.0}, [["a", "b"]])
    assert found["effect"] == 5.5
    # seed means -1, -0.5, 1.5: mean square 2 x 3.5 / 2 = 3.5; its share of the variance is 3.5 x
    # 1^2 / (2 x 3) weights of a and b are equal, so that no residual is in it; c adds 1 / 3
    assert found["error"] ** 2 == pytest.approx(3.5 / 6 + 1 / 3)
    assert found["df"] == pytest.approx(
        (3.5 / 6 + 1 / 3) ** 2 / ((3.5 / 6) ** 2 / 2 + (1 / 3) ** 2 / 2)
    )
    inside = stats.contrast(arms, {"a": 1.0, "b": -1.0}, [["a", "b"]])
    # residuals -1, 0.5, 0.5 and their opposites: mean square 3 / 2; of a difference within a seed 2
    # x 1.5 / 3
    assert inside["error"] ** 2 == pytest.approx(1.0)
    assert inside["df"] == pytest.approx(2)


def test_only_seeds_that_all_weighted_arms_have():
    arms = {
        "a": stats.arm({0: 1.0, 1: 3.0, 2: 9.0}),
        "b": stats.arm({1: 1.0, 2: 2.5}),
        "c": stats.arm({7: 0.0}),
    }
    found = stats.contrast(arms, {"a": 1, "b": -1}, [["a", "b", "c"]])
    assert found["effect"] == 6.0 - 1.75
    assert found["n"] == 2
    missing = stats.contrast(arms, {"a": 1, "x": -1})
    assert math.isnan(missing["effect"])
    assert missing["n"] == 0


def test_equivalence_is_two_one_sided_tests():
    a, b = [10.2, 9.8, 10.1, 10.3, 9.9], [10.0, 9.9, 10.2, 10.1, 9.7]
    found = stats.contrast(
        {"a": stats.arm(dict(enumerate(a))), "b": stats.arm(dict(enumerate(b)))}, {"a": 1, "b": -1}
    )
    lower = reference.ttest_ind(np.array(a) + 1, b, equal_var=False, alternative="greater").pvalue
    upper = reference.ttest_ind(np.array(a) - 1, b, equal_var=False, alternative="less").pvalue
    assert stats.equivalence(found, 1.0) == pytest.approx(max(lower, upper))


def test_holm_as_r_does_it():
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert stats.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx(
        [0.05, 0.08, 0.09, 0.09, 0.09]
    )


def test_holm_example():
    # the usual textbook case: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_nan = stats.holm([0.01, math.nan, 0.04])
    assert with_nan[0] == pytest.approx(0.02)
    assert math.isnan(with_nan[1])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_no_spread_is_no_proof():
    same = {0: 50.0, 1: 50.0, 2: 50.0}
    found = stats.pair({seed: 60.0 for seed in same}, same)
    assert found["effect"] == 10
    assert math.isnan(found["p"])
    assert stats.verdict(found["effect"], found["p"]) == "not resolved at this n"


@pytest.mark.parametrize(
    ("effect", "p", "verdict"),
    [
        (1, 0.01, "supported"),
        (1, 0.2, "not resolved at this n"),
        (-2, 0.02, "contradicted"),
        (math.nan, math.nan, "not measured"),
    ],
)
def test_verdicts(effect, p, verdict):
    assert stats.verdict(effect, p) == verdict
