// The figures: each reads `state` and draws itself anew.
const toggle = (label) => { choose(state.shown.has(label) ? [...state.shown.keys()].filter((l) => l !== label) : [...state.shown.keys(), label]); showChosen(); };
const interval = (low, high) => (known(low) && known(high) ? ` (${format(low)} – ${format(high)})` : "");
const describe = (m) => `${m.label}: ${state.section.metric} ${format(m.score)}${interval(m.low, m.high)}`;
const greyFirst = (a, b) => state.shown.has(a.label ?? a.m.label) - state.shown.has(b.label ?? b.m.label);

// Scores with their intervals, a row per method: for methods that cost the same.
const MOST_ROWS = 20;
const drawForest = (svg, methods, levels, xName) => {
  svg.replaceChildren();
  const width = Math.max(280, Math.min(760, svg.parentElement.clientWidth || 760)), row = 20;
  const left = Math.min(width * 0.45, 12 + Math.max(...methods.map((m) => textWidth(m.label)))), bottom = TOP + row * methods.length;
  svg.setAttribute("viewBox", `0 0 ${width} ${bottom + BOTTOM}`);
  const xs = [...methods.flatMap((m) => [m.score, m.low, m.high]).filter(known), ...levels.map(({ y }) => y)];
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const pad = (x1 - x0) * 0.04 || 0.05;
  x0 -= pad; x1 += pad;
  const fx = (x) => left + (width - RIGHT - left) * (x - x0) / (x1 - x0);
  for (const x of ticks(x0, x1, Math.floor((width - left) / 80))) {
    draw(svg, "line", { class: "grid", x1: fx(x), x2: fx(x), y1: TOP - 6, y2: bottom });
    draw(svg, "text", { x: fx(x), y: bottom + 17, "text-anchor": "middle" }, format(x));
  }
  for (const { y, kind } of levels) draw(svg, "line", { class: kind, x1: fx(y), x2: fx(y), y1: TOP - 6, y2: bottom });
  const points = methods.map((m, i) => {
    const py = TOP + row * (i + 0.5), { colour, shape } = style(m.label);
    if (known(m.low)) whisker(svg, fx(m.low), py, fx(m.high), py, colour);
    marker(svg, shape, fx(m.score), py, colour);
    draw(svg, "text", { class: "label", x: left - 8, y: py + 4, "text-anchor": "end" }, fit(m.label, left - 10));
    return { px: fx(m.score), py, label: m.label, tip: describe(m) };
  });
  draw(svg, "text", { x: (left + width) / 2, y: bottom + 38, "text-anchor": "middle" }, xName);
  inspect(svg, points, (p) => toggle(p.label));
};

