"""Comparisons as one page of HTML that needs nothing else: curves, a budget to move, tables, recipes, predictions."""

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
from peftkit.compare.baselines import mean_scores
from peftkit.compare.comparison import Comparison, Line, compare
from peftkit.compare.curves import AXES, cost, lower_is_better, measures
from peftkit.compare.fairness import flattened
from peftkit.compare.gather import Run, Section
from peftkit.compare.regret import regret
from peftkit.compare.regret import rows_of as regret_rows
from peftkit.compare.regret import title as regret_title
from peftkit.compare.tables import Row, notes, rows_of
from peftkit.errors import InputError
from peftkit.runs import RunDirectory

if TYPE_CHECKING:
    from peftkit.runner.verification import Verification

EXAMPLES = 5
CURVES = ("gmacs", "gmacs_with_tuning", "seconds", "samples", "tokens", "joules")
"""The axes along which a run moves."""
DIGITS = 6


def report(
    sections: Sequence[Section],
    *,
    title: str = "What learns most for the work",
    verified: Mapping[Path, Verification] | None = None,
    **options: Any,
) -> str:
    """The page.

    Args:
        sections: the runs, by task and model.
        title: what stands above.
        verified: what recomputing each run gave, by its folder; None to say nothing of that.
        options: those of ``compare``.

    Raises:
        InputError: the runs cannot be compared.
    """
    found = [compare(section, **options) for section in sections]
    runs = [run for section in sections for of in section.runs.values() for run in of.values()]
    environments = {_key(run.environment): run.environment for run in runs}
    data = {
        "format": 1,
        "by": found[0].by,
        "sections": [_section(section, comparison) for section, comparison in zip(sections, found, strict=True)],
        "environments": environments,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    room = files("peftkit") / "assets" / "report"
    methods = len({label for section in sections for label in section.runs})
    tasks = len({section.task for section in sections})
    return Template((room / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        lead=f"{len(runs)} runs of {methods} methods, {tasks} {'task' if tasks == 1 else 'tasks'}. Scores are on test, "
        "of the checkpoint that dev selects; costs are of training alone.",
        verdicts="\n".join(_verdict(number, comparison) for number, comparison in enumerate(found)),
        verified="" if verified is None else _verified(sections, verified),
        tables="\n".join(
            _tables(number, section, comparison)
            for number, (section, comparison) in enumerate(zip(sections, found, strict=True))
        ),
        foot=html.escape(
            f"peftkit {__version__}; {len(environments)} environments, told below Recipes and environments."
        ),
        style=(room / "style.css").read_text(encoding="utf-8"),
        script=(room / "report.js").read_text(encoding="utf-8"),
        data=text.replace("<", "\\u003c"),  # nothing in it can end the element that holds it
    )


def _section(section: Section, found: Comparison) -> dict[str, Any]:
    first = next(run for of in section.runs.values() for run in of.values())
    axes = [axis for axis in CURVES if all(measures(run, axis) for of in section.runs.values() for run in of.values())]
    flats = {label: _flat_recipe(next(iter(of.values()))) for label, of in section.runs.items()}
    keys = sorted({key for each in flats.values() for key in each})
    differing = [key for key in keys if len({each.get(key) for each in flats.values()}) > 1]
    # Options that one method alone has say nothing beside its name.
    differing = [key for key in differing if not key.startswith("method.") or key == "method.name"]
    return {
        "task": section.task,
        "model": section.model,
        "metric": found.metric,
        "selects": str(first.summary["selects"]),
        "higher": bool(first.summary["higher_is_better"]),
        "metric_higher": not lower_is_better(first, found.metric),
        "baseline": found.baseline,
        "axes": axes,
        "quantities": _quantities(section),
        "baselines": _baselines(section),
        "fronts": found.fronts,
        "differing": differing,
        "methods": [_method(line, section.runs[line.method], axes, flats[line.method]) for line in found.lines],
    }


def _method(line: Line, of: Mapping[int, Run], axes: Sequence[str], flat_recipe: Mapping[str, str]) -> dict[str, Any]:
    first = next(iter(of.values()))
    totals = {axis: _mean(of, axis) for axis in AXES}
    totals["checkpoint_bytes"] = line.checkpoint_bytes
    steps = [float(run.rows[-1]["step"]) for run in of.values()]
    for axis, key in (("gmacs", "gmacs_per_step"), ("seconds", "seconds_per_step")):
        total = totals[axis]
        totals[key] = None if total is None or not sum(steps) else total * len(steps) / sum(steps)
    told = [] if line.trainable_parameters is None else [f"{line.trainable_parameters:,.0f} parameters learn."]
    if line.trials is not None:
        told.append(
            f"Its settings are the best on dev of {line.trials} trials, which took {line.tuning_gmacs:,.4g} GMACs."
        )
    told += [f"{text[0].upper()}{text[1:]}." for word, text in line.notes.items() if word not in ("imported", "pooled")]
    if first.imported:
        told.append(f"Imported from {first.imported}. {first.summary['imported'].get('note', '')}")
    return {
        "label": line.method,
        "score": _short(line.score),
        "totals": {key: _short(value) for key, value in totals.items()},
        "runs": [{"seed": seed, **_curves(run, axes)} for seed, run in sorted(of.items())],
        "recipe": tomli_w.dumps(first.recipe),
        "keys": dict(flat_recipe),
        "environment": _key(first.environment),
        "note": " ".join(told),
        "at_edge": bool(line.at_edge),
        "examples": _examples(first),
    }


def _curves(run: Run, axes: Sequence[str]) -> dict[str, Any]:
    limits = run.recipe.get("train", {}).get("budget", {})
    table: dict[str, Any] = {
        "steps": run.rows[-1]["step"],
        "constant": run.recipe.get("train", {}).get("schedule") == "constant",
        "limits": {a: limits[a] for a in axes if a in limits},
        "costs": {a: [_short(cost(row, a)) for row in run.rows] for a in axes},
    }
    for split in ("train", "dev", "test"):
        names = dict.fromkeys(key for row in run.rows for key in row.get(split) or {})
        table[split] = {name: [_short((row.get(split) or {}).get(name)) for row in run.rows] for name in names}
    return table


def _examples(run: Run) -> list[dict[str, Any]]:
    with suppress(InputError):
        rows = RunDirectory(run.path).predictions("test")[:EXAMPLES]
        keys = ("index", "source", "target", "prediction")
        return [{key: row.get(key, "") for key in keys} for row in rows]
    return []


def _quantities(section: Section) -> list[str]:
    """What all runs have of dev and test, along the curve."""
    sets = [
        {key for split in ("dev", "test") for key in row.get(split) or {}}
        for of in section.runs.values()
        for run in of.values()
        for row in run.rows
    ]
    return sorted(set.intersection(*sets))


def _baselines(section: Section) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """By split and quantity, what the baselines score."""
    summaries = [run.summary for of in section.runs.values() for run in of.values()]
    found: dict[str, dict[str, dict[str, float | int | None]]] = {"dev": {}, "test": {}}
    for split, of in found.items():
        for name in _quantities(section):
            if scores := mean_scores(summaries, name, split):
                of[name] = {baseline: _short(value) for baseline, value in scores.items()}
    return found


def _verdict(number: int, found: Comparison) -> str:
    first, *others = (html.escape(sentence) for sentence in found.verdict.sentences)
    below = "".join(f"<li>{sentence}</li>" for sentence in others)
    return f'<div data-section="{number}"><p class="verdict">{first}</p><ul>{below}</ul></div>'


def _tables(number: int, section: Section, found: Comparison) -> str:
    """The comparison of a section, and what tuning tried."""
    caption = f"{found.task} with {found.model}: {found.metric} on test; cost in {found.by}"
    made = _table(caption, rows_of(found, wide=True), notes(found, wide=True))
    curves = regret(section)
    if curves:
        made += f"<h3>Tuning</h3>{_table(regret_title(curves), regret_rows(curves), curves.notes)}"
    return f'<div data-section="{number}">{made}</div>'


def _verified(sections: Sequence[Section], verified: Mapping[Path, Verification]) -> str:
    """What recomputing each run gave, and above it a warning where that was something else."""
    rows: list[Row] = [("method", "seed", "run", "verified", "not recomputable")]
    for section in sections:
        for label, of in section.runs.items():
            for seed, run in of.items():
                found = verified[run.path]
                rows.append((label, str(seed), run.path.name, found.verdict, ". ".join(found.missing)))
    differing = sum(bool(found.of("differs")) for found in verified.values())
    warning = (
        f'<p role="alert" class="alert"><strong>Not verified:</strong> of {differing} of {len(verified)} runs, values '
        "differ from those that were recomputed; see Verification.</p>"
    )
    remarks = list(dict.fromkeys(note for found in verified.values() for note in found.notes))
    table = _table("Scores, losses, curves, work and data of each run, recomputed", rows, remarks)
    head = '<h2 id="h-verified">Verification</h2>'
    return f'{warning if differing else ""}<section aria-labelledby="h-verified">{head}{table}</section>'


def _table(caption: str, rows: Sequence[Row], told: Sequence[str]) -> str:
    heads, *lines = rows
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in lines)
    below = "".join(f"<li>{html.escape(note)}</li>" for note in told)
    return (
        f'<div class="scroll"><table class="sortable"><caption>{html.escape(caption)}</caption>'
        f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><ul class="soft">{below}</ul>'
    )


def _mean(of: Mapping[int, Run], axis: str) -> float | None:
    try:
        return sum(cost(run.summary, axis) for run in of.values()) / len(of)
    except (InputError, KeyError, TypeError):
        return None


def _flat_recipe(run: Run) -> dict[str, str]:
    tables = {key: value for key, value in run.recipe.items() if key not in ("run", "track", "metric", "format")}
    return {key: str(value) for key, value in flattened(tables).items()}


def _key(environment: Mapping[str, Any]) -> str:
    return sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]


def _short(value: Any) -> float | int | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
