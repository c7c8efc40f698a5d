"""Tagging of words, such as named entities and parts of speech, on the user's own data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from peftkit.components import Example, OptionProblem, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.data_files import ConllFormat, FileLayout, FileOptions, disk_file, field_counts, is_archive
from peftkit.errors import InputError, RowError
from peftkit.tag_schemes import OUTSIDE, SCHEME_KEY, SchemeName, repair_tags, tag_problem
from peftkit.tasks.columns import EMPTY, get_text, get_texts, get_value
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.labels import (
    check_label_names,
    check_label_order,
    feature_names,
    match_label,
    missing_column_error,
    natural_sort_key,
)
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.sources.data_source import DataSource
from peftkit.tasks.sources.row_groups import iterate
from peftkit.tasks.tag_recognition import recognize_conll, recognize_tags

if TYPE_CHECKING:
    from datasets import DatasetDict

log = logging.getLogger(__name__)
CONLL_EXTENSIONS = (".conll", ".conllu", ".bio", ".iob", ".iob2")
"""Extensions of files that are nothing else."""
UNKNOWN_TAGS = ("_", "-", "?")
"""What files without answers have instead of tags."""
CONLL_OPTIONS = ("word_field", "tag_field", "field_separator", "comment_prefix")


class TokenTagging(DatasetTask):
    """Words → a tag for each word, on your own data; encoders only.

    Words and tags are lists, or texts that are split at blanks. Numbers are indices into ``tag_names``, or into the
    names of the dataset. Files with one word a line (CoNLL) are read with ``file_format = "conll"``.
    """

    name: Literal["token_tagging"] = "token_tagging"

    words_column: str = "tokens"
    """Column of the words: a list, or a text that is split at blanks."""
    tags_column: str = "ner_tags"
    """Column of the tags, one for each word: a list, or a text that is split at blanks."""
    tag_names: tuple[str, ...] = ()
    """Tags in the order of their numbers; those of the data if unset."""
    scheme: SchemeName = "IOB2"
    """How tags mark entities: `IOB2` (B-PER I-PER O), `IOB1` (I-PER I-PER O), `IOBES`, `BILOU`, or `none` if each tag
    stands for itself, as parts of speech do."""
    repair_tags: bool = False
    """Whether to rewrite tags that break the scheme, such as an I-PER that starts an entity; otherwise they are
    errors."""
    file_format: Literal["conll"] | None = None
    """Format of the files: `conll` for one word a line and a blank line after each sentence; that of their extension
    if unset."""
    word_field: int = 0
    """Number of the field with the word on a line of a CoNLL file, from 0; from -1 backwards."""
    tag_field: int = -1
    """Number of the field with the tag on a line of a CoNLL file."""
    field_separator: str | None = None
    """What separates the fields of a line of a CoNLL file; any blanks if unset."""
    comment_prefix: str | None = None
    """Start of the lines of a CoNLL file that are skipped, such as `# `; none if unset."""

    kind: ClassVar[TaskKind] = "token_tagging"
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "token_accuracy")
    selection_metric: ClassVar[str] = "entity_f1"

    @model_validator(mode="after")
    def _check_tag_names(self) -> TokenTagging:
        for tag in self.tag_names:
            if problem := _problem_of_tag(tag, self.scheme):
                raise ValueError(f"tag_names: the tag {tag!r} {problem}")
        if self.streaming and not self.tag_names:
            raise ValueError("tag_names: required with streaming")
        if self.field_separator == "":
            raise ValueError("field_separator: must not be empty")
        return self

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        yield "prompt", "the model reads the words alone"
        if self.file_format is None:
            for option in CONLL_OPTIONS:
                yield option, "file_format is not 'conll'"
        else:
            for option in ("words_column", "tags_column"):
                yield option, "file_format = 'conll' has no columns"
        if self.scheme == "none":
            yield "repair_tags", "there is no scheme to break"

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags, in the order of their numbers."""
        return self._names()[0]

    def labels_of_data(self) -> tuple[tuple[str, ...], bool] | None:
        return None if self.tag_names else self._names()

    def _names(self) -> tuple[tuple[str, ...], bool]:
        """Returns the tags, and whether numbers are indices of them."""
        if self.tag_names:
            return self.tag_names, True
        if recorded := self.recorded_labels:
            return recorded
        if trained := self.trained_of(TokenTagging):
            return trained._names()
        columns = (self.words_column, self.tags_column)
        return _find_tag_names(self._data_source(), *columns, self.scheme, skip_invalid=self.skips_bad_rows)

    @classmethod
    def recognize_files(cls, path: str) -> TaskMatch | None:
        """Recognizes files with one word a line."""
        return recognize_conll(path)

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes two columns of which one has as many tags as the other has words."""
        yield from recognize_tags(sample)

    @property
    def file_layout(self) -> FileLayout | None:
        if self.file_format is None:
            return None
        fields = (self.word_field, self.tag_field, self.field_separator, self.comment_prefix)
        return ConllFormat(self.words_column, self.tags_column, *fields)

    def data_state(self) -> dict[str, Any]:
        """Also returns the number of fields of the lines of CoNLL files."""
        state = super().data_state()
        if self.file_format is not None:
            state["fields"] = self._trained_fields()
        return state

    def _trained_fields(self) -> list[int]:
        if "fields" in self._recorded:
            return list(self._recorded["fields"])
        form = self.file_layout
        if not isinstance(form, ConllFormat):
            return []
        file = next((name for _, names in self._source_files() for name in names), "")
        return sorted(field_counts(file, form, self.encoding)) if disk_file(file).is_file() else []

    def prediction_options(self, file: str) -> FileOptions:
        """Returns how a file to predict is written; text with other lines than CoNLL files have is one text a line.

        Args:
            file: Path of the file.
        """
        options = super().prediction_options(file)
        named = Path(file).suffix.lower() in CONLL_EXTENSIONS
        if not isinstance(options.form, ConllFormat) or named or not Path(file).is_file() or is_archive(file):
            return options
        if not self._trained_fields():  # of a run of an older version
            return options
        try:
            counts = field_counts(file, options.form, options.encoding)
        except InputError:  # reported when the file is read
            return options
        if not all(self._is_conll_line(line, fields, options.form.separator) for fields, line in counts.items()):
            log.warning("%s: has other lines than CoNLL files, so each line is read as one text", file)
            return replace(options, form=None)
        return options

    def _is_conll_line(self, line: str, fields: int, separator: str | None) -> bool:
        """Returns whether a line is a word alone, or as in the files of training, with or without its tag."""
        trained = self._trained_fields()
        if fields in trained:
            tag = line.split(separator)[self.tag_field]
            return tag in (*self.labels, *UNKNOWN_TAGS) or (self.scheme != "none" and not tag_problem(tag, self.scheme))
        return fields == 1 or fields + 1 in trained

    def load(self) -> DatasetDict:
        if not self.is_evaluation_set:
            _find_tag_names.cache_clear()  # files may have changed
        splits = super().load()
        self._check_names(splits)
        return splits

    def _check_names(self, splits: Mapping[str, Any]) -> None:
        names, _ = self._names()
        check_label_order(splits, self.tags_column, names, "tag_names" if self.tag_names else "the training split")
        check_label_names(names, self.tags_column)

    def _label_problems(self, splits: Mapping[str, Any]) -> Iterator[OptionProblem]:
        try:
            self._check_names(splits)
        except InputError as error:
            yield OptionProblem("tags_column", str(error))

    def _row_check(self) -> Callable[[Mapping[str, Any]], object]:
        try:
            if self._names()[0]:
                return self.to_example
        except InputError:  # reported with the tags
            pass
        return self.make_prompt

    def prompt_template(self) -> str:
        return "{words}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "words_column", self.words_column
        yield "tags_column", self.tags_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"words": self.words_column}

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        text, words = _read_words(row, self.words_column)
        return Example(text, "", words=tuple(words), extra={SCHEME_KEY: self.scheme})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The words → their tags, separated by blanks.

        Raises:
            RowError: There are no words, or not one tag for each; a tag is unknown or breaks the scheme.
        """
        prompt, column = self.make_prompt(row), self.tags_column
        names, numbered = self._names()
        values = _read_tags(row, column, len(prompt.words))
        tags = [match_label(value, names, column, numbered=numbered) for value in values]
        repaired = repair_tags(tags, self.scheme)
        if repaired != tags and not self.repair_tags:
            raise RowError(column, _describe_break(prompt.words, tags, repaired, self.scheme))
        for word, tag in zip(prompt.words, repaired, strict=True):
            if tag not in names:
                raise RowError(column, f"{word!r} needs the tag {tag!r}, which tag_names lacks; add it")
        return replace(prompt, target=" ".join(repaired), group=self.group_of(row))


