"""Captions and alternative texts of the figures, from the records, in English and Japanese."""

from collections.abc import Mapping, Sequence

__all__ = ["caption"]

# Per figure: the caption in English and in Japanese; {n}, {data} and {graphs} are filled in from the records.
CAPTIONS = {
    "figure1_method": (
        "The method. Step 1 trains single models, Step 2 puts their weights on the nodes, Step 3 searches the graph.",
        "手法。ステップ1で単一モデルを事前学習し、ステップ2でノードを初期化し、ステップ3でグラフを探索する。",
    ),
    "gates": (
        "The four gates: output against training progress, and against the share of a batch the source knows.",
        "4つのゲート関数。学習の進行度と、知識源が正解した割合に対する出力。",
    ),
    "forest": (
        "Primary contrasts of the claims C0-C5 in points, with 95 % intervals and n, each panel on its own scale: this "
        "run ({data}), photographs (Stanford Cars, 64 px), and the paper's own numbers by the same rule. Blue: "
        "supported, red: contradicted, grey: not resolved.",
        "主張C0~C5の主対比(ポイント)、95%区間とn。目盛りはパネルごと。この試行({data})、写真(Stanford Cars、64 px)、"
        "同じ規則を適用した論文の値。青:支持、赤:反証、灰:判定できない。",
    ),
    "table1": (
        "Accuracy of node 1 by pattern of pre-trained nodes ({data}, n = {n}): runs, means and 95 % intervals, "
        "beside the paper's means and standard deviations.",
        "事前学習ノードの組合せごとの対象ノードの精度({data}、n = {n})。各試行、平均と95%区間。右は論文の値。",
    ),
    "learning_curves": (
        "Validation accuracy of node 1 by epoch ({data}): mean and range over {n} seeds.",
        "エポックごとの対象ノードの検証精度({data})。{n}個のシードの平均と範囲。",
    ),
    "main_effects": (
        "Effect of pre-training one node on node 1, averaged over the states of the others ({data}, n = {n}), "
        "with 95 % intervals.",
        "各ノードの事前学習が対象ノードに与える主効果({data}、n = {n})と95%区間。",
    ),
    "figure2_best_graphs": (
        "The best of {graphs} graphs of each condition, trained again with fresh seeds; the target is circled in red.",
        "各条件の{graphs}個のグラフのうち最良のもの(新しいシードで再学習)。対象ノードは赤い丸。",
    ),
    "search_curves": (
        "Every searched graph ({graphs} a condition): accuracy of node 1 by epoch, coloured by node 1's start. "
        "Thick: also trained by the live search.",
        "探索した全グラフ(各条件{graphs}個)のエポックごとの精度。色は対象ノードの初期値。太線はこの試行の探索も学習したもの。",
    ),
    "synthcars": (
        "The embedded task: one image of each of its twenty models of cars, drawn by formula.",
        "組み込みの課題。数式で描かれた20車種の画像を1枚ずつ。",
    ),
    "fractaldb": (
        "FractalDB-1k: one image each of sixteen of its thousand categories, drawn twice as bright as they are.",
        "FractalDB-1k。1000カテゴリのうち16カテゴリの画像(明るさは2倍)。",
    ),
    "search_optimism": (
        "The best value of each search beside the same graph with fresh seeds, on the split of the selection.",
        "各探索の最良値と、同じグラフを新しいシードで学習した値(選択に用いた分割)。",
    ),
}


def caption(name: str, records: Sequence[Mapping], summaries: Mapping[str, Mapping], lang: str = "en") -> str:
    """The caption of a figure of `draw_all`, with the numbers of these records; empty for an unknown figure."""
    texts = CAPTIONS.get(name, ("", ""))
    seeds = len({record["seed"] for record in records})
    graphs = "/".join(sorted({str(len(summary["trials"])) for summary in summaries.values()}))
    data = sorted({r["data"]["name"] for r in (*records, *summaries.values()) if "data" in r})
    return texts[lang == "ja"].format(n=seeds, data=", ".join(data), graphs=graphs)
