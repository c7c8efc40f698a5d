"""The base class of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from peftkit.components.component import Component
from peftkit.components.inputs import Example, OptionProblem, TaskKind
from peftkit.components.unlabeled_rows import example_without_answer

if TYPE_CHECKING:
    from datasets import DatasetDict


class Task(Component):
    """Data, and how their rows become examples. Tasks do not depend on the tokenizer or the kind of model."""

    kind: ClassVar[TaskKind]
    """What the model does: choose a fixed label, choose among each row's candidates, or generate freely."""
    metrics: ClassVar[tuple[str, ...]]
    """The default metrics."""
    selection_metric: ClassVar[str]
    """The metric value, such as ``accuracy``, whose best score on dev selects the checkpoint."""
    source: ClassVar[str] = ""
    """Where the data come from."""
    licence: ClassVar[str] = ""
    """The licence of the data."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classification task, in the order of their ids; empty for other kinds."""
        return ()

    @property
    def is_streaming(self) -> bool:
        """Whether ``train`` is a ``datasets.IterableDataset`` of unknown length."""
        return False

    def load(self) -> DatasetDict:
        """Load the data.

        Returns:
            The splits ``train``, ``dev`` and ``test``.
        """
        raise NotImplementedError

    def find_data_problems(self, *, download: bool = False) -> Sequence[OptionProblem]:
        """Find what is wrong with the data without a model, within a second.

        Args:
            download: Whether data may be downloaded; otherwise only data on this machine are checked.

        Returns:
            The problems; empty by default.
        """
        return ()

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
