"""Evaluation that cannot leak: candidates are ranked by likelihood, free text is generated, never teacher-forced."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from peftkit.components import Example
from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.recipe.tables import LOSS
from peftkit.runner.data import EvaluationSplit
from peftkit.runner.forms import Form, Row, Scores
from peftkit.runner.memory import halving
from peftkit.texts import identifier

Prediction = dict[str, Any]
"""One line of a predictions file."""
TEACHER_FORCED = "teacher_forced"
"""The key of a prediction line that holds what the model says while it is fed the target."""
NORM = "_norm"
"""Ends the names of values that rank by log-likelihood per token (as acc_norm in lm-evaluation-harness)."""


@dataclass(frozen=True)
class Result:
    """One split's values by name, ``loss`` among them, and what was predicted for each example."""

    values: dict[str, float]
    predictions: list[Prediction]


def ranking(recipe: Recipe, form: type[Form]) -> list[str]:
    """The rankings that are scored, by what their values' names end with; the recipe's own has no ending."""
    if type(recipe.task).kind == "generation":
        return [""]
    return ["", NORM] if form.generates else [""]


def evaluate(
    model: nn.Module,
    split: EvaluationSplit,
    recipe: Recipe,
    form: Form,
    accelerator: Accelerator,
    *,
    lockstep: bool = False,
) -> Result:
    """Evaluates one split, each process a share of it; every process gets the values, the main one the predictions.

    Dropout is off and no weight changes. The loss is the mean cross-entropy of the targets' tokens (of the right
    choice, where an encoder scores choices).

    Args:
        model: the model as it is trained.
        split: the examples.
        recipe: what is run.
        form: the form of the model.
        accelerator: the processes.
        lockstep: whether all processes evaluate all examples, as models need of which each process holds a part.
    """
    predictions = predict(model, split, recipe, form, accelerator, lockstep=lockstep)
    # Metrics are computed once, so that no library's order of summation can set the processes apart.
    main = accelerator.is_main_process
    shared: list[Any] = [values_of(recipe, type(form), split.examples, predictions) if main else None]
    broadcast_object_list(shared)
    return Result(shared[0], predictions)


def predict(
    model: nn.Module,
    split: EvaluationSplit,
    recipe: Recipe,
    form: Form,
    accelerator: Accelerator,
    *,
    answered: bool = True,
    lockstep: bool = False,
) -> list[Prediction]:
    """Predicts one split, each process a share of it; every process gets all predictions, in the split's order.

    Examples go through the model sorted by length, ``evaluate.batch_size`` at a time: the same examples give the same
    predictions to the last bit.

    Args:
        model: the model.
        split: the examples.
        recipe: what is run.
        form: the form of the model.
        accelerator: the processes.
        answered: whether the examples' targets are their answers and no placeholders: then losses are computed too.
        lockstep: as for ``evaluate``.
    """
    training = model.training
    model.eval()
    order = sorted(range(len(split.rows)), key=lambda i: (len(split.rows[i]["source"]), i))
    mine = order if lockstep else order[accelerator.process_index :: accelerator.num_processes]
    rank = form.ranker(model)

    def in_batches(size: int) -> list[Prediction]:
        found: list[Prediction] = []
        for start in range(0, len(mine), size):
            which = mine[start : start + size]
            found += _predicted(model, rank, split, which, recipe, form, accelerator.device, answered=answered)
        return found

    # Weights that are gathered for a pass cannot be inference tensors.
    with torch.no_grad() if lockstep else torch.inference_mode(), accelerator.autocast():
        found = halving(in_batches, recipe.evaluate.batch_size)
    model.train(training)
    return sorted(found if lockstep else gather_object(found), key=lambda p: p["index"])