def _read_words(row: Mapping[str, Any], column: str) -> tuple[str, list[str]]:
    """Returns the text of a sentence, and its words."""
    if isinstance(get_value(row, column), str):
        text = get_text(row, column)
        words = text.split()
    else:
        words = get_texts(row, [column])
        text = " ".join(words)
    if not text.strip():
        raise RowError(column, EMPTY)
    return text, words


def _read_tags(row: Mapping[str, Any], column: str, number: int) -> list[Any]:
    """Returns the tags of a row, which are texts or numbers."""
    value = get_value(row, column)
    tags: Any = value.split() if isinstance(value, str) else value
    if not isinstance(tags, Sequence):
        raise RowError(column, f"must be a list of tags, or a text of tags that are separated by blanks, not {value!r}")
    for i, tag in enumerate(tags):
        if isinstance(tag, bool) or not isinstance(tag, str | int):
            raise RowError(column, f"tag {i + 1} must be a text or a whole number, not {tag!r}")
    if len(tags) != number:
        words = "words of a text are separated by blanks" if isinstance(value, str) else "give each word a tag"
        raise RowError(column, f"has {len(tags)} tags for {number} words; {words}")
    return list(tags)


def _problem_of_tag(tag: str, scheme: SchemeName) -> str:
    """Describes why a tag cannot be used; empty if it can."""
    if tag.split() != [tag]:
        return "is empty or has blanks, which separate tags; rename it"
    if problem := tag_problem(tag, scheme):
        return f"{problem}; set scheme to that of the tags, or to 'none' if they mark no entities"
    return ""


