"""Exceptions with the exit codes of the command line, and helpers for messages."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath


class PeftkitError(Exception):
    """The base class of errors that are reported without a traceback."""

    exit_code = 1
    """The exit code of the command line."""


class RunError(PeftkitError):
    """A run failed although its input is valid."""


class DivergedError(RunError):
    """The training loss is NaN or infinite; a sweep ranks such a trial last."""


class RunInterrupted(PeftkitError):  # noqa: N818 - no error
    """A signal stopped the run after it was saved; the exit code is 128 plus the signal's number.

    Args:
        text: The message.
        number: The signal's number.
    """

    def __init__(self, text: str, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(text)


class StopRequested(Exception):  # noqa: N818 - not an error
    """Stops the training loop after a signal.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class InputError(PeftkitError):
    """Invalid input: arguments, a recipe, a data file."""

    exit_code = 2


class DataError(InputError):
    """The data that an option of a task names are invalid.

    Args:
        option: The option.
        text: What is wrong.
        location: The file or split that is invalid.
        column: The column that is missing or invalid.
    """

    def __init__(self, option: str, text: str, location: str = "", column: str = "") -> None:
        self.option, self.text, self.location, self.column = option, text, location, column
        super().__init__(": ".join(filter(None, [location, option, text])))


class RowError(InputError):
    """A row of a task's data is invalid.

    Args:
        field: The column.
        text: What is wrong with it.
    """

    def __init__(self, field: str, text: str) -> None:
        self.field, self.text = field, text
        super().__init__(f"{field}: {text}")


class LengthError(RowError):
    """A row does not fit the maximum lengths of a run; it is never skipped, since they may depend on the method.

    Args:
        field: The column.
        text: What is wrong with it.
    """


class MissingFieldsError(RowError):
    """A row lacks fields that a task's prompt contains.

    Args:
        fields: The names of the fields.
        reason: Why they are missing.
    """

    def __init__(self, fields: Sequence[str], reason: str = "") -> None:
        self.fields = tuple(fields)
        super().__init__(", ".join(self.fields), "; ".join(filter(None, ["missing", reason])))


class ModelError(InputError):
    """A model cannot be loaded: a file is missing, damaged, or inconsistent with its config."""


class PluginError(InputError):
    """An installed plugin is invalid: a duplicate name, a wrong class, an error in a hook."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a recipe, with its location; ``file`` is empty for a recipe that was built in Python."""

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        location = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(filter(None, (location, self.key, self.text)))


class RecipeError(InputError):
    """A recipe is invalid; lists all problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest a similar word, ignoring case.

    Args:
        word: The unknown word.
        known: The known words.

    Returns:
        `` (did you mean 'x'?)``, or an empty text if no known word is similar.
    """
    near = closest(word, known)
    return f" (did you mean {near!r}?)" if near else ""


def similar_file(name: str, names: Iterable[str]) -> str:
    """Suggest a file of a similar name; a common extension makes no names similar.

    Args:
        name: The name of a missing file.
        names: The names of the files in its folder.

    Returns:
        `` (did you mean 'x.toml'?)``, or an empty text if none is similar.
    """
    by_stem = {PurePath(each).stem: each for each in sorted(names, reverse=True)}
    near = closest(PurePath(name).stem, by_stem)
    return f" (did you mean {by_stem[near]!r}?)" if near else ""


def closest(word: str, known: Iterable[str]) -> str:
    """Find a similar word by spelling, ignoring case.

    Args:
        word: The unknown word.
        known: The known words.

    Returns:
        The known word, or an empty text if none is similar.
    """
    options = list(known)
    by_lower = {option.lower(): option for option in reversed(options)}
    near = [by_lower[o] for o in difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)]
    if not near:  # 'rank' for 'r', 'lr' for 'learning_rate': an abbreviation is not close by edit distance
        near = [o for o in options if word and (_abbreviates(word, o) or _abbreviates(o, word))]
    return near[0] if near else ""


def summarize_error(error: BaseException) -> str:
    """Format an exception in one line: its type and message."""
    return ": ".join([type(error).__name__, *filter(None, [" ".join(str(error).split())])])


def _abbreviates(short: str, long: str) -> bool:
    parts = long.lower().split("_")
    return short.lower() in ("".join(p[:1] for p in parts), parts[0], parts[-1]) or (
        len(short) < len(long) and len(short) <= 2 and long.lower().startswith(short.lower())
    )


def comma_separated(words: Sequence[str]) -> str:
    """Join words by commas; no words give ``nothing``."""
    return ", ".join(words) if words else "nothing"
