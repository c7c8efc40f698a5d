"""peft's methods and their options, read from its sources and cached.

Importing peft takes seconds, and checking a recipe or listing methods must be quick. Methods of a new release of peft
need no change here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from peftkit.cache_folder import cache_folder
from peftkit.components.options.library_options import Option, SourceClass, SourceLibrary, SourceModule, plain_summary
from peftkit.errors import InputError

PEFT = SourceLibrary("peft", ignored_bases=("PeftConfig", "PeftConfigMixin"))  # their fields are set by peftkit
CACHE_FORMAT = 5
"""The version of the cache file's format."""


@dataclass(frozen=True)
class Configuration:
    """A method that peft registers.

    Attributes:
        name: The name of the method, in lower case.
        summary: The start of the docstring of its configuration class.
        options: The fields of its configuration class.
        supports_quantized_base: Whether it has layers for weights quantized by bitsandbytes.
        checked_options: Options on which the configuration class raises an exception for some values.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    supports_quantized_base: bool = False
    checked_options: tuple[str, ...] = ()


@cache
def configurations() -> Mapping[str, Configuration]:
    """Return the methods of the installed peft by name, from the cache if it is valid.

    Without a writable cache folder they are read from the sources; what needs the folder reports it.
    """
    try:
        cache_file = cache_folder() / f"{PEFT.name}-{version(PEFT.name)}.json"
    except InputError:
        return read_sources()
    with suppress(OSError, ValueError, TypeError, KeyError):  # a missing or broken cache is replaced
        stored = json.loads(cache_file.read_text(encoding="utf-8"))
        if stored["key"] == _cache_key():
            return {
                name: Configuration(
                    **fields
                    | {
                        "options": tuple(Option(**option) for option in fields["options"]),
                        "checked_options": tuple(fields["checked_options"]),
                    }
                )
                for name, fields in stored["methods"].items()
            }
    methods = read_sources()
    with suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache_file.with_name(f".{cache_file.name}.{os.getpid()}")
        fields_by_name = {name: asdict(configuration) for name, configuration in methods.items()}
        temporary.write_text(json.dumps({"key": _cache_key(), "methods": fields_by_name}), encoding="utf-8")
        temporary.replace(cache_file)
    return methods


def read_sources() -> dict[str, Configuration]:
    """Read the methods of the installed peft by name, without the cache."""
    methods = {}
    for file in sorted(PEFT.folder.glob("tuners/*/__init__.py")):
        module = PEFT.module(file)
        for name, class_name in _registered_methods(module):
            if config := module.find_class(class_name):
                options = tuple(config.options().values())
                has_quantized_layers = file.with_name("bnb.py").is_file()
                checked = tuple(sorted(config.options().keys() & _checked_names(config)))
                summary = plain_summary(config.docstring)
                methods[name] = Configuration(name, summary, options, has_quantized_layers, checked)
    return methods


def _checked_names(config: SourceClass) -> set[str]:
    """Return the attributes on which ``__post_init__`` of a class or of its bases raises an exception."""
    names: set[str] = set().union(*map(_checked_names, config.bases()))
    for function in config.node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__post_init__":
            for node in ast.walk(function):
                if isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                    names |= _attributes(node.test, skip_types=True) or _attributes(node.test)
    return names


def _attributes(test: ast.expr, *, skip_types: bool = False) -> set[str]:
    """Return the attributes of ``self`` in a condition, or only those that it does more with than test their type."""
    if skip_types and isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance":
        return set()
    if isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self":
        return {test.attr}
    return set().union(
        *(_attributes(n, skip_types=skip_types) for n in ast.iter_child_nodes(test) if isinstance(n, ast.expr))
    )


def _registered_methods(module: SourceModule) -> Iterator[tuple[str, str]]:
    """Yield the name and the configuration class of each method that a module registers."""
    conditional = [inner for node in module.body if isinstance(node, ast.If) for inner in node.body]
    for node in (*module.body, *conditional):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id="register_peft_method"), keywords=keywords)):
                arguments = {keyword.arg: keyword.value for keyword in keywords}
                match arguments.get("name"), arguments.get("config_cls"):
                    case ast.Constant(value=str(name)), ast.Name(id=class_name):
                        yield name.lower(), class_name


def _cache_key() -> list[Any]:
    """Return a value that changes with peft's files and with the format of the cache."""
    digest = hashlib.sha256()
    for file in sorted(PEFT.folder.rglob("*.py")):
        stat = file.stat()  # st_ctime_ns cannot be set by users
        digest.update(repr((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    return [CACHE_FORMAT, digest.hexdigest()]


@cache
def constants() -> Mapping[str, frozenset[str]]:
    """Return the keys of each table in ``peft.utils.constants``: the architectures that peft has defaults for."""
    tables: dict[str, set[str]] = {}
    for node in PEFT.module(PEFT.folder / "utils" / "constants.py").body:
        match node:
            case ast.Assign(targets=[ast.Name(id=table)], value=ast.Dict(keys=keys)):
                tables[table] = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
            case ast.Assign(
                targets=[ast.Name(id=table)],
                value=ast.Call(func=ast.Attribute(value=ast.Name(id=origin), attr="copy")),
            ):
                tables[table] = set(tables.get(origin, ()))
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=table), slice=ast.Constant(value=key))]):
                tables.setdefault(table, set()).add(str(key))
    return {name: frozenset(keys) for name, keys in tables.items()}
