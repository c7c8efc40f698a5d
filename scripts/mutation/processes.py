"""Runs tests on mutants, each in a fork of a process that has imported the libraries."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Room:
    source: tuple[str, ...]
    tests: tuple[str, ...]


class Selection:
    """A pytest plugin: runs the chosen tests and new ones, the fastest first, without shrinking examples."""

    def __init__(self, durations: dict[str, float], chosen: set[str]) -> None:
        self.durations, self.chosen = durations, chosen

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutation", settings.default, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if i.nodeid in self.chosen or i.nodeid not in self.durations]
        items.sort(key=lambda item: self.durations.get(item.nodeid, 0))


class Recorder:
    """A pytest plugin: records the duration of each test and, as coverage contexts, the lines that it executes."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.durations, self.failed = coverage, dict[str, float](), list[str]()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self) -> None:
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(f"{report.nodeid}\n{report.longreprtext}")


FAILED_TO_FORK = 70
ALIVE = ("survived", "not run")
OPTIONS = ("-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist")


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
    """Durations and coverage of a room's tests on the unchanged source."""

    key: str
    durations: dict[str, float]
    tests_of_line: dict[str, dict[str, list[str]]]
    """By file and line; lines that only run on import have no tests."""
    modules: list[str] = field(default_factory=list)
    """The imported libraries."""


def measure(room: Room, folder: Path, key: str) -> Baseline:
    """Run the tests of a room once, with coverage."""
    result, log = folder / "baseline.json", folder / "baseline.log"

    def work() -> int:
        import coverage
        import pytest

        cover = coverage.Coverage(data_file=None, include=[str(folder / p) for p in room.source], config_file=False)
        recorder = Recorder(cover)
        cover.start()
        selection = Selection({}, set())
        status = pytest.main([o for o in (*OPTIONS, *room.tests) if o != "-x"], plugins=[recorder, selection])
        cover.stop()
        data = cover.get_data()
        lines = {
            Path(file).relative_to(folder).as_posix(): {
                str(line): [context for context in contexts if context]
                for line, contexts in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        local = ("peftkit", "tests", "conftest", "test_", "__m")
        modules = [n for n in sys.modules if "." not in n and not n.startswith(local)]
        modules += [n for n in sys.modules if n.startswith("transformers.")]  # it imports them lazily
        result.write_text(json.dumps([recorder.durations, lines, modules, recorder.failed]))
        return int(status)

    pid = fork(work, folder, log)
    _, status = os.waitpid(pid, 0)
    if not result.is_file():
        sys.exit(f"the tests did not run:\n{log.read_text()[-3000:]}")
    durations, lines, modules, failed = json.loads(result.read_text())
    if failed or status:
        sys.exit("tests fail on the unchanged source:\n" + "\n".join([*failed, log.read_text()])[-5000:])
    return Baseline(key, durations, lines, modules)


def tests_for(mutant: Mutant, baseline: Baseline) -> set[str] | None:
    """The tests that execute a mutant's line: all if it runs on import only, None if it is not executed."""
    lines = baseline.tests_of_line.get(mutant.file, {})
    hit = [lines[str(n)] for n in range(mutant.line, mutant.last_line + 1) if str(n) in lines]
    if not hit:
        return None
    chosen = {test for tests in hit for test in tests}
    return chosen or set(baseline.durations)


@dataclass
class TestRun:
    """The tests of one mutant, running in a process."""

    mutant: Mutant
    source: bytes
    """The unchanged file."""
    folder: Path
    rest: set[str]
    """Tests to run if these pass; they may use a cached result of the line."""
    process: int
    begin: float
    limit: float


def start(
    mutant: Mutant, source: bytes, baseline: Baseline, chosen: set[str], folder: Path, begin: float | None = None
) -> TestRun:
    """Start tests of a mutant in a copy of the repository."""

    def work() -> int:
        import pytest

        files = sorted({test.partition("::")[0] for test in chosen})
        return int(pytest.main([*OPTIONS, *files], plugins=[Selection(baseline.durations, chosen)]))

    write(folder / mutant.file, mutant.apply(source))
    now = time.monotonic()
    limit = now + 60 + 10 * sum(baseline.durations[test] for test in chosen)
    rest = set(baseline.durations) - chosen if begin is None else set()
    return TestRun(mutant, source, folder, rest, fork(work, folder, folder / "mutant.log"), begin or now, limit)


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
    if code in (FAILED_TO_FORK, -signal.SIGKILL):  # such as out of memory; no outcome of the tests
        return "error"
    return "survived" if code in (0, 5) else "killed"


def write(file: Path, source: bytes) -> None:
    """Write a module and remove its byte code, which Python validates by seconds and size only."""
    file.write_bytes(source)
    for old in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        old.unlink()


def read_or_measure(room: Room, folder: Path, file: Path) -> Baseline:
    """Read the baseline, or measure it if source or tests have changed."""
    key = digest([*room.source, *room.tests, "tests/conftest.py"])
    if file.is_file():
        baseline = Baseline(**json.loads(file.read_text()))
        if baseline.key == key:
            return baseline
    begin = time.monotonic()
    baseline = measure(room, folder, key)
    file.write_text(json.dumps(asdict(baseline)))
    print(f"   {len(baseline.durations)} tests, {time.monotonic() - begin:.0f} s", flush=True)
    return baseline


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
