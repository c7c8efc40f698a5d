"""Runs tests on mutants, each in a fork of a process that has imported the libraries."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Room:
    source: tuple[str, ...]
    tests: tuple[str, ...]


class Selection:
    """A pytest plugin: runs the chosen tests and new ones, the fastest first, with few examples and no shrinking."""

    def __init__(self, durations: dict[str, float], chosen: set[str]) -> None:
        self.durations, self.chosen = durations, chosen

    def pytest_sessionstart(self) -> None:
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "mutation",
            settings.default,
            phases=[Phase.explicit, Phase.generate],
            max_examples=MAX_EXAMPLES,
            suppress_health_check=[HealthCheck.too_slow],  # other processes must not make a test fail
        )
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if i.nodeid in self.chosen or i.nodeid not in self.durations]
        items.sort(key=lambda item: self.durations.get(item.nodeid, 0))


class Recorder:
    """A pytest plugin: records the processor time of each test and, as coverage contexts, the lines that it executes.

    Caches are cleared before each test, so that every test that needs a line executes it. Fixtures that several tests
    share have a context of their own.
    """

    def __init__(self, coverage: Any, clear_caches: Callable[[], None]) -> None:
        self.coverage, self.clear_caches = coverage, clear_caches
        self.durations, self.failed = dict[str, float](), list[str]()
        self.context = ""

    def switch_context(self, context: str) -> None:
        self.context = context
        self.coverage.switch_context(context)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.durations[nodeid] = -time.process_time()
        self.clear_caches()
        self.switch_context(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        before = self.context
        self.switch_context(before if fixturedef.scope == "function" else SHARED)
        try:
            return (yield)
        finally:
            self.switch_context(before)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.durations[nodeid] += time.process_time()
        self.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}\n{report.longreprtext}")


def clear_caches(folder: Path, patterns: Sequence[str]) -> None:
    """Clear the caches of functions in the loaded modules of a room."""
    files = {str(file) for pattern in patterns for file in folder.glob(pattern)}
    for module in [*sys.modules.values()]:
        if getattr(module, "__file__", None) in files:
            for each in vars(module).values():
                if isinstance(each, functools._lru_cache_wrapper):
                    each.cache_clear()


FAILED_TO_FORK = 70
NO_TESTS = 5
"""The exit code of pytest if no test was selected."""
ALIVE = ("survived", "not run")
OPTIONS = ("-q", "-x", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
MAX_EXAMPLES = 50
"""Random examples of each property test."""
SHARED = "shared fixtures"
"""The coverage context of fixtures that several tests share."""


def fork(work: Callable[[], int], folder: Path, log: Path) -> int:
    """Run a function in a fork, in a copy of the repository."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = work()
    except BaseException:  # the fork must not continue as the parent
        import traceback

        traceback.print_exc()
        status = FAILED_TO_FORK
    sys.stdout.flush()
    os._exit(status)


def copy_of_repository(folder: Path) -> Path:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@dataclass
class Baseline:
    """Durations, in seconds of processor time, and coverage of a room's tests on the unchanged source."""

    key: str
    """The digest of the source and of what all tests share."""
    files: dict[str, str]
    """The digest of each test file."""
    durations: dict[str, float]
    tests_of_line: dict[str, dict[str, list[str]]]
    """By file and line. Lines on which all tests depend have none: those that run on import or in shared fixtures."""
    modules: list[str] = field(default_factory=list)
    """The imported libraries."""


