"""How often the rule of the claims errs and finds: Table 1 simulated from the paper, by correlation
and n.

Runs are normal about the paper's means (that of a network alone, which was not published: its
graph's with the same target), with the paper's spreads and a correlation `rho` between runs of a
seed: among all arms, or among those whose target starts alike. `error`: share of simulations
without any effect in which the unadjusted interval leaves out 0 (wanted 5 %). `power`: share in
which Holm over the nine primaries supports the claim. Beside the rule of
`ktglite.experiments.stats.contrast` stands the plain paired t test by seed. Both sources, the worse
one is printed. Run: python benchmarks/power.py [--simulations 1000] [--n 3 5 10]
"""

import argparse

import numpy as np

from ktglite.experiments import claims, stats
from ktglite.experiments.ablation import paper_arms, patterns

CASES = (
    ("none", 0.0),
    ("all arms", 0.36),
    ("all arms", 0.94),
    ("same start", 0.36),
    ("same start", 0.94),
)


def published() -> tuple[dict, list[str]]:
    """The paper's (mean, std) by (source, pattern), networks alone added; and its sources."""
    sources = ["imagenet1k", "fractaldb1k"]
    arms = {key: (arm.mean, arm.std) for key, arm in paper_arms(sources).items()}
    for source in sources:
        arms[source, f"{source}/alone"] = arms[source, "1"]
    return arms, sources


def simulate(
    arms: dict, effects: bool, within: str, rho: float, n: int, draw: np.random.Generator
) -> dict:
    """Accuracies by arm; what no source changes is drawn once for all of them."""
    shared, found = {}, {}
    common = draw.standard_normal(n)
    for (source, pattern), (mean, std) in arms.items():
        start = source if pattern.startswith("1") or "/" in pattern else "scratch"
        key = pattern if pattern == "none" else (source, pattern)
        if key not in shared:
            seed = (
                common
                if within == "all arms"
                else shared.setdefault(("seed", start), draw.standard_normal(n))
            )
            noise = np.sqrt(rho) * seed + np.sqrt(1 - rho) * draw.standard_normal(n)
            shared[key] = mean * effects + std * noise
        found[source, pattern] = shared[key]
    mean, std = next(value for key, value in arms.items() if key[1] == "none")
    seed = common if within == "all arms" else shared["seed", "scratch"]
    alone = mean * effects + std * (
        np.sqrt(rho) * seed + np.sqrt(1 - rho) * draw.standard_normal(n)
    )
    return found | {(source, "alone"): alone for source in {source for source, _ in arms}}


def p_values(values: dict, sources: list[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """(effect, p) of every primary, by rule."""
    names, rules = patterns(3), {"contrast": {}, "paired": {}}
    for source in sources:
        table = {pattern: value for (of, pattern), value in values.items() if of == source}
        arms = {name: stats.arm(dict(enumerate(value))) for name, value in table.items()}
        for claim, weights in claims.primaries(source, names).items():
            key = claim if claim == "C0 scratch" else f"{claim} {source}"
            found = stats.contrast(arms, weights, claims._by_target(names))
            gap = stats.contrast(
                {"gap": stats.arm(dict(enumerate(sum(w * table[a] for a, w in weights.items()))))},
                {"gap": 1},
            )
            rules["contrast"][key], rules["paired"][key] = (
                (f["effect"], f["p"]) for f in (found, gap)
            )
    return rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--n", type=int, nargs="+", default=[3, 5, 10])
    given = parser.parse_args()
    arms, sources = published()
    shown = ("C0 scratch", "C0", "C1", "C2", "C3")
    print("n | correlation | rule | " + " | ".join(f"{claim}: error, power (%)" for claim in shown))
    for n in given.n:
        for within, rho in CASES:
            draw, count = np.random.default_rng(0), {}
            for effects in (False, True):
                for _ in range(given.simulations):
                    for rule, found in p_values(
                        simulate(arms, effects, within, rho, n, draw), sources
                    ).items():
                        adjusted = stats.holm([p for _, p in found.values()])
                        for (claim, (effect, p)), holm in zip(found.items(), adjusted, strict=True):
                            hit = (holm < 0.05 and effect > 0) if effects else p < 0.05
                            count[rule, claim, effects] = count.get((rule, claim, effects), 0) + hit
            for rule in ("contrast", "paired"):
                cells = []
                for claim in shown:
                    keys = (
                        [claim]
                        if claim == "C0 scratch"
                        else [f"{claim} {source}" for source in sources]
                    )
                    error = max(count[rule, key, False] for key in keys) / given.simulations
                    power = min(count[rule, key, True] for key in keys) / given.simulations
                    cells.append(
                        f"{100 * error:.0f}, {'–' if claim.startswith('C0') else f'{100 * power:.0f}'}"
                    )
                label = within if within == "none" else f"{rho} among {within}"
                print(f"{n} | {label} | {rule} | {' | '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
