"""Mutants are valid Python, and rooms and explanations refer to existing source."""

from __future__ import annotations

import ast
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

SOURCE = b'''"""Text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

__all__ = ["f"]
LIMIT = 3


class Options:
    """Text."""

    size: int = Field(default=2)


def f(items: list[int], wide: bool = False) -> str | None:
    """Text."""
    if wide and len(items) <= LIMIT:
        raise ValueError(f"{1} items, \xc3\xa9")
    for item in items:
        if item:
            continue
        print("a message")
    return min(items) or "name"
'''


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = spec_from_file_location("mutation_tests", ROOT / "scripts/mutation_tests.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutants_of_a_module(script: ModuleType) -> None:
    mutants = script.mutants_of("m.py", SOURCE)
    assert {(m.line, m.before, m.after) for m in mutants} == {
        (11, "3", "4"),
        (17, "2", "3"),
        (20, "False", "True"),
        (22, "wide and len(items) <= LIMIT", "(wide or len(items) <= LIMIT)"),
        (22, "wide and len(items) <= LIMIT", "(not (wide and len(items) <= LIMIT))"),
        (22, "len(items) <= LIMIT", "(len(items) < LIMIT)"),
        (22, "len(items) <= LIMIT", "(len(items) > LIMIT)"),
        (23, 'raise ValueError(f"{1} items, é")', "pass"),
        (25, "item", "(not item)"),
        (26, "continue", "break"),
        (27, 'print("a message")', "pass"),
        (28, 'return min(items) or "name"', "return None"),
        (28, 'min(items) or "name"', "(min(items) and 'name')"),
        (28, "min(items)", "(max(items))"),
        (28, '"name"', "'nameX'"),
    }
    trees = {ast.dump(ast.parse(mutant.apply(SOURCE))) for mutant in mutants}
    assert len(trees) == len(mutants)
    assert ast.dump(ast.parse(SOURCE)) not in trees


def test_every_mutant_of_a_room_is_valid_python(script: ModuleType) -> None:
    file = sorted(f for pattern in script.ROOMS["recipe"].source for f in ROOT.glob(pattern))[1]
    source = file.read_bytes()
    mutants = script.mutants_of(file.name, source)
    assert len(mutants) > 20
    for mutant in mutants:
        ast.parse(mutant.apply(source))


def test_tests_are_chosen_by_the_lines_they_execute(script: ModuleType) -> None:
    mutants = {m.line: m for m in script.mutants_of("m.py", SOURCE)}
    lines = {"m.py": {"11": [], "22": ["a", "b"], "23": ["b"]}}
    from mutation import processes

    baseline = processes.Baseline("key", {"a": 1.0, "b": 0.1, "c": 0.2}, lines)
    assert script.tests_for(mutants[22], baseline) == {"a", "b"}
    assert script.tests_for(mutants[23], baseline) == {"b"}
    assert script.tests_for(mutants[11], baseline) == {"a", "b", "c"}, "it runs on import"
    assert script.tests_for(mutants[27], baseline) is None, "no test executes it"


def test_rooms_and_explanations_refer_to_existing_source(script: ModuleType) -> None:
    patterns = [p for room in script.ROOMS.values() for p in (*room.source, *room.tests)]
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []
    files = [file for room in script.ROOMS.values() for pattern in room.source for file in ROOT.glob(pattern)]
    known = {
        (m.source_line, script.one_line(m.before, m.after))
        for file in files
        for m in script.mutants_of(file.name, file.read_bytes())
    }
    entries = tomllib.loads(script.EXPLANATIONS.read_text(encoding="utf-8"))["survivor"]
    assert [entry for entry in entries if (entry["source"], entry["change"]) not in known] == []
