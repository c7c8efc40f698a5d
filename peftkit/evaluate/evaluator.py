"""Evaluates a model on a split: candidates are ranked by likelihood, free text is generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from peftkit.answer_texts.text_normalization import to_identifier
from peftkit.components import Example, Metric, Objective, Prediction
from peftkit.components.objective_context import ObjectiveContext
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.errors import PeftkitError, RunError, summarize_error
from peftkit.models import BoundObjective
from peftkit.oom import retry_with_half_batch
from peftkit.recipe import Recipe
from peftkit.recipe.recipe import LOSS

PREDICTION = "prediction"
"""Key of a prediction: the predicted text."""
SAMPLES = "samples"
"""Key of a prediction: all texts of an example, if several are sampled."""
GENERATED_TOKENS = "generated_tokens"
"""Key of a prediction: the number of generated tokens."""
TEACHER_FORCED = "teacher_forced"
"""Key of a prediction: the most likely tokens while the target is fed to the model, as text."""


@dataclass(frozen=True)
class SplitResult:
    """The values of a split by name, including ``loss``, and its predictions."""

    values: dict[str, float]
    predictions: list[Prediction]
    calibration: dict[str, Any] = field(default_factory=dict)
    """What the objective chose by this split; empty if nothing."""


def evaluate(
    model: nn.Module,
    split: TokenizedSplit,
    recipe: Recipe,
    objective: BoundObjective,
    accelerator: Accelerator,
    *,
    all_ranks_forward: bool = False,
    calibrate: bool = False,
) -> SplitResult:
    """Evaluate a split, distributed over the processes.

    Dropout is off. The loss is the mean cross-entropy per target token (of the correct choice, if an encoder scores
    choices).

    Args:
        model: The unwrapped model.
        split: The examples.
        recipe: The recipe of the run.
        objective: The objective of the run.
        accelerator: The Accelerator of the run.
        all_ranks_forward: Whether all processes evaluate all examples, as sharded models require.
        calibrate: Whether the split is dev, by which the objective chooses thresholds. Otherwise
            predictions depend on ``objective.calibration``.

    Returns:
        The values and all predictions, on all processes; per-example scores only on the main one.
    """
    predictions = predict(model, split, recipe, objective, accelerator, all_ranks_forward=all_ranks_forward)
    # Metrics are computed on one process, because sums may differ between processes in the last bits.
    main, component = accelerator.is_main_process, objective.component
    calibration = [component.calibrate(predictions, split.examples) if calibrate and main else {}]
    if calibrate:
        broadcast_object_list(calibration)
        predictions = _calibrated(objective.with_calibration(calibration[0]), predictions)
    shared: list[Any] = [compute_values(recipe, component, split.examples, predictions) if main else None]
    broadcast_object_list(shared)
    return SplitResult(shared[0], predictions, calibration[0])


def _calibrated(objective: BoundObjective, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return predictions under the calibration of an objective, if it has one."""
    if not objective.calibration:
        return [*predictions]
    return [objective.component.apply_calibration(each, objective.calibration) for each in predictions]


