// Axes, marks and labels of figures, as SVG.
const ticks = (low, high, count) => {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * (1 - 1e-9)), found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(Math.abs(x) < step * 1e-9 ? 0 : x);
  return found;
};
const logTicks = (low, high, count) => {
  const all = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const k of [1, 2, 5]) { const x = k * 10 ** p; if (x >= low * 0.999 && x <= high * 1.001) all.push([x, k]); }
  const powers = all.filter(([, k]) => k === 1), kept = all.length > 2 * count && powers.length > 1 ? powers : all;
  if (kept.length < 2) return ticks(low, high, count);
  const every = Math.ceil(kept.length / (count + 2));
  return kept.filter((_, i) => i % every === 0).map(([x]) => x);
};
const isWide = (xs) => Math.max(...xs) / Math.min(...xs) > 8;
const LEFT = 58, RIGHT = 14, TOP = 14, BOTTOM = 46;

// Draw axes over the width that there is, so that text keeps its size on a phone. `right` is the margin for labels.
const frame = (svg, { most = 760, height = 400, xs, ys, log = false, xName, yName, right = RIGHT }) => {
  svg.replaceChildren();
  const width = Math.max(280, Math.min(most, svg.parentElement.clientWidth || most));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [x2, bottom] = [width - right, height - BOTTOM];
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (log) { const room = (x1 / x0) ** 0.04 || 1; x0 /= room; x1 *= room; if (x0 === x1) { x0 /= 2; x1 *= 2; } }
  else { const room = (x1 - x0) * 0.03 || Math.abs(x0) * 0.1 || 1; if (x0 !== 0) x0 -= room; x1 += room; }
  const pad = (y1 - y0) * 0.06 || 0.05;
  y0 -= pad; y1 += pad;
  const fx = log ? (x) => LEFT + (x2 - LEFT) * Math.log(x / x0) / Math.log(x1 / x0) : (x) => LEFT + (x2 - LEFT) * (x - x0) / (x1 - x0);
  const fy = (y) => bottom - (bottom - TOP) * (y - y0) / (y1 - y0);
  for (const y of ticks(y0, y1, 6)) {
    draw(svg, "line", { class: "grid", x1: LEFT, x2, y1: fy(y), y2: fy(y) });
    draw(svg, "text", { x: LEFT - 6, y: fy(y) + 4, "text-anchor": "end" }, format(y));
  }
  const count = Math.max(2, Math.floor((x2 - LEFT) / 90));
  for (const x of log ? logTicks(x0, x1, count) : ticks(x0, x1, count)) {
    draw(svg, "line", { class: "axis", x1: fx(x), x2: fx(x), y1: bottom, y2: bottom + 5 });
    draw(svg, "text", { x: fx(x), y: bottom + 19, "text-anchor": "middle" }, format(x));
  }
  draw(svg, "line", { class: "axis", x1: LEFT, x2, y1: bottom, y2: bottom });
  draw(svg, "text", { x: (LEFT + x2) / 2, y: height - 8, "text-anchor": "middle" }, xName);
  const middle = (TOP + bottom) / 2;
  draw(svg, "text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, yName);
  return { svg, fx, fy, x2, bottom, width, height };
};
const marker = (svg, shape, x, y, colour, size = 1) => {
  const paths = { circle: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", square: "M-4,-4h8v8h-8z", diamond: "M0,-5l5,5l-5,5l-5,-5z", triangle: "M0,-5l5,9h-10z" };
  return draw(svg, "path", { class: "mark", d: paths[shape], fill: colour, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})` });
};
const whisker = (svg, x1, y1, x2, y2, colour) => draw(svg, "line", { class: "whisker", x1, x2, y1, y2, stroke: colour });

// Horizontal lines at scores of baselines and of full fine-tuning; close ones share a label.
const drawLevels = ({ svg, fy, x2 }, levels) => {
  const groups = [];
  for (const { name, y, kind } of [...levels].sort((a, b) => a.y - b.y)) {
    draw(svg, "line", { class: kind, x1: LEFT, x2, y1: fy(y), y2: fy(y) });
    const last = groups[groups.length - 1];
    if (last && fy(last.y) - fy(y) < 12) { last.names.push(name); last.y = y; } else groups.push({ names: [name], y });
  }
  return groups.map(({ names, y }) => {
    draw(svg, "text", { class: "of-baseline", x: LEFT + 4, y: fy(y) - 3 }, names.join(", "));
    return { x: LEFT + 4, y: fy(y) - 15, width: 6.4 * names.join(", ").length, height: 13 };
  });
};

// Label points without overlaps: beside the point if there is room, else at the end of a leader line, else not at all.
const measure = document.createElement("canvas").getContext("2d");
const textWidth = (text) => { measure.font = "12px system-ui, sans-serif"; return measure.measureText(text).width + 2; };
const fit = (text, width) => {
  if (textWidth(text) <= width) return text;
  let kept = text.length;
  while (kept > 1 && textWidth(`${text.slice(0, kept)}…`) > width) kept--;
  return `${text.slice(0, kept)}…`;
};
const overlaps = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
const drawLabels = ({ svg, x2, bottom }, points, taken) => {
  const boxes = [...taken, ...points.map((p) => ({ x: p.px - 4, y: p.py - 4, width: 8, height: 8 }))];
  const free = (box) => box.x >= LEFT && box.x + box.width <= x2 && box.y >= 2 && box.y + box.height <= bottom && !boxes.some((other) => overlaps(box, other));
  for (const p of points.filter((each) => each.text)) {
    const width = textWidth(p.text), height = 14, near = [];
    for (const reach of p.insist ? [8, 24, 44, 70, 100] : [8])
      for (const angle of [-0.5, 0.5, -2.6, 2.6, 0, Math.PI, -1.57, 1.57, -1, 1, -2.1, 2.1]) {
        const [x, y] = [p.px + reach * Math.cos(angle), p.py + reach * Math.sin(angle)];
        near.push({ x: Math.cos(angle) < -0.1 ? x - width : Math.cos(angle) < 0.1 ? x - width / 2 : x, y: y - height / 2, width, height, reach, from: [x, y] });
      }
    const box = near.find(free);
    if (!box) continue;
    boxes.push(box);
    if (box.reach > 8) draw(svg, "line", { class: "leader-line", x1: p.px, y1: p.py, x2: box.from[0], y2: box.from[1] });
    draw(svg, "text", { class: "label", x: box.x + 1, y: box.y + 11 }, p.text);
  }
};
// Labels at the right end of lines, moved apart; those for which there is no room are left out.
const drawEnds = ({ svg, x2, bottom, width }, ends) => {
  const room = Math.floor((bottom - TOP) / 14), kept = ends.slice(0, room).sort((a, b) => a.py - b.py);
  kept.forEach((end, i) => { end.at = Math.max(end.py, i ? kept[i - 1].at + 14 : TOP); });
  for (let i = kept.length - 1, low = bottom; i >= 0; i--, low -= 14) {
    if (kept[i].at > low) kept[i].at = low; else break;
  }
  for (const { px, py, at: y, text, colour } of kept) {
    draw(svg, "line", { class: "leader-line", x1: px + 3, y1: py, x2: x2 + 8, y2: y });
    draw(svg, "text", { class: "label", x: x2 + 11, y: y + 4, style: `fill:${colour}` }, fit(text, width - x2 - 13));
  }
};

// Show what is at a point under the pointer, or at the one chosen with the arrow keys.
const inspect = (svg, points, onClick = () => {}) => {
  let current = -1;
  const place = (p) => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    return [box.left + p.px * scale, box.top + p.py * scale];
  };
  const nearest = (event) => {
    let best = null, distance = 22;
    for (const p of points) {
      const [x, y] = place(p), d = Math.hypot(event.clientX - x, event.clientY - y);
      if (d < distance) { best = p; distance = d; }
    }
    return best;
  };
  svg.onpointermove = (event) => { const p = nearest(event); if (p) showTip(p.tip, ...place(p)); else hideTip(); };
  svg.onpointerleave = svg.onblur = hideTip;
  svg.onclick = (event) => { const p = nearest(event); if (p) onClick(p); };
  svg.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && points[current]) { onClick(points[current]); return; }
    if (!step || !points.length) return;
    event.preventDefault();
    current = (current + step + points.length) % points.length;
    showTip(points[current].tip, ...place(points[current]));
  };
};
