"""Matches the labels of a task with those of a checkpoint's head, which are in its ``id2label``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from peftkit.components import Head
from peftkit.errors import ModelError, comma_separated, did_you_mean
from peftkit.recipe import Recipe

SEQUENCE_HEADS = ("ForSequenceClassification", "ForMultipleChoice")
"""Suffixes of architectures whose head scores whole texts."""


def head_suffixes(head: Head) -> tuple[str, ...]:
    """Return the suffixes of the architectures whose head can be kept as the head that an objective needs.

    Args:
        head: the head that the objective needs.
    """
    suffix = head.auto_class.removeprefix("AutoModel")
    return SEQUENCE_HEADS if suffix in SEQUENCE_HEADS else (suffix,)


def architecture_name(config: Any) -> str:
    """Return the architecture that a checkpoint was saved with."""
    return str((config.architectures or ["no architecture"])[0])


def checkpoint_labels(config: Any) -> list[str]:
    """Return the labels of the outputs of a checkpoint's head, in their order."""
    if architecture_name(config).endswith("ForMultipleChoice"):
        return ["score"]  # one output per pair, whatever the config says
    return [str(config.id2label[number]) for number in sorted(config.id2label)]


def match_labels(recipe: Recipe, config: Any, head: Head) -> list[int]:
    """Return the index of the checkpoint's output for each output that a head needs.

    Args:
        recipe: the recipe.
        config: the checkpoint's config.
        head: the head that the objective needs.

    Raises:
        ModelError: the checkpoint has no classification head, or its labels are ambiguous or lack one of the task's.
    """
    if not architecture_name(config).endswith(head_suffixes(head)):
        raise ModelError(
            f"model.keep_head: the checkpoint {recipe.model.name!r} has no {_describe_head(head)} (it is a "
            f"{architecture_name(config)}); leave model.keep_head out"
        )
    task_labels, head_labels = head.labels, checkpoint_labels(config)
    if problem := _describe_ambiguity(config, head_labels):
        raise ModelError(
            f"model.keep_head: the labels in the config.json of {recipe.model.name!r} are ambiguous: {problem}; "
            "correct it, or leave model.keep_head out for a new head"
        )
    if not task_labels and len(head_labels) == head.outputs:
        return [*range(head.outputs)]
    indices = {normalize_label(label): index for index, label in enumerate(head_labels)}
    missing = [label for label in task_labels if normalize_label(label) not in indices]
    if missing or not task_labels:
        if missing:
            problem = f"has no label {missing[0]!r}{did_you_mean(missing[0], head_labels)}"
        else:
            problem = f"has {len(head_labels)} outputs"
        needed = comma_separated(task_labels) if task_labels else f"{head.outputs} output{'s'[: head.outputs != 1]}"
        raise ModelError(
            f"model.keep_head: the head of {recipe.model.name!r} {problem}, but the task {recipe.task.name!r} needs "
            f"{needed}; the head's labels are {comma_separated(head_labels)}; leave model.keep_head out for a new head"
        )
    return [indices[normalize_label(label)] for label in task_labels]


def _describe_head(head: Head) -> str:
    """Describe a kind of head, such as ``head for token classification``."""
    suffix = head_suffixes(head)[0]
    if suffix in SEQUENCE_HEADS:
        return "classification head"
    return f"head for {re.sub('(?<!^)(?=[A-Z])', ' ', suffix.removeprefix('For')).lower()}"


def labels_fit(task_labels: Sequence[str], head_labels: Sequence[str]) -> bool:
    """Whether a head has all labels of a task, or a single output if the task has none.

    Args:
        task_labels: the task's labels.
        head_labels: the labels of the head's outputs.
    """
    if not task_labels:
        return len(head_labels) == 1
    return {*map(normalize_label, task_labels)} <= {*map(normalize_label, head_labels)}


def normalize_label(label: str) -> str:
    """Return a label without differences in case and whitespace."""
    return " ".join(label.casefold().split())


def _describe_ambiguity(config: Any, labels: list[str]) -> str:
    """Describe why a config does not map outputs to labels unambiguously; empty if it does."""
    if architecture_name(config).endswith("ForMultipleChoice"):
        return ""
    indices = sorted(int(index) for index in config.id2label)
    if indices != list(range(len(indices))):
        return f"id2label has the ids {comma_separated([str(index) for index in indices])}"
    names = [normalize_label(label) for label in labels]
    if duplicates := [label for label, name in zip(labels, names, strict=True) if names.count(name) > 1]:
        return f"id2label has {comma_separated(duplicates)}, which differ in case and whitespace at most"
    label2id = {str(label): int(index) for label, index in (getattr(config, "label2id", None) or {}).items()}
    for index, label in enumerate(labels):
        if label2id.get(label, index) != index:
            return f"{label!r} is {index} in id2label, but {label2id[label]} in label2id"
    return ""
