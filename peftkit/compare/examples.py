"""What runs score on each test example, of which comparisons draw anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from peftkit.compare.curves import score
from peftkit.compare.gather import Run, Section
from peftkit.compare.seeds import Array
from peftkit.components import Example, Metric
from peftkit.errors import InputError
from peftkit.plugins import Registry, load_registry
from peftkit.runs import RunDirectory

Row = Mapping[str, Any]
"""A line of predictions."""

TEXTS = {"accuracy": "prediction", "accuracy_norm": "prediction_norm"}
"""Metrics that are the share of examples of which a text is right, and the text."""
NORM = "_norm"
ROUNDED = 1e-3
"""How far a score may be from that of its predictions, whose numbers may have been rounded."""
MOST_PAIRS = 400
"""Of right and predicted labels, up to which a metric of labels is computed without one of each."""


def scores_of(section: Section, metric: str) -> tuple[dict[str, dict[int, Array]], int, str]:
    """What each run scores on each test example, or on all of them where that is all there is.

    Returns:
        By method and seed, and the number of examples; 0 where each run is a single number, and why they are.

    Raises:
        InputError: runs are of different test examples, or a score is not that of its predictions.
    """
    rows = {(label, seed): _predictions(run) for label, of in section.runs.items() for seed, run in of.items()}
    alone = {key: _alone(section.runs[key[0]][key[1]], of, metric) for key, of in rows.items()}
    found: dict[str, dict[int, Array]] = {label: {} for label in section.runs}
    known = {key: values for key, values in alone.items() if values is not None}
    if len(known) < len(rows):
        for label, seed in rows:
            found[label][seed] = np.array([score(section.runs[label][seed], metric)])
        return found, 0, _why_not(section, metric, {key for key, of in rows.items() if not of})
    asked: list[tuple[int, str]] | None = None
    for (label, seed), values in known.items():
        run = section.runs[label][seed]
        own = [(int(row["index"]), str(row["target"])) for row in rows[label, seed]]
        if asked is not None and own != asked:
            raise InputError(f"{run.path}: its test examples are not those of the other runs")
        asked, told = own, float(values.mean())
        if abs(told - score(run, metric)) > ROUNDED:
            raise InputError(f"{run.path}: its predictions give a {metric} of {told:.6g}, unlike its summary")
        found[label][seed] = values
    return found, len(asked or ()), ""


def _predictions(run: Run) -> list[dict[str, Any]]:
    there = (run.path / "predictions" / "test.jsonl").is_file()
    return RunDirectory(run.path).predictions("test") if there else []


def _why_not(section: Section, metric: str, without: Collection[tuple[str, int]]) -> str:
    lacking = [section.runs[label][seed] for label, seed in without]
    if any(run.imported for run in lacking):
        return "predictions of single examples were not imported"
    if lacking:
        return f"{min(str(run.path) for run in lacking)} has no predictions of single examples"
    return f"{metric} is not the mean of what single examples score"


def _alone(run: Run, rows: Sequence[Row], metric: str) -> Array | None:
    """What each example scores, with the run's score as their mean; None where predictions do not tell it."""
    if not rows:
        return None
    if metric in TEXTS:
        text = TEXTS[metric]
        return np.array([float(row[text] == row["target"]) for row in rows]) if text in rows[0] else None
    if metric in rows[0].get("scores", {}):
        return np.array([float(row["scores"][metric]) for row in rows])
    if metric == "loss" and "tokens" in rows[0]:
        # A sum over examples by the number of their tokens: what an example adds to that quotient.
        losses, tokens = (np.array([row[key] for row in rows], dtype=float) for key in ("loss", "tokens"))
        mean = losses.sum() / tokens.sum()
        found: Array = mean + (losses - mean * tokens) / tokens.mean()
        return found
    return _of_labels(run, rows, metric)


def _of_labels(run: Run, rows: Sequence[Row], metric: str) -> Array | None:
    """The jackknife's pseudo-values (Tukey, 1958) of a metric of labels, such as macro F1, about the run's score.

    Each says what its example adds to the score, and examples of one right and one predicted label add the same.
    """
    text = f"prediction{NORM}" if metric.endswith(NORM) else "prediction"
    pairs = [(str(row["target"]), str(row.get(text))) for row in rows]
    computed = _metric(run, metric.removesuffix(NORM))
    if computed is None or len({*pairs}) > MOST_PAIRS or not all("candidates" in row for row in rows):
        return None
    examples = [Example("", row["target"], tuple(row["candidates"])) for row in rows]

    def value(left_out: int | None = None) -> float:
        kept = [i for i in range(len(rows)) if i != left_out]
        predictions, right = [pairs[i][1] for i in kept], [[pairs[i][0]] for i in kept]
        return float(computed.score(predictions, right, [examples[i] for i in kept])[metric.removesuffix(NORM)])

    whole = value()
    without = {pair: value(pairs.index(pair)) for pair in {*pairs}}
    added = np.array([(len(rows) - 1) * (whole - without[pair]) for pair in pairs])
    found: Array = whole + added - added.mean()
    return found


def _metric(run: Run, value: str) -> Metric | None:
    """The run's metric of labels that gives the value; None if there is none, or it is not installed."""
    for table in run.recipe.get("metric", ()):
        entry = _registry().of("metric").get(table["name"])
        made = entry.component.model_validate(table) if entry else None
        if isinstance(made, Metric) and value in made.value_names and "classification" in type(made).kinds:
            return made
    return None


@cache
def _registry() -> Registry:
    return load_registry()
