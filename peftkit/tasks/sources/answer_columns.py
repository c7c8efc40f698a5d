"""Which columns of a user's data may be answers, and whether as labels or as numbers, for ``peftkit init``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from peftkit.tasks import column_names
from peftkit.tasks.sources.data_sample import Column, DataSample

MAX_LABELS = 300
"""A column with more different values has no labels, unless its name says so."""
MAX_WORDS = 4
"""A column with longer texts on average has no labels, unless its name says so."""
ROWS_PER_LABEL = 4
"""A column with fewer rows for each value has no labels."""
FEW_LABELS = 10
"""Number of different whole numbers up to which they are rather labels."""
MANY_LABELS = 30
"""Number of different whole numbers from which they are rather numbers, unless they count from zero."""
RARE = 0.1
"""Share of rows up to which -1 beside 0 and 1 rather marks rows without a label."""
DELIMITERS = ("|", ";", ",")
"""What may be between several labels in a cell."""
MAX_LABEL_WORDS = 3
"""Cells whose parts have more words on average do not have several labels."""
DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
"""A number with a decimal comma."""
ROW_ID = re.compile(
    r"unnamed: \d+|index|idx|([a-z]|uu|gu|doc|item|user|post|tweet|row)?id\d*|row|row[_ ]?num(ber)?"
    r"|.*[_\s.-](id|idx|index|no|nr)\d*|.*[a-z](?-i:I[dD])\d*",
    re.IGNORECASE,
)
"""Names of columns that number or identify rows."""


@dataclass(frozen=True)
class AnswerColumn:
    """A column that may be the answer.

    Attributes:
        column: The column.
        as_labels: How well it fits as one of labels, from 0 (not at all) to 1.
        as_numbers: How well it fits as one of numbers to predict, from 0 (not at all) to 1.
        same_as: Column of numbers that has the same labels, under other names; empty if there is none.
    """

    column: Column
    as_labels: float
    as_numbers: float
    same_as: str = ""

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.column.name

    def describe_labels(self) -> str:
        """Describe the values as labels."""
        column = self.column
        same = f"; {self.same_as!r} has the same labels as numbers" if self.same_as else ""
        return f"{column.name!r} has {column.distinct} different values in {column.num_rows:,} rows{same}"

    def describe_numbers(self) -> str:
        """Describe the values as numbers."""
        column, numbers = self.column, self.column.numbers
        fractions = sum(not number.is_integer() for number in numbers)
        kind = f"numbers, of which {fractions:,} are not whole," if fractions else "whole numbers"
        many = f"{column.distinct:,} of them different, in {column.num_rows:,} rows"
        return f"{column.name!r} has {kind} from {min(numbers):g} to {max(numbers):g}, {many}"


def answer_columns(sample: DataSample) -> list[AnswerColumn]:
    """Return the columns that may have labels or numbers, without those that number rows or repeat another column.

    Args:
        sample: Rows of the data.
    """
    answers = []
    for column in sample.columns.values():
        if not column.is_scalar or not column.is_complete or column.distinct < 2:
            continue
        labels, numbers = _judge_labels(column), _judge_numbers(column)
        if labels or numbers:
            answers.append(AnswerColumn(column, labels, numbers))
    return list(_without_repetitions(answers))


def constant_answer(sample: DataSample) -> Column | None:
    """Return a column that is named like one of labels, but has one value; None if there is none.

    Args:
        sample: Rows of the data.
    """
    constant = (c for c in sample.columns.values() if c.is_scalar and c.is_complete and c.distinct == 1)
    return next((column for column in constant if is_named(column, column_names.LABEL_NAMES)), None)


def decimal_commas(sample: DataSample) -> Column | None:
    """Return a column of numbers with decimal commas; None if there is none.

    Args:
        sample: Rows of the data.
    """
    return next((column for column in sample.columns.values() if _has_decimal_commas(column)), None)


def is_named(column: Column, names: Sequence[str]) -> bool:
    """Return whether a column has one of some names, or a name of several words that ends in one or starts with it.

    Args:
        column: The column.
        names: The names, in lower case.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.name).lower())
    return column.name.lower() in names or bool(words and {words[0], words[-1]} & {*names})


