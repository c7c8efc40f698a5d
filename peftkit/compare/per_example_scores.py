"""Reads the score of each test example, which comparisons resample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import selected_score
from peftkit.compare.statistics.observations import Array
from peftkit.components import Example, Metric
from peftkit.errors import InputError, comma_separated
from peftkit.example_tables import NORM_SUFFIX, PREDICTION_KEYS, select_rows, to_prediction_rows
from peftkit.plugins import Registry, load_registry
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import read_harness_rows

Row = Mapping[str, Any]
"""A line of predictions."""

SCORE_TOLERANCE = 1e-3
"""The largest difference between a run's score and that of its predictions, whose numbers may have been rounded."""
MAX_LABEL_PAIRS = 400
"""The most distinct (target, prediction) pairs for which a metric of labels is recomputed without one of each."""


@dataclass(frozen=True)
class ScoredExamples:
    """Test scores of all runs of a group."""

    runs: Mapping[str, Mapping[int, Array]]
    """Scores of shape (examples,) by method and seed; of shape (1,) where no scores per example are available."""
    num_examples: int
    """The number of examples; 0 without scores per example."""
    why_unavailable: str
    """Why there are no scores per example; empty where there are."""
    groups: tuple[str, ...] | None
    """The group of each example, empty for an example without one; None if no example is in a group."""


@dataclass(frozen=True)
class ExampleScores:
    """Scores of one run on each example of a split. Their mean is the run's score."""

    index: tuple[int, ...]
    """Row numbers in the split."""
    targets: tuple[str | None, ...]
    """Reference answers; None where they are not stored."""
    groups: tuple[str, ...]
    """The group of each example, such as its passage; empty for an example without one."""
    values: Array
    """Scores, of shape (examples,)."""


def read_group_scores(run_group: RunGroup, metric: str) -> ScoredExamples:
    """Read the test score of each example, or only each run's score if some run has none per example.

    Args:
        run_group: The runs.
        metric: The metric on test.

    Raises:
        InputError: Runs have different test examples, or a run's score does not match its predictions.
    """
    runs = {(label, seed): run for label, by_seed in run_group.runs.items() for seed, run in by_seed.items()}
    read = {key: read_example_scores(run, metric) for key, run in runs.items()}
    available = {key: scores for key, scores in read.items() if scores is not None}
    values: dict[str, dict[int, Array]] = {label: {} for label in run_group.runs}
    if len(available) < len(runs):
        for (label, seed), run in runs.items():
            values[label][seed] = np.array([selected_score(run, metric)])
        without = [run for run in runs.values() if not _read_rows(run, "test", None)]
        return ScoredExamples(values, 0, _why_unavailable(metric, without), None)
    first: ExampleScores | None = None
    for (label, seed), scores in available.items():
        run, mean = runs[label, seed], float(scores.values.mean())
        first = first or scores
        if not same_examples(first, scores):
            raise InputError(f"{run.path}: its test examples differ from those of the other runs")
        if abs(mean - selected_score(run, metric)) > SCORE_TOLERANCE:
            raise InputError(f"{run.path}: its predictions give a {metric} of {mean:.6g}, unlike its summary")
        values[label][seed] = scores.values
    groups = next((scores.groups for scores in available.values() if any(scores.groups)), None)
    return ScoredExamples(values, len(first.index) if first else 0, "", groups)


def read_example_scores(
    run: LoadedRun, metric: str, split: str = "test", step: int | None = None
) -> ExampleScores | None:
    """Read the score of each example of a split.

    Args:
        run: The run.
        metric: The metric, such as ``accuracy`` or ``loss``.
        split: ``dev``, ``test``, an evaluation set or a probe.
        step: The step of an evaluation; None for the selected checkpoint, as reported in the summary.

    Returns:
        The scores; None if the metric is not a mean over examples, or no scores per example are stored.

    Raises:
        InputError: The step was not evaluated, or the run stores scores of the selected checkpoint only.
    """
    rows = _read_rows(run, split, step)
    values = _example_values(run, rows, metric)
    if values is None:
        return None
    return _example_scores(rows, values)


def read_base_scores(run: LoadedRun, metric: str, probe: str, index: Sequence[int]) -> ExampleScores | None:
    """Read the score of the base model on each example of a probe.

    Args:
        run: The run.
        metric: The metric.
        probe: The name of the probe.
        index: The row numbers of the examples: those along the curve, or all. Scores that are no means depend on them.

    Returns:
        The scores; None if none are stored for these rows.
    """
    table = RunDirectory(run.path).probe(probe).base_examples()
    for whole in (True, False) if table is not None else ():
        rows = to_prediction_rows(select_rows(table, "full_split", whole))
        if tuple(int(row["index"]) for row in rows) == tuple(index):
            values = _example_values(run, rows, metric)
            return None if values is None else _example_scores(rows, values)
    return None


def _example_scores(rows: Sequence[Row], values: Array) -> ExampleScores:
    return ExampleScores(
        tuple(int(row["index"]) for row in rows),
        tuple(row.get("target") for row in rows),
        tuple(row.get("group", "") for row in rows),
        values,
    )


