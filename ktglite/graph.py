"""The Knowledge Transfer Graph as data: nodes, gates, presets, what can influence the target."""

import json
import math
from dataclasses import asdict, dataclass
from itertools import permutations
from numbers import Real
from pathlib import Path

from ktglite import models
from ktglite.gates import GATES

__all__ = ["Graph", "Node", "all_through", "distillation", "independent", "mutual"]


@dataclass(frozen=True, order=True)
class Node:
    """One network: its architecture and where its weights come from (Step 2 of the paper).

    - `arch`: one of `ktglite.models.arch_names()`.
    - `init`: one of `ktglite.models.SOURCES` ("scratch", "fractaldb1k", ..), the path of a weights
      file, or a name of torchvision's such as "ResNet50_Weights.IMAGENET1K_V2".

    Raises ValueError for anything else.
    """

    arch: str
    init: str = "scratch"

    def __post_init__(self):
        if isinstance(self.init, Path):
            object.__setattr__(self, "init", str(self.init))
        models.check_arch(self.arch)
        if not models.is_init(self.init):
            files = f"a file ending in {', '.join(models.WEIGHT_SUFFIXES)}"
            allowed = f"{', '.join(models.SOURCES)}, {files}, ResNet18_Weights.DEFAULT and the like"
            raise ValueError(f"unknown init {self.init!r}: allowed are {allowed}")


@dataclass(frozen=True)
class Graph:
    """N nodes and the gate on each edge; node 0 is the target ("node 1" in the paper).

    `gates[t][s]` names the gate on the edge s -> t; the diagonal `gates[t][t]` is the label edge of
    node t. `transfer_weight` multiplies every node-to-node edge: 1 in the Knowledge Transfer Graph
    (a plain sum), 1/(N-1) in Deep Mutual Learning. Raises ValueError naming the entry at fault.
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
        lengths = [len(row) for row in self.gates]
        if lengths != [n] * n:
            wanted = f"{n} rows of {n} names, one row per target"
            raise ValueError(f"gates must be {wanted}: its row lengths are {lengths}")
        for t, row in enumerate(self.gates):
            for s, gate in enumerate(row):
                if gate not in GATES:
                    raise ValueError(f"gates[{t}][{s}] is {gate!r}: allowed are {', '.join(GATES)}")
        if not self.learns(0):
            found = "the target has no incoming edge and would never learn"
            raise ValueError(f"gates[0] is all cutoff: {found}")
        weight = self.transfer_weight
        if not (isinstance(weight, Real) and 0 <= weight < math.inf):
            raise ValueError(f"transfer_weight is {weight!r}: it must be a finite number >= 0")
        object.__setattr__(self, "transfer_weight", float(weight))  # 1 is 1.0, in a key, too

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
        """The target and every node with an open path to it: no other can change its result."""
        reached = {0}
        frontier = [0]
        while frontier:
            new = set(self.sources(frontier.pop())) - reached
            reached |= new
            frontier += new
        return frozenset(reached)

    def canonical(self) -> "Graph":
        """The same graph in effect, in one form: nodes that cannot matter dropped, Correct label
        edges as Through, auxiliary nodes in a fixed order.

        Two graphs with equal canonical forms train the target alike, up to which random numbers
        each auxiliary node draws.
        """

        def form(order: tuple[int, ...]) -> tuple:
            nodes = tuple(self.nodes[i] for i in order)
            gates = tuple(tuple(self._effective_gate(t, s) for s in order) for t in order)
            return nodes, gates

        auxiliary = sorted(self.reaching_target() - {0})
        nodes, gates = min(form((0, *order)) for order in permutations(auxiliary))
        return Graph(nodes, gates, self.transfer_weight if auxiliary else 1.0)

    def _effective_gate(self, target: int, source: int) -> str:
        """The gate on an edge; Correct on a label edge lets everything through."""
        gate = self.gates[target][source]
        return "through" if (target == source and gate == "correct") else gate

    def __str__(self) -> str:
        """Every node that matters, with its open edges: "1 scratch <- label through, 2 linear"."""
        parts = []
        for t in sorted(self.reaching_target()):
            names = {s: "label" if s == t else str(s + 1) for s in self.sources(t)}
            edges = [f"{name} {self.gates[t][s]}" for s, name in names.items()]
            parts.append(f"{t + 1} {self.nodes[t].init} <- {', '.join(edges) or 'nothing'}")
        return "; ".join(parts)

    def to_dict(self) -> dict:
        """Plain lists and dictionaries, fit for JSON."""
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "gates": [list(row) for row in self.gates],
            "transfer_weight": self.transfer_weight,
        }

    @classmethod
    def from_dict(cls, value: dict) -> "Graph":
        """The inverse of `to_dict`. Raises ValueError for entries missing, unknown or malformed."""
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"a graph is a dictionary with nodes and gates, not {kind}")
        if not {"nodes", "gates"} <= set(value) <= {"nodes", "gates", "transfer_weight"}:
            found = sorted(map(str, value))
            raise ValueError(f"a graph has nodes, gates and transfer_weight; this one has {found}")
        try:
            return cls(**value | {"nodes": [Node(**node) for node in value["nodes"]]})
        except TypeError as error:
            raise ValueError(f"nodes or gates of the graph are malformed: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the graph as a JSON file, which `load` and `ktglite train` read."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Graph":
        """The graph in a JSON file. Raises ValueError naming the file when it holds none."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8-sig")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a graph: {error}") from error


def independent(*nodes: Node) -> Graph:
    """Label edges only: every node trains alone."""
    n = len(nodes)
    return Graph(nodes, [["through" if s == t else "cutoff" for s in range(n)] for t in range(n)])


def all_through(*nodes: Node) -> Graph:
    """Every edge Through: the graph of the paper's Table 1. Transfer losses are summed."""
    n = len(nodes)
    return Graph(nodes, [["through"] * n] * n)


def mutual(*nodes: Node) -> Graph:
    """Deep Mutual Learning (Zhang et al., 2018): all Through, transfer losses *averaged*."""
    n = len(nodes)
    return Graph(nodes, [["through"] * n] * n, transfer_weight=1 / max(n - 1, 1))


def distillation(student: Node, teacher: Node, gate: str = "through") -> Graph:
    """Knowledge distillation: labels and, through `gate`, a fixed teacher."""
    return Graph((student, teacher), [["through", gate], ["cutoff", "cutoff"]])
