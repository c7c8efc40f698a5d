"""Recognizes words with tags in a user's data, for ``peftkit init``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from peftkit.components.types import TaskMatch
from peftkit.data_files import ConllFormat, FileOptions, file_encoding, guess_conll
from peftkit.tag_schemes import guess_scheme
from peftkit.tasks import column_names
from peftkit.tasks.sources.data_sample import (
    Column,
    DataSample,
    held_out_options,
    local_files,
    local_splits,
    path_option,
)

MOST_TAGS = 100
"""Largest number of different tags."""


def recognize_conll(path: str) -> TaskMatch | None:
    """Returns how files with one word a line are read; None if the path has no such files."""
    form = FileOptions(form=ConllFormat("", ""))
    files = local_files(path, form)
    guess = guess_conll(files[0]) if files else None
    if guess is None:
        return None
    options: dict[str, Any] = {"path": path_option(path), "file_format": "conll"}
    if encoding := file_encoding(files[0]):
        options["encoding"] = encoding
    written = {
        "word_field": (guess.word_field, 0),
        "tag_field": (guess.tag_field, -1),
        "field_separator": (guess.separator, None),
        "comment_prefix": (guess.comment, None),
    }
    options |= {option: value for option, (value, default) in written.items() if value != default}
    others = [other for file in files[1:] if (other := guess_conll(file))]
    sentences = [tags for each in (guess, *others) for tags in each.sentences]
    scheme, notes = _scheme_options(sentences)
    held_out = held_out_options(local_splits(path, form))
    reason = f"the file has a word and its tag on each line, in {len(guess.sentences):,} sentences"
    return TaskMatch(0.96, {**options, **scheme, **held_out}, reason, notes)


def recognize_tags(sample: DataSample) -> Iterator[TaskMatch]:
    """Yields the columns of words and tags, lists or texts, if there are some.

    Args:
        sample: The first rows of the data.
    """
    pairs = [
        (words, tags)
        for words in sample.columns.values()
        for tags in sample.columns.values()
        if words is not tags and _are_words_and_tags(words, tags)
    ]
    if not pairs:
        return
    words, tags = min(
        pairs, key=lambda pair: (_rank(pair[1], column_names.TAGS_NAMES), _rank(pair[0], column_names.WORDS_NAMES))
    )
    sentences = [[_tag_text(tag, tags) for tag in _split(value)] for value in tags.values]
    scheme, notes = _scheme_options(sentences)
    reason = f"{tags.name!r} has a tag for each word of {words.name!r}"
    yield TaskMatch(0.95, {"words_column": words.name, "tags_column": tags.name, **scheme}, reason, notes)


def _scheme_options(sentences: Sequence[Sequence[str]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the options that the tags need, and notes on them."""
    scheme, broken = guess_scheme(sentences)
    options: dict[str, Any] = {} if scheme == "IOB2" else {"scheme": scheme}
    if not broken:
        return options, {}
    return {**options, "repair_tags": True}, {"repair_tags": f"{broken:,} sentences have tags that break the scheme"}


def _rank(column: Column, names: Sequence[str]) -> int:
    return names.index(column.name.lower()) if column.name.lower() in names else len(names)


def _split(value: Any) -> list[Any]:
    return value.split() if isinstance(value, str) else value


def _tag_text(tag: Any, column: Column) -> str:
    names = column.label_names
    return names[tag] if names and isinstance(tag, int) and 0 <= tag < len(names) else str(tag)


def _are_words_and_tags(words: Column, tags: Column) -> bool:
    """Returns whether one column may have the tags of the words in another."""
    lists = words.is_text_list and tags.is_list
    texts = words.is_text and tags.is_text
    if not (lists or texts) or not len(words.values) == len(tags.values) == words.num_rows:
        return False
    pairs = [(_split(w), _split(t)) for w, t in zip(words.values, tags.values, strict=True)]
    if any(len(w) != len(t) for w, t in pairs) or sum(len(w) for w, _ in pairs) < 2 * len(pairs):
        return False
    different = {str(tag) for _, values in pairs for tag in values}
    if any(isinstance(tag, bool | float) for _, values in pairs for tag in values):
        return False
    number = sum(len(values) for _, values in pairs)
    few = 2 <= len(different) <= min(MOST_TAGS, number // 3)
    known = tags.name.lower() in column_names.TAGS_NAMES
    scheme, _ = guess_scheme([[_tag_text(tag, tags) for tag in values] for _, values in pairs])
    return few and (scheme != "none" or (known and lists))
