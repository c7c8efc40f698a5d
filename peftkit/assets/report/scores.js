// Scores and costs of methods along their runs, as peftkit.compare.learning_curves has them.
const better = (a, b) => (state.section.higher ? a > b : a < b);

// The values on a split of the checkpoint selected on dev, up to each evaluation.
const bestSoFar = (run, split, quantity) => {
  let best = null, reached = null;
  return run.dev[state.section.selection_metric].map((dev, i) => {
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
const within = (run, axis, budget) => {
  const costs = run.costs[axis], scores = bestSoFar(run, "test", state.section.metric);
  if (ended(run, axis, budget)) return scores[costs.length - 1];
  let found = null;
  costs.forEach((cost, i) => { if (cost <= budget * (1 + 1e-9)) found = scores[i]; });
  return found;
};
// Value of a run at a cost: step function or linear interpolation.
const valueAt = (costs, values, x, steps) => {
  let last = -1;
  for (let i = 0; i < costs.length && costs[i] <= x * (1 + 1e-9); i++) last = i;
  if (last < 0 || x > costs[costs.length - 1] * (1 + 1e-9)) return null;
  if (steps || last === costs.length - 1) return values[last];
  return values[last] + (x - costs[last]) / (costs[last + 1] - costs[last] || 1) * (values[last + 1] - values[last]);
};
// The costs that all runs of a method have reached, with the values of each run there.
const curveOf = (method, axis, split, quantity, { steps, log }) => {
  const runs = method.runs.map((run) => {
    const values = steps ? bestSoFar(run, split, quantity) : run[split][quantity] || [];
    const kept = (run.costs[axis] || []).map((c, i) => [c, values[i]]).filter(([c, v]) => known(v) && (!log || c > 0));
    return { costs: kept.map(([c]) => c), values: kept.map(([, v]) => v) };
  }).filter((run) => run.costs.length);
  const grid = [...new Set(runs.flatMap((run) => run.costs))].sort((a, b) => a - b);
  return grid.map((x) => [x, runs.map((run) => valueAt(run.costs, run.values, x, steps)).filter(known)])
    .filter(([, values]) => values.length === runs.length);
};
const total = (method, axis) => (known(method.totals[axis]) ? method.totals[axis] / (SCALE[axis] || 1) : null);
// The lines of a figure: the input-blind baselines, and the final score of full fine-tuning.
const levelsOf = (split, quantity) => Object.entries((state.section.baselines[split] || {})[quantity] || {})
  .map(([name, y]) => ({ name, y, kind: "baseline" }));
const fullLevel = (split, quantity) => {
  const full = state.section.methods.find((m) => m.label === state.section.baseline);
  if (!full || split !== "test" || quantity !== state.section.metric) return [];
  return [{ name: full.label, y: full.score, kind: "full" }];
};
const listLevels = (levels) => (levels.length ? ` Dotted lines: ${levels.map(({ name, y }) => `${name} ${format(y)}`).join(", ")}.` : "");
