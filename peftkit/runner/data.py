"""Everything a run reads, and what is to be known of it before it is believed."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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

log = logging.getLogger(__name__)
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
    """What every evaluation along the curve is of: a part of the training rows, and dev and test or parts of them."""
    selected: tuple[EvaluationSplit, ...]
    """Dev and test as the selected checkpoint is evaluated on them: whole, unless the recipe says otherwise."""
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

    @property
    def partial(self) -> bool:
        """Whether evaluations along the curve leave out rows that the selected checkpoint is evaluated on."""
        parts = {split.name: len(split.rows) for split in self.evaluated}
        return any(parts[split.name] < len(split.rows) for split in self.selected)

    @property
    def evaluated_rows(self) -> dict[str, dict[str, int]]:
        """How many rows of each split are evaluated along the curve, and on the selected checkpoint."""
        splits = {"curve": self.evaluated, "selected": self.selected}
        return {name: {split.name: len(split.rows) for split in each} for name, each in splits.items()}

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
    evaluated: list[EvaluationSplit] = []
    selected: list[EvaluationSplit] = []
    if recipe.evaluate.train_examples and not only_train:
        evaluated.append(_of_train(task, splits["train"], form, recipe.evaluate.train_examples, seen, drawn))
    limits = {"dev": recipe.evaluate.dev_examples, "test": recipe.evaluate.test_examples}
    for split, limit in () if only_train else limits.items():
        examples = examples_of(task, split, splits[split], range(len(splits[split])))
        which = stratified([_stratum(e, task) for e in examples], limit, split)
        all_rows = range(len(examples))
        whole = _encoded(task, split, examples, all_rows if recipe.evaluate.whole else which, form)
        evaluated.append(_part(whole, which))
        selected.append(whole)
    cut = {"train": _cut(seen.source_tokens, seen.target_tokens, form)}
    for e in selected:
        digests[e.name] = _digest((source_key(x.source), answer(x, task)) for x in e.examples)
        cut[e.name] = _cut([r["source_tokens"] for r in e.rows], [r["target_tokens"] for r in e.rows], form)
    totals = {"train": len(seen.source_tokens)} | {e.name: len(e.rows) for e in selected}
    longest = max([max(seen.target_tokens), *(r["target_tokens"] for e in selected for r in e.rows)])
    _refuse_cut_targets(recipe, form, cut, totals, longest)
    for e in selected:
        _warn_of_unknown_tokens(task, e.name, e.rows, form)
    if isinstance(train, Dataset) and task.kind == "generation":
        _warn_of_unknown_tokens(task, "train", train.select_columns(["candidates", "answer"]), form)
    overlap = {e.name: sum(source_key(x.source) in seen.keys for x in e.examples) for e in selected}
    sizes = {"train": size} | {split: len(splits[split]) for split in SPLITS[1:] if split in splits}
    return Data(train, tuple(evaluated), tuple(selected), sizes, cut, overlap, seen.golds, digests)


def stratified(strata: Sequence[Any], limit: int | None, name: str) -> list[int]:
    """A sample of rows in which every stratum has its share, to within one row.

    It depends on nothing but the rows and the name: runs are compared, and selected, on the same rows whatever their
    seeds. Rows are sorted by stratum, at random within each, and taken at even distances.

    Args:
        strata: what each row counts as; values that can be sorted.
        limit: how many rows to take; None for all.
        name: seeds the order within strata.

    Returns:
        The places of the rows, in ascending order.
    """
    number = len(strata)
    if limit is None or limit >= number:
        return list(range(number))
    rng = random.Random(name)  # noqa: S311 - a sample, no secret
    order = sorted(range(number), key=[(stratum, rng.random()) for stratum in strata].__getitem__)
    return sorted(order[(2 * turn + 1) * number // (2 * limit)] for turn in range(limit))


def _stratum(example: Example, task: Task) -> Any:
    """What a sample keeps in proportion: the label, the number of the right choice, or the length of the source."""
    return len(example.source) if task.kind == "generation" else answer(example, task)


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


def _of_train(task: Task, split: Any, form: Form, limit: int, seen: _Seen, drawn: list[int] | None) -> EvaluationSplit:
    """Training rows that are evaluated along the curve, drawn without encoding the others."""
    if isinstance(split, Dataset):
        indices = list(range(len(split))) if drawn is None else sorted({*drawn})
        if limit < len(indices):
            indices = sorted(random.Random("train").sample(indices, limit))  # noqa: S311 - a sample, no secret
        examples = examples_of(task, "train", split.select(indices), indices)
    else:  # of a stream the first ones: to draw among all would be to read all
        examples = seen.first[:limit]
        indices = list(range(len(examples)))
    rows = rows_of(form, task, "train", examples, indices, ranked=task.kind != "generation")
    return EvaluationSplit("train", indices, examples, rows)


def _encoded(task: Task, name: str, examples: Sequence[Example], indices: Sequence[int], form: Form) -> EvaluationSplit:
    """The examples at these places of the split."""
    chosen = [examples[i] for i in indices]
    rows = rows_of(form, task, name, chosen, indices, ranked=task.kind != "generation")
    return EvaluationSplit(name, list(indices), chosen, rows)


def _part(split: EvaluationSplit, indices: Sequence[int]) -> EvaluationSplit:
    """The examples of the split that have these indices."""
    if len(indices) == len(split.indices):
        return split
    place = {index: turn for turn, index in enumerate(split.indices)}
    turns = [place[index] for index in indices]
    return EvaluationSplit(
        split.name, list(indices), [split.examples[i] for i in turns], [split.rows[i] for i in turns]
    )


def _cut(source_tokens: Any, target_tokens: Any, form: Form) -> dict[str, int]:
    return {
        "sources": int((np.asarray(source_tokens) > form.source_length).sum()),
        "targets": int((np.asarray(target_tokens) > form.target_length).sum()),
    }


def _refuse_cut_targets(
    recipe: Recipe, form: Form, cut: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], longest: int
) -> None:
    """A model that never sees the end of its targets is not measured on the task that the recipe names."""
    allowed, limit = recipe.train.cut_targets, f"train.max_target_length = {form.target_length} tokens"
    remedy = f"raise it (the longest has {longest})"
    if form.target_length < recipe.train.max_target_length:
        limit = f"the {form.target_length} tokens that the model's decoder has positions for"
        remedy = f"use a model with more (the longest has {longest})"
    for split, counts in cut.items():
        share = counts["targets"] / totals[split]
        if share > allowed:
            raise InputError(
                f"{counts['targets']:,} of {totals[split]:,} targets of {recipe.task.name!r} in its split {split!r} "
                f"({share:.1%}) are longer than {limit}, and would be cut; {remedy}, or allow it with "
                f"train.cut_targets = {min(1.0, share + 0.005):.2f}"
            )


def _warn_of_unknown_tokens(task: Task, split: str, rows: Sequence[Any] | Dataset, form: Form) -> None:
    number = sum(form.has_unknown(row["candidates"][row["answer"]]) for row in rows if row["candidates"])
    if number:
        log.warning(
            "%s of %s targets of %r in its split %r (%.1f%%) have characters that are not in the model's vocabulary, "
            "which no prediction can write",
            f"{number:,}",
            f"{len(rows):,}",
            task.name,
            split,
            100 * number / len(rows),
        )
