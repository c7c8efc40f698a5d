"""Where each key of a TOML text stands: tomllib gives positions for syntax errors only."""

from __future__ import annotations

import re
import tomllib

Path = tuple[str | int, ...]

_KEY = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)\s*""")
_SKIP = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*|[\[\]{},\n]|[^\[\]{},\n\"'#]+",
    re.DOTALL,
)


def positions(text: str) -> dict[Path, int]:
    """The line, from 1, of every table and key of a text that ``tomllib`` has accepted.

    Elements of arrays of tables are counted by their index; keys inside inline tables stand at the line of
    their own.
    """
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    at = 0
    while at < len(text):
        blank = re.compile(r"(?:[\s\ufeff]|#[^\n]*)+").match(text, at)
        if blank:
            at = blank.end()
            continue
        line = text.count("\n", 0, at) + 1
        if text[at] == "[":
            array = text.startswith("[[", at)
            keys, at = _dotted(text, at + (2 if array else 1))
            table = _resolve(keys, counts)
            if array:
                counts[table] = counts.get(table, -1) + 1
                found.setdefault(table, line)
                table = (*table, counts[table])
            _note(found, table, line)
            at = _end_of_line(text, at)
        else:
            at = _pair(text, at, table, found)
    return found


def _note(found: dict[Path, int], path: Path, line: int) -> None:
    for depth in range(1, len(path) + 1):
        found.setdefault(path[:depth], line)


def _resolve(keys: list[str], counts: dict[Path, int]) -> Path:
    """A header's path; below an array of tables it means the array's last element."""
    path: Path = ()
    for depth, key in enumerate(keys):
        path = (*path, key)
        if path in counts and depth < len(keys) - 1:
            path = (*path, counts[path])
    return path


def _dotted(text: str, at: int) -> tuple[list[str], int]:
    keys = []
    while match := _KEY.match(text, at):
        raw = match[1]
        keys.append(next(iter(tomllib.loads(f"{raw}=0"))) if raw[0] in "\"'" else raw)
        at = match.end()
        if not text.startswith(".", at):
            break
        at += 1
    return keys, at


def _pair(text: str, at: int, table: Path, found: dict[Path, int]) -> int:
    """Notes one ``key = value`` and returns where it ends."""
    keys, after = _dotted(text, at)
    path = (*table, *keys)
    _note(found, path, text.count("\n", 0, at) + 1)
    if not keys:  # cannot be in an accepted text; never loop for ever on what this scanner does not know
        return _end_of_line(text, at)
    return _value(text, after + 1, path, found)


def _value(text: str, at: int, path: Path, found: dict[Path, int]) -> int:
    """Passes over a value, noting the keys of inline tables and the elements of arrays; returns its end."""
    at = _space(text, at)
    if text.startswith("{", at):
        at = _space(text, at + 1)
        while not text.startswith("}", at):
            at = _space(text, _pair(text, at, path, found))
            if text.startswith(",", at):
                at = _space(text, at + 1)
        return at + 1
    if text.startswith("[", at):
        at, index = _space(text, at + 1), 0
        while not text.startswith("]", at):
            found.setdefault((*path, index), text.count("\n", 0, at) + 1)
            at = _space(text, _value(text, at, (*path, index), found))
            index += 1
            if text.startswith(",", at):
                at = _space(text, at + 1)
        return at + 1
    match = _SKIP.match(text, at)
    return match.end() if match else len(text)


def _space(text: str, at: int) -> int:
    match = re.compile(r"(?:\s|#[^\n]*)*").match(text, at)
    return match.end() if match else at


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
