"""What a few runs can show: means with intervals, contrasts declared beforehand, and the paper's claims put to them.

Accuracies are in percent, differences in points. Our runs share seeds across arms and are compared in pairs; of the
paper only means, standard deviations and n are known, so its differences are Welch's. Both go through `compare`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval; 1 - LEVEL is the threshold of every verdict

VERDICTS = ("supported", "contradicted", "not resolved at this n", "not measured")


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
    return {"mean": float(mean), "std": float(std), "n": n, "low": float(mean - half), "high": float(mean + half)}


def difference(effect: float, error: float, df: float, n: int) -> dict[str, float]:
    """A difference of means with its interval and two-sided p by Student's t.

    An error of exactly 0 gives no scale to judge by (NaN), however large the effect.
    """
    if not error > 0:
        return {"effect": effect, "low": np.nan, "high": np.nan, "p": np.nan, "n": n}
    half = stats.t.ppf((1 + LEVEL) / 2, df) * error
    p = 2 * stats.t.sf(abs(effect) / error, df)
    return {"effect": effect, "low": effect - half, "high": effect + half, "p": float(p), "n": n}


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, float]:
    """a - b over the seeds that both have."""
    seeds = sorted(set(a) & set(b))
    gaps = np.array([a[seed] - b[seed] for seed in seeds])
    error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
    return difference(float(gaps.mean()) if seeds else np.nan, float(error), len(gaps) - 1, len(gaps))


def welch(a: Arm, b: Arm) -> dict[str, float]:
    """a - b of two independent arms, degrees of freedom by Welch and Satterthwaite."""
    if min(a.n, b.n) < 2:
        return difference(a.mean - b.mean, np.nan, np.nan, min(a.n, b.n))
    error, df = pooled([a, b])
    return difference(a.mean - b.mean, error, df, min(a.n, b.n))


def pooled(arms: Sequence[Arm]) -> tuple[float, float]:
    """The error of a sum or difference of independent means, and its degrees of freedom by Satterthwaite."""
    parts = np.array([arm.std**2 / arm.n for arm in arms])
    spread = (parts**2 / np.array([arm.n - 1 for arm in arms])).sum()
    return float(parts.sum() ** 0.5), float(parts.sum() ** 2 / spread) if spread else np.nan


def compare(a: Arm, b: Arm) -> dict[str, float]:
    """a - b: paired where both arms have at least two seeds in common, else Welch."""
    if a.by_seed and b.by_seed and len(set(a.by_seed) & set(b.by_seed)) > 1:
        return paired(a.by_seed, b.by_seed)
    return welch(a, b)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests; NaN stays and does not count."""
    p = np.asarray(p, float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    running = 0.0
    for rank, i in enumerate(known[np.argsort(p[known], kind="stable")]):
        running = max(running, (len(known) - rank) * p[i])
        adjusted[i] = min(running, 1.0)
    return adjusted.tolist()


# ---- the contrasts of Table 1, declared before any run


@dataclass(frozen=True)
class Contrast:
    """`plus` minus `minus`: two rows of Table 1, each (source, pattern)."""

    name: str
    claim: str  # "C1", "C2", or "" for one that no claim rests on
    source: str
    plus: tuple[str, str]
    minus: tuple[str, str]


def contrasts(sources: Sequence[str], patterns: Sequence[str], title: Callable[[str], str] = str) -> list[Contrast]:
    """The declared family: per source the target flipped under every state of the auxiliaries (C1), auxiliaries
    alone (C2), and each further pre-trained node; between two sources, all nodes pre-trained.

    - `patterns`: the row names of Table 1, as "none", "3", .., "1+2+3".  `title`: of a source, for readers.
    """
    family = []
    nodes = sorted({node for pattern in patterns if pattern != "none" for node in pattern.split("+")})
    auxiliaries = [pattern for pattern in patterns if pattern == "none" or not pattern.startswith("1")]
    for source in sources:
        for others in auxiliaries:
            flipped = "1" if others == "none" else f"1+{others}"
            name = f"pre-train node 1, auxiliaries pre-trained: {others}"
            family.append(Contrast(name, "C1", title(source), (source, flipped), (source, others)))
        for others in auxiliaries[1:]:
            name = f"pre-train only node {others}"
            family.append(Contrast(name, "C2", title(source), (source, others), (source, "none")))
        for fewer, more in pairwise("+".join(nodes[: i + 1]) for i in range(len(nodes))):
            name = f"{more} pre-trained instead of {fewer}"
            family.append(Contrast(name, "", title(source), (source, more), (source, fewer)))
    every = "+".join(nodes)
    for a, b in pairwise(sources):
        name = f"{title(a)} instead of {title(b)}, all nodes"
        family.append(Contrast(name, "", f"{title(a)} - {title(b)}", (a, every), (b, every)))
    return family


def contrast_table(arms: Mapping[tuple[str, str], Arm], family: Sequence[Contrast]):
    """Every contrast with `effect`, 95 % interval `low`..`high`, `p`, Holm's `p_holm` over the whole family, and `n`.

    `arms` by (source, pattern); "none" may be given under every source. A pandas DataFrame; NaN where arms are absent.
    """
    import pandas as pd

    empty = {"effect": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "n": 0}
    rows = []
    for c in family:
        known = c.plus in arms and c.minus in arms
        found = compare(arms[c.plus], arms[c.minus]) if known else empty
        rows.append({"source": c.source, "claim": c.claim, "contrast": c.name, **found})
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def verdict(effects: Sequence[float], p: Sequence[float]) -> str:
    """Of claims that effects are positive, all of them, at adjusted p: see `VERDICTS`."""
    effects, p = np.asarray(effects, float), np.asarray(p, float)
    if not len(effects) or np.isnan(effects).any():
        return "not measured"
    sure = p < 1 - LEVEL
    if (sure & (effects < 0)).any():
        return "contradicted"
    return "supported" if (sure & (effects > 0)).all() else "not resolved at this n"


def main_effects(arms: Mapping[tuple[str, str], Arm], source: str, patterns: Sequence[str]):
    """What pre-training one node adds on average over the states of the others; DataFrame by node.

    The mean of the paired differences is taken within each seed first, so that n is the number of seeds.
    """
    import pandas as pd

    nodes = sorted({node for pattern in patterns if pattern != "none" for node in pattern.split("+")})
    sets = {frozenset(pattern.split("+")) - {"none"}: pattern for pattern in patterns}
    rows = []
    for node in nodes:
        others = [other for other in nodes if other != node]
        states = [
            frozenset(o for o, on in zip(others, bits, strict=True) if on)
            for bits in product([0, 1], repeat=len(others))
        ]
        pairs = [(arms.get((source, sets[s | {node}])), arms.get((source, sets[s]))) for s in states]
        if any(a is None or b is None for a, b in pairs):
            continue
        if all(a.by_seed and b.by_seed for a, b in pairs):
            seeds = set.intersection(*(set(a.by_seed) & set(b.by_seed) for a, b in pairs))
            values = [np.mean([a.by_seed[seed] - b.by_seed[seed] for a, b in pairs]) for seed in sorted(seeds)]
            rows.append({"node": int(node), **summary(values)})
        else:  # published summaries: the errors of independent arms add up
            mean = np.mean([a.mean - b.mean for a, b in pairs])
            error, df = pooled([arm for pair in pairs for arm in pair])
            found = difference(float(mean), error / len(pairs), df, min(a.n for a, _ in pairs))
            rows.append({"node": int(node), "mean": found["effect"], "low": found["low"], "high": found["high"]})
    return pd.DataFrame(rows)
