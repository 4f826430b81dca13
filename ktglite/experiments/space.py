"""The search space: what a search may try, as settings, as seeded random graphs, and as Optuna's parameters."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Literal

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
    """What is searched and how. The defaults are the paper's: 1,500 graphs of three ResNet18, ASHA
    as released.

    - `sources`: the pre-trained initialisations at hand; "imagenet1k_standin" takes the place of
      "imagenet1k".
    - `arch`: one architecture, or several for every node to choose from.  `nodes`: N, the target
      included.
    - `trials`: how many graphs.  `seed`: of the plan, and of *every* training, so that graphs
      differ by what they are.
    - `sampler`: "random" (uniform, no graph twice) or "tpe", which learns from the trials before.
    - `pruner`: what happens at the rungs, the epochs `min_resource` x `reduction_factor`^i. "asha"
      stops a graph there for good unless it is among the best 1/`reduction_factor` so far
      (Optuna's, as in the released code); "promote" pauses every graph there, and lets one go on as
      soon as it is (Li et al., 2020); "none" has no rungs.
    - `teachers`: where a node starts that never learns, since all edges into it are Cutoff:
      "random" as it is drawn, with a random head (the paper: "Step 1 weights or random"), or
      "trained" on the same images (Minami et al., 2020).
    - `objective`: the accuracy of the "target" (the paper), or of the "ensemble", the mean softmax
      of all nodes that can influence it (Okamoto et al., ECCV 2022).
    - `select_on`: prune and select on "val", or on "test" as the released code does: no estimate of
      anything then.

    Raises ValueError naming the setting that is out of range.
    """

    condition: Literal["none", "imagenet1k", "fractaldb1k", "mixed"] = "mixed"
    sources: Sequence[str] = ("imagenet1k", "fractaldb1k")
    arch: str | Sequence[str] = "resnet18"
    nodes: int = 3
    trials: int = 1500
    seed: int = 0
    sampler: Literal["random", "tpe"] = "random"
    pruner: Literal["asha", "promote", "none"] = "asha"
    min_resource: int = 1
    reduction_factor: int = 2
    teachers: Literal["random", "trained"] = "random"
    objective: Literal["target", "ensemble"] = "target"
    select_on: Literal["val", "test"] = "val"

    def __post_init__(self):
        limits = dict.fromkeys(("nodes", "trials", "min_resource"), (1, inf))
        check_config(self, limits | {"reduction_factor": (2, inf)})
        if len(self.choices) != len(CONDITIONS[self.condition]):
            needed = ", ".join(CONDITIONS[self.condition][1:])
            raise ValueError(
                f"{self.condition!r} needs one source each for {needed}: sources are {self.sources}"
            )
        if (self.sampler, self.pruner) == ("tpe", "promote"):
            raise ValueError(
                "sampler 'tpe' learns from finished graphs, and pruner 'promote' pauses them: use 'asha'"
            )
        if (self.sampler, self.teachers) == ("tpe", "trained"):
            raise ValueError(
                "sampler 'tpe' draws starts before it is known who is a teacher: use 'random'"
            )
        for arch, init in product(self.archs, self.choices):
            Node(arch, init)

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
        """Name and choices of every parameter: "arch 1", "init 1", .., "gate label->1", "gate 2->1", .."""
        nodes = range(1, self.nodes + 1)
        starts = self.choices if self.teachers == "random" else (*self.choices, "teacher")
        names = {f"arch {i}": self.archs for i in nodes} | {f"init {i}": starts for i in nodes}
        return names | {_edge(s, t): tuple(GATES) for t in nodes for s in nodes}


def _edge(source: int, target: int) -> str:
    return f"gate {'label' if source == target else source}->{target}"


def to_params(graph: Graph) -> dict[str, str]:
    """A graph as the parameters of an Optuna trial."""
    params = {f"arch {i}": node.arch for i, node in enumerate(graph.nodes, 1)}
    params |= {f"init {i}": node.init for i, node in enumerate(graph.nodes, 1)}
    return params | {
        _edge(s, t): gate for t, row in enumerate(graph.gates, 1) for s, gate in enumerate(row, 1)
    }


def from_params(params: dict[str, str]) -> dict:
    """The inverse of `to_params`, in the form of `Graph.to_dict`; not checked: a target may learn from nothing."""
    nodes = range(1, 1 + sum(name.startswith("init ") for name in params))
    gates = [[params[_edge(s, t)] for s in nodes] for t in nodes]
    named = [{"arch": params[f"arch {i}"], "init": params[f"init {i}"]} for i in nodes]
    return {"nodes": named, "gates": gates, "transfer_weight": 1.0}


def sample_graphs(
    settings: SearchConfig, trials: int | None = None, seed: int | None = None
) -> list[Graph]:
    """Different graphs, uniform over all whose target learns; by default the plan of a random
    search.

    The first graphs stay the same when `trials` grows. Raises ValueError when there are not that
    many graphs.
    """
    trials = settings.trials if trials is None else trials
    starts, learners = len(settings.choices) * len(settings.archs), len(GATES) ** settings.nodes - 1
    fixed = starts if settings.teachers == "random" else len(settings.archs)
    count = starts * learners * (starts * learners + fixed) ** (settings.nodes - 1)
    if trials > count:
        raise ValueError(
            f"trials is {trials}, but there are only {count} different graphs: fewer, or more nodes"
        )
    rng, graphs, space = random.Random(settings.seed if seed is None else seed), {}, settings.space
    space |= {name: settings.choices for name in space if name.startswith("init ")}
    while len(graphs) < trials:
        drawn = from_params({name: rng.choice(values) for name, values in space.items()})
        if set(drawn["gates"][0]) != {"cutoff"}:
            for node, row in zip(drawn["nodes"], drawn["gates"], strict=True):
                if settings.teachers == "trained" and set(row) == {"cutoff"}:
                    node["init"] = "teacher"
            graphs[Graph.from_dict(drawn)] = None
    return list(graphs)


def expected_share_run(n_nodes: int) -> float:
    """The share of nodes that can reach the target, over all assignments of gates in which it
    learns; for n <= 4.

    Only open or cut matters: 2^(n^2) patterns, each standing for (gates - 1)^(its open edges)
    assignments.
    """
    n, total, reaching = n_nodes, 0, 0
    for gates in product(("cutoff", "through"), repeat=n * n):
        if "through" in gates[:n]:
            graph = Graph((Node("resnet18"),) * n, [gates[i : i + n] for i in range(0, n * n, n)])
            weight = (len(GATES) - 1) ** gates.count("through")
            total, reaching = total + weight, reaching + weight * len(graph.reaching_target())
    return reaching / (n * total)