def _predicted(
    model: nn.Module,
    rank: Callable[[Sequence[Row], torch.device], Scores],
    split: EvaluationSplit,
    which: Sequence[int],
    recipe: Recipe,
    form: Form,
    device: torch.device,
    *,
    answered: bool,
) -> list[Prediction]:
    """The predictions of one batch."""
    rows = [split.rows[i] for i in which]
    ranked = type(recipe.task).kind != "generation"
    scores = rank(rows, device) if ranked or answered else None
    options = {"max_new_tokens": recipe.evaluate.max_new_tokens, "num_beams": recipe.evaluate.num_beams}
    texts = [] if ranked else form.generate(model, rows, device, **options)
    leaks = answered and any(m.reads == TEACHER_FORCED for m in recipe.metric)
    forced = form.teacher_forced(model, rows, device) if leaks else []
    made: list[Prediction] = []
    for turn, i in enumerate(which):
        example, row = split.examples[i], rows[turn]
        prediction: Prediction = {"index": split.indices[i], "source": example.source}
        if answered and scores:
            answer = row["answer"]
            if example.group:
                prediction["group"] = identifier(example.group)
            prediction |= {
                "target": example.target,
                "loss": -scores.sums[turn][answer],
                "tokens": scores.tokens[turn][answer],
            }
        if forced:
            prediction[TEACHER_FORCED] = _as_text(forced[turn], example, row, form)
        if ranked and scores:
            sums, tokens = scores.sums[turn], scores.tokens[turn]
            norms = [s / max(n, 1) for s, n in zip(sums, tokens, strict=True)]
            first, second = (sums, norms) if recipe.evaluate.scoring == "sum" else (norms, sums)
            prediction |= {
                "prediction": best(example.candidates, first),
                f"prediction{NORM}": best(example.candidates, second),
                "candidates": list(example.candidates),
                "log_likelihoods": sums,
                "candidate_tokens": tokens,
            }
        else:
            prediction["prediction"] = texts[turn]
        made.append(prediction)
    return made


def _as_text(ids: list[int], example: Example, row: Row, form: Form) -> str:
    """The candidate whose ids these are, as it was written: tokenizers may forget case and blanks."""
    texts = example.candidates if len(row["candidates"]) > 1 else (example.target,)
    written = (text for text, own in zip(texts, row["candidates"], strict=True) if ids[: len(own)] == own)
    return next(written, None) or form.tokenizer.decode(ids, skip_special_tokens=True).strip()


def best(candidates: Sequence[str], scores: Sequence[float]) -> str:
    """The candidate of the highest score, whatever order they stand in: of equal ones the first by alphabet."""
    known = [-torch.inf if math.isnan(score) else score for score in scores]
    highest = max(known)
    return min(text for text, score in zip(candidates, known, strict=True) if score == highest)


def values_of(
    recipe: Recipe, form: type[Form], examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str, float]:
    """The loss and the metrics' values of predictions, which also get the scores that each has alone.

    Args:
        recipe: whose metrics.
        form: the form of the model.
        examples: what was predicted, in the order of the predictions.
        predictions: as ``predict`` makes them.
    """
    values = {LOSS: sum(p["loss"] for p in predictions) / max(1, sum(p["tokens"] for p in predictions))}
    references = [list(e.references or (e.target,)) for e in examples]
    for ending in ranking(recipe, form):
        texts = [p[f"prediction{ending}"] for p in predictions]
        for metric in (m for m in recipe.metric if m.reads == "prediction"):
            for key, value in metric.compute(texts, references, examples).items():
                values[key + ending] = float(value)
            if metric.per_example:
                for prediction, scores in zip(predictions, metric.each(texts, references, examples), strict=True):
                    own = {key + ending: float(value) for key, value in scores.items()}
                    prediction["scores"] = {**prediction.get("scores", {}), **own}
    for metric in (m for m in recipe.metric if m.reads == TEACHER_FORCED):
        texts = [p[TEACHER_FORCED] for p in predictions]
        values |= {k: float(v) for k, v in metric.compute(texts, references, examples).items()}
    return values


def direction(recipe: Recipe, values: Mapping[str, float]) -> tuple[str, bool]:
    """The value that selects the checkpoint and whether higher is better.

    Raises:
        RunError: no metric of the recipe gives that value.
    """
    key = recipe.selects
    if key in values:
        return key, recipe.higher_is_better(key)
    raise RunError(
        f"the checkpoint is selected by {key!r}, which none of the recipe's metrics gives "
        f"({', '.join(values)}); add the metric that does, or set evaluate.selects"
    )
