"""Loads, tokenizes and checks the splits of a task."""

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
from peftkit.data.dataloader import StreamingRows, effective_batch_size
from peftkit.data.resampling import resample_indices
from peftkit.data.tokenize import gold_answer, text_hash, to_examples, tokenize_examples, tokenize_split
from peftkit.errors import InputError, RunError
from peftkit.models import ModelFamily, TokenizedRow
from peftkit.recipe import Recipe

log = logging.getLogger(__name__)
SPLITS = ("train", "dev", "test")
STREAM_SCAN_ROWS = 10_000
"""Number of rows of a stream that are checked before training; other data are checked whole."""


@dataclass(frozen=True)
class EvaluationSplit:
    """Examples of one split to evaluate, with their tokenized rows."""

    name: str
    indices: list[int]
    """Index of each example in the split."""
    examples: list[Example]
    rows: list[TokenizedRow]


@dataclass(frozen=True)
class PreparedData:
    """The data of a run: tokenized training rows, splits to evaluate, and statistics of both."""

    train: Dataset | StreamingRows
    curve_splits: tuple[EvaluationSplit, ...]
    """Splits of the evaluations during training: samples of the training rows, of dev and of test."""
    final_splits: tuple[EvaluationSplit, ...]
    """Dev and test for the evaluation of the selected checkpoint: whole, unless the recipe limits them."""
    split_sizes: Mapping[str, int | None]
    """Number of rows of each split; None for streaming splits."""
    truncated: Mapping[str, Mapping[str, int]]
    """Number of truncated ``sources`` and ``targets`` of each split."""
    train_overlap: Mapping[str, int]
    """Number of evaluated rows of each split whose normalized source occurs in the training rows."""
    answer_counts: Mapping[str, int]
    """Number of training rows by answer (see ``gold_answer``)."""
    digests: Mapping[str, str]
    """Digest of the sources and answers of each split; for a stream, of its first rows."""

    @property
    def is_curve_subsampled(self) -> bool:
        """Whether evaluations during training use fewer rows than the one of the selected checkpoint."""
        sizes = {split.name: len(split.rows) for split in self.curve_splits}
        return any(sizes[split.name] < len(split.rows) for split in self.final_splits)

    @property
    def num_evaluated_rows(self) -> dict[str, dict[str, int]]:
        """Number of rows of each split that are evaluated during training, and with the selected checkpoint."""
        splits = {"curve": self.curve_splits, "selected": self.final_splits}
        return {name: {split.name: len(split.rows) for split in each} for name, each in splits.items()}

    def steps_per_epoch(self, batch: int) -> int | None:
        """Returns the number of optimizer steps per epoch for an effective batch size; None for a stream."""
        rows = self.split_sizes["train"]
        return None if rows is None else rows // batch


@dataclass(frozen=True)
class _TrainStats:
    """Statistics of the training rows, or of the first rows of a stream."""

    source_tokens: Any
    """Number of tokens of each source."""
    target_tokens: Any
    """Number of tokens of each target."""
    keys: set[int]
    """Hashes of the sources."""
    golds: Counter[str]
    """Number of rows by answer."""
    first: list[Example]
    """The scanned examples of a stream; empty for other data."""


