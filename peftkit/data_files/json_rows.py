"""Reads rows from JSON and JSON Lines files, in the layouts that pandas and ``datasets`` write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.data_files.decompressed_text import null_character_error, open_text
from peftkit.data_files.file_options import DEFAULT_OPTIONS, FileOptions
from peftkit.errors import DataError, InputError, comma_separated, did_you_mean

KeyPath = tuple[str, ...]


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"an object has the key {key!r} twice; remove one")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(next(key for key in keys if keys.count(key) > 1))
    return result


class JsonFloat(float):
    """A float that is formatted as in the file it was read from, such as ``2.50``."""

    literal: str
    """The number as written in the file."""

    def __new__(cls, literal: str) -> JsonFloat:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number

    def __str__(self) -> str:
        return self.literal

    __repr__ = __str__


DECODER = json.JSONDecoder(object_pairs_hook=_make_object, parse_float=JsonFloat)


def parse_json(text: str) -> Any:
    """Parses JSON; floats keep their original formatting (see ``JsonFloat``).

    Raises:
        ValueError: The text is not valid JSON, or an object has a key twice.
    """
    return DECODER.decode(text)


def format_json(value: Any) -> str:
    """Formats a value as JSON; the inverse of ``parse_json``."""
    if isinstance(value, JsonFloat):
        return value.literal
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {format_json(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_json, value))}]"
    return json.dumps(value)


def read_json_lines(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a JSON Lines file; blank lines are skipped.

    Args:
        file: Path of the file. It may also hold one JSON array of rows.
        options: Its encoding.

    Yields:
        The rows.

    Raises:
        InputError: A line is not a JSON object.
    """
    with open_text(file, options.encoding) as text:
        for number, line in enumerate(text, 1):
            if number == 1 and line.lstrip().startswith("["):
                yield from _check_rows(_parse(line + text.read(), file), file)
                return
            if line.strip():
                row = _parse(line.rstrip(), file, number)
                if not isinstance(row, dict):
                    raise InputError(
                        f'{file}, line {number}: holds {_describe(row)}; a row is an object: {{"text": …}}'
                    )
                yield row


def row_keys(file: str, encoding: str | None = None) -> dict[str, int]:
    """Returns the number of rows below each key of a JSON file that has rows below keys; empty for other files.

    Args:
        file: Path of the file.
        encoding: Its encoding; UTF-8 if unset.

    Raises:
        InputError: The file cannot be opened.
    """
    with open_text(file, encoding) as text:
        try:
            content = parse_json(text.read())
        except (ValueError, RecursionError):  # reported when the rows are read
            return {}
    if not isinstance(content, dict) or _split_orient(content) or _parse_columns(content):
        return {}
    return {".".join(path): len(rows) for path, rows in _find_tables(content, ())}


def read_json(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a JSON file.

    Args:
        file: Path of the file. It holds an array of rows, an array of rows below one key, an object of columns, or one
            row per line. Any other object is a single row.
        options: Its encoding, and the key of the rows.

    Yields:
        The rows.

    Raises:
        InputError: The file is not valid JSON, or has another layout.
    """
    with open_text(file, options.encoding) as text:
        first = next((line for line in text if line.strip()), "")
        rest = text.read()
    if options.field is None and rest.strip() and _is_object(first):
        yield from read_json_lines(file, options)
        return
    if not first:
        raise InputError(f"{file}: is empty")
    with open_text(file, options.encoding) as text:
        content = _parse(text.read(), file)
    if options.field is not None:
        content = _select_field(content, options.field, file)
    if isinstance(content, list):
        yield from _check_rows(content, file)
    elif isinstance(content, dict):
        yield from _rows_of_object(content, file)
    else:
        raise InputError(f'{file}: holds {_describe(content)}; write an array of rows: [{{"text": …}}, …]')


def _select_field(content: Any, field: str, file: str) -> Any:
    """Returns what is below a key of a JSON file; dots select nested keys."""
    if isinstance(content, dict) and field in content:
        return content[field]
    selected = content
    for key in field.split("."):
        if not isinstance(selected, dict) or key not in selected:
            known = list(selected) if isinstance(selected, dict) else []
            keys = f"{did_you_mean(key, known)}; keys: {comma_separated(known[:20])}" if known else ""
            raise DataError("field", f"there is no key {key!r}{keys}", file)
        selected = selected[key]
    if not isinstance(selected, list | dict):
        raise DataError("field", f"{field!r} holds {_describe(selected)}, not rows", file)
    return selected


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parse(text: str, file: str, line: int | None = None) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        number = line or error.lineno
        if "\0" in text:
            raise null_character_error(file, number, file) from error
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise InputError(f"{file}, line {number}: is not valid JSON: {reason}") from error
    except _DuplicateKeyError as error:
        location = f"{file}, line {line}" if line else file
        raise InputError(f"{location}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{file}: is nested too deeply") from error
    except ValueError as error:  # Python limits the number of digits of an integer
        location = f"{file}, line {line}" if line else file
        limit = sys.get_int_max_str_digits()
        raise InputError(
            f"{location}: has a whole number of more than {limit:,} digits; write it as a string"
        ) from error


def _check_rows(rows: Sequence[Any], file: str) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f'{file}, row {number}: holds {_describe(row)}; a row is an object: {{"text": …}}')
        yield row


def _rows_of_object(content: Mapping[str, Any], file: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file that holds one object."""
    if split := _split_orient(content):
        yield from split
        return
    if columns := _parse_columns(content):
        yield from _transpose(columns)
        return
    if content and all(key.isdecimal() and isinstance(row, dict) for key, row in content.items()):
        yield from content.values()  # pandas' orient="index"
        return
    if content.keys() == {"schema", "data"}:  # pandas' orient="table"
        content = {"data": content["data"]}
    tables = list(_find_tables(content, ()))
    if len(tables) > 1:
        paths = comma_separated([repr(".".join(path)) for path, _ in tables])
        example = ".".join(tables[0][0])
        raise InputError(f"{file}: has rows below several keys, {paths}; choose one, such as field = {example!r}")
    if tables:
        yield from _check_rows(tables[0][1], file)
    else:
        yield dict(content)


def _split_orient(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of an object that pandas wrote with ``orient="split"``; empty for other objects."""
    names, cells = content.get("columns"), content.get("data")
    if not (isinstance(names, list) and isinstance(cells, list)):
        return []
    if not all(isinstance(row, list) and len(row) == len(names) for row in cells):
        return []
    return [dict(zip(map(str, names), row, strict=True)) for row in cells]


def _parse_columns(content: Mapping[str, Any]) -> Mapping[str, Sequence[Any]] | None:
    """Returns the values by column, as lists or as pandas' objects with row numbers; None for other objects."""
    values = list(content.values())
    if values and all(isinstance(each, dict) and each and all(map(str.isdecimal, each)) for each in values):
        if all(each.keys() == values[0].keys() for each in values):
            return {column: list(each.values()) for column, each in content.items()}
        return None
    if not values or not all(isinstance(each, list) for each in values):
        return None
    if all(isinstance(value, dict) for each in values for value in each):
        return None  # rows below a key
    return content if len({len(each) for each in values}) == 1 and values[0] else None


def _transpose(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _find_tables(content: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, list[Any]]]:
    """Yields the non-empty lists of objects in an object and its nested objects, with their key paths."""
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            yield (*path, key), value
        elif isinstance(value, dict):
            yield from _find_tables(value, (*path, key))


def _describe(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    return f"the {'string' if isinstance(value, str) else 'value'} {json.dumps(value, ensure_ascii=False)[:60]}"
