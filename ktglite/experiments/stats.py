"""What a few runs can show: means with intervals, and contrasts of arms by one rule for our runs
and for the paper's.

Accuracies are in percent, differences in points. docs/statistics.md says why the rule is what it
is, with its power.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Arm", "contrast", "equivalence", "holm", "summary"]

LEVEL = 0.95  # of every interval; 1 - LEVEL is the threshold of every verdict


@dataclass(frozen=True)
class Arm:
    """One row of a table: accuracies by seed where there are runs, else what was published of them."""

    mean: float
    std: float
    n: int
    by_seed: Mapping[int, float] | None = None


def arm(by_seed: Mapping[int, float]) -> Arm:
    """An arm from accuracies (%) by seed."""
    found = summary(list(by_seed.values()))
    return Arm(found["mean"], found["std"], found["n"], dict(by_seed))


def summary(values: Sequence[float]) -> dict[str, float]:
    """`mean`, sample `std`, `n`, and the 95 % t interval of the mean, `low` to `high`; NaN where n is too small."""
    values = np.asarray(values, float)
    n = len(values)
    mean = values.mean() if n else np.nan
    std = values.std(ddof=1) if n > 1 else np.nan
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * std / np.sqrt(n) if n > 1 else np.nan
    return {
        "mean": float(mean),
        "std": float(std),
        "n": n,
        "low": float(mean - half),
        "high": float(mean + half),
    }


def contrast(
    arms: Mapping[str, Arm], weights: Mapping[str, float], groups: Sequence[Sequence[str]] = ()
) -> dict:
    """A weighted sum of arms' means: `effect`, 95 % interval `low`..`high`, two-sided `p`, `df`,
    `error`, and `n`.

    - `weights`: by name of the arm; sums to 0 for a difference.
    - `groups`: names of arms whose spread is estimated together, those that share the target's
      start; an arm in none is a group of its own, so that two such arms are compared by Welch's
      test.

    Runs of a group that share a seed may move together: the model of a group is accuracy = arm +
    seed + residual, with both variances from the group's own runs (a split plot). Published
    summaries are independent arms with one variance in a group. Degrees of freedom are
    Satterthwaite's. NaN where an arm is absent or has a single run.
    """
    used = [name for name, weight in weights.items() if weight]
    if not all(name in arms for name in used):
        return {
            "effect": np.nan,
            "low": np.nan,
            "high": np.nan,
            "p": np.nan,
            "df": np.nan,
            "error": np.nan,
            "n": 0,
        }
    seeds = _common_seeds([arms[name] for name in used])
    n = min(arms[name].n for name in used) if seeds is None else len(seeds)
    effect, terms = 0.0, []
    together = [[name for name in group if name in used] for group in groups]
    alone = [[name] for name in used if not any(name in group for group in groups)]
    for members, own in zip([*groups, *alone], [*together, *alone], strict=True):
        if own:
            value, parts = _group(arms, members, {name: weights[name] for name in own}, seeds)
            effect, terms = effect + value, terms + parts
    return {**_interval(effect, terms), "n": n}


def _common_seeds(arms: Sequence[Arm]) -> list[int] | None:
    """Seeds that all arms have; None where one is known by its summary alone."""
    if any(arm.by_seed is None for arm in arms):
        return None
    return sorted(set.intersection(*(set(arm.by_seed) for arm in arms)))


def _group(
    arms: Mapping[str, Arm],
    members: Sequence[str],
    weights: Mapping[str, float],
    seeds: list[int] | None,
) -> tuple[float, list[tuple[float, int]]]:
    """One group's share of a contrast, and its variance as terms (variance, degrees of freedom)."""
    if seeds is None:
        known = [arms[name] for name in members if name in arms and arms[name].n > 1]
        effect = sum(weight * arms[name].mean for name, weight in weights.items())
        if not known:
            return effect, [(np.nan, 1)]
        df = sum(arm.n - 1 for arm in known)
        variance = sum((arm.n - 1) * arm.std**2 for arm in known) / df
        return effect, [
            (variance * sum(weight**2 / arms[name].n for name, weight in weights.items()), df)
        ]
    names = [
        name for name in members if name in arms and set(seeds) <= set(arms[name].by_seed or ())
    ]
    table = np.array(
        [[arms[name].by_seed[seed] for seed in seeds] for name in names]
    )  # (arms, seeds)
    w, (k, n) = np.array([weights.get(name, 0.0) for name in names]), table.shape
    if n < 2:
        return float(w @ table.mean(1)), [(np.nan, 1)]
    within = table - table.mean(1, keepdims=True)
    by_seed = within.mean(0)
    terms = [(k * (by_seed**2).sum() / (n - 1) * w.sum() ** 2 / (k * n), n - 1)]
    if k > 1:
        residual = ((within - by_seed) ** 2).sum() / ((k - 1) * (n - 1))
        terms.append((residual * ((w**2).sum() - w.sum() ** 2 / k) / n, (k - 1) * (n - 1)))
    return float(w @ table.mean(1)), terms


def _interval(effect: float, terms: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Interval and p by Student's t; an error of exactly 0 gives no scale to judge by (NaN)."""
    variance, spread = sum(v for v, _ in terms), sum(v**2 / df for v, df in terms)
    if not variance > 0:
        return {
            "effect": effect,
            "low": np.nan,
            "high": np.nan,
            "p": np.nan,
            "df": np.nan,
            "error": 0.0,
        }
    df, error = variance**2 / spread, variance**0.5
    half = stats.t.ppf((1 + LEVEL) / 2, df) * error
    p = float(2 * stats.t.sf(abs(effect) / error, df))
    return {
        "effect": effect,
        "low": effect - half,
        "high": effect + half,
        "p": p,
        "df": df,
        "error": error,
    }


def pair(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, float]:
    """a - b by seed, over the seeds that both have: the paired t test, for two arms alone."""
    return contrast(
        {"gap": arm({seed: a[seed] - b[seed] for seed in sorted(set(a) & set(b))})}, {"gap": 1.0}
    )


def equivalence(found: Mapping[str, float], margin: float) -> float:
    """p of two one-sided tests that a contrast lies within +-margin points."""
    if not found["error"] > 0:
        return np.nan
    return float(stats.t.sf((margin - abs(found["effect"])) / found["error"], found["df"]))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests; NaN stays and does not count."""
    p = np.asarray(p, float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    running = 0.0
    for rank, i in enumerate(known[np.argsort(p[known], kind="stable")]):
        running = max(running, (len(known) - rank) * p[i])
        adjusted[i] = min(running, 1.0)
    return adjusted.tolist()


def verdict(effect: float, p: float) -> str:
    """Verdict on "the effect is positive" at adjusted p."""
    if np.isnan(effect):
        return "not measured"
    if not p < 1 - LEVEL:
        return "not resolved at this n"
    return "supported" if effect > 0 else "contradicted"
