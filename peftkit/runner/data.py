"""Everything a run reads, and what is to be known of it before it is believed."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset

from peftkit.components import Example, Task
from peftkit.errors import InputError, RunError
from peftkit.recipe import Recipe
from peftkit.runner.batches import Stream, effective_batch
from peftkit.runner.encoding import answer, encoded, examples_of, rows_of, source_key
from peftkit.runner.forms import Form, Row
from peftkit.runner.resampling import sampled_rows

SPLITS = ("train", "dev", "test")
LOOKED_AT = 10_000  # rows of a stream that are judged before training; of other data it is all


@dataclass(frozen=True)
class EvaluationSplit:
    """The examples of one split that are evaluated, with their rows for the model; ``indices`` are of the data."""

    name: str
    indices: list[int]
    examples: list[Example]
    rows: list[Row]


@dataclass(frozen=True)
class Data:
    """Everything a run reads: encoded training rows, and the splits it is evaluated on."""

    train: Dataset | Stream
    evaluated: tuple[EvaluationSplit, ...]
    sizes: Mapping[str, int | None]
    """Rows of each split; None where they are streamed and so not counted."""
    cut: Mapping[str, Mapping[str, int]]
    """How many ``sources`` and ``targets`` of each split lose tokens to the length limits."""
    overlap: Mapping[str, int]
    """How many evaluated rows of each split have a source that, normalised, is one of the training rows' too."""
    golds: Mapping[str, int]
    """How often each answer is right in the training rows (see ``encoding.answer``)."""
    digests: Mapping[str, str]
    """Of the sources and answers of each split, as far as they are read beforehand: other rows have others."""

    def steps_per_epoch(self, batch: int) -> int | None:
        """Optimizer steps that make an epoch, None for a stream."""
        rows = self.sizes["train"]
        return None if rows is None else rows // batch


@dataclass(frozen=True)
class _Seen:
    """What the training rows are judged by, all of them or a stream's first ones."""

    source_tokens: Any
    target_tokens: Any
    keys: set[int]
    golds: Counter[str]
    first: list[Example]


def prepare(recipe: Recipe, form: Form, accelerator: Accelerator, *, only_train: bool = False) -> Data:
    """Loads the task's splits and encodes them; with ``only_train`` those that are evaluated are left out.

    Raises:
        InputError: a row is wrong, or more targets than allowed would be cut.
        RunError: a split is missing or empty, or has fewer rows than one optimizer step takes.
    """
    task = recipe.task
    splits: Mapping[str, Any] = task.load()
    batch = effective_batch(recipe, accelerator.num_processes)
    for split in SPLITS[:1] if only_train else SPLITS:
        if split not in splits or (isinstance(splits[split], Dataset) and not len(splits[split])):
            raise RunError(f"the task {task.name!r} has no rows in its split {split!r}")
    train: Dataset | Stream
    drawn: list[int] | None = None
    if isinstance(splits["train"], Dataset):
        with accelerator.main_process_first():  # the others find the cache that the first one writes
            train = encoded(task, splits["train"], form)
        drawn = sampled_rows(recipe.run, len(train))
        if drawn is not None:
            train = train.select(drawn)
        keys, golds = train["key"][:], train["gold"][:]
        seen = _Seen(train["source_tokens"][:], train["target_tokens"][:], {*keys}, Counter(golds), [])
        digests = {"train": _digest(zip(keys, golds, strict=True))}
        size: int | None = len(train)
    else:
        train = Stream(splits["train"], task, form, batch, recipe.run.effective_order_seed)
        seen, size = _look(task, splits["train"], form), None
        digests = {"train": _digest((source_key(e.source), answer(e, task)) for e in seen.first)}
    if len(seen.source_tokens) < batch:
        raise RunError(
            f"one optimizer step takes {batch} rows (batch_size × gradient_accumulation_steps × processes), "
            f"and the train split has {len(seen.source_tokens)}; lower train.batch_size"
        )
    limits = {
        "train": recipe.evaluate.train_examples,
        "dev": recipe.evaluate.dev_examples,
        "test": recipe.evaluate.test_examples,
    }
    evaluated = tuple(
        _evaluation_split(task, split, splits[split], form, limit, seen, drawn if split == "train" else None)
        for split, limit in limits.items()
        if limit != 0 and not only_train
    )
    cut = {"train": _cut(seen.source_tokens, seen.target_tokens, form)}
    for e in evaluated[1 if limits["train"] else 0 :]:
        digests[e.name] = _digest((source_key(x.source), answer(x, task)) for x in e.examples)
        cut[e.name] = _cut([r["source_tokens"] for r in e.rows], [r["target_tokens"] for r in e.rows], form)
    totals = {"train": len(seen.source_tokens)} | {e.name: len(e.rows) for e in evaluated if e.name != "train"}
    longest = max([max(seen.target_tokens), *(r["target_tokens"] for e in evaluated for r in e.rows)])
    _refuse_cut_targets(recipe, cut, totals, longest)
    overlap = {
        e.name: sum(source_key(x.source) in seen.keys for x in e.examples) for e in evaluated if e.name != "train"
    }
    sizes = {"train": size} | {split: len(splits[split]) for split in SPLITS[1:] if split in splits}
    return Data(train, evaluated, sizes, cut, overlap, seen.golds, digests)


