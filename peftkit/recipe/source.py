"""Recipe files as plain data: reads TOML, follows ``extends``, lays ``--set`` over it, remembers the lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.errors import Problem, RecipeError, did_you_mean
from peftkit.recipe.positions import KeyPath, key_and_rest, positions, written

COMPONENT_TABLES = ("task", "method")
"""Tables that hold a component: a layer that names another one drops the options of the one below."""
OVERRIDE = "--set"
"""What stands in the place of a file for keys of the command line."""

_DEEPEST = 32
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key was written: a file and its line, or ``--set`` and no line."""

    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe before validation, with the origin of every key."""

    file: str
    data: dict[str, Any]
    origins: dict[KeyPath, Origin]

    def origin(self, path: Sequence[str | int]) -> Origin:
        """Where the key stands; for one that is missing, where the nearest table around it stands, or the file."""
        for depth in range(len(path), 0, -1):
            if origin := self.origins.get(tuple(path[:depth])):
                return origin
        return Origin(self.file, 1)

    def value(self, path: KeyPath) -> Any:
        """The value at a path that is there."""
        found: Any = self.data
        for part in path:
            found = found[part]
        return found


def read(path: Path, overrides: Iterable[str] = ()) -> Source:
    """The recipe at ``path`` with everything it extends, then the ``key.path=value`` overrides.

    Raises:
        RecipeError: a file cannot be read, is not TOML, extends itself, or an override has no ``=``.
    """
    source = _read(path, ())
    layers: list[Source] = []
    problems: list[Problem] = []
    for override in overrides:
        try:
            layers.append(_override(override))
        except RecipeError as error:
            problems += error.problems
    # Outer tables before what lies in them, and names first: options given beside a name are that component's.
    for layer in sorted(layers, key=lambda s: _specific(list(s.origins)[-1])):
        try:
            source = _layer(source, layer)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return source


def dotted(path: KeyPath) -> str:
    """``("metric", 0, "name")`` → ``metric[0].name``; keys that TOML wants in quotes have them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if _PLAIN_KEY.fullmatch(part) else _quoted(part)
            text += f".{key}" if text else key
    return text


def _quoted(key: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in key) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _read(path: Path, chain: tuple[Path, ...], origin: Origin | None = None) -> Source:
    text = _text(path, origin)
    resolved = path.resolve()
    if resolved in chain and origin:
        circle = " → ".join(str(p.name) for p in (*chain[chain.index(resolved) :], resolved))
        raise RecipeError([Problem(origin.file, origin.line, "extends", f"goes round in a circle: {circle}")])
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError([_syntax(str(path), text, error)]) from error
    own = Source(str(path), data, {p: Origin(str(path), line) for p, line in positions(text).items()})
    _refuse_depth(own)
    if "extends" not in data:
        return own
    base = data.pop("extends")
    here = own.origin(("extends",))
    if not isinstance(base, str) or not base:
        problem = 'must be the path of a recipe in quotes, relative to this file, such as "base.toml"'
        raise RecipeError([Problem(here.file, here.line, "extends", problem)])
    return _layer(_read(path.parent / base, (*chain, resolved), here), own)


