"""Mutation testing: change one expression or statement of the source at a time and see whether a test fails.

    python scripts/mutation_tests.py recipe macs statistics --sample 400 --report docs/mutation.json

Each room of ``ROOMS`` is a part of the source and the tests that have to notice a change in it. A mutant is killed if
a test fails, if a module cannot be imported, or if the tests take much longer than before. It runs only the tests that
execute its line, the fastest first, and stops at the first failure. Which tests these are is measured once, with
coverage, and measured again when source or tests change.

Every mutant is a fork of one parent process that has imported all libraries but no module of the project. Each worker
has its own copy of the repository, so that child processes of a test run the mutated source too.

Results are kept in ``--state`` after each mutant; a second call runs what is missing. ``--again`` also runs the
survivors anew, such as after adding a test. Survivors that no test should kill are explained in
``scripts/mutation_survivors.toml``, by source line and change.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXPLANATIONS = ROOT / "scripts/mutation_survivors.toml"


@dataclass(frozen=True)
class Room:
    source: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "recipe": Room(("peftkit/recipe/*.py",), ("tests/recipe",)),
    "macs": Room(
        ("peftkit/runner/ledger.py", "peftkit/runner/counter.py", "peftkit/runner/interpolation.py"),
        ("tests/runner/test_ledger.py", "tests/runner/test_interpolation.py"),
    ),
    "statistics": Room(
        ("peftkit/compare/statistics/*.py",),
        tuple(f"tests/compare/test_{name}.py" for name in ("statistics", "seeds", "pairwise", "uncertainty", "tuned")),
    ),
}

# ---------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    last_line: int
    before: str
    after: str
    start: int
    """Offsets in the file's bytes."""
    end: int
    source_line: str
    """The first line of the statement, without its indentation."""
    number: int = 0
    """Counts mutants with the same source line and change in one file."""

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.MatMult: ast.Add,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "maximum": "minimum", "minimum": "maximum"}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yields changed copies of an expression or statement."""
    match node:
        case ast.Compare(ops=operators):
            for i, operator in enumerate(operators):
                for other in COMPARISONS[type(operator)]:
                    yield changed(node, ops=[*operators[:i], other(), *operators[i + 1 :]])
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not (
            _is_text(node.left) or _is_text(node.right)
        ):
            yield changed(node, op=OPERATORS[type(operator)]())
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield changed(node, op=OPERATORS[type(operator)]())
            yield ast.Pass()
        case ast.BoolOp(op=operator):
            yield changed(node, op=ast.And() if isinstance(operator, ast.Or) else ast.Or())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if value and not any(map(str.isspace, value)):
            yield ast.Constant(f"{value}X")  # what has blanks in it is a text for people
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield changed(node, func=ast.Name(NAMES[name], ast.Load()))
        case ast.Call(func=ast.Attribute(attr=name) as function) if name in NAMES:
            yield changed(node, func=changed(function, attr=NAMES[name]))
        case ast.IfExp():
            yield changed(node, body=node.orelse, orelse=node.body)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def changed(node: ast.AST, **fields: Any) -> Any:
    result = copy.copy(node)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Returns all mutants of a file, in the order of its lines."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    result: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}

    def add(node: Any, after: ast.AST, statement: Any) -> None:
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before, text = source[start:end].decode(), ast.unparse(after)
        if isinstance(node, ast.expr):
            text = f"({text})" if not isinstance(after, ast.Constant) else text
        line = lines[statement.lineno - 1].decode().strip()
        number = seen[line, before, text] = seen.get((line, before, text), -1) + 1
        last = statement.end_lineno if not getattr(statement, "body", None) else node.end_lineno
        result.append(Mutant(file, statement.lineno, last, before, text, start, end, line, number))

    def walk(node: ast.AST, statement: ast.AST, inside_class: bool) -> None:
        for child in children(node, inside_class):
            inner = child if isinstance(child, ast.stmt) else statement
            if not _is_docstring(child):
                for after in variants(child):
                    add(child, after, inner)
                if isinstance(child, ast.If | ast.While) and not isinstance(child.test, ast.Compare | ast.UnaryOp):
                    add(child.test, ast.UnaryOp(ast.Not(), child.test), child)
                for condition in getattr(child, "ifs", []):
                    add(condition, ast.Constant(True), inner)
                walk(child, inner, isinstance(child, ast.ClassDef))

    tree = ast.parse(source)
    walk(tree, tree, inside_class=False)
    return sorted(result, key=lambda m: (m.start, m.end, m.after))


def children(node: ast.AST, inside_class: bool) -> Iterator[ast.AST]:
    """Yields the child nodes that run: no annotations outside of classes, no type-checking blocks, no ``__all__``."""
    skipped = {"returns", "annotation"} - ({"annotation"} if inside_class or _is_field(node) else set())
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in skipped:
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            yield child


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.col_offset > 0


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# ---------------------------------------------------------------- test runs in a fork


class Selection:
    """A pytest plugin: runs the chosen tests and those that are new, the fastest first, without shrinking examples."""

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
    """A pytest plugin: notes how long each test takes and, as the context of its coverage, which lines it executes."""

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


OPTIONS = ("-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist")


def fork(work: Callable[[], int], folder: Path, log: Path) -> int:
    """Runs a function in a fork whose working directory and first import folder is that copy of the repository."""
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
    except BaseException:  # the parent must not go on twice
        import traceback

        traceback.print_exc()
        status = 70
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
    """What the tests of a room do on the unchanged source."""

    key: str
    durations: dict[str, float]
    tests_of_line: dict[str, dict[str, list[str]]]
    """By file and line; tests of lines that only run on import are not listed."""
    modules: list[str] = field(default_factory=list)
    """The libraries that were imported."""


def measure(room: Room, folder: Path, key: str) -> Baseline:
    """Runs the room's tests once, with coverage."""
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
        modules += [n for n in sys.modules if n.startswith("transformers.")]  # which imports them when they are used
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
    """Returns the tests that execute a mutant's line: all if it also runs on import, None if no test executes it."""
    lines = baseline.tests_of_line.get(mutant.file, {})
    hit = [lines[str(n)] for n in range(mutant.line, mutant.last_line + 1) if str(n) in lines]
    if not hit:
        return None
    chosen = {test for tests in hit for test in tests}
    return chosen or set(baseline.durations)


