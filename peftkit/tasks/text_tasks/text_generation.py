"""Generation of a text from another one, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError, RowError, comma_separated
from peftkit.tasks import column_names, prompt_templates
from peftkit.tasks.columns import EMPTY, get_text, get_texts, get_value
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.answer_columns import FEW_LABELS, MAX_WORDS
from peftkit.tasks.sources.data_sample import DataSample


class TextGeneration(DatasetTask):
    """Text → text, on your own data.

    Prompt fields: ``{source}`` and any column. If the target is a list, its texts are references, and the first one is
    the training target.
    """

    name: Literal["text_generation"] = "text_generation"

    source_column: str = "source"
    """Column of the source text; dots select nested fields."""
    target_column: str = "target"
    """Column of the target: a text, or a list of references."""

    kind: ClassVar[TaskKind] = "generation"
    metrics: ClassVar[tuple[str, ...]] = ("rouge", "bleu", "chrf", "exact_match")
    selection_metric: ClassVar[str] = "rougeL"
    truncatable_field: ClassVar[str] = "source"
    required_fields: ClassVar[tuple[str, ...]] = ("source",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("target_column",)

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes texts to convert or to continue; a task with an input (Alpaca) is a prompt of both."""
        if all(name in sample.columns for name in column_names.PREFERENCE_NAMES):
            raise InputError(
                f"{comma_separated(column_names.PREFERENCE_NAMES)} are columns of preferences, which the tasks of "
                "peftkit-preference read (pip install peftkit-preference)"
            )
        target = sample.find(column_names.TARGET_NAMES, "is_varied_text")
        source = sample.find(column_names.SOURCE_NAMES, "is_varied_text")
        instruction, text = (sample.find([name]) for name in column_names.INSTRUCTION_NAMES)
        named, options = target is not None and source is not None, {}
        if target and instruction and text:
            source, options = instruction, {"prompt": f"{{source}} {{{text}}}"}
        if not named:
            texts = [c.name for c in sample.columns.values() if c.is_varied_text and c.is_complete]
            if len(texts) < 2:
                return
            source, target = source or texts[0], target or texts[-1]
        if source is None or target is None or source == target:
            return
        if not sample.columns[target].is_complete or not sample.columns[source].is_complete:
            return
        words = sample.columns[target].mean_words
        score = 0.3 if not named else 0.4 if sample.columns[target].distinct <= FEW_LABELS else 0.6
        reason = f"{source!r} and {target!r} have texts, and a target has {words:.0f} words on average"
        columns = {"source_column": source, "target_column": target}
        yield TaskMatch(score, {**columns, **options}, reason)
        if not named and min(words, sample.columns[source].mean_words) > MAX_WORDS:  # such as a translation
            columns = {"source_column": target, "target_column": source}
            yield TaskMatch(0.29, columns, f"{target!r} and {source!r} have texts, in the other direction")

    def prompt_template(self) -> str:
        return self.prompt or "{source}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        if "source" in prompt_templates.fields(self.prompt_template()):
            yield "source_column", self.source_column
        yield "target_column", self.target_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"source": self.source_column}

    def text_columns(self) -> list[str]:
        return [*super().text_columns(), self.target_column]

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the target.

        Raises:
            RowError: A field is missing or empty.
        """
        prompt, column = self.make_prompt(row), self.target_column
        is_list = isinstance(get_value(row, column), list)
        targets = get_texts(row, [column]) if is_list else [get_text(row, column)]
        if not targets or not all(map(str.strip, targets)):
            raise RowError(column, EMPTY)
        references = tuple(targets) if len(targets) > 1 else ()
        return replace(prompt, target=targets[0], references=references, group=self.group_of(row))
