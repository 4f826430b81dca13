"""What a few runs can show: means (%) with intervals, and contrasts (points) of arms by one rule;
docs/statistics.md says why it is what it is, and how often it errs and finds."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t, without the cost of scipy.stats

__all__ = ["contrast", "difference", "holm", "summary"]

LEVEL = 0.95  # of every interval; 1 - LEVEL is the threshold of every verdict
ROUNDING = 1e-9  # points: a smaller error is that of sums of equal differences
UNKNOWN = dict.fromkeys(("effect", "low", "high", "p", "df", "error"), np.nan)


@dataclass(frozen=True)
class Arm:
    """One row of a table: its runs where there are some, else what was published of them.

    - `by_seed`: values by seed; empty where only `mean`, sample `std` and `n` are known.
    - `weights`: the pre-trained weights that a seed's run started from (SHA-256), by seed.
    """

    mean: float
    std: float
    n: int
    by_seed: Mapping[int, float] = field(default_factory=dict)
    weights: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def pretrainings(self) -> int:
        """Number of different pre-trainings among its runs; 0 from scratch or where unknown."""
        return len(set(filter(None, self.weights.values())))


Arms = Mapping[Hashable, Arm]
Weights = Mapping[Hashable, float]  # of a contrast, by the arm's name; they sum to 0


def arm(by_seed: Mapping, weights: Mapping[int, tuple[str, ...]] | None = None) -> Arm:
    """An arm from values by seed."""
    found = summary(list(by_seed.values()))
    return Arm(found["mean"], found["std"], found["n"], dict(by_seed), weights or {})


def summary(values: Sequence[float]) -> dict[str, float]:
    """`mean`, sample `std`, `n`, and the 95 % t interval of the mean, `low` to `high`; NaN where n
    is too small."""
    n = len(values)
    mean = float(np.mean(values)) if n else np.nan
    std = float(np.std(values, ddof=1)) if n > 1 else np.nan
    half = quantile(n - 1) * std / np.sqrt(n) if n > 1 else np.nan
    return {"mean": mean, "std": std, "n": n, "low": float(mean - half), "high": float(mean + half)}


def prediction(values: Sequence[float], runs: int = 1) -> tuple[float, float]:
    """The 95 % prediction interval, from recorded `values`, of the mean of further `runs`:
    mean +- t s sqrt(1 / runs + 1 / n) as (low, high); NaN from fewer than two values."""
    found = summary(values)
    n = found["n"]
    half = quantile(n - 1) * found["std"] * np.sqrt(1 / runs + 1 / n) if n > 1 else np.nan
    return float(found["mean"] - half), float(found["mean"] + half)


def contrast(arms: Arms, weights: Weights) -> dict[str, float]:
    """A weighted sum of arms' means, with its 95 % interval.

    Seeds are independent of each other; runs of one seed may move together. So a seed counts once,
    with the sum of weight x value / n over the arms that have it. Seeds that the same arms have
    make a stratum, and the variance is the sum over strata of size x sample variance, with
    Satterthwaite's degrees of freedom. Where all arms have the same seeds this is the paired t
    test; where no two arms share a seed it is Welch's, and published arms are taken like that. A
    seed without a second one in its stratum shows no spread and is left out.

    Returns `effect`, `low`, `high`, two-sided `p`, `df`, `error` (standard error), `n` (fewest runs
    of an arm) and `pretrainings` (fewest of an arm that has any). NaN is what cannot be known: all
    of it where an arm is absent, all but the effect where one has a single run.
    """
    own = {name: arms.get(name, arm({})) for name, weight in weights.items() if weight}
    if not own or not all(arm.n for arm in own.values()):
        return {**UNKNOWN, "n": 0, "pretrainings": 0}
    strata, counts = _strata({name: arm for name, arm in own.items() if arm.by_seed}, weights)
    effect = sum(map(sum, strata))
    terms = [
        (len(v) * np.var(v, ddof=1), len(v) - 1) if len(v) > 1 else (np.nan, 1) for v in strata
    ]
    for name, published in own.items():
        if not published.by_seed:
            effect += weights[name] * published.mean
            variance = weights[name] ** 2 * published.std**2 / published.n
            terms.append((variance, published.n - 1))
            counts[name] = published.n
    pretrainings = min(filter(None, (arm.pretrainings for arm in own.values())), default=0)
    found = UNKNOWN | {"effect": float(effect)} | _interval(float(effect), terms)
    return found | {"n": min(counts.values()), "pretrainings": pretrainings}


def _strata(arms: Arms, weights: Weights) -> tuple[list[list[float]], Counter]:
    """What each seed adds to a contrast, by stratum, and how many seeds of each arm count."""
    seeds = sorted({seed for arm in arms.values() for seed in arm.by_seed})
    having = {seed: tuple(n for n, arm in arms.items() if seed in arm.by_seed) for seed in seeds}
    sizes = Counter(having.values())
    judged = {seed: names for seed, names in having.items() if sizes[names] > 1}
    if {name for names in judged.values() for name in names} == set(arms):
        having = judged  # else an arm would be lost: there is an effect, and no interval
    counts = Counter(name for names in having.values() for name in names)
    strata = defaultdict(list)
    for seed, names in having.items():
        shares = (weights[name] * arms[name].by_seed[seed] / counts[name] for name in names)
        strata[names].append(sum(shares))
    return list(strata.values()), counts


def _interval(effect: float, terms: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Student's t by (variance, df) of each stratum; an error of 0 gives no scale."""
    variance = sum(value for value, _ in terms)
    if not variance > ROUNDING**2:
        return {}
    df = float(variance**2 / sum(value**2 / df for value, df in terms))
    error = float(variance**0.5)
    half = quantile(df) * error
    p = float(2 * stdtr(df, -abs(effect) / error))
    return {"low": effect - half, "high": effect + half, "p": p, "df": df, "error": error}


def quantile(df: float) -> float:
    """Student's t that an interval reaches to on either side."""
    return float(stdtrit(df, (1 + LEVEL) / 2))


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, float]:
    """a - b from values by seed, by `contrast`: paired where both have the same seeds."""
    return contrast({"a": arm(a), "b": arm(b)}, {"a": 1.0, "b": -1.0})


def over_pretrainings(arms: Arms, weights: Weights) -> dict[str, float]:
    """`contrast` with the pre-training as the unit: of the runs of each, only the mean counts.

    Of seeds that all arms have; `n` is the number of pre-trainings, and NaN what one cannot show.
    """
    own = {name: arms[name] for name, weight in weights.items() if weight and name in arms}
    starts = defaultdict(list)
    common = set.intersection(*(set(arm.by_seed) for arm in own.values())) if own else ()
    for seed in sorted(common):
        starts[tuple(arm.weights.get(seed, ()) for arm in own.values())].append(seed)
    means = {
        name: arm({key: np.mean([own[name].by_seed[s] for s in starts[key]]) for key in starts})
        for name in own
    }
    return contrast(means, weights)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests; NaN stays, and counts as a test that was declared."""
    order = np.argsort(p, kind="stable")  # NaN comes last
    steps = np.arange(len(order), 0, -1) * np.asarray(p, float)[order]
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def verdict(effect: float, p: float) -> str:
    """Verdict on "the effect is positive" at adjusted p."""
    if np.isnan(effect):
        return "not measured"
    if not p < 1 - LEVEL:
        return "not resolved at this n"
    return "supported" if effect > 0 else "contradicted"
