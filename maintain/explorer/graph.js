// What can be said of a graph of three nodes, in both languages. A graph is {starts: [a, b, c],
// gates: [[..], [..], [..]], weight}, gates[t][s] on the edge s -> t, the label's at [t][t].

const range = (n) => [...Array(n).keys()];
const sources = (graph, t) => range(3).filter((s) => graph.gates[t][s] !== "cutoff");

// The page's address of a graph, 012-TXX-TTX-XXT-1: the index of every node's start in `starts`, a
// letter for every gate, the weight. `parse` gives null for a text that is none.
const LETTERS = { T: "through", L: "linear", C: "correct", X: "cutoff" };
const address = (graph, starts) => [graph.starts.map((start) => starts.indexOf(start)).join(""),
  ...graph.gates.map((row) => row.map((gate) => Object.keys(LETTERS).find((l) => LETTERS[l] === gate)).join("")),
  graph.weight].join("-");

function parse(text, starts) {
  const found = /^(\d{3})-([TLCX]{3})-([TLCX]{3})-([TLCX]{3})-(1|0\.5)$/.exec(text);
  if (!found || [...found[1]].some((i) => i >= starts.length)) return null;
  return { starts: [...found[1]].map((i) => starts[i]),
    gates: found.slice(2, 5).map((row) => [...row].map((l) => LETTERS[l])), weight: Number(found[5]) };
}

// Node 1 and every node with an open path to it, as `Graph.reaching_target`.
function reaching(graph) {
  const reached = new Set([0]);
  const frontier = [0];
  while (frontier.length) {
    for (const s of sources(graph, frontier.pop())) {
      if (!reached.has(s)) {
        reached.add(s);
        frontier.push(s);
      }
    }
  }
  return [...reached].sort();
}

// The gate on an edge; Correct on a label edge lets everything through.
const effective = (graph, t, s) => (s === t && graph.gates[t][s] === "correct" ? "through" : graph.gates[t][s]);

