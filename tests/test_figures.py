"""Figures: what is drawn, and that a colour has one meaning; how they look was judged by eye."""

import json
import math
import re
import sys
from functools import cache, partial
from pathlib import Path

import captions
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Patch
from matplotlib.text import Text

from ktglite import GATES, Graph, Node, independent
from ktglite import figures as plots
from ktglite.experiments import ablation, claims
from ktglite.figures import graphs, style
from ktglite.models import SOURCES as KNOWN
from ktglite.store import write_record

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = ["imagenet1k_standin", "fractaldb1k"]
ARCH = "resnet18_w8"
JAPANESE = "[ぁ-んァ-ヶ一-龠]"
RED = style.TARGET_RED.lower()
DATA = {"name": "synthcars", "fingerprint": "95cd721e56302dec"}


@pytest.fixture(autouse=True)
def clean():
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


# ---- records and tables, small


@cache
def records(seeds=3):
    """Table 1 and starts alone: pre-trained, a neighbour adds 5 points and node 1 10."""
    rng = np.random.default_rng(0)
    found = []
    for label, graph in ablation.ablation_grid(ARCH, SOURCES).items():
        first, *others = [node.init != "scratch" for node in graph.nodes]
        for seed in range(seeds):
            test = 40 + 10 * first + 5 * sum(others) + rng.normal()
            epochs = [{"epoch": e, "val_accuracy": [test - 10 / e]} for e in (1, 2, 3)]
            run = {"label": label, "graph": graph.to_dict(), "seed": seed, "data": DATA}
            found.append(run | {"test_accuracy": [test], "epochs": epochs})
    return found


def summary(condition, choices):
    nodes = Node(ARCH, choices[-1]), Node(ARCH)
    graph = Graph(nodes, [["through", "linear"], ["cutoff", "correct"]]).to_dict()
    again = {"seeds": [5, 6], "val_accuracy": [52.0, 53.0]}
    again["test_accuracy"] = [50.0, 51.0 + len(choices)]
    whole = {"values": [1.0, 2, 3], "state": "COMPLETE", "value": 3.0, "seed": 0, "graph": graph}
    short = {"values": [0.5], "state": "PRUNED", "value": None, "seed": 1, "graph": graph}
    return {
        "condition": condition, "choices": choices, "select_on": "val", "training": {"epochs": 3},
        "states": {"COMPLETE": 1}, "data": DATA,
        "weights": {"imagenet1k_standin resnet18": "abc"}, "trials": [whole, short],
        "best": {"graph": graph}, "selection_value": 60.0,
        "reevaluated": [{"label": "top 1", **again}],
    }  # fmt: skip


@cache
def summaries():
    starts = {"none": [], "imagenet1k": SOURCES[:1], "fractaldb1k": SOURCES[1:], "mixed": SOURCES}
    return {name: summary(name, ["scratch", *more]) for name, more in starts.items()}


@cache
def knowledge():
    return plots.knowledge_table(records(), "synthetic cars")


def pairs():
    return [r for r in records() if r["label"] in ("none", "alone", "fractaldb1k/1+2+3")]


def effects(values, **columns):
    found = pd.DataFrame({"effect": values, **columns})
    return found.assign(low=found.effect - 1, high=found.effect + 1, n=3)


