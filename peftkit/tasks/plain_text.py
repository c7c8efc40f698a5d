"""Plain text, for language modeling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.data_files import SampleBy, file_encoding, file_format, guess_sample_by
from peftkit.tasks import column_names, prompt_templates
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import DataSample, held_out_options, local_files, local_splits

LONG_TEXT = 20
"""Mean number of words from which the texts of a column beside others may be documents."""


class PlainText(DatasetTask):
    """Plain text for language modeling, on your own data; each row is a document.

    Decoders predict all of it, encoder-decoders its second half from the first. Prompt fields, for documents of several
    columns: ``{text}`` and any column.
    """

    name: Literal["plain_text"] = "plain_text"

    text_column: str = "text"
    """Column of the text; dots select nested fields."""
    sample_by: SampleBy | None = None
    """What a document of a `.txt` file is, named as in `datasets`: a `line`, a `paragraph` (up to a blank line) or the
    whole `document`; a line if unset."""

    kind: ClassVar[TaskKind] = "language_modeling"
    metrics: ClassVar[tuple[str, ...]] = ("bits_per_byte", "perplexity")
    selection_metric: ClassVar[str] = "bits_per_byte"
    required_fields: ClassVar[tuple[str, ...]] = ("text",)

    @classmethod
    def recognize_files(cls, path: str) -> TaskMatch | None:
        """Recognizes a folder of text files."""
        pattern = Path(path) / "*.txt"
        files = sorted(pattern.parent.glob("*.txt")) if pattern.parent.is_dir() else []
        others = any(file_format(file) not in (None, "text") for file in pattern.parent.iterdir()) if files else True
        if others or local_splits(path):
            return None
        options: dict[str, Any] = {"path": {"glob": str(pattern)}, "sample_by": "document"}
        if encoding := next(filter(None, map(file_encoding, map(str, files))), None):
            options["encoding"] = encoding
        reason = f"the folder has {len(files):,} text files"
        return TaskMatch(0.5, {**options, **held_out_options(())}, reason)

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes text files, and data with one text that is long, or no other column."""
        if sample.format == "text":
            files = local_files(sample.path)
            options = {"sample_by": guess_sample_by(files)} if files else {}
            yield TaskMatch(0.5, options, "a .txt file has text without columns")
            return
        column = sample.find(column_names.TEXT_NAMES) or sample.longest_text()
        if column is None or sample.columns[column].is_number:
            return
        alone = len(sample.columns) == 1
        if alone or sample.columns[column].mean_words >= LONG_TEXT:
            reason = f"{column!r}, the only column, has texts" if alone else f"{column!r} has long texts"
            yield TaskMatch(0.5 if alone else 0.2, {"text_column": column}, reason)

    def prompt_template(self) -> str:
        return self.prompt or "{text}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        if "text" in prompt_templates.fields(self.prompt_template()):
            yield "text_column", self.text_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"text": self.text_column}

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The text, which is also what is predicted.

        Raises:
            RowError: The text is missing or empty.
        """
        example = self.make_prompt(row)
        return replace(example, target=example.source, group=self.group_of(row))