const scoreName = () => `${state.section.split} ${state.section.metric}`;
const showFrontier = () => {
  const { section } = state, axis = at("frontier-axis").value, svg = at("frontier");
  const points = section.methods.map((m) => ({ m, x: total(m, axis), y: m.score })).filter((p) => p.x !== null && p.x > 0);
  const levels = [...levelsOf("test", section.metric), ...fullLevel("test", section.metric)];
  if (!points.length) { svg.replaceChildren(); at("c-frontier").textContent = "No method has measured this cost."; return; }
  const front = points.filter((p) => (section.fronts[axis] || []).includes(p.m.label)).sort((a, b) => a.x - b.x);
  const xs = points.map((p) => p.x), names = front.map((p) => p.m.label).join(", ");
  const onFront = names ? `On the Pareto front: ${names}.` : "No method is on the Pareto front with a probability of 50 % or more.";
  const bars = points.some((p) => known(p.m.low)) ? " Bars are 95 % intervals." : "";
  if (Math.max(...xs) / Math.min(...xs) < 1.1) {
    const kept = section.methods.filter((m) => state.matches(m)), rows = kept.filter((m, i) => i < MOST_ROWS || state.shown.has(m.label));
    drawForest(svg, rows.length ? rows : section.methods.slice(0, 1), levels, scoreName());
    const more = rows.length < kept.length ? ` The best ${MOST_ROWS} of ${kept.length}, and those you chose; the table has all.` : "";
    at("c-frontier").textContent = `All methods cost about the same (${format(Math.min(...xs))} – ${format(Math.max(...xs))} ${NAMES[axis]}), so they are ordered by score. ${onFront}${bars}${listLevels(levels)}${more}`;
    return;
  }
  const ys = [...points.flatMap((p) => [p.y, p.m.low, p.m.high]).filter(known), ...levels.map(({ y }) => y)];
  const plot = frame(svg, { xs, ys, log: isWide(xs), xName: NAMES[axis], yName: scoreName(), height: 420 }), { fx, fy } = plot;
  const taken = drawLevels(plot, levels);
  const path = front.map((p, i) => (i ? `H${fx(p.x)}V${fy(p.y)}` : `M${fx(p.x)},${fy(p.y)}`)).join("");
  if (front.length) draw(svg, "path", { class: "front", d: `${path}H${plot.x2}` });
  const marks = [...points].sort(greyFirst).map((p) => {
    const { colour, shape } = style(p.m.label), faded = draw(svg, "g", state.matches(p.m) ? {} : { opacity: 0.25 });
    if (known(p.m.low)) whisker(faded, fx(p.x), fy(p.m.low), fx(p.x), fy(p.m.high), colour);
    marker(faded, shape, fx(p.x), fy(p.y), colour);
    const onFront = front.includes(p), chosen = state.shown.has(p.m.label);
    return { px: fx(p.x), py: fy(p.y), label: p.m.label, text: p.m.label, insist: onFront || chosen, rank: 2 * onFront + chosen,
      tip: `${describe(p.m)}, ${format(p.x)} ${NAMES[axis]}` };
  });
  drawLabels(plot, [...marks].sort((a, b) => b.rank - a.rank), taken);
  inspect(svg, [...marks].sort((a, b) => a.px - b.px), (p) => toggle(p.label));
  at("c-frontier").textContent = `${onFront}${bars}${listLevels(levels)}`;
};

const showRetention = () => {
  const retention = state.section.retention[at("probe").value], svg = at("retention");
  at("learning-forgetting").hidden = !retention;
  if (!retention) return;
  const scale = (x) => 100 * x, rows = retention.rows;
  const xs = [0, ...rows.flatMap((r) => [r.forgotten, r.forgotten_low, r.forgotten_high]).filter(known).map(scale)];
  const ys = rows.flatMap((r) => [r.score, r.low, r.high]).filter(known);
  const name = `forgotten (${retention.relative ? "% of the base model's value" : "points"})`;
  const plot = frame(svg, { xs, ys, xName: name, yName: scoreName(), height: 420 }), { fx, fy } = plot;
  draw(svg, "line", { class: "axis", x1: fx(0), x2: fx(0), y1: TOP, y2: plot.bottom });
  const marks = [...rows].sort(greyFirst).map((r) => {
    const { colour, shape } = style(r.label), [px, py] = [fx(scale(r.forgotten)), fy(r.score)];
    if (known(r.low)) whisker(svg, px, fy(r.low), px, fy(r.high), colour);
    if (known(r.forgotten_low)) whisker(svg, fx(scale(r.forgotten_low)), py, fx(scale(r.forgotten_high)), py, colour);
    marker(svg, shape, px, py, colour);
    return { px, py, label: r.label, text: r.label, insist: r.on_front || state.shown.has(r.label), rank: 2 * r.on_front + state.shown.has(r.label),
      tip: `${r.label}: ${state.section.metric} ${format(r.score)}${interval(r.low, r.high)}, forgotten ${format(scale(r.forgotten))}` };
  });
  drawLabels(plot, [...marks].sort((a, b) => b.rank - a.rank), []);
  inspect(svg, marks, (p) => toggle(p.label));
  const front = rows.filter((r) => r.on_front).map((r) => r.label).join(", ");
  at("c-retention").textContent = `${state.section.metric} against what is forgotten of ${retention.metric} on ${at("probe").value}; right is worse, and below zero is better than before training. ${front ? `No method learns more and forgets less than: ${front}.` : ""} Bars are 95 % intervals.`;
};

