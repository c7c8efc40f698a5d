"""What runs score on each test example, of which comparisons draw anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from peftkit.compare.curves import score
from peftkit.compare.gather import Run, Section
from peftkit.compare.statistics.observations import Array
from peftkit.components import Example, Metric
from peftkit.errors import InputError, listed
from peftkit.example_tables import prediction_rows
from peftkit.plugins import Registry, load_registry
from peftkit.runs import RunDirectory

Row = Mapping[str, Any]
"""A line of predictions."""

TEXTS = {"accuracy": "prediction", "accuracy_norm": "prediction_norm"}
"""Metrics that are the share of examples of which a text is right, and the text, in runs of format 1."""
NORM = "_norm"
ROUNDED = 1e-3
"""How far a score may be from that of its predictions, whose numbers may have been rounded."""
MOST_PAIRS = 400
"""Of right and predicted labels, up to which a metric of labels is computed without one of each."""


@dataclass(frozen=True)
class Scored:
    """What the runs of a section score on test."""

    runs: Mapping[str, Mapping[int, Array]]
    """By method and seed: a score per example, or a single one where that is all there is."""
    examples: int
    """How many examples; 0 where each run is a single score."""
    why_not: str
    """Why that is; empty where there are examples."""
    groups: tuple[str, ...] | None
    """The group of each example, empty where it is alone; None where no example shares one."""


@dataclass(frozen=True)
class ExampleScores:
    """What one run scored on each example of a split; their mean is the run's score."""

    index: tuple[int, ...]
    """The rows of the split."""
    targets: tuple[str | None, ...]
    """The right candidates; None where they are not stored."""
    groups: tuple[str, ...]
    """What examples share, empty where an example is alone."""
    values: Array


def scores_of(section: Section, metric: str) -> Scored:
    """What each run scores on each test example, or on all of them where that is all there is.

    Raises:
        InputError: runs are of different test examples, or a score is not that of its examples.
    """
    runs = {(label, seed): run for label, of in section.runs.items() for seed, run in of.items()}
    found = {key: example_scores(run, metric) for key, run in runs.items()}
    known = {key: scores for key, scores in found.items() if scores is not None}
    values: dict[str, dict[int, Array]] = {label: {} for label in section.runs}
    if len(known) < len(runs):
        for (label, seed), run in runs.items():
            values[label][seed] = np.array([score(run, metric)])
        without = [run for run in runs.values() if not _rows(run, "test", None)]
        return Scored(values, 0, _why_not(metric, without), None)
    first: ExampleScores | None = None
    for (label, seed), scores in known.items():
        run, mean = runs[label, seed], float(scores.values.mean())
        first = first or scores
        if not _same_examples(first, scores):
            raise InputError(f"{run.path}: its test examples are not those of the other runs")
        if abs(mean - score(run, metric)) > ROUNDED:
            raise InputError(f"{run.path}: its predictions give a {metric} of {mean:.6g}, unlike its summary")
        values[label][seed] = scores.values
    groups = next((scores.groups for scores in known.values() if any(scores.groups)), None)
    return Scored(values, len(first.index) if first else 0, "", groups)


def example_scores(run: Run, metric: str, split: str = "test", step: int | None = None) -> ExampleScores | None:
    """What a run scores on each example of a split.

    Args:
        run: the run.
        metric: the value, such as ``accuracy`` or ``loss``.
        split: ``dev`` or ``test``.
        step: an evaluation along the curve; None for the selected checkpoint, as the summary reports it.

    Returns:
        The scores; None where the metric is not made of scores per example, or none are stored.

    Raises:
        InputError: the step was not evaluated, or the run stores the selected checkpoint alone.
    """
    rows = _rows(run, split, step)
    values = _alone(run, rows, metric)
    if values is None:
        return None
    return ExampleScores(
        tuple(int(row["index"]) for row in rows),
        tuple(row.get("target") for row in rows),
        tuple(row.get("group", "") for row in rows),
        values,
    )


def _rows(run: Run, split: str, step: int | None) -> Sequence[Row]:
    """An evaluation per example, as lines of predictions; none where nothing is stored."""
    import pyarrow.compute as pc

    directory = RunDirectory(run.path)
    table = directory.examples()
    if table is None:
        if step not in (None, run.summary["selected"]["step"]):
            raise InputError(f"{run.path}: stores the results per example of the selected checkpoint alone")
        there = (run.path / "predictions" / f"{split}.jsonl").is_file()
        return directory.predictions(split) if there else []
    table = table.filter(pc.equal(table["split"], split))
    whole = table.filter(table["whole"])
    if step is None and len(whole):
        return prediction_rows(whole)
    wanted = run.summary["selected"]["step"] if step is None else step
    chosen = table.filter(pc.and_(pc.invert(table["whole"]), pc.equal(table["step"], wanted)))
    if not len(chosen):
        steps = sorted(set(table["step"].to_pylist()))
        raise InputError(f"{run.path}: no evaluation at step {wanted}; there are {listed([*map(str, steps)])}")
    return prediction_rows(chosen)


def _same_examples(one: ExampleScores, other: ExampleScores) -> bool:
    """Whether two runs were scored on the same rows; targets are compared where both store them."""
    pairs = zip(one.targets, other.targets, strict=False)
    return one.index == other.index and all(a == b or a is None or b is None for a, b in pairs)


def _why_not(metric: str, without: Sequence[Run]) -> str:
    if any(run.imported for run in without):
        return "predictions of single examples were not imported"
    if without:
        return f"{min(str(run.path) for run in without)} has no predictions of single examples"
    return f"{metric} is not the mean of what single examples score"


def _alone(run: Run, rows: Sequence[Row], metric: str) -> Array | None:
    """What each example scores, with the run's score as their mean; None where predictions do not tell it."""
    if not rows:
        return None
    if metric in rows[0].get("scores", {}):
        return np.array([float(row["scores"][metric]) for row in rows])
    if metric in TEXTS:
        text = TEXTS[metric]
        return np.array([float(row[text] == row["target"]) for row in rows]) if text in rows[0] else None
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
