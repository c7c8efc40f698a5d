"""Sizes and names of modules, import cycles, and the layout of tests."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import grimp
import pytest

ROOT = Path(__file__).parents[2]
CODE = ("peftkit", "plugins", "scripts", "tests")
MOST_LINES, MOST_TEST_LINES, MOST_MODULES = 400, 500, 16
SAME_KIND = {
    "methods": "the methods that a package registers",
    "parameters": "of a model",
}
"""Modules of one name that hold the same kind of thing."""
TESTS_OF_NO_MODULE = {"integration", "repository", "scripts"}
"""Folders of tests: of the whole program, of the repository, and of scripts."""


def modules(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [path for path in files if not {"assets", "build", "templates"} & {*path.relative_to(ROOT).parts}]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_module_exceeds_the_line_limit() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules(*CODE)}
    most = {path: MOST_TEST_LINES if "tests" in Path(path).parts else MOST_LINES for path in lengths}
    assert {path: length for path, length in lengths.items() if length > most[path]} == {}


def test_no_folder_exceeds_the_module_limit() -> None:
    numbers = Counter(path.parent.relative_to(ROOT) for path in modules(*CODE))
    assert {str(folder): number for folder, number in numbers.items() if number > MOST_MODULES} == {}


def test_there_are_no_import_cycles() -> None:
    graph = grimp.build_graph("peftkit", exclude_type_checking_imports=True)
    # Names of the package itself are imported lazily.
    imports = {
        module: graph.find_modules_directly_imported_by(module) - {"peftkit"} for module in graph.modules - {"peftkit"}
    }
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules


def test_module_names_are_unique() -> None:
    names: dict[str, list[str]] = {}
    for path in modules("peftkit", "plugins"):
        place = path.relative_to(ROOT)
        if path.stem not in ("__init__", "__main__") and "tests" not in place.parts and "commands" not in place.parts:
            names.setdefault(path.stem.lstrip("_"), []).append(str(place))
    twice = {name: places for name, places in names.items() if len(places) > 1 and name not in SAME_KIND}
    assert twice == {}


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in modules("peftkit"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_tests_mirror_the_source() -> None:
    wrong = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        name = path.stem.removeprefix("test_")
        if (folder.parts and folder.parts[0] in TESTS_OF_NO_MODULE) or name.startswith("registered"):
            continue
        source = ROOT / "peftkit" / folder
        if not any((source / f"{prefix}{name}.py").is_file() for prefix in ("", "_")) and name != folder.name:
            wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


def test_the_architecture_diagram_is_up_to_date() -> None:
    picture = script("architecture_picture")
    document = picture.DOCUMENT.read_text(encoding="utf-8")
    assert picture.with_picture(document) == document


@pytest.mark.parametrize("heading", ["## Packages"])
def test_the_architecture_document_describes_every_package(heading: str) -> None:
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = document.split(heading)[1].split("\n## ")[0]
    packages = {
        path.stem for path in (ROOT / "peftkit").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    missing = {
        name
        for name in packages
        if not name.startswith("__") and f"`{name}" not in section and f" {name}" not in section
    }
    assert missing == set()
