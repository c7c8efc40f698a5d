"""Preview how a task's rows are shown to a model, without the model's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.analysis.data_quality import (
    REPORTED_ROWS,
    SplitInputs,
    describe_answers,
    histogram,
    report_splits,
    split_inputs,
)
from peftkit.components import Example, Task
from peftkit.components.types import Row
from peftkit.data.examples import to_examples
from peftkit.data.pipeline import SPLITS
from peftkit.data.tokenized_split import TokenizedSplit, tokenize_rows, with_tokenizable_rows
from peftkit.errors import InputError
from peftkit.models import BoundObjective, ModelFamily
from peftkit.models.load_base_model import load_objective
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.recipe import Recipe

SAMPLED_ROWS = 2000  # of each split, for lengths and answers


def preview_task(recipe: Recipe, split: str, number: int, *, reports: bool = True) -> dict[str, Any]:
    """Tokenize rows of a task as a run would, with the model's tokenizer and config.

    Args:
        recipe: The recipe.
        split: ``train``, ``dev`` or ``test``.
        number: How many rows to show, evenly spaced over the split.
        reports: Whether to look for duplicates, empty texts and leakage, which reads up to ``REPORTED_ROWS`` rows of
            each split.

    Returns:
        ``examples`` (source, target and candidates as text and as token counts, before and after truncation) and, for
        every split, ``rows``, ``judged``, ``cut``, the ``lengths`` in tokens with histograms, the ``answers`` with
        their proportions or the distribution of ``numbers``, and the reports. The answers of multiple choice are the
        indices of the choices, from 0.

    Raises:
        InputError: The data or a row are invalid.
        RunError: The tokenizer cannot be loaded.
    """
    quiet_libraries("warning")
    kind, objective = load_objective(recipe)
    family, objective = objective.family, with_tokenizable_rows(objective, recipe.task)
    task = objective.task
    splits: Any = task.load()
    statistics = {name: _split_statistics(objective, name, splits[name]) for name in SPLITS if name in splits}
    if split not in statistics:
        raise InputError(f"the task {recipe.task.name!r} has no split {split!r}")
    tokenized = _tokenize_sample(objective, split, splits[split], number)
    if reports:
        inputs = {name: _read_inputs(task, name, splits[name]) for name in statistics}
        for name, report in report_splits(inputs, task.describe_row).items():
            statistics[name] |= report
    return {
        "task": recipe.task.name,
        "kind": recipe.task.kind,
        "model": recipe.model.name,
        "model_kind": kind,
        "limits": {"source": family.max_source_length, "target": family.max_target_length},
        "splits": statistics,
        "ignored": dict(task.num_ignored_rows()),
        "held_out": {name: dict(each) for name, each in task.held_out().items()},
        "skipped": [asdict(row) for row in task.skipped_rows()],
        "split": split,
        "examples": [
            {"row": task.describe_row(split, i), **_format_example(family, example, row)}
            for i, example, row in zip(tokenized.indices, tokenized.examples, tokenized.rows, strict=True)
        ],
    }


def _read_inputs(task: Task, name: str, split: Any) -> SplitInputs:
    """Read the inputs of up to ``REPORTED_ROWS`` rows of a split; of a stream, the first ones."""
    indices, rows = _sample_rows(split, REPORTED_ROWS if isinstance(split, Dataset) else SAMPLED_ROWS)
    return split_inputs(name, indices, to_examples(task, name, rows, indices))


def _sample_rows(split: Any, number: int) -> tuple[Sequence[int], Sequence[Any]]:
    """Return up to ``number`` evenly spaced rows of a split, with their indices; the first ones of a stream."""
    if not isinstance(split, Dataset):
        rows = list(islice(split, number))
        return range(len(rows)), rows
    size = len(split)
    indices = sorted({i * size // number for i in range(number)}) if size > number else [*range(size)]
    return indices, list(split.select(indices))


def _tokenize_sample(objective: BoundObjective, name: str, split: Any, number: int) -> TokenizedSplit:
    """Tokenize up to ``number`` evenly spaced rows of a split; the first ones of a stream."""
    indices, rows = _sample_rows(split, number)
    return tokenize_rows(objective, name, rows, indices, training=False)


def _split_statistics(objective: BoundObjective, name: str, split: Any) -> dict[str, Any]:
    sample = _tokenize_sample(objective, name, split, SAMPLED_ROWS)
    sampled = sample.statistics
    lengths = {"source": np.asarray(sampled.source_tokens), "target": np.asarray(sampled.target_tokens)}
    truncated = sampled.count_truncated(objective.family)
    statistics: dict[str, Any] = {
        "rows": len(split) if isinstance(split, Dataset) else None,
        "judged": len(sampled),
        "lengths": {
            side: {
                "median": int(np.median(n)),
                "95%": int(np.quantile(n, 0.95)),
                "longest": int(n.max()),
                "histogram": histogram(n.tolist()),
            }
            for side, n in lengths.items()
            if len(n)
        },
        "cut": {side: truncated[f"{side}s"] for side in lengths},
    }
    statistics |= describe_answers(objective, objective.task, sample.examples)
    return statistics


def _format_example(family: ModelFamily, example: Example, row: Row) -> dict[str, Any]:
    candidates = row.get("candidates") or []
    texts = (example.target,) if len(candidates) == 1 else example.candidates
    tokenized = candidates or [[] for _ in texts]
    # An encoder reads source and choice as one sequence.
    source = row.get("source") or (candidates[row["answer"]] if candidates else [])
    formatted: dict[str, Any] = {
        "source": family.tokenizer.decode(source),
        "source_tokens": row["source_tokens"],
        "source_tokens_kept": len(source),
        "target": example.target,
        "target_tokens": len(candidates[row["answer"]]) if row.get("source") and candidates else None,
        "candidates": [
            {"text": text, "tokens": len(ids), "right": text == example.target}
            for text, ids in zip(texts, tokenized, strict=True)
        ],
    }
    if "trained_spans" in row:
        ids = [*source, *candidates[row["answer"]]]
        formatted["trained"] = [family.tokenizer.decode(ids[start:end]) for start, end in row["trained_spans"]]
    if example.references:
        formatted["references"] = list(example.references)
    if example.extra:
        formatted["extra"] = dict(example.extra)
    return formatted
