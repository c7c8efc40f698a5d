"""What the adapters library's own sources say of its configurations, read without importing it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib.machinery import PathFinder
from operator import or_
from pathlib import Path
from typing import Any, Literal, get_args

ROOT = "AdapterConfig"
HIDDEN = frozenset({"architecture", "configs", "dtype", "init_weights_seed"})
"""What a configuration is and is made of, and what the recipe says elsewhere: the precision and the seed."""
NAMES: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Mapping": dict[str, float]}


@dataclass(frozen=True)
class Option:
    """A field of a configuration: its type as pydantic has it, its default, and what the docstring says of it."""

    name: str
    type: Any
    default: Any
    help: str


@cache
def options(config: str) -> Mapping[str, Option]:
    """The fields of one of the library's configurations, its bases' first; none where it is not installed."""
    declarations = _declarations()
    if config not in declarations or config == ROOT:
        return {}
    node = declarations[config]
    found: dict[str, Option] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            found |= options(base.id)
    texts = _texts(ast.get_docstring(node) or "")
    for line in node.body:
        match line:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=value) if name not in HIDDEN:
                text = texts.get(name) or (found[name].help if name in found else "")
                found[name] = Option(name, own := _type(kind), _as_float(_default(value), own), text)
    return {name: Option(o.name, o.type, o.default, texts.get(name) or o.help) for name, o in found.items()}


@cache
def _declarations() -> Mapping[str, ast.ClassDef]:
    spec = PathFinder.find_spec("adapters")  # importlib.util fails on the module that lies in sys.modules
    if spec is None or not spec.submodule_search_locations:
        return {}
    source = Path(spec.submodule_search_locations[0]) / "configuration" / "adapter_config.py"
    body = ast.parse(source.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


def _type(node: ast.expr) -> Any:
    """The annotation with tuples for lists, which a frozen model may hold."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Subscript(value=ast.Name(id="List"), slice=inner):
            return tuple[_type(inner), ...]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            each = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return Literal[tuple(ast.literal_eval(value) for value in each)]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _type(inner) | None
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=each)):
            return reduce(or_, (_type(value) for value in each))
    return Any


def _default(node: ast.expr | None) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="field"), keywords=[ast.keyword(value=ast.Lambda(body=body))]):
            return tuple(ast.literal_eval(body))
        case ast.Call(func=ast.Name(id="field")):
            return ()
        case None:
            return None
    return ast.literal_eval(node)


def _as_float(default: Any, kind: Any) -> Any:
    """A whole number as the number that the type asks for: 16 is written for 16.0."""
    return float(default) if type(default) is int and float in (kind, *get_args(kind)) else default


def _texts(docstring: str) -> dict[str, str]:
    """What a docstring of Google's form says of each argument."""
    _, _, after = inspect.cleandoc(docstring).partition("Args:")
    found = {}
    for entry in re.split(r"\n(?=    \w+ *\()", after):
        head = re.match(r"\s*(\w+) *\(.*?\):\s*(.*)", entry, re.DOTALL)
        if head:
            plain = re.sub(r":\w+:`([^`]*)`", r"\1", head[2]).replace("`", "")
            found[head[1]] = " ".join(plain.split())
    return found
