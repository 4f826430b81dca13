"""Figures of claims, Table 1, and graphs beside their target alone; means, intervals and contrasts
come from `experiments`, in points and percent."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle, product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ktglite.experiments import ablation, claims, stats
from ktglite.experiments.ablation import Records, Sources
from ktglite.figures import style
from ktglite.figures.style import BLACK, GREY, MEAN, PAPER, dots, panels, plain
from ktglite.models import title

__all__ = ["knowledge_table", "plot_confusion", "plot_convergence", "plot_effects", "plot_forest"]
__all__ += ["plot_gain_against_knowledge", "plot_learning_curves", "plot_main_effects"]
__all__ += ["plot_reproduction", "plot_seed_pairs", "plot_sources", "plot_table1"]

OWN_SCALE = "each panel has its own scale"
CROWDED = 5  # points on either side of 0 where labels would lie on each other


def plot_effects(
    tables: Mapping[str, pd.DataFrame],
    at: str,
    xlabel: str = "points",
    shared: bool | str = True,
    columns: int = 4,
    missing: str = "",
) -> Figure:
    """Effects with 95 % intervals and n: a panel per table, `columns` of them in a row.

    Args:
        tables: by the panel's title: `effect`, `low`, `high`, `n` and, where tested, `verdict`.
        at: the column that names the rows.
        shared: whether all panels have one scale, or all in a "row".
        missing: what is written into a row that a panel lacks.
    """
    whole = pd.concat(tables.values())
    order = list(dict.fromkeys(whole[at]))
    height = 1.3 + 0.19 * len(order)
    figure, axes = panels(map(plain, tables), height, columns, sharey=True, sharex=shared)
    for axis, table in zip(axes, tables.values(), strict=True):
        dots(axis, table, at, order)
        axis.set_xlabel(xlabel)
        style.count_rows(axis, table, at, order)
        axis.tick_params(axis="x", labelbottom=True)
        place = {"transform": axis.get_yaxis_transform(), "fontsize": 6.5, "va": "center"}
        for name in [name for name in order if name not in {*table[at]}]:
            axis.text(0.98, order.index(name), missing, ha="right", color=GREY, **place)
    rows = "the rows differ in scale" if len(tables) > columns else ""
    note = {True: "", False: OWN_SCALE if len(tables) > 1 else "", "row": rows}[shared]
    style.legend_below(figure, style.mark_legend(whole), note)
    return figure


def plot_forest(frame: pd.DataFrame) -> Figure:
    """The primary contrasts with 95 % intervals, from `claims.forest`: a panel per set of records,
    a row per claim: C1 to C3, C0, then the searches.

    A panel that has something else in the row of ImageNet-1k says so in its title.
    """
    frame = frame[frame.effect.notna()]
    frame = frame.assign(row=list(map(claim_row, frame.claim, frame.source)))
    if frame.duplicated(["set", "row"]).any():  # several that stand for one source
        names = frame[["claim", "source"]].values
        frame["row"] = [claim_row(claim, source, short=False) for claim, source in names]
    place = frame.row.map(lambda row: f"{'search' in row}{row[:2] == 'C0'}{row[:2]}")
    frame = frame.iloc[place.argsort(kind="stable")]
    parts = {}
    for name, part in frame.groupby("set", sort=False):
        kinds = ("stand-in", "quantised weights")
        other = [kind for kind in kinds if part.source.str.contains(kind).any()]
        parts[name + (f"\n(ImageNet:\n{', '.join(other)})" if other else "")] = part
    figure = plot_effects(parts, "row", shared=False, missing="not measured")
    for axis, part in zip(figure.axes, parts.values(), strict=True):
        axis.tick_params(axis="y", length=0, labelsize=6.5)
        ends = [0, part.effect.min(), part.effect.max()]
        room = 0.25 * (max(ends) - min(ends)) or 1
        axis.set_xlim(min(ends) - room, max(ends) + room)  # wide intervals end at the edge
    return figure


def claim_row(claim: str, source: str, short: bool = True) -> str:
    """A row's name; if `short`, what stands for ImageNet-1k is in the row of ImageNet-1k."""
    words = {"C0": "graph − target alone", "C1": "node 1", "C2": "each auxiliary"}
    what = (words | {"C3": "all nodes"}).get(claim, "search")
    if source.startswith("searched: ") and claim == "C0":
        what += " (search)"
    words = {" stand-in": "", " (quantised weights)": ""} if short else {}
    words |= {"searched: ": "", "-1k": "", "no pre-training": "scratch"}
    for long, word in (words | {"ImageNet + FractalDB": "mixed"}).items():
        source = source.replace(long, word)
    return f"{claim} {what}, {source}"