const showCurves = () => {
  const { section } = state, svg = at("curves"), axis = at("axis").value, split = at("split").value, quantity = at("quantity").value;
  const steps = at("shape").value === "best", log = at("log").checked;
  const lines = section.methods.map((method) => ({ label: method.label, points: curveOf(method, axis, split, quantity, { steps, log }) }))
    .filter((line) => line.points.length).sort(greyFirst);
  const caption = at("c-curves"), levels = [...levelsOf(split, quantity), ...fullLevel(split, quantity)];
  if (!lines.length) { svg.replaceChildren(); caption.textContent = "Nothing to show: choose another split or value."; return; }
  const chosen = lines.filter((line) => state.shown.has(line.label)), within = chosen.length ? chosen : lines;
  const xs = lines.flatMap((line) => line.points.map(([x]) => x));
  const ys = [...lines.flatMap((line) => line.points.map(([, values]) => mean(values))), ...within.flatMap((line) => line.points.flatMap(([, values]) => values)), ...levels.map(({ y }) => y)];
  const widest = Math.max(40, ...chosen.map((line) => textWidth(line.label)));
  const plot = frame(svg, { xs, ys, log, xName: NAMES[axis], yName: `${split === "test" ? section.split : split} ${quantity}`, right: Math.min(widest + 18, 170) });
  const { fx, fy } = plot, inspected = [], ends = [];
  drawLevels(plot, levels);
  for (const { label, points } of lines) {
    const { colour, dash, shape } = style(label), isChosen = state.shown.has(label);
    const stepped = (pick) => points.flatMap(([x, values], i) => {
      const here = `${fx(x).toFixed(1)},${fy(pick(values)).toFixed(1)}`;
      return steps && i ? [`${fx(x).toFixed(1)},${fy(pick(points[i - 1][1])).toFixed(1)}`, here] : [here];
    });
    if (isChosen && points[0][1].length > 1)
      draw(svg, "polygon", { class: "band", points: [...stepped((v) => Math.max(...v)), ...stepped((v) => Math.min(...v)).reverse()].join(" "), fill: colour });
    draw(svg, "polyline", { class: isChosen ? "curve" : "rest", points: stepped(mean).join(" "), stroke: colour, "stroke-dasharray": dash });
    if (!isChosen) continue;
    const every = Math.max(1, Math.floor(points.length / 8)), [x, values] = points[points.length - 1];
    points.forEach(([x, values], i) => {
      if (i % every === 0) marker(svg, shape, fx(x), fy(mean(values)), colour);
      inspected.push({ px: fx(x), py: fy(mean(values)), label, tip: `${label}: ${format(mean(values))} at ${format(x)} ${NAMES[axis]}` });
    });
    ends.push({ px: fx(x), py: fy(mean(values)), text: label, colour });
  }
  drawEnds(plot, ends);
  inspect(svg, inspected);
  const rest = lines.length - chosen.length;
  caption.textContent = `${split === "test" ? section.split : split} ${quantity}${steps ? " of the checkpoint selected on dev so far" : ""} against ${NAMES[axis]}: ${chosen.map((l) => l.label).join(", ") || "no method chosen"}${rest ? `; ${rest} more in grey` : ""}. Lines are means over seeds, bands reach from the lowest to the highest.${listLevels(levels)}`;
};