def measure(room: Room, folder: Path, key: str, files: Mapping[str, str]) -> Baseline:
    """Run test files of a room once, with coverage."""
    result, log = folder / "baseline.json", folder / "baseline.log"

    def work() -> int:
        import coverage

        cover = coverage.Coverage(data_file=None, include=[str(folder / p) for p in room.source], config_file=False)
        recorder = Recorder(cover, lambda: clear_caches(folder, room.source))
        cover.start()
        selection = Selection({}, set())
        status = pytest.main([o for o in (*OPTIONS, *files) if o != "-x"], plugins=[recorder, selection])
        cover.stop()
        data = cover.get_data()
        lines = {
            Path(file).relative_to(folder).as_posix(): tests_by_line(
                data.contexts_by_lineno(file), Path(file).read_bytes()
            )
            for file in data.measured_files()
        }
        local = ("peftkit", "tests", "conftest", "test_", "__m")
        modules = [name for name in sys.modules if not name.startswith(local)]
        result.write_text(json.dumps([recorder.durations, lines, modules, recorder.failed]))
        return int(status)

    process = fork(work, folder, log)
    try:
        _, status = os.waitpid(process, 0)
    except BaseException:  # interrupted
        os.killpg(process, signal.SIGKILL)
        raise
    status = os.waitstatus_to_exitcode(status)
    if not result.is_file():
        sys.exit(f"the tests did not run:\n{log.read_text()[-3000:]}")
    durations, lines, modules, failed = json.loads(result.read_text())
    if failed or status not in (0, NO_TESTS):
        sys.exit("tests fail on the unchanged source:\n" + "\n".join([*failed, log.read_text()])[-5000:])
    return Baseline(key, {**files}, durations, lines, modules)


def tests_by_line(contexts_of_line: Mapping[int, Sequence[str]], source: bytes) -> dict[str, list[str]]:
    """The tests that execute each line; none for lines that run on import or in shared fixtures."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {line for n in functions for line in range(n.body[0].lineno, (n.end_lineno or n.lineno) + 1)}
    return {
        str(line): [each for each in contexts if each] if line in inside and SHARED not in contexts else []
        for line, contexts in contexts_of_line.items()
    }


def tests_for(mutant: Mutant, baseline: Baseline) -> set[str] | None:
    """The tests that execute a mutant's line: all if all depend on it, None if it is not executed."""
    lines = baseline.tests_of_line.get(mutant.file, {})
    hit = [lines[str(n)] for n in range(mutant.line, mutant.last_line + 1) if str(n) in lines]
    if not hit:
        return None
    return {test for tests in hit for test in tests} if all(hit) else set(baseline.durations)


def in_stages(chosen: set[str], mutant: Mutant, baseline: Baseline) -> list[set[str]]:
    """Split tests into those of the files that are most likely to kill a mutant soon, and the others.

    This saves collecting the other files. The first stage has the file that tests the mutant's module, and those that
    take less time; or only the fastest file if there is none of the module.
    """
    by_file: dict[str, set[str]] = {}
    for test in chosen:
        by_file.setdefault(test.partition("::")[0], set()).add(test)
    took = {file: sum(baseline.durations[test] for test in tests) for file, tests in by_file.items()}
    name = f"test_{Path(mutant.file).stem}.py"
    limit = next((took[file] for file in by_file if Path(file).name == name), min(took.values()))
    first = {test for file, tests in by_file.items() for test in tests if took[file] <= limit}
    return [stage for stage in (first, chosen - first) if stage]


@dataclass
class TestRun:
    """The tests of one mutant, running in a process."""

    mutant: Mutant
    source: bytes
    """The unchanged file."""
    folder: Path
    later: Sequence[set[str]]
    """Tests to run if these pass."""
    process: int
    begin: float
    limit: float


def start(
    mutant: Mutant,
    source: bytes,
    baseline: Baseline,
    stages: Sequence[set[str]],
    folder: Path,
    begin: float | None = None,
) -> TestRun:
    """Start the first stage of a mutant's tests in a copy of the repository."""
    chosen = stages[0]
    expected = sum(baseline.durations[test] for test in chosen)

    def work() -> int:
        # The time on a processor ends endless loops early, also where other processes slow down the tests.
        resource.setrlimit(resource.RLIMIT_CPU, (60 + int(3 * expected),) * 2)
        files = sorted({test.partition("::")[0] for test in chosen})
        return int(pytest.main([*OPTIONS, *files], plugins=[Selection(baseline.durations, chosen)]))

    write(folder / mutant.file, mutant.apply(source))
    now = time.monotonic()
    limit = now + 300 + 10 * expected
    process = fork(work, folder, folder / "mutant.log")
    return TestRun(mutant, source, folder, stages[1:], process, begin or now, limit)


