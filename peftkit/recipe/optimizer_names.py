"""Resolves the optimizer that a recipe names and reads its arguments from its source, without importing torch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.components.options.library_options import SourceClass, SourceLibrary, python_type, type_expression
from peftkit.errors import comma_separated, did_you_mean

_BUILT_IN_OPTIMIZERS = ("adafactor", "adamw")
_UNSUPPORTED_OPTIMIZERS = {"LBFGS": "needs a closure", "SparseAdam": "takes sparse gradients only"}


def validate_optimizer_name(name: str) -> str:
    """Return why an optimizer is not available, or an empty text."""
    known = torch_optimizers()
    by_lower = {k.lower(): k for k in known}
    if name.lower() in _BUILT_IN_OPTIMIZERS or not known:
        return ""
    if name.lower() not in by_lower:
        options = [
            *_BUILT_IN_OPTIMIZERS,
            *(k for k in known if k not in _UNSUPPORTED_OPTIMIZERS and k.lower() not in _BUILT_IN_OPTIMIZERS),
        ]
        return f"no optimizer is called {name!r}; available: {comma_separated(options)}{did_you_mean(name, options)}"
    if reason := _UNSUPPORTED_OPTIMIZERS.get(by_lower[name.lower()]):
        return f"{name!r} {reason} and is not supported; use adamw"
    return ""


@cache
def torch_optimizers() -> tuple[str, ...]:
    """List the optimizers of ``torch.optim`` from its source, because importing torch is slow."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return ()
    try:
        source = (Path(spec.submodule_search_locations[0]) / "optim" / "__init__.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, SyntaxError):
        return ()
    imported = (a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names)
    return tuple(sorted({name for name in imported if name[0].isupper() and name != "Optimizer"}))


@cache
def optimizer_arguments(name: str) -> Mapping[str, Any]:
    """Read the arguments of an optimizer and their types from its source; Adafactor is that of transformers.

    Args:
        name: A name that ``validate_optimizer_name`` accepts.

    Returns:
        The types by argument, tensors apart, which a recipe cannot hold; empty if the source cannot be read.
    """
    source = _optimizer_class(name.lower())
    arguments = None if source is None else _init_arguments(source)
    if source is None or arguments is None:
        return {}
    positional = arguments.args[1:]  # without self
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return {argument.arg: _argument_type(source, argument, default) for argument, default in pairs}


def _optimizer_class(name: str) -> SourceClass | None:
    class_names = {known.lower(): known for known in torch_optimizers()}
    library, file = ("transformers", "optimization.py") if name == "adafactor" else ("torch", "optim/__init__.py")
    class_name = "Adafactor" if name == "adafactor" else class_names.get(name, "")
    source = SourceLibrary(library)
    try:
        return source.module(source.folder / file).find_class(class_name)
    except (ImportError, OSError, SyntaxError):
        return None


def _init_arguments(source: SourceClass) -> ast.arguments | None:
    for node in source.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node.args
    return None


def _argument_type(source: SourceClass, argument: ast.arg, default: ast.expr | None) -> Any:
    if argument.annotation is not None:
        annotation = _WithoutTensors().visit(argument.annotation)
        return python_type(type_expression(source.module, annotation), lambda *_: Any)
    try:
        value = None if default is None else ast.literal_eval(default)
    except ValueError:
        value = None
    return _value_type(value)


def _value_type(value: Any) -> Any:
    """Return the type of a default: numbers are floats, and None says nothing."""
    if value is None:
        return Any
    if isinstance(value, tuple):
        return tuple[tuple(map(_value_type, value))]  # type: ignore[misc]
    return type(value) if isinstance(value, bool | str) else float


class _WithoutTensors(ast.NodeTransformer):
    """Removes ``Tensor`` from the unions of an annotation: ``float | Tensor`` becomes ``float``."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        sides = [self.visit(side) for side in (node.left, node.right) if not _is_tensor(side)]
        return sides[0] if len(sides) == 1 else ast.BinOp(sides[0], node.op, sides[1])

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.Tuple([self.visit(item) for item in node.elts if not _is_tensor(item)], node.ctx)


def _is_tensor(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "Tensor"
