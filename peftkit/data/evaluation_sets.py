"""Loads the examples of evaluation sets, with the labels that the model is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from datasets import Dataset

from peftkit.components import Example, Task
from peftkit.components.types import SkippedRow
from peftkit.data.examples import to_examples
from peftkit.data.row_subsets import stratified_sample
from peftkit.data.tokenized_split import SplitStatistics, TokenizedSplit, tokenize_examples, with_tokenizable_rows
from peftkit.errors import InputError, RunError, comma_separated, did_you_mean
from peftkit.models import BoundObjective, ModelFamily
from peftkit.recipe import Recipe
from peftkit.recipe.evaluation_tasks import EvaluationTask


def load_set_examples(each: EvaluationTask, trained: Task) -> list[Example]:
    """Loads the examples of an evaluation set.

    Args:
        each: The task of the set.
        trained: The task that the model is trained on.

    Raises:
        InputError: A row is invalid, or has a label that the model is not trained on.
        RunError: The set has no rows.
    """
    with named_errors(each):
        splits: Any = each.task.load()
        rows = splits.get(each.split)
        if rows is None or (isinstance(rows, Dataset) and not len(rows)):
            raise RunError(f"has no rows: task {each.task.name!r}, split {each.split!r}")
        examples = to_examples(each.task, each.split, rows, range(len(rows)))
        names, needed = each.task.targets, trained.targets
        if len(names) != len(needed) or (len(needed) > 1 and names != needed):
            text = f"predicts {comma_separated(names)}, but the model predicts {comma_separated(needed)}"
            raise InputError(f"{text}; use the same names and order")
        return _with_labels(each, trained, examples) if trained.labels else examples


@contextmanager
def named_errors(each: EvaluationTask) -> Iterator[None]:
    """Adds the name of an evaluation set to errors in its rows.

    Args:
        each: The task of the set.
    """
    try:
        yield
    except (InputError, RunError) as error:
        name = f"the evaluation set {each.name!r}"
        text = str(error)
        if name in text:
            raise
        raise (RunError if isinstance(error, RunError) else InputError)(f"{name}: {text}") from error


def with_tokenizable_set(objective: BoundObjective, each: EvaluationTask) -> EvaluationTask:
    """Returns an evaluation set whose task also skips rows that the tokenizer cannot represent, if it skips rows.

    Args:
        objective: The objective.
        each: The task of the set.
    """
    return replace(each, task=with_tokenizable_rows(objective, each.task).task)


def _with_labels(each: EvaluationTask, trained: Task, examples: Sequence[Example]) -> list[Example]:
    """Gives the examples of a set the labels that the model is trained on.

    Raises:
        InputError: A row has another label; or the model predicts several labels of a row, and the set has others.
    """
    labels, labels_of_set = trained.labels, each.task.labels
    if labels_of_set == labels:
        return list(examples)
    if not all(example.candidates for example in examples):
        unknown = [label for label in labels_of_set if label not in labels]
        text = f"{unknown[0]!r} is none of them" if unknown else f"the set has {comma_separated(labels_of_set)}"
        raise InputError(
            f"needs the labels that the model is trained on, in their order ({comma_separated(labels)}); {text}"
        )
    for index, example in enumerate(examples):
        if example.target not in labels:
            near = did_you_mean(example.target, labels)
            raise InputError(
                f"{each.task.describe_row(each.split, index)}: the model is not trained on the label "
                f"{example.target!r}{near}; labels: {comma_separated(labels)}"
            )
    return [replace(example, candidates=labels) for example in examples]


def skipped_rows_of(each: EvaluationTask) -> Iterator[SkippedRow]:
    """Yields the invalid rows of an evaluation set that were left out."""
    return (row for row in each.task.skipped_rows() if row.split == each.split)


def tokenize_evaluated(
    recipe: Recipe,
    objective: BoundObjective,
    name: str,
    examples: Sequence[Example],
    limit: int | None,
    locate: Callable[[int], str] | None = None,
) -> tuple[TokenizedSplit, TokenizedSplit]:
    """Tokenizes a split to evaluate.

    Args:
        recipe: The recipe.
        objective: The objective.
        name: Name of the split.
        examples: All examples of the split.
        limit: Number of rows that are evaluated along the curve; None for all.
        locate: Returns the location of the example with an index; None for that in the split of the task.

    Returns:
        The rows for evaluations along the curve, and those for the evaluation of the selected checkpoint.
    """
    answers = [objective.component.answer(example) for example in examples]
    # Free texts are stratified by the length of their sources.
    strata = [len(example.source) for example in examples] if objective.component.generates else answers
    indices = stratified_sample(strata, limit, name)
    wanted = range(len(examples)) if recipe.evaluate.full_splits else indices
    chosen, known = [examples[i] for i in wanted], [answers[i] for i in wanted]
    locate_chosen = None if locate is None else (lambda position: locate(wanted[position]))
    whole = tokenize_examples(objective, name, chosen, wanted, training=False, answers=known, locate=locate_chosen)
    return whole.select(indices), whole


def check_truncated_targets(
    recipe: Recipe, family: ModelFamily, splits: Mapping[str, SplitStatistics], table: str = "train"
) -> None:
    """Raises if too many targets are truncated, because the model would be scored on a different task.

    Args:
        recipe: The recipe.
        family: The model family, with the maximum lengths.
        splits: Statistics of the splits by name.
        table: The table of the recipe that has the maximum length.

    Raises:
        InputError: They are.
    """
    longest = max(max(statistics.target_tokens) for statistics in splits.values())
    allowed, limit = recipe.train.truncate_targets, f"{table}.max_target_length = {family.max_target_length} tokens"
    remedy = f"raise it (the longest target has {longest})"
    if family.max_target_length < recipe.train.max_target_length:
        limit = f"the {family.max_target_length} positions of the model's decoder"
        remedy = f"use a model with more positions (the longest target has {longest} tokens)"
    for split, statistics in splits.items():
        total, truncated = len(statistics), statistics.count_truncated(family)["targets"]
        share = truncated / total
        if share > allowed:
            raise InputError(
                f"{truncated:,} of {total:,} targets of {recipe.task.name!r} in split {split!r} "
                f"({share:.1%}) are longer than {limit} and would be truncated; {remedy}, or allow it with "
                f"train.truncate_targets = {min(1.0, share + 0.005):.2f}"
            )
