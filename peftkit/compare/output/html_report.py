"""Writes comparisons as one self-contained HTML page with interactive curves, tables, recipes and predictions."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import tomli_w

from peftkit import __version__
from peftkit.compare.comparison import Comparison, MethodRow, compare
from peftkit.compare.input.fairness import flatten
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import AXES, cost, has_cost, lower_is_better
from peftkit.compare.output.forgetting_figures import common_probes
from peftkit.compare.output.regret_table import table_rows as regret_rows
from peftkit.compare.output.regret_table import title as regret_title
from peftkit.compare.output.retention_pages import retention_page
from peftkit.compare.output.table_formats import TableRow, table_rows
from peftkit.compare.output.table_notes import notes
from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.compare.regret import regret_curves
from peftkit.compare.retention.frontier import compare_retention
from peftkit.errors import InputError, RunError
from peftkit.run_directory import RunDirectory

if TYPE_CHECKING:
    from peftkit.verify import Verification

EXAMPLES = 5
"""The number of predictions per method."""
CURVES = ("gmacs", "gmacs_with_tuning", "seconds", "wall_seconds", "samples", "tokens", "joules")
"""Costs that grow in the course of a run."""
DIGITS = 6
"""Significant digits of numbers in the page's data."""


def render_report(
    groups: Sequence[RunGroup],
    *,
    title: str = "PEFT methods by score and cost",
    verified: Mapping[Path, Verification] | None = None,
    **options: Any,
) -> str:
    """Write the HTML report.

    Args:
        groups: the runs, one group per task and model.
        title: the title of the page.
        verified: the result of ``verify`` by run directory; None to leave that section out.
        options: keyword arguments of ``compare``.

    Returns:
        The page.

    Raises:
        InputError: the runs cannot be compared.
    """
    comparisons = [compare(group, **options) for group in groups]
    runs = [run for group in groups for seeds in group.runs.values() for run in seeds.values()]
    environments = {_digest(run.environment): run.environment for run in runs}
    data = {
        "format": 1,
        "by": comparisons[0].by,
        "sections": [_section(group, comparison) for group, comparison in zip(groups, comparisons, strict=True)],
        "environments": environments,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    assets = files("peftkit") / "assets" / "report"
    methods = len({label for group in groups for label in group.runs})
    tasks = len({group.task for group in groups})
    split = groups[0].test_split
    scores = "Test scores" if split == "test" else f"Scores on {html.escape(split)}"
    return Template((assets / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        lead=f"{len(runs)} runs of {methods} methods, {tasks} {'task' if tasks == 1 else 'tasks'}. "
        f"{scores} of the checkpoint selected on dev; costs of training only.",
        verdicts="\n".join(_verdict(number, comparison) for number, comparison in enumerate(comparisons)),
        verified="" if verified is None else _verified(groups, verified),
        tables="\n".join(
            _tables(number, group, comparison)
            for number, (group, comparison) in enumerate(zip(groups, comparisons, strict=True))
        ),
        foot=html.escape(
            f"peftkit {__version__}; {len(environments)} environments, listed under Recipes and environments."
        ),
        style=(assets / "style.css").read_text(encoding="utf-8"),
        script=(assets / "report.js").read_text(encoding="utf-8"),
        data=text.replace("<", "\\u003c"),  # so that it cannot end the script element
    )


def write_report(path: Path, groups: Sequence[RunGroup], **options: Any) -> None:
    """Write the HTML report into a file, and create its folder.

    Args:
        path: the file.
        groups: the runs, one group per task and model.
        options: keyword arguments of ``render_report``.

    Raises:
        InputError: the runs cannot be compared.
        RunError: the file cannot be written.
    """
    page = render_report(groups, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def _section(group: RunGroup, comparison: Comparison) -> dict[str, Any]:
    first = next(run for runs in group.runs.values() for run in runs.values())
    axes = [
        axis for axis in CURVES if all(has_cost(run, axis) for runs in group.runs.values() for run in runs.values())
    ]
    recipes = {label: _flat_recipe(next(iter(runs.values()))) for label, runs in group.runs.items()}
    keys = sorted({key for recipe in recipes.values() for key in recipe})
    differing = [key for key in keys if len({recipe.get(key) for recipe in recipes.values()}) > 1]
    # Options of one method have no counterpart in others.
    differing = [key for key in differing if not key.startswith("method.") or key == "method.name"]
    return {
        "task": group.task,
        "model": group.model,
        "metric": comparison.metric,
        "selection_metric": str(first.summary["selection_metric"]),
        "higher": bool(first.summary["higher_is_better"]),
        "metric_higher": not lower_is_better(first, comparison.metric),
        "baseline": comparison.baseline,
        "axes": axes,
        "quantities": _quantities(group),
        "baselines": _baselines(group),
        "fronts": comparison.fronts,
        "differing": differing,
        "methods": [_method(row, group.runs[row.method], axes, recipes[row.method]) for row in comparison.lines],
    }


def _method(
    row: MethodRow, runs: Mapping[int, LoadedRun], axes: Sequence[str], flat_recipe: Mapping[str, str]
) -> dict[str, Any]:
    first = next(iter(runs.values()))
    totals = {axis: _mean(runs, axis) for axis in AXES}
    totals["checkpoint_bytes"] = row.checkpoint_bytes
    steps = [float(run.evaluations[-1]["step"]) for run in runs.values()]
    for axis, key in (("gmacs", "gmacs_per_step"), ("seconds", "seconds_per_step")):
        total = totals[axis]
        totals[key] = None if total is None or not sum(steps) else total * len(steps) / sum(steps)
    remarks = [] if row.trainable_parameters is None else [f"{row.trainable_parameters:,.0f} trainable parameters."]
    if row.trials is not None:
        remarks.append(f"Settings: the best on dev of {row.trials} trials, which took {row.tuning_gmacs:,.4g} GMACs.")
    remarks += [f"{name[0].upper()}{name[1:]}: {value:.4f}." for name, value in row.beside.items()]
    remarks += [
        f"{text[0].upper()}{text[1:]}." for keyword, text in row.notes.items() if keyword not in ("imported", "pooled")
    ]
    if first.imported_from:
        remarks.append(f"Imported from {first.imported_from}. {first.summary['imported'].get('note', '')}")
    return {
        "label": row.method,
        "score": _rounded(row.score),
        "totals": {key: _rounded(value) for key, value in totals.items()},
        "runs": [{"seed": seed, **_curves(run, axes)} for seed, run in sorted(runs.items())],
        "recipe": tomli_w.dumps(first.recipe),
        "keys": dict(flat_recipe),
        "environment": _digest(first.environment),
        "note": " ".join(remarks),
        "at_edge": bool(row.at_edge),
        "examples": _examples(first),
    }


def _curves(run: LoadedRun, axes: Sequence[str]) -> dict[str, Any]:
    limits = run.recipe.get("train", {}).get("budget", {})
    table: dict[str, Any] = {
        "steps": run.evaluations[-1]["step"],
        "constant": run.recipe.get("train", {}).get("schedule") == "constant",
        "limits": {a: limits[a] for a in axes if a in limits},
        "costs": {a: [_rounded(cost(row, a)) for row in run.evaluations] for a in axes},
    }
    for split in ("train", "dev", "test"):
        names = dict.fromkeys(key for row in run.evaluations for key in row.get(split) or {})
        table[split] = {name: [_rounded((row.get(split) or {}).get(name)) for row in run.evaluations] for name in names}
    return table


def _examples(run: LoadedRun) -> list[dict[str, Any]]:
    with suppress(InputError):
        rows = RunDirectory(run.path).predictions(run.test_split)[:EXAMPLES]
        keys = ("index", "source", "target", "prediction")
        return [{key: row.get(key, "") for key in keys} for row in rows]
    return []


def _quantities(group: RunGroup) -> list[str]:
    """The dev and test scores that all runs have at every evaluation."""
    sets = [
        {key for split in ("dev", "test") for key in row.get(split) or {}}
        for runs in group.runs.values()
        for run in runs.values()
        for row in run.evaluations
    ]
    return sorted(set.intersection(*sets))


def _baselines(group: RunGroup) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """The scores of the input-blind baselines, by split and quantity."""
    summaries = [run.summary for runs in group.runs.values() for run in runs.values()]
    by_split: dict[str, dict[str, dict[str, float | int | None]]] = {"dev": {}, "test": {}}
    for split, quantities in by_split.items():
        for name in _quantities(group):
            if scores := mean_baseline_scores(summaries, name, split):
                quantities[name] = {baseline: _rounded(value) for baseline, value in scores.items()}
    return by_split


def _verdict(number: int, comparison: Comparison) -> str:
    first, *others = (html.escape(sentence) for sentence in comparison.verdict.sentences)
    below = "".join(f"<li>{sentence}</li>" for sentence in others)
    return f'<div data-section="{number}"><p class="verdict">{first}</p><ul>{below}</ul></div>'


def _tables(number: int, group: RunGroup, comparison: Comparison) -> str:
    """The table of a comparison, and its tuning trials."""
    score = f"{comparison.test_split} {comparison.metric}"
    caption = f"{comparison.task} with {comparison.model}: {score}; cost in {comparison.by}"
    tables = _table(caption, table_rows(comparison, wide=True), notes(comparison, wide=True))
    for name in common_probes(group):
        tables += f"<h3>Forgetting on {html.escape(name)}</h3>{_retention(group, comparison, name)}"
    curves = regret_curves(group)
    if curves:
        tables += f"<h3>Tuning</h3>{_table(regret_title(curves), regret_rows(curves), curves.notes)}"
    return f'<div data-section="{number}">{tables}</div>'


def _retention(group: RunGroup, comparison: Comparison, probe: str) -> str:
    """What is learned and forgotten, or why runs cannot be compared by a probe."""
    try:
        retention = compare_retention(group, probe, by=comparison.by, metric=comparison.metric)
    except InputError as error:
        return f"<p>{html.escape(str(error))}</p>"
    page = retention_page(retention)
    return _table(page.title, page.rows, page.notes)


def _verified(groups: Sequence[RunGroup], verified: Mapping[Path, Verification]) -> str:
    """The result of ``verify`` for each run, below a warning if any value differs."""
    rows: list[TableRow] = [("method", "seed", "run", "verified", "not recomputable")]
    for group in groups:
        for label, runs in group.runs.items():
            for seed, run in runs.items():
                result = verified[run.path]
                rows.append((label, str(seed), run.path.name, result.verdict, ". ".join(result.missing)))
    differing = sum(bool(result.with_status("differs")) for result in verified.values())
    warning = (
        f'<p role="alert" class="alert"><strong>Not verified:</strong> recorded values of {differing} of '
        f"{len(verified)} runs differ from the recomputed ones; see Verification.</p>"
    )
    remarks = list(dict.fromkeys(note for result in verified.values() for note in result.notes))
    table = _table("Scores, losses, curves, MACs and data of each run, recomputed", rows, remarks)
    head = '<h2 id="h-verified">Verification</h2>'
    return f'{warning if differing else ""}<section aria-labelledby="h-verified">{head}{table}</section>'


def _table(caption: str, rows: Sequence[TableRow], remarks: Sequence[str]) -> str:
    header, *lines = rows
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in lines)
    below = "".join(f"<li>{html.escape(note)}</li>" for note in remarks)
    return (
        f'<div class="scroll"><table class="sortable"><caption>{html.escape(caption)}</caption>'
        f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><ul class="soft">{below}</ul>'
    )


def _mean(runs: Mapping[int, LoadedRun], axis: str) -> float | None:
    try:
        return sum(cost(run.summary, axis) for run in runs.values()) / len(runs)
    except (InputError, KeyError, TypeError):
        return None


def _flat_recipe(run: LoadedRun) -> dict[str, str]:
    tables = {key: value for key, value in run.recipe.items() if key not in ("run", "track", "metric", "format")}
    return {key: str(value) for key, value in flatten(tables).items()}


def _digest(environment: Mapping[str, Any]) -> str:
    return sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]


def _rounded(value: Any) -> float | int | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
