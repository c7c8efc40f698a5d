"""What can go wrong, by whose fault: the exit code says it to a script, the message to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class PeftkitError(Exception):
    """Something peftkit can put in words; ``exit_code`` is what the command line leaves with."""

    exit_code = 1


class RunError(PeftkitError):
    """The input was right, yet the run could not be carried through."""


class DivergedError(RunError):
    """The loss of training is NaN or infinite; a trial of a sweep that diverges counts as the worst, not as failed."""


class Interrupted(PeftkitError):  # noqa: N818 - no error
    """A signal ended the run, and what was done is saved; the exit code is that of the signal."""

    def __init__(self, text: str, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(text)


class InputError(PeftkitError):
    """What the user gave is wrong: arguments, a recipe, a data file."""

    exit_code = 2


class RowError(InputError):
    """A row of a task's data cannot be an example; ``field`` is the column that is wrong."""

    def __init__(self, field: str, text: str) -> None:
        self.field, self.text = field, text
        super().__init__(f"{field}: {text}")


class MissingFieldsError(RowError):
    """A row lacks fields that a task's prompt shows; ``fields`` are their names."""

    def __init__(self, fields: Sequence[str], reason: str = "") -> None:
        self.fields = tuple(fields)
        super().__init__(", ".join(self.fields), "; ".join(filter(None, ["missing", reason])))


class ModelError(InputError):
    """The model that a recipe names cannot be used: a file of it is missing, broken, or not what its config says."""


class PluginError(InputError):
    """An installed plugin breaks the rules: a duplicate name, a wrong class, an error inside a hook."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe: where it stands and what would be right."""

    file: str
    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.key}: {self.text}" if self.key else f"{where}: {self.text}"


class RecipeError(InputError):
    """Everything that is wrong with a recipe, all at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` if something known is near the word, whatever its case, else nothing."""
    options = list(known)
    by_lower = {option.lower(): option for option in reversed(options)}
    near = [by_lower[o] for o in difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)]
    if not near:  # 'rank' for 'r', 'lr' for 'learning_rate': an abbreviation is not close by edit distance
        near = [o for o in options if word and (_abbreviates(word, o) or _abbreviates(o, word))]
    return f" (did you mean {near[0]!r}?)" if near else ""


def one_line(error: BaseException) -> str:
    """An exception in one line: its type, and what it says."""
    return ": ".join([type(error).__name__, *filter(None, [" ".join(str(error).split())])])


def _abbreviates(short: str, long: str) -> bool:
    parts = long.lower().split("_")
    return short.lower() in ("".join(p[:1] for p in parts), parts[0], parts[-1]) or (
        len(short) < len(long) and len(short) <= 2 and long.lower().startswith(short.lower())
    )


def listed(words: Sequence[str]) -> str:
    """The words as a comma-separated list, or ``nothing``."""
    return ", ".join(words) if words else "nothing"
