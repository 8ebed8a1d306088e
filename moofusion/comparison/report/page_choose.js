// Which model a preference recommends, and the command that exports it.
"use strict";

// As moofusion.comparison.choose(by="weighted"): the smallest weighted sum of normalized search
// objectives; ties within 1e-12 go to the smaller plain sum, then to the first.
function choose(models, weights) {
  const total = weights.reduce((a, b) => a + b, 0);
  if (!models.length || !(total > 0)) return null;
  const scores = models.map((m) => m.F.reduce((s, f, j) => s + (f * weights[j]) / total, 0));
  const least = Math.min(...scores) + 1e-12;
  let best = null;
  models.forEach((model, i) => {
    if (scores[i] <= least && (best === null || model.sum < best.sum)) best = model;
  });
  return best;
}

// The order in which a pooled front is listed: by objectives, the first counts most.
function inOrder(models) {
  return models.slice().sort((a, b) => {
    const j = a.F.findIndex((f, k) => f !== b.F[k]);
    return j < 0 ? 0 : a.F[j] - b.F[j];
  });
}

// As shlex.quote of Python.
function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", `'"'"'`) + "'";
}

function preferenceText(names, weights) {
  return names.map((n, j) => (weights[j] ? `${n}=${weights[j]}` : "")).filter(Boolean).join(",");
}

// The template comes from Python; only the words that depend on the controls are put in here.
function exportCommand(section, weights, shown) {
  const all = shown.length === section.algorithms.length;
  const picked = all ? "" : shown.map((a) => ` --algorithm ${shellWord(a.algorithm)}`).join("");
  return section.command
    .replace(" --algorithm ALGORITHM", () => picked)
    .replace("PREFERENCE", () => shellWord(preferenceText(section.tasks.map((t) => t.name), weights)));
}
