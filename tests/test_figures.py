"""Figures: what is drawn, not how it looks; that was judged by eye."""

import hashlib
import json
import math
import re
import sys
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.text import Text

from ktglite import Graph, Node, all_through, mutual
from ktglite import figures as plots
from ktglite.experiments import ablation, claims
from ktglite.experiments.search import read_summaries
from ktglite.figures import captions, graphs, style
from ktglite.store import from_checkout
from ktglite.tools import japanese

# Hashes of the drawings below, put here after they were looked at.
LOOKED_AT = {
    "distillation": "bda708c072400dea",
    "mixed": "8b7edb8cb30eb158",
    "six nodes": "c32d79471d4dd8e1",
}
SOURCES = ["imagenet1k_standin", "fractaldb1k"]
ARCH = "resnet18_w8"


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
            run["data"] = {"name": "synthcars", "fingerprint": "0" * 64}
            found.append({"label": label, "graph": graph.to_dict(), **run})
    return found


def summary(condition, inits, best=True):
    graph = Graph(
        (Node(ARCH, inits[-1]), Node(ARCH)), [["through", "linear"], ["cutoff", "correct"]]
    )
    again = [
        {
            "label": label,
            "seeds": [5, 6],
            "test_accuracy": [50.0, 51.0 + len(inits)],
            "val_accuracy": [52.0, 53.0],
        }
        for label in ("top 1", "independent")
    ]
    return {
        "condition": condition,
        "choices": list(inits),
        "select_on": "val",
        "search": {"min_resource": 1, "reduction_factor": 2, "pruner": "asha"},
        "data": {"name": "synthcars", "fingerprint": "0" * 64},
        "training": {"epochs": 3},
        "weights": {"imagenet1k_standin resnet18": "abc"},
        "states": {"COMPLETE": 1},
        "trials": [
            {
                "values": [1.0, 2.0, 3.0],
                "state": "COMPLETE",
                "value": 3.0,
                "seed": 0,
                "graph": graph.to_dict(),
            },
            {
                "values": [0.5],
                "state": "PRUNED",
                "value": None,
                "seed": 1,
                "graph": graph.to_dict(),
            },
        ],
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
    axis = plots.draw_graph(Graph(nodes, gates), title="drawn", accuracy=71.2)
    words = [text.get_text() for text in axis.texts]
    assert {"PFRN18\n71.2 %", "SIRN18", "RN18"} <= set(words)
    assert sorted(word for word in words if len(word) == 1) == ["1", "2", "3", "C", "L", "T", "T"]
    assert words.count("label") == 2
    assert axis.get_title() == "drawn"
    assert len(arrows(axis)) == 2 * 4  # a line and a head for each open edge


def circles(axis):
    return [patch for patch in axis.patches if isinstance(patch, Circle)]


def arrows(axis):
    return [patch for patch in axis.get_children() if isinstance(patch, FancyArrowPatch)]


def test_the_target_alone_is_circled_in_red():
    axis = plots.draw_graph(
        all_through(*(Node(ARCH, init) for init in ("scratch", "fractaldb1k", "imagenet1k")))
    )
    rims = [to_hex(circle.get_edgecolor()) for circle in circles(axis)]
    assert [rim == plots.TARGET_RED.lower() for rim in rims] == [True, False, False]
    assert (
        len({to_hex(circle.get_facecolor()) for circle in circles(axis)}) == 3
    )  # a colour per initialisation
    top = max(circles(axis), key=lambda circle: circle.center[1])
    assert top is circles(axis)[0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_graphs_of_other_sizes(n):
    axis = plots.draw_graph(all_through(*[Node(ARCH)] * n))
    letters = [text for text in axis.texts if text.get_text() == "T"]
    assert len(letters) == n * n
    places = [circle.center for circle in circles(axis)]
    radius = circles(axis)[0].radius
    gaps = [math.dist(a, b) for i, a in enumerate(places) for b in places[:i]]
    assert all(gap > 2.2 * radius for gap in gaps)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_names_stay_inside_their_circles(n):
    figure, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
    for axis in axes:
        plots.draw_graph(
            all_through(*[Node(ARCH, "imagenet1k_standin")] * n),
            ax=axis,
            title="a title",
            accuracy=99.9,
        )
    figure.canvas.draw()
    for circle in circles(axes[1]):
        inside = [
            text for text in axes[1].texts if tuple(text.get_position()) == tuple(circle.center)
        ]
        assert len(inside) == 1
        assert inside[0].get_window_extent().width < circle.get_window_extent().width
    assert 4.5 <= inside[0].get_fontsize() <= 9


def test_both_directions_are_seen():
    axis = plots.draw_graph(all_through(Node(ARCH), Node(ARCH)))
    there, back = (
        t.get_position() for t in axis.texts if t.get_text() == "T" and t.get_bbox_patch()
    )
    assert math.dist(there, back) > 0.2


def test_cut_edges_are_absent_or_faint():
    graph = Graph((Node(ARCH), Node(ARCH)), [["through", "cutoff"], ["through", "through"]])
    assert "×" not in [text.get_text() for text in plots.draw_graph(graph).texts]
    faint = plots.draw_graph(graph, show_cutoff=True)
    assert [text.get_alpha() for text in faint.texts if text.get_text() == "×"] == [0.35]


def test_what_cannot_be_heard_is_dimmed():
    axis = plots.draw_graph(
        Graph((Node(ARCH), Node(ARCH)), [["through", "cutoff"], ["through", "through"]])
    )
    assert [circle.get_alpha() for circle in circles(axis)] == [1, 0.35]


def test_the_legend_names_gates_and_the_stand_in():
    axis = plots.draw_graph(all_through(Node(ARCH, "imagenet1k_standin"), Node(ARCH)), legend=True)
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert {"T: through", "L: linear", "C: correct", "SIRN18: ImageNet-1k stand-in"} <= set(words)


def test_gates_differ_in_more_than_colour():
    shown = [graphs.GATE_STYLES[gate] for gate in ("through", "linear", "correct")]
    assert len({colour for colour, *_ in shown}) == 3
    assert len({line for _, line, _ in shown}) == len({letter for *_, letter in shown}) == 3
    assert graphs._gate_style("invented")[2] == "I"  # a gate of the reader's own is drawn, too


def test_figure_2_names_conditions_numbers_and_the_stand_in():
    text = texts(plots.plot_best_graphs(summaries()))
    for words in (
        "(a) no pre-training",
        "(b) ImageNet-1k stand-in",
        "(d)",
        "n = 2",
        "over (a): +",
        "SIRN18",
    ):
        assert words in text
    assert text.count("ImageNet-1k") == text.count("ImageNet-1k stand-in")


def test_a_search_without_a_complete_trial_is_said():
    assert "no trial was completed" in texts(
        plots.plot_best_graphs({"none": summary("none", ("scratch",), best=False)})
    )


def test_conditions_keep_their_letters():
    some = {name: value for name, value in summaries().items() if name in ("fractaldb1k", "mixed")}
    text = texts(plots.plot_best_graphs(some))
    assert "(c) FractalDB-1k" in text
    assert "(d) " in text
    assert "over (a)" not in text  # there is no (a) to compare with


def test_table_1_shows_every_run_and_the_paper():
    figure = plots.plot_table1(records())
    assert len(figure.axes) == 4
    ours, theirs = figure.axes[:2], figure.axes[2:]
    for axis in ours:
        assert (
            sum(len(c.get_offsets()) for c in axis.collections if len(c.get_offsets()) > 1) == 8 * 2
        )
        means = next(line for line in axis.lines if len(line.get_xdata()) == 8)
        assert 38 < np.mean(means.get_xdata()) < 42
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0].startswith("ImageNet-1k stand-in\nthis run, n = 2")
    assert titles[2].startswith("paper,\nImageNet-1k")
    assert theirs[0].lines[0].get_xdata()[0] == 90.45


def test_table_1_of_two_nodes_has_no_paper_beside_it():
    found = [
        {"label": label, "graph": graph.to_dict(), "seed": seed, "test_accuracy": [40.0 + seed]}
        for label, graph in ablation.ablation_grid(ARCH, SOURCES, n=2).items()
        for seed in range(2)
    ]
    assert len(plots.plot_table1(found).axes) == 2


def test_a_mean_with_one_seed_has_no_interval():
    figure = plots.plot_table1(records(seeds=1))
    figure.canvas.draw()
    assert "n = 1" in figure.axes[0].get_title()


def test_learning_curves_have_four_lines_a_panel_and_a_scale_per_source():
    figure = plots.plot_learning_curves(records())
    assert [len(axis.lines) for axis in figure.axes] == [4, 4, 4, 4]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["pre-trained nodes 2 3:", "– –", "– ✓", "✓ –", "✓ ✓"]
    assert [axis.get_title() for axis in figure.axes[:2]] == [
        "ImageNet-1k stand-in: node 1 scratch",
        "ImageNet-1k stand-in: node 1 pre-trained",
    ]


def test_main_effects_have_a_panel_per_source_beside_the_papers():
    figure = plots.plot_main_effects(records())
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [
        "this run\nImageNet-1k stand-in",
        "this run\nFractalDB-1k",
        "paper\nImageNet-1k",
        "paper\nFractalDB-1k",
    ]
    assert all(len(axis.containers) == 1 for axis in figure.axes)


def test_searches_draw_each_graph_in_the_colour_of_its_start():
    found = summaries()
    lost = found["mixed"]["trials"][1] | {"state": "FAIL", "seed": 2, "values": [0.7, 0.8]}
    found["mixed"]["trials"].append(lost)
    figure = plots.plot_searches(found)
    panel = figure.axes[3]
    curves = [[len(path.vertices) for path in c.get_paths()] for c in panel.collections]
    assert curves == [
        [],
        [],
        [3, 1, 2],
    ]  # scratch, stand-in, FractalDB-1k: all three start from the last
    assert [line.get_marker() for line in panel.lines] == ["o", "x"]  # stopped, diverged
    again = plots.plot_searches(
        found, {"mixed": found["mixed"] | {"trials": found["mixed"]["trials"][:1]}}
    )
    assert list(again.axes[3].collections[2].get_linewidths()) == [
        2,
        0.8,
        0.8,
    ]  # trained again by another search
    bits = {
        "mixed": found["mixed"]
        | {"weights": dict.fromkeys(found["mixed"]["weights"], "learned on another machine")}
    }
    assert 2 in plots.plot_searches(found, bits).axes[3].collections[2].get_linewidths()
    other = {"mixed": found["mixed"] | {"weights": {"another source": "abc"}}}
    assert 2 not in plots.plot_searches(found, other).axes[3].collections[2].get_linewidths()
    assert "stand-in" in panel.get_title()
    assert "3 graphs, 1 to the end" in panel.get_title()


def test_optimism_is_on_the_split_of_the_selection():
    (axis,) = plots.plot_optimism(summaries()).axes
    assert axis.get_yticklabels()[0].get_text() == "(a) no pre-training"
    gaps = [line for line in axis.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in gaps] == [
        [60.0 - 52.0, 60.0 - 53.0]
    ] * 4  # validation, not test


def test_a_forest_has_a_panel_per_set_and_its_verdicts_in_colour():
    frame = claims.forest({"quick": (records(seeds=3), summaries())})
    figure = plots.plot_forest(frame)
    assert [axis.get_title() for axis in figure.axes] == ["quick\n(ImageNet: stand-in)", "paper\n"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["C1 node 1, ImageNet", "C1 node 1, FractalDB"]
    assert labels[-1].startswith("C0 search, ")
    assert "C5 search, mixed, against ImageNet" in labels
    points = [line for line in figure.axes[1].lines if line.get_marker() == "D"]
    colours = {(to_hex(line.get_color()), line.get_fillstyle()) for line in points}
    supported, single = (style.BLUE.lower(), "full"), (to_hex(style.BLACK), "none")
    assert colours == {
        supported,
        single,
    }  # the paper's own numbers support its claims; a search of it is one run


def test_pruners_have_a_line_each_and_the_rung_at_every_point():
    rows = [
        {
            "pruner": pruner,
            "first_rung": rung,
            "best_kept": 50.0 + rung,
            "low": 45,
            "high": 60,
            "epochs": 20 * rung,
        }
        for pruner in ("asha", "promote")
        for rung in (1, 2, 4)
    ]
    (axis,) = plots.plot_pruners({"(b)": pd.DataFrame(rows)}).axes
    assert [
        a.get_title() for a in plots.plot_pruners(dict.fromkeys("abc", pd.DataFrame(rows))).axes
    ] == ["a", "b", "c"]
    assert [container.get_label() for container in axis.containers] == ["asha", "promote"]
    assert [text.get_text() for text in axis.texts] == ["1", "2", "4"] * 2


def test_luck_is_a_histogram_per_condition():
    tables = {name: pd.DataFrame({"test": np.arange(10.0)}) for name in ("(a)", "(b)")}
    axes = plots.plot_luck(tables).axes
    assert [axis.get_title(loc="left") for axis in axes] == ["(a)", "(b)"]
    assert [sum(bar.get_height() for bar in axis.patches) for axis in axes] == pytest.approx(
        [100, 100]
    )


def test_gate_curves_are_the_gates():
    left, right = plots.plot_gate_curves().axes
    ends = {line.get_label(): float(line.get_ydata()[-1]) for line in left.lines}
    assert ends.items() >= {"through": 1, "cutoff": 0, "linear": 1, "correct": 0.5}.items()
    assert {line.get_label(): float(line.get_ydata()[-1]) for line in right.lines}["linear"] == 0.5


def test_pretraining_shows_accuracy_and_loss():
    card = {
        "source": SOURCES[0],
        "classes": 40,
        "curve": [{"images": 100, "accuracy": 5.0, "loss": 3.0}] * 2,
    }
    axis = plots.plot_pretraining(card)
    assert "stand-in" in axis.get_title()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "accuracy",
        "guessing",
        "loss (right)",
    ]
    card["curve"] = [{"images": 100, "accuracy": 5.0}]
    assert len(plots.plot_pretraining(card).figure.axes) == 1


def test_contact_sheets_take_either_order_of_axes():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), np.uint8)
    sheets = (
        plots.plot_images(images, list("abcde"), columns=3),
        plots.plot_images(np.moveaxis(images, 1, 3)),
    )
    assert [len(sheet.axes) for sheet in sheets] == [6, 8]
    shown = [sheet.axes[4].images[0].get_array() for sheet in sheets]
    assert (shown[0] == shown[1]).all()
    assert sheets[0].axes[4].get_title() == "e"
    filters = plots.plot_filters(np.random.default_rng(0).normal(size=(10, 3, 3, 3)))
    assert filters.images[0].get_array().shape == (3 * 4, 4 * 4, 3)


