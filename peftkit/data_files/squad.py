"""Reads files in the form of SQuAD: articles with paragraphs, and questions about each paragraph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from peftkit.data_files.decompressed_text import open_text
from peftkit.data_files.json_rows import parse_json
from peftkit.errors import InputError

SHAPE = '{"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": […]}]}]}]}'


@dataclass(frozen=True, slots=True)
class SquadFormat:
    """What the columns of the rows are called.

    Attributes:
        question: Name of the column of the question.
        context: Name of the column of the paragraph.
        answers: Name of the column of the answers.
    """

    question: str
    context: str
    answers: str

    extensions: ClassVar[tuple[str, ...]] = (".json",)
    """Extensions of files that are found in a folder."""

    def read(self, file: str, encoding: str | None = None) -> Iterator[dict[str, Any]]:
        """Reads the questions of a file.

        Args:
            file: Path of the file, of SQuAD 1.1 or 2.0.
            encoding: Its encoding; UTF-8 if unset.

        Yields:
            The id, title, question, context and answers; there are no answers where ``is_impossible`` is true.

        Raises:
            InputError: The file has another form.
        """
        with open_text(file, encoding) as text:
            whole = text.read()
            try:
                content = parse_json(whole)
            except ValueError as error:
                raise InputError(f"{file}: is not valid JSON: {error}") from error
        for article, place in _children(content, "data", file):
            for paragraph, inner in _children(article, "paragraphs", place):
                for question, where in _children(paragraph, "qas", inner):
                    if "question" not in question or "context" not in paragraph:
                        raise InputError(f"{where}: has no question or no context; the form is {SHAPE}")
                    answers = [] if question.get("is_impossible") else question.get("answers")
                    yield {
                        "id": question.get("id"),
                        "title": article.get("title"),
                        self.question: question["question"],
                        self.context: paragraph["context"],
                        self.answers: answers,
                    }


def _children(parent: Any, key: str, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields the objects of a list, with their place for error messages."""
    children = parent.get(key) if isinstance(parent, Mapping) else None
    if not isinstance(children, list):
        raise InputError(f"{place}: has no list {key!r}; the form is {SHAPE}; leave file_format out for rows")
    for number, child in enumerate(children):
        if not isinstance(child, Mapping):
            raise InputError(f"{place}, {key}[{number}]: must be an object; the form is {SHAPE}")
        yield child, f"{place}, {key}[{number}]"
