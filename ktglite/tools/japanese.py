"""Figures in Japanese: their words are replaced after drawing, so that no plotting function knows
of it.

Names of networks, sources, gates and methods stay as the papers write them.
"""

import logging
import re

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from ktglite.figures import use_style

__all__ = ["translate_figure"]

PHRASES = {  # patterns, the longer ones first where one contains another
    r"no pre-training": "事前学習なし",
    r"(\d+) graphs, (\d+) to the end": r"\1 グラフ，うち完走 \2",
    r"no trial was completed": "完走した試行なし",
    r"stopped": "打ち切り",
    r"not resolved at this n": "この n では判定できない",
    r"one run, no interval": "1試行，区間なし",
    r"supported": "支持",
    r"contradicted": "反証",
    r"search,": "探索,",
    r"mixed": "混在",
    r"against (\w+)": r"対 \1",
    r"graph less one alone,": "グラフ − 単独,",
    r"each auxiliary,": "補助ノード1つ,",
    r"all nodes,": "全ノード,",
    r"photographs": "写真",
    r"quantised weights": "量子化した重み",
    r"RN18 at 1/(\d+) of its width": r"RN18 の幅の 1/\1",
    r"node 1 scratch": "ノード1は事前学習なし",
    r"node 1 pre-trained": "ノード1は事前学習あり",
    r"scratch": "事前学習なし",
    r"graphs that pass \(%\)\ndashed: that end in the better half": (
        "通過するグラフ (%)\n破線: 最終的に上位半分に入る割合"
    ),
    r"first rung": "最初の rung",
    r"node 1, test, fresh seeds: mean ± std; gain with 95 % interval": (
        "ノード1，テスト，新しいシード: 平均 ± 標準偏差; 差は95 %信頼区間つき"
    ),
    r"over \(a\):": "(a) との差:",
    r"pre-train single models": "単体モデルの事前学習",
    r"initialise the nodes": "ノードの初期化",
    r"search the graph": "グラフの探索",
    r"each on a pre-training set": "それぞれの事前学習データセットで",
    r"a choice for every node": "ノードごとに選択",
    r"inits and gates, on the\nfine-tuning set": "初期値とゲートを，\n転移先データセットで",
    r"random\nnumbers": "乱数",
    r"no\ntraining": "学習\nなし",
    r"\ntarget\b|\(target\)": "(対象)",
    r"mean, 95 % interval": "平均，95 %信頼区間",
    r"paper: mean ± std": "論文: 平均 ± 標準偏差",
    r"this run": "本実験",
    r"paper": "論文",
    r"stand-in": "代替データ",
    r"pre-trained\nnodes": "事前学習\nノード",
    r"pre-trained: nodes": "事前学習したノード:",
    r"node that is pre-trained": "事前学習したノード",
    r"pre-trained nodes?": "事前学習したノード",
    r"effect on node 1 \(points\)": "ノード1への効果 (ポイント)",
    r"points": "ポイント",
    r"validation accuracy of node 1": "ノード1の検証精度",
    r"val accuracy of node 1": "ノード1の検証精度",
    r"test accuracy of node 1": "ノード1のテスト精度",
    r"accuracy of node 1": "ノード1の精度",
    r"best value in the search": "探索中の最良値",
    r"fresh seed": "新しいシード",
    r"one seed": "1シード",
    r"half of the batch known to the source": "送り手がバッチの半分に正解",
    r"half of the training done": "学習の半分が終了",
    r"share of the batch known to the source": "送り手が正解したサンプルの割合",
    r"output, every loss 1": "出力 (全損失が1のとき)",
    r"progress k/K": "学習の進行 k/K",
    r"training accuracy": "学習精度",
    r"training loss": "学習損失",
    r"images seen \(thousands\)": "学習した画像数 (千枚)",
    r"loss \(right\)": "損失 (右軸)",
    r"mean gated loss": "ゲート通過後の平均損失",
    r"edges between nodes": "ノード間のエッジ",
    r"label edges": "ラベルのエッジ",
    r"validation \(%\)": "検証 (%)",
    r"accuracy": "精度",
    r"guessing": "当て推量",
    r"all through": "全て Through",
    r"independent": "独立",
    r"random (\d+)": r"ランダム \1",
    r"top (\d+)": r"上位 \1",
    r"epoch": "エポック",
    r"trials": "試行数",
    r"train": "学習",
    r"node (\d+)": r"ノード\1",
    r"label": "ラベル",
}


def use_font() -> None:
    """The kit's style with a font that has Japanese. Raises ValueError where the package with it is missing."""
    try:
        import matplotlib_fontja  # noqa: F401  registers IPAexGothic
    except ImportError:
        raise ValueError(
            "lang is 'ja': it needs a Japanese font, `pip install 'ktglite[ja]'`"
        ) from None
    use_style()
    plt.rcParams["font.family"] = ["IPAexGothic", "DejaVu Sans"]  # the second for ✓ and the like
    logging.getLogger("matplotlib.font_manager").setLevel(
        logging.ERROR
    )  # bold is asked for, and there is one weight


def translate(text: str) -> str:
    """A text of a figure with every known phrase in Japanese."""
    for english, japanese in PHRASES.items():
        text = re.sub(rf"(?<![A-Za-z]){english}(?![A-Za-z])", japanese, text)
    return text


def translate_figure(figure: Figure) -> Figure:
    """The same figure with its words in Japanese; call `use_font` before it is drawn."""
    figure.canvas.draw()  # ticks get their labels
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            words = [label.get_text() for label in axis.get_ticklabels()]
            if [translate(word) for word in words] != words:
                axis.set_ticks(axis.get_ticklocs(), labels=[translate(word) for word in words])
    for text in figure.findobj(Text):
        text.set_text(translate(text.get_text()))
    return figure
