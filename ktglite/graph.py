"""The Knowledge Transfer Graph as data: nodes, gates, presets, and what can influence the target."""

from dataclasses import dataclass
from itertools import permutations

from ktglite import models
from ktglite.gates import GATES

__all__ = ["Graph", "Node", "all_through", "distillation", "independent", "mutual"]


@dataclass(frozen=True, order=True)
class Node:
    """One network: its architecture and where its weights come from (Step 2 of the paper).

    `arch` is one of `ktglite.models.arch_names()`; `init` is one of `ktglite.models.SOURCES`
    ("scratch", "fractaldb1k", ..), the path of a weights file, or a name of torchvision's such as
    "ResNet50_Weights.IMAGENET1K_V2". Raises ValueError otherwise.
    """

    arch: str
    init: str = "scratch"

    def __post_init__(self):
        if self.arch not in models.arch_names():
            ours = ", ".join(models.NARROW)
            raise ValueError(f"unknown arch {self.arch!r}: allowed are {ours} and torchvision's, such as resnet18")
        if not models.is_init(self.init):
            others = f"a file ending in {', '.join(models.WEIGHT_SUFFIXES)}, or torchvision's ResNet18_Weights.DEFAULT"
            raise ValueError(f"unknown init {self.init!r}: allowed are {', '.join(models.SOURCES)}, {others}")


@dataclass(frozen=True)
class Graph:
    """N nodes and the gate on each edge; node 0 is the target ("node 1" in the paper).

    `gates[t][s]` names the gate on the edge s -> t; the diagonal `gates[t][t]` is the label edge of node t.
    `transfer_weight` multiplies every node-to-node edge: 1 in the Knowledge Transfer Graph (a plain sum),
    1/(N-1) in Deep Mutual Learning. Raises ValueError naming the entry at fault.
    """

    nodes: tuple[Node, ...]
    gates: tuple[tuple[str, ...], ...]
    transfer_weight: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "gates", tuple(tuple(row) for row in self.gates))
        if not self.nodes:
            raise ValueError("a graph needs at least one node: nodes is empty")
        for i, node in enumerate(self.nodes):
            if not isinstance(node, Node):
                raise ValueError(f"nodes[{i}] is {node!r}, not a Node(arch, init)")
        n = self.size
        if len(self.gates) != n or any(len(row) != n for row in self.gates):
            shape = [len(row) for row in self.gates]
            raise ValueError(f"gates must be {n} rows of {n} names, one row per target: its row lengths are {shape}")
        for t, row in enumerate(self.gates):
            for s, gate in enumerate(row):
                if gate not in GATES:
                    raise ValueError(f"gates[{t}][{s}] is {gate!r}: allowed are {', '.join(GATES)}")
        if not self.learns(0):
            raise ValueError("gates[0] is all cutoff: the target has no incoming edge and would never learn")
        if not (isinstance(self.transfer_weight, int | float) and 0 <= self.transfer_weight < float("inf")):
            raise ValueError(f"transfer_weight is {self.transfer_weight!r}: it must be a finite number >= 0")

    @property
    def size(self) -> int:
        """Number of nodes N."""
        return len(self.nodes)

    def sources(self, target: int) -> list[int]:
        """Sources of the open edges into `target`, itself included where its label edge is open."""
        return [s for s, gate in enumerate(self.gates[target]) if gate != "cutoff"]

    def learns(self, node: int) -> bool:
        """False for a fixed teacher: every edge into it is Cutoff, so no loss ever reaches it."""
        return bool(self.sources(node))

    def reaching_target(self) -> frozenset[int]:
        """The target and every node with an open path to it; no other node can change the target's result."""
        reached, frontier = {0}, [0]
        while frontier:
            new = set(self.sources(frontier.pop())) - reached
            reached |= new
            frontier += new
        return frozenset(reached)

    def canonical(self) -> "Graph":
        """The same graph in effect, in one form: nodes that cannot matter dropped, Correct label edges as Through,
        auxiliary nodes in a fixed order. Two graphs with equal canonical forms train the target alike, up to
        which random numbers each auxiliary node draws.
        """
        kept = sorted(self.reaching_target())
        name = {(i, i, "correct"): "through" for i in kept}

        def form(order: tuple[int, ...]) -> tuple:
            nodes = tuple(self.nodes[i] for i in order)
            gates = tuple(tuple(name.get((t, s, self.gates[t][s]), self.gates[t][s]) for s in order) for t in order)
            return nodes, gates

        nodes, gates = min(form((0, *order)) for order in permutations(kept[1:]))
        return Graph(nodes, gates, self.transfer_weight if len(nodes) > 1 else 1.0)

    def __str__(self) -> str:
        """Every node that can matter with its open edges: "1 imagenet1k <- label through, 2 linear; 2 .."."""
        parts = []
        for t in sorted(self.reaching_target()):
            names = ["label" if s == t else str(s + 1) for s in self.sources(t)]
            edges = [f"{name} {self.gates[t][s]}" for name, s in zip(names, self.sources(t), strict=True)]
            parts.append(f"{t + 1} {self.nodes[t].init} <- {', '.join(edges) or 'nothing'}")
        return "; ".join(parts)

    def to_dict(self) -> dict:
        """Plain lists and dictionaries, fit for JSON."""
        nodes = [{"arch": node.arch, "init": node.init} for node in self.nodes]
        return {"nodes": nodes, "gates": [list(row) for row in self.gates], "transfer_weight": self.transfer_weight}

    @classmethod
    def from_dict(cls, value: dict) -> "Graph":
        """The inverse of `to_dict`. Raises ValueError when an entry is missing, unknown or of the wrong kind."""
        if not isinstance(value, dict):
            raise ValueError(f"a graph is a dictionary with nodes and gates, not {type(value).__name__}")
        if not {"nodes", "gates"} <= set(value) <= {"nodes", "gates", "transfer_weight"}:
            raise ValueError(f"a graph has nodes, gates and transfer_weight; this one has {sorted(map(str, value))}")
        try:
            return cls(**value | {"nodes": [Node(**node) for node in value["nodes"]]})
        except TypeError as error:
            raise ValueError(f"nodes or gates of the graph are malformed: {error}") from error


def independent(*nodes: Node) -> Graph:
    """Label edges only: every node trains alone."""
    n = len(nodes)
    return Graph(nodes, [["through" if s == t else "cutoff" for s in range(n)] for t in range(n)])


def all_through(*nodes: Node) -> Graph:
    """Every edge Through: the graph of the paper's Table 1. The transfer losses are summed, not averaged."""
    n = len(nodes)
    return Graph(nodes, [["through"] * n] * n)


def mutual(*nodes: Node) -> Graph:
    """Deep Mutual Learning (Zhang et al., 2018): all Through, the transfer losses *averaged* with weight 1/(N-1)."""
    n = len(nodes)
    return Graph(nodes, [["through"] * n] * n, transfer_weight=1 / max(n - 1, 1))


def distillation(student: Node, teacher: Node, gate: str = "through") -> Graph:
    """Knowledge distillation: the student learns from labels and, through `gate`, from a fixed teacher."""
    return Graph((student, teacher), [["through", gate], ["cutoff", "cutoff"]])
