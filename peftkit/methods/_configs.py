"""What peft's own sources say of its methods: their options with types, defaults and help.

They are read and not imported, which takes seconds, so that a recipe can be checked and methods can be listed at once;
a new release of peft brings its new methods by itself.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.cache import cache_folder

LIBRARY = "peft"
ROOTS = ("PeftConfig", "PeftConfigMixin")
"""The classes whose fields every configuration has, none of which is a choice of the user's."""
FORMAT = 2
"""Of the file that keeps what was read."""

Expression = list[Any]
"""A type as JSON has it: ``["int"]``, ``["tuple", ["str"]]``, ``["either", …]``, ``["literal", "a", "b"]``, and for a
configuration inside another ``["part", module, class, options]``."""


@dataclass(frozen=True)
class Option:
    """A field of a configuration; the default is None where peft has none, or only peft can make it."""

    name: str
    type: Expression
    default: Any
    help: str


@dataclass(frozen=True)
class Configuration:
    """A method of peft, as its sources declare it."""

    name: str
    text: str
    options: tuple[Option, ...]
    quantized: bool = False
    """Whether it comes with layers for weights that bitsandbytes has quantised."""


@cache
def configurations() -> Mapping[str, Configuration]:
    """The methods that the installed peft registers, by peft's name in lower case."""
    kept = cache_folder() / f"{LIBRARY}-{version(LIBRARY)}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):  # none is kept, or it is broken: there are the sources
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if stored["of"] == _identity():
            return {name: _restored(name, **each) for name, each in stored["methods"].items()}
    found = read_sources()
    with suppress(OSError):
        methods = {
            name: {"text": c.text, "options": [asdict(o) for o in c.options], "quantized": c.quantized}
            for name, c in found.items()
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        own = kept.with_name(f".{kept.name}.{os.getpid()}")
        own.write_text(json.dumps({"of": _identity(), "methods": methods}), encoding="utf-8")
        own.replace(kept)
    return found


def read_sources() -> dict[str, Configuration]:
    """What ``configurations`` gives, read anew."""
    found = {}
    for file in sorted(_root().glob("tuners/*/__init__.py")):
        module = _module(file)
        for name, config in module.registered():
            if home := _found(module, config):
                text = _sentences(ast.get_docstring(home[1]) or "")
                quantized = file.with_name("bnb.py").is_file()
                found[name] = Configuration(name, text, tuple(_options(*home)), quantized)
    return found


def _identity() -> list[Any]:
    """What tells this reading from that of another installation, or by another version of this module."""
    digest = hashlib.sha256()
    for file in sorted(_root().rglob("*.py")):
        found = file.stat()  # nobody can set the time of its last change
        digest.update(repr((str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns)).encode())
    return [FORMAT, digest.hexdigest()]


def _restored(name: str, text: str, options: list[dict[str, Any]], quantized: bool) -> Configuration:
    return Configuration(name, text, tuple(Option(**option) for option in options), quantized)


@cache
def constants() -> Mapping[str, frozenset[str]]:
    """The tables of ``peft.utils.constants`` by name, each as its keys: of what architectures peft knows something."""
    tables: dict[str, set[str]] = {}
    for node in ast.parse((_root() / "utils" / "constants.py").read_text(encoding="utf-8")).body:
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


class _Module:
    """A source file: the classes, names and imports at its top."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.body = ast.parse(path.read_text(encoding="utf-8")).body

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.body if isinstance(node, ast.ClassDef)}

    @cached_property
    def aliases(self) -> dict[str, ast.expr]:
        return {
            node.targets[0].id: node.value
            for node in self.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    @cached_property
    def imports(self) -> dict[str, Path]:
        """The file that each name is imported from, of those of the library."""
        found: dict[str, Path] = {}
        for node in self.body:
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = node.module.split(".") if node.module else []
            if node.level:
                folder = self.path.parents[node.level - 1]
            elif parts[:1] == [LIBRARY]:
                folder, parts = _root(), parts[1:]
            else:
                continue
            target = folder.joinpath(*parts)
            file = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
            found |= {alias.asname or alias.name: file for alias in node.names}
        return found

    def registered(self) -> Iterator[tuple[str, str]]:
        """The names of methods and of the classes of their configurations that the file registers."""
        conditional = [inner for node in self.body if isinstance(node, ast.If) for inner in node.body]
        for node in (*self.body, *conditional):
            match node:
                case ast.Expr(value=ast.Call(func=ast.Name(id="register_peft_method"), keywords=keywords)):
                    given = {word.arg: word.value for word in keywords}
                    match given.get("name"), given.get("config_cls"):
                        case ast.Constant(value=str(name)), ast.Name(id=config):
                            yield name.lower(), config


def _root() -> Path:
    spec = find_spec(LIBRARY)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("peft is not installed")
    return Path(spec.submodule_search_locations[0])


@cache
def _module(path: Path) -> _Module:
    return _Module(path)


def _found(module: _Module, name: str) -> tuple[_Module, ast.ClassDef] | None:
    """Where a class that a file names is declared."""
    if name in module.classes:
        return module, module.classes[name]
    file = module.imports.get(name)
    return _found(_module(file), name) if file is not None and file.is_file() else None


def _options(module: _Module, declaration: ast.ClassDef) -> list[Option]:
    """The fields of a data class and of its bases, in the order in which dataclasses have them."""
    options: dict[str, Option] = {}
    for base in declaration.bases:
        if isinstance(base, ast.Name) and base.id not in ROOTS and (home := _found(module, base.id)):
            options |= {option.name: option for option in _options(*home)}
    for node in declaration.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            options[node.target.id] = _option(module, node.target.id, node.annotation, node.value)
    return list(options.values())


def _option(module: _Module, name: str, annotation: ast.expr, value: ast.expr | None) -> Option:
    default, text = _default(module, value), ""
    match value:
        case ast.Call(func=ast.Name(id="field"), keywords=words):
            given = {word.arg: word.value for word in words}
            default = _default(module, given.get("default"), given.get("default_factory"))
            match given.get("metadata"):
                case ast.Dict(keys=[ast.Constant(value="help"), *_], values=[help_text, *_]):
                    text = str(_literal(help_text) or "")
    return Option(name, _type(module, annotation), default, _sentences(text))


def _default(module: _Module, value: ast.expr | None, factory: ast.expr | None = None) -> Any:
    """A default as JSON has it; None where there is none, or where only peft can make it."""
    match value, factory:
        case ast.Attribute(value=ast.Name(id=owner), attr=member), _:
            return _members(module, owner).get(member)
        case None, ast.Name(id="dict"):
            return {}
        case None, ast.Name(id="list"):
            return []
    return _literal(value)


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def _members(module: _Module, name: str) -> dict[str, Any]:
    """The members of an enumeration with their values."""
    home = _found(module, name)
    if home is None or not any("Enum" in ast.unparse(base) for base in home[1].bases):
        return {}
    return {
        node.targets[0].id: _literal(node.value)
        for node in home[1].body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _type(module: _Module, node: ast.expr) -> Expression:
    """The annotation as an expression: sequences become tuples, enumerations the values of their members."""
    match node:
        case ast.Constant(value=None):
            return ["none"]
        case ast.Constant(value=str(text)):
            return _type(module, ast.parse(text, mode="eval").body)
        case ast.Name(id="int" | "float" | "bool" | "str" as simple):
            return [simple]
        case ast.Name(id="dict" | "Dict"):
            return ["dict", ["str"], ["any"]]
        case ast.Name(id="list" | "List" | "tuple" | "Tuple"):
            return ["tuple", ["any"]]
        case ast.Name(id=name) if name in module.aliases:
            return _type(module, module.aliases[name])
        case ast.Name(id=name):
            return _named(module, name)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _either([_type(module, left), _type(module, right)])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _generic(module, name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
    return ["any"]


def _generic(module: _Module, name: str, inner: list[ast.expr]) -> Expression:
    if name == "Literal":
        return ["literal", *(_literal(value) for value in inner)]
    kinds = [_type(module, each) for each in inner]
    match name.lower():
        case "optional":
            return _either([*kinds, ["none"]])
        case "union":
            return _either(kinds)
        case "list" | "sequence":
            return ["tuple", *kinds]
        case "tuple":
            return ["row", *kinds]
        case "dict":
            return ["dict", *kinds]
    return ["any"]


def _either(kinds: list[Expression]) -> Expression:
    """A union; where the allowed texts are listed, any text and any table beside them would let mistakes through."""
    flat = [each for kind in kinds for each in (kind[1:] if kind[0] == "either" else [kind])]
    heads = {kind[0] for kind in flat}
    looser = {"str"} if "literal" in heads else {"dict"} if "part" in heads else set()
    return ["either", *(kind for kind in flat if kind[0] not in looser)]


def _named(module: _Module, name: str) -> Expression:
    """The values of an enumeration, the options of a data class, anything for what is neither."""
    if members := _members(module, name):
        return ["literal", *members.values()]
    if home := _found(module, name):
        where, declaration = home
        dotted = ".".join([LIBRARY, *where.path.relative_to(_root()).with_suffix("").parts])
        return ["part", dotted, name, [asdict(option) for option in _options(where, declaration)]]
    return ["any"]


def _sentences(text: str) -> str:
    """What a docstring says before its arguments, on one line and without the markup of peft's documentation."""
    before = re.split(r"\n\s*(?:Args|Attributes|Arguments|Example)\w*:", inspect.cleandoc(text))[0]
    plain = re.sub(r"\[`?~?([^]`]+)`?\](?:\(([^)]*)\))?", lambda m: f"{m[1]} ({m[2]})" if m[2] else m[1], before)
    return " ".join(plain.replace("`", "").split())