def find_delimiter(column: Column) -> str | None:
    """Return what is between the labels of cells that have several; None if they do not.

    Args:
        column: The column.
    """
    if not column.is_text or column.is_number or _has_decimal_commas(column):
        return None
    cells = [cell for cell in column.values if cell.strip()]
    for delimiter in DELIMITERS:
        parts = [[part.strip() for part in cell.split(delimiter) if part.strip()] for cell in cells]
        several = [each for each in parts if len(each) > 1]
        labels = {label for each in parts for label in each}
        number = sum(map(len, parts))
        words = sum(len(label.split()) for label in labels) / max(1, len(labels))
        if len(several) < max(2, len(cells) // 20) or words > MAX_LABEL_WORDS:
            continue
        if not 2 <= len(labels) <= min(MAX_LABELS, max(2, number // ROWS_PER_LABEL)):
            continue
        # Labels are combined freely, unlike the parts of a name or of a number.
        repeated = any(len({*each}) < len(each) for each in several)
        alone = {each[0] for each in parts if len(each) == 1}
        also_combined = alone.intersection(label for each in several for label in each)
        if not repeated and (also_combined or len(labels) < len({*map(frozenset, parts)})):
            return delimiter
    return None


def unlabeled_value(column: Column) -> tuple[object, bool]:
    """Return the value -1 of a column whose other labels are numbers from 0, as datasets mark rows without a label.

    Args:
        column: The column.

    Returns:
        The value, None if there is none; and whether it may as well be a label, as in -1, 0, 1.
    """
    values = {str(value) for value in column.values}
    if "-1" not in values or len(values) < 3 or not all(value.isdecimal() for value in values - {"-1"}):
        return None, False
    value = next(value for value in column.values if str(value) == "-1")
    return value, values == {"-1", "0", "1"}


def is_rare(column: Column, value: object) -> bool:
    """Return whether few rows have a value.

    Args:
        column: The column.
        value: The value.
    """
    return bool(sum(each == value for each in column.values) < RARE * len(column.values))


def _judge_labels(column: Column) -> float:
    """Returns how well a column fits as one of labels."""
    named = is_named(column, column_names.LABEL_NAMES)
    most = max(2, column.num_rows // ROWS_PER_LABEL)
    if _has_decimal_commas(column) or column.distinct > (most if named else min(MAX_LABELS, most)):
        return 0.0
    if not named and (column.mean_words > MAX_WORDS or _identifies_rows(column)):
        return 0.0
    exact = column.name.lower() in column_names.LABEL_NAMES
    score = (0.8 if exact else 0.75) if named else 0.5 - column.distinct / 1000
    if not named and not column.is_number:
        score += 0.1
    if not named and ROW_ID.fullmatch(column.name):
        score = 0.3
    elif not named and column.name.lower().startswith(column_names.FLAG_PREFIXES):
        score = 0.65
    if find_delimiter(column):
        return score / 2
    if column.label_names or not column.is_number:
        return score
    numbers = {*column.numbers}
    if any(not number.is_integer() for number in numbers):
        return 0.3 if len(numbers) <= FEW_LABELS else 0.0
    if len(numbers) == 2:
        return score
    if is_named(column, column_names.NUMBER_NAMES) and not exact:  # such as stars
        return 0.65 if len(numbers) <= FEW_LABELS else 0.3 if len(numbers) <= MANY_LABELS else 0.0
    from_zero = min(numbers) in (-1, 0, 1) and len(numbers) == max(numbers) - min(numbers) + 1
    if len(numbers) <= FEW_LABELS or from_zero:
        return score
    return score - 0.15 if len(numbers) <= MANY_LABELS else max(0.0, score - 0.3)


def _judge_numbers(column: Column) -> float:
    """Returns how well a column fits as one of numbers."""
    if not column.is_number or column.label_names or _identifies_rows(column):
        return 0.0
    numbers = {*column.numbers}
    if len(numbers) == 2 or not all(-1e300 < number < 1e300 for number in numbers):
        return 0.0
    label = column.name.lower() in column_names.LABEL_NAMES
    named = label or is_named(column, column_names.NUMBER_NAMES)
    score = 0.8 if label else 0.72 if named else 0.6 if is_named(column, column_names.QUANTITY_NAMES) else 0.5
    if any(not number.is_integer() for number in numbers):
        return score + 0.05
    if ROW_ID.fullmatch(column.name):
        return 0.0
    from_zero = min(numbers) in (-1, 0, 1) and len(numbers) == max(numbers) - min(numbers) + 1
    if label:  # whole numbers are labels, unless there are too many
        return 0.3 if from_zero else 0.5 if len(numbers) <= FEW_LABELS else 0.7
    if not named and len(numbers) <= FEW_LABELS:
        return score - 0.1
    return score


def _has_decimal_commas(column: Column) -> bool:
    """Returns whether all values are numbers with decimal commas."""
    return column.is_text and column.distinct > 2 and all(map(DECIMAL_COMMA.fullmatch, column.values))


def _identifies_rows(column: Column) -> bool:
    """Returns whether each row has another value, and the values follow each other or the name says so."""
    if column.distinct < len(column.values):
        return False
    if ROW_ID.fullmatch(column.name) or not column.is_number:
        return True
    numbers = column.numbers
    named = is_named(column, (*column_names.NUMBER_NAMES, *column_names.QUANTITY_NAMES, *column_names.LABEL_NAMES))
    whole = all(number.is_integer() for number in numbers)
    return whole and not named and all(a < b for a, b in pairwise(numbers))


def _without_repetitions(answers: Sequence[AnswerColumn]) -> Iterator[AnswerColumn]:
    """Yields columns without those of numbers whose labels another column names; that one gets the better score."""
    repeated: dict[str, AnswerColumn] = {}
    for names in answers:
        if names.column.is_number or not names.as_labels:
            continue
        for numbers in answers:
            if numbers.column.is_number and numbers.as_labels and _are_same(names.column, numbers.column):
                repeated[numbers.name] = names
    for answer in answers:
        if answer.name in repeated:
            continue
        same = [each for each in answers if repeated.get(each.name) is answer]
        score = max([answer.as_labels, *(each.as_labels for each in same)])
        yield AnswerColumn(answer.column, score, answer.as_numbers, same[0].name if same else "")


def _are_same(names: Column, numbers: Column) -> bool:
    """Returns whether each value of one column goes with one value of the other."""
    if len(names.values) != len(numbers.values) or names.distinct != numbers.distinct:
        return False
    return len({*zip(map(str, names.values), map(str, numbers.values), strict=True)}) == names.distinct
