"""Lists the environment variables that libraries read, and the keys of Accelerate's configuration file.

    python scripts/environment_names.py            # print every name with the modules that read it
    python scripts/environment_names.py --check    # fail on unknown names

Names are read from the installed sources with ``ast``; nothing is imported. A part of a name that is known only at run
time is ``*``: ``os.environ[prefix + "FORMAT"]`` with an unknown prefix is ``*FORMAT``.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = (
    "accelerate",
    "adapters",
    "datasets",
    "huggingface_hub",
    "peft",
    "safetensors",
    "tokenizers",
    "transformers",
)
TESTS = ("test_utils", "testing_utils", "testing.py")
"""Parts of paths that only a library's own tests use."""
READERS = ("getenv", "parse_flag_from_env", "parse_choice_from_env", "get_int_from_env", "get_env_var")
METHODS = ("get", "pop", "setdefault")
ARGUMENTS = ("environ", "current_env")
"""Arguments that are the environment."""
MENTIONED = re.compile("|".join((*READERS, *ARGUMENTS, "patch_environment")))
"""What a module mentions that reads or sets variables."""
CONFIGURATIONS = {"accelerate": "commands/config/config_args.py"}
"""Modules whose dataclasses are the keys of a configuration file."""


class Reader(ast.NodeVisitor):
    """Collects the names of environment variables that one module reads or sets."""

    def __init__(self, tree: ast.Module) -> None:
        self.names: set[str] = set()
        self.bodies: list[list[ast.stmt]] = [tree.body]
        self.aliases: list[set[str]] = [_aliases(tree.body)]  # those of functions too

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.bodies.append(node.body)
        self.aliases.append({a.arg for a in node.args.args if a.arg in ARGUMENTS})
        self.generic_visit(node)
        self.bodies.pop()
        self.aliases.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        on_environ = isinstance(function, ast.Attribute) and name in METHODS and self._is_environ(function.value)
        arguments = [*node.args, *(k.value for k in node.keywords if k.arg in ("key", "env_keys", "env_key"))]
        if arguments and (name in READERS or on_environ):
            self._add(arguments[0])
        elif name == "patch_environment":
            self.names |= {keyword.arg.upper() for keyword in node.keywords if keyword.arg}
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._is_environ(node.value):
            self._add(node.slice)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if isinstance(node.ops[0], ast.In | ast.NotIn) and self._is_environ(node.comparators[0]):
            self._add(node.left)
        self.generic_visit(node)

    def _is_environ(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == "environ"
        return isinstance(node, ast.Name) and (
            node.id == "environ" or any(node.id in aliases for aliases in self.aliases)
        )

    def _add(self, node: ast.AST) -> None:
        parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
        for part in parts:
            self.names |= self._texts(part)

    def _texts(self, node: ast.AST) -> set[str]:
        """The possible values of an expression, with ``*`` for parts known only at run time."""
        if isinstance(node, ast.Constant):
            return {str(node.value)}
        if isinstance(node, ast.Name):
            scopes = map(_constants, reversed(self.bodies))  # few functions read a variable
            return next((scope[node.id] for scope in scopes if node.id in scope), {"*"})
        if isinstance(node, ast.IfExp):
            return self._texts(node.body) | self._texts(node.orelse)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return {a + b for a in self._texts(node.left) for b in self._texts(node.right)}
        if isinstance(node, ast.JoinedStr):
            texts = {""}
            for value in node.values:
                inner = value.value if isinstance(value, ast.FormattedValue) else value
                texts = {a + b for a in texts for b in self._texts(inner)}
            return texts
        return {"*"}


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                targets, value = [node.target], node.value
            else:
                continue
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, value


def _constants(body: list[ast.stmt]) -> dict[str, set[str]]:
    """Names assigned to constant strings, and loop variables over lists of them."""
    constants: dict[str, set[str]] = defaultdict(set)
    for name, value in _assignments(body):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            constants[name].add(value.value)
    for statement in body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.For | ast.comprehension) or not isinstance(node.target, ast.Name):
                continue
            if isinstance(node.iter, ast.List | ast.Tuple | ast.Set):
                texts = [e.value for e in node.iter.elts if isinstance(e, ast.Constant)]
                constants[node.target.id] |= {text for text in texts if isinstance(text, str)}
    return {name: texts for name, texts in constants.items() if texts}


def _aliases(body: list[ast.stmt]) -> set[str]:
    """Names assigned to ``os.environ`` or a copy of it."""
    aliases = set()
    for name, value in _assignments(body):
        inner = value.func.value if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else value
        copied = not isinstance(value, ast.Call) or getattr(value.func, "attr", "") == "copy"
        if copied and isinstance(inner, ast.Attribute) and inner.attr == "environ":
            aliases.add(name)
    return aliases


def names_in(text: str) -> set[str]:
    """The environment variables that a module's source reads or sets."""
    tree = ast.parse(text)
    reader = Reader(tree)
    reader.visit(tree)
    return reader.names


def library_folder(library: str) -> Path | None:
    """The folder of an installed library; None if it is not installed."""
    spec = find_spec(library)
    return Path(spec.origin).parent if spec and spec.origin else None


def environment_names() -> Mapping[str, set[str]]:
    """The environment variables, with the modules that use them."""
    modules: dict[str, set[str]] = defaultdict(set)
    for library in LIBRARIES:
        folder = library_folder(library)
        for file in sorted(folder.rglob("*.py")) if folder else ():
            module = f"{library}/{file.relative_to(folder).as_posix()}"  # type: ignore[arg-type]
            text = file.read_text(encoding="utf-8")
            if any(part in module for part in TESTS) or not MENTIONED.search(text):
                continue
            for name in names_in(text):
                modules[name].add(module)
    return modules


def configuration_keys() -> Mapping[str, set[str]]:
    """The keys of configuration files, with the libraries that read them."""
    libraries: dict[str, set[str]] = defaultdict(set)
    for library, path in CONFIGURATIONS.items():
        folder = library_folder(library)
        if folder is None:
            continue
        for node in ast.walk(ast.parse((folder / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for statement in node.body:
                    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                        libraries[statement.target.id].add(library)
    return libraries


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true")
    if not options.parse_args().check:
        for users in (environment_names(), configuration_keys()):
            for name, modules in sorted(users.items()):
                print(f"{name}  {', '.join(sorted(modules))}")
        return 0
    from peftkit.distributed.environment_variables import CONFIGURATION_KEYS, rule_for

    unknown = {
        f"the variable {name}": modules for name, modules in environment_names().items() if rule_for(name) is None
    }
    unknown |= {
        f"the key {name}": modules for name, modules in configuration_keys().items() if name not in CONFIGURATION_KEYS
    }
    for name, modules in sorted(unknown.items()):
        print(
            f"{name} is not in distributed/environment_variables.py, but read by {', '.join(sorted(modules))}",
            file=sys.stderr,
        )
    return bool(unknown)


if __name__ == "__main__":
    sys.exit(main())