MIXED = Graph(
    (Node(ARCH, "imagenet1k"), Node(ARCH, "fractaldb1k"), Node(ARCH)),
    [["through", "linear", "correct"], ["cutoff", "through", "cutoff"], ["through"] * 3],
)
HISTORY = [
    {"epoch": e, "val_accuracy": [5.0 * e, 6.0 * e, 7.0], "edge_loss": np.ones((3, 3)).tolist()}
    for e in (1, 2)
]
CURVES = np.array([[4, 5, 6, 7.0], [3, 4, 5, 6], [2, 3, 4, 5], [1, 2, 3, 9]])  # a late bloomer
FOREST = claims.forest({"quick": (records(), summaries())})
EPOCHS = {"start": ["scratch", "scratch", *SOURCES], "epochs": [3, 48, 3, 3], "images": 960}
CONVERGENCE = effects([-9.0, 3, -5, 0], train_accuracy=[30.0, 100, 50, 60], **EPOCHS)
MEASURES = ["in the search"] * 2 + ["new seeds"] * 2
BEST_OF = effects([1.5, 2.5, 3.5, 4.5], n=[1, 8, 1, 8], measure=MEASURES, condition="mixed")
BEST_OF = BEST_OF.rename(columns={"effect": "accuracy"}).assign(n=[1, 8, 1, 8])
CHECK = effects(
    [0, 0],
    row=["none", "FractalDB-1k on nodes 2+3"],
    live=[40.0, 70],
    inside=pd.array([True, False], "boolean"),
)
CHECK = CHECK.assign(mean=[41.0, 50], low=[38.0, 48], high=[44.0, 52])
GAIN = {"source": "fractaldb1k", "accuracy there": 81.5, "scratch": {"0": 50, "1": 60}}
GAINS = [
    GAIN | {"data": "synthetic cars", "start": {"0": 52, "1": 63}},
    GAIN | {"data": "photographs", "start": {"1": 60, "0": 49}},
]
CARD = {"source": SOURCES[0], "classes": 40, "curve": [{"images": 100, "accuracy": 5.0}] * 2}
FIGURES = {
    "figure1_method": plots.draw_method,
    "gates": plots.plot_gate_curves,
    "graph": lambda: plots.draw_graph(MIXED).figure,
    "claim_card": lambda: plots.plot_claim_card(SOURCES[0]),
    "figure2_best_graphs": lambda: plots.plot_best_graphs(summaries(), records()),
    "forest": lambda: plots.plot_forest(FOREST),
    "effects": lambda: plots.plot_effects({"a": knowledge()}, "pattern"),
    "main_effects": lambda: plots.plot_main_effects(records()),
    "table1": lambda: plots.plot_table1(records()),
    "learning_curves": lambda: plots.plot_learning_curves(records()),
    "seed_pairs": lambda: plots.plot_seed_pairs(pairs(), chance=5),
    "gain_against_knowledge": lambda: plots.plot_gain_against_knowledge(knowledge()),
    "convergence": lambda: plots.plot_convergence(CONVERGENCE),
    "sources": lambda: plots.plot_sources(GAINS),
    "reproduction": lambda: plots.plot_reproduction(CHECK),
    "confusion": lambda: plots.plot_confusion([[3, 1], [0, 2]], ["$a$", "b"], ["y", "x"]),
    "searches": lambda: plots.plot_searches(summaries()),
    "search": lambda: plots.plot_search(CURVES).figure,
    "best_of": lambda: plots.plot_best_of(BEST_OF),
    "training": lambda: plots.plot_training(MIXED, HISTORY, 5),
    "pretraining": lambda: plots.plot_pretraining([CARD]).figure,
}


@cache
def figure(name):
    """A figure in English, drawn once for all tests, which only look at it."""
    return FIGURES[name]()


def texts(drawing):
    return [text.get_text() for text in drawing.findobj(Text) if text.get_text()]


def titles(name):
    return [axis.get_title() for axis in figure(name).axes]


