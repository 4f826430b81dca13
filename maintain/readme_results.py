"""Fill the numbers of README.md, README.ja.md, docs/results.md and docs/faq.md from records.

    python maintain/readme_results.py

Whatever stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is written anew. After a
change of data/reference_runs or data/run_times.json this has to be run; tests/test_docs.py says so.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ktglite.experiments import ablation, claims
from ktglite.models import title

TOP = Path(__file__).parents[1]
PAGES = {
    "README.md": 0,
    "README.ja.md": 1,
    "docs/results.md": 0,
    "docs/faq.md": 0,
}  # and their language
RECORDS = {name: TOP / "data/reference_runs" / name for name in ("quick", "cars64")}
VERDICTS = {
    "supported": ("yes", "はい"),
    "contradicted": ("no", "いいえ"),
    "not resolved": ("not resolved", "判定できない"),
}
STARTS = {  # the rows of a cell: how the source of a claim is called in it
    "no pre-training": ("from scratch", "事前学習なし"),
    "ImageNet-1k": ("ImageNet-1k", "ImageNet-1k"),
    "ImageNet-1k stand-in": ("stand-in", "代替データ"),
    "ImageNet-1k (quantised weights)": ("ImageNet-1k, quantised", "ImageNet-1k (量子化)"),
    "FractalDB-1k": ("FractalDB-1k", "FractalDB-1k"),
}
QUESTIONS = {
    "C1": ("Does pre-training the target help?", "ターゲットノードの事前学習は有効か"),
    "C2": ("Do pre-trained auxiliaries help it?", "事前学習済みの補助ノードは有効か"),
    "C3": ("Do three pre-trained nodes beat none?", "全ノードの事前学習は，事前学習なしに勝るか"),
    "C0": ("Does a graph beat its target alone?", "グラフはターゲットノード単独に勝るか"),
}
COUNTED = {
    "C1": ("pre-training the target helps", "ターゲットノードの事前学習"),
    "C2": ("pre-trained auxiliaries help it", "補助ノードの事前学習"),
    "C3": ("three pre-trained nodes beat none", "全ノードの事前学習"),
    "C0": ("a graph beats its target alone", "グラフがターゲットノード単独に勝ること"),
}
HEADS = ("| | paper | synthetic cars | photographs |", "| | 論文 | 合成した車の画像 | 写真 |")
LABELS = ["claim", "source", "paper", "synthetic cars", "photographs"]


def signed(value: float) -> str:
    """A number of points with its sign, as the tables have it."""
    return f"{value:+.1f}".replace("-", "−")


def judged(verdict: str, effect: float, language: int) -> str:
    """Verdict and effect in words: "yes, +25.7"; nothing but the word where there is no effect."""
    words = next((v for key, v in VERDICTS.items() if verdict.startswith(key)), None)
    if words is None or pd.isna(effect):
        return ("not measured", "なし")[language]
    return f"{words[language]}{(', ', '，')[language]}{signed(effect)}"


def cell(table: pd.DataFrame, claim: str, language: int, prefix: str = "") -> str:
    """What a set of records, or the paper (`prefix`), answers to a claim: a line per source."""
    lines = []
    for _, row in table[table["claim"] == claim].iterrows():
        source = ablation.stands_for(row["source"]) if prefix else row["source"]
        answer = judged(str(row[f"{prefix}verdict"]), row[f"{prefix}effect"], language)
        lines.append(f"{STARTS.get(source, (source, source))[language]}: {answer}")
    effects = table.loc[table["claim"] == claim, f"{prefix}effect"]
    return "<br>".join(lines) if effects.notna().any() else ("not measured", "測定なし")[language]


def scale(records: Sequence[dict], table: pd.DataFrame, language: int) -> str:
    """One sentence about the size of a set of records, from their own settings."""
    data, config = records[0]["data"], records[0]["config"]
    runs = table["n"].dropna()
    low, high = int(runs.min()), int(runs.max())
    n = f"{low}" if low == high else ("{} to {}", "{}～{}")[language].format(low, high)
    arch = {"resnet18_w16": ("ResNet18 at a quarter of its width", "幅 1/4 の ResNet18")}
    name = arch.get(records[0]["graph"]["nodes"][0]["arch"], ("ResNet18", "ResNet18"))[language]
    text = (
        "{name}, {train:,} training images of {size} px in {classes} classes, {epochs} epochs, "
        "n = {n}",
        "{name}，学習画像 {train:,} 枚 ({size} px，{classes} クラス)，{epochs} エポック，n = {n}",
    )[language]
    return text.format(**data | {"name": name, "n": n, "epochs": config["epochs"]})


def counted(tables: Sequence[pd.DataFrame], language: int) -> str:
    """In how many comparisons of these records each question is answered by yes."""
    whole = pd.concat(tables)
    parts = []
    for claim, words in COUNTED.items():
        found = whole[(whole["claim"] == claim) & whole["effect"].notna()]
        yes = int((found["verdict"] == "supported").sum())
        told = ("{} in {} of {} comparisons", "{}は{}/{}")[language]
        parts.append(told.format(words[language], yes, len(found)))
    asked = whole["claim"].isin(list(COUNTED))
    against = int((asked & (whole["verdict"] == "contradicted")).sum())
    text = (
        "In part. Supported by the two sets of records below: {}. Contradicted there: {}.",
        "一部は再現されました。下の 2 組の記録が支持する比較の数: {}。逆の結果: {}。",
    )[language]
    return text.format(("; ", "，")[language].join(parts), against)


def questions(sets: dict[str, tuple[list, pd.DataFrame]], language: int) -> str:
    """The table of four questions, and what it was measured with."""
    cars, photographs = sets.values()
    lines = [counted([table for _, table in sets.values()], language), ""]
    lines += [HEADS[language], "|---|---|---|---|"]
    for claim, question in QUESTIONS.items():
        cells = [cell(cars[1], claim, language, "paper ")]
        cells += [cell(table, claim, language) for _, table in (cars, photographs)]
        lines.append(f"| {question[language]} | {' | '.join(cells)} |")
    sizes = [scale(*given, language) for given in (cars, photographs)]
    known = [training_accuracy(given[0]) for given in (cars, photographs)]
    text = (
        "Synthetic cars: {}. Photographs: {}. The paper: ResNet18, 12,554 photographs, 200 epochs, "
        "n = 3. One network alone, from scratch, ends with {} of its training images of cars "
        "correct, and {} of the photographs; where that is far below 100 %, graphs from scratch ended "
        "below their target alone in all our records, older ones too ([why](docs/faq.md)).",
        "合成した車の画像: {}。写真: {}。論文: ResNet18，写真 12,554 枚，200 エポック，n = 3。事前学習なしの"
        "単独ネットワークが最後に正しく分類する学習画像は，車で {}，写真で {} です。この値が 100 % を大きく下回る記録では，以前の版のものも含め，"
        "事前学習なしのグラフは全てターゲットノード単独を下回りました ([理由](docs/faq.md))。",
    )[language]
    return "\n".join([*lines, "", text.format(*sizes, *known)])


def training_accuracy(records: Sequence[dict]) -> str:
    """What a network alone, from scratch, ends with on its training images: mean over seeds."""
    found = [r["epochs"][-1]["train_accuracy"][0] for r in records if r["label"] == "alone"]
    return f"{np.mean(found):.0f} %" if found else "–"


def interval(row: pd.Series | None, prefix: str = "") -> str:
    """Effect, interval, number of runs and verdict of a claim for docs/results.md."""
    if row is None or pd.isna(row[f"{prefix}effect"]):
        return "not measured"
    effect, low, high = (signed(row[prefix + name]) for name in ("effect", "low", "high"))
    verdict = str(row[f"{prefix}verdict"]).removesuffix(" at this n")
    return f"{effect} [{low}, {high}], {verdict}" + ("" if prefix else f" (n = {row['n']})")


def verdicts(sets: dict[str, tuple[list, pd.DataFrame]]) -> str:
    """Every claim with its interval, a row per claim and source of the paper."""
    tables = [
        table.assign(of=table["source"].map(ablation.stands_for)) for _, table in sets.values()
    ]
    lines = [f"| {' | '.join(LABELS)} |", "|---|---|---|---|---|"]
    for _, row in tables[0].iterrows():
        claim, of = row["claim"], row["of"]
        other = tables[1][(tables[1]["claim"] == claim) & (tables[1]["of"] == of)]
        cells = [claim, of, interval(row, "paper "), interval(row)]
        cells.append(interval(other.iloc[0] if len(other) else None))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table1(records: list[dict]) -> str:
    """Table 1 beside the paper's, in Markdown."""
    frame = ablation.format_table(ablation.ablation_table(records)).reset_index()
    frame = frame.drop(columns="index", errors="ignore")
    head = [f"| {' | '.join(map(str, frame.columns))} |", "|" + "---|" * len(frame.columns)]
    return "\n".join(head + [f"| {' | '.join(map(str, row))} |" for row in frame.values])


