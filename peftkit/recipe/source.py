"""Recipe files as plain data: reads TOML, follows ``extends``, lays ``--set`` over it, remembers the lines."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.errors import Problem, RecipeError
from peftkit.recipe import positions

COMPONENT_TABLES = ("task", "method")
"""Tables that hold a component: a layer that names another one drops the options of the one below."""


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
    origins: dict[positions.Path, Origin]

    def origin(self, path: Sequence[str | int]) -> Origin:
        """Where the key stands; for one that is missing, where the nearest table around it stands."""
        for depth in range(len(path), 0, -1):
            if origin := self.origins.get(tuple(path[:depth])):
                return origin
        return Origin(self.file, None)


def read(path: Path, overrides: Iterable[str] = ()) -> Source:
    """The recipe at ``path`` with everything it extends, then the ``key.path=value`` overrides.

    Raises:
        RecipeError: a file cannot be read, is not TOML, extends itself, or an override has no ``=``.
    """
    source = _read(path, ())
    for override in overrides:
        source = _layer(source, _override(override))
    return source


def _read(path: Path, chain: tuple[Path, ...], origin: Origin | None = None) -> Source:
    where = origin or Origin(str(path), None)
    resolved = path.resolve()
    if resolved in chain:
        circle = " → ".join(str(p.name) for p in (*chain[chain.index(resolved) :], resolved))
        raise RecipeError([Problem(where.file, where.line, "extends", f"goes round in a circle: {circle}")])
    text = _text(path, where, "extends" if origin else "")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = re.sub(r" \(at .*\)$", "", str(error))
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        raise RecipeError([Problem(str(path), line, "", f"not valid TOML: {message}")]) from error
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        raise RecipeError([Problem(str(path), None, "", f"not valid TOML: {error}")]) from error
    origins = {p: Origin(str(path), line) for p, line in positions.positions(text).items()}
    own = Source(str(path), data, origins)
    if "extends" not in data:
        return own
    base = data.pop("extends")
    here = own.origin(("extends",))
    if not isinstance(base, str):
        text = f"must be the path of a recipe, in quotes, not {base!r}"
        raise RecipeError([Problem(here.file, here.line, "extends", text)])
    return _layer(_read(path.parent / base, (*chain, resolved), here), own)


def _text(path: Path, where: Origin, key: str) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f" (did you mean {str(path.parent / near[0])!r}?)" if near else ""
        problem = f"there is no file {str(path)!r}{hint}"
    except IsADirectoryError:
        problem = f"{str(path)!r} is a folder; name a recipe file in it"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text: byte {error.start} cannot be decoded; save the file as UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {error}"
    else:
        return text.replace("\r\n", "\n")
    raise RecipeError([Problem(where.file, where.line, key, problem)])


def _override(text: str) -> Source:
    """``train.batch_size=4`` as a layer; the value is TOML, or a string where it is not."""
    key, equals, value = text.partition("=")
    parts: list[str | int] = [int(k) if k.isdigit() else k.strip() for k in key.strip().split(".")]
    if not equals or "" in parts:
        problem = f"{text!r} is not of the form key.path=value, such as train.batch_size=4"
        raise RecipeError([Problem("--set", None, "", problem)])
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    data: Any = parsed
    for part in reversed(parts):
        data = {part: data}
    origins = {tuple(parts[:depth]): Origin("--set", None) for depth in range(1, len(parts) + 1)}
    return Source("--set", data, origins)


def _layer(below: Source, above: Source) -> Source:
    origins = dict(below.origins)
    data = _merge(below.data, above.data, (), origins)
    # What was replaced whole leaves no lines behind; what was merged keeps those of the layer below.
    return Source(above.file if above.file != "--set" else below.file, data, {**origins, **above.origins})


def _merge(below: Any, above: Any, path: positions.Path, origins: dict[positions.Path, Origin]) -> Any:
    if isinstance(below, list) and isinstance(above, dict) and any(isinstance(k, int) for k in above):
        merged = list(below)
        for index, value in above.items():
            if not isinstance(index, int) or index >= len(merged):
                text = f"there is no element {index}; the list has {len(merged)}, counted from 0"
                raise RecipeError([Problem("--set", None, ".".join(map(str, (*path, index))), text)])
            merged[index] = _merge(merged[index], value, (*path, index), origins)
        return merged
    if not isinstance(below, dict) or not isinstance(above, dict) or _another(path, below, above):
        for key in [k for k in origins if k[: len(path)] == path and len(k) > len(path)]:
            del origins[key]
        return above
    merged_table = dict(below)
    for key, value in above.items():
        known = key in below
        merged_table[key] = _merge(below[key], value, (*path, key), origins) if known else value
    return merged_table


def _another(path: positions.Path, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether the upper layer names another component than the lower, whose options would not fit it."""
    component = path[:1] and path[0] in COMPONENT_TABLES and len(path) == 1
    return bool(component) and "name" in above and above["name"] != below.get("name")
