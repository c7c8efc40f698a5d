// The page: tables, predictions, recipes, and what happens when a control changes.
const edge = (method) => (method.at_edge ? " (tuning stopped at the edge of its range)" : "");
const bar = (share, most) => make("span", { class: "bar", style: `width:${(most * share).toFixed(2)}rem` });

const ranked = (budget) => {
  const axis = at("axis").value;
  return state.section.methods.map((method) => {
    const scores = method.runs.map((run) => within(run, axis, budget)).filter(known);
    return { method, scores, whole: scores.length === method.runs.length };
  }).filter((row) => row.whole && row.scores.length).map((row) => ({ ...row, mean: mean(row.scores) }))
    .sort((a, b) => (state.section.metric_higher ? b.mean - a.mean : a.mean - b.mean));
};
const span = () => {
  const axis = at("axis").value, all = state.section.methods.flatMap((m) => m.runs.map((run) => run.costs[axis])).filter((costs) => costs);
  return [Math.min(...all.map((costs) => costs.find((cost) => cost > 0) ?? Infinity)), Math.max(...all.map((costs) => costs[costs.length - 1]))];
};
const showRanking = () => {
  const { section } = state, axis = at("axis").value, [low, high] = span(), amount = low * (high / low) ** (at("budget").value / 200);
  const rows = ranked(amount), isReadOff = (row) => row.method.runs.some((run) => readOff(run, axis, amount));
  at("amount").textContent = `${format(amount)} ${NAMES[axis]}`;
  at("budget").setAttribute("aria-valuetext", at("amount").textContent);
  at("ranking").tBodies[0].replaceChildren(...rows.map((row, i) => {
    const share = rows[0].mean ? Math.max(0, Math.min(1, section.metric_higher ? row.mean / rows[0].mean : rows[0].mean / row.mean)) : 0;
    const notes = (isReadOff(row) ? " (read off longer runs)" : "") + edge(row.method);
    return make("tr", i ? {} : { class: "leader" }, make("td", {}, String(i + 1)), make("th", { scope: "row" }, row.method.label),
      make("td", {}, format(row.mean)), make("td", {}, row.scores.length > 1 ? `${format(Math.min(...row.scores))} – ${format(Math.max(...row.scores))}` : "one seed", notes),
      make("td", {}, bar(share, 8)));
  }));
  fold(at("ranking"));
  const off = rows.some(isReadOff) ? " Read off longer runs, whose learning rate had not yet decayed at this budget." : "";
  at("leader").textContent = rows.length ? `Highest mean of runs within ${format(amount)} ${NAMES[axis]}: ${rows[0].method.label}${edge(rows[0].method)}, ${section.metric} ${format(rows[0].mean)}. See the verdict above for how certain the ranking is.${off}`
    : "No method was evaluated within this budget.";
};

const showBars = () => {
  const { section } = state, axis = at("bar-axis").value, base = section.methods.find((m) => m.label === section.baseline);
  const relative = at("relative").checked && base && total(base, axis);
  const rows = section.methods.map((m) => ({ m, x: total(m, axis) })).filter((row) => row.x !== null)
    .map((row) => ({ ...row, x: relative ? row.x / relative : row.x })).sort((a, b) => a.x - b.x);
  const most = Math.max(...rows.map((row) => row.x)) || 1;
  at("bars").caption.textContent = `${NAMES[axis]}, mean over seeds${relative ? `, as a ratio to ${section.baseline}` : ""}${section.budgets_differ && !axis.endsWith("step") ? ". Budgets differ between methods: costs per step compare the methods themselves" : ""}`;
  at("bars").tBodies[0].replaceChildren(...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.m.label),
    make("td", {}, format(row.x)), make("td", {}, bar(row.x / most, 12)))));
  fold(at("bars"));
};

// Where the seconds went, a stacked bar per method.
const showSeconds = () => {
  const rows = state.section.methods.filter((m) => Object.keys(m.seconds).length);
  at("h-seconds").parentElement.hidden = !rows.length;
  const parts = [...new Set(rows.flatMap((m) => Object.keys(m.seconds)))], sum = (m) => Object.values(m.seconds).reduce((a, b) => a + b, 0);
  const most = Math.max(...rows.map(sum)) || 1;
  at("seconds").tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "method"), make("th", { scope: "col" }, "share of the longest"),
    ...parts.map((part, i) => make("th", { scope: "col" }, make("span", { class: "swatch", style: `background:var(--c${i})` }), part)), make("th", { scope: "col" }, "total")));
  at("seconds").tBodies[0].replaceChildren(...rows.map((m) => make("tr", {}, make("th", { scope: "row" }, m.label),
    make("td", {}, make("span", { class: "stack" }, ...parts.map((part, i) => make("span", { style: `background:var(--c${i});width:${(10 * (m.seconds[part] || 0) / most).toFixed(3)}rem` })))),
    ...parts.map((part) => make("td", {}, format(m.seconds[part] || 0))), make("td", {}, format(sum(m))))));
  fold(at("seconds"));
};

