"""The search space: what a search may try, as settings, as a seeded plan of graphs, and as the
parameters of Optuna's trials."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Literal

from ktglite.experiments.rungs import Rungs
from ktglite.experiments.runs import check_gates
from ktglite.gates import GATES
from ktglite.graph import Graph, Node
from ktglite.trainer import check_config

__all__ = ["CONDITIONS", "SearchConfig", "expected_share_run", "sample_graphs"]

# The four searches of the paper: what a node may start from.
CONDITIONS = {
    "none": ("scratch",),
    "imagenet1k": ("scratch", "imagenet1k"),
    "fractaldb1k": ("scratch", "fractaldb1k"),
    "mixed": ("scratch", "imagenet1k", "fractaldb1k"),
}


@dataclass(frozen=True)
class SearchConfig:
    """What is searched and how. The defaults are the paper's (section 4): 1,500 graphs of three
    ResNet18, ASHA as in the released code.

    - `sources`: the pre-trained initialisations at hand; "imagenet1k_standin" takes the place of
      "imagenet1k".  `arch`: of every node, or several to choose from.
    - `trials`: how many graphs of `nodes` nodes, no two of them equal in effect.
    - `seed`: of the plan, and of *every* training, so that graphs differ by what they are.
    - `pruner`: what happens at the rungs, the epochs `min_resource` x `reduction_factor`^i. "asha"
      stops a graph there for good unless it is among the best 1/`reduction_factor` so far (the
      released code); "promote" pauses it, and lets it go on as soon as it is (Li et al., 2020);
      "none" has no rungs.
    - `teachers`: where a node starts that never learns: "random" as it is drawn, with a random head
      (the paper), or "trained" on the same images (Minami et al., 2020).
    - `select_on`: prune and select on "val", or on "test" as the released code does: no estimate of
      anything then.

    Raises ValueError for a setting that is out of range, or more `trials` than there are graphs.
    """

    condition: Literal["none", "imagenet1k", "fractaldb1k", "mixed"] = "mixed"
    sources: Sequence[str] = ("imagenet1k", "fractaldb1k")
    arch: str | Sequence[str] = "resnet18"
    nodes: int = 3
    trials: int = 1500
    seed: int = 0
    pruner: Literal["asha", "promote", "none"] = "asha"
    min_resource: int = 1
    reduction_factor: int = 2
    teachers: Literal["random", "trained"] = "random"
    select_on: Literal["val", "test"] = "val"

    def __post_init__(self):
        limits = dict.fromkeys(("trials", "min_resource"), (1, inf)) | {"nodes": (1, 8)}
        check_config(self, limits | {"reduction_factor": (2, inf)})
        bases = [source.partition("_")[0] for source in self.choices]
        if bases != list(CONDITIONS[self.condition]):
            needed = ", ".join(CONDITIONS[self.condition][1:])
            found = f"sources are {self.sources}"
            raise ValueError(f"{self.condition!r} needs one source each for {needed}: {found}")
        for arch, init in product(self.archs, self.choices):
            Node(arch, init)
        self.check_trials(self.trials)

    @property
    def archs(self) -> tuple[str, ...]:
        """The architectures a node may have."""
        return (self.arch,) if isinstance(self.arch, str) else tuple(self.arch)

    @property
    def choices(self) -> tuple[str, ...]:
        """The initialisations a node may have, each under the name of the source at hand."""
        pairs = product(CONDITIONS[self.condition], ("scratch", *self.sources))
        return tuple(source for name, source in pairs if f"{source}_".startswith(f"{name}_"))

    @property
    def space(self) -> dict[str, tuple[str, ...]]:
        """Name and choices of every parameter: "arch 1", "init 1", .., "gate label->1", .."""
        nodes = range(1, self.nodes + 1)
        starts = self.choices if self.teachers == "random" else (*self.choices, "teacher")
        names = {f"arch {i}": self.archs for i in nodes} | {f"init {i}": starts for i in nodes}
        return names | {_edge(s, t): tuple(GATES) for t in nodes for s in nodes}

    def rungs(self, epochs: int) -> Rungs:
        """The rungs of graphs that train for so many epochs. Raises ValueError as they do."""
        return Rungs(self.pruner, self.min_resource, self.reduction_factor, epochs, self.trials)

    def check_trials(self, trials: int) -> None:
        """Raise ValueError when there are not that many graphs that differ in effect."""
        starts = len(self.choices) * len(self.archs)
        fixed = starts if self.teachers == "random" else len(self.archs)
        count = count_graphs(starts, fixed, len(GATES), self.nodes)
        if trials > count and self.nodes <= 3:  # larger spaces have billions
            found = f"only {count} different graphs of {self.nodes} nodes from {starts} starts"
            raise ValueError(f"trials is {trials}, but there are {found}: fewer, or more nodes")


def outcome(trials: Sequence[dict], epochs: int) -> dict:
    """What a summary says of `trials` of so many `epochs` each, see `search.study_summary`."""
    done = [trial for trial in trials if trial["state"] == "COMPLETE"]
    best = max(done, key=lambda trial: trial["value"], default=None)
    if best:
        best = best | {"text": str(Graph.from_dict(best["graph"]))}
    return {
        "states": dict(Counter(trial["state"] for trial in trials)),
        "trials": list(trials),
        "epochs_run": sum(len(trial["values"]) for trial in trials),
        "epochs_full": epochs * len(trials),
        "best": best,
        "selection_value": best and best["value"],
    }


def count_graphs(starts: int, fixed: int, gates: int, nodes: int) -> int:
    """How many graphs of at most three nodes differ in effect (`Graph.canonical`).

    A node that learns has one of `starts`, one that never does one of `fixed`. On a label edge
    Correct is Through. Auxiliary nodes that reach the target may be swapped: with two of them, half
    of all graphs and of those that are their own image count.
    """
    labels = open_gates = gates - 1
    target = starts * labels * open_gates  # with one edge from an auxiliary
    alone = starts * (labels - 1)
    if nodes == 1:
        return alone
    pairs = target * (starts * (labels * gates - 1) + fixed)
    if nodes == 2:
        return alone + pairs
    auxiliary = starts * (labels * gates**2 - 1) + fixed
    heard_through_the_other = starts * labels * gates * open_gates
    both_direct = target * open_gates * auxiliary**2
    one_behind = 2 * target * heard_through_the_other * auxiliary
    own_image = target * auxiliary
    return alone + pairs + (both_direct + one_behind + own_image) // 2


def _edge(source: int, target: int) -> str:
    return f"gate {'label' if source == target else source}->{target}"


def to_params(graph: Graph) -> dict[str, str]:
    """A graph as the parameters of an Optuna trial."""
    params = {f"arch {i}": node.arch for i, node in enumerate(graph.nodes, 1)}
    params |= {f"init {i}": node.init for i, node in enumerate(graph.nodes, 1)}
    for t, row in enumerate(graph.gates, 1):
        params |= {_edge(s, t): gate for s, gate in enumerate(row, 1)}
    return params


def from_params(params: dict[str, str]) -> dict:
    """The inverse of `to_params`, as `Graph.to_dict`; a target may learn from nothing."""
    nodes = range(1, 1 + sum(name.startswith("init ") for name in params))
    gates = [[params[_edge(s, t)] for s in nodes] for t in nodes]
    named = [{"arch": params[f"arch {i}"], "init": params[f"init {i}"]} for i in nodes]
    return {"nodes": named, "gates": gates, "transfer_weight": 1.0}


def sample_graphs(
    settings: SearchConfig, trials: int | None = None, seed: int | None = None
) -> list[Graph]:
    """Graphs drawn uniformly from all whose target learns, without those that are equal in effect
    to one before (`Graph.canonical`); by default the plan of a search.

    The first graphs stay the same when `trials` grows. Raises ValueError when there are not that
    many graphs, or for a gate that is not the package's own.
    """
    trials = settings.trials if trials is None else trials
    settings.check_trials(trials)
    check_gates(GATES)
    rng = random.Random(settings.seed if seed is None else seed)
    starts = dict.fromkeys((f"init {i + 1}" for i in range(settings.nodes)), settings.choices)
    space = settings.space | starts  # a teacher is no choice, but what a fixed node becomes
    plan: dict[Graph, Graph] = {}  # by canonical form
    while len(plan) < trials:
        drawn = from_params({name: rng.choice(values) for name, values in space.items()})
        if set(drawn["gates"][0]) == {"cutoff"}:
            continue
        for node, row in zip(drawn["nodes"], drawn["gates"], strict=True):
            if settings.teachers == "trained" and set(row) == {"cutoff"}:
                node["init"] = "teacher"
        graph = Graph.from_dict(drawn)
        plan.setdefault(graph.canonical(), graph)
    return list(plan.values())


def expected_share_run(n_nodes: int) -> float:
    """The share of nodes that can reach the target, over all gates with which it learns; n <= 4.

    Only open or cut matters: 2^(n^2) patterns, each standing for (gates - 1)^(its open edges).
    """
    n = n_nodes
    total = reaching = 0
    for gates in product(("cutoff", "through"), repeat=n * n):
        if "through" in gates[:n]:
            graph = Graph((Node("resnet18"),) * n, [gates[i : i + n] for i in range(0, n * n, n)])
            weight = (len(GATES) - 1) ** gates.count("through")
            total += weight
            reaching += weight * len(graph.reaching_target())
    return reaching / (n * total)
