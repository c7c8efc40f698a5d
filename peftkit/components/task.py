"""The base class of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from peftkit.components.component import Component
from peftkit.components.types import Example, OptionProblem, SkippedRow, TaskKind, TaskMatch
from peftkit.data_files import FileOptions
from peftkit.errors import MissingFieldsError, summarize_error

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import DatasetDict

ExampleCheck = Callable[[str, Sequence[Example]], Sequence[str | None]]
"""Returns what is wrong with each example of a split, such as a target that the model's tokenizer does not know."""
PLACEHOLDERS = 0xF0000
"""The first private-use character that stands in for a missing field; such characters do not occur in texts."""


class Task(Component):
    """Data, and how their rows become examples. Tasks do not depend on the tokenizer or the kind of model."""

    kind: ClassVar[TaskKind]
    """What the model does: choose a fixed label, choose among each row's candidates, or generate freely."""
    metrics: ClassVar[tuple[str, ...]]
    """The default metrics."""
    metric_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options of the default metrics, by their names, where a recipe lists no metrics."""
    selection_metric: ClassVar[str]
    """The metric value, such as ``accuracy``, whose best score on dev selects the checkpoint."""
    reports_last_step: ClassVar[bool] = False
    """Whether results and comparisons show the score of the last step beside that of the selected one, as published
    results that select no checkpoint have it."""
    source: ClassVar[str] = ""
    """Where the data come from."""
    licence: ClassVar[str] = ""
    """The licence of the data."""

    @classmethod
    def recognize(cls, path: str) -> Sequence[TaskMatch]:
        """Look at a user's data and return how this task can use them, for ``peftkit init``.

        Args:
            path: A file, a folder, or the id of a hub dataset.

        Returns:
            The ways, such as one for each column that may have the answer; empty, the default, if there are none.

        Raises:
            InputError: There are no such data.
        """
        return ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a task whose labels are fixed, in the order of their ids; empty for others."""
        return ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the numbers of a regression task, in their order; empty for one without name."""
        return ()

    @property
    def empty_answer(self) -> str:
        """The text of an answer without content, such as the labels of a row that has none."""
        return ""

    @property
    def is_streaming(self) -> bool:
        """Whether ``train`` is a ``datasets.IterableDataset`` of unknown length."""
        return False

    def data_files(self) -> Sequence[Path]:
        """Return the files and folders on this machine that ``load`` reads, if options do not name them as they are."""
        return ()

    def prediction_options(self, file: str) -> FileOptions:
        """Return how a file of rows to predict is written, where its extension does not say it.

        Args:
            file: Path of the file.

        Returns:
            The options; by default none.
        """
        return FileOptions()

    def load(self) -> DatasetDict:
        """Load the data.

        Returns:
            The splits ``train``, ``dev`` and ``test``.
        """
        raise NotImplementedError

    def data_state(self) -> Mapping[str, Any]:
        """Return what predictions need to know of the data, such as labels that were found in the rows.

        A run stores it, so that it predicts, merges and exports without the data. Override it and ``with_data_state``
        in a task whose ``labels``, ``targets`` or prompts depend on its data.

        Returns:
            Values that can be written as JSON; empty by default.
        """
        return {}

    def with_data_state(self, state: Mapping[str, Any]) -> Task:
        """Return the same task with what a run stored of its data, which are not read again for that.

        Args:
            state: What ``data_state`` returned.

        Returns:
            The task; the default returns the task itself.
        """
        return self

    def with_example_check(self, check: ExampleCheck) -> Task:
        """Return the same task, which also leaves out the rows whose examples do not pass a check, if it skips rows.

        Args:
            check: Returns why each of some examples of a split is invalid; None for valid ones.

        Returns:
            The task; the default, for tasks that skip no rows, returns the task itself.
        """
        return self

    def most_skipped_rows(self, rows: int) -> int:
        """Return how many of some rows to predict may be left out because they are invalid.

        Args:
            rows: The number of rows.

        Returns:
            The number; 0, the default, if the first invalid row is an error.
        """
        return 0

    def options_of_set(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an evaluation set of this task.

        Args:
            changes: The options in which the set differs.

        Returns:
            The options, by default those of this task and the changes.
        """
        return {**self.model_dump(mode="json", exclude_unset=True), "name": self.name, **changes}

    def as_evaluation_set(self, split: str | None, trained: Task) -> tuple[Task, str]:
        """Return the task of an evaluation set, of which one split is loaded and evaluated.

        The default evaluates a split that ``load`` returns.

        Args:
            split: The split in the recipe; None if it names none.
            trained: The task of the recipe, whose labels the model is trained on.

        Returns:
            The task, and the name of the split among those that its ``load`` returns.

        Raises:
            ValueError: There is no such split, as far as the options show.
        """
        return self, split or "test"

    def skipped_rows(self) -> Sequence[SkippedRow]:
        """Return the invalid rows that ``load`` left out; of a stream, those that were met so far. None by default."""
        return ()

    def num_ignored_rows(self) -> Mapping[str, int]:
        """Return the number of valid rows of each split that ``load`` left out, as with a label to ignore."""
        return {}

    def held_out(self) -> Mapping[str, Mapping[str, Any]]:
        """Return how splits were held out of the training rows.

        Returns:
            For each such split the numbers of ``rows`` and of ``groups``, and what rows have that stay ``together``, in
            words; empty by default.
        """
        return {}

    def find_data_problems(self, *, download: bool = False) -> Sequence[OptionProblem]:
        """Find what is wrong with the data without a model, within a second.

        Args:
            download: Whether data may be downloaded; otherwise only data on this machine are checked.

        Returns:
            The problems; empty by default.
        """
        return ()

    def options_for_bad_rows(self) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """Find the options that skip the invalid rows of the data, for ``peftkit init``; none by default.

        Returns:
            The options, and comments on them.

        Raises:
            InputError: Too many rows are invalid.
        """
        return {}, {}

    def resolve_revision(self) -> str | None:
        """Look up the commit of the hub data set that ``load`` would read now.

        Returns:
            The commit, or None if the task reads no hub data set or the commit is not known.
        """
        return None

    def at_revision(self, commit: str) -> Task:
        """Return the same task, pinned to a commit of its hub data set.

        Args:
            commit: The commit's SHA.

        Returns:
            The pinned task; the default returns the task itself.
        """
        return self

    def subset_for_estimate(self, rows: int) -> tuple[Task, int | None] | None:
        """Return a smaller version of the task for cost estimates.

        Args:
            rows: The number of training rows of the smaller task.

        Returns:
            The smaller task, whose only split is ``train``, and the number of rows in all of ``train``, or None if it
            is not known. The default returns None; subsets are of use only where rows have to be downloaded.
        """
        return None

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """Convert a row of a split to an example.

        Args:
            row: The row by column name.

        Returns:
            The example.

        Raises:
            RowError: The row is not valid; the caller adds its location.
        """
        raise NotImplementedError

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """Convert a row to an example for prediction, without its answer.

        The default calls ``to_example`` with placeholders for missing fields. Override it in a task that looks up its
        answer, as in ``names[row["label"]]``.

        Args:
            row: A row with at least the fields that the prompt and the candidates use.

        Returns:
            The example, with the source and candidates of ``to_example``; its target is the first candidate, or empty.

        Raises:
            MissingFieldsError: The row lacks such fields; the error names all of them, even for an empty row.
            RowError: A field is not valid.
        """
        return example_without_answer(self.to_example, row)

    def describe_row(self, split: str, index: int) -> str:
        """Describe the location of a row, for error messages.

        Args:
            split: ``train``, ``dev`` or ``test``.
            index: The row's index in the split, counted from 0.

        Returns:
            Text such as a file and line number.
        """
        return f"the task {self.name!r}, split {split!r}, row {index + 1}"


