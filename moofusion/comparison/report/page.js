// Controls and state of the page.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const state = { problem: 0, split: "search", view: "pair", axes: [0, 1], cost: "evaluations", hidden: new Set(), weights: [], opened: new Set() };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const section = () => DATA.sections[state.problem];
const shownAlgorithms = () => section().algorithms.filter((a) => !state.hidden.has(a.algorithm));
const shownModels = () => inOrder(shownAlgorithms().flatMap((a) => a.models));
const recommendedModel = () => choose(shownModels(), state.weights);

function options(select, labels, chosen) {
  select.replaceChildren(...labels.map((label, i) => make("option", { value: String(i), selected: i === chosen }, label)));
}

function choice(type, name, label, checked, onchange, swatch) {
  const input = make("input", { type, name, checked });
  input.addEventListener("change", () => onchange(input.checked));
  const parts = swatch ? [input, swatch, label] : [input, label];
  return make("label", {}, ...parts);
}

function openProblem(index) {
  state.problem = index;
  const s = section(), M = s.tasks.length;
  state.split = s.splits[s.splits.length - 1];
  state.axes = [0, Math.min(1, M - 1)];
  state.view = M > 3 ? "parallel" : "pair";
  state.hidden = new Set();
  state.weights = s.tasks.map(() => 0.5);
  document.querySelectorAll("[data-problem]").forEach((node) => { node.hidden = Number(node.dataset.problem) !== index; });
  el("held-out").hidden = s.splits.length > 1;
  el("view").value = state.view;
  el("view-picker").hidden = M < 3;
  const labels = s.tasks.map(axisTitle);
  options(el("x-axis"), labels, state.axes[0]);
  options(el("y-axis"), labels, state.axes[1]);
  const splits = el("splits");
  splits.hidden = s.splits.length < 2;
  splits.replaceChildren(splits.firstElementChild, ...s.splits.map((split) =>
    choice("radio", "split", split, split === state.split, () => { state.split = split; redraw(); })));
  const algorithms = el("algorithms");
  algorithms.replaceChildren(algorithms.firstElementChild, ...s.algorithms.map((a) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colorOf(a);
    return choice("checkbox", "algorithm", a.name, true, (on) => {
      if (on) state.hidden.delete(a.algorithm); else state.hidden.add(a.algorithm);
      redraw();
    }, swatch);
  }));
  makeSliders(s);
  redraw();
}

function makeSliders(s) {
  el("sliders").replaceChildren(...s.tasks.map((task, j) => {
    const id = `weight-${j}`;
    const input = make("input", { type: "range", id, min: 0, max: 100, step: 1, value: 50 });
    const output = make("output", { htmlFor: id });
    input.addEventListener("input", () => { state.weights[j] = Number(input.value) / 100; showWeights(); redrawChoice(); });
    return make("div", { className: "slider" }, make("label", { htmlFor: id }, task.name), output, input);
  }));
  showWeights();
}

function showWeights() {
  const total = state.weights.reduce((a, b) => a + b, 0);
  el("sliders").querySelectorAll("output").forEach((output, j) => {
    output.value = total > 0 ? `${Math.round((100 * state.weights[j]) / total)} %` : "-";
    output.nextElementSibling.setAttribute("aria-valuetext", output.value);
  });
}

function modelTable(s, model) {
  const experts = Object.fromEntries(s.references.filter((r) => r.kind === "expert").map((r) => [r.name, r]));
  const base = s.references.find((r) => r.kind === "base");
  const splits = [...s.splits].reverse();
  const head = ["", ...splits, `base, ${state.split}`, `own expert, ${state.split}`];
  const rows = s.tasks.map((task, j) => {
    const own = experts[task.name];
    const cells = [...splits.map((split) => model[split][j]), base[state.split][j], own ? own[state.split][j] : null];
    return make("tr", {}, make("th", { scope: "row" }, `${task.name} ${task.metric}`),
      ...cells.map((v) => make("td", {}, v === null ? "-" : shownValue(task, v))));
  });
  return make("table", { className: "model" }, make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col" }, h)))),
    make("tbody", {}, ...rows));
}

function coefficientList(s, model) {
  if (model.folder) return make("p", { className: "small" }, `No merge: the fine-tuned checkpoint ${model.folder}.`);
  const most = Math.max(...model.x.map((v, i) => (s.variables[i] in model.parameters ? 0 : Math.abs(v))), 1e-12);
  const rows = model.x.flatMap((v, i) => {
    const parameter = model.parameters[s.variables[i]];
    const bar = make("span", { className: "bar" });
    bar.style.width = parameter === undefined ? `${(100 * Math.abs(v)) / most}%` : "0";
    return [make("span", {}, s.variables[i]), bar, make("span", {}, parameter ?? String(v))];
  });
  return make("details", { open: model.x.length <= 12 }, make("summary", {}, "Coefficients"),
    make("div", { className: "coefficients" }, ...rows));
}

function commandBox(id, command) {
  const copy = make("button", { type: "button" }, "Copy command");
  copy.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(command); copy.textContent = "Copied"; } catch { copy.textContent = "Select the text and copy it"; }
    setTimeout(() => { copy.textContent = "Copy command"; }, 2000);
  });
  return [make("pre", { id, tabIndex: 0 }, command), copy];
}