def prepare_data(
    recipe: Recipe, family: ModelFamily, accelerator: Accelerator, *, only_train: bool = False
) -> PreparedData:
    """Loads, tokenizes and checks the splits of a recipe's task.

    Args:
        recipe: The recipe.
        family: The model family.
        accelerator: The accelerator; all of its processes must call this function.
        only_train: Whether to skip the splits to evaluate.

    Raises:
        InputError: A row is invalid, or more targets would be truncated than the recipe allows.
        RunError: A split is missing or empty, or the training split has fewer rows than one optimizer step takes.
    """
    task = recipe.task
    splits: Mapping[str, Any] = task.load()
    batch = effective_batch_size(recipe, accelerator.num_processes)
    for split in SPLITS[:1] if only_train else SPLITS:
        if split not in splits or (isinstance(splits[split], Dataset) and not len(splits[split])):
            raise RunError(f"task {task.name!r} has no rows in split {split!r}")
    train: Dataset | StreamingRows
    sample: list[int] | None = None
    if isinstance(splits["train"], Dataset):
        with accelerator.main_process_first():  # the other processes read its cache
            train = tokenize_split(task, splits["train"], family)
        sample = resample_indices(recipe.run, len(train))
        if sample is not None:
            train = train.select(sample)
        keys, golds = train["key"][:], train["gold"][:]
        stats = _TrainStats(train["source_tokens"][:], train["target_tokens"][:], {*keys}, Counter(golds), [])
        digests = {"train": _digest(zip(keys, golds, strict=True))}
        size: int | None = len(train)
    else:
        train = StreamingRows(splits["train"], task, family, batch, recipe.run.effective_order_seed)
        stats, size = _scan_stream(task, splits["train"], family), None
        digests = {"train": _digest((text_hash(e.source), gold_answer(e, task)) for e in stats.first)}
    if len(stats.source_tokens) < batch:
        raise RunError(
            f"one optimizer step takes {batch} rows (batch_size × gradient_accumulation_steps × processes), but the "
            f"train split has {len(stats.source_tokens)}; lower train.batch_size"
        )
    evaluated: list[EvaluationSplit] = []
    selected: list[EvaluationSplit] = []
    if recipe.evaluate.train_examples and not only_train:
        evaluated.append(_train_sample(task, splits["train"], family, recipe.evaluate.train_examples, stats, sample))
    limits = {"dev": recipe.evaluate.dev_examples, "test": recipe.evaluate.test_examples}
    for split, limit in () if only_train else limits.items():
        examples = to_examples(task, split, splits[split], range(len(splits[split])))
        indices = stratified_sample([_stratum(e, task) for e in examples], limit, split)
        all_indices = range(len(examples))
        wanted = all_indices if recipe.evaluate.full_splits else indices
        whole = _tokenize_subset(task, split, examples, wanted, family)
        evaluated.append(_select(whole, indices))
        selected.append(whole)
    truncated = {"train": _count_truncated(stats.source_tokens, stats.target_tokens, family)}
    for e in selected:
        digests[e.name] = _digest((text_hash(x.source), gold_answer(x, task)) for x in e.examples)
        truncated[e.name] = _count_truncated(
            [r["source_tokens"] for r in e.rows], [r["target_tokens"] for r in e.rows], family
        )
    totals = {"train": len(stats.source_tokens)} | {e.name: len(e.rows) for e in selected}
    longest = max([max(stats.target_tokens), *(r["target_tokens"] for e in selected for r in e.rows)])
    _check_truncated_targets(recipe, family, truncated, totals, longest)
    for e in selected:
        _warn_about_unknown_tokens(task, e.name, e.rows, family)
    if isinstance(train, Dataset) and task.kind == "generation":
        _warn_about_unknown_tokens(task, "train", train.select_columns(["candidates", "answer"]), family)
    overlap = {e.name: sum(text_hash(x.source) in stats.keys for x in e.examples) for e in selected}
    sizes = {"train": size} | {split: len(splits[split]) for split in SPLITS[1:] if split in splits}
    return PreparedData(train, tuple(evaluated), tuple(selected), sizes, truncated, overlap, stats.golds, digests)