// The main table of each task: ten rows, the wide columns on request, and the filters.
const byLabel = (label) => state.section.methods.find((m) => m.label === label);
const showTable = () => {
  const words = at("find").value.toLowerCase(), most = parseFloat(at("memory").value), family = at("family").value, merge = at("mergeable").checked;
  state.matches = (m) => m.label.toLowerCase().includes(words) && (!family || m.family === family) && (!merge || m.mergeable === true)
    && (isNaN(most) || (known(m.totals.peak_memory) && total(m, "peak_memory") <= most));
  const open = words || family || merge || !isNaN(most);
  const tables = document.querySelectorAll(`[data-section="${at("section").value}"] table.comparison`);
  for (const table of tables) {
    table.classList.toggle("narrow", !at("columns").checked);
    fold(table, (row) => { const m = byLabel(row.dataset.method); return m ? state.matches(m) : !open; });
  }
  const count = state.section.methods.filter(state.matches).length;
  at("matching").textContent = open ? `${count} of ${state.section.methods.length} methods match` : "";
};

// Predictions of one or two methods on the same rows.
let moreRows = FEW;
const showPredictions = () => {
  const { rows, texts, methods, of, binary } = state.section.predictions, own = methods[at("one").value], other = methods[at("two").value];
  at("h-examples").parentElement.hidden = !rows.length;
  if (!rows.length || !own) return;
  const sign = state.section.metric_higher ? 1 : -1, words = at("search").value.toLowerCase(), which = at("which").value;
  const right = (method, i) => (binary ? method.scores[i] > 0.5 : null);
  const keeps = {
    all: () => true,
    one: (i) => other && sign * own.scores[i] > sign * other.scores[i],
    two: (i) => other && sign * own.scores[i] < sign * other.scores[i],
    right: (i) => right(own, i) && (!other || right(other, i)),
    wrong: (i) => right(own, i) === false && (!other || right(other, i) === false),
  };
  const text = (method, i) => texts[method.texts[i]] ?? "";
  const kept = rows.map((_, i) => i).filter((i) => keeps[which](i) && (!words
    || [rows[i].source, rows[i].target, text(own, i), other ? text(other, i) : ""].join("\n").toLowerCase().includes(words)));
  const cell = (method, i) => make("td", { class: "wide" }, binary ? `${right(method, i) ? "✓" : "✗"} ${text(method, i)}` : `${text(method, i)} (${format(method.scores[i])})`);
  const heads = ["row", "source", "target", at("one").value, ...(other ? [at("two").value] : [])];
  at("examples").tHead.replaceChildren(make("tr", {}, ...heads.map((name) => make("th", { scope: "col" }, name))));
  at("examples").tBodies[0].replaceChildren(...kept.slice(0, moreRows).map((i) => make("tr", {}, make("td", {}, String(rows[i].index)),
    make("td", { class: "wide" }, rows[i].source), make("td", { class: "wide" }, rows[i].target), cell(own, i), ...(other ? [cell(other, i)] : []))));
  const part = rows.length < of ? `the ${rows.length} of ${of} rows on which methods differ most` : `${rows.length} rows`;
  at("examples").caption.textContent = `${kept.length} of ${part}; predictions of the first seed's checkpoint selected on dev`;
  at("more").hidden = kept.length <= moreRows;
};

const showRecipes = () => {
  const { differing, methods } = state.section;
  at("differences").tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "method"), ...differing.map((key) => make("th", { scope: "col" }, key))));
  at("differences").tBodies[0].replaceChildren(...methods.map((m) => make("tr", {}, make("th", { scope: "row" }, m.label), ...differing.map((key) => make("td", {}, m.keys[key] ?? "")))));
  fold(at("differences"));
  at("runs").replaceChildren(...methods.map((m) => make("details", {}, make("summary", {}, `${m.label}: seeds ${m.runs.map((run) => run.seed).join(", ")}`),
    make("p", {}, m.note), make("h3", {}, "Recipe"), make("pre", { tabindex: "0" }, m.recipe), make("h3", {}, "Environment"),
    make("pre", { tabindex: "0" }, JSON.stringify(data.environments[m.environment], null, 1)))));
};