def test_mutant(mutant: Mutant, baseline: Baseline, chosen: set[str], folder: Path, room: Room) -> int:
    """Starts the tests of a mutant and returns the process."""

    def work() -> int:
        import pytest

        files = sorted({test.partition("::")[0] for test in chosen})
        return int(pytest.main([*OPTIONS, *files], plugins=[Selection(baseline.durations, chosen)]))

    write(folder / mutant.file, mutant.apply((ROOT / mutant.file).read_bytes()))
    return fork(work, folder, folder / "mutant.log")


def write(file: Path, source: bytes) -> None:
    """Writes a module and removes its byte code, which is told apart by seconds and size only."""
    file.write_bytes(source)
    for old in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        old.unlink()


# ---------------------------------------------------------------- a room


def digest(patterns: Sequence[str]) -> str:
    result = hashlib.sha256()
    for pattern in patterns:
        for file in sorted(ROOT.glob(pattern if pattern.endswith(".py") else f"{pattern}/**/*.py")):
            result.update(file.read_bytes())
    return result.hexdigest()


def run_room(name: str, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    room = ROOMS[name]
    files = sorted(file.relative_to(ROOT).as_posix() for pattern in room.source for file in ROOT.glob(pattern))
    everything = [m for file in files for m in mutants_of(file, (ROOT / file).read_bytes())]
    everything = [m for m in everything if not options.only or m.file.endswith(options.only)]
    order = random.Random(f"{options.seed} {name}").sample(everything, len(everything))
    mutants = order[: options.sample]
    print(f"== {name}: {len(mutants)} of {len(everything)} mutants", flush=True)

    options.state.mkdir(parents=True, exist_ok=True)
    kept, base_file = options.state / f"{name}.jsonl", options.state / f"{name}-baseline.json"
    copies = [copy_of_repository(scratch / name / str(i)) for i in range(options.jobs)]
    key = digest([*room.source, *room.tests, "tests/conftest.py"])
    baseline = None
    if base_file.is_file():
        baseline = Baseline(**json.loads(base_file.read_text()))
    if baseline is None or baseline.key != key:
        start = time.monotonic()
        baseline = measure(room, copies[0], key)
        base_file.write_text(json.dumps(asdict(baseline)))
        print(f"   {len(baseline.durations)} tests, {time.monotonic() - start:.0f} s", flush=True)
    for module in baseline.modules:
        with suppress(Exception):
            importlib.import_module(module)

    results: dict[str, dict[str, Any]] = {}
    if kept.is_file():
        results = {row["id"]: row for row in map(json.loads, kept.read_text().splitlines())}
    identify = {m: hashlib.sha256(f"{source_digest(m.file)} {m}".encode()).hexdigest()[:16] for m in mutants}
    waiting = [
        m
        for m in mutants
        if (row := results.get(identify[m])) is None or (options.again and row["result"] in ("survived", "not run"))
    ]
    running: dict[int, tuple[Mutant, Path, float, float]] = {}
    free = list(copies)
    with kept.open("a") as output, ended(running):

        def record(mutant: Mutant, result: str, seconds: float) -> None:
            row = {"id": identify[mutant], **asdict(mutant), "result": result, "seconds": round(seconds, 2)}
            results[row["id"]] = row
            output.write(json.dumps(row) + "\n")
            output.flush()
            if result in ("survived", "not run"):
                print(f"   {result}: {mutant.file}:{mutant.line}: {one_line(mutant.before, mutant.after)}", flush=True)

        while waiting or running:
            while waiting and free:
                mutant, folder = waiting.pop(), free.pop()
                chosen = tests_for(mutant, baseline)
                if chosen is None:
                    record(mutant, "not run", 0)
                    free.append(folder)
                    continue
                expected = sum(baseline.durations[test] for test in chosen)
                now = time.monotonic()
                process = test_mutant(mutant, baseline, chosen, folder, room)
                running[process] = (mutant, folder, now, now + 60 + 5 * expected)
            time.sleep(0.02)
            for process, (mutant, folder, begin, limit) in list(running.items()):
                done, status = os.waitpid(process, os.WNOHANG)
                if not done and time.monotonic() < limit:
                    continue
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)  # also what a test has left behind
                if not done:
                    os.waitpid(process, 0)
                code = os.waitstatus_to_exitcode(status) if done else 0
                result = "timeout" if not done else "survived" if code in (0, 5) else "killed"
                write(folder / mutant.file, (ROOT / mutant.file).read_bytes())
                record(mutant, result, time.monotonic() - begin)
                del running[process]
                free.append(folder)
    return [results[identify[m]] for m in mutants]