def _text(path: Path, origin: Origin | None) -> str:
    """The file's text; where it is not there, the ``extends`` that names it is to blame."""
    raw = b""
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        byte, line = raw[error.start], raw.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 text: the byte {byte:#04x} cannot be decoded; save the file as UTF-8"
        raise RecipeError([Problem(str(path), line, "", problem)]) from error
    except FileNotFoundError:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.toml")))
        problem = f"there is no such file{near}"
    except IsADirectoryError:
        problem = "is a folder; name a recipe file in it"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {error}"
    if origin:
        raise RecipeError([Problem(origin.file, origin.line, "extends", f"{str(path)!r}: {problem}")])
    raise RecipeError([Problem(str(path), None, "", problem)])


def _syntax(file: str, text: str, error: Exception) -> Problem:
    if isinstance(error, RecursionError):
        return Problem(file, 1, "", "not valid TOML: nested too deep")
    if not isinstance(error, tomllib.TOMLDecodeError):  # Python converts no integer of so many digits
        digits = re.search(r"\d[\d_]{4000}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        return Problem(file, line, "", "not valid TOML: an integer has at most 64 bits")
    message = re.sub(r" \(at .*\)$", "", str(error))
    found = re.search(r"at line (\d+)", str(error))
    line = int(found[1]) if found else text.rstrip().count("\n") + 1
    if re.match("Cannot (overwrite|declare|mutate)", message) and (twice := _twice(text, line)):
        key, first = twice
        return Problem(file, line, key, f"is there already, since line {first}; keep one")
    shown = "".join(c if c.isprintable() else "·" for c in text.split("\n")[line - 1].strip())
    return Problem(file, line, "", f"not valid TOML: {message}" + (f", in: {shown[:60]}" if shown else ""))


def _twice(text: str, line: int) -> tuple[str, int] | None:
    """The key at the line, or the last one before it, that an earlier line has too, and that line."""
    keys = [(path, at) for path, at in written(text) if at <= line]
    if not keys:
        return None
    last = keys[-1][0]
    first = next(at for path, at in keys if path[: len(last)] == last)
    return (dotted(last), first) if first < line or len([path for path, _ in keys if path == last]) > 1 else None


def _refuse_depth(source: Source) -> None:
    def deep(value: Any, path: KeyPath) -> Iterator[KeyPath]:
        if len(path) > _DEEPEST:
            yield path
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from deep(inner, (*path, key))

    for path in deep(source.data, ()):
        origin = source.origin(path)
        raise RecipeError([Problem(origin.file, origin.line, dotted(path[:3]) + "…", "is nested too deep")])


def _override(text: str) -> Source:
    """``train.batch_size=4`` as a layer; the value is TOML, or a string where it is not."""
    keys, value = key_and_rest(text)
    if not keys:
        problem = f"{text!r} is not of the form key.path=value, such as train.batch_size=4"
        raise RecipeError([Problem(OVERRIDE, None, "", problem)])
    path: KeyPath = tuple(int(k) if re.fullmatch("[0-9]{1,9}", k) else k for k in keys)
    data: Any = value.strip()
    try:
        parsed = tomllib.loads(f"value = {data}")
        data = parsed["value"] if len(parsed) == 1 else data
    except (ValueError, RecursionError) as error:
        if data.startswith(("[", "{", '"', "'")):
            problem = f"{data!r} is not valid TOML; texts in it need quotes, which the shell must leave in place"
            raise RecipeError([Problem(OVERRIDE, None, dotted(path), problem)]) from error
    for part in reversed(path):
        data = {part: data}
    layer = Source(OVERRIDE, data, {path[:depth]: Origin(OVERRIDE, None) for depth in range(1, len(path) + 1)})
    _refuse_depth(layer)
    return layer


def _layer(below: Source, above: Source) -> Source:
    origins = dict(below.origins)
    data = _merge(below.data, above.data, (), origins)
    # What was replaced whole leaves no lines behind; what was merged keeps those of the layer below.
    return Source(above.file if above.file != OVERRIDE else below.file, data, {**origins, **above.origins})


def _merge(below: Any, above: Any, path: KeyPath, origins: dict[KeyPath, Origin]) -> Any:
    if isinstance(below, list) and isinstance(above, dict) and any(isinstance(k, int) for k in above):
        merged = list(below)
        for index, value in above.items():
            if not isinstance(index, int) or index >= len(merged):
                text = f"there is no element {index}; the list has {len(merged)}, counted from 0"
                raise RecipeError([Problem(OVERRIDE, None, dotted((*path, index)), text)])
            merged[index] = _merge(merged[index], value, (*path, index), origins)
        return merged
    if not isinstance(below, dict) or not isinstance(above, dict) or _another(path, below, above):
        for key in [k for k in origins if k[: len(path)] == path and len(k) > len(path)]:
            del origins[key]
        return _texts(above)
    table = dict(below)
    for key, value in _texts(above).items():
        # Set anew and so last: of two spellings of an option, the upper layer's wins.
        table[key] = _merge(table.pop(key), above.get(key, value), (*path, key), origins) if key in below else value
    return table


def _texts(value: Any) -> Any:
    """The value with the numbers that ``--set`` gives as keys of tables, not as places in a list, as texts."""
    return {str(k): _texts(v) for k, v in value.items()} if isinstance(value, dict) else value


def _specific(path: KeyPath) -> tuple[int, bool]:
    return len(path), path[-1] != "name"


def _another(path: KeyPath, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether the upper layer names another component than the lower, whose options would not fit it."""
    component = len(path) == 1 and path[0] in COMPONENT_TABLES
    return component and "name" in above and "name" in below and above["name"] != below["name"]
