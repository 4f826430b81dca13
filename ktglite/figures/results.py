"""Figures of claims, Table 1, and graphs beside their target alone.

Nothing is computed here that a table would need: means, intervals and contrasts come from
`experiments`, in points and percent.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ktglite.experiments import ablation, claims, stats
from ktglite.figures import style
from ktglite.figures.style import BLACK, GREY, PALE, dots, in_language, panels, plain, source_colour
from ktglite.models import title

__all__ = ["knowledge_table", "plot_confusion", "plot_convergence", "plot_effects", "plot_forest"]
__all__ += ["plot_gain_against_knowledge", "plot_learning_curves", "plot_main_effects"]
__all__ += ["plot_reproduction", "plot_seed_pairs", "plot_sources", "plot_table1"]

OWN_SCALE = "each panel has its own scale"
SEED = {"color": GREY, "ls": "none", "marker": "o", "ms": 3.5, "alpha": 0.7}
BESIDE = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 6.5}  # of a dot
STRIP = {"color": GREY, "size": 3.5, "alpha": 0.7, "jitter": False}  # the same, for seaborn
PAPER = {"color": BLACK, "ls": "none", "marker": "s", "ms": 3.5, "fillstyle": "none"}


@in_language
def plot_effects(
    tables: Mapping[str, pd.DataFrame], at: str, xlabel: str = "points", hue: str | None = None,
    shared: bool | str = True, order: Sequence[str] = (), columns: int = 4,
) -> Figure:  # fmt: skip
    """Effects with 95 % intervals: a panel per table, a row per name, n beside it.

    Args:
        tables: by the panel's title: `effect`, `low`, `high`, `n` and, where tested, `verdict`.
        at: the column that names the rows.
        xlabel: what the effects are.
        hue: a column of sources: each has its colour, and a line of its own within the row.
        shared: whether all panels have one scale, or all in a "row".
        order: of the rows (default: as they come).
        columns: panels in a row.
    """
    whole = pd.concat(tables.values())
    order = order or list(dict.fromkeys(whole[at]))
    sources = list(dict.fromkeys(whole[hue])) if hue else []
    height = 1.3 + (0.26 if hue else 0.19) * len(order)
    figure, axes = panels(tables, height, columns, sharey=True, sharex=shared)
    for axis, table in zip(axes, tables.values(), strict=True):
        for i, source in enumerate(sources):
            shift = (i - (len(sources) - 1) / 2) * 0.7 / len(sources)
            dots(axis, table[table[hue] == source], at, order, source_colour(source), shift)
        if not sources:
            dots(axis, table, at, order)
        style.count_rows(axis, table, at, order)
        axis.set_xlabel(xlabel)
        axis.tick_params(axis="x", labelbottom=True)
    handles = [*style.source_legend(sources), *style.mark_legend(whole)]
    rows = "the rows differ in scale" if len(tables) > columns else ""
    style.legend_below(figure, handles, 3, {True: "", False: OWN_SCALE, "row": rows}[shared])
    return figure


# ---- claims


@in_language
def plot_forest(frame: pd.DataFrame) -> Figure:
    """The primary contrasts with 95 % intervals, from `claims.forest`: a panel per set of records,
    a row per claim: C1 to C3, C0, then the searches.

    A panel that has something else in the row of ImageNet-1k says so in its title; wide intervals
    end at its edge.
    """
    frame = frame[frame.effect.notna()]
    names = zip(frame.claim, frame.source, strict=True)
    frame = frame.assign(row=[claim_row(claim, source) for claim, source in names])
    frame = frame.sort_values("row", kind="stable", key=lambda rows: rows.map(_claim_order))
    parts = dict(list(frame.groupby("set", sort=False)))
    parts = {f"{name}{_instead(parts[name].source)}": parts[name] for name in frame["set"].unique()}
    figure = plot_effects(parts, "row", shared=False, order=list(dict.fromkeys(frame.row)))
    for axis, part in zip(figure.axes, parts.values(), strict=True):
        axis.tick_params(axis="y", length=0, labelsize=6.5)
        ends = [0, part.effect.min(), part.effect.max()]
        room = 0.25 * (max(ends) - min(ends)) or 1
        axis.set_xlim(min(ends) - room, max(ends) + room)
    return figure


def _claim_order(row: str) -> str:
    """C1 to C3, C0, then what is about searches."""
    return f"{'search' in row}{row[:2] == 'C0'}{row[:2]}"


def claim_row(claim: str, source: str) -> str:
    """A row's name; what stands for ImageNet-1k is in the row of ImageNet-1k."""
    words = {
        "C0": "graph − target alone",
        "C1": "node 1",
        "C2": "each auxiliary",
        "C3": "all nodes",
    }
    what = words.get(claim, "search")
    if source.startswith("searched: ") and claim == "C0":
        what += " (search)"
    short = {"searched: ": "", " stand-in": "", " (quantised weights)": "", "-1k": ""}
    short |= {"ImageNet + FractalDB": "mixed", "no pre-training": "scratch"}
    for long, word in short.items():
        source = source.replace(long, word)
    return f"{claim} {what}, {source}"


