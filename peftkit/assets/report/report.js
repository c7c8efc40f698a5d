"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b", "#7f7f7f"];
  const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
  const SHAPES = ["circle", "square", "diamond", "triangle"];
  const NAMES = { gmacs: "GMACs", gmacs_with_tuning: "GMACs with tuning", seconds: "seconds of training", wall_seconds: "seconds waited", samples: "samples", tokens: "tokens", joules: "joules",
    peak_memory: "peak memory (GiB)", trainable_parameters: "trainable parameters", checkpoint_bytes: "checkpoint (MiB)",
    gmacs_per_step: "GMACs per step", seconds_per_step: "seconds per step" };
  const SCALE = { peak_memory: 2 ** 30, checkpoint_bytes: 2 ** 20 };
  let section, shown;

  const make = (tag, attributes = {}, ...inner) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inner);
    return node;
  };
  const draw = (svg, tag, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    svg.append(node);
    return node;
  };
  const format = (x) => {
    if (x === null || x === undefined || !isFinite(x)) return "–";
    const size = Math.abs(x);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return x.toExponential(2);
    return x.toLocaleString("en", { maximumSignificantDigits: 4 });
  };
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const style = (index) => ({ colour: COLOURS[index % COLOURS.length],
    dash: DASHES[Math.floor(index / COLOURS.length) % DASHES.length], shape: SHAPES[index % SHAPES.length] });
  const better = (a, b) => (section.higher ? a > b : a < b);
  const scoresMore = (a, b) => (section.metric_higher ? a > b : a < b);

  // The values on a split of the checkpoint selected on dev, up to each evaluation.
  const bestSoFar = (run, split, quantity) => {
    let best = null, reached = null;
    return run.dev[section.selection_metric].map((dev, i) => {
      if (dev !== null && (best === null || better(dev, best))) { best = dev; reached = (run[split][quantity] || [])[i]; }
      return reached;
    });
  };
  // Slightly less than the cost of a step; the cost of tuning precedes the first step.
  const stepOf = (run, axis) => {
    const costs = run.costs[axis === "gmacs_with_tuning" ? "gmacs" : axis];
    return (1 - 1e-6) * costs[costs.length - 1] / (run.steps || Infinity);
  };
  // Whether a run ended within a budget: it reached its own limit, or exceeded the budget by less than a step.
  const ended = (run, axis, budget) => {
    const costs = run.costs[axis], room = budget * (1 + 1e-9);
    return (run.limits[axis] !== undefined && run.limits[axis] <= room) || costs[costs.length - 1] <= room + stepOf(run, axis);
  };
  // Whether a score is read off a longer run, whose learning rate had not decayed at the budget (unless it is constant).
  const readOff = (run, axis, budget) => !run.constant && !ended(run, axis, budget);
  const edge = (method) => (method.at_edge ? " (tuning stopped at the edge of its range)" : "");
  const within = (run, axis, budget) => {
    const costs = run.costs[axis], scores = bestSoFar(run, "test", section.metric);
    if (ended(run, axis, budget)) return scores[costs.length - 1];
    let found = null;
    costs.forEach((cost, i) => { if (cost <= budget * (1 + 1e-9)) found = scores[i]; });
    return found;
  };
  // Values of a run at given costs: step function or linear interpolation.
  const sampled = (costs, values, grid, steps) => grid.map((x) => {
    let last = -1;
    for (let i = 0; i < costs.length && costs[i] <= x * (1 + 1e-9); i++) last = i;
    if (last < 0 || x > costs[costs.length - 1] * (1 + 1e-9)) return null;
    if (steps || last === costs.length - 1) return values[last];
    const share = (x - costs[last]) / (costs[last + 1] - costs[last] || 1);
    return values[last] + share * (values[last + 1] - values[last]);
  });

  const ticks = (low, high, count) => {
    const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw);
    const found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(Math.abs(x) < step * 1e-9 ? 0 : x);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const k of high / low > 1e3 ? [1] : [1, 2, 5]) { const x = k * 10 ** p; if (x >= low * 0.999 && x <= high * 1.001) found.push(x); }
    return found;
  };
  // Use the available width, so that text keeps its size on a phone.
  const frame = (svg, most, height, xs, ys, log, xName, yName) => {
    svg.replaceChildren();
    const width = Math.max(320, Math.min(most, svg.parentElement.clientWidth || most));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const left = 62, right = width - 14, top = 14, bottom = height - 46;
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    if (x0 === x1) { x0 = log ? x0 / 2 : x0 - 1; x1 = log ? x1 * 2 : x1 + 1; }
    const pad = (y1 - y0) * 0.06 || 0.05; y0 -= pad; y1 += pad;
    const fx = log ? (x) => left + (right - left) * Math.log(x / x0) / Math.log(x1 / x0) : (x) => left + (right - left) * (x - x0) / (x1 - x0);
    const fy = (y) => bottom - (bottom - top) * (y - y0) / (y1 - y0);
    for (const y of ticks(y0, y1, 6)) {
      draw(svg, "line", { class: "grid", x1: left, x2: right, y1: fy(y), y2: fy(y) });
      draw(svg, "text", { x: left - 6, y: fy(y) + 4, "text-anchor": "end" }, format(y));
    }
    for (const x of log ? logTicks(x0, x1) : ticks(x0, x1, width < 500 ? 4 : 6)) {
      draw(svg, "line", { class: "axis", x1: fx(x), x2: fx(x), y1: bottom, y2: bottom + 5 });
      draw(svg, "text", { x: fx(x), y: bottom + 19, "text-anchor": "middle" }, format(x));
    }
    draw(svg, "line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
    draw(svg, "text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, xName);
    draw(svg, "text", { x: 14, y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(top + bottom) / 2})` }, yName);
    return { fx, fy, width };
  };
  const marker = (svg, shape, x, y, colour, label) => {
    const paths = { circle: `M${x - 4},${y}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0`, square: `M${x - 4},${y - 4}h8v8h-8z`,
      diamond: `M${x},${y - 5}l5,5l-5,5l-5,-5z`, triangle: `M${x},${y - 5}l5,9h-10z` };
    const node = draw(svg, "path", { d: paths[shape], fill: colour, stroke: "var(--paper)", "stroke-width": 0.7 });
    draw(node, "title", {}, label);
  };

  // Input-blind baselines as dotted lines; close ones share a label.
  const baselines = (split, quantity) => Object.entries((section.baselines[split] || {})[quantity] || {}).sort((a, b) => a[1] - b[1]);
  const drawBaselines = (svg, found, { fy, width }) => {
    const groups = [];
    for (const [name, y] of found) {
      const last = groups[groups.length - 1];
      draw(svg, "line", { class: "baseline", x1: 62, x2: width - 14, y1: fy(y), y2: fy(y) });
      if (last && fy(last.y) - fy(y) < 12) { last.names.push(name); last.y = y; } else groups.push({ names: [name], y });
    }
    for (const { names, y } of groups) draw(svg, "text", { class: "of-baseline", x: width - 18, y: fy(y) - 3, "text-anchor": "end" }, names.join(", "));
  };
  const dotted = (found) => (found.length ? ` Dotted: ${found.map(([name, y]) => `${name} ${format(y)}`).join(", ")}.` : "");

  const ranked = (budget) => {
    const axis = at("axis").value;
    return section.methods.map((method) => {
      const scores = method.runs.map((run) => within(run, axis, budget)).filter((value) => value !== null && value !== undefined);
      return { method, scores, whole: scores.length === method.runs.length };
    }).filter((row) => row.whole && row.scores.length).map((row) => ({ ...row, mean: mean(row.scores) }))
      .sort((a, b) => (section.metric_higher ? b.mean - a.mean : a.mean - b.mean));
  };
  const span = () => {
    const axis = at("axis").value;
    const all = section.methods.flatMap((m) => m.runs.map((run) => run.costs[axis])).filter((costs) => costs);
    const first = Math.min(...all.map((costs) => costs.find((cost) => cost > 0) ?? Infinity));
    return [first, Math.max(...all.map((costs) => costs[costs.length - 1]))];
  };
  const budget = () => { const [low, high] = span(); return low * (high / low) ** (at("budget").value / 200); };
  const showRanking = () => {
    const axis = at("axis").value, amount = budget(), rows = ranked(amount), body = at("ranking").tBodies[0];
    const isReadOff = (row) => row.method.runs.some((run) => readOff(run, axis, amount));
    at("amount").textContent = `${format(amount)} ${NAMES[axis]}`;
    at("budget").setAttribute("aria-valuetext", at("amount").textContent);
    body.replaceChildren(...rows.map((row, i) => {
      const share = rows[0].mean ? Math.max(0, Math.min(1, section.metric_higher ? row.mean / rows[0].mean : rows[0].mean / row.mean)) : 0;
      const bar = make("span", { class: "bar", style: `width:${(share * 8).toFixed(2)}rem` });
      const notes = (isReadOff(row) ? " (read off longer runs)" : "") + edge(row.method);
      return make("tr", i ? {} : { class: "leader" }, make("td", {}, String(i + 1)), make("td", {}, row.method.label),
        make("td", {}, format(row.mean)), make("td", {}, row.scores.length > 1 ? `${format(Math.min(...row.scores))} – ${format(Math.max(...row.scores))}` : "one seed", notes),
        make("td", {}, bar));
    }));
    const off = rows.some(isReadOff) ? " Read off longer runs, whose learning rate had not yet decayed at this budget." : "";
    at("leader").textContent = rows.length ? `Highest mean of runs within ${format(amount)} ${NAMES[axis]}: ${rows[0].method.label}${edge(rows[0].method)}, ${section.metric} ${format(rows[0].mean)}. See the verdict above for how certain the ranking is.${off}`
      : "No method was evaluated within this budget.";
  };

  const showCurves = () => {
    const svg = at("curves"), axis = at("axis").value, split = at("split").value, quantity = at("quantity").value;
    const steps = at("shape").value === "best", log = at("log").checked;
    const lines = [];
    for (const method of section.methods) {
      if (!shown.has(method.label)) continue;
      const runs = method.runs.map((run) => ({ costs: run.costs[axis],
        values: steps ? bestSoFar(run, split, quantity) : run[split][quantity] || [] }))
        .map(({ costs, values }) => { const kept = (costs || []).map((c, i) => [c, values[i]]).filter(([c, v]) => v !== null && v !== undefined && (!log || c > 0));
          return { costs: kept.map(([c]) => c), values: kept.map(([, v]) => v) }; }).filter((run) => run.costs.length);
      if (!runs.length) continue;
      const grid = [...new Set(runs.flatMap((run) => run.costs))].sort((a, b) => a - b);
      const points = grid.map((x, i) => [x, runs.map((run) => sampled(run.costs, run.values, [x], steps)[0]).filter((v) => v !== null)])
        .filter(([, values]) => values.length === runs.length);
      if (points.length) lines.push({ method, points });
    }
    const caption = at("c-curves");
    if (!lines.length) { svg.replaceChildren(); caption.textContent = "Nothing to show: choose other methods or another split."; return; }
    const xs = lines.flatMap((line) => line.points.map(([x]) => x)), ys = lines.flatMap((line) => line.points.flatMap(([, values]) => values));
    const blind = baselines(split, quantity);
    const drawn = frame(svg, 760, 400, xs, ys.concat(blind.map(([, y]) => y)), log, NAMES[axis], `${split} ${quantity}`), { fx, fy } = drawn;
    drawBaselines(svg, blind, drawn);
    for (const { method, points } of lines) {
      const { colour, dash, shape } = style(method.index);
      const stepped = (pick) => points.flatMap(([x, values], i) => {
        const here = `${fx(x).toFixed(1)},${fy(pick(values)).toFixed(1)}`;
        return steps && i ? [`${fx(x).toFixed(1)},${fy(pick(points[i - 1][1])).toFixed(1)}`, here] : [here];
      });
      if (points[0][1].length > 1)
        draw(svg, "polygon", { points: [...stepped((v) => Math.max(...v)), ...stepped((v) => Math.min(...v)).reverse()].join(" "), fill: colour, opacity: 0.13 });
      const line = draw(svg, "polyline", { points: stepped(mean).join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash });
      draw(line, "title", {}, method.label);
      const every = Math.max(1, Math.floor(points.length / 8));
      points.forEach(([x, values], i) => { if (i % every === 0) marker(svg, shape, fx(x), fy(mean(values)), colour, `${method.label}: ${format(mean(values))} at ${format(x)}`); });
    }
    caption.textContent = `${split} ${quantity}${steps ? " of the checkpoint selected on dev so far" : ""} against ${NAMES[axis]}: ${lines.map((l) => l.method.label).join(", ")}. Lines are means over seeds, bands reach from the lowest to the highest.${dotted(blind)}`;
  };

  const value = (method, axis) => {
    const found = method.totals[axis];
    return found === null || found === undefined ? null : found / (SCALE[axis] || 1);
  };
  const showPareto = () => {
    const axis = at("pareto-axis").value, svg = at("pareto");
    const points = section.methods.map((m) => ({ m, x: value(m, axis), y: m.score })).filter((p) => p.x !== null && p.x > 0);
    if (!points.length) { svg.replaceChildren(); return; }
    const front = points.filter((p) => (section.fronts[axis] || []).includes(p.m.label)).sort((a, b) => a.x - b.x);
    const xs = points.map((p) => p.x), log = Math.max(...xs) / Math.min(...xs) > 8;
    const blind = baselines("test", section.metric);
    const drawn = frame(svg, 560, 380, xs, points.map((p) => p.y).concat(blind.map(([, y]) => y)), log, NAMES[axis], `test ${section.metric}`);
    const { fx, fy, width } = drawn;
    drawBaselines(svg, blind, drawn);
    draw(svg, "polyline", { points: front.map((p) => `${fx(p.x)},${fy(p.y)}`).join(" "), fill: "none", stroke: "var(--soft)", "stroke-dasharray": "4 3" });
    for (const { m, x, y } of points) {
      const { colour, shape } = style(m.index);
      marker(svg, shape, fx(x), fy(y), colour, `${m.label}: ${format(y)} at ${format(x)} ${NAMES[axis]}`);
    }
    for (const { m, x, y } of front) draw(svg, "text", { x: fx(x) + (fx(x) > width * 0.6 ? -7 : 7), y: fy(y) - 6, "text-anchor": fx(x) > width * 0.6 ? "end" : "start" }, m.label);
    at("c-pareto").textContent = `On the Pareto front: ${front.map((p) => p.m.label).join(", ") || "none with a probability of 50 % or more"}.${dotted(blind)}`;
  };
  const showBars = () => {
    const axis = at("bar-axis").value, base = section.methods.find((m) => m.label === section.baseline);
    const relative = at("relative").checked && base && value(base, axis);
    const rows = section.methods.map((m) => ({ m, x: value(m, axis) })).filter((row) => row.x !== null)
      .map((row) => ({ ...row, x: relative ? row.x / relative : row.x })).sort((a, b) => a.x - b.x);
    const most = Math.max(...rows.map((row) => row.x)) || 1;
    at("bars").caption.textContent = `${NAMES[axis]}, mean over seeds${relative ? `, relative to ${section.baseline}` : ""}`;
    at("bars").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.m.label),
      make("td", {}, format(row.x)), make("td", {}, make("span", { class: "bar", style: `width:${(12 * row.x / most).toFixed(2)}rem` })))));
  };

  const showExamples = () => {
    const method = section.methods.find((m) => m.label === at("whose").value);
    at("examples").tBodies[0].replaceChildren(...(method ? method.examples : []).map((row) => make("tr", {}, make("td", {}, String(row.index)),
      make("td", { class: "wide" }, row.source), make("td", { class: "wide" }, row.target), make("td", { class: "wide" }, `${row.prediction === row.target ? "✓" : "✗"} ${row.prediction}`))));
  };
  const showRecipes = () => {
    const keys = section.differing;
    at("differences").tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "method"), ...keys.map((key) => make("th", { scope: "col" }, key))));
    at("differences").tBodies[0].replaceChildren(...section.methods.map((m) => make("tr", {}, make("th", { scope: "row" }, m.label), ...keys.map((key) => make("td", {}, m.keys[key] ?? "")))));
    at("runs").replaceChildren(...section.methods.map((m) => make("details", {}, make("summary", {}, `${m.label}: seeds ${m.runs.map((run) => run.seed).join(", ")}`),
      make("p", {}, m.note), make("h3", {}, "Recipe"), make("pre", { tabindex: "0" }, m.recipe), make("h3", {}, "Environment"),
      make("pre", { tabindex: "0" }, JSON.stringify(data.environments[m.environment], null, 1)))));
  };
  const showMethods = () => {
    at("methods").replaceChildren(...section.methods.map((m) => {
      const box = make("input", { type: "checkbox" });
      box.checked = shown.has(m.label);
      box.addEventListener("change", () => { box.checked ? shown.add(m.label) : shown.delete(m.label); showCurves(); });
      const { colour, dash } = style(m.index);
      const key = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      key.setAttribute("viewBox", "0 0 26 8"); key.setAttribute("style", "width:26px;flex:none;background:none"); key.setAttribute("aria-hidden", "true");
      draw(key, "line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash });
      return make("label", {}, box, key, m.label);
    }));
  };
  const choose = (labels) => { shown = new Set(labels); showMethods(); showCurves(); };
  const best = () => { const first = section.methods.slice(0, 6).map((m) => m.label); return section.baseline ? [...new Set([...first, section.baseline])] : first; };
  const fill = (id, values, text = (v) => NAMES[v] || v, wanted = null) => {
    at(id).replaceChildren(...values.map((v) => make("option", { value: v }, text(v))));
    at(id).value = values.includes(wanted) ? wanted : values[0];
  };
  const showAll = () => { showRanking(); showCurves(); showPareto(); showBars(); };
  const showSection = () => {
    section = data.sections[at("section").value];
    section.methods.forEach((m, i) => { m.index = i; });
    fill("axis", section.axes, undefined, at("axis").value || data.by);
    const totals = Object.keys(NAMES).filter((key) => section.methods.some((m) => value(m, key) !== null));
    fill("pareto-axis", totals, undefined, at("axis").value);
    fill("bar-axis", totals, undefined, at("axis").value);
    fill("quantity", section.quantities, undefined, section.metric);
    const known = (split) => section.methods.some((m) => m.runs.some((run) =>
      section.quantities.some((name) => (run[split][name] || []).some((each) => each !== null))));
    fill("split", ["test", "dev", "train"].filter(known), undefined, at("split").value);
    fill("whose", section.methods.map((m) => m.label));
    document.querySelectorAll("[data-section]").forEach((node) => { node.hidden = node.dataset.section !== at("section").value; });
    at("relative").disabled = !section.baseline;
    shown = new Set(best());
    showMethods(); showAll(); showExamples(); showRecipes();
  };
  // Sort tables by a click or Enter on a column header.
  document.querySelectorAll("table.sortable").forEach((table) => [...table.tHead.rows[0].cells].forEach((cell, i) => {
    const button = make("button", { type: "button" }, ...cell.childNodes);
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => { const text = row.cells[i].dataset.value ?? row.cells[i].textContent; const number = parseFloat(text.replace(/,/g, "")); return isNaN(number) ? text : number; };
      const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b))));
    });
  }));
  at("section").replaceChildren(...data.sections.map((s, i) => make("option", { value: String(i) }, `${s.task} with ${s.model}`)));
  at("section").addEventListener("change", showSection);
  at("axis").addEventListener("change", () => { at("pareto-axis").value = at("bar-axis").value = at("axis").value; showAll(); });
  at("budget").addEventListener("input", showRanking);
  for (const id of ["split", "quantity", "shape", "log"]) at(id).addEventListener("change", showCurves);
  at("pareto-axis").addEventListener("change", showPareto);
  for (const id of ["bar-axis", "relative"]) at(id).addEventListener("change", showBars);
  at("whose").addEventListener("change", showExamples);
  at("some").addEventListener("click", () => choose(best()));
  at("all").addEventListener("click", () => choose(section.methods.map((m) => m.label)));
  at("none").addEventListener("click", () => choose([]));
  window.addEventListener("resize", () => { showCurves(); showPareto(); });
  showSection();
})();
