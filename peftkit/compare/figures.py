"""Comparisons as figures and LaTeX tables for papers: what PEFT-by-time draws, and the Pareto front, from any runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.compare.across import SCORE, Across, across, places_of
from peftkit.compare.across import written as written_across
from peftkit.compare.baselines import labelled, mean_scores
from peftkit.compare.comparison import Comparison, Line, compare
from peftkit.compare.curves import cost, measures
from peftkit.compare.gather import Run, Section
from peftkit.compare.regret import Regret, regret
from peftkit.compare.tables import written
from peftkit.errors import InputError, RunError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b", "#7f7f7f")  # Okabe, Ito (2008)
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^")
DOTTED = {"color": "#555555", "linewidth": 0.7, "linestyle": (0, (1, 2)), "zorder": 0}
CLOSE = 0.04
"""Baselines that are closer than this share of a panel's height share a label."""
SHOWN = 8
"""Lines that can be told apart in one figure; of more methods the best are drawn, and the baseline."""
ALONG = ("gmacs", "gmacs_with_tuning", "seconds", "samples", "tokens", "joules")
NAMES = {
    "gmacs": "GMACs",
    "gmacs_with_tuning": "GMACs with tuning",
    "seconds": "seconds of training",
    "joules": "joules",
}


def draw(sections: Sequence[Section], folder: Path, forms: Sequence[str], **options: Any) -> list[Path]:
    """Draws all figures of all sections, and of several together, and writes their tables.

    Args:
        sections: the runs, by task and model.
        folder: where the files go; it is made if need be.
        forms: ``svg``, ``png``, ``pdf``.
        options: those of ``compare``.

    Returns:
        The files.

    Raises:
        InputError: the runs cannot be compared.
        RunError: matplotlib is not installed, or a file cannot be written.
    """
    plt = _pyplot()
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections:
            found = compare(section, **options)
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{section.task}-{Path(section.model).name}")
            for name, figure in _figures(section, found, plt):
                files += _saved(figure, folder / f"{stem}-{name}", forms)
                plt.close(figure)
            files.append(folder / f"{stem}.tex")
            files[-1].write_bytes(written([found], "latex"))
        together = _together(sections, options)
        if together:
            if together.decided_by == SCORE:
                figure = _profiles(together, plt)
                files += _saved(figure, folder / "across-profile", forms)
                plt.close(figure)
            files.append(folder / "across.tex")
            files[-1].write_bytes(written_across(together, "latex"))
    except OSError as error:
        raise RunError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return files


def _saved(figure: Any, path: Path, forms: Sequence[str]) -> list[Path]:
    """The files that a figure is written to; without dates, so that the same runs give the same."""
    files = []
    for form in forms:
        files.append(path.with_name(f"{path.name}.{form}"))
        metadata = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else None
        figure.savefig(files[-1], metadata=metadata, dpi=160)
    return files