def _instead(sources: Sequence[str]) -> str:
    """What these records have where the paper has ImageNet-1k, if it is something else."""
    kinds = "stand-in", "quantised weights"
    names = [kind for kind in kinds if any(kind in source for source in sources)]
    return f"\n(ImageNet:\n{', '.join(names)})" if names else ""


@in_language
def plot_main_effects(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> Figure:  # fmt: skip
    """What pre-training node 1, 2 or 3 adds on average over the states of the others.

    A row of panels for these records, and one for the paper. Nodes 2 and 3 must be equal by design.
    The panel of a run that lacks rows of Table 1 is empty: a main effect is a mean over all.
    """
    table = claims.exploratory(records, sources)
    table = table[table.contrast.str.startswith("main effect")]
    table = table[table.effect.notna() | (table["from"] == "this run")]
    table = table.assign(node="node " + table.contrast.str[-1])
    parts = {}
    for (origin, source), part in table.groupby(["from", "source"], sort=False):
        name = ablation.stands_for(source) if origin == "paper" else source
        parts[f"{origin}: {plain(name)}"] = part
    columns = sum(not name.startswith("paper") for name in parts)
    xlabel = "effect on node 1 (points)"
    return plot_effects(parts, "node", xlabel, shared="row", columns=columns)


# ---- Table 1


@in_language
def plot_table1(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> Figure:  # fmt: skip
    """A dot per run, mean and 95 % interval per pattern of pre-trained nodes, beside the paper's.

    The panels of these records share a scale, those of the paper another.
    """
    sources = list(sources or ablation.sources_of(records))
    order = ablation.patterns(ablation.count_nodes(records))
    table = ablation.tidy(records, sources)
    paper = ablation.paper_arms(sources, ablation.count_nodes(records))
    published = [source for source in sources if (source, "none") in paper]
    titles = [f"{style.source_title(s)}\nthis run, {_count(table, s)}" for s in sources]
    titles += [f"{title(ablation.paper_source(source))}\npaper, n = 3" for source in published]
    ratios = [3] * len(sources) + [2] * len(published)
    size = 1.3 + 0.28 * len(order), len(titles)
    figure, axes = panels(titles, *size, sharey=True, width_ratios=ratios)
    for axis, source in zip(axes, sources, strict=False):
        part = table[table.source == source]
        found = [stats.summary(part.accuracy[part.pattern == pattern]) for pattern in order]
        means = pd.DataFrame(found).rename(columns={"mean": "effect"}).assign(pattern=order)
        dots(axis, means, "pattern", order, shift=0.25, mean=True)
        sns.stripplot(part, x="accuracy", y="pattern", order=order, ax=axis, **STRIP)
        axis.sharex(axes[0])
        axis.set(xlabel="accuracy of node 1 (%)", ylabel="pre-trained nodes")
    for axis, source in zip(axes[len(sources) :], published, strict=True):
        arms = [paper[source, pattern] for pattern in order]
        means = [arm.mean for arm in arms]
        axis.errorbar(means, range(len(order)), xerr=[arm.std for arm in arms], **PAPER)
        axis.sharex(axes[len(sources)])
        axis.set_xlabel("accuracy (%)")
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    handles = [Line2D([], [], label="one seed", **SEED), mean_handle()]
    if published:
        handles.append(Line2D([], [], label="paper: mean ± standard deviation", **PAPER))
    note = "our panels and the paper's differ in scale" if published else ""
    style.legend_below(figure, handles, note=note)
    return figure


def mean_handle() -> Line2D:
    """The legend entry of a mean with its interval."""
    return Line2D([], [], color=BLACK, marker="o", ms=4.5, label=style.MEAN)


def _count(table: pd.DataFrame, source: str) -> str:
    """ "n = 3", or "n = 3 to 10" where patterns have different numbers of runs."""
    counts = table[table.source == source].groupby("pattern").size()
    return "n = " + " to ".join(dict.fromkeys(str(n) for n in (counts.min(), counts.max())))


@in_language
def plot_learning_curves(
    records: Sequence[Mapping], sources: Sequence[str] | None = None
) -> Figure:  # fmt: skip
    """Validation accuracy of node 1 after every epoch, mean and range over seeds: a row per source.

    On the left node 1 starts from scratch, on the right pre-trained. Lines in the source's colour
    have pre-trained neighbours, the thick one all of them; titles say what those add in the end.
    """
    names = ablation.patterns(ablation.count_nodes(records))
    order = names[: len(names) // 2]  # of the neighbours, whatever node 1 starts from
    cells = [
        (source, start, patterns)
        for source in sources or ablation.sources_of(records)
        for start, patterns in (("scratch", order), ("pre-trained", names[len(order) :]))
    ]
    titles = [f"{style.source_title(source)}: node 1 {start}" for source, start, _ in cells]
    figure, axes = panels(titles, 2.1, columns=2, sharey="row")
    widths = dict.fromkeys(order, 1.0) | {order[-1]: 2.0}
    look = {"hue_order": order, "style_order": order, "sizes": widths, "dashes": False}
    look |= {"markers": dict(zip(order, "os^DvPX*", strict=False)), "ms": 4}
    series = dict.fromkeys(("hue", "style", "size"), "neighbours")
    for axis, (source, start, patterns) in zip(axes, cells, strict=True):
        part = curve_table(records, source, patterns)
        gain = neighbours_add(part, patterns)
        words = f"with pre-trained neighbours {gain:+.1f} points at the end".replace(" -", " −")
        axis.set_title(f"{axis.get_title()}\n{words}")
        palette = {name: source_colour("scratch" if name == "none" else source) for name in order}
        look |= {"palette": palette, "errorbar": ("pi", 100), "err_kws": {"alpha": 0.1}}
        sns.lineplot(part, x="epoch", y="accuracy", ax=axis, **series, **look)
        axis.set(xlabel="epoch", ylabel="validation (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if start == "scratch":
            axis.get_legend().remove()
        else:
            place = {"bbox_to_anchor": (1, 0.5), "title": "pre-trained\nneighbours"}
            sns.move_legend(axis, "center left", **place)
    return figure


def curve_table(records: Sequence[Mapping], source: str, patterns: Sequence[str]) -> pd.DataFrame:
    """A row per epoch of the runs of these patterns: `pattern`, `neighbours` (without node 1),
    `epoch`, `accuracy` (validation, node 1, %)."""
    rows = [
        (pattern, re.sub(r"^1\+?", "", pattern) or "none", epoch["epoch"], epoch["val_accuracy"][0])
        for pattern in patterns
        for record in records
        if record["label"] == (pattern if pattern == "none" else f"{source}/{pattern}")
        for epoch in record["epochs"]
    ]
    return pd.DataFrame(rows, columns=["pattern", "neighbours", "epoch", "accuracy"])


def neighbours_add(curves: pd.DataFrame, patterns: Sequence[str]) -> float:
    """All neighbours pre-trained minus none, in points, in the last epoch of `curve_table`."""
    last = curves[curves.epoch == curves.epoch.max()].groupby("pattern").accuracy.mean()
    return float(last.get(patterns[-1], np.nan) - last.get(patterns[0], np.nan))


# ---- a graph beside its target alone


@in_language
def plot_seed_pairs(
    records: Sequence[Mapping], baseline: str = "alone", chance: float | None = None
) -> Figure:  # fmt: skip
    """Test accuracy of node 1 in graphs and alone: a line per seed, the gains beside.

    Args:
        records: runs with `label`, `seed`, `test_accuracy`, of the baseline and of any graphs.
        baseline: the label of the runs that the others are compared with, from scratch.
        chance: accuracy (%) of guessing, as a dotted line.
    """
    gains = pair_gains(records, baseline)
    graphs = list(gains.graph)
    ratios = [2] * len(graphs) + [3]
    figure, axes = panels([*graphs, "gain"], 2.6, len(graphs) + 1, width_ratios=ratios)
    rows = [(r["seed"], ablation.row_title(r), r["test_accuracy"][0]) for r in records]
    runs = pd.DataFrame(rows, columns=["seed", "graph", "accuracy"]).set_index("graph")
    look = {"estimator": None, "units": "seed", "marker": "o", "color": GREY, "lw": 1, "ms": 5}
    handles = [Line2D([], [], color=GREY, lw=1, marker="o", ms=4, label="one seed")]
    if chance is not None:
        handles.append(Line2D([], [], color=BLACK, lw=0.8, ls=":", label="chance"))
    for axis, label in zip(axes, graphs, strict=False):
        pair = pd.concat([runs.loc[[baseline]], runs.loc[[label]]]).reset_index()
        sns.lineplot(pair, x="graph", y="accuracy", ax=axis, **look)
        axis.sharey(axes[0])
        axis.set(xlim=(-0.4, 1.4), xlabel="", ylabel="test accuracy (%)")
        axis.label_outer()
        if chance is not None:
            axis.axhline(chance, color=BLACK, lw=0.8, ls=":")
    dots(axes[-1], gains, "graph")
    style.count_rows(axes[-1], gains, "graph", graphs)
    axes[-1].set_xlabel(f"graph − {baseline}, by seed (points)")
    style.legend_below(figure, [*handles, *style.mark_legend(gains)])
    return figure


def pair_gains(records: Sequence[Mapping], baseline: str = "alone") -> pd.DataFrame:
    """Each graph minus the baseline, by seed: `graph`, `effect`, `low`, `high`, `n`, and in how
    many seeds it is `up`."""
    seeds: dict[str, dict[int, float]] = {}
    for record in records:
        label = ablation.row_title(record)
        seeds.setdefault(label, {})[record["seed"]] = record["test_accuracy"][0]
    alone = seeds.pop(baseline)
    rows = []
    for label, found in seeds.items():
        up = sum(value > alone[seed] for seed, value in found.items() if seed in alone)
        rows.append({"graph": label, "up": up, **stats.difference(found, alone)})
    return pd.DataFrame(rows)


def knowledge_table(records: Sequence[Mapping], data: str) -> pd.DataFrame:
    """What `plot_gain_against_knowledge` draws, of a Table 1 whose starts were also trained alone.

    `data`: the name of the data set.
    """
    arms = ablation.run_arms(records)
    alone = {title(source): arm.mean for (source, what), arm in arms.items() if what == "alone"}
    scratch = title("scratch")
    found = claims.exploratory(records)
    found["pattern"] = found.contrast.str.extract(r"^(\S+) (?:less|minus) its target alone$")[0]
    found = found[(found["from"] == "this run") & found.pattern.notna() & found.effect.notna()]
    rows = []
    for row in found.itertuples():
        on = [str(i + 1) in row.pattern.split("+") for i in range(ablation.count_nodes(records))]
        known = [alone.get(row.source if one else scratch, np.nan) for one in on]
        source = row.source if any(on) else scratch
        rows.append({"data": data, "source": source, "knowledge": np.mean(known[1:]) - known[0]})
    found = found[["pattern", "effect", "low", "high", "n"]].reset_index(drop=True)
    table = pd.concat([pd.DataFrame(rows), found], axis=1)
    return table.drop_duplicates(["source", "pattern"]) if rows else table


@in_language
def plot_gain_against_knowledge(table: pd.DataFrame) -> Figure:
    """Whether a graph pays where the neighbours know more than node 1: a dot per row of Table 1.

    Args:
        table: `data` (a panel each), `source` (name or title, of the pre-trained nodes), `pattern`
            ("none", "2+3", ..), `knowledge` (mean accuracy alone of the neighbours' starts minus
            that of node 1's, points), `effect`, `low`, `high` (graph minus its target alone,
            points, 95 % interval), as from `knowledge_table`.
    """
    parts = dict(list(table.groupby("data", sort=False)))
    figure, axes = panels(parts, 3.4, max(2, len(parts)))
    for axis, part in zip(axes, parts.values(), strict=True):
        for source, own in part.groupby("source", sort=False):
            dots(axis, own, "knowledge", colour=source_colour(source))
            for row in own.itertuples():
                axis.annotate(row.pattern, (row.knowledge, row.effect), **BESIDE)
        axis.axvline(0, color=BLACK, lw=0.8, zorder=0)
        axis.set_xlabel("neighbours alone − node 1 alone (points)")
    axes[0].set_ylabel("graph − its target alone (points)")
    sources = style.source_legend(dict.fromkeys(table.source), "pre-trained on: {}")
    note = f"labels: pre-trained nodes; {OWN_SCALE}"
    style.legend_below(figure, [*sources, *style.mark_legend(table)], 3, note)
    return figure


@in_language
def plot_convergence(table: pd.DataFrame) -> Figure:
    """When a graph pays: graph minus its target alone, against how far training has gone.

    Args:
        table: `claims.convergence_table`: `start` (name or title), `images` (to train), `epochs`,
            `train_accuracy` (of the target alone, %), `effect`, `low`, `high` (points, 95 %
            interval). A line joins what has as many images.
    """
    figure, (axis,) = panels([""], 3.2)
    for start, part in table.groupby("start", sort=False):
        look = {"color": source_colour(start), "lw": 1, "zorder": 1, "estimator": None}
        look |= {"units": "images", "sort": False}
        ordered = part.sort_values("epochs")
        sns.lineplot(ordered, x="train_accuracy", y="effect", ax=axis, **look)
        dots(axis, part, "train_accuracy", colour=source_colour(start))
        for row in part.itertuples():
            text = (
                f"{row.epochs}" if table.images.nunique() == 1 else f"{row.epochs} × {row.images}"
            )
            axis.annotate(text, (row.train_accuracy, row.effect), **BESIDE)
    axis.set(xlabel="training accuracy of the target alone (%)")
    axis.set(ylabel="graph − its target alone (points)")
    handles = style.source_legend(dict.fromkeys(table.start), "all nodes: {}")
    note = "numbers: epochs" + (" × images" if table.images.nunique() > 1 else "")
    style.legend_below(figure, [*handles, *style.mark_legend(table)], note=note)
    return figure


# ---- other


@in_language
def plot_sources(records: Sequence[Mapping]) -> Figure:
    """What each start adds to a network alone, over random numbers: a panel per data set.

    `records`: {"source", "data", "accuracy there", "scratch": {seed: %}, "start": {seed: %}}, as in
    data/reference_runs/sources.json.
    """
    parts = dict(list(start_gains(records).groupby("data", sort=False)))
    return plot_effects(parts, "start", "gain over scratch (points)", shared=False)


def start_gains(records: Sequence[Mapping]) -> pd.DataFrame:
    """Of `plot_sources`: `data`, `source` (title), `start` (with accuracy there), `effect`, .."""
    rows = []
    for record in records:
        source = title(record["source"])
        there = f" ({record['accuracy there']:.0f} % there)" if "accuracy there" in record else ""
        gain = stats.difference(record["start"], record["scratch"])
        rows.append({"data": record["data"], "source": source, "start": source + there, **gain})
    return pd.DataFrame(rows)


@in_language
def plot_reproduction(check: pd.DataFrame) -> Figure:
    """This machine's runs beside the recorded ones: does each lie in their prediction interval?

    Args:
        check: `ablation.reproduction_check`: a row per graph: `row` (its name), `live` (node 1 in
            this machine's runs, %), `mean`, `low`, `high` (recorded, and the interval in
            which more of them should lie), `n` (recorded runs), `inside` (missing if unknown).
    """
    rows = check.inside.count()
    inside = check.inside.fillna(True).to_numpy(bool)
    words = f"{(~inside).sum()} of {rows} outside; {0.05 * rows:.1f} expected by chance"
    figure, (axis,) = panels([words], 1.1 + 0.2 * len(check))
    place = np.arange(len(check))
    band = axis.hlines(place, check.low, check.high, color=PALE, lw=5)
    band.set_label("recorded: 95 % prediction interval")
    look = {"ls": "none", "color": BLACK}
    axis.plot(check["mean"], place, marker="|", ms=7, label="recorded: mean", **look)
    live = check.live.to_numpy()
    axis.plot(live[inside], place[inside], marker="o", ms=4, label="this run", **look)
    if not inside.all():
        look |= {"marker": "X", "ms": 7, "label": "this run, outside"}
        axis.plot(live[~inside], place[~inside], **look)
    axis.set_yticks(place, [plain(name) for name in check.row])
    axis.set(ylim=(len(check) - 0.5, -0.5), xlabel="accuracy of node 1 (%)")
    style.count_rows(axis, check, "row", list(check.row))
    style.legend_below(figure, axis.get_legend_handles_labels()[0])
    return figure


@in_language
def plot_confusion(
    answers, classes: Sequence[str], groups: Sequence[str] | None = None
) -> Figure:  # fmt: skip
    """What a network takes for what: `answers` (C, C), how often class i was answered with j.

    `groups`: what belongs together, a name for each of the C classes, which are sorted by it.
    """
    shares = np.asarray(answers, float)
    shares = 100 * shares / np.maximum(shares.sum(1, keepdims=True), 1)
    groups = np.array(["" for _ in classes] if groups is None else groups)
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
