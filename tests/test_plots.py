"""Figures: what is drawn, not how it looks; that was judged by eye."""

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from ktglite import Graph, Node, ablation, all_through, plots

SOURCES = ["imagenet1k_standin", "fractaldb1k"]
ARCH = "resnet18_tiny"


@pytest.fixture(autouse=True)
def clean():
    plots.use_style()
    yield
    plt.close("all")


def records(seeds=2):
    rng, found = np.random.default_rng(0), []
    for label, graph in ablation.ablation_grid(ARCH, SOURCES).items():
        for seed in range(seeds):
            epochs = [{"epoch": e, "val_accuracy": [10.0 * e + rng.normal()]} for e in (1, 2, 3)]
            run = {"seed": seed, "test_accuracy": [40 + rng.normal()], "epochs": epochs}
            found.append({"label": label, "graph": graph.to_dict(), **run})
    return found


def summary(condition, inits, best=True):
    graph = Graph((Node(ARCH, inits[-1]), Node(ARCH)), [["through", "linear"], ["cutoff", "correct"]])
    again = [
        {"label": label, "seeds": [5, 6], "test_accuracy": [50.0, 51.0 + len(inits)]}
        for label in ("top 1", "independent")
    ]
    return {
        "condition": condition,
        "choices": list(inits),
        "select_on": "val",
        "search": {"min_resource": 1, "reduction_factor": 2, "min_early_stopping_rate": 0, "pruner": "asha"},
        "training": {"epochs": 3},
        "states": {"COMPLETE": 1},
        "trials": [{"values": [1.0, 2.0, 3.0], "state": "COMPLETE"}, {"values": [0.5], "state": "PRUNED"}],
        "best": {"graph": graph.to_dict()} if best else None,
        "selection_value": 60.0 if best else None,
        "reevaluated": again if best else [],
    }


def summaries():
    choices = {"none": [], "imagenet1k": SOURCES[:1], "fractaldb1k": SOURCES[1:], "mixed": SOURCES}
    return {name: summary(name, ("scratch", *inits)) for name, inits in choices.items()}


def texts(figure):
    found = [text.get_text() for axis in figure.axes for text in [*axis.texts, axis.title]]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " ".join(found).replace("\n", " ")


def test_a_graph_shows_its_nodes_gates_and_target():
    nodes = (Node(ARCH, "fractaldb1k"), Node(ARCH, "imagenet1k_standin"), Node(ARCH))
    gates = [["through", "linear", "correct"], ["cutoff", "through", "cutoff"], ["cutoff"] * 3]
    axis = plots.draw_graph(Graph(nodes, gates), accuracy=71.2)
    words = [text.get_text() for text in axis.texts]
    assert {"PFRN18\n71.2 %", "SIRN18", "RN18"} <= set(words)
    assert sorted(word for word in words if len(word) == 1) == ["C", "L", "T", "T"]
    assert words.count("label") == 2
    rims = [to_hex(c.get_edgecolor()[0]) for c in axis.collections if len(c.get_edgecolor())]
    assert rims.count(plots.TARGET_RED.lower()) == 1


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_graphs_of_other_sizes(n):
    axis = plots.draw_graph(all_through(*[Node(ARCH)] * n))
    letters = [text for text in axis.texts if text.get_text() == "T"]
    assert len(letters) == n * n


def test_what_cannot_be_heard_is_dimmed():
    axis = plots.draw_graph(Graph((Node(ARCH), Node(ARCH)), [["through", "cutoff"], ["through", "through"]]))
    alphas = [c.get_alpha() for c in axis.collections if c.get_alpha() is not None]
    assert sorted(alphas) == [0.35, 1]


def test_gates_differ_in_more_than_colour():
    shown = [plots.GATE_STYLES[gate] for gate in ("through", "linear", "correct")]
    assert len({line for _, line, _ in shown}) == len({letter for *_, letter in shown}) == 3


def test_figure_2_names_conditions_numbers_and_the_stand_in():
    text = texts(plots.plot_best_graphs(summaries()))
    for words in ("(a) no pre-training", "(b) ImageNet-1k stand-in", "(d)", "n = 2", "over (a): +", "SIRN18"):
        assert words in text
    assert text.count("ImageNet-1k") == text.count("ImageNet-1k stand-in")


def test_a_search_without_a_complete_trial_is_said():
    assert "no trial was completed" in texts(
        plots.plot_best_graphs({"none": summary("none", ("scratch",), best=False)})
    )


def test_table_1_shows_every_run_and_the_paper():
    figure = plots.plot_table1(records())
    assert len(figure.axes) == 4
    points = sum(len(c.get_offsets()) for c in figure.axes[0].collections)
    assert points == 8 * 2
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0].startswith("ImageNet-1k stand-in\nthis run, n = 2")
    assert titles[1].startswith("paper, ImageNet-1k")


def test_searches_draw_each_trial_and_rung():
    axis = plots.plot_search(summaries()["mixed"])
    assert len(axis.lines) == 2 + 2  # trials, and rungs at epochs 1 and 2


def test_the_other_figures_draw():
    plots.plot_learning_curves(records())
    plots.plot_main_effects(records())
    plots.plot_optimism(summaries())
    plots.plot_gate_curves()
    plots.draw_method()
    plots.plot_images(np.zeros((5, 3, 8, 8), np.uint8), list("abcde"), columns=3)
    plots.plot_filters(np.random.default_rng(0).normal(size=(10, 3, 3, 3)))
    plots.plot_pretraining({"source": SOURCES[0], "classes": 40, "curve": [{"images": 100, "accuracy": 5.0}]})


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, kind):
    first, second = (
        plots.save_figure(plots.draw_method(), tmp_path / name, "x", [kind], note="n")[0] for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()


def test_all_from_records_alone(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "table1.json").write_text(json.dumps(records()))
    for name, value in summaries().items():
        (tmp_path / f"search/{name}.json").write_text(json.dumps(value))
    paths = plots.draw_all(tmp_path, tmp_path / "figures", ["png"])
    assert len(paths) == 8
    assert all(path.stat().st_size > 2000 for path in paths)
    with pytest.raises(FileNotFoundError, match=r"no table1\.json"):
        plots.draw_all(tmp_path / "figures", tmp_path)
    with pytest.raises(ValueError, match="format is 'gif'"):
        plots.save_figure(plots.draw_method(), tmp_path, "x", ["gif"])
