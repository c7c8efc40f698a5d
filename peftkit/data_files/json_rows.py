"""JSON and JSON Lines: an array of rows, rows below a key, columns of values, or one row a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.data_files.streams import open_text
from peftkit.errors import InputError, listed

Path = tuple[str, ...]


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"an object has the key {key!r} twice; remove one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


class Number(float):
    """A number with a point or an exponent, whose text is the one in the file: 2.50 and not 2.5."""

    literal: str

    def __new__(cls, literal: str) -> Number:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number

    def __str__(self) -> str:
        return self.literal

    __repr__ = __str__


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=Number)


def parse_json(text: str) -> Any:
    """Parses a text as JSON, with numbers that keep how they are written.

    Raises:
        ValueError: it is none, or an object in it has a key twice.
    """
    return DECODER.decode(text)


def write_json(value: Any) -> str:
    """Writes a value as JSON that ``parse_json`` gives back, with numbers as they were written."""
    if isinstance(value, Number):
        return value.literal
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {write_json(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(write_json, value))}]"
    return json.dumps(value)


def read_json_lines(file: str) -> Iterator[dict[str, Any]]:
    """Reads a JSON Lines file, in which every line that is not blank is one row.

    Args:
        file: the path. A file that holds one array of rows is read as such.

    Yields:
        The rows.

    Raises:
        InputError: a line is not a JSON object, with its number.
    """
    with open_text(file) as text:
        for number, line in enumerate(text, 1):
            if number == 1 and line.lstrip().startswith("["):
                yield from _array(_parsed(line + text.read(), file), file)
                return
            if line.strip():
                row = _parsed(line.rstrip(), file, number)
                if not isinstance(row, dict):
                    raise InputError(f'{file}, line {number}: holds {_kind(row)}; a row is an object: {{"text": …}}')
                yield row


def read_json(file: str) -> Iterator[dict[str, Any]]:
    """Reads a JSON file.

    Args:
        file: the path. It holds an array of rows, such an array below one key, lists of values by column, or as JSON
            Lines do one row a line; a single other object is one row.

    Yields:
        The rows.

    Raises:
        InputError: it holds something else, or is no JSON, with the line.
    """
    with open_text(file) as text:
        first = next((line for line in text if line.strip()), "")
        rest = text.read()
    if rest.strip() and _is_object(first):
        yield from read_json_lines(file)
        return
    if not first:
        raise InputError(f"{file}: is empty")
    with open_text(file) as text:
        held = _parsed(text.read(), file)
    if isinstance(held, list):
        yield from _array(held, file)
    elif isinstance(held, dict):
        yield from _of_object(held, file)
    else:
        raise InputError(f'{file}: holds {_kind(held)}; write an array of rows: [{{"text": …}}, …]')


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parsed(text: str, file: str, line: int | None = None) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        where = line or error.lineno
        raise InputError(f"{file}, line {where}: is not JSON: {error.msg} at column {error.colno}") from error
    except _DuplicateKeyError as error:
        place = f"{file}, line {line}" if line else file
        raise InputError(f"{place}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{file}: is nested too deeply to be rows") from error
    except ValueError as error:  # Python's limit to the digits of an integer
        raise InputError(f"{file}{f', line {line}' if line else ''}: {error}") from error


def _array(rows: Sequence[Any], file: str) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f'{file}, row {number}: holds {_kind(row)}; a row is an object: {{"text": …}}')
        yield row


def _of_object(held: Mapping[str, Any], file: str) -> Iterator[dict[str, Any]]:
    """Rows of a file that holds one object."""
    if split := _split_orient(held):
        yield from split
        return
    if columns := _columns(held):
        yield from _transposed(columns)
        return
    if held and all(key.isdecimal() and isinstance(row, dict) for key, row in held.items()):
        yield from held.values()  # pandas' orient="index"
        return
    described = {"data": held["data"]} if held.keys() == {"schema", "data"} else held  # pandas' orient="table"
    tables = list(_tables(described, ()))
    if len(tables) > 1:
        places = listed([repr(".".join(path)) for path, _ in tables])
        raise InputError(f"{file}: has rows below several keys, {places}; write each to a file of its own")
    if tables:
        yield from _array(tables[0][1], file)
    else:
        yield dict(held)


def _split_orient(held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of what pandas writes with ``orient="split"``: the columns' names apart from the cells."""
    names, cells = held.get("columns"), held.get("data")
    if not (isinstance(names, list) and isinstance(cells, list)):
        return []
    if not all(isinstance(row, list) and len(row) == len(names) for row in cells):
        return []
    return [dict(zip(map(str, names), row, strict=True)) for row in cells]


def _columns(held: Mapping[str, Any]) -> Mapping[str, Sequence[Any]] | None:
    """The lists of values by column, if that is what the object holds; pandas numbers the values by keys."""
    values = list(held.values())
    if values and all(isinstance(each, dict) and each and all(map(str.isdecimal, each)) for each in values):
        if all(each.keys() == values[0].keys() for each in values):
            return {column: list(each.values()) for column, each in held.items()}
        return None
    if not values or not all(isinstance(each, list) for each in values):
        return None
    if all(isinstance(value, dict) for each in values for value in each):
        return None  # rows below keys
    return held if len({len(each) for each in values}) == 1 and values[0] else None


def _transposed(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _tables(held: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, list[Any]]]:
    """The non-empty lists of objects below the object's keys, and of objects within it."""
    for key, value in held.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            yield (*path, key), value
        elif isinstance(value, dict):
            yield from _tables(value, (*path, key))


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    return f"the {'text' if isinstance(value, str) else 'value'} {json.dumps(value, ensure_ascii=False)[:60]}"
