"""Draws comparisons as figures, and writes their LaTeX tables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.compare.across import BY_SCORE, AcrossTasks, compare_across_tasks, describe_tasks
from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import cost, has_cost
from peftkit.compare.output.across_pages import render as render_across
from peftkit.compare.output.cost_figures import draw_costs, draw_pareto
from peftkit.compare.output.figure_files import save_figure
from peftkit.compare.output.figure_style import (
    COLOURS,
    MARKERS,
    NAMES,
    draw_levels,
    figure_style,
    line_look,
    subplots,
)
from peftkit.compare.output.forgetting_figures import common_probes, draw_forgetting
from peftkit.compare.output.table_formats import render
from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.compare.regret import RegretCurves, regret_curves
from peftkit.compare.retention.forgetting import choose_probe
from peftkit.compare.run_curve import RunCurve
from peftkit.errors import InputError, RunError

MAX_METHODS = 8
"""The most methods per figure, so that lines stay distinguishable: the best ones and the baseline are drawn."""
COST_AXES = ("gmacs", "gmacs_with_tuning", "seconds", "wall_seconds", "samples", "tokens", "joules")


def draw_figures(groups: Sequence[RunGroup], folder: Path, forms: Sequence[str], **options: Any) -> list[Path]:
    """Draw all figures and write the LaTeX tables, per task and model and across them.

    Args:
        groups: the runs, one group per task and model.
        folder: where the files are written; created if it does not exist.
        forms: file formats, of ``figure_files.FORMS``.
        options: keyword arguments of ``compare``.

    Returns:
        The paths of the files.

    Raises:
        InputError: the runs cannot be compared.
        RunError: matplotlib is not installed, or a file cannot be written.
    """
    with figure_style():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _write_figures(groups, folder, forms, options)
        except OSError as error:
            raise RunError(f"{error.filename or folder} cannot be written: {error.strerror}") from error


def _write_figures(
    groups: Sequence[RunGroup], folder: Path, forms: Sequence[str], options: Mapping[str, Any]
) -> list[Path]:
    files = []
    for group in groups:
        comparison = compare(group, **options)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{group.task}-{Path(group.model).name}")
        for name, figure in _draw_group(group, comparison):
            files += save_figure(figure, folder / f"{stem}-{name}", forms)
        files.append(folder / f"{stem}.tex")
        files[-1].write_bytes(render([comparison], "latex"))
    across_tasks = _compare_across(groups, options)
    if across_tasks:
        if across_tasks.decided_by == BY_SCORE:
            files += save_figure(_draw_profiles(across_tasks), folder / "across-profile", forms)
        files.append(folder / "across.tex")
        files[-1].write_bytes(render_across(across_tasks, "latex"))
    return files


def draw_comparison(group: RunGroup, comparison: Comparison, kind: str, probe: str | None = None) -> Any:
    """Draw one figure of a comparison.

    Args:
        group: the runs.
        comparison: their comparison.
        kind: ``curves``, the scores against the comparison's cost, ``pareto``, each method's score and cost, or
            ``forgetting``, what is forgotten on a probe.
        probe: the name of the probe; None for the only one.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: there is no such kind, or the cost does not grow in the course of a run.
        RunError: matplotlib is not installed.
    """
    if kind not in ("curves", "pareto", "forgetting"):
        raise InputError(f"no figure is called {kind!r}; known are curves, pareto, forgetting")
    if kind != "pareto" and comparison.by not in COST_AXES:
        raise InputError(f"{comparison.by!r} does not grow in the course of a run; draw 'pareto' instead of 'curves'")
    with figure_style():
        if kind == "pareto":
            figure = draw_pareto(group, comparison)
        elif kind == "forgetting":
            figure = draw_forgetting(group, comparison, _choose_methods(comparison), choose_probe(group, probe))
        else:
            figure = _draw_curves(group, comparison, _choose_methods(comparison), comparison.by)
        figure.draw_without_rendering()  # ticks get the style of the first drawing
        return figure


def draw_run(curve: RunCurve, by: str, title: str) -> Any:
    """Draw the learning curve of one run: train, dev and test scores, and the baselines.

    Args:
        curve: the scores.
        by: the cost axis.
        title: the title of the figure.

    Returns:
        A matplotlib figure.

    Raises:
        RunError: matplotlib is not installed.
    """
    with figure_style():
        figure, panel = subplots(figsize=(6, 3.6))
        for index, (split, points) in enumerate(curve.lines.items()):
            costs, scores = zip(*points, strict=True)
            look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            panel.plot(costs, scores, markersize=3, label=split, **look)
        panel.set(xlabel=NAMES.get(by, by), ylabel=curve.metric)
        draw_levels(panel, curve.baselines)
        figure.legend(loc="outside right center", fontsize=8)
        figure.suptitle(title, fontsize=10)
        figure.draw_without_rendering()
        return figure


def _compare_across(groups: Sequence[RunGroup], options: Mapping[str, Any]) -> AcrossTasks | None:
    """Compare across tasks and models; None if they have too few methods in common."""
    try:
        return compare_across_tasks(
            groups, **{key: options[key] for key in ("by", "metric", "baseline") if key in options}
        )
    except InputError:
        return None


def _choose_methods(comparison: Comparison) -> list[str]:
    """The methods to draw: the best ones, and the baseline."""
    chosen = [row.method for row in comparison.lines[:MAX_METHODS]]
    if comparison.baseline and comparison.baseline not in chosen:
        chosen[-1] = comparison.baseline
    return chosen


def _draw_group(group: RunGroup, comparison: Comparison) -> Iterator[tuple[str, Any]]:
    chosen = _choose_methods(comparison)
    for axis in COST_AXES:
        if all(has_cost(run, axis) for label in chosen for run in group.runs[label].values()):
            yield f"curves-{axis}", _draw_curves(group, comparison, chosen, axis)
    yield from draw_costs(group, comparison)
    for name in common_probes(group):
        yield f"forgetting-{name}", draw_forgetting(group, comparison, chosen, name)
    tried = regret_curves(group)
    if tried and any(trial.learning_rate for trial in tried.tried):
        yield "regret", _draw_regret(group, tried, [label for label in chosen if label in tried.methods])


def _draw_regret(group: RunGroup, curves: RegretCurves, chosen: Sequence[str]) -> Any:
    """Dev score and loss against the learning rate, mean over its trials; the chosen rate is marked."""
    values = (("score", f"dev {curves.metric}"), ("loss", "dev loss"))
    figure, panels = subplots(1, len(values), figsize=(8.7, 3.6), sharex=True)
    for panel, (value, name) in zip(panels, values, strict=True):
        for index, label in enumerate(chosen):
            points: dict[float, list[float]] = defaultdict(list)
            best: set[float] = set()
            for trial in curves.tried:
                number = getattr(trial, value)
                if trial.method == label and trial.regret is not None and trial.learning_rate and number is not None:
                    points[trial.learning_rate].append(number)
                    best |= {trial.learning_rate} if trial.chosen else set()
            look = line_look(index)
            marker = MARKERS[index % len(MARKERS)]
            rates = sorted(points)
            panel.plot(rates, [np.mean(points[x]) for x in rates], marker=marker, markersize=3, label=label, **look)
            chosen_rates = [x for x in rates if x in best]
            panel.scatter(
                chosen_rates, [np.mean(points[x]) for x in chosen_rates], color=look["color"], marker=marker, s=50
            )
        panel.set(xscale="log", xlabel="learning rate", ylabel=name)
        if value == "score":
            _draw_baselines(panel, group, curves.metric, "dev")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.suptitle(f"{curves.task} with {curves.model}: tuning trials", fontsize=10)
    return figure


def _draw_curves(group: RunGroup, comparison: Comparison, chosen: Sequence[str], axis: str) -> Any:
    """Train, dev and test scores against cost: the mean over seeds, with a band from the lowest to the highest."""
    runs = [run for label in chosen for run in group.runs[label].values()]
    splits = [
        s
        for s in ("train", "dev", "test")
        if all(len(_score_curve(run, axis, s, comparison.metric)[0]) for run in runs)
    ]
    size = (1.5 + 3.6 * len(splits), 3.6)
    figure, panels = subplots(1, len(splits), figsize=size, sharex=True, squeeze=False)
    for panel, split in zip(panels[0], splits, strict=True):
        for index, label in enumerate(chosen):
            lines = [_score_curve(run, axis, split, comparison.metric) for run in group.runs[label].values()]
            grid = np.unique(np.concatenate([costs for costs, _ in lines]))
            grid = grid[(grid >= max(c[0] for c, _ in lines)) & (grid <= min(c[-1] for c, _ in lines))]
            if not len(grid):
                continue
            values = np.stack([np.interp(grid, *line) for line in lines])
            look = line_look(index)
            marker = MARKERS[index % len(MARKERS)]
            panel.plot(grid, values.mean(0), marker=marker, markersize=3, label=label, **look)
            if len(values) > 1:
                panel.fill_between(grid, values.min(0), values.max(0), alpha=0.12, color=look["color"], linewidth=0)
        panel.set(
            title=group.test_split if split == "test" else split, xlabel=NAMES.get(axis, axis), ylabel=comparison.metric
        )
        _draw_baselines(panel, group, comparison.metric, split)
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    more = f", the best {len(chosen)} of {len(comparison.lines)}" if len(chosen) < len(comparison.lines) else ""
    figure.suptitle(f"{comparison.task} with {comparison.model}{more}", fontsize=10)
    return figure


def _score_curve(run: LoadedRun, axis: str, split: str, metric: str) -> tuple[Any, Any]:
    rows = [row for row in run.evaluations if (row.get(split) or {}).get(metric) is not None]
    return np.array([cost(row, axis) for row in rows]), np.array([float(row[split][metric]) for row in rows])


def _draw_baselines(panel: Any, group: RunGroup, metric: str, split: str) -> None:
    """Dotted, labelled lines at the scores of the input-blind baselines."""
    summaries = (run.summary for runs in group.runs.values() for run in runs.values())
    draw_levels(panel, mean_baseline_scores(summaries, metric, split))


def _draw_profiles(aggregate: AcrossTasks) -> Any:
    """The share of tasks and models in which a method reaches each normalised score, with 95 % intervals."""
    figure, panel = subplots(figsize=(7, 4.2))
    for index, row in enumerate(aggregate.lines[:MAX_METHODS]):
        look = line_look(index)
        panel.plot(aggregate.thresholds, [each.mean for each in row.profile], label=row.method, **look)
        ends = [each.low for each in row.profile], [each.high for each in row.profile]
        panel.fill_between(aggregate.thresholds, *ends, alpha=0.12, color=look["color"], linewidth=0)
    panel.set(xlabel="normalised score", ylabel="share of tasks and models that reach it", ylim=(-0.02, 1.02))
    figure.legend(loc="outside right center", fontsize=8)
    more = f", the best {MAX_METHODS} of {len(aggregate.lines)}" if len(aggregate.lines) > MAX_METHODS else ""
    figure.suptitle(f"{describe_tasks(aggregate.deciding_tasks)}{more}", fontsize=10)
    return figure