def alone(sets: dict[str, tuple[list, pd.DataFrame]]) -> str:
    """Test accuracy of one network alone by its start, in both sets of records."""
    lines = ["| a network alone starts from | synthetic cars | photographs |", "|---|---|---|"]
    found = []
    for records, _ in sets.values():
        accuracies = {}
        for record in records:
            source, _, pattern = f"scratch/{record['label']}".rpartition("/")
            if pattern == "alone":
                of = ablation.stands_for(title(source.removeprefix("scratch/")))
                accuracies.setdefault(of, []).append(record["test_accuracy"][0])
        found.append(accuracies)
    for of in dict.fromkeys([*found[0], *found[1]]):
        cells = [_mean_and_spread(accuracies.get(of, [])) for accuracies in found]
        lines.append(f"| {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread} ({len(values)})" if values else ""


def less_alone(sets: dict[str, tuple[list, pd.DataFrame]]) -> str:
    """Each pattern of pre-trained nodes minus the target alone with the same start, exploratory."""
    found = []
    for records, _ in sets.values():
        table = claims.exploratory(records)
        table = table[(table["from"] == "this run") & table["low"].notna()]
        table = table.assign(of=table["source"].map(ablation.stands_for))
        found.append(table.set_index(["of", "contrast"]))
    lines = ["| pre-trained nodes | from | synthetic cars | photographs |", "|---|---|---|---|"]
    for pattern in ablation.patterns()[1:]:
        for of in ("ImageNet-1k", "FractalDB-1k"):
            where = (of, f"{pattern} minus its target alone")
            cells = [points(table.loc[where]) if where in table.index else "" for table in found]
            lines.append(f"| {pattern} | {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


def points(row: pd.Series) -> str:
    """An effect with its 95 % interval."""
    effect, low, high = (signed(row[name]) for name in ("effect", "low", "high"))
    return f"{effect} [{low}, {high}]"


def regimes() -> str:
    """How far training went and what C0 was, a row for every committed Table 1.

    Of `fractaldb1k/1+2+3`, whose three nodes start alike, the first epoch tells whether its start
    survived: cross-entropy of node 1, and the sum of the losses on its edges from other nodes.
    """
    heads = ["records", "rate", "images x epochs", "target alone: training accuracy"]
    heads += ["graph minus target alone", "all nodes from FractalDB-1k: losses of epoch 1"]
    heads += ["graph minus target alone"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for path in sorted(RECORDS["quick"].parent.glob("*/table1.json")):
        records = ablation.read_runs(path.parent)
        first = [r["epochs"][0] for r in records if r["label"] == "fractaldb1k/1+2+3"]
        edges = np.array([epoch["edge_loss"][0] for epoch in first], float)
        config, data = records[0]["config"], records[0]["data"]
        table = claims.claims_table(records)
        cells = [f"`{path.parent.name}`", f"{config['lr']:g}"]
        cells += [f"{data['train']:,} x {config['epochs']}", f"{training_accuracy(records)}"]
        cells += [_c0(table, "no pre-training")]
        own, heard = (edges[:, 0], edges[:, 1:].sum(axis=1)) if len(edges) else ([], [])
        cells += [f"{np.mean(own):.1f} and {np.mean(heard):.1f}" if len(own) else "not recorded"]
        cells += [_c0(table, "FractalDB-1k")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def convergence() -> str:
    """C0 by start and number of epochs, from the records of benchmarks/convergence.py."""
    path = RECORDS["quick"].parent / "convergence.json"
    if not path.exists():
        return "(No records yet: `python benchmarks/convergence.py`.)"
    records = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| all nodes from | epochs | target alone: training accuracy | graph minus target alone |"
    ]
    lines.append("|---|---|---|---|")
    for _, row in claims.convergence_table(records).sort_values(["start", "epochs"]).iterrows():
        cells = [row["start"], str(row["epochs"]), f"{row['train_accuracy']:.0f} %", points(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _c0(table: pd.DataFrame, source: str) -> str:
    rows = table[(table["claim"] == "C0") & (table["source"] == source)]
    return points(rows.iloc[0]) if rows["effect"].notna().any() else "not measured"


def minutes(language: int) -> str:
    """How long the quick profile takes, from its recorded times."""
    run = json.loads((TOP / "data/run_times.json").read_text(encoding="utf-8"))["quick"]
    text = f"{sum(run['seconds'].values()) / 60:.0f} min, {run['machine']}"
    return text.replace("min, ", "分，").replace(" cores, ", " コア，") if language else text


def fill(text: str, blocks: dict[str, str]) -> str:
    """`text` with every block that it has filled; a block of one line stays within its line."""
    for name, content in blocks.items():
        body = f"\n{content}\n" if "\n" in content else content
        pattern = rf"(<!-- {name}:begin -->).*?(<!-- {name}:end -->)"
        text = re.sub(pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
    return text


def pages() -> dict[Path, str]:
    """Every page that has numbers of records, as it should be."""
    sets = {}
    for name, folder in RECORDS.items():
        records = ablation.read_runs(folder)
        sets[name] = (records, claims.claims_table(records))
    blocks = {"verdicts": verdicts(sets), "alone": alone(sets), "regimes": regimes()}
    blocks |= {"convergence": convergence(), "less-alone": less_alone(sets)}
    blocks |= {f"table1-{name}": table1(records) for name, (records, _) in sets.items()}
    found = {}
    for name, language in PAGES.items():
        own = {"results": questions(sets, language), "minutes": minutes(language)}
        text = (TOP / name).read_text(encoding="utf-8")
        found[TOP / name] = fill(text, blocks | own)
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
