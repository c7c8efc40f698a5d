"""Line numbers of the keys of a TOML text: tomllib reports lines for syntax errors only."""

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

_MAX_DEPTH = 50
"""Keys that are nested deeper are skipped, because of Python's recursion limit."""


def key_positions(text: str) -> dict[KeyPath, int]:
    """Locate every table, key and array element of a valid TOML text.

    Returns:
        The lines, counted from 1, by the path of the key; elements of arrays have their index in the path.
    """
    positions: dict[KeyPath, int] = {}
    for path, line in key_lines(text):
        for depth in range(1, min(len(path), _MAX_DEPTH) + 1):
            positions.setdefault(path[:depth], line)
    return positions


def key_lines(text: str) -> list[tuple[KeyPath, int]]:
    """List every key, header and array element with its line, in the order of the text, duplicates included.

    Also terminates for texts that are not TOML; their keys are listed as far as they can be recognized.
    """
    scanner = _Scanner(text)
    scanner.scan()
    return scanner.keys


def split_assignment(text: str) -> tuple[list[str], str]:
    """Split ``a."b.c" = 4`` into the parts of the key and the value; a text of another form has no parts."""
    scanner = _Scanner(text)
    key = scanner.read_key()
    return (key, text[scanner.position + 1 :]) if key and scanner.sees("=") else ([], "")


class _Scanner:
    """Scans a TOML text for keys, without interpreting values."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.keys: list[tuple[KeyPath, int]] = []
        self._line, self._counted = 1, 0

    def scan(self) -> None:
        counts: dict[KeyPath, int] = {}
        table: KeyPath = ()
        self.skip_blank()
        while self.position < len(self.text):
            if self.sees("["):
                line, array = self.current_line(), self.sees("[[")
                self.position += 2 if array else 1
                table = _resolve_header(self.read_key(), counts)
                if array:
                    counts[table] = counts.get(table, -1) + 1
                    table = (*table, counts[table])
                self.keys.append((table, line))
                self.skip_line()
            else:
                self.scan_assignment(table)
            self.skip_blank()

    def scan_assignment(self, table: KeyPath) -> None:
        line, key = self.current_line(), self.read_key()
        if not key:  # not TOML
            self.skip_line()
            return
        path = (*table, *key)
        self.keys.append((path, line))
        self.position += 1  # the equals sign
        self.scan_value(path)

    def scan_value(self, path: KeyPath) -> None:
        self.skip_blank()
        if len(path) > _MAX_DEPTH:
            self.skip_value()
        elif self.sees("{"):
            self.scan_items("}", lambda index: self.scan_assignment(path))
        elif self.sees("["):
            self.scan_items("]", lambda index: self.scan_element((*path, index)))
        else:
            self.skip_scalar()

    def scan_element(self, path: KeyPath) -> None:
        self.keys.append((path, self.current_line()))
        self.scan_value(path)

    def scan_items(self, closing: str, item: Callable[[int], None]) -> None:
        self.position += 1
        self.skip_blank()
        index = 0
        while self.position < len(self.text) and not self.sees(closing):
            item(index)
            index += 1
            self.skip_blank()
            if self.sees(","):
                self.position += 1
                self.skip_blank()
        self.position += 1

    def read_key(self) -> list[str]:
        parts = []
        while match := _KEY.match(self.text, self.position):
            parts.append(_unquote(match[1]))
            self.position = match.end()
            if not self.sees("."):
                return parts
            self.position += 1
        return []

    def sees(self, mark: str) -> bool:
        return self.text.startswith(mark, self.position)

    def current_line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def skip_blank(self) -> None:
        match = _BLANK.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def skip_value(self) -> None:
        depth = 0
        while self.position < len(self.text):
            mark = self.text[self.position]
            depth += (mark in "[{") - (mark in "]}")
            if mark in "[]{},":
                self.position += 1
            else:
                self.skip_scalar()
            if depth <= 0:
                return
            self.skip_blank()

    def skip_scalar(self) -> None:
        match = _SCALAR.match(self.text, self.position)
        self.position = match.end() if match else len(self.text)

    def skip_line(self) -> None:
        end = self.text.find("\n", self.position)
        self.position = len(self.text) if end < 0 else end + 1


def _resolve_header(parts: list[str], counts: dict[KeyPath, int]) -> KeyPath:
    """Resolve a header; below an array of tables it refers to the array's last element."""
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        path = (*path, part)
        if path in counts and depth < len(parts) - 1:
            path = (*path, counts[path])
    return path


def _unquote(key: str) -> str:
    if key[0] not in "\"'":
        return key
    try:
        return next(iter(tomllib.loads(f"{key}=0")))
    except tomllib.TOMLDecodeError:  # an unknown escape
        return key