function coefficientTable(router) {
  const cell = (v) => make("td", {}, v.toFixed(4));
  const head = ["router", ...router.experts].map((h) => make("th", { scope: "col" }, h));
  const rows = routerRows(router, state.weights).map((row, g) =>
    make("tr", {}, make("th", { scope: "row" }, router.names[g]), ...row.map(cell)));
  const fixed = make("tr", {}, make("th", { scope: "row" }, "all else"), ...router.static.map(cell));
  const details = make("details", { open: state.opened.has(router.label) }, make("summary", {}, "Its coefficients"),
    make("div", { className: "scroll" }, make("table", { className: "coefficients-of-router" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows, fixed))));
  details.addEventListener("toggle", () => { if (details.open) state.opened.add(router.label); else state.opened.delete(router.label); });
  return details;
}

function showRouters() {
  const box = el("routers"), s = section();
  const routers = s.routers.filter((r) => !state.hidden.has(r.algorithm));
  box.hidden = !routers.length || !state.weights.some((w) => w > 0);
  if (box.hidden) { box.replaceChildren(); return; }
  box.replaceChildren(make("h3", {}, "Trained routers"),
    make("p", { className: "small" }, "A router makes a model of its own for these weights, also where none was measured."),
    ...routers.flatMap((router, i) => {
      const near = nearestPoint(router, state.weights);
      const measured = near ? [
        make("p", { className: "small" }, `Measured of the nearest proposal, whose coefficients differ by at most ${near.off.toPrecision(2)}:`),
        make("div", { className: "scroll" }, modelTable(s, near.point))] : [];
      return [make("h4", {}, router.label), ...measured, coefficientTable(router),
        ...commandBox(`router-command-${i}`, routerCommand(router, s.tasks.map((t) => t.name), state.weights))];
    }));
}

function showRecommended(model) {
  const box = el("recommended"), s = section();
  el("recommended-label").textContent = model ? model.label : "none";
  if (!model) {
    const reason = shownAlgorithms().some((a) => a.models.length) ? "Give at least one objective some weight." : "No model is shown: choose an algorithm.";
    box.replaceChildren(make("p", {}, reason));
    return;
  }
  const command = exportCommand(s, state.weights, shownAlgorithms());
  box.replaceChildren(
    make("div", { className: "scroll" }, modelTable(s, model)),
    coefficientList(s, model),
    make("p", { className: "small" }, `Cost ${model.cost.toLocaleString("en")} units. Smallest weighted sum of normalized search values among the models shown.`),
    ...commandBox("command", command));
}

function listModels() {
  const details = el("models"), s = section();
  if (!details.open) return;
  const models = shownModels();
  const splits = [...s.splits].reverse();
  const heads = ["model", ...s.tasks.flatMap((t) => splits.map((split) => `${t.name}, ${split}`)), "cost"];
  const rows = models.map((m) => make("tr", {}, make("th", { scope: "row" }, m.label),
    ...s.tasks.flatMap((t, j) => splits.map((split) => make("td", {}, shownValue(t, m[split][j])))), make("td", {}, m.cost.toLocaleString("en"))));
  details.lastElementChild.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows)));
}

let waiting = 0;

function redrawChoice() {
  showRecommended(recommendedModel());
  showRouters();
  // A slider moves faster than figures are drawn.
  if (window.Plotly && !waiting) {
    waiting = requestAnimationFrame(() => {
      waiting = 0;
      drawFront(section(), state, shownAlgorithms(), recommendedModel());
    });
  }
}

function redraw() {
  const wide = section().tasks.length > 1 && state.view === "pair" && section().tasks.length > 2;
  document.querySelectorAll(".axis-picker").forEach((node) => { node.hidden = !wide; });
  redrawChoice();
  listModels();
  if (window.Plotly) drawProgress(section(), state.cost, shownAlgorithms());
}

async function loadPlotly() {
  const packed = Uint8Array.from(atob(el("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = await new Response(stream).text();
  document.head.append(make("script", { textContent: code }));
}

el("problem").addEventListener("change", (event) => openProblem(Number(event.target.value)));
el("view").addEventListener("change", (event) => { state.view = event.target.value; Plotly.purge("front-chart"); redraw(); });
["x-axis", "y-axis"].forEach((id, k) => el(id).addEventListener("change", (event) => { state.axes[k] = Number(event.target.value); redraw(); }));
el("cost").addEventListener("change", (event) => { state.cost = event.target.value; redraw(); });
el("models").addEventListener("toggle", listModels);
el("equal").addEventListener("click", () => { state.weights = state.weights.map(() => 0.5); makeSliders(section()); redrawChoice(); });
dark.addEventListener("change", () => openProblem(state.problem));

openProblem(0);
loadPlotly().then(redraw).catch((error) => {
  el("failure").hidden = false;
  el("failure").textContent = `This browser cannot show the interactive figures (${error.message}); tables and the choice by preference work without them.`;
}).finally(() => { document.body.dataset.ready = "yes"; });
