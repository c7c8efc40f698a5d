// Elements, numbers, tooltips and tables.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const FEW = 10; // rows of a table before "show all"
const NAMES = { gmacs: "GMACs", gmacs_with_tuning: "GMACs with tuning", seconds: "seconds of training",
  wall_seconds: "seconds waited", samples: "samples", tokens: "tokens", joules: "joules",
  peak_memory: "peak memory (GiB)", trainable_parameters: "trainable parameters", checkpoint_bytes: "checkpoint (MiB)",
  gmacs_per_step: "GMACs per step", seconds_per_step: "seconds per step" };
const SCALE = { peak_memory: 2 ** 30, checkpoint_bytes: 2 ** 20 };
// What the page shows: the task, the methods that are drawn in colour (label to number of the colour), the filter.
const state = { section: null, shown: new Map(), matches: () => true };

const make = (tag, attributes = {}, ...inner) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...inner);
  return node;
};
const draw = (parent, tag, attributes = {}, text = "") => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  parent.append(node);
  return node;
};
const format = (x) => {
  if (x === null || x === undefined || !isFinite(x)) return "–";
  const size = Math.abs(x);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return x.toExponential(2);
  return x.toLocaleString("en", { maximumSignificantDigits: 4 });
};
const known = (x) => x !== null && x !== undefined;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const fill = (id, values, text = (v) => NAMES[v] || v, wanted = null) => {
  at(id).replaceChildren(...values.map((v) => make("option", { value: v }, text(v))));
  at(id).value = values.includes(wanted) ? wanted : values[0];
};

// Colours of the chosen methods: each keeps its own while it is chosen.
const STYLES = 32;
const styleOf = (number) => ({ colour: `var(--c${number % 8})`,
  dash: ["", "7 4", "2 3", "9 3 2 3"][Math.floor(number / 8) % 4],
  shape: ["circle", "square", "diamond", "triangle"][number % 4] });
const style = (label) => (state.shown.has(label) ? styleOf(state.shown.get(label)) : { colour: "var(--rest)", dash: "", shape: "circle" });
const choose = (labels) => {
  const kept = new Map(labels.filter((label) => state.shown.has(label)).map((label) => [label, state.shown.get(label)]));
  for (const label of labels) {
    if (kept.has(label)) continue;
    const taken = new Set(kept.values());
    let number = 0;
    while (taken.has(number) && number < STYLES) number++;
    kept.set(label, number < STYLES ? number : kept.size);
  }
  state.shown = kept;
};

// One tooltip for points of figures and for terms.
const tip = at("tip");
const showTip = (text, x, y) => {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), edge = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(x + 12, edge - box.width - 4))}px`;
  tip.style.top = `${y + box.height + 24 > innerHeight ? Math.max(4, y - box.height - 8) : y + 16}px`;
};
const hideTip = () => { tip.hidden = true; };
const explain = (node, term) => {
  const text = data.terms[term];
  if (!text) return;
  node.classList.add("term");
  node.setAttribute("aria-describedby", `term-${Object.keys(data.terms).indexOf(term)}`);
  const show = () => { const box = node.getBoundingClientRect(); showTip(text, box.left, box.bottom - 8); };
  node.addEventListener("pointerenter", show);
  node.addEventListener("focus", show);
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hideTip);
};
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// Hide a table's rows that do not match or are beyond the first ten; its button shows all.
const fold = (table, matches = () => true) => {
  let button = table.parentElement.nextElementSibling;
  if (!button?.classList.contains("fold")) {
    button = make("button", { type: "button", class: "fold", "aria-expanded": "false" });
    table.parentElement.after(button);
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
      table.fold();
    });
  }
  table.fold = () => {
    const open = button.getAttribute("aria-expanded") === "true";
    let number = 0;
    for (const row of table.tBodies[0].rows) {
      const match = matches(row);
      number += match;
      row.hidden = !match || (number > FEW && !open);
    }
    button.hidden = number <= FEW;
    button.textContent = open ? `Show the first ${FEW}` : `Show all ${number}`;
  };
  table.fold();
};
const sortable = (table) => [...table.tHead.rows[0].cells].forEach((cell, i) => {
  const button = make("button", { type: "button" }, ...cell.childNodes);
  cell.replaceChildren(button);
  if (cell.dataset.term) explain(button, cell.dataset.term);
  button.addEventListener("click", () => {
    const down = cell.getAttribute("aria-sort") === "ascending";
    [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const text = row.cells[i].dataset.value ?? row.cells[i].textContent, number = parseFloat(text.replace(/,/g, ""));
      return isNaN(number) ? text : number;
    };
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b))));
    table.fold?.();
  });
});
