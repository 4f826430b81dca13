"""ktglite: reproduce "Effectiveness of pre-training in the Knowledge Transfer Graph", and teach it.

The names below are the notebooks' vocabulary. Each is imported when it is first used, so that
`import ktglite` and the command line's help need no torch.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # editors read this block, and so does `__getattr__`
    from ktglite import figures as plots
    from ktglite import gates, losses, settings, sources, store, trainer
    from ktglite.data import Data, Split, augment
    from ktglite.experiments import ablation, bench, claims, networks, runs, search, space, stats
    from ktglite.experiments.ablation import ablation_graphs, ablation_grid, ablation_table
    from ktglite.experiments.networks import classify, load_network
    from ktglite.experiments.runs import Run, load_records, run, run_all
    from ktglite.experiments.search import best_graphs, study_summary
    from ktglite.experiments.space import CONDITIONS, SearchConfig
    from ktglite.figures.style import hint, say
    from ktglite.gates import GATES
    from ktglite.graph import Graph, Node, all_through, distillation, independent, mutual
    from ktglite.losses import edge_losses, node_losses
    from ktglite.pool import open_pool
    from ktglite.settings import load_settings
    from ktglite.sources import datasets, fractaldb, pretrain
    from ktglite.sources.datasets import load_data
    from ktglite.sources.fractaldb import FractalDB
    from ktglite.trainer import TrainConfig, epochs, initial_models
    from ktglite_formulas import synthcars

__version__ = "0.3.0"

_PACKAGES = ("ktglite", "ktglite.experiments", "ktglite.sources", "ktglite_formulas")


def _names() -> dict[str, tuple[str, str]]:
    """Module and name that each name of the block above stands for, read from this file."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: (line.module, alias.name)
        for line in block.body
        for alias in line.names
    }


_NAMES = _names()
__all__ = sorted(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'ktglite' has no attribute {name!r}")
    import_module("ktglite.sources")  # the core alone knows "scratch", and nothing to start from
    module, own = _NAMES[name]
    if module in _PACKAGES:
        return import_module(f"{module}.{own}")
    return getattr(import_module(module), own)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
