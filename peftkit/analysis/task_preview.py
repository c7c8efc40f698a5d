"""Preview how a task's rows are shown to a model, without the model's weights."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.components import Example
from peftkit.data.pipeline import SPLITS
from peftkit.data.tokenize import gold_answer, to_examples, tokenize_examples
from peftkit.errors import InputError
from peftkit.models import ModelFamily, TokenizedRow
from peftkit.models.load import load_family
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.recipe import Recipe

SAMPLED_ROWS = 2000  # of each split, for lengths and answers


def preview_task(recipe: Recipe, split: str, number: int) -> dict[str, Any]:
    """Tokenize rows of a task as a run would, with the model's tokenizer and config.

    Args:
        recipe: The recipe.
        split: ``train``, ``dev`` or ``test``.
        number: How many rows to show, evenly spaced over the split.

    Returns:
        ``examples`` (source, target and candidates as text and as token counts, before and after truncation) and, for
        every split, ``rows``, ``judged``, ``cut``, the ``lengths`` in tokens and the ``answers`` with their
        proportions. The answers of multiple choice are the indices of the choices, from 0.

    Raises:
        InputError: The data or a row are invalid.
        RunError: The tokenizer cannot be loaded.
    """
    quiet_libraries("warning")
    kind, family = load_family(recipe)
    splits: Any = recipe.task.load()
    statistics = {name: _split_statistics(recipe, family, name, splits[name]) for name in SPLITS if name in splits}
    if split not in statistics:
        raise InputError(f"the task {recipe.task.name!r} has no split {split!r}")
    indices, examples, rows = _tokenize_rows(recipe, family, split, splits[split], number)
    return {
        "task": recipe.task.name,
        "kind": recipe.task.kind,
        "model": recipe.model.name,
        "model_kind": kind,
        "limits": {"source": family.max_source_length, "target": family.max_target_length},
        "splits": statistics,
        "split": split,
        "examples": [
            {"row": recipe.task.describe_row(split, i), **_format_example(family, example, row)}
            for i, example, row in zip(indices, examples, rows, strict=True)
        ],
    }


def _tokenize_rows(
    recipe: Recipe, family: ModelFamily, name: str, split: Any, number: int
) -> tuple[list[int], list[Example], list[TokenizedRow]]:
    """Tokenize up to ``number`` evenly spaced rows of a split; the first ones of a stream."""
    if isinstance(split, Dataset):
        indices = (
            sorted({i * len(split) // number for i in range(number)}) if len(split) > number else [*range(len(split))]
        )
        rows: list[Any] = list(split.select(indices))
    else:
        rows = list(islice(split, number))
        indices = list(range(len(rows)))
    examples = to_examples(recipe.task, name, rows, indices)
    ranked = recipe.task.kind != "generation"
    return indices, examples, tokenize_examples(family, recipe.task, name, examples, indices, ranked=ranked)


def _split_statistics(recipe: Recipe, family: ModelFamily, name: str, split: Any) -> dict[str, Any]:
    _, examples, rows = _tokenize_rows(recipe, family, name, split, SAMPLED_ROWS)
    lengths = {side: np.array([row[f"{side}_tokens"] for row in rows]) for side in ("source", "target")}  # type: ignore[literal-required]
    limits = {"source": family.max_source_length, "target": family.max_target_length}
    statistics: dict[str, Any] = {
        "rows": len(split) if isinstance(split, Dataset) else None,
        "judged": len(rows),
        "lengths": {
            side: {"median": int(np.median(n)), "95%": int(np.quantile(n, 0.95)), "longest": int(n.max())}
            for side, n in lengths.items()
            if len(n)
        },
        "cut": {side: int((n > limits[side]).sum()) for side, n in lengths.items()},
    }
    if recipe.task.kind != "generation":
        counts = Counter(gold_answer(e, recipe.task) for e in examples)
        statistics["answers"] = {gold: count / len(examples) for gold, count in sorted(counts.items())}
    return statistics


def _format_example(family: ModelFamily, example: Example, row: TokenizedRow) -> dict[str, Any]:
    all_candidates = len(row["candidates"]) > 1 or not row["candidates"]
    texts = example.candidates if all_candidates else (example.target,)
    tokenized = row["candidates"] or [[] for _ in texts]
    source = row["source"] or row["candidates"][row["answer"]]  # an encoder reads source and choice as one sequence
    formatted: dict[str, Any] = {
        "source": family.tokenizer.decode(source),
        "source_tokens": row["source_tokens"],
        "source_tokens_kept": len(source),
        "target": example.target,
        "target_tokens": len(row["candidates"][row["answer"]]) if row["source"] and row["candidates"] else None,
        "candidates": [
            {"text": text, "tokens": len(ids), "right": text == example.target}
            for text, ids in zip(texts, tokenized, strict=True)
        ],
    }
    if example.references:
        formatted["references"] = list(example.references)
    if example.extra:
        formatted["extra"] = dict(example.extra)
    return formatted
