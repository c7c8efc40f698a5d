"""Tokenizes the rows of a split: the one road of training, evaluated, streamed and predicted rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit.answer_texts.text_normalization import text_hash
from peftkit.components import Example, Task
from peftkit.components.types import Row
from peftkit.data.examples import describe_row, to_examples
from peftkit.data.token_cache import STATISTICS_COLUMNS, Columns, cached_columns
from peftkit.errors import InputError, LengthError, PluginError, RowError, comma_separated
from peftkit.models import BoundObjective, ModelFamily

REQUIRED_KEYS = ("length", "source_tokens", "target_tokens")
"""Keys that the rows of every objective have."""


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of the rows of a split, or of the first rows of a stream."""

    source_hashes: Sequence[int]
    """Hash of the normalized source of each row."""
    answers: Sequence[str]
    """Answer of each row (see ``Objective.answer``)."""
    source_tokens: Sequence[int]
    """Number of tokens of each source before truncation."""
    target_tokens: Sequence[int]
    """Number of tokens of each target before truncation."""

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def answer_counts(self) -> Counter[str]:
        """Number of rows by answer."""
        return Counter(self.answers)

    @cached_property
    def digest(self) -> str:
        """Digest of the sources and answers, in the order of the rows."""
        digest = hashlib.blake2b(digest_size=8)
        for source_hash, answer in zip(self.source_hashes, self.answers, strict=True):
            digest.update(f"{source_hash} {len(answer)} {answer}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def count_truncated(self, family: ModelFamily) -> dict[str, int]:
        """Returns the number of truncated ``sources`` and ``targets``.

        Args:
            family: The model family, with the maximum lengths.
        """
        return {
            "sources": int((np.asarray(self.source_tokens) > family.max_source_length).sum()),
            "targets": int((np.asarray(self.target_tokens) > family.max_target_length).sum()),
        }

    def count_sources_in(self, other: SplitStatistics) -> int:
        """Returns the number of rows whose source occurs in another split."""
        others = set(other.source_hashes)
        return sum(source_hash in others for source_hash in self.source_hashes)


@dataclass(frozen=True)
class TokenizedSplit:
    """The tokenized rows of a split, or of some of its rows."""

    name: str
    indices: Sequence[int]
    """Index of each row in the split."""
    examples: Sequence[Example]
    """The examples of the rows; empty for training rows, which are kept on disk."""
    rows: Sequence[Row]
    """The tokenized rows; a ``Dataset`` for training rows."""
    statistics: SplitStatistics

    def select(self, indices: Sequence[int]) -> TokenizedSplit:
        """Returns the rows with these indices in the split.

        Args:
            indices: Indices among ``self.indices``.
        """
        if len(indices) == len(self.indices):
            return self
        position_of = {index: position for position, index in enumerate(self.indices)}
        positions = [position_of[index] for index in indices]
        return TokenizedSplit(
            self.name,
            list(indices),
            [self.examples[i] for i in positions],
            [self.rows[i] for i in positions],
            select_statistics(self.statistics, positions),
        )


def tokenize_split(objective: BoundObjective, name: str, rows: Dataset) -> TokenizedSplit:
    """Tokenizes training rows on disk, or loads them from the cache.

    Args:
        objective: The objective.
        name: Name of the split, for error messages.
        rows: The rows.

    Raises:
        InputError: A row is invalid; the message has its location.
        RunError: The task raised another error on a row, or the cache cannot be written.
    """

    def tokenize(columns: Columns, indices: Sequence[int]) -> Columns:
        split = tokenize_columns(objective, name, columns, indices, training=True)
        statistics = (split.statistics.source_hashes, split.statistics.answers)
        columns_of_rows = {key: [row[key] for row in split.rows] for key in split.rows[0]}
        return {**columns_of_rows, **dict(zip(STATISTICS_COLUMNS, statistics, strict=True))}

    tokenized = cached_columns(objective, rows, tokenize)
    return TokenizedSplit(name, range(len(tokenized)), (), without_statistics(tokenized), _read_statistics(tokenized))


def tokenize_columns(
    objective: BoundObjective, name: str, columns: Columns, indices: Sequence[int], *, training: bool
) -> TokenizedSplit:
    """Tokenizes a batch of rows, given as columns.

    Args:
        objective: The objective.
        name: Name of the split, for error messages.
        columns: The values of each column.
        indices: Index of each row in the split.
        training: Whether the rows are trained on, instead of evaluated.
    """
    keys = list(columns)
    rows = (dict(zip(keys, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return tokenize_rows(objective, name, rows, indices, training=training)


def tokenize_rows(
    objective: BoundObjective, name: str, rows: Iterable[Mapping[str, Any]], indices: Sequence[int], *, training: bool
) -> TokenizedSplit:
    """Tokenizes rows in memory.

    Args:
        objective: The objective.
        name: Name of the split, for error messages.
        rows: The rows.
        indices: Index of each row in the split.
        training: Whether the rows are trained on, instead of evaluated.

    Raises:
        InputError: A row is invalid; the message has its location.
        RunError: The task raised another error on a row.
    """
    examples = to_examples(objective.task, name, rows, indices)
    return tokenize_examples(objective, name, examples, indices, training=training)


def tokenize_examples(
    objective: BoundObjective,
    name: str,
    examples: Sequence[Example],
    indices: Sequence[int],
    *,
    training: bool,
    answers: Sequence[str] | None = None,
    locate: Callable[[int], str] | None = None,
) -> TokenizedSplit:
    """Tokenizes examples in memory.

    Args:
        objective: The objective.
        name: Name of the split, for error messages.
        examples: The examples.
        indices: Index of each example in the split.
        training: Whether the rows are trained on, instead of evaluated.
        answers: The answer to each example, if they are known (see ``Objective.answer``).
        locate: Returns the location of the example at a position, for error messages; defaults to the task's.

    Raises:
        InputError: An example does not fit the maximum length; the message has its location.
    """
    try:
        rows = list(objective.tokenize(examples, training=training))
    except RowError:
        for position, example in enumerate(examples):
            try:
                objective.tokenize([example], training=training)
            except RowError as error:
                if locate is None:
                    row = {"source": example.source}
                    location = describe_row(objective.task, name, indices[position], row)
                else:
                    location = locate(position)
                raise InputError(f"{location}: {error}") from error
        raise
    _check_rows(objective, rows, len(examples))
    statistics = SplitStatistics(
        [text_hash(example.source) for example in examples],
        [objective.component.answer(example) for example in examples] if answers is None else answers,
        [row["source_tokens"] for row in rows],
        [row["target_tokens"] for row in rows],
    )
    return TokenizedSplit(name, list(indices), examples, rows, statistics)


def with_tokenizable_rows(objective: BoundObjective, task: Task) -> BoundObjective:
    """Returns the same objective for a task that skips the rows that the model's tokenizer cannot represent.

    These depend on the tokenizer and the objective, and not on the method: rows that are too long are never skipped.

    Args:
        objective: The objective.
        task: The task; one that skips no rows is used as it is.
    """
    whole = objective.with_task(task)
    return objective.with_task(task.with_example_check(partial(find_tokenization_problems, whole)))


def find_tokenization_problems(objective: BoundObjective, split: str, examples: Sequence[Example]) -> list[str | None]:
    """Returns why each example cannot be tokenized; None if it can, or if it is too long.

    Args:
        objective: The objective.
        split: Name of the split.
        examples: The examples.
    """
    problems: list[str | None] = [None] * len(examples)
    # Training rows are evaluated too.
    for training in (True, False) if split == "train" else (False,):
        remaining = [i for i, problem in enumerate(problems) if problem is None]
        try:
            objective.tokenize([examples[i] for i in remaining], training=training)
        except RowError:
            for i in remaining:
                problems[i] = _tokenization_problem(objective, examples[i], training=training)
    return problems


def _tokenization_problem(objective: BoundObjective, example: Example, *, training: bool) -> str | None:
    try:
        objective.tokenize([example], training=training)
    except LengthError:  # stops the run when the row is tokenized
        return None
    except RowError as error:
        return str(error)
    return None


def _check_rows(objective: BoundObjective, rows: Sequence[Row], expected: int) -> None:
    """Raises if a plugin's objective does not return a row for each example, with the required keys."""
    name = objective.component.name
    if len(rows) != expected:
        raise PluginError(f"the objective {name!r} tokenized {expected} examples to {len(rows)} rows")
    if missing := [key for key in REQUIRED_KEYS if any(key not in row for row in rows)]:
        raise PluginError(f"the rows of the objective {name!r} have no {comma_separated(missing)}")


def select_statistics(statistics: SplitStatistics, positions: Sequence[int]) -> SplitStatistics:
    """Returns the statistics of some rows.

    Args:
        statistics: The statistics of all rows.
        positions: Positions of the rows.
    """
    columns: list[Sequence[Any]] = [
        *(statistics.source_hashes, statistics.answers),
        *(statistics.source_tokens, statistics.target_tokens),
    ]
    return SplitStatistics(*([column[i] for i in positions] for column in columns))


def without_statistics(rows: Dataset) -> Dataset:
    """Returns a tokenized dataset with the columns of its rows only."""
    return rows.remove_columns([name for name in STATISTICS_COLUMNS if name in rows.column_names])


def _read_statistics(rows: Dataset) -> SplitStatistics:
    columns: list[Any] = [rows[key][:] for key in (*STATISTICS_COLUMNS, "source_tokens", "target_tokens")]
    return SplitStatistics(*columns)
