"""Read the options of another library's configuration classes by parsing its sources.

Parsing takes milliseconds where importing the library takes seconds.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

TypeExpression = list[Any]
"""A type as JSON: ``["int"]``, ``["any"]``, ``["list", item]``, ``["tuple", first, second]``, ``["dict", key, value]``,
``["union", first, second]``, ``["literal", "a", "b"]``, or ``["config", module, class, options]`` for a nested
configuration."""
SIMPLE_TYPES: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "any": Any, "none": None}


@dataclass(frozen=True)
class Option:
    """A field of a configuration class.

    Attributes:
        name: The name of the field.
        type: Its type.
        default: Its default as JSON; None if it has none, or if only the library can compute it.
        help: Its description.
    """

    name: str
    type: TypeExpression
    default: Any
    help: str


class SourceLibrary:
    """The sources of an installed library.

    Args:
        name: The name of the import package.
        ignored_bases: Names of base classes whose fields are not options.
    """

    def __init__(self, name: str, ignored_bases: Sequence[str] = ()) -> None:
        self.name = name
        self.ignored_bases = frozenset(ignored_bases)
        self._modules: dict[Path, SourceModule] = {}

    @cached_property
    def folder(self) -> Path:
        """The folder of the package.

        Raises:
            ImportError: The library is not installed.
        """
        # Not importlib.util.find_spec, which returns what is in sys.modules.
        for finder in sys.meta_path:
            spec = finder.find_spec(self.name, None)
            if spec is not None and spec.submodule_search_locations:
                return Path(spec.submodule_search_locations[0])
        raise ImportError(f"{self.name} is not installed")

    def module(self, path: Path) -> SourceModule:
        """Parse a source file, once."""
        if path not in self._modules:
            self._modules[path] = SourceModule(self, path)
        return self._modules[path]


class SourceModule:
    """A parsed source file.

    Args:
        library: The library that the file is part of.
        path: The file.
    """

    def __init__(self, library: SourceLibrary, path: Path) -> None:
        self.library, self.path = library, path
        self.text = path.read_text(encoding="utf-8")
        self.body = ast.parse(self.text).body

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines of the file in UTF-8, of which syntax trees give the columns."""
        return self.text.encode().splitlines(keepends=True)

    def segment(self, node: ast.expr) -> str:
        """Return the source of an expression.

        Unlike ``ast.get_source_segment``, it does not split the whole file again, which took most of the time.
        """
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        rows = self.lines[first:last]
        rows[-1] = rows[-1][: node.end_col_offset]
        rows[0] = rows[0][node.col_offset :]
        return b"".join(rows).decode()

    @property
    def dotted_name(self) -> str:
        """The import name of the module."""
        return ".".join([self.library.name, *self.path.relative_to(self.library.folder).with_suffix("").parts])

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The top-level classes by name."""
        return {node.name: node for node in self.body if isinstance(node, ast.ClassDef)}

    @cached_property
    def assignments(self) -> dict[str, ast.expr]:
        """The top-level assignments by name."""
        return {
            node.targets[0].id: node.value
            for node in self.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    @cached_property
    def imports(self) -> dict[str, Path]:
        """The files of the library that names are imported from."""
        files: dict[str, Path] = {}
        for node in self.body:
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = node.module.split(".") if node.module else []
            if node.level:
                folder = self.path.parents[node.level - 1]
            elif parts[:1] == [self.library.name]:
                folder, parts = self.library.folder, parts[1:]
            else:
                continue
            target = folder.joinpath(*parts)
            file = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
            files |= {alias.asname or alias.name: file for alias in node.names}
        return files

    def find_class(self, name: str) -> SourceClass | None:
        """Find the class that a name refers to, following imports within the library."""
        if name in self.classes:
            return SourceClass(self, self.classes[name])
        file = self.imports.get(name)
        return self.library.module(file).find_class(name) if file is not None and file.is_file() else None


@dataclass(frozen=True)
class SourceClass:
    """A parsed class.

    Attributes:
        module: The module that declares it.
        node: Its definition.
    """

    module: SourceModule
    node: ast.ClassDef

    @property
    def docstring(self) -> str:
        """Its docstring, or an empty string."""
        return ast.get_docstring(self.node) or ""

    def bases(self) -> list[SourceClass]:
        """Return the base classes that are declared in the library and not ignored."""
        names = [base.id for base in self.node.bases if isinstance(base, ast.Name)]
        found_classes = [self.module.find_class(n) for n in names if n not in self.module.library.ignored_bases]
        return [base for base in found_classes if base is not None]

    def options(self) -> dict[str, Option]:
        """Return the fields of the class and its bases by name, in the order of dataclasses."""
        options: dict[str, Option] = {}
        for base in self.bases():
            options |= base.options()
        for node in self.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                options[node.target.id] = self._option(node.target.id, node.annotation, node.value)
        return options

    def enum_members(self) -> dict[str, Any]:
        """Return the values of an enumeration by name; empty for other classes."""
        if not any("Enum" in ast.unparse(base) for base in self.node.bases):
            return {}
        return {
            node.targets[0].id: _literal(node.value)
            for node in self.node.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }

    def _option(self, name: str, annotation: ast.expr, value: ast.expr | None) -> Option:
        default, text = self._default(value), ""
        match value:
            case ast.Call(func=ast.Name(id="field"), keywords=keywords):
                arguments = {keyword.arg: keyword.value for keyword in keywords}
                default = self._default(arguments.get("default"), arguments.get("default_factory"))
                match arguments.get("metadata"):
                    case ast.Dict(keys=[ast.Constant(value="help"), *_], values=[help_text, *_]):
                        text = _joined_text(self.module, help_text)
        return Option(name, type_expression(self.module, annotation), default, plain_summary(text))

    def _default(self, value: ast.expr | None, factory: ast.expr | None = None) -> Any:
        match value, factory:
            case ast.Attribute(value=ast.Name(id=owner), attr=member), _:
                enum = self.module.find_class(owner)
                return enum.enum_members().get(member) if enum else None
            case None, ast.Name(id="dict"):
                return {}
            case None, ast.Name(id="list"):
                return []
            case None, ast.Lambda(body=body):
                return _literal(body)
        return _literal(value)


def _joined_text(module: SourceModule, node: ast.expr) -> str:
    """Return the text of adjacent string literals, with the blanks between sentences that they lack."""
    text = str(_literal(node) or "")
    lines = io.StringIO(f"({module.segment(node) if text else None})")
    parts = [
        _string(token.string) for token in tokenize.generate_tokens(lines.readline) if token.type == tokenize.STRING
    ]
    if "".join(parts) != text:
        return text
    return reduce(lambda before, part: f"{before} {part}" if _lacks_blank(before, part) else before + part, parts, "")


def _string(literal: str) -> str:
    return str(ast.literal_eval(literal))


def _lacks_blank(before: str, after: str) -> bool:
    """Return whether a sentence or a word ends with one text and another starts with the next."""
    if not before or not after or before[-1].isspace():
        return False
    closed = before[-1] in "'\"`" and before.count(before[-1]) % 2 == 0
    in_quotes = re.search(r"(?:^|[\s(\[{,=])'[^']*$", before) and not before.endswith("'")  # no apostrophe
    return after[0].isupper() and not in_quotes and (closed or before[-1].isalnum() or before[-1] in ".,;:!?)")


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def type_expression(module: SourceModule, node: ast.expr) -> TypeExpression:
    """Convert an annotation to a type expression.

    Enumerations become literals of their values, and dataclasses nested configurations.

    Args:
        module: The module of the annotation.
        node: The annotation.
    """
    match node:
        case ast.Constant(value=None):
            return ["none"]
        case ast.Constant(value=str(text)):
            return type_expression(module, ast.parse(text, mode="eval").body)
        case ast.Name(id="int" | "float" | "bool" | "str" as simple):
            return [simple]
        case ast.Name(id="dict" | "Dict"):
            return ["dict", ["str"], ["any"]]
        case ast.Name(id="list" | "List" | "tuple" | "Tuple"):
            return ["list", ["any"]]
        case ast.Name(id=name) if name in module.assignments:
            return type_expression(module, module.assignments[name])
        case ast.Name(id=name):
            return _class_expression(module, name)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _union([type_expression(module, left), type_expression(module, right)])
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _generic(module, name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
    return ["any"]


def _generic(module: SourceModule, name: str, arguments: list[ast.expr]) -> TypeExpression:
    if name == "Literal":
        return ["literal", *(_literal(value) for value in arguments)]
    types = [type_expression(module, argument) for argument in arguments]
    match name.lower():
        case "optional":
            return _union([*types, ["none"]])
        case "union":
            return _union(types)
        case "list" | "sequence":
            return ["list", *types]
        case "tuple":
            return ["tuple", *types]
        case "dict":
            return ["dict", *types]
    return ["any"]


def _union(types: list[TypeExpression]) -> TypeExpression:
    """Build a union, without ``str`` beside literals and ``dict`` beside configurations, which would accept typos."""
    flat = [item for kind in types for item in (kind[1:] if kind[0] == "union" else [kind])]
    heads = {kind[0] for kind in flat}
    looser = {"str"} if "literal" in heads else {"dict"} if "config" in heads else set()
    return ["union", *(kind for kind in flat if kind[0] not in looser)]


def _class_expression(module: SourceModule, name: str) -> TypeExpression:
    declared = module.find_class(name)
    if declared is None:
        return ["any"]
    if members := declared.enum_members():
        return ["literal", *members.values()]
    options = [asdict(option) for option in declared.options().values()]
    return ["config", declared.module.dotted_name, name, options]


def python_type(expression: TypeExpression, build_config: Callable[[str, str, list[dict[str, Any]]], Any]) -> Any:
    """Convert a type expression to a Python type, with tuples for lists, which frozen models can hold.

    Args:
        expression: The type expression.
        build_config: Builds the type of a nested configuration from its module, its class and its options.
    """
    head, inner = expression[0], expression[1:]
    match head:
        case "literal":
            return Literal[tuple(inner)]
        case "config":
            return build_config(*inner)
        case "union" | "list" | "tuple" | "dict":
            types = [python_type(item, build_config) for item in inner]
            if head == "union":
                return reduce(or_, types)
            if head == "list":
                return tuple[types[0], ...]  # type: ignore[valid-type]
            return tuple[tuple(types)] if head == "tuple" else dict[types[0], types[1]]  # type: ignore[misc,valid-type]
    return SIMPLE_TYPES[head]


def plain_summary(docstring: str) -> str:
    """Return what a docstring says before its arguments, on one line and without markup."""
    before = re.split(r"\n\s*(?:Args|Attributes|Arguments|Example)\w*:", inspect.cleandoc(docstring))[0]
    plain = re.sub(r"\[`?~?([^]`]+)`?\](?:\(([^)]*)\))?", lambda m: f"{m[1]} ({m[2]})" if m[2] else m[1], before)
    return " ".join(plain.replace("`", "").split())


def argument_descriptions(docstring: str) -> dict[str, str]:
    """Return the descriptions in the ``Args`` section of a docstring by argument, without markup."""
    _, _, section = inspect.cleandoc(docstring).partition("Args:")
    descriptions = {}
    for entry in re.split(r"\n(?=    \w+ *\()", section):
        match = re.match(r"\s*(\w+) *\(.*?\):\s*(.*)", entry, re.DOTALL)
        if match:
            plain = re.sub(r":\w+:`([^`]*)`", r"\1", match[2]).replace("`", "")
            descriptions[match[1]] = " ".join(plain.split())
    return descriptions
