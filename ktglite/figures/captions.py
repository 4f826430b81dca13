"""Captions and alternative texts of the figures, from the records, in English and Japanese."""

from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["caption"]

# Per figure: the caption in English and in Japanese; {n}, {data} and {graphs} are filled in from
# the records.
CAPTIONS = {
    "figure1_method": (
        "The method. Step 1 trains single models, Step 2 puts their weights on the nodes, Step 3 searches the graph.",
        "手法。Step 1 で単体モデルを事前学習し，Step 2 でノードを初期化し，Step 3 でグラフを探索する。",
    ),
    "gates": (
        "The four gates: output against training progress, and against the share of a batch the source knows.",
        "4つのゲート関数。学習の進行に対する出力と，送り手がバッチのうち正解した割合に対する出力。",
    ),
    "forest": (
        "Primary contrasts of the claims C0-C5 in points, with 95 % intervals and n, each panel on its own scale: this "
        "run ({data}), photographs (Stanford Cars, 64 px), and the paper's own numbers by the same rule. Blue: "
        "supported, orange: contradicted, grey: not resolved, hollow: one run, without an interval.",
        "主張 C0-C5 の主対比 (ポイント)，95 % 信頼区間と n。目盛りはパネルごと。本実験 ({data})，"
        "写真 (Stanford Cars，64 px)，同じ規則を適用した論文の値。"
        "青: 支持，橙: 反証，灰: 判定できない，白抜き: 1試行のみで区間なし。",
    ),
    "table1": (
        "Accuracy of node 1 by pattern of pre-trained nodes ({data}, n = {n}): runs, means and 95 % intervals, "
        "beside the paper's means and standard deviations.",
        "事前学習ノードの組合せごとの対象ノードの精度 ({data}，n = {n})。各試行，平均と 95 % 信頼区間。"
        "隣は論文の平均と標準偏差。",
    ),
    "learning_curves": (
        "Validation accuracy of node 1 by epoch ({data}): mean and range over {n} seeds.",
        "エポックごとの対象ノードの検証精度 ({data})。{n}個のシードの平均と範囲。",
    ),
    "main_effects": (
        "Effect of pre-training one node on node 1, averaged over the states of the others ({data}, n = {n}), "
        "with 95 % intervals.",
        "各ノードの事前学習が対象ノードに与える効果 (他のノードの状態について平均，{data}，n = {n}) と 95 % 信頼区間。",
    ),
    "figure2_best_graphs": (
        "The best of {graphs} graphs of each condition, trained again with fresh seeds; the target is circled in red.",
        "各条件の{graphs}個のグラフのうち最良のもの (新しいシードで再学習)。対象ノードは赤い円で囲む。",
    ),
    "search_curves": (
        "Every searched graph ({graphs} a condition): accuracy of node 1 by epoch, coloured by node 1's start. "
        "Thick: also trained by the live search.",
        "探索した全グラフ (各条件{graphs}個) の，エポックごとの対象ノードの精度。色は対象ノードの初期値。"
        "太線は，本実験の探索でも学習したグラフ。",
    ),
    "synthcars": (
        "The embedded task: one image of each of its twenty models of cars, drawn by formula.",
        "組み込みの課題。数式で描かれた20車種の画像を1枚ずつ。",
    ),
    "fractaldb": (
        "FractalDB-1k: one image each of sixteen of its thousand categories, drawn twice as bright as they are.",
        "FractalDB-1k。1,000カテゴリのうち16カテゴリの画像を1枚ずつ (明るさは2倍)。",
    ),
    "sources": (
        "What each formula adds to a network alone, over random numbers: gain in points, paired by seed, with 95 % "
        "intervals, on drawn cars and on photographs. Five million views each.",
        "各数式の事前学習が，乱数の初期値に対して単独のネットワークに加える利得 (ポイント，シードで対)，95 % 信頼区間。"
        "描いた車と写真。それぞれ500万画像。",
    ),
    "search_optimism": (
        "Optimism: the best value of each search less that of the same graph with fresh seeds, in points, on the split "
        "of the selection; every seed, mean and 95 % interval. Intervals far wider than the runs scatter are cut.",
        "楽観: 各探索の最良値から，同じグラフを新しいシードで学習した値を引いた差 (ポイント，選択に用いた分割)。"
        "各シード，平均と 95 % 信頼区間。試行のばらつきよりずっと広い区間は枠で切る。",
    ),
}


def caption(
    name: str, records: Sequence[Mapping], summaries: Mapping[str, Mapping], lang: str = "en"
) -> str:
    """The caption of a figure of `draw_all`, with the numbers of these records; empty for an unknown figure."""
    texts = CAPTIONS.get(name, ("", ""))
    counts = sorted(set(Counter(record["label"] for record in records).values()))
    seeds = (
        f"{counts[0]}–{counts[-1]}"
        if len(counts) > 1
        else len({record["seed"] for record in records})
    )
    graphs = "/".join(sorted({str(len(summary["trials"])) for summary in summaries.values()}))
    data = sorted({r["data"]["name"] for r in (*records, *summaries.values()) if "data" in r})
    return texts[lang == "ja"].format(n=seeds, data=", ".join(data), graphs=graphs)
