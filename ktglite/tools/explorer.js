// What can be said of a graph of three nodes; the same words as in explorer.py, and a test compares both.
// A graph: {starts: [a, b, c], gates: [[..], [..], [..]], weight}, gates[t][s] on the edge s -> t, the label's at [t][t].

const range = (n) => [...Array(n).keys()];
const sources = (graph, t) => range(graph.gates.length).filter((s) => graph.gates[t][s] !== "cutoff");

function reaching(graph) {
  const reached = new Set([0]), frontier = [0];
  while (frontier.length) {
    for (const s of sources(graph, frontier.pop())) {
      if (!reached.has(s)) { reached.add(s); frontier.push(s); }
    }
  }
  return [...reached].sort();
}

function formulas(graph) {
  const front = graph.weight === 1 ? "" : graph.weight === 0.5 ? "\\frac{1}{2}\\," : `${graph.weight}\\,`;
  const lines = [];
  for (const t of reaching(graph)) {
    const terms = sources(graph, t).sort((a, b) => (a !== t) - (b !== t) || a - b).map((s) => {
      const label = s === t, gate = graph.gates[t][s];
      const loss = label ? `\\mathrm{CE}(p_${t + 1}, y)` : `\\mathrm{KL}(p_${s + 1}\\,\\|\\,p_${t + 1})`;
      const weigh = gate === "linear" ? "\\frac{k}{K}\\," : gate === "correct" && !label ? `[\\hat y_${s + 1} = y]\\,` : "";
      return (label ? "" : front + "T^2\\,") + weigh + loss;
    });
    if (terms.length) lines.push(`L_${t + 1} = \\mathrm{mean}\\left[\\,${terms.join(" + ")}\\,\\right]`);
  }
  return lines;
}

function names(nodes) {
  const numbers = nodes.map((i) => i + 1);
  if (numbers.length === 1) return `Node ${numbers[0]}`;
  return `Nodes ${numbers.slice(0, -1).join(", ")} and ${numbers.at(-1)}`;
}

function influence(graph) {
  const heard = reaching(graph).filter((i) => i > 0);
  const deaf = range(graph.gates.length).filter((i) => i > 0 && !heard.includes(i));
  const far = heard.filter((i) => graph.gates[0][i] === "cutoff");
  if (!heard.length) return "No other node can influence node 1" + (deaf.length ? ", and none is trained." : ".");
  const said = [`${names(heard)} can influence node 1.`];
  if (far.length) said.push(`${names(far)} ${far.length === 1 ? "does" : "do"} so only by way of others.`);
  if (deaf.length) said.push(`${names(deaf)} cannot, and ${deaf.length === 1 ? "is" : "are"} not trained.`);
  for (const i of heard.filter((i) => !sources(graph, i).length)) {
    const empty = graph.starts[i] === "scratch" ? "it starts from random numbers and has nothing to teach"
      : "its head is random, so it has nothing to teach";
    said.push(`Node ${i + 1} is a fixed teacher, since every edge into it is cut: ${empty}.`);
  }
  return said.join(" ");
}

// The gates between the nodes that can influence node 1; a label is always right, so Correct is Through there.
function effective(graph, order) {
  return order.map((t) => order.map((s) => (s === t && graph.gates[t][s] === "correct" ? "through" : graph.gates[t][s])));
}

function knownMethod(graph) {
  const kept = reaching(graph), n = kept.length, gates = effective(graph, kept);
  const all = (test) => gates.every((row, t) => row.every((gate, s) => gate === (test(t, s) ? "through" : "cutoff")));
  if (n === 1 && all(() => true)) return "independent training: node 1 learns alone";
  if (all((t) => t === 0) && n === 2 && graph.weight === 1) {
    return "knowledge distillation (Hinton et al., 2015): a student and a fixed teacher";
  }
  const how = { 1: "summed", 0.5: "averaged" }[graph.weight];
  if (all((t) => t === 0) && n === 3 && how) return `knowledge distillation from 2 fixed teachers, ${how}`;
  if (!all(() => true) || n === 1) return "";
  if (n === 2 && graph.weight === 1) return "Deep Mutual Learning (Zhang et al., 2018); for two nodes, all Through is the same";
  if (n === 3 && graph.weight === 1) {
    const pre = kept.filter((i) => graph.starts[i] !== "scratch");
    const start = pre.length ? `${names(pre).replace("N", "n")} pre-trained` : "no node pre-trained";
    return `all Through, the graph of the paper's Table 1, ${start}`;
  }
  if (n === 3 && graph.weight === 0.5) {
    return "Deep Mutual Learning (Zhang et al., 2018): all Through, averaged over the other nodes";
  }
  return "";
}

function verdict(graph) {
  const method = knownMethod(graph);
  return method ? `This is ${method}.` : "It matches no published method that the kit knows.";
}

// In how many starts and gates two graphs differ, as far as node 1 can tell; auxiliaries may be swapped.
function distance(a, b) {
  const kept = reaching(a), others = reaching(b);
  if (a.weight !== b.weight && kept.length > 1) return Infinity;
  const apart = (order) => {
    let found = 0;
    const of = (graph, kept, i) => (kept.includes(i) ? graph.starts[i] : "none");
    for (const i of range(3)) found += of(a, kept, i) !== of(b, others, order[i]);
    for (const t of range(3)) for (const s of range(3)) {
      const gate = (graph, kept, t, s) => (!kept.includes(t) ? "cutoff"
        : s === t && graph.gates[t][s] === "correct" ? "through" : graph.gates[t][s]);
      found += gate(a, kept, t, s) !== gate(b, others, order[t], order[s]);
    }
    return found;
  };
  return Math.min(apart([0, 1, 2]), apart([0, 2, 1]));
}

if (typeof module !== "undefined") module.exports = { reaching, formulas, influence, verdict, distance };