const WORDS = {
  en: {
    node: (i) => `node ${i + 1}`, label: "label", none: "absent",
    and: (names) => (names.length < 2 ? names[0] : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`),
    alone: "No other node can influence node 1.",
    reach: (who) => `${who} can influence node 1.`,
    indirect: (who) => `${who} can do so only through other nodes.`,
    silent: (who) => `${who} cannot, and is not trained.`,
    fixed: (who) => `${who} is a fixed teacher: every edge into it is cut.`,
    noise: "It starts from random numbers, so it teaches noise.",
    head: "It was trained on other classes: its head is random, so it teaches noise.",
    invalid: "This is not a graph yet: node 1 has no incoming edge and would never learn. Open an edge into node 1.",
    known: (name) => `This is ${name}.`, unknown: "It matches no published method that the kit knows.",
    methods: {
      independent: "independent training: node 1 learns alone",
      distillation: "knowledge distillation (Hinton et al., 2015): a student and a fixed teacher",
      teachers: "knowledge distillation from two fixed teachers",
      mutual: "Deep Mutual Learning (Zhang et al., 2018)", table1: "all Through, the graph of the paper's Table 1",
    },
    differs: (what, ours, theirs) => `${what} (${theirs}, not ${ours})`,
    losses: "transfer losses", weighed: (weight) => (weight === 1 ? "summed" : "averaged"),
  },
  ja: {
    node: (i) => `ノード${i + 1}`, label: "ラベル", none: "なし",
    and: (names) => names.join("と"),
    alone: "ノード1に影響するノードは他にありません。",
    reach: (who) => `${who}はノード1に影響します。`,
    indirect: (who) => `${who}は他のノードを通してのみ影響します。`,
    silent: (who) => `${who}は影響せず，学習されません。`,
    fixed: (who) => `${who}は固定された教師です (入るエッジがすべて Cutoff)。`,
    noise: "ランダム初期化のままなので，ノイズしか伝えません。",
    head: "別のクラスで学習したので出力層はランダム初期化のままで，ノイズしか伝えません。",
    invalid: "まだグラフではありません。ノード1に入るエッジがなく，学習できません。ノード1へのエッジを開いてください。",
    known: (name) => `これは${name}です。`, unknown: "このキットが知る既存の手法とは一致しません。",
    methods: {
      independent: "単独学習 (ノード1だけで学習)",
      distillation: "知識蒸留 (Hinton ら，2015): 生徒と固定された教師",
      teachers: "2つの固定された教師からの知識蒸留",
      mutual: "相互学習 Deep Mutual Learning (Zhang ら，2018)", table1: "すべて Through のグラフ (論文の表1)",
    },
    differs: (what, ours, theirs) => `${what} (${ours} でなく ${theirs})`,
    losses: "転移損失", weighed: (weight) => (weight === 1 ? "和" : "平均"),
  },
};

function influence(graph, lang) {
  const words = WORDS[lang];
  const names = (nodes) => {
    const text = words.and(nodes.map(words.node));
    return text[0].toUpperCase() + text.slice(1);
  };
  const influential = reaching(graph).filter((i) => i > 0);
  const silent = [1, 2].filter((i) => !influential.includes(i));
  const indirect = influential.filter((i) => graph.gates[0][i] === "cutoff");
  const sentences = [influential.length ? words.reach(names(influential)) : words.alone];
  if (indirect.length) sentences.push(words.indirect(names(indirect)));
  for (const i of silent) sentences.push(words.silent(names([i])));
  for (const i of influential.filter((i) => !sources(graph, i).length)) {
    sentences.push(words.fixed(names([i])));
    if (graph.starts[i] !== "teacher") sentences.push(graph.starts[i] === "scratch" ? words.noise : words.head);
  }
  return sentences.join(lang === "en" ? " " : "");
}

// The published method that a graph is, or "".
function knownMethod(graph) {
  const kept = reaching(graph);
  const is = (test) => kept.every((t) => kept.every((s) => effective(graph, t, s) === (test(t, s) ? "through" : "cutoff")));
  if (kept.length === 1) return is(() => true) ? "independent" : "";
  if (is((t) => t === 0)) return kept.length === 2 ? "distillation" : "teachers";
  if (!is(() => true)) return "";
  return graph.weight === 1 && kept.length === 3 ? "table1" : "mutual";
}

// Kinds of graphs to begin with. No teacher of noise is one.
const KINDS = {
  independent: (graph) => knownMethod(graph) === "independent",
  distillation: (graph) => knownMethod(graph) === "distillation" && reaching(graph).every((i) => !i || graph.starts[i] === "teacher"),
  mutual: (graph) => knownMethod(graph) === "mutual",
  table1: (graph) => knownMethod(graph) === "table1",
  indirect: (graph) => graph.gates[0][0] !== "cutoff" && reaching(graph).some((i) => i && graph.gates[0][i] === "cutoff"),
};

function verdict(graph, lang) {
  const method = knownMethod(graph);
  return method ? WORDS[lang].known(WORDS[lang].methods[method]) : WORDS[lang].unknown;
}

// The loss of every node that is trained, as HTML.
function formulas(graph) {
  const gate = { through: "", linear: '<span class="frac"><i>k</i><i>K</i></span> ' };
  const front = graph.weight === 1 ? "" : "½ ";
  return reaching(graph).filter((t) => sources(graph, t).length).map((t) => {
    const ordered = sources(graph, t).sort((a, b) => (a !== t) - (b !== t) || a - b);
    const terms = ordered.map((s) => {
      const name = effective(graph, t, s);
      if (s === t) return `${gate[name]}CE(<i>p</i><sub>${t + 1}</sub>, <i>y</i>)`;
      const right = name === "correct" ? `[<i>ŷ</i><sub>${s + 1}</sub> = <i>y</i>] ` : gate[name];
      return `${front}<i>T</i>² ${right}KL(<i>p</i><sub>${s + 1}</sub> ‖ <i>p</i><sub>${t + 1}</sub>)`;
    });
    return `<i>L</i><sub>${t + 1}</sub> = mean[ ${terms.join(" + ")} ]`;
  });
}

// In what two graphs differ, in words, as far as node 1 can tell; auxiliary nodes may be swapped.
// Nothing where they are equal in effect, as by `Graph.canonical`.
function differences(graph, other, lang, title) {
  const words = WORDS[lang];
  const kept = reaching(graph);
  const others = reaching(other);
  const compare = (order) => {
    const found = [];
    const add = (what, ours, theirs) => ours !== theirs && found.push(words.differs(what, ours, theirs));
    for (const i of range(3)) {
      add(words.node(i), kept.includes(i) ? title(graph.starts[i]) : words.none,
        others.includes(order[i]) ? title(other.starts[order[i]]) : words.none);
    }
    for (const t of range(3)) for (const s of range(3)) {
      add(`${s === t ? words.label : s + 1}\u00a0→\u00a0${t + 1}`, kept.includes(t) ? effective(graph, t, s) : "cutoff",
        others.includes(order[t]) ? effective(other, order[t], order[s]) : "cutoff");
    }
    if (kept.length > 1) add(words.losses, words.weighed(graph.weight), words.weighed(other.weight));
    return found;
  };
  return [compare([0, 1, 2]), compare([0, 2, 1])].sort((a, b) => a.length - b.length)[0];
}

if (typeof module !== "undefined") {
  module.exports = { KINDS, address, parse, reaching, formulas, influence, verdict, differences };
}