def example_without_answer(to_example: Callable[[Mapping[str, Any]], Example], row: Mapping[str, Any]) -> Example:
    """Convert a row that may lack its answer.

    Every missing field is replaced by a different placeholder character. If that character occurs in the source or the
    candidates, the field is part of the prompt; otherwise it is part of the answer.

    Args:
        to_example: A task's ``to_example``.
        row: A row, with or without its answer.

    Returns:
        The example, with a placeholder as its target (see ``fill_placeholders``).

    Raises:
        MissingFieldsError: The row lacks fields of the prompt, or ``to_example`` fails without the answer.
    """
    filled = _RowWithPlaceholders(row)
    try:
        example = to_example(filled)
    except Exception as error:
        if not filled.missing:
            raise
        reason = f"to_example needs the answer ({summarize_error(error)}), so the task has to override to_prompt"
        raise MissingFieldsError(list(filled.missing), reason) from error
    prompt = "".join([example.source, *example.candidates, *(example.source_pair or ()), *example.words])
    required = [field for field, character in filled.missing.items() if character in prompt]
    if required:
        raise MissingFieldsError(required)
    return fill_placeholders(example)


def fill_placeholders(example: Example) -> Example:
    """Return the example without its answer: its target is the first candidate, or empty if there are none."""
    target = next(iter(example.candidates), "")
    return replace(example, target=target, references=(), extra={}, target_span=None)


class _RowWithPlaceholders(dict[str, Any]):
    """A row with a placeholder for every missing field."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.missing: dict[str, str] = {}

    def __missing__(self, field: str) -> str:
        return self.missing.setdefault(field, chr(PLACEHOLDERS + len(self.missing)))
