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

    size: Annotated[int, Field(le=9)] = Field(default=2)


@dataclass(frozen=True)
class Size:
    """Text."""

    width: Annotated[int, 5] = 7


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
        (17, "9", "10"),
        (17, "2", "3"),
        (20, "True", "False"),
        (24, "7", "8"),
        (27, "False", "True"),
        (29, "wide and len(items) <= LIMIT", "(wide or len(items) <= LIMIT)"),
        (29, "wide and len(items) <= LIMIT", "(not (wide and len(items) <= LIMIT))"),
        (29, "len(items) <= LIMIT", "(len(items) < LIMIT)"),
        (29, "len(items) <= LIMIT", "(len(items) > LIMIT)"),
        (30, 'raise ValueError(f"{1} items, é")', "pass"),
        (32, "item", "(not item)"),
        (33, "continue", "break"),
        (34, 'print("a message")', "pass"),
        (35, 'return min(items) or "name"', "return None"),
        (35, 'min(items) or "name"', "(min(items) and 'name')"),
        (35, "min(items)", "(max(items))"),
        (35, '"name"', "'nameX'"),
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
    lines = {"m.py": {"11": [], "29": ["a", "b"], "30": ["b"]}}
    from mutation import processes

    baseline = processes.Baseline("key", {}, {"a": 1.0, "b": 0.1, "c": 0.2}, lines)
    assert script.tests_for(mutants[29], baseline) == {"a", "b"}
    assert script.tests_for(mutants[30], baseline) == {"b"}
    assert script.tests_for(mutants[11], baseline) == {"a", "b", "c"}, "it runs on import"
    assert script.tests_for(mutants[34], baseline) is None, "no test executes it"


def test_the_file_of_the_module_and_quicker_ones_are_tested_first(script: ModuleType) -> None:
    [mutant, *_] = script.mutants_of("peftkit/m.py", SOURCE)
    from mutation import processes

    module, quick = {"tests/test_m.py::a"}, {"tests/test_n.py::a", "tests/test_n.py::b"}
    middle, slow = {"tests/test_o.py::a"}, {"tests/test_p.py::a"}
    durations = {**dict.fromkeys(module, 5.0), **dict.fromkeys(quick, 1.0), **dict.fromkeys(middle, 3.0)}
    baseline = processes.Baseline("key", {}, durations | dict.fromkeys(slow, 6.0), {})
    assert script.in_stages({*baseline.durations}, mutant, baseline) == [module | quick | middle, slow]
    assert script.in_stages(quick | middle | slow, mutant, baseline) == [quick, middle | slow]
    assert script.in_stages(slow, mutant, baseline) == [slow]


CACHED = """
from functools import cache

@cache
def f():
    return 3


def g():
    return 4
"""
TESTS_OF_CACHED = """
import pytest
from peftkit_room.cached import f, g

@pytest.fixture(scope="module")
def shared():
    return g()

def test_first():
    assert f() == 3

def test_second(shared):
    assert f() == 3
"""


def test_every_test_that_needs_a_line_executes_it(script: ModuleType, tmp_path: Path) -> None:
    """Results of earlier tests are not taken from caches; all tests depend on shared fixtures and on imports."""
    (tmp_path / "peftkit_room").mkdir()
    (tmp_path / "peftkit_room" / "cached.py").write_text(CACHED)
    (tmp_path / "test_cached.py").write_text(TESTS_OF_CACHED)
    from mutation import processes

    room = processes.Room(("peftkit_room/cached.py",), ("test_cached.py",))
    baseline = processes.measure(room, tmp_path, "key", {"test_cached.py": "digest"})
    names = ["test_cached.py::test_first", "test_cached.py::test_second"]
    assert sorted(baseline.durations) == names
    lines = baseline.tests_of_line["peftkit_room/cached.py"]
    assert {number: sorted(tests) for number, tests in lines.items()} == {
        "2": [],
        "4": [],
        "5": [],
        "6": names,
        "9": [],
        "10": [],
    }


def test_only_changed_test_files_are_measured_again(script: ModuleType) -> None:
    from mutation.processes import Baseline, merge

    lines = {"m.py": {"1": [], "2": ["a::x", "b::x"], "3": ["b::x"], "4": ["c::x"]}}
    before = Baseline("key", {"a": "1", "b": "1", "c": "1"}, {"a::x": 1.0, "b::x": 2.0, "c::x": 3.0}, lines, ["torch"])
    after = Baseline("key", {"b": "2"}, {"b::y": 4.0}, {"m.py": {"1": [], "2": ["b::y"], "5": ["b::y"]}}, ["numpy"])
    merged = merge(before, after, {"a": "1", "b": "2"})
    assert merged == Baseline(
        "key",
        {"a": "1", "b": "2"},
        {"a::x": 1.0, "b::y": 4.0},
        {"m.py": {"1": [], "2": ["a::x", "b::y"], "5": ["b::y"]}},
        ["torch", "numpy"],
    )


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
