"""The tasks that can use a user's data, for ``peftkit init``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftkit.components import ModelKind, Objective, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe.model_names import model_config, model_kind, trained_kind

DOUBT = 0.15
"""How much worse another reading of the data may be than the best for it to be worth a question."""
UNLIKELY = 0.25
"""How much worse it may be for it to be worth a comment in the recipe."""
WEAK = 0.35
"""A reading with a lower score does not replace one that fails for a reason that the user can act on."""


@dataclass(frozen=True)
class TaskCandidate:
    """A task that can use the data.

    Attributes:
        name: The task's name.
        kind: The kind of task.
        match: How it can use them.
    """

    name: str
    kind: TaskKind
    match: TaskMatch


def find_candidates(path: str, registry: Registry) -> list[TaskCandidate]:
    """Ask every installed task whether it can use a user's data.

    Args:
        path: A file, a folder, or the id of a hub dataset.
        registry: The installed components.

    Returns:
        The tasks that can, the best first; a task may occur several times, with other columns.

    Raises:
        InputError: There are no such data, or no task can use them.
    """
    candidates: list[TaskCandidate] = []
    problems: list[InputError] = []
    for name, entry in registry.all("task").items():
        task: Any = entry.component
        try:
            candidates += [TaskCandidate(name, task.kind, match) for match in task.recognize(path)]
        except InputError as error:  # another task may read such files
            problems.append(error)
    candidates.sort(key=lambda candidate: (-candidate.match.score, candidate.name))
    if problems and (not candidates or candidates[0].match.score < WEAK):
        raise problems[0]
    if not candidates:
        raise InputError(
            f"no task recognizes the columns of {path!r}; write a recipe by hand (docs/tasks.md lists the columns of "
            "each task), or rename the columns"
        )
    return candidates


def supported_candidates(candidates: Sequence[TaskCandidate], model: str, registry: Registry) -> list[TaskCandidate]:
    """Return the candidates whose kind of task some objective supports with a model.

    Args:
        candidates: The candidates.
        model: The model's name or folder.
        registry: The installed components.

    Raises:
        InputError: There is none.
    """
    config = model_config(model)
    kind = model_kind(config)
    if kind is None:
        return [*candidates]
    supported = [
        candidate
        for candidate in candidates
        if trained_kind(config, objectives_for(candidate.kind, registry)) in families_for(candidate.kind, registry)
    ]
    if not supported:
        best = candidates[0]
        families = " or ".join(sorted(families_for(best.kind, registry)))
        raise InputError(
            f"the data are for {best.name}, because {best.match.reason}; {model!r} is an {kind}, but {best.name} needs "
            f"a model that is a {families}"
        )
    return supported


def doubtful_candidates(candidates: Sequence[TaskCandidate]) -> list[TaskCandidate]:
    """Return the candidates that fit about as well as the best, which is the first of them.

    Args:
        candidates: The candidates, the best first.
    """
    return [each for each in candidates if each.match.score > candidates[0].match.score - DOUBT]


def other_candidates(candidates: Sequence[TaskCandidate], chosen: TaskCandidate) -> list[TaskCandidate]:
    """Return the candidates that a user may have meant instead of the chosen one.

    Args:
        candidates: The candidates, the best first.
        chosen: The chosen one.
    """
    best = candidates[0].match.score
    return [each for each in candidates if each is not chosen and each.match.score > best - UNLIKELY]


def describe_candidate(candidate: TaskCandidate) -> str:
    """Describe a candidate by its task and the columns that it uses.

    Args:
        candidate: The candidate.
    """
    shown = {
        option: value
        for option, value in candidate.match.options.items()
        if option.endswith(("_column", "_columns", "_labels", "_delimiter", "prompt"))
    }
    columns = ", ".join(f"{option} = {toml_value(value)}" for option, value in shown.items())
    return f"{candidate.name} ({columns})" if columns else candidate.name


def complete_candidate(candidate: TaskCandidate, registry: Registry) -> TaskCandidate:
    """Return a candidate with the options that skip invalid rows, if the data have some.

    Args:
        candidate: The task and its options.
        registry: The installed components.

    Raises:
        InputError: Too many rows are invalid.
    """
    task: Any = registry.all("task")[candidate.name].component.model_validate(dict(candidate.match.options))
    options, notes = task.options_for_bad_rows()
    match = candidate.match
    if not options:
        return candidate
    return replace(
        candidate, match=replace(match, options={**match.options, **options}, notes={**match.notes, **notes})
    )


def with_options(candidate: TaskCandidate, options: Mapping[str, Any], notes: Mapping[str, str]) -> TaskCandidate:
    """Return a candidate with further options.

    Args:
        candidate: The task and its options.
        options: The further options.
        notes: Comments on them.
    """
    match = candidate.match
    return replace(
        candidate, match=replace(match, options={**match.options, **options}, notes={**match.notes, **notes})
    )


def describe_skipped_rows(preview: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that skip as many rows as a preview did, and a comment with their number.

    Args:
        preview: The preview of a task that skips invalid rows.
    """
    skipped, splits = preview["skipped"], preview["splits"]
    counts = Counter(row["split"] for row in skipped)
    share = max(counts[name] / (counts[name] + split["rows"]) for name, split in splits.items())
    first = skipped[0]
    where = f"{first['file']}, row {first['row']}: {first['reason']}"
    note = f"{len(skipped):,} rows are invalid with this model; the first: {where}"
    return {"on_bad_row": "skip", "max_bad": f"{math.ceil(100 * share)}%"}, {"on_bad_row": " ".join(note.split())}


def families_for(task_kind: TaskKind, registry: Registry) -> list[ModelKind]:
    """Return the kinds of model that some objective supports with a kind of task, those of the first objective first.

    Args:
        task_kind: The kind of task.
        registry: The installed components.
    """
    objectives = objectives_for(task_kind, registry)
    return [*dict.fromkeys(family for each in objectives for family in each.families)]


def objectives_for(task_kind: TaskKind, registry: Registry) -> list[type[Objective]]:
    """Return the objectives of a kind of task.

    Args:
        task_kind: The kind of task.
        registry: The installed components.
    """
    objectives: list[Any] = [entry.component for entry in registry.all("objective").values()]
    return [each for each in objectives if each.task_kind == task_kind]


def toml_value(value: Any) -> str:
    """Return a value as TOML: JSON is TOML for texts, numbers and lists of them.

    Args:
        value: The value.
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