def _read_rows(run: LoadedRun, split: str, step: int | None) -> Sequence[Row]:
    """Read an evaluation's result on each example; empty if none are stored."""
    split = run.test_split if split == "test" else split
    directory = RunDirectory(run.path)
    if "harness" in run.summary and split == run.test_split:
        if step not in (None, run.summary["selected"]["step"]):
            raise InputError(f"{run.path}: the harness task {split!r} was evaluated for the selected checkpoint only")
        return read_harness_rows(run.path, split)
    is_probe = split in (run.summary.get("probes") or {})
    table = (directory.probe(split) if is_probe else directory).examples()
    if table is None:
        if step not in (None, run.summary["selected"]["step"]):
            raise InputError(f"{run.path}: results per example are stored for the selected checkpoint only")
        is_stored = (run.path / "predictions" / f"{split}.jsonl").is_file()
        return directory.predictions(split) if is_stored else []
    table = select_rows(table, "split", split)
    whole = select_rows(table, "full_split", True)
    if step is None and len(whole):
        return to_prediction_rows(whole)
    wanted = run.summary["selected"]["step"] if step is None else step
    chosen = select_rows(select_rows(table, "full_split", False), "step", wanted)
    if not len(chosen):
        steps = sorted(set(table["step"].to_pylist()))
        raise InputError(
            f"{run.path}: no evaluation at step {wanted}; evaluated steps are {comma_separated([*map(str, steps)])}"
        )
    return to_prediction_rows(chosen)


def same_examples(one: ExampleScores, other: ExampleScores) -> bool:
    """Whether two runs were scored on the same rows; targets are compared where both store them.

    Args:
        one: The scores of a run.
        other: Those of the other run.
    """
    pairs = zip(one.targets, other.targets, strict=False)
    return one.index == other.index and all(a == b or a is None or b is None for a, b in pairs)


def _why_unavailable(metric: str, without: Sequence[LoadedRun]) -> str:
    """Why there are no scores per example, given the runs that store no predictions."""
    if any(run.imported_from for run in without):
        return "imported results have no predictions per example"
    if without:
        return f"{min(str(run.path) for run in without)} has no predictions per example"
    return f"{metric} is not a mean over examples"


def _example_values(run: LoadedRun, rows: Sequence[Row], metric: str) -> Array | None:
    """Scores of shape (examples,), whose mean is the run's score; None if predictions do not determine them."""
    if not rows:
        return None
    if metric in rows[0].get("scores", {}):
        return np.array([float(row["scores"][metric]) for row in rows])
    if metric in PREDICTION_KEYS:
        text = PREDICTION_KEYS[metric]
        return np.array([float(row[text] == row["target"]) for row in rows]) if text in rows[0] else None
    if metric == "loss" and "tokens" in rows[0]:
        # The loss is a ratio of sums (losses over tokens): linearize each example's contribution to it.
        losses, tokens = (np.array([row[key] for row in rows], dtype=float) for key in ("loss", "tokens"))
        mean = losses.sum() / tokens.sum()
        values: Array = mean + (losses - mean * tokens) / tokens.mean()
        return values
    return _pseudo_values(run, rows, metric)


def _pseudo_values(run: LoadedRun, rows: Sequence[Row], metric: str) -> Array | None:
    """Jackknife pseudo-values (Tukey, 1958) of a metric of labels, such as macro F1, centred on the run's score.

    Each is an example's contribution to the score. Examples with the same target and prediction have the same value.
    None if a prediction is stored without its target or its labels, as are generated texts.
    """
    text = f"prediction{NORM_SUFFIX}" if metric.endswith(NORM_SUFFIX) else "prediction"
    scorer = _find_metric(run, metric.removesuffix(NORM_SUFFIX))
    if scorer is None or not all({"target", text, "candidates"} <= row.keys() for row in rows):
        return None
    pairs = [(str(row["target"]), str(row[text])) for row in rows]
    if len({*pairs}) > MAX_LABEL_PAIRS:
        return None
    examples = [Example("", row["target"], tuple(row["candidates"])) for row in rows]

    def compute_without(left_out: int | None = None) -> float:
        kept = [i for i in range(len(rows)) if i != left_out]
        predictions, references = [pairs[i][1] for i in kept], [[pairs[i][0]] for i in kept]
        values = scorer._compute(predictions, references, [examples[i] for i in kept])
        return float(values[metric.removesuffix(NORM_SUFFIX)])

    try:
        whole = compute_without()
    except Exception:  # a plugin's metric may need more of an example than is stored
        return None
    without = {pair: compute_without(pairs.index(pair)) for pair in {*pairs}}
    contributions = np.array([(len(rows) - 1) * (whole - without[pair]) for pair in pairs])
    centred: Array = whole + contributions - contributions.mean()
    return centred


def _find_metric(run: LoadedRun, value: str) -> Metric | None:
    """The run's metric that computes a value of predictions; None if there is none, or it is not installed."""
    for table in run.recipe.get("metric", ()):
        entry = _registry().all("metric").get(table["name"])
        metric = entry.component.model_validate(table) if entry else None
        if isinstance(metric, Metric) and metric.input == "prediction" and value in metric.value_names:
            return metric
    return None


@cache
def _registry() -> Registry:
    return load_registry()
