from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

import peftkit as package
from peftkit import plugins
from peftkit.errors import InputError, RunError, RunInterrupted
from tests.cli.conftest import Peftkit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of each call of the runner, which does nothing."""
    calls: list[tuple[Any, ...]] = []

    def run(recipe: Any, registry: Any, *, log_level: str, resume: str | None, started: float | None) -> None:
        calls.append((recipe, registry, log_level, resume))

    runner = types.ModuleType("peftkit.train.run")
    vars(runner)["run"] = run
    monkeypatch.setitem(sys.modules, "peftkit.train.run", runner)
    return calls


def test_a_file_argument_equals_the_run_command(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    options = ("--set", "run.seed=7", "--log-level", "info")
    assert peftkit("x.toml", *options) == peftkit("run", "x.toml", *options) == (0, "", "")
    assert runs[0] == runs[1]
    assert (runs[0][0].run.seed, runs[0][2]) == (7, "info")


def test_a_file_of_any_name_is_run(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    Path("recipe").write_bytes(Path("x.toml").read_bytes())
    assert peftkit("recipe")[0] == 0
    assert len(runs) == 1


def test_a_file_with_a_command_s_name_does_not_hide_the_command(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    Path("list").write_bytes(Path("x.toml").read_bytes())
    assert peftkit("list", "meters")[1].startswith("meters\n")
    assert peftkit("./list")[0] == 0
    assert len(runs) == 1


def test_ctrl_c_prints_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.toml")  # opening it blocks until there is a writer
    command = [sys.executable, "-m", "peftkit", "check", str(tmp_path / "x.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writer = _open_for_writing(tmp_path / "x.toml", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def _open_for_writing(fifo: Path, process: subprocess.Popen[str]) -> int:
    """Opens the file once the process waits for it."""
    while process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("error", [ImportError("loaded twice"), InputError("the model cannot be loaded")])
def test_an_error_that_ctrl_c_caused_is_an_interruption(
    error: Exception, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # like some libraries
            raise error from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(plugins, "load_registry", fail)
    assert peftkit("list") == (130, "", "interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_another_unexpected_error_keeps_its_traceback(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ImportError("broken")

    monkeypatch.setattr(plugins, "load_registry", fail)
    with pytest.raises(ImportError, match="broken"):
        peftkit("list")


def test_ctrl_c_during_imports_prints_one_line(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str) -> Any:
        raise KeyboardInterrupt

    dispatch = types.ModuleType("peftkit.cli.dispatch")
    vars(dispatch)["__getattr__"] = interrupt
    monkeypatch.setitem(sys.modules, "peftkit.cli.dispatch", dispatch)
    assert peftkit("list") == (130, "", "interrupted\n")


def test_python_m_peftkit_is_the_same_command() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"peftkit": "peftkit.cli:main"}
    command = [sys.executable, "-m", "peftkit"]
    assert (
        subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        == f"peftkit {package.__version__}\n"
    )
    done = subprocess.run([*command, "lisst"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "peftkit: error: 'lisst' is neither a file nor a command (did you mean 'list'?); commands: init, run,"
    )


def test_python_without_docstrings_is_refused() -> None:
    command = [sys.executable, "-OO", "-m", "peftkit", "list"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("peftkit: error: Python runs with -OO or PYTHONOPTIMIZE=2; ")
    assert done.stderr.count("\n") == 1


def test_an_invalid_recipe_is_not_run(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    code, out, err = peftkit("x.toml", "--set", "method.rank=8", "--set", "train.lr=1")
    assert (code, out, runs) == (2, "", [])
    assert err.startswith("peftkit: errors:\n--set: method.rank: unknown key; ")
    assert err.count("\n") == 3


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RunError("the model cannot be loaded"), 1, "peftkit: error: the model cannot be loaded\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (RunInterrupted("interrupted (SIGTERM), saved", 15), 143, "interrupted (SIGTERM), saved\n"),
    ],
)
@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_failure_gives_its_exit_code_on_every_rank_and_one_message(
    error: BaseException, code: int, words: str, rank: str | None, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object, **options: object) -> None:
        raise error

    runner = types.ModuleType("peftkit.train.run")
    vars(runner)["run"] = run
    monkeypatch.setitem(sys.modules, "peftkit.train.run", runner)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
    assert peftkit("x.toml") == (code, "", "" if rank == "1" else words)


COMMANDS = (
    "init, run, check, explain, cost, profile, compare, advise, report, verify, watch, serve, import, sweep, list, "
    "show, predict, eval, bench, merge, export, push, new, schema, doctor, task, completion"
)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "the following arguments are required: COMMAND; for help, run: peftkit --help"),
        (
            ["lisst"],
            "'lisst' is neither a file nor a command (did you mean 'list'?); commands: {COMMANDS}",
        ),
        (
            ["RUN"],
            "'RUN' is neither a file nor a command (did you mean 'run'?); commands: {COMMANDS}",
        ),
        (
            ["zzz"],
            "'zzz' is neither a file nor a command; commands: {COMMANDS}",
        ),
        (["y.toml"], "y.toml: file not found"),
        (["./x"], "x: file not found (did you mean 'x.toml'?)"),
        (["."], ".: is a folder; give a recipe file in it"),
        (["check", ""], ".: is a folder; give a recipe file in it"),
        (["check"], "the following arguments are required: RECIPE; for help, run: peftkit check --help"),
        (["check", "x.toml", "--sett", "a=1"], "unrecognized arguments: --sett a=1; for help, run: peftkit --help"),
        (["check", "x.toml", "--set"], "argument --set: expected one argument; for help, run: peftkit check --help"),
        (["x.toml", "y.toml"], "unrecognized arguments: y.toml; for help, run: peftkit --help"),
        (["--verbose"], "the following arguments are required: COMMAND; for help, run: peftkit --help"),
        (["show"], "the following arguments are required: NAME; for help, run: peftkit show --help"),
        (["show", "lorra"], "no component is called 'lorra' (did you mean 'lora'?); to list all, run: peftkit list"),
        (
            ["show", "parallel_adapters"],
            "no component is called 'parallel_adapters'; to list all, run: peftkit list; "
            "it is in the distribution peftkit-adapters",
        ),
    ],
)
def test_wrong_arguments_are_reported(
    words: list[str], error: str, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert peftkit(*words) == (2, "", f"peftkit: error: {error}\n".replace("{COMMANDS}", COMMANDS))
    monkeypatch.setenv("RANK", "1")  # left over from another launch
    assert peftkit(*words)[2]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert peftkit(*words) == (2, "", "")


def test_unknown_choice_lists_the_choices(peftkit: Peftkit) -> None:
    code, out, err = peftkit("list", "method")
    assert (code, out) == (2, "")
    assert all(word in err for word in ("'method'", "methods", "tasks", "metrics", "meters"))


def test_a_plugin_error_is_reported(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit import plugins

    monkeypatch.undo()
    monkeypatch.setenv("PEFTKIT_PLUGINS", "none-such")
    code, out, err = peftkit("list")
    assert (code, out) == (2, "")
    assert err.startswith("peftkit: error: PEFTKIT_PLUGINS: not installed: 'none-such'; installed: ")
    assert plugins.load_registry("").entries


LIGHT = """
import sys
from peftkit.cli import main
from peftkit.cli.commands import COMMANDS
heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "evaluate", "wandb", "sklearn", "rich", "numpy"}
for words in (["--help"], ["list"], ["show", "lora"], ["schema"], ["check", sys.argv[1]], ["check", "none.toml"],
              ["completion", "zsh"],
              *([*command.name.split(), "--help"] for command in COMMANDS)):
    try:
        main(words)
    except SystemExit:
        pass
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
"""


def test_nothing_heavy_is_imported_before_a_run() -> None:
    command = [sys.executable, "-c", LIGHT, str(ROOT / "recipes" / "quickstart.toml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quickstart.toml: OK (lora on wordnet_mcq, pocket-t5)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command_name", ["list", "schema"])  # less and more than a buffer
def test_a_closed_pipe_is_no_error(command_name: str) -> None:
    command = [sys.executable, "-m", "peftkit", command_name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