def predict(
    model: nn.Module,
    split: TokenizedSplit,
    recipe: Recipe,
    objective: BoundObjective,
    accelerator: Accelerator,
    *,
    answered: bool = True,
    all_ranks_forward: bool = False,
) -> list[Prediction]:
    """Predict a split, distributed over the processes.

    Examples are sorted by length and batched by ``evaluate.batch_size``, so predictions of the same examples are equal
    to the last bit.

    Args:
        model: The unwrapped model.
        split: The examples.
        recipe: The recipe of the run.
        objective: The objective of the run.
        accelerator: The Accelerator of the run.
        answered: Whether the examples' targets are answers rather than placeholders; if so, losses are computed.
        all_ranks_forward: As in ``evaluate``.

    Returns:
        All predictions in the order of the split, on all processes.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(split.rows)), key=lambda i: (split.rows[i]["source_tokens"], i))
    process_order = order if all_ranks_forward else order[accelerator.process_index :: accelerator.num_processes]
    context = objective.for_evaluation(accelerator.device)

    def predict_in_batches(size: int) -> list[Prediction]:
        predictions: list[Prediction] = []
        for start in range(0, len(process_order), size):
            positions = process_order[start : start + size]
            predictions += _predict_batch(model, split, positions, recipe, objective, context, has_targets=answered)
        return predictions

    # Gathered weights of sharded models cannot be inference tensors.
    with torch.no_grad() if all_ranks_forward else torch.inference_mode(), accelerator.autocast():
        predictions = retry_with_half_batch(predict_in_batches, recipe.evaluate.batch_size)
    model.train(training)
    gathered = predictions if all_ranks_forward else gather_object(predictions)
    ordered = sorted(gathered, key=lambda p: p["index"])
    example_at = dict(zip(split.indices, split.examples, strict=True))
    examples = [example_at[prediction["index"]] for prediction in ordered]
    completed = objective.component.complete_predictions(ordered, examples, has_targets=answered)
    return _calibrated(objective, completed)


def _predict_batch(
    model: nn.Module,
    split: TokenizedSplit,
    positions: Sequence[int],
    recipe: Recipe,
    objective: BoundObjective,
    context: ObjectiveContext,
    *,
    has_targets: bool,
) -> list[Prediction]:
    """Predict one batch: the examples at these positions of the split."""
    rows, examples = [split.rows[i] for i in positions], [split.examples[i] for i in positions]
    component = objective.component
    needs_teacher_forcing = has_targets and any(m.input == TEACHER_FORCED for m in recipe.metric)
    teacher_forced = component.teacher_force(model, rows, examples, context) if needs_teacher_forcing else []
    predicted = component.predict(model, rows, examples, context, has_targets=has_targets)
    predictions: list[Prediction] = []
    for turn, i in enumerate(positions):
        example = examples[turn]
        prediction: Prediction = {"index": split.indices[i], "source": example.source}
        if has_targets:
            if example.group:
                prediction["group"] = to_identifier(example.group)
            prediction["target"] = example.target
        if teacher_forced:
            prediction[TEACHER_FORCED] = teacher_forced[turn]
        predictions.append({**prediction, **predicted[turn]})
    return predictions


def compute_values(
    recipe: Recipe, objective: Objective, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str, float]:
    """Compute the loss and the metrics of predictions, and add per-example scores to the predictions.

    Args:
        recipe: The recipe with the metrics.
        objective: The objective of the run.
        examples: The examples, in the order of the predictions.
        predictions: The predictions that ``predict`` returned; changed in place.

    Returns:
        The values by name.
    """
    values = {LOSS: sum(p["loss"] for p in predictions) / max(1, sum(p["tokens"] for p in predictions))}
    references = [list(e.references or (e.target,)) for e in examples]
    metrics = [metric for metric in recipe.metric if metric.applies_to(examples)]
    of_texts = [m for m in metrics if m.input == PREDICTION]
    scored = [(m, suffix) for suffix in objective.prediction_suffixes for m in of_texts]
    scored += [(m, "") for m in metrics if m.input != PREDICTION]
    for metric, suffix in scored:
        inputs = _scored_inputs(metric.input + suffix, predictions)
        if inputs is None:
            text = f"the metric {metric.name!r} scores {metric.input!r}, which {objective.name!r} does not predict"
            raise RunError(f"{text}; leave the metric out")
        mean = metric.is_mean_of_examples
        with explain_metric_errors(metric):
            computed = _mean_values([metric.compute(each, references, examples) for each in inputs])
            each_sample = [metric.compute_per_example(each, references, examples) for each in inputs if mean]
        per_example = [_mean_values(scores) for scores in zip(*each_sample, strict=True)]
        for key, value in computed.items():
            values[key + suffix] = float(value)
        for prediction, scores in zip(predictions if mean else (), per_example, strict=True):
            suffixed = {key + suffix: float(value) for key, value in scores.items()}
            prediction["scores"] = {**prediction.get("scores", {}), **suffixed}
    return values


def _scored_inputs(key: str, predictions: Sequence[Prediction]) -> list[list[Any]] | None:
    """Return what a metric scores, as lists with a value for each example.

    Args:
        key: The key of the predictions: ``samples`` are scored together, and texts that were sampled several times one
            sample after the other.
        predictions: The predictions.

    Returns:
        One list, or one for each sample; None if predictions lack the key.
    """
    if key == SAMPLES and all(PREDICTION in each for each in predictions):
        return [[each.get(SAMPLES) or [each[PREDICTION]] for each in predictions]]
    if any(key not in each for each in predictions):
        return None
    if key == PREDICTION and all(SAMPLES in each for each in predictions):
        return [[*column] for column in zip(*(each[SAMPLES] for each in predictions), strict=True)]
    return [[each[key] for each in predictions]]


def _mean_values(values: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Return the mean of each value over samples."""
    if len(values) == 1:
        return values[0]
    return {key: sum(float(each[key]) for each in values) / len(values) for key in values[0]}


@contextmanager
def explain_metric_errors(metric: Metric) -> Iterator[None]:
    """Raise errors of a metric, such as one of a plugin, as errors of the run.

    Raises:
        RunError: The metric raised another error.
    """
    try:
        yield
    except PeftkitError:
        raise
    except Exception as error:
        raise RunError(f"the metric {metric.name!r} failed: {summarize_error(error)}") from error


def resolve_selection_metric(recipe: Recipe, values: Mapping[str, float]) -> tuple[str, bool]:
    """Return the value that selects the checkpoint, and whether higher is better.

    Args:
        recipe: The recipe of the run.
        values: The values on dev by name.

    Raises:
        RunError: No metric of the recipe computes that value.
    """
    key = recipe.selection_metric
    if key in values:
        return key, recipe.higher_is_better(key)
    raise RunError(
        f"the checkpoint is selected by {key!r}, which none of the recipe's metrics computes (available: "
        f"{', '.join(values)}); add a metric that computes it, or set evaluate.selection_metric"
    )
