"""What a model gets to see of a recipe's task, without the model."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.components import Example
from peftkit.errors import InputError
from peftkit.recipe import Recipe
from peftkit.runner.data import SPLITS
from peftkit.runner.encoding import answer, examples_of, rows_of
from peftkit.runner.forms import Form, Row
from peftkit.runner.models import load_form
from peftkit.runner.world import quiet_libraries

JUDGED = 2000  # rows of each split whose lengths and answers are counted, evenly spread


def preview(recipe: Recipe, split: str, number: int) -> dict[str, Any]:
    """The task as the runner encodes it; the tokenizer and the config are loaded, the weights are not.

    Args:
        recipe: what to look at.
        split: ``train``, ``dev`` or ``test``.
        number: how many rows to show, evenly spread over the split.

    Returns:
        ``examples`` (source, target and candidates as text and as numbers of tokens, before and after what was cut)
        and, of every split, ``rows``, ``judged``, ``cut``, the ``lengths`` in tokens and the ``answers`` with their
        shares. The answers of multiple choice are the numbers of the choices, from 0.

    Raises:
        InputError: the data or a row of them are wrong.
        RunError: the tokenizer cannot be loaded.
    """
    quiet_libraries("warning")
    kind, form = load_form(recipe)
    splits: Any = recipe.task.load()
    told = {name: _judged(recipe, form, name, splits[name]) for name in SPLITS if name in splits}
    if split not in told:
        raise InputError(f"the task {recipe.task.name!r} has no split {split!r}")
    indices, examples, rows = _encoded(recipe, form, split, splits[split], number)
    return {
        "task": recipe.task.name,
        "kind": recipe.task.kind,
        "model": recipe.model.name,
        "model_kind": kind,
        "limits": {"source": form.source_length, "target": form.target_length},
        "splits": told,
        "split": split,
        "examples": [
            {"row": recipe.task.where(split, i), **_shown(form, example, row)}
            for i, example, row in zip(indices, examples, rows, strict=True)
        ],
    }


def _encoded(
    recipe: Recipe, form: Form, name: str, split: Any, number: int
) -> tuple[list[int], list[Example], list[Row]]:
    """Up to so many rows of the split, evenly spread; of a stream the first ones."""
    if isinstance(split, Dataset):
        indices = (
            sorted({i * len(split) // number for i in range(number)}) if len(split) > number else [*range(len(split))]
        )
        rows: list[Any] = list(split.select(indices))
    else:
        rows = list(islice(split, number))
        indices = list(range(len(rows)))
    examples = examples_of(recipe.task, name, rows, indices)
    ranked = recipe.task.kind != "generation"
    return indices, examples, rows_of(form, recipe.task, name, examples, indices, ranked=ranked)


def _judged(recipe: Recipe, form: Form, name: str, split: Any) -> dict[str, Any]:
    _, examples, rows = _encoded(recipe, form, name, split, JUDGED)
    lengths = {side: np.array([row[f"{side}_tokens"] for row in rows]) for side in ("source", "target")}  # type: ignore[literal-required]
    limits = {"source": form.source_length, "target": form.target_length}
    told: dict[str, Any] = {
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
        counts = Counter(answer(e, recipe.task) for e in examples)
        told["answers"] = {gold: count / len(examples) for gold, count in sorted(counts.items())}
    return told


def _shown(form: Form, example: Example, row: Row) -> dict[str, Any]:
    ranked = len(row["candidates"]) > 1 or not row["candidates"]
    texts = example.candidates if ranked else (example.target,)
    encoded = row["candidates"] or [[] for _ in texts]
    source = row["source"] or row["candidates"][row["answer"]]  # an encoder sees source and choice as one
    shown: dict[str, Any] = {
        "source": form.tokenizer.decode(source),
        "source_tokens": row["source_tokens"],
        "source_tokens_kept": len(source),
        "target": example.target,
        "target_tokens": len(row["candidates"][row["answer"]]) if row["source"] and row["candidates"] else None,
        "candidates": [
            {"text": text, "tokens": len(ids), "right": text == example.target}
            for text, ids in zip(texts, encoded, strict=True)
        ],
    }
    if example.references:
        shown["references"] = list(example.references)
    if example.extra:
        shown["extra"] = dict(example.extra)
    return shown
