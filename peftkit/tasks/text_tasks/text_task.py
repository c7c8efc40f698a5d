"""Base class of tasks that predict something for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from peftkit.components import Example
from peftkit.tasks import column_names
from peftkit.tasks.columns import get_nonblank_text, get_text
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import DataSample


class TextTask(DatasetTask):
    """A task on a text or a pair of texts. Subclasses define ``instruction``, or ``prompt_template``."""

    text_column: str = "text"
    """Column of the text; dots select nested fields."""
    text_pair_column: str | None = None
    """Column of a second text, for pairs of texts. Without `prompt`, encoders read the pair with their separator and
    token types; other models read the prompt."""
    symmetric: bool = False
    """Whether the order of the two texts means nothing, as in paraphrases. Encoders then read both orders, in training
    and prediction, and average the outputs, at twice the cost; other models do not support it."""

    instruction: ClassVar[str]
    """The first word of the default prompt."""
    truncatable_field: ClassVar[str] = "text"
    required_fields: ClassVar[tuple[str, ...]] = ("text",)

    @classmethod
    def recognize_texts(cls, sample: DataSample, *answers: str) -> dict[str, str]:
        """Returns the options that name the columns of the text, or of the pair of texts; empty if there is none.

        Args:
            sample: The first rows of the data.
            *answers: The columns of the answer.
        """
        if pair := find_pair(sample, answers, (*column_names.PAIR_NAMES, *column_names.ANSWERED_PAIR_NAMES)):
            return {"text_column": pair[0], "text_pair_column": pair[1]}
        text = sample.find(column_names.TEXT_NAMES)
        if text is None or text in answers:
            text = sample.longest_text(answers)
        return {} if text is None else {"text_column": text}

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.text_pair_column is None:
            yield "symmetric", "text_pair_column is not set"
        elif self.prompt:
            yield "symmetric", "prompt decides what is read"

    def prompt_template(self) -> str:
        pair = "sentence1: {text} sentence2: {text_pair}"  # as T5 was trained (Raffel et al., 2020)
        return self.prompt or f"{self.instruction}: {pair if self.text_pair_column else '{text}'}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "text_column", self.text_column
        if self.text_pair_column:
            yield "text_pair_column", self.text_pair_column
        yield from self.answer_columns()
        yield from super().column_options()

    def answer_columns(self) -> Iterator[tuple[str, str]]:
        """Yields the options that name columns of the answer, with the columns."""
        raise NotImplementedError

    def field_columns(self) -> Mapping[str, str]:
        pair = {"text_pair": self.text_pair_column} if self.text_pair_column else {}
        return {"text": self.text_column, **pair}

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        source, span = self.render_prompt(row)
        return Example(source, "", truncatable_span=span, source_pair=self.source_pair(row), symmetric=self.symmetric)

    def source_pair(self, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Returns the two texts of a row, which encoders read as a pair; None for single texts or with a prompt."""
        if self.prompt or not self.text_pair_column:
            return None
        return get_nonblank_text(row, self.text_column), get_text(row, self.text_pair_column)


def find_pair(
    sample: DataSample,
    answers: Collection[str] = (),
    pairs: Sequence[tuple[str, str]] = column_names.PAIR_NAMES,
) -> tuple[str, str] | None:
    """Returns the columns of a pair of texts; None if there is none.

    Args:
        sample: Rows of the data.
        answers: Columns that are none of the two.
        pairs: The names of such columns, the best first.
    """
    for names in pairs:
        first, second = (sample.find([name]) for name in names)
        if first and second and not {first, second} & {*answers}:
            return first, second
    return None
