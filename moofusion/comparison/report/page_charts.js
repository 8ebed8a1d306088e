// The figures: fronts in two objectives or in parallel coordinates, and anytime hypervolume.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colorOf = (algorithm) => (dark.matches ? algorithm.dark : algorithm.color);
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// As Python rounds: a tie goes to the even digit. It is one only if the binary number is exact.
function fixed(value, digits) {
  const scaled = value * 10 ** digits, low = Math.floor(scaled);
  const tie = scaled - low === 0.5 && Number.isInteger(value * 2 ** (digits + 1));
  return (tie ? (low + Math.abs(low % 2)) / 10 ** digits : value).toFixed(digits);
}

function shownValue(task, value) {
  return task.percent ? `${fixed(100 * value, 1)} %` : fixed(value, 4);
}

function axisTitle(task) {
  const unit = task.percent ? " (%)" : "";
  return `${task.name} ${task.metric}${unit}${task.direction === "max" ? "" : ", less is better"}`;
}

function shortNumber(value) {
  return Number(value.toPrecision(4)).toString();
}

function hoverText(section, model, split) {
  const lines = [`<b>${escaped(model.label)}</b>`];
  section.tasks.forEach((task, j) => {
    const values = section.splits.map((s) => `${s} ${shownValue(task, model[s][j])}`);
    lines.push(`${escaped(task.name)} ${escaped(task.metric)}: ${values.reverse().join(", ")}`);
  });
  const most = 12;
  const parts = model.x.slice(0, most).map((v, i) => `${escaped(section.variables[i])} ${escaped(model.parameters[section.variables[i]] ?? String(v))}`);
  if (model.x.length > most) parts.push(`${model.x.length - most} more`);
  for (let i = 0; i < parts.length; i += 4) {
    lines.push((i ? "" : "coefficients: ") + parts.slice(i, i + 4).join(", "));
  }
  lines.push(`cost ${model.cost.toLocaleString("en")}`);
  return lines.join("<br>");
}

function baseLayout(extra) {
  const axis = { gridcolor: css("--grid"), linecolor: css("--quiet"), zeroline: false, automargin: true, title: { standoff: 10 } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--ink") },
    margin: { l: 56, r: 12, t: 8, b: 48 },
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--quiet"), font: { color: css("--ink"), size: 12 }, align: "left" },
    hovermode: "closest",
    dragmode: coarse.matches ? false : "zoom",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--quiet"), activecolor: css("--accent") },
    showlegend: false,
    ...extra,
    xaxis: { ...axis, ...extra.xaxis, title: { ...axis.title, ...extra.xaxis.title } },
    yaxis: { ...axis, ...extra.yaxis, title: { ...axis.title, ...extra.yaxis.title } },
  };
}

