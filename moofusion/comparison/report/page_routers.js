// Trained routers: their coefficients for the preference of the sliders, and the export command.
"use strict";

// L[g, :] = W2[g] relu(W1[g] r + b1[g]) + b2[g], a row for each router.
function routerRows(router, weights) {
  const total = weights.reduce((a, b) => a + b, 0);
  const r = weights.map((w) => w / total);
  return router.names.map((_, g) => router.layers.reduce((v, layer, i) => {
    const z = layer.b[g].map((b, o) => layer.W[g][o].reduce((s, w, k) => s + w * v[k], 0) + b);
    return i === router.layers.length - 1 ? z : z.map((x) => Math.max(x, 0));
  }, r));
}

// All coefficients in the order of the decision vector; groups without a router are fixed.
function routerVector(router, weights) {
  const rows = routerRows(router, weights);
  return router.rows.flatMap((row) => (row < 0 ? router.static : rows[row]));
}

// The measured proposal whose coefficients differ least, and by how much at most.
function nearestPoint(router, weights) {
  const L = routerVector(router, weights);
  let best = null;
  for (const point of router.points) {
    const off = Math.max(...point.x.map((v, i) => Math.abs(v - L[i])));
    if (best === null || off < best.off) best = { point, off };
  }
  return best;
}

function routerCommand(router, names, weights) {
  return router.command.replace("PREFERENCE", () => shellWord(preferenceText(names, weights)));
}
