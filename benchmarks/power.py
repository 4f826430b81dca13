"""How often the rule of the claims errs, and how often it finds what is there.

Table 1 is simulated with the means and spreads of the paper, or of recorded runs, for several
correlations between the runs of a seed: none, or rho among all arms or among those whose target
starts alike. `error` is the share of simulations without any effect in which the 95 % interval
leaves out 0 (wanted: 5 %); `power` the share in which Holm within the claim's family finds the
effect. Printed is the worst over the correlations: of all sources the largest error, of each source
("scratch" first in C0) the smallest power.
"by seed" is the rule of `ktglite.experiments.stats.contrast`; "Welch" takes the rows of a seed as
independent. Of networks alone the paper has no numbers: the spread is that of the graph with the
same target, and there is no power.

    python benchmarks/power.py [--simulations 1000] [--n 3 5 10] [--records FOLDER ..]
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from ktglite.experiments import stats
from ktglite.experiments.ablation import paper_arms, patterns, read_runs, run_arms, sources_of
from ktglite.experiments.claims import FAMILIES, primaries

CORRELATIONS = (
    ("none", 0.0),
    ("all arms", 0.36),
    ("all arms", 0.94),
    ("same start", 0.36),
    ("same start", 0.94),
)
RULES = ("by seed", "Welch")


def published() -> dict[tuple[str, str], tuple[float, float]]:
    """(mean, std) by (source, pattern) of the paper, with networks alone as its graphs."""
    arms = paper_arms(["imagenet1k", "fractaldb1k"])
    found = {name: (arm.mean, arm.std) for name, arm in arms.items()}
    for source in ("imagenet1k", "fractaldb1k"):
        found[source, "alone"] = found[source, "1"]
    found["scratch", "none"] = found["scratch", "alone"] = found["imagenet1k", "none"]
    return found


def recorded(folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """(mean, std) by (source, pattern) of recorded runs."""
    return {name: (arm.mean, arm.std) for name, arm in run_arms(read_runs(folder)).items()}


def declared(sources: list[str]) -> dict[tuple[str, str], dict]:
    """Weights over arms by (claim, source)."""
    found = {("C0", "scratch"): {("scratch", "none"): 1.0, ("scratch", "alone"): -1.0}}
    for source in sources:
        for claim, weights in primaries(patterns(3)).items():
            found[claim, source] = {(source, name): w for name, w in weights.items()}
    return found


def simulate(
    arms: dict, effects: bool, among: str, rho: float, n: int, draw: np.random.Generator
) -> dict[tuple[str, str], np.ndarray]:
    """Accuracies (n,) by arm; the graph without pre-training is one arm, whatever the source."""
    common = draw.standard_normal(n)
    starts = {source: draw.standard_normal(n) for source, _ in arms}
    found = {}
    for (source, pattern), (mean, std) in arms.items():
        scratch = source == "scratch" or not (pattern == "alone" or pattern.startswith("1"))
        seed = common if among == "all arms" else starts["scratch" if scratch else source]
        noise = np.sqrt(rho) * seed + np.sqrt(1 - rho) * draw.standard_normal(n)
        found[source, pattern] = mean * effects + std * noise
    return {name: found["scratch" if name[1] == "none" else name[0], name[1]] for name in found}


def tests(values: dict, contrasts: dict, rule: str) -> dict[tuple[str, str], dict]:
    """Every contrast by a rule."""
    arms = {name: stats.arm(dict(enumerate(value))) for name, value in values.items()}
    if rule == "Welch":
        arms = {name: stats.Arm(arm.mean, arm.std, arm.n) for name, arm in arms.items()}
    return {name: stats.contrast(arms, weights) for name, weights in contrasts.items()}


def hits(found: dict, effects: bool, truth: dict) -> list[tuple[str, str]]:
    """Contrasts whose effect is found, in its true direction; without effects, those that err."""
    if not effects:
        return [name for name, row in found.items() if row["p"] < 0.05]
    kept = []
    for family in set(FAMILIES.values()):
        names = [name for name in found if FAMILIES[name[0]] == family]
        adjusted = stats.holm([found[name]["p"] for name in names])
        for name, p in zip(names, adjusted, strict=True):
            if p < 0.05 and found[name]["effect"] * truth[name] > 0:
                kept.append(name)
    return kept


def rates(arms: dict, contrasts: dict, n: int, simulations: int) -> dict[tuple, float]:
    """Share of simulations with a hit, by (rule, contrast, with effects?, correlation)."""
    truth = {name: sum(w * arms[a][0] for a, w in own.items()) for name, own in contrasts.items()}
    count = Counter()
    for case in CORRELATIONS:
        draw = np.random.default_rng(0)
        for effects in (False, True):
            for _ in range(simulations):
                values = simulate(arms, effects, *case, n, draw)
                for rule in RULES:
                    for name in hits(tests(values, contrasts, rule), effects, truth):
                        count[rule, name, effects, case] += 1 / simulations
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--n", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--records", type=Path, nargs="*", default=[], help="with a table1.json")
    given = parser.parse_args()
    spreads = {"paper": (published(), ["imagenet1k", "fractaldb1k"])}
    spreads |= {path.name: (recorded(path), sources_of(read_runs(path))) for path in given.records}
    print("| means and spreads | n | rule | C0: error; power (%) | C1 | C2 | C3 |")
    print("|---|---|---|---|---|---|---|")
    for label, (arms, sources) in spreads.items():
        contrasts = declared(sources)
        for n in given.n:
            found = rates(arms, contrasts, n, given.simulations)
            for rule in RULES:
                cells = []
                for claim in FAMILIES:
                    names = [name for name in contrasts if name[0] == claim]
                    error = max(found[rule, name, False, c] for name in names for c in CORRELATIONS)
                    power = [
                        min(found[rule, name, True, c] for c in CORRELATIONS) for name in names
                    ]
                    shown = " / ".join(f"{100 * share:.0f}" for share in power)
                    known = label != "paper" or claim != "C0"
                    cells.append(f"{100 * error:.0f}; {shown if known else '–'}")
                print(f"| {label} | {n} | {rule} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
