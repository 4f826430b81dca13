"""ktglite: reproduce "Effectiveness of pre-training in the Knowledge Transfer Graph", and teach it.

The names below are the notebooks' vocabulary. What needs more than torch is imported on first use.
"""

from importlib import import_module

from ktglite import sources  # registers what a node may start from
from ktglite.data import Data, Split, augment
from ktglite.gates import GATES
from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
from ktglite.losses import edge_losses, node_losses
from ktglite.trainer import TrainConfig, epochs, initial_models

__version__ = "0.2.0"

_LAZY = {
    "FractalDB": "sources.fractaldb",
    "ablation_graphs": "experiments.ablation",
    "ablation_grid": "experiments.ablation",
    "ablation_table": "experiments.ablation",
    "best_graphs": "experiments.search",
    "load_data": "sources.datasets",
    "load_records": "experiments.runs",
    "load_settings": "settings",
    "open_pool": "pool",
    "run": "experiments.runs",
    "run_all": "experiments.runs",
    "study_summary": "experiments.search",
    "CONDITIONS": "experiments.space",
    "SearchConfig": "experiments.space",
}
_MODULES = {
    "ablation": "experiments.ablation",
    "bench": "experiments.bench",
    "claims": "experiments.claims",
    "datasets": "sources.datasets",
    "fractaldb": "sources.fractaldb",
    "kept": "experiments.kept",
    "plots": "figures",
    "pretrain": "sources.pretrain",
    "runs": "experiments.runs",
    "search": "experiments.search",
    "settings": "settings",
    "space": "experiments.space",
    "stats": "experiments.stats",
    "store": "store",
    "synthcars": "sources.synthcars",
    "losses": "losses",
    "gates": "gates",
    "trainer": "trainer",
}

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
    "mutual",
    "node_losses",
    "sources",
    *_LAZY,
    *_MODULES,
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f"ktglite.{_LAZY[name]}"), name)
    if name in _MODULES:
        return import_module(f"ktglite.{_MODULES[name]}")
    raise AttributeError(f"module 'ktglite' has no attribute {name!r}")
