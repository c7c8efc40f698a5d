"""Reads recipe files as plain data: TOML, ``extends``, overrides, and the location of each key."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.errors import Problem, RecipeError, similar_file
from peftkit.file_formats import migrate_recipe
from peftkit.recipe.toml_lines import KeyPath, key_lines, key_positions, split_assignment

COMPONENT_TABLES = ("task", "method")
"""Tables of a component: a layer that names another component drops the options of the layer below."""
MAX_DEPTH = 32
"""How deep tables and lists may be nested."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """Where a key is written: a file and its line, or no line for overrides and, with an empty file, for Python."""

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class MigratedKey:
    """A key of recipe format 1 and the lines that replace it."""

    location: KeyLocation
    key: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RawRecipe:
    """A recipe before validation, with the location of every key."""

    file: str
    data: dict[str, Any]
    origins: dict[KeyPath, KeyLocation]
    migrated: tuple[MigratedKey, ...] = ()
    """The keys of recipe format 1, in the order of the files."""

    def locate(self, path: Sequence[str | int]) -> KeyLocation:
        """Return the location of a key; of a missing key, that of the nearest enclosing table, or of the file."""
        for depth in range(len(path), 0, -1):
            if origin := self.origins.get(tuple(path[:depth])):
                return origin
        return KeyLocation(self.file, 1 if self.file else None)

    def value(self, path: KeyPath) -> Any:
        """Return the value of an existing key."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value


def override_file() -> str:
    """Return what stands for the file of overridden keys: ``--set``, or ``overrides`` in Python."""
    return format_argument("set")


def load_raw(path: Path, overrides: Iterable[str] = ()) -> RawRecipe:
    """Read a recipe, merge the recipes that it extends, and apply the overrides.

    Args:
        path: The TOML file.
        overrides: ``key.path=value`` texts.

    Returns:
        The merged recipe.

    Raises:
        RecipeError: A file cannot be read, is not TOML, or extends itself, or an override has no ``=``.
    """
    return _apply_overrides(_read(path, ()), overrides)


def raw_from_tables(
    tables: Mapping[str, Any], overrides: Iterable[str] = (), extends: str | Path | None = None
) -> RawRecipe:
    """Make a recipe of tables that were built in Python, as ``load_raw`` does of a file.

    Args:
        tables: The tables, with the types of TOML.
        overrides: ``key.path=value`` texts.
        extends: A recipe's file that the tables extend; None for none.

    Returns:
        The merged recipe; its keys have no location.

    Raises:
        RecipeError: The file cannot be read, or an override has no ``=``.
    """
    data = dict(tables)
    layer = RawRecipe("", data, {path: KeyLocation("", None) for path in _key_paths(data, ())})
    raw = _migrate(layer, {}) if extends is None else _merge_layers(_read(Path(extends), ()), layer)
    return _apply_overrides(raw, overrides)


def _key_paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _key_paths(inner, (*path, key))


def _apply_overrides(raw: RawRecipe, overrides: Iterable[str]) -> RawRecipe:
    layers: list[RawRecipe] = []
    problems: list[Problem] = []
    for override in overrides:
        try:
            layers.append(_copy(_parse_override(override, override_file())))
        except RecipeError as error:
            problems += error.problems
    # Tables before their keys, and names first: options beside a name belong to that component.
    for layer in sorted(layers, key=lambda layer: _specificity(list(layer.origins)[-1])):
        try:
            raw = _merge_layers(raw, layer)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return raw