def _describe_break(words: Sequence[str], tags: Sequence[str], repaired: Sequence[str], scheme: SchemeName) -> str:
    """Describes the first tag that breaks the scheme."""
    i = next(i for i, (tag, valid) in enumerate(zip(tags, repaired, strict=True)) if tag != valid)
    before = f"after {tags[i - 1]!r}" if i else "at the start"
    after = f" and before {tags[i + 1]!r}" if i + 1 < len(tags) and scheme in ("IOBES", "BILOU") else ""
    return (
        f"word {i + 1}, {words[i]!r}, has the tag {tags[i]!r} {before}{after}, where {scheme} has {repaired[i]!r}; "
        "correct it, or set repair_tags = true"
    )


@lru_cache(maxsize=8)
def _find_tag_names(
    source: DataSource, words_column: str, column: str, scheme: SchemeName, *, skip_invalid: bool = False
) -> tuple[tuple[str, ...], bool]:
    """Finds the tags of a data source.

    Args:
        source: The data source.
        words_column: Column of the words.
        column: Column of the tags.
        scheme: The scheme of the tags.
        skip_invalid: Whether rows without valid tags are left out.

    Returns:
        The names of the dataset's features, or else the tags of all splits, O first and the tags of an entity together;
        and whether numbers are indices of names.

    Raises:
        InputError: A row has no valid tags.
    """
    splits: Mapping[str, Any] = split_loading.load_valid_splits(source).splits
    known: dict[str, None] = {}
    for split, rows in splits.items():
        if names := feature_names(rows.features, column):
            _check_tags(names, scheme, column)
            return names, True
        tops = {name if name in rows.column_names else name.split(".")[0]: name for name in (column, words_column)}
        if missing := [name for top, name in tops.items() if top not in rows.column_names]:
            if split == source.main_split:
                raise missing_column_error(rows, missing[0])
            continue  # reported with the columns
        for index, row in enumerate(iterate(rows, sorted(tops))):
            try:
                _, words = _read_words(row, words_column)
                tags = [str(tag) for tag in _read_tags(row, column, len(words))]
                _check_tags([tag for tag in tags if tag not in known], scheme, column)
            except RowError as error:
                if skip_invalid:
                    continue
                raise InputError(f"{split_loading.row_location(source, split, index)}: {error}") from error
            known |= dict.fromkeys([*tags, *repair_tags(tags, scheme)])
    return tuple(sorted(known, key=_tag_order)), False


def _check_tags(tags: Sequence[str], scheme: SchemeName, column: str) -> None:
    for tag in tags:
        if problem := _problem_of_tag(tag, scheme):
            raise RowError(column, f"the tag {tag!r} {problem}")


def _tag_order(tag: str) -> tuple[Any, ...]:
    """Returns a sort key: O first, then the tags of each type."""
    kind = tag[2:] if tag[1:2] == "-" else tag
    return tag != OUTSIDE, natural_sort_key(kind), tag
