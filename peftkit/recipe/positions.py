"""Where each key of a TOML text stands: tomllib gives positions for syntax errors only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable

KeyPath = tuple[str | int, ...]

_KEY = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)\s*""")
_BLANK = re.compile(r"(?:[\s\ufeff]|#[^\n]*)*")
_SCALAR = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' + r"|'''.*?'{3,5}" + r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\[\]{},\n"'#]+""",
    re.DOTALL,
)

_DEEPEST = 50
"""What is nested deeper is passed over: Python's stack ends somewhere, and prefixes grow with the square."""


def positions(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every table and key of a text that ``tomllib`` has accepted.

    Elements of arrays are counted by their index; keys inside inline tables stand at the line of their own.
    """
    found: dict[KeyPath, int] = {}
    for path, line in written(text):
        for depth in range(1, min(len(path), _DEEPEST) + 1):
            found.setdefault(path[:depth], line)
    return found


def written(text: str) -> list[tuple[KeyPath, int]]:
    """Every key, header and array element in the order of the text, with its line; one written twice is there twice.

    A text that is not TOML gives something, and never an endless loop.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def key_and_rest(text: str) -> tuple[list[str], str]:
    """``a."b.c" = 4`` → the parts of the key and what follows the equals sign; no parts where it has no such form."""
    scanner = _Scanner(text)
    keys = scanner.keys()
    return (keys, text[scanner.at + 1 :]) if keys and scanner.sees("=") else ([], "")


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: list[tuple[KeyPath, int]] = []
        self._line, self._counted = 1, 0

    def document(self) -> None:
        counts: dict[KeyPath, int] = {}
        table: KeyPath = ()
        self.blank()
        while self.at < len(self.text):
            if self.sees("["):
                line, array = self.line(), self.sees("[[")
                self.at += 2 if array else 1
                table = _resolved(self.keys(), counts)
                if array:
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                self.found.append((table, line))
                self.skip_line()
            else:
                self.pair(table)
            self.blank()

    def pair(self, table: KeyPath) -> None:
        line, keys = self.line(), self.keys()
        if not keys:  # not TOML: what cannot be read as a key is passed over
            self.skip_line()
            return
        path = (*table, *keys)
        self.found.append((path, line))
        self.at += 1  # the equals sign
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.blank()
        if len(path) > _DEEPEST:
            self.skip_value()
        elif self.sees("{"):
            self.inside("}", lambda index: self.pair(path))
        elif self.sees("["):
            self.inside("]", lambda index: self.element((*path, index)))
        else:
            self.skip_scalar()

    def element(self, path: KeyPath) -> None:
        self.found.append((path, self.line()))
        self.value(path)

    def inside(self, closing: str, item: Callable[[int], None]) -> None:
        self.at += 1
        self.blank()
        index = 0
        while self.at < len(self.text) and not self.sees(closing):
            item(index)
            index += 1
            self.blank()
            if self.sees(","):
                self.at += 1
                self.blank()
        self.at += 1

    def keys(self) -> list[str]:
        keys = []
        while match := _KEY.match(self.text, self.at):
            keys.append(_unquoted(match[1]))
            self.at = match.end()
            if not self.sees("."):
                return keys
            self.at += 1
        return []

    def sees(self, mark: str) -> bool:
        return self.text.startswith(mark, self.at)

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def skip_value(self) -> None:
        depth = 0
        while self.at < len(self.text):
            mark = self.text[self.at]
            depth += (mark in "[{") - (mark in "]}")
            if mark in "[]{},":
                self.at += 1
            else:
                self.skip_scalar()
            if depth <= 0:
                return
            self.blank()

    def skip_scalar(self) -> None:
        match = _SCALAR.match(self.text, self.at)
        self.at = match.end() if match else len(self.text)

    def skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end + 1


def _resolved(keys: list[str], counts: dict[KeyPath, int]) -> KeyPath:
    """A header's path; below an array of tables it means the array's last element."""
    path: KeyPath = ()
    for depth, key in enumerate(keys):
        path = (*path, key)
        if path in counts and depth < len(keys) - 1:
            path = (*path, counts[path])
    return path


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    try:
        return next(iter(tomllib.loads(f"{key}=0")))
    except tomllib.TOMLDecodeError:  # an unknown escape
        return key
