"""Statistics against published and hand-computed cases."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from ktglite.experiments import stats
from ktglite.experiments.stats import Arm

APART = {"a": 1, "b": -1}


def published(values):
    return Arm(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


def by_seed(values, first=0):
    return stats.arm(dict(enumerate(map(float, values), first)))


def ends(found):
    return found["low"], found["high"]


def agrees(found, expected):
    """With a test of scipy."""
    assert found["p"] == pytest.approx(expected.pvalue)
    assert ends(found) == pytest.approx(tuple(expected.confidence_interval()))


def test_a_summary_and_a_prediction_by_hand():
    found = stats.summary([1.0, 2.0, 3.0])
    assert (found["mean"], found["std"], found["n"]) == (2.0, 1.0, 3)
    assert found["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)  # t(0.975, 2 df)
    single = stats.summary([5.0])
    assert single["mean"] == 5
    assert np.isnan([single["std"], single["low"]]).all()
    assert stats.summary([])["n"] == 0
    for runs in (1, 2):
        low, high = stats.prediction([1.0, 2.0, 3.0], runs=runs)
        assert high - 2 == pytest.approx(4.302653 * math.sqrt(1 / runs + 1 / 3), abs=1e-5)
        assert low == pytest.approx(4 - high)
    assert math.isnan(stats.prediction([1.0])[0])


def test_a_difference_by_scipy():
    a, b = {0: 12.0, 1: 15.0, 2: 11.0, 9: 99.0}, {0: 10.0, 1: 14.0, 2: 8.0, 5: 0.0}
    found = stats.difference(a, b)  # seeds 9 and 5 have no second one of their kind
    assert (found["effect"], found["n"]) == (pytest.approx(2), 3)
    agrees(found, reference.ttest_rel([12, 15, 11], [10, 14, 8]))


def test_student_s_sleep_data():
    """Student (1908), hours gained by ten patients under two drugs: the numbers of R's t.test."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    same = stats.contrast({"a": by_seed(first), "b": by_seed(second)}, APART)
    assert (round(same["effect"], 2), round(same["p"], 6), same["n"]) == (-1.58, 0.002833, 10)
    assert ends(same) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    for other in (by_seed(second, first=100), published(second)):  # no seed in common: Welch's
        found = stats.contrast({"a": by_seed(first), "b": other}, APART)
        assert round(found["p"], 5) == 0.07939
        assert ends(found) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)


def test_published_arms_of_other_sizes_are_welch_s():
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]
    found = stats.contrast({"a": published(a), "b": published(b)}, APART)
    agrees(found, reference.ttest_ind(a, b, equal_var=False))
    assert found["n"] == 5


def test_a_contrast_of_many_rows_is_a_t_test_of_one_number_per_seed():
    values = np.random.default_rng(0).normal(size=(4, 6)) + np.arange(6)  # rows move together
    arms = {name: by_seed(row) for name, row in zip("abcd", values, strict=True)}
    weights = {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}
    found = stats.contrast(arms, weights)
    agrees(found, reference.ttest_1samp([0.5, 0.5, -0.5, -0.5] @ values, 0))
    assert found["df"] == 5
    backwards = {name: weights[name] for name in "dcba"}
    assert stats.contrast(arms, backwards)["low"] == pytest.approx(found["low"])


def test_every_seed_counts_where_arms_share_only_some():
    """a has seeds 0 to 3, b 0 and 1: seeds add a/4 - b/2 = -1, 1 and a/4 = 1, 2."""
    arms = {"a": by_seed([4, 8, 4, 8]), "b": by_seed([4, 2])}
    found = stats.contrast(arms, APART)
    assert (found["effect"], found["n"]) == (6.0 - 3.0, 2)
    shared, alone = 2 * 2.0, 2 * 0.5  # size x sample variance
    assert found["error"] ** 2 == pytest.approx(shared + alone)
    assert found["df"] == pytest.approx((shared + alone) ** 2 / (shared**2 / 1 + alone**2 / 1))


def test_the_rule_errs_as_often_as_it_says_where_seeds_are_missing():
    """Four rows that move together, two by two of one start; half of them have more seeds.

    Welch's test over rows takes them as independent and errs twice as often as it says.
    """
    rng = np.random.default_rng(1)
    weights = {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}
    errors = np.zeros(2)
    for _ in range(1000):
        shared = np.repeat(rng.normal(size=(2, 5)), 2, axis=0)
        values = 0.95 * shared + 0.3 * rng.normal(size=(4, 5))
        rows = {n: v[:size] for n, v, size in zip("abcd", values, (5, 3, 5, 3), strict=True)}
        for i, make in enumerate((by_seed, published)):
            found = stats.contrast({name: make(row) for name, row in rows.items()}, weights)
            errors[i] += found["p"] < 0.05
    assert 0.02 < errors[0] / 1000 < 0.08
    assert errors[1] / 1000 > 0.09


def test_what_is_not_known_is_nan():
    arms = {"a": by_seed([1.0, 3.0]), "b": by_seed([1.0])}
    single = stats.contrast(arms, APART)
    assert (single["effect"], single["n"]) == (1.0, 1)
    assert np.isnan([single["low"], single["p"]]).all()
    missing = stats.contrast(arms, {"a": 1, "x": -1})
    assert math.isnan(missing["effect"])
    assert missing["n"] == 0


def test_a_pretraining_is_a_unit_when_several_take_their_turns():
    """Seeds 0, 2, 4 start from weights p, seeds 1, 3 from q: means 2 and 5, of scratch 0 and 1."""
    weights = {seed: ("pq"[seed % 2],) for seed in range(5)}
    arms = {"a": by_seed([1, 4, 2, 6, 3]), "b": by_seed([0, 1, 0, 1, 0])}
    arms["a"] = stats.arm(arms["a"].by_seed, weights)
    found = stats.over_pretrainings(arms, APART)
    assert (found["effect"], found["n"]) == ((2.0 + 4.0) / 2, 2)
    assert found["error"] == pytest.approx(1.0)  # of 2 and 4: standard deviation over root 2
    assert stats.contrast(arms, APART)["pretrainings"] == 2
    one = stats.over_pretrainings({"a": by_seed([1, 2, 3]), "b": by_seed([0, 0, 1])}, {"a": 1})
    assert math.isnan(one["low"])


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # R's p.adjust
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the usual textbook case
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.01, math.nan, 0.04], [0.03, math.nan, 0.08]),  # declared, not made, and it counts
    ],
)
def test_holm(given, adjusted):
    assert stats.holm(given) == pytest.approx(adjusted, nan_ok=True)


def test_no_spread_is_no_proof():
    same = {0: 50.0, 1: 50.0, 2: 50.0}
    found = stats.difference({seed: 60.0 for seed in same}, same)
    assert found["effect"] == pytest.approx(10)
    assert math.isnan(found["p"])
    assert stats.verdict(found["effect"], found["p"]) == "not resolved at this n"
    before = {seed: 100 * right / 45 for seed, right in enumerate((21, 30, 11))}
    after = {seed: 100 * right / 45 for seed, right in enumerate((22, 31, 12))}
    found = stats.difference(after, before)  # one image in every seed, equal but for rounding
    assert math.isnan(found["p"])


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
