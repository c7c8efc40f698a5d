"""The per-example results of a run, or of one of its probes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.argument_names import format_argument
from peftkit.atomic_files import write_file
from peftkit.errors import InputError
from peftkit.example_tables import (
    evaluation_file_name,
    example_table,
    list_evaluations,
    read_table,
    read_tables,
    select_curve_evaluations,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow as pa

PROBES = "probes"
"""The folder with a folder for each probe."""
BASE_EXAMPLES = "base.parquet"
"""The per-example results of the base model, in the folder of a probe."""


class StoredExamples:
    """The per-example results in a folder: of a run on dev, test and evaluation sets, or on one probe.

    Each probe has a folder of its own, since results of different kinds of tasks have different columns.

    Args:
        path: An existing folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        write_file(self.path / name, write)

    def add_examples(self, step: int, predictions: Mapping[str, Sequence[Mapping[str, Any]]], *, whole: bool) -> None:
        """Store the per-example results of an evaluation.

        Args:
            step: Optimizer steps before the evaluation.
            predictions: The predictions by split.
            whole: Whether this is the evaluation of the full splits at the end.

        Raises:
            RunError: They cannot be written.
        """
        tables = [example_table(step, split, rows, whole=whole) for split, rows in predictions.items()]
        self._write(f"examples/{evaluation_file_name(step, whole=whole)}", lambda path: write_table(tables, path))

    def merge_examples(self) -> None:
        """Merge the per-example results of all evaluations into ``examples.parquet``, those of probes in theirs.

        Raises:
            RunError: The file cannot be written; the results are unchanged.
        """
        tables = read_tables(self.path)
        if tables:
            self._write("examples.parquet", lambda path: write_table(tables, path))
            shutil.rmtree(self.path / "examples", ignore_errors=True)
        for probe in self._probes:
            probe.merge_examples()

    def truncate_examples(self, steps: Sequence[int]) -> None:
        """Delete the per-example results of the other evaluations, and of the one at the end, also of probes.

        Args:
            steps: The steps of the evaluations along the curve that are kept.

        Raises:
            InputError: The results of one of these evaluations are missing.
            RunError: The results cannot be written.
        """
        tables = [select_curve_evaluations(table, steps) for table in read_tables(self.path)]
        stored = set[str]().union(*map(list_evaluations, tables))
        missing = [step for step in steps if evaluation_file_name(step, whole=False) not in stored]
        if missing:
            raise InputError(
                f"{self.path}: there are no results per example of the evaluation at step {missing[0]}; restore "
                f"examples.parquet or examples/, or start a new run without {format_argument('resume')}"
            )
        if steps:
            self._write("examples.parquet", lambda path: write_table(tables, path))
        else:
            (self.path / "examples.parquet").unlink(missing_ok=True)
        shutil.rmtree(self.path / "examples", ignore_errors=True)
        for probe in self._probes:
            probe.truncate_examples(steps)

    def examples(self) -> pa.Table | None:
        """Read the per-example results of all evaluations; ``example_tables`` describes the columns.

        Returns:
            The table; None for runs of format 1 and imported runs.

        Raises:
            InputError: A file cannot be read.
        """
        import pyarrow as pa

        tables = read_tables(self.path)
        return pa.concat_tables(tables) if tables else None

    def probe(self, name: str) -> StoredExamples:
        """Return the folder of a probe, which has results per example of its own.

        Args:
            name: The name of the probe.
        """
        return StoredExamples(self.path / PROBES / name)

    @property
    def _probes(self) -> list[StoredExamples]:
        return [StoredExamples(path) for path in sorted((self.path / PROBES).glob("*")) if path.is_dir()]

    def write_base_examples(
        self, name: str, along_curve: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]
    ) -> None:
        """Store the per-example results of the base model on a probe, in the folder of the probe.

        Args:
            name: The name of the probe.
            along_curve: The predictions of the rows that are evaluated along the curve.
            whole: The predictions of all rows.

        Raises:
            RunError: They cannot be written.
        """
        pairs = ((along_curve, False), (whole, True))
        tables = [example_table(0, name, predictions, whole=is_whole) for predictions, is_whole in pairs]
        self._write(BASE_EXAMPLES, lambda path: write_table(tables, path))

    def base_examples(self) -> pa.Table | None:
        """Read the per-example results of the base model, in the folder of a probe; None if there are none.

        Raises:
            InputError: The file cannot be read.
        """
        path = self.path / BASE_EXAMPLES
        try:
            return read_table(path) if path.exists() else None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
