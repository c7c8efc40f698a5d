"""The dependencies that each distribution declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
DISTRIBUTIONS = {"pynvml": "nvidia-ml-py"}
"""The distributions of modules that need not be installed here and have another name."""
NOT_DECLARED = {
    "pydantic_core": "pydantic requires one version of it",
    "pytest": "peftkit.testing makes test classes, which only pytest runs",
}
"""Libraries that need no declaration, and why."""


def declared(project: Path) -> set[str]:
    """The distributions in ``dependencies`` and in the extras of users; not in ``dev``."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = {name: each for name, each in table.get("optional-dependencies", {}).items() if name != "dev"}
    requirements = [*table.get("dependencies", []), *(text for each in extras.values() for text in each)]
    return {canonical(re.split(r"[^\w.-]", text)[0]) for text in requirements}


@cache
def installed_distributions() -> Mapping[str, list[str]]:
    """The distributions of each top-level module; reading them takes seconds."""
    return packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(project: Path) -> Iterator[tuple[str, str]]:
    """Yield each top-level module that a distribution's code imports, and where."""
    folder = ROOT / "peftkit" if project.parent == ROOT else project.parent
    for path in sorted(folder.rglob("*.py")):
        if {"assets", "tests", "build"} & {*path.relative_to(folder).parts}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            for name in names:
                yield name.partition(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_every_imported_library_is_declared(project: Path) -> None:
    allowed = declared(project) | declared(ROOT / "pyproject.toml")  # plugins import peftkit and what it brings
    local = {project.parent.name, canonical(project.parent.name), *(path.stem for path in project.parent.glob("*.py"))}
    local |= {path.parent.name for path in project.parent.glob("*/__init__.py")}
    installed, undeclared = installed_distributions(), {}
    for module, where in imported(project):
        if module in sys.stdlib_module_names or module in local | NOT_DECLARED.keys():
            continue
        names = installed.get(module, [DISTRIBUTIONS.get(module, module)])
        if not {canonical(name) for name in names} & allowed:
            undeclared[module] = where
    assert undeclared == {}
