"""ktglite: reproduce "Effectiveness of pre-training in the Knowledge Transfer Graph", and teach it.

The names below are the notebooks' vocabulary. `search`, `plots` and `reproduce` are loaded on first use, so that
training runs where only torch is installed.
"""

from importlib import import_module

from ktglite.data import Data, Split, augment, load_data
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
from ktglite.runs import load_records, run, run_all
from ktglite.trainer import TrainConfig, edge_losses, epochs, initial_models, node_losses

__version__ = "0.1.0"

LAZY = {
    "ablation_graphs": "ablation",
    "ablation_grid": "ablation",
    "ablation_table": "ablation",
    "FractalDB": "fractaldb",
    "CONDITIONS": "search",
    "Objective": "search",
    "best_graphs": "search",
    "open_study": "search",
    "study_summary": "search",
}
MODULES = ("ablation", "explorer", "fractaldb", "plots", "pretrain", "search", "stats", "synthcars")

__all__ = [
    "GATES",
    "Data",
    "Graph",
    "Node",
    "Split",
    "TrainConfig",
    "all_through",
    "augment",
    "distillation",
    "edge_losses",
    "epochs",
    "independent",
    "initial_models",
    "load_data",
    "load_records",
    "mutual",
    "node_losses",
    "run",
    "run_all",
    *LAZY,
    *MODULES,
]


def __getattr__(name: str):
    if name in LAZY:
        return getattr(import_module(f"ktglite.{LAZY[name]}"), name)
    if name in MODULES:
        return import_module(f"ktglite.{name}")
    raise AttributeError(f"module 'ktglite' has no attribute {name!r}")