def plot_main_effects(
    records: Records, sources: Sources = None, whose: str = "these runs"
) -> Figure:
    """What pre-training node 1, 2 or 3 adds on average over the states of the others.

    A row of panels for these records, called `whose`, and one for the paper. Nodes 2 and 3 must be
    equal by design.
    The panel of a run that lacks rows of Table 1 is empty: a main effect is a mean over all.
    """
    table = claims.exploratory(records, sources)
    table = table[table.contrast.str.startswith("main effect")]
    table = table[table.effect.notna() | (table["from"] == "this run")]
    names = table.source.mask(table["from"] == "paper", table.source.map(ablation.stands_for))
    origin = table["from"].replace("this run", whose)
    table = table.assign(panel=origin + ": " + names, node="node " + table.contrast.str[-1])
    parts = dict(list(table.groupby("panel", sort=False)))
    columns = sum(not name.startswith("paper") for name in parts)
    return plot_effects(parts, "node", "effect on node 1 (points)", "row", columns)


# ---- Table 1


def plot_table1(records: Records, sources: Sources = None, whose: str = "these runs") -> Figure:
    """A dot per run, mean and 95 % interval per pattern of pre-trained nodes, beside the paper's.

    The panels of these records, called `whose`, share a scale, those of the paper another.
    """
    sources = list(sources or ablation.sources_of(records))
    runs = ablation.tidy(records, sources)
    table = ablation.ablation_table(records, sources)
    order = list(table.index)
    parts = {source: table[title(source)].reset_index() for source in sources}
    published = {source: part for source, part in parts.items() if "paper mean" in part}
    titles = [
        f"{style.source_title(source)}\n{whose}, n = {style.span(part.n[part.n > 0])}"
        for source, part in parts.items()
    ]
    titles += [f"{title(ablation.paper_source(source))}\npaper, n = 3" for source in published]
    shared = {"sharey": True, "width_ratios": [3] * len(sources) + [2] * len(published)}
    figure, axes = panels(titles, 1.3 + 0.28 * len(order), len(titles), **shared)
    look = {"order": order, "color": GREY, "size": 3.5, "alpha": 0.7, "jitter": False}
    for axis, (source, part) in zip(axes, parts.items(), strict=False):
        means = part.rename(columns={"mean": "effect"})
        dots(axis, means, "pattern", order, shift=0.25, mark=MEAN)
        sns.stripplot(runs[runs.source == source], x="accuracy", y="pattern", ax=axis, **look)
        axis.sharex(axes[0])
        axis.set(xlabel="accuracy of node 1 (%)", ylabel="pre-trained nodes")
    for axis, part in zip(axes[len(sources) :], published.values(), strict=True):
        mean = part["paper mean"]
        ends = {"low": mean - part["paper std"], "high": mean + part["paper std"]}
        dots(axis, part.assign(effect=mean, **ends), "pattern", order, mark=PAPER)
        axis.sharex(axes[len(sources)])
        axis.set_xlabel("accuracy (%)")
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    handles = [Line2D([], [], label="one seed", color=GREY, ls="none", marker="o", ms=3.5)]
    for mark in (MEAN, PAPER)[: 1 + bool(published)]:
        handles.append(Line2D([], [], label=mark, **style.DOT, **style.MARKS[mark]))
    note = "our panels and the paper's differ in scale" if published else ""
    style.legend_below(figure, handles, note)
    return figure