const CONFIG = { responsive: true, displaylogo: false, displayModeBar: coarse.matches || innerWidth < 640 ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
// The legends are text of the page: they wrap on every screen, and screen readers know them.
const SIGNS = {
  circle: "●", square: "■", "triangle-up": "▲", diamond: "◆", "triangle-down": "▼", pentagon: "⬟", cross: "✚", hexagon: "⬢",
  "triangle-left": "◀", "triangle-right": "▶", x: "✖", star: "★", "square-open": "□", "triangle-up-open": "△", "diamond-open": "◇",
  "triangle-down-open": "▽", "hexagon-open": "⬡", "triangle-left-open": "◁", "triangle-right-open": "▷", "circle-open": "○",
  "pentagon-open": "⬠", "cross-open": "✛", line: "━",
};

function drawLegend(id, entries) {
  document.getElementById(id).replaceChildren(...entries.map(([symbol, color, name]) => {
    const sign = Object.assign(document.createElement("span"), { textContent: SIGNS[symbol] || "●", ariaHidden: "true" });
    sign.style.color = color;
    const item = document.createElement("li");
    item.append(sign, " ", name);
    return item;
  }));
}

const draw = (id, traces, layout) => Plotly.react(id, traces, layout, CONFIG);

function pairTraces(section, split, shown, axes, recommended) {
  const scale = (j) => (section.tasks[j].percent ? 100 : 1);
  const at = (values, j) => values[j] * scale(j);
  const trace = (name, models, marker, more) => ({
    type: "scatter", mode: "markers", name, marker,
    x: models.map((m) => at(m[split], axes[0])),
    y: models.map((m) => at(m[split], axes[1])),
    hovertemplate: "%{hovertext}<extra></extra>", ...more,
  });
  const size = shown.some((a) => a.models.length > 300) ? 6 : 9;
  const traces = shown.map((a) => trace(escaped(a.name), a.models,
    { color: colorOf(a), symbol: a.symbol, size, line: { width: 0.6, color: css("--panel") } },
    { hovertext: a.models.map((m) => hoverText(section, m, split)) }));
  const ink = css("--ink");
  const tasks = axes.map((j) => section.tasks[j].name);
  const named = (kind, group) => (kind !== "expert" ? {} : {
    mode: "markers+text", textposition: "top center", cliponaxis: false,
    text: group.map((r) => (tasks.includes(r.name) ? escaped(r.name) : "")),
  });
  for (const [kind, size] of [["base", 11], ["expert", 14], ["control", 11]]) {
    const members = section.references.filter((r) => r.kind === kind);
    const groups = kind === "expert" ? [members] : members.map((m) => [m]);
    for (const group of groups.filter((g) => g.length)) {
      const hovertext = group.map((r) => `<b>${escaped(r.label)}</b><br>` + section.tasks.map(
        (t, j) => `${escaped(t.name)} ${escaped(t.metric)}: ${shownValue(t, r[split][j])}`).join("<br>"));
      traces.push(trace(kind === "expert" ? "experts" : escaped(group[0].name), group,
        { color: ink, symbol: group[0].symbol, size, line: { width: kind === "control" ? 1.6 : 0.6, color: kind === "control" ? ink : css("--panel") } },
        { hovertext, ...named(kind, group) }));
    }
  }
  if (recommended) {
    traces.push(trace("recommended", [recommended],
      { color: css("--accent"), symbol: "circle-open", size: 20, line: { width: 3.5, color: css("--accent") } },
      { hovertext: ["<b>recommended</b><br>" + hoverText(section, recommended, split)] }));
  }
  return traces;
}

function parallelTraces(section, split, shown, recommended) {
  const names = section.tasks.map((t) => escaped(t.name));
  const good = (values) => section.tasks.map((t, j) => {
    const [ideal, nadir] = section.scales[split][j];
    const objective = t.direction === "max" ? t.best - values[j] : values[j];
    return 1 - (objective - ideal) / (nadir > ideal ? nadir - ideal : 1);
  });
  // One trace for many lines: a gap ends each of them.
  const lines = (models, text, color, width, opacity, marker) => ({
    type: "scatter", mode: "lines+markers", connectgaps: false, opacity, line: { color, width },
    marker: { color, size: 4, ...marker }, hovertemplate: "%{hovertext}<extra></extra>",
    x: models.flatMap(() => [...names, names[0]]),
    y: models.flatMap((m) => [...good(m[split]), null]),
    hovertext: models.flatMap((m) => { const t = text(m); return [...names.map(() => t), ""]; }),
  });
  const traces = [];
  for (const a of shown) {
    // A few traces for each algorithm: enough for the lines to add up where they are dense.
    const n = Math.min(a.models.length, 30);
    for (let i = 0; i < n; i++) {
      const part = a.models.filter((_, k) => k % n === i);
      traces.push(lines(part, (m) => hoverText(section, m, split), colorOf(a), 1, Math.max(0.25, 0.7 - n / 60), {}));
    }
  }
  for (const r of section.references.filter((r) => r.kind !== "expert")) {
    traces.push(lines([r], () => `<b>${escaped(r.label)}</b>`, css("--ink"), 1.5, 0.9, { symbol: r.symbol, size: 9 }));
  }
  if (recommended) {
    const text = (m) => "<b>recommended</b><br>" + hoverText(section, m, split);
    traces.push(lines([recommended], text, css("--accent"), 4, 1, { size: 8 }));
  }
  return traces;
}

function frontLegend(section, state, shown, recommended) {
  const pair = state.view === "pair", ink = css("--ink");
  const entries = shown.map((a) => [pair ? a.symbol : "line", colorOf(a), a.name]);
  const experts = section.references.filter((r) => r.kind === "expert");
  for (const r of section.references.filter((r) => r.kind !== "expert")) entries.push([r.symbol, ink, r.name]);
  if (pair && experts.length) entries.push(["star", ink, "experts"]);
  if (recommended) entries.push([pair ? "circle-open" : "line", css("--accent"), "recommended"]);
  drawLegend("front-legend", entries);
}

function drawFront(section, state, shown, recommended) {
  frontLegend(section, state, shown, recommended);
  if (state.view === "parallel") {
    draw("front-chart", parallelTraces(section, state.split, shown, recommended), baseLayout({
      yaxis: { title: { text: "1: best anchor, 0: worst" } }, xaxis: { showgrid: true, gridcolor: css("--quiet") },
    }));
    return;
  }
  const [i, j] = state.axes;
  draw("front-chart", pairTraces(section, state.split, shown, state.axes, recommended), baseLayout({
    xaxis: { title: { text: escaped(axisTitle(section.tasks[i])) } },
    yaxis: { title: { text: escaped(axisTitle(section.tasks[j])) } },
  }));
}

function drawProgress(section, cost, shown) {
  const traces = [];
  for (const a of shown) {
    const band = a.progress[cost], color = colorOf(a), steps = { shape: "hv", color };
    const edge = { type: "scatter", mode: "lines", x: band.x, legendgroup: a.name, showlegend: false, hoverinfo: "skip", line: { ...steps, width: 0 } };
    traces.push({ ...edge, y: band.lower }, { ...edge, y: band.upper, fill: "tonexty", fillcolor: color + "2b" });
    const part = (from, to, dash, more) => ({
      type: "scatter", mode: "lines", name: escaped(a.name), legendgroup: a.name, line: { ...steps, width: 2.2, dash },
      x: band.x.slice(from, to), y: band.median.slice(from, to), hovertemplate: `${escaped(a.name)}: %{y:.4f} at %{x}<extra></extra>`, ...more,
    });
    traces.push(part(0, band.whole, "solid", {}), part(band.whole - 1, undefined, "dot", { showlegend: false }));
  }
  drawLegend("progress-legend", shown.map((a) => ["line", colorOf(a), a.name]));
  draw("progress-chart", traces, baseLayout({
    xaxis: { title: { text: section.costs[cost] }, rangemode: "tozero" },
    yaxis: { title: { text: "normalized hypervolume" }, range: section.progress },
  }));
}