def _digest(rows: Iterable[tuple[int, str]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key, gold in rows:
        digest.update(f"{key} {len(gold)} {gold}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _look(task: Task, rows: Any, form: Form) -> _Seen:
    """Judges the first rows of a stream."""
    examples = examples_of(task, "train", islice(rows, LOOKED_AT), range(LOOKED_AT))
    made = rows_of(form, task, "train", examples, range(len(examples)), ranked=False)
    return _Seen(
        [r["source_tokens"] for r in made],
        [r["target_tokens"] for r in made],
        {source_key(e.source) for e in examples},
        Counter(answer(e, task) for e in examples),
        examples,
    )


def _evaluation_split(
    task: Task, name: str, split: Any, form: Form, limit: int | None, seen: _Seen, drawn: list[int] | None
) -> EvaluationSplit:
    if isinstance(split, Dataset):
        indices = list(range(len(split))) if drawn is None else sorted({*drawn})
        if limit is not None and limit < len(indices):
            # The same for every seed: runs are compared example by example.
            indices = sorted(random.Random(name).sample(indices, limit))  # noqa: S311 - a sample, no secret
        examples = examples_of(task, name, split.select(indices), indices)
    else:  # of a stream the first ones: to draw among all would be to read all
        examples = seen.first[:limit]
        indices = list(range(len(examples)))
    rows = rows_of(form, task, name, examples, indices, ranked=task.kind != "generation")
    return EvaluationSplit(name, indices, examples, rows)


def _cut(source_tokens: Any, target_tokens: Any, form: Form) -> dict[str, int]:
    return {
        "sources": int((np.asarray(source_tokens) > form.source_length).sum()),
        "targets": int((np.asarray(target_tokens) > form.target_length).sum()),
    }


def _refuse_cut_targets(
    recipe: Recipe, cut: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], longest: int
) -> None:
    """A model that never sees the end of its targets is not measured on the task that the recipe names."""
    allowed, limit = recipe.train.cut_targets, recipe.train.max_target_length
    for split, counts in cut.items():
        share = counts["targets"] / totals[split]
        if share > allowed:
            raise InputError(
                f"{counts['targets']:,} of {totals[split]:,} targets of {recipe.task.name!r} in its split {split!r} "
                f"({share:.1%}) are longer than train.max_target_length = {limit} tokens, and would be cut; raise it "
                f"(the longest has {longest}), or allow it with train.cut_targets = {min(1.0, share + 0.005):.2f}"
            )