@contextmanager
def ended(running: Iterable[int]) -> Iterator[None]:
    """Ends the test processes that are left when the script is interrupted."""
    try:
        yield
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)


def source_digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()


def one_line(before: str, after: str) -> str:
    return " ".join(f"{before} -> {after}".split())


# ---------------------------------------------------------------- report


def explanation(row: dict[str, Any], known: list[dict[str, Any]]) -> str | None:
    """Returns why no test should kill a survivor; places are source lines, since line numbers and folders change."""
    for entry in known:
        same = (entry["file"], entry["line"]) == (Path(row["file"]).name, row["source_line"])
        if (
            same
            and " ".join(row["before"].split()) == entry["before"]
            and entry.get("after", row["after"]) == row["after"]
        ):
            return str(entry["why"])
    return None


def report(rooms: dict[str, list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    known = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))["survivor"] if EXPLANATIONS.is_file() else []
    result: dict[str, Any] = {"format": 1, "seed": seed, "rooms": {}}
    for name, rows in rooms.items():
        alive = [row for row in rows if row["result"] in ("survived", "not run")]
        survivors = [
            {
                "file": row["file"],
                "line": row["line"],
                "source": row["source_line"],
                "change": one_line(row["before"], row["after"]),
                "result": row["result"],
                "explanation": explanation(row, known),
            }
            for row in sorted(alive, key=lambda r: (r["file"], r["line"]))
        ]
        killed = len(rows) - len(alive)
        result["rooms"][name] = {
            "mutants": len(rows),
            "killed": killed,
            "share": round(killed / max(len(rows), 1), 4),
            "seconds": round(sum(row["seconds"] for row in rows)),
            "survivors": survivors,
        }
        unexplained = sum(row["explanation"] is None for row in survivors)
        print(f"{name}: {killed} of {len(rows)} killed ({killed / max(len(rows), 1):.1%}), {unexplained} unexplained")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", choices=[*ROOMS], metavar="ROOM", help=", ".join(ROOMS))
    parser.add_argument("--sample", type=int, default=400, help="mutants of each room, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="(default: %(default)s)")
    parser.add_argument("--only", default="", help="only files whose path ends so")
    parser.add_argument("--again", action="store_true", help="run survivors anew")
    parser.add_argument("--state", type=Path, default=ROOT / "build/mutation", help="folder (default: build/mutation)")
    parser.add_argument("--report", type=Path, help="JSON file to write")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the copies
    with tempfile.TemporaryDirectory(prefix="peftkit-mutation-") as scratch:
        # As tests/conftest.py does, since the parent process imports libraries before it.
        os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HOME=f"{scratch}/huggingface")
        os.environ.update(TOKENIZERS_PARALLELISM="false", MPLBACKEND="agg", WANDB_MODE="offline")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        sys.dont_write_bytecode = False
        rooms = {name: run_room(name, options, Path(scratch).resolve()) for name in options.rooms}
    result = report(rooms, options.seed)
    if options.report:
        options.report.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