def outcome(run: TestRun) -> str | None:
    """The outcome of the tests; None while they run."""
    done, status = os.waitpid(run.process, os.WNOHANG)
    if not done and time.monotonic() < run.limit:
        return None
    with suppress(ProcessLookupError):
        os.killpg(run.process, signal.SIGKILL)  # including processes that a test left behind
    if not done:
        os.waitpid(run.process, 0)
        return "timeout"
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return "timeout"
    if code in (FAILED_TO_FORK, -signal.SIGKILL):  # such as out of memory; no outcome of the tests
        return "error"
    return "survived" if code in (0, NO_TESTS) else "killed"


def write(file: Path, source: bytes) -> None:
    """Write a module and remove its byte code, which Python validates by seconds and size only."""
    file.write_bytes(source)
    for old in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        old.unlink()


def merge(before: Baseline, after: Baseline, files: Mapping[str, str]) -> Baseline:
    """Replace the tests of changed files in a baseline, and drop those of files that are gone."""
    kept = {file for file, key in files.items() if file not in after.files and before.files.get(file) == key}
    durations = {test: took for test, took in before.durations.items() if test.partition("::")[0] in kept}
    lines: dict[str, dict[str, list[str]]] = {}
    for file in {*before.tests_of_line, *after.tests_of_line}:
        old, new = before.tests_of_line.get(file, {}), after.tests_of_line.get(file, {})
        for line in {*old, *new}:
            tests = [test for test in old.get(line, ()) if test in durations] + new.get(line, [])
            on_all = [] in (old.get(line), new.get(line))
            if tests or on_all:
                lines.setdefault(file, {})[line] = [] if on_all else tests
    modules = [*dict.fromkeys([*before.modules, *after.modules])]
    return Baseline(after.key, {**files}, durations | after.durations, lines, modules)


def read_or_measure(room: Room, folder: Path, file: Path) -> Baseline:
    """Read the baseline, and measure the test files that have changed, or all if the source has."""
    key = digest([*room.source, "tests/*.py", "tests/**/conftest.py"])
    files = {name: digest([name]) for name in sorted(test_files(room))}
    before = Baseline(**json.loads(file.read_text())) if file.is_file() else None
    if before is not None and before.key != key:
        before = None
    if before is not None and before.files == files:
        return before
    changed = {name: files[name] for name in files if before is None or before.files.get(name) != files[name]}
    begin = time.monotonic()
    baseline = measure(room, folder, key, changed) if changed else Baseline(key, {}, {}, {})
    if before is not None:
        baseline = merge(before, baseline, files)
    file.write_text(json.dumps(asdict(baseline)))
    print(f"   {len(baseline.durations)} tests, {time.monotonic() - begin:.0f} s", flush=True)
    return baseline


def test_files(room: Room) -> set[str]:
    """The test files of a room."""
    paths = [ROOT / name for name in room.tests]
    listed = [file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
    return {file.relative_to(ROOT).as_posix() for file in listed}


@contextmanager
def ended(runs: Iterable[TestRun]) -> Iterator[None]:
    """Kill the remaining test processes when the script is interrupted."""
    try:
        yield
    finally:
        for run in runs:
            with suppress(ProcessLookupError):
                os.killpg(run.process, signal.SIGKILL)


def digest(patterns: Sequence[str]) -> str:
    result = hashlib.sha256()
    for pattern in patterns:
        for file in sorted(ROOT.glob(pattern if pattern.endswith(".py") else f"{pattern}/**/*.py")):
            result.update(file.read_bytes())
    return result.hexdigest()