def test_the_method_names_three_steps():
    figure = plots.draw_method()
    assert [axis.get_title()[:6] for axis in figure.axes] == ["Step 1", "Step 2", "Step 3"]
    assert {"PIRN18", "PFRN18", "RN18"} <= {
        text.get_text() for axis in figure.axes[:1] for text in axis.texts
    }


def test_nothing_is_read_from_or_left_in_the_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    plots.plot_table1(records())
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
@pytest.mark.parametrize("draw", [plots.draw_method, lambda: plots.plot_table1(records())])
def test_the_same_figure_gives_the_same_bytes(tmp_path, draw, kind):
    first, second = (
        plots.save_figure(draw(), tmp_path / name, "x", [kind], note="from n", dpi=60)[0]
        for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
    assert b"from n" in first.read_bytes()


def test_japanese_figures_have_every_glyph(tmp_path, recwarn):
    """As `ktglite figures --lang ja` draws them; a missing glyph is a box on paper, and a warning here."""
    pytest.importorskip("matplotlib_fontja")
    with plt.rc_context():
        japanese.use_font()
        written = plots.draw_all(
            from_checkout("data/reference_runs/quick"),
            tmp_path,
            ["png"],
            "ja",
            japanese.translate_figure,
        )
    assert len(written) > 8
    assert not [str(w.message) for w in recwarn if "missing from font" in str(w.message)]


def test_fonts_are_embedded_as_fonts(tmp_path):
    path = plots.save_figure(plots.plot_gate_curves(), tmp_path, "x", ["pdf"])[0]
    assert b"/FontFile2" in path.read_bytes()


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_font_is_of_type_3(tmp_path, lang):
    figure = plots.draw_method()
    if lang == "ja":
        pytest.importorskip("matplotlib_fontja")
        japanese.use_font()
        figure = japanese.translate_figure(plots.draw_method())
    path = plots.save_figure(figure, tmp_path, "x", ["pdf"])[0]
    assert b"/Type3" not in path.read_bytes()
    assert b"/FontFile2" in path.read_bytes()


@pytest.mark.parametrize("draw", [plots.draw_method, lambda: plots.plot_table1(records())])
def test_a_saved_figure_is_two_columns_wide_at_most(tmp_path, draw):
    figure = draw()
    path = plots.save_figure(figure, tmp_path, "x", ["pdf"])[0]
    width = float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", path.read_bytes())[1])
    assert width <= 72 * plots.PAGE + 0.1
    figure.canvas.draw()
    boxes = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(
        left.x1 < right.x0 or left.y0 > right.y1 for left, right in pairwise(boxes)
    )  # no title on another


# What stays as it is: gates, networks, data sets, single letters, and the papers' own terms.
KEPT = re.compile(
    r"quick|smoke|cars64|through|Through|linear|correct|cutoff|(PI|PF|SI|P)?RN\d+|(ImageNet|FractalDB)(\s?-1k)?|Step|rung|C\d|[a-dA-Zknt]\b"
)


def left_over(figure):
    """Texts of a figure that still have English words besides the names that are kept."""
    texts = {text.get_text() for text in figure.findobj(Text)}
    return sorted(
        text for text in texts if re.search("[A-Za-z]", KEPT.sub("", re.sub(r"\$.*?\$", "", text)))
    )


@pytest.mark.parametrize(
    "draw",
    [
        plots.draw_method,
        plots.plot_gate_curves,
        lambda: plots.plot_best_graphs(summaries()),
        lambda: plots.plot_searches(summaries()),
        lambda: plots.plot_table1(records()),
        lambda: plots.plot_main_effects(records()),
        lambda: plots.plot_learning_curves(records()),
        lambda: plots.plot_optimism(summaries()),
        lambda: plots.plot_forest(claims.forest({"quick": (records(), summaries())})),
    ],
)
def test_japanese_figures_keep_names_only(draw, four_gates):
    figure = japanese.translate_figure(draw())
    assert left_over(figure) == []
    assert any(re.search("[ぁ-んァ-ヶ一-龠]", text.get_text()) for text in figure.findobj(Text))


def test_a_missing_font_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib_fontja", None)
    with pytest.raises(ValueError, match=r"ktglite\[ja\]"):
        japanese.use_font()


@pytest.mark.parametrize("name", captions.CAPTIONS)
def test_captions_are_filled_in_from_the_records(name):
    english, words = (plots.caption(name, records(), summaries(), lang) for lang in ("en", "ja"))
    assert "{" not in english + words
    assert re.search("[ぁ-んァ-ヶ一-龠]", words)
    assert not re.search("[ぁ-んァ-ヶ一-龠]", english)
    assert plots.caption("table1", records(), {}).count("n = 2") == 1


def test_the_committed_figures_are_told_in_the_words_of_their_captions():
    runs, text = (
        ablation.read_runs(from_checkout("data/reference_runs/quick")),
        from_checkout("figures/README.md").read_text(),
    )
    found = {
        folder: read_summaries(from_checkout(f"data/reference_runs/{folder}"))
        for folder in ("quick/search", "quick_searches")
    }
    told = dict(re.findall(r"!\[([^\]]*)\]\((\w+)\.png\)", text))
    assert len(told) == len(re.findall(r"!\[", text)) == 12
    for words, name in told.items():
        assert words == plots.caption(
            name, runs, found["quick_searches" if name == "search_curves" else "quick/search"]
        )


def test_a_source_s_gain_is_paired_by_seed():
    one = {
        "source": "visualatom1k",
        "data": "drawn cars",
        "lr": 0.03,
        "scratch": {"0": 50, "1": 60},
    }
    records = [
        one | {"start": {"0": 52, "1": 63}},
        one | {"source": "one_fractal", "data": "photographs", "start": {"1": 60, "0": 49}},
    ]
    figure = plots.plot_sources(records)
    assert [axis.get_title() for axis in figure.axes] == ["drawn cars", "photographs"]
    assert [axis.lines[0].get_xdata()[0] for axis in figure.axes] == [2.5, -0.5]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "VisualAtom-1k"


@pytest.mark.parametrize("width", ["page", "column"])
def test_nothing_is_set_smaller_than_six_points(tmp_path, width):
    for draw in (
        plots.draw_method,
        lambda: plots.plot_searches(summaries()),
        lambda: plots.plot_table1(records()),
    ):
        figure = draw()
        plots.save_figure(figure, tmp_path, "x", ["png"], width=width, dpi=50)
        assert figure.get_figwidth() <= {"page": plots.PAGE, "column": plots.COLUMN}[width] + 1e-6
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(sizes) >= 5.9


def artists(axis):
    """What a drawing consists of, as text: every patch and word with its place, colour, line and strength."""
    found = []
    for child in axis.get_children():
        if isinstance(child, Circle):
            place = np.round([*child.center, child.radius], 2).tolist()
            found.append(
                f"circle {place} {to_hex(child.get_facecolor())} {to_hex(child.get_edgecolor())}"
            )
        elif isinstance(child, FancyArrowPatch):
            ends = np.round(np.ravel(child._posA_posB), 2).tolist()
            found.append(
                f"arrow {ends} {to_hex(child.get_edgecolor())} {child.get_linestyle()} {child.get_alpha()}"
            )
        elif isinstance(child, Text) and child.get_text():
            place = np.round(child.get_position(), 2).tolist()
            found.append(f"text {child.get_text()!r} {place} {to_hex(child.get_color())}")
    return "\n".join(found).replace("-0.0,", "0.0,").replace("-0.0]", "0.0]")


DRAWINGS = {
    "distillation": Graph(
        (Node(ARCH), Node(ARCH, "fractaldb1k")), [["through", "through"], ["cutoff", "cutoff"]]
    ),
    "mixed": Graph(
        (Node(ARCH, "imagenet1k"), Node(ARCH, "fractaldb1k"), Node(ARCH)),
        [
            ["through", "linear", "correct"],
            ["cutoff", "through", "cutoff"],
            ["through", "cutoff", "linear"],
        ],
    ),
    "six nodes": all_through(*[Node(ARCH)] * 6),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_as_they_were_looked_at(name):
    digest = hashlib.sha256(artists(plots.draw_graph(DRAWINGS[name])).encode()).hexdigest()[:16]
    assert digest == LOOKED_AT[name], "the drawing has changed: look at it, then put its hash here"


def test_a_training_is_drawn_with_each_open_edge():
    nodes = (Node(ARCH),) * 3
    graph = Graph(
        nodes, [["through", "linear", "cutoff"], ["cutoff", "through", "cutoff"], ["through"] * 3]
    )
    edges = [[1.0, 0.1, 0], [0, 1.0, 0], [0, 0, 0]]
    run = [
        {"epoch": e, "val_accuracy": [5.0 * e, 6.0 * e, None], "edge_loss": edges} for e in (1, 2)
    ]
    left, label, between = plots.plot_training(graph, run, epochs=5).axes
    assert [line.get_label() for line in left.lines] == [
        "node 1",
        "node 2",
    ]  # node 3 cannot be heard
    assert [line.get_label() for line in label.lines] == [
        "label → 1 (through)",
        "label → 2 (through)",
    ]
    assert [line.get_label() for line in between.lines] == ["2 → 1 (linear)"]
    assert left.get_xlim()[1] > 5
    alone = plots.plot_training(
        mutual(Node(ARCH)), [{"epoch": 1, "val_accuracy": [5.0], "edge_loss": [[0.0]]}]
    )
    assert "no open edge" in [text.get_text() for text in alone.axes[2].texts]


def test_a_note_says_where_numbers_come_from():
    one = {
        "data": {"name": "synthcars", "fingerprint": "95cd721e56302dec"},
        "provenance": {"git": "a3f29c0188"},
    }
    assert plots.describe_records([one, one]) == "data synthcars 95cd721e, code a3f29c01"
    assert (
        plots.describe_records([{"data": one["data"], "provenance": {"git": None}}])
        == "data synthcars 95cd721e"
    )
    assert plots.describe_records([]) == ""


def test_all_from_records_alone(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "table1.json").write_text(json.dumps(records()))
    for name, value in summaries().items():
        (tmp_path / f"search/{name}.json").write_text(json.dumps(value))
    paths = plots.draw_all(tmp_path, tmp_path / "figures", ["png"])
    assert len(paths) == 9
    assert all(path.stat().st_size > 2000 for path in paths)
    with pytest.raises(FileNotFoundError, match=r"no table1\.json"):
        plots.draw_all(tmp_path / "figures", tmp_path)
    with pytest.raises(ValueError, match="format is 'gif'"):
        plots.save_figure(plots.draw_method(), tmp_path, "x", ["gif"])
