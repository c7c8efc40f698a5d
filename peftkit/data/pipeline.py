"""Loads, tokenizes and checks the splits of a task: recipe, splits, examples, tokens, and from there batches."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from peftkit.components.types import Row, SkippedRow
from peftkit.data.dataloader import StreamingRows, TrainRows, effective_batch_size
from peftkit.data.evaluation_sets import (
    check_truncated_targets,
    load_set_examples,
    named_errors,
    skipped_rows_of,
    tokenize_evaluated,
    with_tokenizable_set,
)
from peftkit.data.examples import to_examples
from peftkit.data.probes.prepared_probe import PreparedProbe, prepare_probes
from peftkit.data.row_hashes import digest_examples, digest_rows
from peftkit.data.row_subsets import resample_indices
from peftkit.data.token_batches import RowsPerStep, check_step_sizes, step_sizes
from peftkit.data.tokenized_split import (
    SplitStatistics,
    TokenizedSplit,
    select_statistics,
    tokenize_examples,
    tokenize_rows,
    tokenize_split,
    with_tokenizable_rows,
)
from peftkit.errors import InputError, RunError
from peftkit.models import BoundObjective
from peftkit.recipe import Recipe
from peftkit.recipe.evaluation_tasks import EvaluationTask

log = logging.getLogger(__name__)
SPLITS = ("train", "dev", "test")
FEW_ROWS = 10
"""Number of dev rows below which a run warns that they select the checkpoint."""
STREAM_SCAN_ROWS = 10_000
"""Number of rows of a stream that are checked before training; other data are checked whole."""


@dataclass(frozen=True)
class PreparedData:
    """The data of a run: tokenized training rows, splits to evaluate, and statistics of both."""

    train: TrainRows
    train_statistics: SplitStatistics
    """Statistics of the training rows; for a stream, of its first rows."""
    curve_splits: tuple[TokenizedSplit, ...]
    """Splits of the evaluations during training: samples of the training rows, of dev and of test."""
    final_splits: tuple[TokenizedSplit, ...]
    """Dev and test for the evaluation of the selected checkpoint: whole, unless the recipe limits them."""
    split_sizes: Mapping[str, int | None]
    """Number of rows of each split; None for streaming splits."""
    objective: BoundObjective
    sets: Sequence[EvaluationTask] = ()
    """The evaluation sets; the splits to evaluate have their names."""
    probes: Sequence[PreparedProbe] = ()
    """The probes, whose splits are evaluated by objectives of their own."""
    task_state: Mapping[str, Any] = field(default_factory=dict)
    """What the run stores of the data for its task, so that it predicts without them (see ``Task.data_state``)."""
    held_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How splits were held out of the training rows (see ``Task.held_out``)."""

    @property
    def statistics(self) -> Mapping[str, SplitStatistics]:
        """Statistics of each split."""
        return {"train": self.train_statistics, **{split.name: split.statistics for split in self.final_splits}}

    @cached_property
    def truncated(self) -> Mapping[str, Mapping[str, int]]:
        """Number of truncated ``sources`` and ``targets`` of each split."""
        family = self.objective.family
        counts = {name: statistics.count_truncated(family) for name, statistics in self.statistics.items()}
        return counts | {probe.name: probe.truncated for probe in self.probes}

    @cached_property
    def train_overlap(self) -> Mapping[str, int]:
        """Number of evaluated rows of each split whose normalized source occurs in the training rows."""
        return {s.name: s.statistics.count_sources_in(self.train_statistics) for s in self.final_splits}

    @property
    def answer_counts(self) -> Counter[str]:
        """Number of training rows by answer."""
        return self.train_statistics.answer_counts

    @property
    def digests(self) -> Mapping[str, str]:
        """Digest of the sources and answers of each split; for a stream, of its first rows."""
        digests = {name: statistics.digest for name, statistics in self.statistics.items()}
        return digests | {probe.name: probe.whole.statistics.digest for probe in self.probes}

    @cached_property
    def row_digests(self) -> Mapping[str, str]:
        """Digest of the whole rows of each split; for a stream, of the sources and answers of its first rows."""
        train = digest_rows(self.train) if isinstance(self.train, Dataset) else self.train_statistics.digest
        digests = {split.name: digest_examples(split.examples) for split in self.final_splits}
        return {"train": train, **digests, **{probe.name: probe.digest for probe in self.probes}}

    @property
    def skipped_rows(self) -> Sequence[SkippedRow]:
        """The invalid rows that were left out; of a stream, those that were met so far."""
        of_sets = (replace(row, split=each.name) for each in self.sets for row in skipped_rows_of(each))
        of_probes = (row for probe in self.probes for row in probe.skipped_rows())
        return [*self.objective.task.skipped_rows(), *of_sets, *of_probes]

    @property
    def num_skipped(self) -> dict[str, int]:
        """Number of skipped rows of each split."""
        counts = Counter(row.split for row in self.skipped_rows)
        return {split: counts[split] for split in self.split_sizes}

    @property
    def num_ignored(self) -> dict[str, int]:
        """Number of valid rows of each split that the task left out."""
        sets = (*self.sets, *(probe.probe.task for probe in self.probes))
        counts = {each.name: each.task.num_ignored_rows().get(each.split, 0) for each in sets}
        counts |= self.objective.task.num_ignored_rows()
        return {split: counts.get(split, 0) for split in self.split_sizes}

    @property
    def is_curve_subsampled(self) -> bool:
        """Whether evaluations during training use fewer rows than the one of the selected checkpoint."""
        sizes = {split.name: len(split.rows) for split in self.splits_along_curve}
        return any(sizes.get(split.name, 0) < len(split.rows) for split in self.splits_at_end)

    @property
    def splits_along_curve(self) -> tuple[TokenizedSplit, ...]:
        """All splits of the evaluations during training, those of probes included."""
        return (*self.curve_splits, *(probe.curve for probe in self.probes))

    @property
    def splits_at_end(self) -> tuple[TokenizedSplit, ...]:
        """All splits of the evaluation of the selected checkpoint, those of probes included."""
        return (*self.final_splits, *(probe.whole for probe in self.probes))

    @property
    def num_evaluated_rows(self) -> dict[str, dict[str, int]]:
        """Number of rows of each split that are evaluated during training, and with the selected checkpoint."""
        splits = {"curve": self.splits_along_curve, "selected": self.splits_at_end}
        return {name: {split.name: len(split.rows) for split in each} for name, each in splits.items()}

    def record(self) -> dict[str, Any]:
        """Returns the entries of a run's summary."""
        return {
            "rows": dict(self.split_sizes),
            "rows_digests": dict(self.digests),
            "rows_evaluated": self.num_evaluated_rows,
            "rows_skipped": self.num_skipped,
            "rows_ignored": self.num_ignored,
            "rows_truncated": {split: dict(counts) for split, counts in self.truncated.items()},
            "train_overlap": dict(self.train_overlap),
            "task_state": dict(self.task_state),
            "held_out": {split: dict(each) for split, each in self.held_out.items()},
        }

    def steps_per_epoch(self, batch: int, tokens: int | None = None) -> int | None:
        """Returns the number of optimizer steps per epoch; None for a stream.

        Args:
            batch: Effective batch size.
            tokens: Tokens of a step, if it has a number of tokens instead of rows.

        Raises:
            RunError: A row has more tokens than a step.
        """
        rows = self.split_sizes["train"]
        if rows is None or tokens is None:
            return None if rows is None else rows // batch
        # The rows of an estimate may be a sample.
        return -(-len(self._step_sizes(tokens)) * rows // len(self.train_statistics))

    def rows_per_step(self, tokens: int | None) -> RowsPerStep | None:
        """Returns how many rows the optimizer steps have; None if all have as many.

        Args:
            tokens: Tokens of a step, if it has a number of tokens instead of rows.
        """
        return None if tokens is None else RowsPerStep.from_sizes(self._step_sizes(tokens))

    def _step_sizes(self, tokens: int) -> list[int]:
        return step_sizes(self.train["length"][:], tokens)  # type: ignore[index]


def prepare_data(
    recipe: Recipe, objective: BoundObjective, accelerator: Accelerator, *, only_train: bool = False
) -> PreparedData:
    """Loads, tokenizes and checks the splits of a recipe's task.

    Args:
        recipe: The recipe.
        objective: The objective.
        accelerator: The accelerator; all of its processes must call this function.
        only_train: Whether to skip the splits to evaluate.

    Raises:
        InputError: A row is invalid, or more targets would be truncated than the recipe allows.
        RunError: A split is missing or empty, or the training split has fewer rows than one optimizer step takes.
    """
    objective = with_tokenizable_rows(objective, recipe.task)
    task = objective.task
    splits: Mapping[str, Any] = task.load()
    batch = effective_batch_size(recipe, accelerator.num_processes)
    for split in SPLITS[:1] if only_train else SPLITS:
        if split not in splits or (isinstance(splits[split], Dataset) and not len(splits[split])):
            raise RunError(f"task {task.name!r} has no rows in split {split!r}")
    train, train_sample, size = _prepare_train(recipe, objective, splits["train"], batch, accelerator)
    tokens = recipe.train.tokens_per_batch
    if tokens is not None and size is not None:
        parts = recipe.train.gradient_accumulation_steps * accelerator.num_processes
        check_step_sizes(step_sizes(train["length"][:], tokens), tokens, parts)  # type: ignore[index]
    if objective.component.compares_rows and batch == 1 and tokens is None:
        raise InputError(
            f"train.batch_size: an optimizer step has one row, but {objective.component.name!r} compares the rows of a "
            "step; raise it, or train.gradient_accumulation_steps"
        )
    if len(train_sample.statistics) < batch:
        raise RunError(
            f"one optimizer step takes {batch} rows (batch_size × gradient_accumulation_steps × processes), but the "
            f"train split has {len(train_sample.statistics)}; lower train.batch_size"
        )
    evaluated: list[TokenizedSplit] = []
    selected: list[TokenizedSplit] = []
    if recipe.evaluate.train_examples and not only_train:
        evaluated.append(_sample_train(objective, splits["train"], train_sample, recipe.evaluate.train_examples))
    sizes = {"train": size} | {split: len(splits[split]) for split in SPLITS[1:] if split in splits}
    limits = {"dev": recipe.evaluate.dev_examples, "test": recipe.evaluate.test_examples}
    for split, limit in () if only_train else limits.items():
        examples = to_examples(task, split, splits[split], range(len(splits[split])))
        curve, whole = tokenize_evaluated(recipe, objective, split, examples, limit)
        evaluated.append(curve)
        selected.append(whole)
    sets = () if only_train else tuple(with_tokenizable_set(objective, each) for each in recipe.evaluation_tasks)
    for evaluation_set in sets:
        examples = load_set_examples(evaluation_set, task)
        sizes[evaluation_set.name] = len(examples)
        locate = partial(evaluation_set.task.describe_row, evaluation_set.split)
        limit = None if evaluation_set.at_end_only else evaluation_set.examples
        with named_errors(evaluation_set):
            curve, whole = tokenize_evaluated(recipe, objective, evaluation_set.name, examples, limit, locate)
        evaluated += [] if evaluation_set.at_end_only else [curve]
        selected.append(whole)
    probes = () if only_train else prepare_probes(recipe, objective)
    sizes |= {probe.name: probe.size for probe in probes}
    splits_to_evaluate = tuple(evaluated), tuple(selected)
    recorded = task.data_state(), task.held_out()
    data = PreparedData(train, train_sample.statistics, *splits_to_evaluate, sizes, objective, sets, probes, *recorded)
    check_truncated_targets(recipe, objective.family, data.statistics)
    _warn_about_few_rows(data)
    for whole in selected:
        _warn_about_unknown_tokens(objective, whole.name, whole.rows)
    if isinstance(train, Dataset) and objective.component.generates:
        _warn_about_unknown_tokens(objective, "train", train)
    return data


def _prepare_train(
    recipe: Recipe, objective: BoundObjective, rows: Any, batch: int, accelerator: Accelerator
) -> tuple[TrainRows, TokenizedSplit, int | None]:
    """Tokenizes the training rows; of a stream, the first ones.

    Returns:
        The rows to train on, the tokenized ones with their statistics, and the number of rows; None for a stream.
    """
    if not isinstance(rows, Dataset):
        stream = StreamingRows(rows, objective, batch, recipe.run.effective_order_seed)
        scanned = list(islice(rows, STREAM_SCAN_ROWS))
        return stream, tokenize_rows(objective, "train", scanned, range(len(scanned)), training=True), None
    with accelerator.main_process_first():  # the other processes read its cache
        train = tokenize_split(objective, "train", rows)
    sample = resample_indices(recipe.run, len(train.rows))
    if sample is not None:
        selected: Any = train.rows.select(sample)  # type: ignore[attr-defined]
        train = replace(train, indices=sample, rows=selected, statistics=select_statistics(train.statistics, sample))
    return train.rows, train, len(train.rows)  # type: ignore[return-value]


def _sample_train(objective: BoundObjective, rows: Any, train: TokenizedSplit, limit: int) -> TokenizedSplit:
    """Draws the training rows that are evaluated during training, and tokenizes them for evaluation."""
    if not isinstance(rows, Dataset):  # a random sample would need to read the whole stream
        return tokenize_examples(objective, "train", train.examples[:limit], train.indices[:limit], training=False)
    indices = sorted({*train.indices})
    if limit < len(indices):
        indices = sorted(random.Random("train").sample(indices, limit))  # noqa: S311 - not used for security
    return tokenize_rows(objective, "train", rows.select(indices), indices, training=False)


def _warn_about_few_rows(data: PreparedData) -> None:
    """Warns if the checkpoint is selected by very few rows."""
    rows = next((len(split.rows) for split in data.curve_splits if split.name == "dev"), FEW_ROWS)
    if rows < FEW_ROWS:
        log.warning(
            "dev has %s row%s, too few to select a checkpoint by: chance decides; raise task.dev_fraction "
            "or evaluate.dev_examples, or use a larger dev split",
            rows,
            "s"[: rows != 1],
        )


def _warn_about_unknown_tokens(objective: BoundObjective, split: str, rows: Sequence[Row]) -> None:
    number = objective.component.count_unknown_targets(rows, objective.context)
    if number:
        log.warning(
            "%s of %s targets of %r in split %r (%.1f%%) have characters that are not in the model's vocabulary and "
            "cannot be predicted",
            f"{number:,}",
            f"{len(rows):,}",
            objective.task.name,
            split,
            100 * number / len(rows),
        )
