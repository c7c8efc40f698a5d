"""Draws the costs of methods: score against cost with the Pareto front, costs of a step, and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.compare.comparison import Comparison, MethodRow
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.learning_curves import cost, peak_memory
from peftkit.compare.output.figure_style import COLOURS, DOTTED, LABEL_DISTANCE, MARKERS, NAMES, draw_levels, subplots
from peftkit.compare.output.label_layout import label_points, panel_height
from peftkit.compare.recorded_baselines import mean_baseline_scores, merge_close_labels
from peftkit.errors import InputError

FRONT = {"color": "#333333", "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}

EQUAL = 1.1
"""Costs whose ratio is less are about the same."""


def draw_costs(group: RunGroup, comparison: Comparison) -> Iterator[tuple[str, Any]]:
    """Draw all figures of costs.

    Args:
        group: The runs.
        comparison: Their comparison.

    Yields:
        The name and the figure.
    """
    per_step = {row.method: _cost_per_step(group, row.method, "gmacs") for row in comparison.lines}
    base = per_step.get(comparison.baseline or "")
    if all(per_step.values()):  # imported results may lack MACs
        yield "gmacs-per-step", _draw_bars(comparison, {"": per_step}, "GMACs per step")
        yield "speed", _draw_speed(group, comparison, per_step)
    if base and all(per_step.values()):
        relative = {label: value / base for label, value in per_step.items()}
        name = f"GMACs per step, {comparison.baseline} = 1"
        yield "gmacs-per-step-relative", _draw_bars(comparison, {"": relative}, name)
    memory = _memory_parts(group, comparison)
    if memory:
        yield "memory", _draw_bars(comparison, memory, "peak memory (GiB)")
    yield "pareto", draw_pareto(group, comparison)


def draw_pareto(group: RunGroup, comparison: Comparison) -> Any:
    """Draw the score and the cost of each method, and the Pareto front; where all cost the same, a row per method.

    Args:
        group: The runs.
        comparison: Their comparison.

    Returns:
        A matplotlib figure.
    """
    summaries = (run.summary for runs in group.runs.values() for run in runs.values())
    baselines = mean_baseline_scores(summaries, comparison.metric, "test")
    costs = [row.cost for row in comparison.lines]
    if len(costs) > 1 and max(costs) < EQUAL * min(costs):
        return _draw_rows(comparison, baselines)
    return _draw_scatter(comparison, baselines)


def _draw_scatter(comparison: Comparison, baselines: Mapping[str, float]) -> Any:
    rows = comparison.lines
    figure, panel = subplots(figsize=(6.4, panel_height(len(rows), 3.4) + 0.9))
    for index, row in enumerate(rows):
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        panel.errorbar(row.cost, row.score, _error_bars(row), alpha=0.6, markersize=4, linewidth=0.8, **look)
    on_front = comparison.fronts.get(comparison.by, ())
    front = sorted((row.cost, row.score) for row in rows if row.method in on_front)
    if front:
        end = max(row.cost for row in rows)
        costs, scores = [*(x for x, _ in front), end], [*(y for _, y in front), front[-1][1]]
        panel.plot(costs, scores, drawstyle="steps-post", gid="front", **FRONT)
    panel.set(xlabel=NAMES.get(comparison.by, comparison.by), ylabel=_score_name(comparison))
    draw_levels(panel, baselines)
    dashed = "dashed: Pareto front" if front else "no method is surely on the Pareto front"
    _title(figure, comparison, f"score and cost\n{_intervals(comparison)}{dashed}")
    label_points(figure, panel, [(row.method, row.cost, row.score) for row in rows])
    return figure


def _draw_rows(comparison: Comparison, baselines: Mapping[str, float]) -> Any:
    """A row per method, the best on top: methods that cost the same differ in their score only."""
    rows = comparison.lines[::-1]
    figure, panel = subplots(figsize=(6, 1.2 + 0.19 * len(rows)))
    front = comparison.fronts.get(comparison.by, ())
    for place, row in enumerate(rows):
        colour = COLOURS[0] if row.method in front else "#777777"
        bars = _error_bars(row)
        panel.errorbar(row.score, place, xerr=bars, color=colour, marker="o", markersize=4, linewidth=0.9)
    panel.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=7)
    for value in baselines.values():
        panel.axvline(value, **DOTTED)
    low, high = panel.get_xlim()
    for name, value in merge_close_labels(baselines, LABEL_DISTANCE * (high - low)):
        panel.annotate(
            f" {name}", (value, 0), xycoords=panel.get_xaxis_transform(), fontsize=6, rotation=90, ha="right"
        )
    panel.set(xlabel=_score_name(comparison), ylim=(-0.8, len(rows) - 0.2))
    panel.grid(axis="y", visible=False)
    cost_range = " – ".join(f"{end(row.cost for row in rows):,.4g}" for end in (min, max))
    blue = "blue: on the Pareto front" if front else "no method is surely on the Pareto front"
    name = NAMES.get(comparison.by, comparison.by)
    _title(figure, comparison, f"score at {cost_range} {name}\n{_intervals(comparison)}{blue}")
    return figure


def _draw_bars(comparison: Comparison, parts: Mapping[str, Mapping[str, float]], name: str) -> Any:
    """Bars of each method's value, or of its parts on top of each other.

    Args:
        comparison: The comparison.
        parts: Values by method, for each part.
        name: What they are, with the unit.
    """
    totals = {label: sum(values[label] for values in parts.values()) for label in next(iter(parts.values()))}
    order = sorted(totals, key=totals.__getitem__)
    figure, panel = subplots(figsize=(6, 0.9 + 0.24 * len(order)))
    left = [0.0] * len(order)
    for (part, values), colour in zip(parts.items(), ("#b0b0b0", COLOURS[0])[-len(parts) :], strict=True):
        lengths = [values[label] for label in order]
        bars = panel.barh(order, lengths, left=left, color=colour, label=part or None)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    panel.bar_label(bars, labels=[f"{totals[label]:.3g}" for label in order], padding=2, fontsize=8)
    panel.set(xlabel=name)
    panel.grid(axis="y", visible=False)
    panel.margins(x=0.12, y=0.02)
    if len(parts) > 1:
        figure.legend(loc="outside lower center", ncols=len(parts), fontsize=8)
    _title(figure, comparison, name)
    return figure


def _draw_speed(group: RunGroup, comparison: Comparison, per_step: dict[str, float]) -> Any:
    """Seconds against GMACs per step: with equal hardware utilization, all methods lie on one line."""
    points = [
        (row.method, per_step[row.method], _cost_per_step(group, row.method, "seconds")) for row in comparison.lines
    ]
    figure, panel = subplots(figsize=(6.4, panel_height(len(points), 3.4) + 0.8))
    for index, (_, x, y) in enumerate(points):
        panel.scatter(x, y, color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], s=22)
    panel.set(xlabel="GMACs per step", ylabel="seconds per step")
    _title(figure, comparison, "time and work of a step")
    label_points(figure, panel, points)
    return figure


def _memory_parts(group: RunGroup, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Peak memory in GiB by part: that of the process before training where all runs recorded it, and the rest."""
    peaks = {row.method: row.peak_memory / 2**30 for row in comparison.lines if row.peak_memory is not None}
    if not peaks:
        return {}
    trained = {label: training_memory([run.summary["cost"] for run in group.runs[label].values()]) for label in peaks}
    known = {label: value / 2**30 for label, value in trained.items() if value is not None}
    if len(known) < len(peaks):
        return {"": peaks}
    before = {label: peaks[label] - known[label] for label in peaks}
    if not any(value > 0 for value in before.values()):  # an accelerator holds nothing but the training
        return {"": peaks}
    return {"process before training": before, "training": known}