// Dev score against the learning rate: means over trials, the chosen rate is larger.
const showTuning = () => {
  const { section } = state, svg = at("tuning"), value = at("tuning-value").value;
  const trials = section.tuning.filter((t) => known(t.rate) && known(t[value]));
  at("h-tuning").parentElement.hidden = !section.tuning.some((t) => known(t.rate));
  if (!trials.length) { svg.replaceChildren(); at("c-tuning").textContent = "No trial recorded this value."; return; }
  const lines = [...new Set(trials.map((t) => t.method))].map((label) => {
    const own = trials.filter((t) => t.method === label), rates = [...new Set(own.map((t) => t.rate))].sort((a, b) => a - b);
    return { label, points: rates.map((x) => { const here = own.filter((t) => t.rate === x); return { x, y: mean(here.map((t) => t[value])), chosen: here.some((t) => t.chosen) }; }) };
  }).sort(greyFirst);
  const levels = value === "score" ? levelsOf("dev", section.selection_metric) : [];
  const chosen = lines.filter((line) => state.shown.has(line.label));
  const xs = trials.map((t) => t.rate), ys = [...lines.flatMap((line) => line.points.map((p) => p.y)), ...levels.map(({ y }) => y)];
  const right = Math.min(Math.max(40, ...chosen.map((line) => textWidth(line.label))) + 18, 170);
  const plot = frame(svg, { xs, ys, log: true, xName: "learning rate", yName: value === "score" ? `dev ${section.selection_metric}` : "dev loss", right }), { fx, fy } = plot;
  drawLevels(plot, levels);
  const inspected = [], ends = [];
  for (const { label, points } of lines) {
    const { colour, dash, shape } = style(label), isChosen = state.shown.has(label);
    draw(svg, "polyline", { class: isChosen ? "curve" : "rest", points: points.map((p) => `${fx(p.x)},${fy(p.y)}`).join(" "), stroke: colour, "stroke-dasharray": dash });
    if (!isChosen) continue;
    for (const p of points) {
      marker(svg, shape, fx(p.x), fy(p.y), colour, p.chosen ? 1.7 : 1);
      inspected.push({ px: fx(p.x), py: fy(p.y), label, tip: `${label}: ${format(p.y)} at learning rate ${format(p.x)}${p.chosen ? ", chosen" : ""}` });
    }
    const last = points[points.length - 1];
    ends.push({ px: fx(last.x), py: fy(last.y), text: label, colour });
  }
  drawEnds(plot, ends);
  inspect(svg, inspected);
  const rest = lines.length - chosen.length;
  at("c-tuning").textContent = `${value === "score" ? `dev ${section.selection_metric}` : "dev loss"} of the tuning trials, mean per learning rate; large marks are the rates of the final runs${rest ? `; ${rest} more methods in grey` : ""}.${listLevels(levels)}`;
};

// One small figure per task and model: all methods by score. Buttons, which choose the task.
const showTasks = () => {
  at("h-tasks").parentElement.hidden = data.sections.length < 2;
  at("tasks").replaceChildren(...data.sections.map((section, number) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), [width, height] = [220, 110];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-hidden", "true");
    const blind = Object.values(section.baselines.test[section.metric] || {});
    const ys = [...section.methods.flatMap((m) => [m.score, m.low, m.high]), ...blind].filter(known);
    const [low, high] = [Math.min(...ys), Math.max(...ys)], fy = (y) => height - 8 - (height - 16) * (y - low) / (high - low || 1);
    for (const y of [low, high]) draw(svg, "text", { x: 2, y: fy(y) + (y === low ? 2 : 7), class: "small" }, format(y));
    for (const y of blind) draw(svg, "line", { class: "baseline", x1: 40, x2: width, y1: fy(y), y2: fy(y) });
    const step = (width - 50) / section.methods.length;
    section.methods.forEach((m, i) => {
      const x = 46 + step * (i + 0.5), { colour } = style(m.label);
      if (known(m.low)) whisker(svg, x, fy(m.low), x, fy(m.high), colour);
      draw(svg, "circle", { cx: x, cy: fy(m.score), r: Math.min(3, step), fill: colour });
    });
    const current = section === state.section;
    const share = known(section.separation) ? `${Math.round(100 * section.separation)} % of pairs differ` : "one seed each";
    const button = make("button", { type: "button", class: "task", "aria-pressed": String(current) },
      make("strong", {}, section.task), make("span", { class: "soft" }, `${section.model}: ${section.split} ${section.metric}`), svg,
      make("span", { class: "soft" }, `${share}; highest: ${section.methods[0].label}`));
    button.addEventListener("click", () => { at("section").value = String(number); showSection(); at("tasks").children[number].focus(); });
    return button;
  }));
};