def ticks(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def colours(artist):
    """The colours of an artist that are no grey, as #rrggbb."""
    found = []
    if isinstance(artist, Line2D | Text):
        found = [artist.get_color()]
    elif isinstance(artist, Patch):
        found = [artist.get_facecolor(), artist.get_edgecolor()]
    elif isinstance(artist, Collection):
        found = [*artist.get_facecolor(), *artist.get_edgecolor()]
    return {to_hex(c) for c in found if max(to_rgb(c)) - min(to_rgb(c)) > 0.05}


# ---- colours and marks


@cache
def meanings():
    """Every colour of the table, with the words one of which must name it."""
    found = {RED: {"target", "1", "stopped, though it would have been best", "is lost"}}
    for name in style.LOOKS["sources"]:
        for colour in (style.source_colour(name), style.source_fill(name)):
            words = found.setdefault(to_hex(colour), set())
            words |= {KNOWN[name].title, f"{KNOWN[name].short}RN18"}
    for gate, (colour, _, letter) in style.LOOKS["gates"].items():
        found[to_hex(colour)] = {gate, letter}
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_colour_means_the_same_in_every_figure(name):
    """Each that is no grey is in the table; the figure, and an entry of its legend, name it."""
    drawing = figure(name)
    assert all(text.get_fontsize() >= 5.9 for text in drawing.findobj(Text) if text.get_text())

    def is_named(colour, words):
        return any(word in text for word in meanings()[colour] for text in words)

    for colour in set().union(*map(colours, drawing.findobj())):
        assert is_named(colour, texts(drawing)), colour
    for legend in drawing.findobj(Legend):
        panel = legend.axes.get_title() if legend.axes else ""
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            for colour in colours(handle):
                assert is_named(colour, [text.get_text() + panel]), text


def test_no_two_sources_or_gates_have_one_colour(monkeypatch):
    """Plug-ins and files of weights included; quantised weights are ImageNet-1k's."""
    plugin = pytest.importorskip("ktglite_formulas")
    for source in (plugin.VISUALATOM, plugin.COLOURED_FRACTALS, plugin.ONE_FRACTAL):
        monkeypatch.setitem(KNOWN, source.name, source)
    names = [*KNOWN.keys() - {"imagenet1k_quantised"}, "some/weights.pt"]
    shades = [style.source_colour(name) for name in names]
    shades += [colour for colour, *_ in style.LOOKS["gates"].values()] + [RED]
    apart = [math.dist(to_rgb(a), to_rgb(b)) for i, a in enumerate(shades) for b in shades[:i]]
    assert min(apart) > 0.15
    assert style.source_colour("FractalDB-1k") == style.source_colour("fractaldb1k")


def test_what_an_effect_shows_is_told_by_shape_and_fill():
    verdicts = ["supported", "contradicted", "not resolved at this n", "", "", ""]
    table = effects([2.0, -2, 2, 2, 0, 2], at=list("abcdef"), verdict=verdicts)
    table.loc[5, ["low", "high"]] = np.nan
    _, axis = plt.subplots()
    style.dots(axis, table, "at", list("abcdef"), "#123456", 0.25)
    marks = [line for line in axis.lines if line.get_color() == "#123456"]
    looks = [f"{line.get_marker()} {line.get_fillstyle()}" for line in marks]
    assert looks == ["D full", "v full", "D left", "D none", "o none", "x full"]
    assert [line.get_ydata()[0] for line in marks] == [0.25, 1.25, 2.25, 3.25, 4.25, 5.25]
    assert [mark.get_label() for mark in style.mark_legend(table)] == [*style.LOOKS["verdicts"]]


# ---- graphs


def circles(axis):
    return [patch for patch in axis.patches if isinstance(patch, Circle)]


def test_a_graph_shows_its_nodes_gates_and_target():
    axis = plots.draw_graph(MIXED, title="drawn", accuracy=71.2)
    words = [text.get_text() for text in axis.texts]
    assert {"PIRN18\n71.2 %", "PFRN18", "RN18"} <= set(words)
    assert sorted(word for word in words if len(word) == 1) == list("123CLTTTTT")
    assert words.count("label") == 3
    assert len(axis.findobj(FancyArrowPatch)) == 2 * 7  # a line and a head for each open edge
    rims = [to_hex(circle.get_edgecolor()) == RED for circle in circles(axis)]
    assert rims == [True, False, False]
    # nodes that are not heard are faint, and their edges
    axis = plots.draw_graph(Graph((Node(ARCH),) * 2, [["through", "cutoff"], ["through"] * 2]))
    assert [text.get_alpha() for text in axis.texts if text.get_text() == "T"] == [1, 0.35, 0.35]
    assert [circle.get_alpha() for circle in circles(axis)] == [1, 0.35]


def test_a_gate_of_the_reader_s_own_is_drawn_in_grey_with_its_letter(monkeypatch):
    monkeypatch.setitem(GATES, "sure", lambda losses, right, progress: losses.mean() / 2)
    axis = plots.draw_graph(Graph((Node(ARCH),) * 2, [["through", "sure"], ["sure", "sure"]]))
    letters = [text for text in axis.texts if text.get_text() == "S"]
    assert [colours(letter) for letter in letters] == [set()] * 3
    assert "S: Sure" in [handle.get_label() for handle in graphs.gate_legend()]
    assert "Sure" in texts(plots.plot_gate_curves())


def test_figure_2_has_five_lines_a_panel_and_the_gain_of_the_claims():
    found = titles("figure2_best_graphs")
    assert {title.count("\n") for title in found} == {4}  # panels stand equally high
    alone = ablation.run_arms(records())[SOURCES[0], "alone"]
    known = "(b) ImageNet-1k stand-in\n51.50 ± 2.12 % (n = 2)\n"
    known += f"target alone: {alone.mean:.2f} ± {alone.std:.2f} % (n = 3)\n"
    known += f"difference: {51.5 - alone.mean:+.1f} [".replace("-1.", "−1.")
    assert found[1].startswith(known)
    table = claims.claims_table([], summaries()).set_index(["claim", "source"])
    gain = table.loc[("C4", "searched: FractalDB-1k")]
    words = f"over (a): {gain.effect:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
    assert words.replace("-", "−") in found[2]
    some = plots.plot_best_graphs({"mixed": summaries()["mixed"]}).axes[0].get_title()
    assert some.startswith("(d) ImageNet-1k stand-in + FractalDB-1k")  # its letter
    assert "over (a)" not in some
    lost = plots.plot_best_graphs({"none": summary("none", ["scratch"]) | {"best": None}})
    assert "no trial was completed" in texts(lost)[0]


# ---- claims, Table 1, pairs


def test_the_card_and_the_forest_show_every_claim():
    card = figure("claim_card").axes
    assert [len(circles(axis)) for axis in card] == [8 * 3, 2 * 3, 2 * 3, 2 * (3 + 1)]  # C1 to C0
    wide = plots.plot_claim_card(SOURCES[0], 4)
    assert "those here have 4" in wide.legends[0].get_title().get_text()
    assert titles("forest") == ["quick\n(ImageNet:\nstand-in)", "the paper"]
    rows = ticks(figure("forest").axes[0])
    assert rows[:2] == ["C1 node 1, ImageNet", "C1 node 1, FractalDB"]
    order = dict.fromkeys(row[:2] + " search" * ("search" in row) for row in rows)
    assert [*order] == ["C1", "C2", "C3", "C0", "C4 search", "C5 search", "C0 search"]
    both = FOREST[FOREST.source.str.startswith("ImageNet-1k")]
    both = both.assign(source=both.source.str.replace("stand-in", "(quantised weights)"))
    names = ticks(plots.plot_forest(pd.concat([FOREST, both])).axes[0])
    assert {"C1 node 1, ImageNet stand-in", "C1 node 1, ImageNet (quantised weights)"} <= {*names}


def test_table_1_shows_every_run_and_the_paper():
    axes = figure("table1").axes
    assert ticks(axes[0]) == ["none", "3", "2", "2+3", "1", "1+3", "1+2", "1+2+3"]
    seeds = [len(c.get_offsets()) for axis in axes[:2] for c in axis.collections]
    assert seeds.count(3) == 16
    ours, papers = titles("table1")[::2]
    assert ours == "ImageNet-1k stand-in\nthese runs, n = 3"
    assert papers == "ImageNet-1k\npaper, n = 3"
    assert axes[2].lines[0].get_xdata()[0] == 90.45
    recorded = plots.plot_table1(records(), whose="recorded runs")
    assert recorded.axes[0].get_title().endswith("recorded runs, n = 3")


def test_learning_curves_have_three_lines_a_panel_and_say_what_neighbours_add():
    axes = figure("learning_curves").axes
    curves = [[line for line in axis.lines if len(line.get_xdata())] for axis in axes]
    assert [len(found) for found in curves] == [3] * 4  # nodes 2 and 3 stand in the same place
    labels = "fractaldb1k/2", "fractaldb1k/3"
    either = [r["epochs"][2]["val_accuracy"][0] for r in records() if r["label"] in labels]
    ends = [line.get_ydata()[-1] for line in curves[2]]
    assert min(abs(end - np.mean(either)) for end in ends) < 1e-9
    title = titles("learning_curves")[0]
    start = "ImageNet-1k stand-in: node 1 from scratch, n = 3\n2+3 minus none, last epoch: +"
    assert title.startswith(start)
    assert float(title.removeprefix(start).split()[0]) == pytest.approx(10, abs=1.5)


def test_rows_of_panels_share_a_scale_and_seeds_are_paired():
    assert titles("main_effects")[1:3] == ["these runs: FractalDB-1k", "paper: ImageNet-1k"]
    limits = [axis.get_xlim() for axis in figure("main_effects").axes]
    assert limits[0] == limits[1] != limits[2]
    assert titles("sources") == ["synthetic cars", "photographs"]
    gains = [axis.lines[0].get_xdata()[0] for axis in figure("sources").axes]
    assert gains == [2.5, -0.5]
    assert ticks(figure("sources").axes[0]) == ["FractalDB-1k (82 % on its own images)"]
    runs, _ = figure("seed_pairs").axes
    assert ticks(runs) == ["alone", "none", "FractalDB-1k on nodes 1+2+3"]
    seeds = [line for line in runs.lines if line.get_marker() == "o"]
    first = {r["label"]: r["test_accuracy"][0] for r in pairs() if r["seed"] == 0}
    assert len(seeds) == 3  # a line a seed
    assert [*seeds[0].get_xdata()] == [first[n] for n in ("alone", "none", "fractaldb1k/1+2+3")]


def test_gains_stand_against_what_the_neighbours_know_more():
    found = knowledge().set_index(["source", "pattern"])
    assert len(found) == 15
    means = pd.DataFrame(records()).groupby("label").test_accuracy.agg(lambda v: np.mean([*v]))
    more = means["fractaldb1k/alone"] - means["alone"]
    assert found.knowledge["FractalDB-1k", "2"] == pytest.approx(more / 2)
    assert found.knowledge["FractalDB-1k", "1+2"] == pytest.approx(-more / 2)
    assert found.knowledge["no pre-training", "none"] == 0


def test_a_run_outside_its_interval_is_marked_and_a_confusion_sorted_in_percent():
    (axis,) = figure("reproduction").axes
    assert axis.get_title() == "1 of 2 outside; 0.1 expected"
    (outside,) = [line for line in axis.lines if line.get_marker() == "X"]
    assert outside.get_xydata().tolist() == [[70, 1]]
    axis = figure("confusion").axes[0]
    assert ticks(axis) == ["b", r"\$a\$"]
    assert axis.collections[0].get_array().tolist() == [[100, 0], [25, 75]]


# ---- searches, trainings and images


def test_searches_are_coloured_by_start_with_a_cross_where_one_was_stopped():
    panel = figure("searches").axes[3]
    curves = [line for line in panel.lines if line.get_marker() == "None"]
    assert sorted(len(line.get_xdata()) for line in curves) == [1, 3]
    assert {line.get_color() for line in curves} == {style.source_colour("fractaldb1k")}
    (cross,) = [line for line in panel.lines if line.get_marker() == "X"]
    assert cross.get_xydata().tolist() == [[1, 0.5]]
    assert "2 graphs, 1 to the end" in panel.get_title()


def test_a_replayed_search_loses_the_late_bloomer_unless_its_first_rung_is_late():
    (axis,) = figure("search").axes
    assert "the best graph is lost" in axis.get_title()
    (red,) = [line for line in axis.lines if colours(line) and line.get_linewidth() > 2]
    assert list(red.get_ydata()) == [1]
    whole = plots.plot_search(CURVES, first_rung=4)
    assert "100 % of the epochs, the best graph is kept" in whole.get_title()
    assert not any(map(colours, whole.lines))


def test_images_in_either_order_of_axes_with_names_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    sheet = plots.plot_images(images, ["a", "Ba$$in", "$10_to_$20"], columns=2)
    other = plots.plot_images(np.moveaxis(images, 1, 3), columns=2)
    assert (sheet.axes[1].images[0].get_array() == other.axes[1].images[0].get_array()).all()
    title = sheet.axes[1].title
    assert title._preprocess_math(title.get_text()) == ("Ba$$in", False)  # no formula


# ---- files, style, languages


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, kind):
    drawing = plots.draw_graph(independent(Node(ARCH))).figure
    files = [plots.save_figure(drawing, tmp_path / a, "x", [kind], "from n")[0] for a in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"from n" in files[0].read_bytes()
    with pytest.raises(ValueError, match="format is 'gif'"):
        plots.save_figure(drawing, tmp_path, "x", ["gif"])


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_fonts_are_embedded_as_fonts_whatever_the_user_s_own_style(tmp_path, lang):
    plt.rcParams.update({"text.usetex": True, "pdf.fonttype": 3})
    plots.use_style(lang)
    content = plots.save_figure(plots.plot_gate_curves(), tmp_path, "x", ["pdf"])[0].read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", content)[1]) <= 72 * style.PAGE + 0.1


# What stays as it is: gates, networks, data sets, single letters, and the papers' own terms.
KEPT = re.compile(
    r"quick|[Tt]hrough|[Ll]inear|[Cc]orrect|[Cc]utoff|(PI|PF|SI|P)?RN18|(ImageNet|FractalDB)(-1k)?"
    r"|Step|rung|asha|C\d|[a-dkKnTLC]\b"
)


@pytest.mark.parametrize("name", FIGURES)
def test_japanese_figures_keep_names_only_and_have_every_glyph(name, four_gates):
    pytest.importorskip("matplotlib_fontja")
    plots.use_style("ja")
    drawing = FIGURES[name]()
    drawing.get_figure(root=True).draw_without_rendering()  # as it is drawn
    words = texts(drawing)
    assert [text for text in words if re.search("[A-Za-z]", KEPT.sub("", text))] == []
    assert any(re.search(JAPANESE, text) for text in words)
    assert "対象" not in "".join(words)
    families = [FontProperties(family=family) for family in plt.rcParams["font.family"]]
    fonts = [get_font(findfont(family)) for family in families]
    letters = set("".join(words)) - {"\n"}
    assert all(any(font.get_char_index(ord(letter)) for font in fonts) for letter in letters)


def test_what_is_said_is_in_the_language_of_the_style(capsys, monkeypatch):
    table = pd.DataFrame({"claim": ["interval contains 0"], "n": [3]})
    plots.say("the interval contains 0")
    plots.say(table, index=False)
    english = capsys.readouterr().out
    assert english.startswith("the interval contains 0\n")
    assert "claim" in english
    assert not re.search(JAPANESE, plots.plot_gate_curves().axes[0].get_title())
    plots.use_style("ja")
    for said in ("interval contains 0", table, table.style.hide(axis="index")):
        plots.say(said)
    told = capsys.readouterr().out
    assert told.startswith("区間は0を含む\n")
    assert told.count("区間は0を含む") >= 3
    assert "interval" not in told
    with pytest.raises(ValueError, match="allowed are en, ja"):
        plots.use_style("de")
    monkeypatch.setitem(sys.modules, "matplotlib_fontja", None)
    with pytest.raises(ValueError, match=r"ktglite\[ja\]"):
        plots.use_style("ja")


def test_every_hint_of_a_check_has_its_japanese():
    """A student sees one when an answer is wrong, in both editions, whose code is the same."""
    sources = [path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")]
    hints = re.findall(r'ktg\.hint\(\\"([^"]+)\\"', "".join(sources))
    assert len(hints) > 15
    assert [style.hint(text) for text in hints] == hints
    plots.use_style("ja")
    assert not [text for text in hints if not re.search(JAPANESE, style.hint(text))]


def test_a_slider_draws_its_picture_again_and_leaves_no_figure():
    drawn = []
    box = plots.with_sliders(lambda n, word: drawn.append((n, word)), n=(1, 9), word=["a", "b"])
    before = box.children[-1].value
    box.children[0].value = 7
    box.children[1].value = "b"
    assert drawn == [(5, "a"), (7, "a"), (7, "b")]
    assert bytes(before).startswith(b"\x89PNG")
    assert not plt.get_fignums()


SEEN = {
    "forest": "paper: 6 of 6 tested contrasts supported, 0 contradicted.",
    "search_curves": "(c) FractalDB-1k: 3.0 % at best, node 1 from FractalDB-1k.",
    "table1": "FractalDB-1k: from 40.",
}


@pytest.mark.parametrize("name", captions.TEXTS)
def test_captions_and_alternative_texts_say_what_is_seen(name):
    for alt in (False, True):
        told = partial(captions.caption, name, records(), summaries(), alt=alt)
        english, other = told(lang="en"), told(lang="ja")
        assert SEEN.get(name, "") in english
        assert not re.search(r"[{}$\\]|nan", english + other)
        assert re.search(JAPANESE, other)
        assert not re.search(JAPANESE, english)


def test_all_from_records_alone(tmp_path, monkeypatch):
    notes = {}
    monkeypatch.setattr(
        style, "save_figure", lambda f, out, name, *more: notes.update({name: more}) or []
    )
    (tmp_path / "table1.json").write_text(json.dumps(records()), encoding="utf-8")
    for name, value in summaries().items():
        write_record(tmp_path / f"search/{name}.json", value, schema=1)
    plots.draw_all(tmp_path, tmp_path, ["png"], "ja")
    assert len(notes) >= 9
    assert not re.search(JAPANESE, plots.plot_gate_curves().axes[0].get_title())  # only there
    assert notes["table1"][1] == f"records {tmp_path.name}"  # where the numbers come from
    with pytest.raises(FileNotFoundError, match=r"no table1\.json"):
        plots.draw_all(tmp_path / "figures", tmp_path)
