"""Checks of objectives, on a tiny model of each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from peftkit.components import Example, Method, ModelKind, Objective, Task
from peftkit.data.tokenized_split import tokenize_examples
from peftkit.evaluate.evaluator import predict
from peftkit.inference.finished_run import load_finished_run
from peftkit.inference.predict import predict as predict_inputs
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import LoadedBase, load_base
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.component_checks import check_round_trip
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import (
    EVERY_STEP,
    check_equal_results,
    check_resume_after,
    only_run,
    recipe_maker,
    registry_with,
)
from peftkit.train.steps.gradient_cache import GradientCache

ARCHITECTURES: Mapping[ModelKind, str] = {"encoder-decoder": "t5", "decoder": "llama", "encoder": "bert"}
ROWS = 6
"""Number of examples that are checked."""
TOLERANCE = 1e-4
OTHER_SETTINGS: dict[str, Any] = {
    "max_new_tokens": 1,
    "num_beams": 2,
    "scoring": "norm",
    "stop": ("e", "a"),
    "candidate_end": False,
    "temperature": 1.0,
}
"""Settings that differ from the defaults."""


def check_objective(
    objective: Objective,
    task: Task,
    folder: Path,
    *,
    runs: bool = True,
    architectures: Mapping[ModelKind, str] = ARCHITECTURES,
) -> None:
    """Check an objective with tiny models of all its families.

    Its options survive a round trip through JSON. Neither losses nor predictions depend on the other rows of a batch,
    and predictions on no setting of evaluation that ``used_settings`` lacks;
    the losses of microbatches add up. If the loss compares rows, microbatches have the loss and the gradients of their
    batch. Rows can be stored. Predictions have what metrics and run directories need. With ``runs``, two processes with
    four rows each give the results of one with eight, and a resumed run ends bit for bit like one that was not
    interrupted; the run counts its compute, has baselines, and predicts rows without answers.

    Args:
        objective: The objective with its options.
        task: A task of its kind, with at least eight training rows.
        folder: An empty folder.
        runs: Whether to check whole runs too; each takes a few seconds.
        architectures: An architecture of each family to check, of those in ``peftkit.testing.tiny_models``.

    Raises:
        AssertionError: The check failed.
    """
    check_round_trip(objective)
    assert task.kind == objective.task_kind, f"the task is of kind {task.kind!r}, not {objective.task_kind!r}"
    full = registry_with(objective, task).find("method", "full").component.model_validate({})
    assert isinstance(full, Method)
    changes = {
        table: {**component.model_dump(mode="json")} for table, component in (("task", task), ("objective", objective))
    }
    for family, architecture in ((each, architectures[each]) for each in objective.families if each in architectures):
        inner = folder / family
        make_recipe = recipe_maker(full, architecture, inner, objective, task, changes=changes)
        base = load_base(make_recipe("tensors"))
        _check_rows(base.objective, make_recipe("tensors"))
        _check_batches(base, make_recipe("tensors"))
        _check_predictions(base, make_recipe("tensors"))
        _check_settings(base, make_recipe("tensors"))
        if runs:
            _check_runs(make_recipe, objective, task)


def _check_rows(objective: BoundObjective, recipe: Recipe) -> None:
    """Check that rows can be stored, and that those of training and evaluation exist."""
    for training in (True, False):
        rows = list(tokenize_examples(objective, "train", _examples(recipe), range(ROWS), training=training).rows)
        stored = Dataset.from_list([dict(row) for row in rows]).to_list()
        assert [dict(row) for row in rows] == stored, "rows change when they are stored; use numbers, texts and lists"


def _check_batches(base: LoadedBase, recipe: Recipe) -> None:
    """Check that losses do not depend on padding, and add up over microbatches."""
    objective, model = base.objective, base.model.eval()
    rows = tokenize_examples(objective, "train", _examples(recipe), range(ROWS), training=True).rows
    if objective.component.compares_rows:
        _check_compared_rows(objective, model, objective.collate(rows))
        return
    with torch.no_grad():
        batch = objective.collate(rows)
        sums = objective.statistics(model, [batch])
        batch |= sums
        for key in ("input_ids", "attention_mask", "labels", "input_tokens"):
            assert key in batch, f"collate returns no {key!r}"
        whole, targets = objective.loss(model, batch), objective.num_targets(batch)
        assert whole.ndim == 0, f"the loss has the shape {tuple(whole.shape)}; it must be summed"
        assert math.isfinite(whole.item()), f"the loss is {whole.item()}"
        assert int(targets) > 0, "num_targets is 0"
        for size in (1, 4):
            parts = list(objective.microbatches(batch, size))
            total = sum(objective.loss(model, part).item() for part in parts)
            assert _close(total, whole.item()), (
                f"the losses of microbatches of {size} add up to {total}, and the loss of the batch is {whole.item()}"
            )
            counted = sum(int(objective.num_targets(part)) for part in parts)
            assert counted == int(targets), f"microbatches have {counted} targets, and the batch {int(targets)}"
        alone = sum(objective.loss(model, {**objective.collate([row]), **sums}).item() for row in rows)
        assert _close(alone, whole.item()), (
            f"the losses of single rows add up to {alone}, and the loss of the batch is {whole.item()}"
        )


def _check_compared_rows(objective: BoundObjective, model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Check that microbatches, whose outputs are compared, have the loss and the gradients of the whole batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(losses: Iterable[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        total = 0.0
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total, [torch.zeros(()) if p.grad is None else p.grad for p in trained]

    expected, of_batch = gradients([objective.loss(model, batch)])
    assert math.isfinite(expected), f"the loss is {expected}"
    assert int(objective.num_targets(batch)) > 0, "num_targets is 0"
    for size in (1, 4):
        parts = list(objective.microbatches(batch, size))
        cache = GradientCache(objective, Accelerator(cpu=True))
        cache.fill(parts, lambda part, _: objective.outputs(model, part))
        total, of_parts = gradients(cache.loss(model, part) for part in parts)
        assert _close(total, expected), f"microbatches of {size} have the loss {total}, and the batch {expected}"
        different = [a for a, b in zip(of_parts, of_batch, strict=True) if (a - b).abs().max() > TOLERANCE]
        assert not different, f"microbatches of {size} have other gradients for {len(different)} parameters"
        counted = sum(int(objective.num_targets(part)) for part in parts)
        assert counted == int(objective.num_targets(batch)), f"microbatches have {counted} targets"


def _check_predictions(base: LoadedBase, recipe: Recipe) -> None:
    """Check what is predicted, and that it depends on no other row and on no answer."""
    accelerator = Accelerator(cpu=True)
    split = tokenize_examples(base.objective, "dev", _examples(recipe), range(ROWS), training=False)
    together = predict(base.model, split, recipe, base.objective, accelerator)
    suffixes = base.objective.component.prediction_suffixes
    for prediction in together:
        needed = (*(f"prediction{suffix}" for suffix in suffixes), "loss", "tokens")
        missing = [key for key in needed if key not in prediction]
        assert not missing, f"predictions have no {missing[0]!r}"
    alone_recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_size": 1})})
    alone = predict(base.model, split, alone_recipe, base.objective, accelerator)
    for first, second in zip(together, alone, strict=True):
        assert _close(first["loss"], second["loss"]), (
            f"the loss of row {first['index']} is {second['loss']} alone and {first['loss']} in a batch"
        )
    prompts = [recipe.task.to_prompt(row) for row in islice(recipe.task.load()["train"], ROWS)]
    unlabeled = tokenize_examples(base.objective, "dev", prompts, range(ROWS), training=False)
    blind = predict(base.model, unlabeled, recipe, base.objective, accelerator, answered=False)
    for first, second in zip(together, blind, strict=True):
        assert first["prediction"] == second["prediction"], (
            f"the prediction of row {first['index']} is {first['prediction']!r} with its answer and "
            f"{second['prediction']!r} without"
        )


def _check_settings(base: LoadedBase, recipe: Recipe) -> None:
    """Check that predictions do not depend on settings that the objective does not use."""
    used = base.objective.component.used_settings
    if used is None:
        return
    unknown = [name for name in used if name not in OTHER_SETTINGS]
    assert not unknown, f"used_settings has {unknown[0]!r}; known are {', '.join(OTHER_SETTINGS)}"
    others: dict[str, Any] = {name: value for name, value in OTHER_SETTINGS.items() if name not in used}
    changed = replace(base.objective.context, settings=replace(base.objective.context.settings, **others))
    split = tokenize_examples(base.objective, "dev", _examples(recipe), range(ROWS), training=False)
    accelerator, objective = Accelerator(cpu=True), replace(base.objective, context=changed)
    before, after = (predict(base.model, split, recipe, each, accelerator) for each in (base.objective, objective))
    for first, second in zip(before, after, strict=True):
        different = [key for key in first if first[key] != second.get(key)]
        assert not different, f"{different[0]} depends on one of {', '.join(others)}, which used_settings lacks"


def _check_runs(make_recipe: Callable[..., Recipe], objective: Objective, task: Task) -> None:
    """Check whole runs."""
    registry = registry_with(objective, task)
    recipe = make_recipe("run", *EVERY_STEP)
    run_processes(recipe, registry)
    path = only_run(recipe)
    summary = RunDirectory(path).summary()
    assert summary["objective"] == objective.name, f"the run used the objective {summary['objective']!r}"
    assert summary["cost"]["gmacs"] > 0, "no compute was counted"
    assert all(set(summary["baselines"][name]) == {"dev", "test"} for name in ("constant", "majority", "random"))
    check_resume_after(2, recipe, registry)
    check_equal_results(make_recipe, registry)
    finished = load_finished_run(path, registry)
    test, stored = recipe.task.load()["test"], RunDirectory(path).predictions("test")
    predictions = list(predict_inputs(finished, [dict(test[row["index"]]) for row in stored]))
    assert [p["prediction"] for p in predictions] == [p["prediction"] for p in stored], (
        "rows of test are predicted differently than in the run"
    )


def _examples(recipe: Recipe) -> Sequence[Example]:
    rows: Any = recipe.task.load()["train"]
    return [recipe.task.to_example(row) for row in islice(rows, ROWS)]


def _close(value: float, expected: float) -> bool:
    return abs(value - expected) <= TOLERANCE * max(1.0, abs(expected))