def plot_learning_curves(records: Records, sources: Sources = None) -> Figure:
    """Validation accuracy of node 1 after every epoch, mean and range over seeds: a row per source.

    On the left node 1 starts from scratch, on the right pre-trained. Lines in the source's colour
    have pre-trained neighbours; those in the same place of the graph are one line, "2 or 3". Titles
    have the number n of seeds, and what all neighbours add in the last epoch.
    """
    sources = list(sources or ablation.sources_of(records))
    figure, axes = panels([""] * 2 * len(sources), 2.1, columns=2, sharey="row")
    cells = product(sources, ("scratch", "pre-trained"))
    for axis, (source, start) in zip(axes, cells, strict=True):
        table = curve_table(records, source)
        order = list(dict.fromkeys(table.neighbours))
        table = table[table.start == start]
        palette = dict.fromkeys(order, style.source_colour(source)) | {"none": BLACK}
        markers = dict(zip(order, cycle("os^DvPX*"), strict=False))
        look = {"hue": "neighbours", "style": "neighbours", "palette": palette, "markers": markers}
        look |= {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.1}}
        sns.lineplot(table, x="epoch", y="accuracy", ax=axis, ms=4, **look)
        last = table[table.epoch == table.epoch.max()].groupby("neighbours").accuracy.mean()
        gain = f"{last.get(order[-1], np.nan) - last.get('none', np.nan):+.1f}".replace("-", "−")
        words = f"{style.source_title(source)}: node 1 {start.replace('scratch', 'from scratch')}"
        words += f", n = {table.seed.nunique()}\n{order[-1]} minus none, last epoch: {gain} points"
        axis.set(title=words, xlabel="epoch", ylabel="validation (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=style.TICKS))
    drawn = [axis for axis in axes if axis.get_legend()]  # none without runs
    handles = drawn[0].get_legend_handles_labels()[0] if drawn else []
    for axis in drawn:
        axis.get_legend().remove()
    for handle in handles[1:]:  # black is without, a panel's own colour with them
        handle.set(color=GREY, markerfacecolor=GREY)
    scale = "; the rows differ in scale" if len(sources) > 1 else ""
    note = f"pre-trained neighbours, in the colour of their source{scale}"
    style.legend_below(figure, handles, note)
    return figure


def curve_table(records: Records, source: str) -> pd.DataFrame:
    """A row per epoch of the runs of Table 1: `start` of node 1 ("scratch", "pre-trained"),
    `neighbours` that are pre-trained ("2 or 3"), `seed`, `epoch`, `accuracy` (validation, node 1,
    %)."""
    rows = []
    alike = defaultdict(list)
    patterns = ablation.patterns(ablation.count_nodes(records))
    one_kind = ablation.share_architecture(records)
    for pattern in patterns[1 : len(patterns) // 2]:
        alike[pattern.count("+") if one_kind else pattern].append(pattern)
    for pattern in patterns:
        start = "pre-trained" if pattern[0] == "1" else "scratch"
        neighbours = re.sub(r"^1\+?", "", pattern) or "none"
        if neighbours != "none":
            group = neighbours.count("+") if one_kind else neighbours
            neighbours = " or ".join(sorted(alike[group]))
        label = pattern if pattern == "none" else f"{source}/{pattern}"
        for record in (record for record in records if record["label"] == label):
            for epoch in record["epochs"]:
                value = epoch["val_accuracy"][0]
                rows.append((start, neighbours, record["seed"], epoch["epoch"], value))
    return pd.DataFrame(rows, columns=["start", "neighbours", "seed", "epoch", "accuracy"])


# ---- a graph beside its target alone


def plot_seed_pairs(records: Records, chance: float) -> Figure:
    """Test accuracy of node 1 in graphs and alone: a line per seed, the gains beside. `records`:
    runs labelled "alone", and any graphs. `chance`: accuracy (%) of guessing."""
    rows = [(r["seed"], ablation.row_title(r), r["test_accuracy"][0]) for r in records]
    runs = pd.DataFrame(rows, columns=["seed", "graph", "accuracy"])
    by_seed = {name: dict(own[["seed", "accuracy"]].values) for name, own in runs.groupby("graph")}
    order = list(dict.fromkeys(["alone", *runs.graph]))
    gains = {name: stats.difference(by_seed[name], by_seed["alone"]) for name in order[1:]}
    gains = pd.DataFrame.from_dict(gains, orient="index").reset_index(names="graph")
    figure, (left, right) = panels(["", ""], 1.3 + 0.3 * len(order), sharey=True)
    runs = runs.assign(row=runs.graph.map(order.index)).sort_values("row")
    look = {"estimator": None, "units": "seed", "marker": "o", "color": GREY, "lw": 1, "ms": 5}
    sns.lineplot(runs, x="accuracy", y="row", orient="y", ax=left, **look)
    handles = [Line2D([], [], color=GREY, lw=1, marker="o", ms=4, label="one seed")]
    left.set(xlabel=f"test accuracy (%), chance is {chance:g}", ylabel="")
    dots(right, gains, "graph", order)
    right.set_xlabel("graph − alone, by seed (points)")
    style.count_rows(right, gains, "graph", order)
    style.legend_below(figure, [*handles, *style.mark_legend(gains)])
    return figure


def knowledge_table(records: Records, data: str) -> pd.DataFrame:
    """What `plot_gain_against_knowledge` draws, of a Table 1 whose starts were also trained alone.

    Empty where nodes have several architectures. Columns `data` (the name given), `source` (title,
    of the pre-trained nodes), `pattern`,
    `knowledge` (mean accuracy alone of the neighbours' starts minus that of node 1's, points),
    `effect`, `low`, `high` (graph minus its target alone, points, 95 % interval), `n`.
    """
    if not ablation.share_architecture(records):  # of the neighbours' own nothing was trained alone
        return pd.DataFrame()
    arms = ablation.run_arms(records)
    alone = {source: arm.mean for (source, what), arm in arms.items() if what == "alone"}
    n = ablation.count_nodes(records)
    cells = product(ablation.sources_of(records), ablation.patterns(n)[1:])
    rows = []
    for source, pattern in [("scratch", "none"), *cells]:
        trained = pattern.split("+")
        starts = [source if str(node) in trained else "scratch" for node in range(1, n + 1)]
        gain = stats.contrast(arms, {(source, pattern): 1.0, (starts[0], "alone"): -1.0})
        known = [alone.get(start, np.nan) for start in starts]
        row = {"data": data, "source": title(source), "knowledge": np.mean(known[1:]) - known[0]}
        row |= {"pattern": pattern} | {name: gain[name] for name in ("effect", "low", "high", "n")}
        rows += [row] if gain["n"] else []
    return pd.DataFrame(rows)


def plot_gain_against_knowledge(table: pd.DataFrame) -> Figure:
    """Whether a graph pays where the neighbours know more than node 1: a dot per row of Table 1, a
    panel per data set of `table`, from `knowledge_table`."""
    named = table.groupby("data", sort=False)
    parts = {f"{name}, n = {style.span(part.n)}": part for name, part in named}
    figure, axes = panels(parts, 3.8, max(2, len(parts)))
    for axis, part in zip(axes, parts.values(), strict=True):
        for source, own in part.groupby("source", sort=False):
            dots(axis, own, "knowledge", colour=style.source_colour(source))
        outside = part[(part.low > 0) | (part.high < 0)].sort_values("effect")
        outside = outside[outside.knowledge.abs() > CROWDED]
        for i, row in enumerate(outside.itertuples()):  # left and right in turn: they lie close
            beside = style.LEFT if i % 2 else style.BESIDE
            axis.annotate(row.pattern, (row.knowledge, row.effect), **beside)
        axis.axvline(0, color=BLACK, lw=0.8, zorder=0)
        axis.set_xlabel("neighbours alone (mean) − node 1 alone (points)")
    axes[0].set_ylabel("graph − its target alone (points)")
    sources = style.source_legend(dict.fromkeys(table.source), "starts: {}")
    note = "labels: pre-trained nodes, where the interval excludes 0, "
    note += f"outside ± {CROWDED} points; {OWN_SCALE}"
    style.legend_below(figure, [*sources, *style.mark_legend(table)], note)
    return figure


def plot_convergence(table: pd.DataFrame) -> Figure:
    """When a graph pays: graph minus its target alone, against how far training has gone, from
    `claims.convergence_table`: the training accuracy of the target alone, and its epochs. A line
    joins what has as many images."""
    several = table.images.nunique() > 1
    order = list(dict.fromkeys(table.start))
    ends = table.epochs * 1.07 ** (table.start.map(order.index) - len(order) // 2)  # side by side
    table = table.assign(shown_at=ends)
    figure, axes = panels([f"n = {style.span(table.n)} seeds"] * 2, 3.6)
    for axis, column in zip(axes, ("train_accuracy", "shown_at"), strict=True):
        for start, part in table.groupby("start", sort=False):
            look = {"color": style.source_colour(start), "lw": 1, "zorder": 1, "sort": False}
            look |= {"estimator": None, "units": "images"}
            sns.lineplot(part.sort_values("epochs"), x=column, y="effect", ax=axis, **look)
            dots(axis, part, column, colour=style.source_colour(start))
            for row in part.itertuples() if several else ():
                axis.annotate(row.images, (getattr(row, column), row.effect), **style.BESIDE)
    axes[0].set(xlabel="training accuracy of the target alone (%)")
    axes[0].set(ylabel="graph − its target alone (points)")
    epochs = sorted(set(table.epochs))
    axes[1].set(xscale="log", xlabel="epochs (log scale)", ylabel="")
    axes[1].set_xticks(epochs, labels=map(str, epochs))
    axes[1].minorticks_off()
    handles = style.source_legend(order, "all nodes: {}")
    note = "numbers: images" if several else ""
    style.legend_below(figure, [*handles, *style.mark_legend(table)], note)
    return figure


def plot_sources(records: Records) -> Figure:
    """What each start adds to a network alone, over random numbers: a panel per data set.
    `records`: {"source", "data", "accuracy there", "scratch": {seed: %}, "start": {seed: %}}, as in
    data/reference_runs/sources.json."""
    rows = []
    for record in records:
        start = title(record["source"])
        if "accuracy there" in record:
            start += f" ({record['accuracy there']:.0f} % on its own images)"
        row = {"data": record["data"], "start": start}
        rows.append(row | stats.difference(record["start"], record["scratch"]))
    parts = dict(list(pd.DataFrame(rows).groupby("data", sort=False)))
    return plot_effects(parts, "start", "gain over scratch (points)", shared=False)


def plot_reproduction(check: pd.DataFrame) -> Figure:
    """This machine's runs beside the recorded ones, from `ablation.reproduction_check`: does each
    lie in their prediction interval?"""
    rows = check.inside.count()
    inside = check.inside.fillna(True).to_numpy(bool)
    expected = (1 - stats.LEVEL) * rows
    words = f"{(~inside).sum()} of {rows} outside; {expected:.1f} expected"
    figure, (axis,) = panels([words], 1.1 + 0.2 * len(check))
    place = np.arange(len(check))
    band = {"color": style.PALE, "lw": 5, "label": "recorded: 95 % prediction interval"}
    axis.hlines(place, check.low, check.high, **band)
    look = {"ls": "none", "color": BLACK}
    mean = f"recorded: mean, n = {style.span(check.n)}"
    axis.plot(check["mean"], place, marker="|", ms=7, label=mean, **look)
    live = check.live.to_numpy()
    axis.plot(live[inside], place[inside], marker="o", ms=4, label="this machine", **look)
    if not inside.all():
        look |= {"marker": "X", "ms": 7, "label": "this machine, outside"}
        axis.plot(live[~inside], place[~inside], **look)
    scratch = {"none": "graph from scratch", "alone": "alone from scratch"}
    axis.set_yticks(place, list(map(plain, check.row.replace(scratch))))
    axis.set(ylim=(len(check) - 0.5, -0.5), xlabel="accuracy of node 1 (%)")
    style.legend_below(figure, axis.get_legend_handles_labels()[0])
    return figure


def plot_confusion(answers, classes: Sequence[str], groups: Sequence[str]) -> Figure:
    """What a network takes for what: `answers` (C, C), how often class i was answered with j.
    `groups`: what belongs together, a name for each of the C classes, which are sorted by it."""
    shares = np.asarray(answers, float)
    shares = 100 * shares / np.maximum(shares.sum(1, keepdims=True), 1)
    groups = np.array(groups)
    order = np.argsort(groups, kind="stable")
    names = [plain(classes[i]) for i in order]
    figure, (axis,) = panels([""], 5.6)
    look = {"cmap": "Greys", "vmin": 0, "square": True, "xticklabels": names, "yticklabels": names}
    look["cbar_kws"] = {"label": "% of the class"}
    sns.heatmap(shares[np.ix_(order, order)], ax=axis, **look)
    axis.set(xlabel="answer", ylabel="class")
    for i in 1 + np.flatnonzero(groups[order][1:] != groups[order][:-1]):
        axis.axhline(i, color=BLACK, lw=0.8)
        axis.axvline(i, color=BLACK, lw=0.8)
    return figure