def format_key(path: KeyPath) -> str:
    """Format a key as in TOML: ``("metric", 0, "name")`` → ``metric[0].name``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else _quote(part)
            text += f".{key}" if text else key
    return text


def _quote(key: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in key) + '"'


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _read(path: Path, chain: tuple[Path, ...], origin: KeyLocation | None = None) -> RawRecipe:
    text = _read_text(path, origin)
    resolved = path.resolve()
    if resolved in chain and origin:
        cycle = " → ".join(str(p.name) for p in (*chain[chain.index(resolved) :], resolved))
        raise RecipeError([Problem(origin.file, origin.line, "extends", f"is circular: {cycle}")])
    layer = _copy(_parse_file(str(path), text))
    if "extends" not in layer.data:
        return _migrate(layer, {})
    base = layer.data.pop("extends")
    location = layer.locate(("extends",))
    if not isinstance(base, str) or not base:
        problem = 'must be the path of a recipe in quotes, relative to this file, such as "base.toml"'
        raise RecipeError([Problem(location.file, location.line, "extends", problem)])
    return _merge_layers(_read(path.parent / base, (*chain, resolved), location), layer)


@lru_cache(maxsize=64)  # a sweep reads its base recipe for every point
def _parse_file(file: str, text: str) -> RawRecipe:
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError([_syntax_problem(file, text, error)]) from error
    layer = RawRecipe(file, data, {path: KeyLocation(file, line) for path, line in key_positions(text).items()})
    _check_depth(layer)
    return layer


def _copy(layer: RawRecipe) -> RawRecipe:
    """Copy a parsed layer, as the data of a recipe are changed while it is validated."""
    return replace(layer, data=copy.deepcopy(layer.data), origins=dict(layer.origins))


def _read_text(path: Path, origin: KeyLocation | None) -> str:
    """Read a file; if it cannot be read, the error is located at the ``extends`` that names it."""
    content = b""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        byte, line = content[error.start], content.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8: the byte {byte:#04x} cannot be decoded; save the file as UTF-8"
        raise RecipeError([Problem(str(path), line, "", problem)]) from error
    except FileNotFoundError:
        near = similar_file(path.name, [p.name for p in path.parent.glob("*.toml")])
        problem = f"file not found{near}"
    except IsADirectoryError:
        problem = "is a folder; give a recipe file in it"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {error}"
    if origin:
        raise RecipeError([Problem(origin.file, origin.line, "extends", f"{str(path)!r}: {problem}")])
    raise RecipeError([Problem(str(path), None, "", problem)])


def _syntax_problem(file: str, text: str, error: Exception) -> Problem:
    if isinstance(error, RecursionError):
        return Problem(file, 1, "", "not valid TOML: nested too deep")
    if not isinstance(error, tomllib.TOMLDecodeError):  # integers beyond the limit of digits that Python converts
        digits = re.search(r"\d[\d_]{4000}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        return Problem(file, line, "", "not valid TOML: an integer has at most 64 bits")
    message = re.sub(r" \(at .*\)$", "", str(error))
    location = re.search(r"at line (\d+)", str(error))
    line = int(location[1]) if location else text.rstrip().count("\n") + 1
    if re.match("Cannot (overwrite|declare|mutate)", message) and (duplicate := _find_duplicate(text, line)):
        key, first = duplicate
        return Problem(file, line, key, f"is already set in line {first}; keep one")
    excerpt = "".join(c if c.isprintable() else "·" for c in text.split("\n")[line - 1].strip())
    return Problem(file, line, "", f"not valid TOML: {message}" + (f", in: {excerpt[:60]}" if excerpt else ""))


def _find_duplicate(text: str, line: int) -> tuple[str, int] | None:
    """Return the last key up to a line if an earlier line has it too, and the earlier line."""
    keys = [(path, at) for path, at in key_lines(text) if at <= line]
    if not keys:
        return None
    last = keys[-1][0]
    first = next(at for path, at in keys if path[: len(last)] == last)
    return (format_key(last), first) if first < line or len([path for path, _ in keys if path == last]) > 1 else None


def _check_depth(raw: RawRecipe) -> None:
    def deep(value: Any, path: KeyPath) -> Iterator[KeyPath]:
        if len(path) > MAX_DEPTH:
            yield path
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from deep(inner, (*path, key))

    for path in deep(raw.data, ()):
        location = raw.locate(path)
        raise RecipeError([Problem(location.file, location.line, format_key(path[:3]) + "…", "is nested too deep")])


@lru_cache(maxsize=4096)  # a sweep has few values on each axis, and many points
def _parse_override(text: str, file: str) -> RawRecipe:
    """Parse ``train.batch_size=4``; a value that is not TOML is a string."""
    keys, value = split_assignment(text)
    if not keys:
        problem = f"{text!r} is not of the form key.path=value, such as train.batch_size=4"
        raise RecipeError([Problem(file, None, "", problem)])
    path: KeyPath = tuple(int(k) if re.fullmatch("[0-9]{1,9}", k) else k for k in keys)
    data: Any = value.strip()
    try:
        parsed = tomllib.loads(f"value = {data}")
        data = parsed["value"] if len(parsed) == 1 else data
    except (ValueError, RecursionError) as error:
        if data.startswith(("[", "{", '"', "'")):
            problem = f"{data!r} is not valid TOML; quote strings, and quote the whole argument for the shell"
            raise RecipeError([Problem(file, None, format_key(path), problem)]) from error
    for part in reversed(path):
        data = {part: data}
    location = KeyLocation(file, None)
    layer = RawRecipe(file, data, {path[:depth]: location for depth in range(1, len(path) + 1)})
    _check_depth(layer)
    return layer


def _merge_layers(below: RawRecipe, above: RawRecipe) -> RawRecipe:
    above = _migrate(above, below.data)
    origins = dict(below.origins)
    data = _merge_values(below.data, above.data, (), origins)
    file = above.file if above.file != override_file() else below.file
    return RawRecipe(file, data, {**origins, **above.origins}, below.migrated + above.migrated)


def _migrate(layer: RawRecipe, base: Mapping[str, Any]) -> RawRecipe:
    """Replace the keys of recipe format 1; a new key is located where the old one is written."""
    data, renamed = migrate_recipe(layer.data, base)
    if data == layer.data:
        return layer
    raw = RawRecipe(layer.file, data, dict(layer.origins))
    keys: list[MigratedKey] = []
    for old, replacements in renamed.items():
        location = layer.locate(old)
        raw.origins.pop(old, None)
        for new in replacements:
            raw.origins.update({new[:depth]: location for depth in range(2, len(new) + 1)})
        lines = tuple(f"{format_key(new)} = {json.dumps(raw.value(new))}" for new in replacements)
        keys.append(MigratedKey(location, format_key(old), lines))
    return replace(raw, migrated=tuple(keys))


def _merge_values(below: Any, above: Any, path: KeyPath, origins: dict[KeyPath, KeyLocation]) -> Any:
    if isinstance(below, list) and isinstance(above, dict) and any(isinstance(k, int) for k in above):
        merged = list(below)
        for index, value in above.items():
            if not isinstance(index, int) or index >= len(merged):
                text = f"element {index} does not exist; the list has {len(merged)}, counted from 0"
                raise RecipeError([Problem(override_file(), None, format_key((*path, index)), text)])
            merged[index] = _merge_values(merged[index], value, (*path, index), origins)
        return merged
    if not isinstance(below, dict) or not isinstance(above, dict) or _names_another(path, below, above):
        for key in [k for k in origins if k[: len(path)] == path and len(k) > len(path)]:
            del origins[key]
        return _keys_to_text(above)
    table = dict(below)
    for key, value in _keys_to_text(above).items():
        # Insert last: of two aliases of an option, the upper layer's wins.
        table[key] = (
            _merge_values(table.pop(key), above.get(key, value), (*path, key), origins) if key in below else value
        )
    return table


def _keys_to_text(value: Any) -> Any:
    """Convert integer keys of overrides, which may be indices of lists, to keys of tables."""
    return {str(k): _keys_to_text(v) for k, v in value.items()} if isinstance(value, dict) else value


def _specificity(path: KeyPath) -> tuple[int, bool]:
    return len(path), path[-1] != "name"


def _names_another(path: KeyPath, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether the upper layer names another component, to which the options of the lower do not apply."""
    component = len(path) == 1 and path[0] in COMPONENT_TABLES
    return component and "name" in above and "name" in below and above["name"] != below["name"]
