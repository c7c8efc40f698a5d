"""Questions whose answers are spans of a context, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.types import NO_ANSWER, TaskMatch
from peftkit.data_files import FileLayout, FileOptions, SquadFormat, file_encoding, file_format
from peftkit.errors import InputError, RowError
from peftkit.tasks import column_names
from peftkit.tasks.columns import get_nonblank_text, get_text, get_value, short_repr
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import (
    Column,
    DataSample,
    held_out_options,
    local_files,
    local_splits,
    path_option,
)


class SpanQa(DatasetTask):
    """Question and context → the span of the context that answers it, on your own data.

    Answers have a text and where it starts in the context, in characters, as in SQuAD: a table of the lists ``text``
    and ``answer_start``, or a list of tables. The first answer is trained, and all are references. Encoders read
    question and context as a pair; other models read the prompt and generate the answer. Prompt fields: ``{question}``,
    ``{context}`` and any column.
    """

    name: Literal["span_qa"] = "span_qa"

    question_column: str = "question"
    """Column of the question; dots select nested fields."""
    context_column: str = "context"
    """Column of the context; rows with the same one are a group, unless `group_column` is set."""
    answers_column: str = "answers"
    """Column of the answers."""
    allow_no_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2.0; otherwise that is an error. A prediction may then be
    empty; generating models write `unanswerable`."""
    file_format: Literal["squad"] | None = None
    """Format of the files: `squad` for the official JSON files of SQuAD 1.1 and 2.0; rows of their extension if
    unset."""

    kind: ClassVar[TaskKind] = "span_qa"
    metrics: ClassVar[tuple[str, ...]] = ("squad",)
    selection_metric: ClassVar[str] = "squad_f1"
    truncatable_field: ClassVar[str] = "context"
    required_fields: ClassVar[tuple[str, ...]] = ("question", "context")
    used_fields: ClassVar[tuple[str, ...]] = ("question", "context")
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("answers_column",)

    @classmethod
    def recognize_files(cls, path: str) -> TaskMatch | None:
        """Recognizes files of SQuAD."""
        form = SquadFormat("question", "context", "answers")
        files = local_files(path, FileOptions(form=form))
        if not files or file_format(Path(files[0])) != "json":
            return None
        encoding = file_encoding(files[0])
        try:
            rows = [row for file in files for row in form.read(file, encoding)]
        except InputError:
            return None
        options: dict[str, Any] = {"path": path_option(path), "file_format": "squad"} | (
            {"encoding": encoding} if encoding else {}
        )
        held_out = held_out_options(local_splits(path, FileOptions(form=form)))
        empty = sum(not row["answers"] for row in rows)
        reason = f"the file has the form of SQuAD, with {len(rows):,} questions"
        return TaskMatch(0.98, {**options, **_no_answer(empty), **held_out}, reason, _note(empty))

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes answers that have a text and a place, as a table of lists or a list of tables."""
        question = sample.find(column_names.QUESTION_NAMES)
        context = sample.find(column_names.CONTEXT_NAMES)
        for name in column_names.ANSWER_SPAN_NAMES:
            column = sample.columns.get(f"{name}.answer_start") or sample.columns.get(name)
            if question is None or context is None or column is None or not _has_places(column):
                continue
            empty = sum(value == [] for value in column.values) + column.num_rows - len(column.values)
            options = {"question_column": question, "context_column": context, "answers_column": name}
            reason = f"{name!r} has answers with their place in {context!r}"
            yield TaskMatch(0.97, {**options, **_no_answer(empty)}, reason, _note(empty))
            return

    @property
    def file_layout(self) -> FileLayout | None:
        if self.file_format is None:
            return None
        return SquadFormat(self.question_column, self.context_column, self.answers_column)

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.file_format is not None:
            for option in ("question_column", "context_column", "answers_column"):
                yield option, f"file_format = {self.file_format!r} has no columns"

    def prompt_template(self) -> str:
        return self.prompt or "question: {question} context: {context}"  # as T5 was trained (Raffel et al., 2020)

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "question_column", self.question_column
        yield "context_column", self.context_column
        yield "answers_column", self.answers_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"question": self.question_column, "context": self.context_column}

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        return [*dict.fromkeys([*super().required_columns(row), self.question_column, self.context_column])]

    def grouping_column(self) -> str:
        return self.group_column or self.context_column

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        source, span = self.render_prompt(row)
        pair = (get_nonblank_text(row, self.question_column), get_nonblank_text(row, self.context_column))
        extra = {NO_ANSWER: "allowed"} if self.allow_no_answer else {}
        return Example(source, "", truncatable_span=span, source_pair=pair, extra=extra)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The question and the context → the first answer.

        Raises:
            RowError: There is no answer, or one is not where it is said to be in the context.
        """
        prompt = replace(self.make_prompt(row), group=self.group_of(row))
        context = get_text(row, self.context_column)
        spans = [self._check_span(text, start, context) for text, start in self._answers(row)]
        if not spans:
            if not self.allow_no_answer:
                reason = "has no answer; set allow_no_answer = true if questions may have none, as in SQuAD 2.0"
                raise RowError(self.answers_column, reason)
            return replace(prompt, target=NO_ANSWER, references=("",))
        texts = tuple(dict.fromkeys(context[start:end] for start, end in spans))
        return replace(prompt, target=texts[0], references=texts, target_span=spans[0])

    def _answers(self, row: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        """Returns text and start of each answer."""
        column = self.answers_column
        value = None if row.get(column, ...) is None else get_value(row, column)
        if not value:
            return []
        if isinstance(value, Mapping):
            texts, starts = (value.get(key) for key in ("text", "answer_start"))
            if isinstance(texts, str):
                texts, starts = [texts], [starts]
            if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
                raise RowError(column, f"needs as many of text as of answer_start, not {short_repr(value)}")
            return list(zip(texts, starts, strict=True))
        if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
            return [(each.get("text"), each.get("answer_start")) for each in value]
        raise RowError(column, f"must be a table of text and answer_start, or a list of such, not {short_repr(value)}")

    def _check_span(self, text: Any, start: Any, context: str) -> tuple[int, int]:
        """Returns start and end of an answer in the context, without surrounding blanks."""
        column = self.answers_column
        if not isinstance(text, str) or not text.strip():
            raise RowError(column, f"an answer must be a text that is not blank, not {short_repr(text)}")
        if isinstance(start, bool) or not isinstance(start, int):
            raise RowError(column, f"answer_start must be a whole number, not {short_repr(start)}")
        actual = context[start : start + len(text)] if start >= 0 else ""
        if actual != text:
            near = context.find(text)
            hint = f"it is at {near}" if near >= 0 else "the context does not contain it"
            reason = f"the answer {text!r} is not at {start}, where the context has {actual!r}; {hint}"
            raise RowError(column, reason)
        start += len(text) - len(text.lstrip())
        return start, start + len(text.strip())


def _has_places(column: Column) -> bool:
    if column.name.endswith(".answer_start"):
        return True
    tables = [each for value in column.values if isinstance(value, list) for each in value]
    return bool(tables) and all(isinstance(each, Mapping) and {"text", "answer_start"} <= {*each} for each in tables)


def _no_answer(number: int) -> dict[str, bool]:
    return {"allow_no_answer": True} if number else {}


def _note(number: int) -> dict[str, str]:
    return {"allow_no_answer": f"{number:,} of the questions have no answer"} if number else {}
