"""Tokenizes the first rows of a task, to find those that a run would refuse because they are too long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from peftkit.components import Task
from peftkit.data.examples import to_examples
from peftkit.data.tokenized_split import tokenize_examples
from peftkit.errors import InputError
from peftkit.models import BoundObjective
from peftkit.models.load_base_model import load_objective
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.recipe import Recipe
from peftkit.recipe.conflicts.find_conflicts import Conflict

CHECKED_ROWS = 2000
"""Number of rows of each split that are tokenized; a run tokenizes all."""
OPTION = re.compile(r"objective\.(\w+): (.+)", re.DOTALL)
SPLITS = ("train", "dev", "test")


def find_long_rows(recipe: Recipe) -> Iterator[Conflict]:
    """Find the first row of each split, and of each evaluation set, that cannot be tokenized.

    Args:
        recipe: The recipe, whose data are valid.

    Yields:
        For each such split, the key and the problem, with the row's location.
    """
    quiet_libraries("warning")
    try:
        _, objective = load_objective(recipe)
    except InputError as error:
        yield ("model", "name"), str(error)
        return
    for split in SPLITS:
        problem = _problem_of(objective, recipe.task, split)
        if match := OPTION.fullmatch(problem):  # that all rows need, such as a template
            yield ("objective", match[1]), match[2]
            return
        if problem:
            yield ("task", "path"), problem
    for index, each in enumerate(recipe.evaluation_tasks):
        if problem := _problem_of(objective.with_task(each.task), each.task, each.split):
            yield ("evaluate", "set", index), f"the set {each.name!r}: {problem}"


def _problem_of(objective: BoundObjective, task: Task, split: str) -> str:
    """Return what is wrong with the first rows of a split; empty if nothing is, or if it is reported elsewhere."""
    try:
        splits: Any = task.load()
        rows = list(islice(splits[split], CHECKED_ROWS)) if split in splits else []
        examples = to_examples(task, split, rows, range(len(rows)))
    except InputError:
        return ""
    try:
        tokenize_examples(objective, split, examples, range(len(examples)), training=split == "train")
    except InputError as error:
        return str(error)
    return ""