def _together(sections: Sequence[Section], options: Mapping[str, Any]) -> Across | None:
    """The methods over all tasks and models; None where there are too few of them in common."""
    try:
        return across(sections, **{key: options[key] for key in ("by", "metric", "baseline") if key in options})
    except InputError:
        return None


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise RunError("figures need matplotlib: pip install 'peftkit[figures]'") from error
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "peftkit", "svg.fonttype": "none", "axes.spines.top": False})
    plt.rcParams.update({"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9})
    return plt


def _figures(section: Section, found: Comparison, plt: Any) -> Iterator[tuple[str, Any]]:
    chosen = [line.method for line in found.lines[:SHOWN]]
    if found.baseline and found.baseline not in chosen:
        chosen[-1] = found.baseline
    for axis in ALONG:
        if all(measures(run, axis) for label in chosen for run in section.runs[label].values()):
            yield f"curves-{axis}", _curves(section, found, chosen, axis, plt)
    per_step = {line.method: _per_step(section, line.method, "gmacs") for line in found.lines}
    base = per_step.get(found.baseline or "")
    if all(per_step.values()):  # imported results may lack them
        yield "gmacs-per-step", _bars(per_step, "GMACs a step", plt)
        yield "speed", _speed(section, found, per_step, plt)
    if base and all(per_step.values()):
        relative = {label: value / base for label, value in per_step.items()}
        yield "gmacs-per-step-relative", _bars(relative, f"GMACs a step, {found.baseline} = 1", plt)
    memory = {line.method: line.peak_memory / 2**30 for line in found.lines if line.peak_memory is not None}
    if memory:
        yield "memory", _bars(memory, "peak memory (GiB)", plt)
    yield "pareto", _pareto(section, found, plt)
    tried = regret(section)
    if tried and any(trial.learning_rate for trial in tried.tried):
        yield "regret", _regret(section, tried, [label for label in chosen if label in tried.methods], plt)


def _regret(section: Section, found: Regret, chosen: Sequence[str], plt: Any) -> Any:
    """Score and loss on dev against the learning rate: means over what was tried with it, the chosen one larger."""
    values = (("score", f"dev {found.metric}"), ("loss", "dev loss"))
    figure, panels = plt.subplots(1, len(values), figsize=(8.7, 3.6), sharex=True, layout="constrained")
    for panel, (value, name) in zip(panels, values, strict=True):
        for index, label in enumerate(chosen):
            points: dict[float, list[float]] = defaultdict(list)
            best: set[float] = set()
            for trial in found.tried:
                number = getattr(trial, value)
                if trial.method == label and trial.regret is not None and trial.learning_rate and number is not None:
                    points[trial.learning_rate].append(number)
                    best |= {trial.learning_rate} if trial.chosen else set()
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
            marker = MARKERS[index % len(MARKERS)]
            rates = sorted(points)
            panel.plot(rates, [np.mean(points[x]) for x in rates], marker=marker, markersize=3, label=label, **look)
            chosen_rates = [x for x in rates if x in best]
            panel.scatter(
                chosen_rates, [np.mean(points[x]) for x in chosen_rates], color=look["color"], marker=marker, s=50
            )
        panel.set(xscale="log", xlabel="learning rate", ylabel=name)
        if value == "score":
            _draw_baselines(panel, section, found.metric, "dev")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    figure.suptitle(f"{found.task} with {found.model}: what tuning tried", fontsize=10)
    return figure


def _curves(section: Section, found: Comparison, chosen: Sequence[str], axis: str, plt: Any) -> Any:
    """Train, dev and test along one cost: means over seeds, with bands from the lowest to the highest."""
    runs = [run for label in chosen for run in section.runs[label].values()]
    splits = [s for s in ("train", "dev", "test") if all(len(_line(run, axis, s, found.metric)[0]) for run in runs)]
    size = (1.5 + 3.6 * len(splits), 3.6)
    figure, panels = plt.subplots(1, len(splits), figsize=size, sharex=True, squeeze=False, layout="constrained")
    for panel, split in zip(panels[0], splits, strict=True):
        for index, label in enumerate(chosen):
            lines = [_line(run, axis, split, found.metric) for run in section.runs[label].values()]
            grid = np.unique(np.concatenate([costs for costs, _ in lines]))
            grid = grid[(grid >= max(c[0] for c, _ in lines)) & (grid <= min(c[-1] for c, _ in lines))]
            if not len(grid):
                continue
            values = np.stack([np.interp(grid, *line) for line in lines])
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
            marker = MARKERS[index % len(MARKERS)]
            panel.plot(grid, values.mean(0), marker=marker, markersize=3, label=label, **look)
            if len(values) > 1:
                panel.fill_between(grid, values.min(0), values.max(0), alpha=0.12, color=look["color"], linewidth=0)
        panel.set(title=split, xlabel=NAMES.get(axis, axis), ylabel=found.metric)
        _draw_baselines(panel, section, found.metric, split)
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    more = f", the best {len(chosen)} of {len(found.lines)}" if len(chosen) < len(found.lines) else ""
    figure.suptitle(f"{found.task} with {found.model}{more}", fontsize=10)
    return figure


def _line(run: Run, axis: str, split: str, metric: str) -> tuple[Any, Any]:
    rows = [row for row in run.rows if (row.get(split) or {}).get(metric) is not None]
    return np.array([cost(row, axis) for row in rows]), np.array([float(row[split][metric]) for row in rows])


def _bars(values: dict[str, float], name: str, plt: Any) -> Any:
    order = sorted(values, key=values.__getitem__)
    figure, panel = plt.subplots(figsize=(6, 0.6 + 0.24 * len(order)), layout="constrained")
    bars = panel.barh(order, [values[label] for label in order], color=COLOURS[0])
    panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    panel.set(xlabel=name)
    panel.grid(axis="y", visible=False)
    panel.margins(x=0.12)
    return figure


def _speed(section: Section, found: Comparison, per_step: dict[str, float], plt: Any) -> Any:
    """What a step takes of time against what it takes of work: as good a machine would draw one straight line."""
    figure, panel = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for index, line in enumerate(found.lines):
        x, y = per_step[line.method], _per_step(section, line.method, "seconds")
        panel.scatter(x, y, color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], s=22)
        panel.annotate(line.method, (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
    panel.set(xlabel="GMACs a step", ylabel="seconds a step")
    return figure


def _draw_baselines(panel: Any, section: Section, metric: str, split: str) -> None:
    """Dotted lines, with labels, at what the baselines score that the runs record."""
    scores = mean_scores((run.summary for of in section.runs.values() for run in of.values()), metric, split)
    for value in scores.values():
        panel.axhline(value, **DOTTED)
    low, high = panel.get_ylim()
    for names, value in labelled(scores, CLOSE * (high - low)):
        panel.annotate(
            names,
            (1, value),
            xycoords=panel.get_yaxis_transform(),
            xytext=(-2, 1),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=6,
            color=DOTTED["color"],
        )


def _pareto(section: Section, found: Comparison, plt: Any) -> Any:
    figure, panel = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for index, line in enumerate(found.lines):
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        panel.errorbar(line.cost_to_best, line.score, _arms(line), alpha=0.5, **look)
        panel.annotate(
            line.method, (line.cost_to_best, line.score), xytext=(4, 2), textcoords="offset points", fontsize=6
        )
    panel.set(xlabel=f"{NAMES.get(found.by, found.by)} to the best checkpoint", ylabel=f"test {found.metric}")
    _draw_baselines(panel, section, found.metric, "test")
    return figure


def _profiles(found: Across, plt: Any) -> Any:
    """The share of tasks and models in which a method reaches each normalised score, with 95 % bands."""
    figure, panel = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for index, line in enumerate(found.lines[:SHOWN]):
        look = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}
        panel.plot(found.thresholds, [each.mean for each in line.profile], label=line.method, **look)
        ends = [each.low for each in line.profile], [each.high for each in line.profile]
        panel.fill_between(found.thresholds, *ends, alpha=0.12, color=look["color"], linewidth=0)
    panel.set(xlabel="normalised score", ylabel="share of tasks and models that reach it", ylim=(-0.02, 1.02))
    figure.legend(loc="outside right center", fontsize=8)
    more = f", the best {SHOWN} of {len(found.lines)}" if len(found.lines) > SHOWN else ""
    figure.suptitle(f"{places_of(found.deciding)}{more}", fontsize=10)
    return figure


def _arms(line: Line) -> Any:
    if line.low is None or line.high is None:
        return None
    return [[max(0.0, line.score - line.low)], [max(0.0, line.high - line.score)]]


def _per_step(section: Section, label: str, axis: str) -> float:
    runs = section.runs[label].values()
    steps = sum(float(run.rows[-1]["step"]) for run in runs)
    try:
        return sum(cost(run.rows[-1], axis) for run in runs) / steps if steps else 0.0
    except InputError:
        return 0.0