// The list of methods, with the colour of each chosen one.
const showMethods = () => {
  at("methods").replaceChildren(...state.section.methods.map((m) => {
    const box = make("input", { type: "checkbox" });
    box.checked = state.shown.has(m.label);
    box.addEventListener("change", () => { toggle(m.label); [...at("methods").querySelectorAll("input")][state.section.methods.indexOf(m)].focus(); });
    const { colour, dash } = style(m.label), key = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    key.setAttribute("viewBox", "0 0 26 8");
    key.setAttribute("class", "key");
    key.setAttribute("aria-hidden", "true");
    draw(key, "line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash });
    return make("label", {}, box, key, m.label);
  }));
};
const best = () => {
  const first = state.section.methods.slice(0, 6).map((m) => m.label);
  return state.section.baseline ? [...new Set([...first, state.section.baseline])] : first;
};
const drawFigures = () => { showFrontier(); showRetention(); showCurves(); showTuning(); };
const showChosen = () => { showMethods(); showTasks(); drawFigures(); };
const showCosts = () => { showRanking(); showBars(); };
const showSection = () => {
  const section = state.section = data.sections[at("section").value];
  fill("axis", section.axes, undefined, at("axis").value || data.by);
  const totals = Object.keys(NAMES).filter((key) => section.methods.some((m) => total(m, key) !== null));
  fill("frontier-axis", totals, undefined, at("axis").value);
  // Costs that were the budget are the same for all methods, and of different budgets only costs per step compare them.
  const spread = (key) => { const xs = section.methods.map((m) => total(m, key)).filter(known); return Math.max(...xs) / Math.min(...xs); };
  const telling = [...(section.budgets_differ ? [] : [at("axis").value]), "gmacs_per_step", "seconds_per_step", "peak_memory"];
  fill("bar-axis", totals, undefined, telling.find((key) => totals.includes(key) && spread(key) > 1.1) || at("axis").value);
  at("relative").checked = Boolean(section.baseline);
  at("relative").disabled = !section.baseline;
  fill("quantity", section.quantities, undefined, section.metric);
  const hasSplit = (split) => section.methods.some((m) => m.runs.some((run) =>
    section.quantities.some((name) => (run[split][name] || []).some((each) => each !== null))));
  fill("split", ["test", "dev", "train"].filter(hasSplit), (split) => (split === "test" ? section.split : split), at("split").value);
  fill("probe", Object.keys(section.retention), (name) => name, at("probe").value);
  fill("tuning-value", ["score", "loss"].filter((value) => section.tuning.some((t) => known(t[value]))), (value) => (value === "score" ? section.selection_metric : value));
  const families = [...new Set(section.methods.map((m) => m.family).filter((f) => f))].sort();
  fill("family", ["", ...families], (name) => name || "all", at("family").value);
  at("family").parentElement.hidden = !families.length;
  at("mergeable").parentElement.hidden = !section.methods.some((m) => known(m.mergeable));
  at("memory").parentElement.hidden = !totals.includes("peak_memory");
  const labels = section.methods.map((m) => m.label).filter((label) => section.predictions.methods[label]);
  fill("one", labels);
  fill("two", ["", ...labels], (name) => name || "none", labels.includes(section.baseline) && section.baseline !== labels[0] ? section.baseline : labels[1] || "");
  fill("which", section.predictions.binary ? ["all", "one", "two", "right", "wrong"] : ["all", "one", "two"], (name) => ({
    all: "all rows", right: "right by both", wrong: "wrong by both",
    one: section.predictions.binary ? "right by the first, wrong by the second" : "the first scores better",
    two: section.predictions.binary ? "wrong by the first, right by the second" : "the second scores better" }[name]));
  document.querySelectorAll("[data-section]").forEach((node) => { node.hidden = node.dataset.section !== at("section").value; });
  moreRows = FEW;
  state.shown = new Map();
  choose(best());
  showTable(); showChosen(); showCosts(); showSeconds(); showPredictions(); showRecipes();
};

document.documentElement.classList.add("js");
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("table.sortable:not(.comparison)").forEach((table) => fold(table));
document.querySelectorAll("[data-explain]").forEach((node) => explain(node, node.dataset.explain));
at("section").replaceChildren(...data.sections.map((s, i) => make("option", { value: String(i) }, `${s.task} with ${s.model}`)));
at("section").value = String(data.opens);
const on = (event, ids, action) => ids.forEach((id) => at(id).addEventListener(event, action));
on("change", ["section"], showSection);
on("change", ["axis"], () => { at("frontier-axis").value = at("bar-axis").value = at("axis").value; showCosts(); drawFigures(); });
on("input", ["budget"], showRanking);
on("change", ["split", "quantity", "shape", "log"], showCurves);
on("change", ["frontier-axis"], showFrontier);
on("change", ["probe"], showRetention);
on("change", ["tuning-value"], showTuning);
on("change", ["bar-axis", "relative"], showBars);
on("input", ["find", "memory"], () => { showTable(); showFrontier(); });
on("change", ["family", "mergeable", "columns"], () => { showTable(); showFrontier(); });
on("change", ["one", "two", "which"], () => { moreRows = FEW; showPredictions(); });
on("input", ["search"], () => { moreRows = FEW; showPredictions(); });
on("click", ["more"], () => { moreRows += 2 * FEW; showPredictions(); });
on("click", ["some"], () => { choose(best()); showChosen(); });
on("click", ["all"], () => { choose(state.section.methods.map((m) => m.label)); showChosen(); });
on("click", ["none"], () => { choose([]); showChosen(); });
window.addEventListener("resize", drawFigures);
window.addEventListener("beforeprint", drawFigures);
showSection();