def training_memory(costs: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean peak memory in bytes without what the process had before training; None if a run did not record that.

    Args:
        costs: The costs in the runs' summaries.
    """
    parts = []
    for each in costs:
        peak, before = peak_memory(each), each.get("host_bytes_before_training")
        if each.get("peak_device_bytes"):
            before = 0.0
        if peak is None or before is None:
            return None
        parts.append(max(0.0, peak - float(before)))
    return sum(parts) / len(parts) if parts else None


def _score_name(comparison: Comparison) -> str:
    return f"{comparison.test_split} {comparison.metric}"


def _intervals(comparison: Comparison) -> str:
    return "bars: 95 % intervals; " if any(row.low is not None for row in comparison.lines) else ""


def _title(figure: Any, comparison: Comparison, text: str) -> None:
    figure.suptitle(f"{comparison.task} with {comparison.model}: {text}", fontsize=10)


def _error_bars(row: MethodRow) -> Any:
    if row.low is None or row.high is None:
        return None
    return [[max(0.0, row.score - row.low)], [max(0.0, row.high - row.score)]]


def _cost_per_step(group: RunGroup, label: str, axis: str) -> float:
    runs = group.runs[label].values()
    steps = sum(float(run.evaluations[-1]["step"]) for run in runs)
    try:
        return sum(cost(run.evaluations[-1], axis) for run in runs) / steps if steps else 0.0
    except InputError:
        return 0.0
