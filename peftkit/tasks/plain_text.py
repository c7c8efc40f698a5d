"""Plain text, for language modeling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.inputs import TaskMatch
from peftkit.data_files import SampleBy
from peftkit.tasks import column_names, prompt_templates
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import DataSample


class PlainText(DatasetTask):
    """Plain text for language modeling, on your own data; each row is a document, all of which is predicted.

    Decoders only. Prompt fields, for documents of several columns: ``{text}`` and any column.
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
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes data whose only column is a text."""
        column = sample.find(column_names.TEXT_NAMES)
        if column is not None and len(sample.columns) == 1 and sample.columns[column].is_text:
            yield TaskMatch(0.5, {"text_column": column}, f"{column!r}, the only column, has texts")

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