def stratified_sample(strata: Sequence[Any], limit: int | None, name: str) -> list[int]:
    """Draws a stratified sample: the size of every stratum is proportional, to within one row.

    The sample depends on the rows and the name only, so that runs with different seeds are selected and compared on the
    same rows. Rows are sorted by stratum, shuffled within strata, and taken at equal distances (systematic sampling).

    Args:
        strata: The stratum of each row; values must be sortable.
        limit: Number of rows to draw; None for all.
        name: Name of the split, which seeds the shuffle.

    Returns:
        Indices of the sampled rows in ascending order.
    """
    number = len(strata)
    if limit is None or limit >= number:
        return list(range(number))
    rng = random.Random(name)  # noqa: S311 - not used for security
    order = sorted(range(number), key=[(stratum, rng.random()) for stratum in strata].__getitem__)
    return sorted(order[(2 * i + 1) * number // (2 * limit)] for i in range(limit))


def _stratum(example: Example, task: Task) -> Any:
    """Returns what samples are stratified by: the answer, or the length of the source for generation tasks."""
    return len(example.source) if task.kind == "generation" else gold_answer(example, task)


def _digest(rows: Iterable[tuple[int, str]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for key, gold in rows:
        digest.update(f"{key} {len(gold)} {gold}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _scan_stream(task: Task, rows: Any, family: ModelFamily) -> _TrainStats:
    """Tokenizes the first rows of a stream and collects their statistics."""
    examples = to_examples(task, "train", islice(rows, STREAM_SCAN_ROWS), range(STREAM_SCAN_ROWS))
    tokenized = tokenize_examples(family, task, "train", examples, range(len(examples)), ranked=False)
    return _TrainStats(
        [r["source_tokens"] for r in tokenized],
        [r["target_tokens"] for r in tokenized],
        {text_hash(e.source) for e in examples},
        Counter(gold_answer(e, task) for e in examples),
        examples,
    )


def _train_sample(
    task: Task, split: Any, family: ModelFamily, limit: int, stats: _TrainStats, resampled: list[int] | None
) -> EvaluationSplit:
    """Draws the training rows that are evaluated during training, and tokenizes their candidates."""
    if isinstance(split, Dataset):
        indices = list(range(len(split))) if resampled is None else sorted({*resampled})
        if limit < len(indices):
            indices = sorted(random.Random("train").sample(indices, limit))  # noqa: S311 - not used for security
        examples = to_examples(task, "train", split.select(indices), indices)
    else:  # a random sample would need to read the whole stream
        examples = stats.first[:limit]
        indices = list(range(len(examples)))
    rows = tokenize_examples(family, task, "train", examples, indices, ranked=task.kind != "generation")
    return EvaluationSplit("train", indices, examples, rows)


def _tokenize_subset(
    task: Task, name: str, examples: Sequence[Example], indices: Sequence[int], family: ModelFamily
) -> EvaluationSplit:
    """Tokenizes the examples with these indices."""
    subset = [examples[i] for i in indices]
    rows = tokenize_examples(family, task, name, subset, indices, ranked=task.kind != "generation")
    return EvaluationSplit(name, list(indices), subset, rows)


def _select(split: EvaluationSplit, indices: Sequence[int]) -> EvaluationSplit:
    """Selects the examples with these indices."""
    if len(indices) == len(split.indices):
        return split
    position_of = {index: position for position, index in enumerate(split.indices)}
    positions = [position_of[index] for index in indices]
    return EvaluationSplit(
        split.name, list(indices), [split.examples[i] for i in positions], [split.rows[i] for i in positions]
    )


def _count_truncated(source_tokens: Any, target_tokens: Any, family: ModelFamily) -> dict[str, int]:
    return {
        "sources": int((np.asarray(source_tokens) > family.max_source_length).sum()),
        "targets": int((np.asarray(target_tokens) > family.max_target_length).sum()),
    }


def _check_truncated_targets(
    recipe: Recipe,
    family: ModelFamily,
    truncated: Mapping[str, Mapping[str, int]],
    totals: Mapping[str, int],
    longest: int,
) -> None:
    """Raises if too many targets are truncated, because the model would be scored on a different task."""
    allowed, limit = recipe.train.truncate_targets, f"train.max_target_length = {family.max_target_length} tokens"
    remedy = f"raise it (the longest target has {longest})"
    if family.max_target_length < recipe.train.max_target_length:
        limit = f"the {family.max_target_length} positions of the model's decoder"
        remedy = f"use a model with more positions (the longest target has {longest} tokens)"
    for split, counts in truncated.items():
        share = counts["targets"] / totals[split]
        if share > allowed:
            raise InputError(
                f"{counts['targets']:,} of {totals[split]:,} targets of {recipe.task.name!r} in split {split!r} "
                f"({share:.1%}) are longer than {limit} and would be truncated; {remedy}, or allow it with "
                f"train.truncate_targets = {min(1.0, share + 0.005):.2f}"
            )


def _warn_about_unknown_tokens(task: Task, split: str, rows: Sequence[Any] | Dataset, family: ModelFamily) -> None:
    number = sum(family.contains_unk(row["candidates"][row["answer"]]) for row in rows if row["candidates"])
    if number:
        log.warning(
            "%s of %s targets of %r in split %r (%.1f%%) have characters that are not in the model's vocabulary and "
            "cannot be predicted",
            f"{number:,}",
            f"{len(rows):,}",
            task.name,
            split,
            100 * number / len(rows),
        )
