from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftkit as package
from peftkit import cli
from peftkit.errors import RunError

Peftkit = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the runner was asked for, by a runner that does nothing."""
    asked: list[tuple[Any, ...]] = []

    def run(recipe: Any, registry: Any, *, log_level: str, resume: str | None) -> None:
        asked.append((recipe, registry, log_level, resume))

    runner = types.ModuleType("peftkit.runner")
    vars(runner)["run"] = run
    monkeypatch.setitem(sys.modules, "peftkit.runner", runner)
    return asked


def test_a_file_is_run_as_by_the_verb(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    options = ("--set", "run.seed=7", "--log-level", "info")
    assert peftkit("x.toml", *options) == peftkit("run", "x.toml", *options) == (0, "", "")
    assert runs[0] == runs[1]
    assert (runs[0][0].run.seed, runs[0][2]) == (7, "info")


def test_a_file_of_any_name_is_run(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    Path("recipe").write_bytes(Path("x.toml").read_bytes())
    assert peftkit("recipe")[0] == 0
    assert len(runs) == 1


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
        "peftkit: error: 'lisst' is neither a file nor a verb (did you mean 'list'?); verbs: run,"
    )


def test_a_wrong_recipe_is_not_run(peftkit: Peftkit, runs: list[tuple[Any, ...]]) -> None:
    code, out, err = peftkit("x.toml", "--set", "method.rank=8", "--set", "train.lr=1")
    assert (code, out, runs) == (2, "", [])
    assert err.startswith("peftkit: errors:\n--set: method.rank: unknown key; ")
    assert err.count("\n") == 3


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RunError("the model cannot be loaded"), 1, "peftkit: error: the model cannot be loaded\n"),
        (KeyboardInterrupt(), 130, "peftkit: error: interrupted\n"),
    ],
)
@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_a_run_that_fails_leaves_with_its_code_on_every_rank_and_one_of_them_says_why(
    error: BaseException, code: int, words: str, rank: str | None, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object, **options: object) -> None:
        raise error

    runner = types.ModuleType("peftkit.runner")
    vars(runner)["run"] = run
    monkeypatch.setitem(sys.modules, "peftkit.runner", runner)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert peftkit("x.toml") == (code, "", "" if rank == "1" else words)


VERBS = (
    "run, check, cost, profile, compare, advise, report, verify, watch, import, sweep, list, show, predict, merge, "
    "export, push, new, schema, task"
)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "the following arguments are required: VERB; see `peftkit --help`"),
        (
            ["lisst"],
            "'lisst' is neither a file nor a verb (did you mean 'list'?); verbs: {VERBS}",
        ),
        (
            ["RUN"],
            "'RUN' is neither a file nor a verb (did you mean 'run'?); verbs: {VERBS}",
        ),
        (
            ["zzz"],
            "'zzz' is neither a file nor a verb; verbs: {VERBS}",
        ),
        (["y.toml"], "y.toml: there is no such file (did you mean 'x.toml'?)"),
        (["./x"], "x: there is no such file (did you mean 'x.toml'?)"),
        (["."], ".: is a folder; name a recipe file in it"),
        (["check", ""], ".: is a folder; name a recipe file in it"),
        (["check"], "the following arguments are required: RECIPE; see `peftkit check --help`"),
        (["check", "x.toml", "--sett", "a=1"], "unrecognized arguments: --sett a=1; see `peftkit --help`"),
        (["check", "x.toml", "--set"], "argument --set: expected one argument; see `peftkit check --help`"),
        (["x.toml", "y.toml"], "unrecognized arguments: y.toml; see `peftkit --help`"),
        (["--verbose"], "the following arguments are required: VERB; see `peftkit --help`"),
        (["show"], "the following arguments are required: NAME; see `peftkit show --help`"),
        (["show", "lorra"], "nothing is called 'lorra' (did you mean 'lora'?); `peftkit list` shows what there is"),
        (
            ["show", "parallel_adapters"],
            "nothing is called 'parallel_adapters'; `peftkit list` shows what there is; "
            "it is in the distribution peftkit-adapters",
        ),
    ],
)
def test_wrong_arguments_are_told_in_words(
    words: list[str], error: str, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert peftkit(*words) == (2, "", f"peftkit: error: {error}\n".replace("{VERBS}", VERBS))
    monkeypatch.setenv("RANK", "1")
    assert peftkit(*words) == (2, "", "")


def test_a_wrong_choice_names_what_there_is(peftkit: Peftkit) -> None:
    code, out, err = peftkit("list", "method")
    assert (code, out) == (2, "")
    assert all(word in err for word in ("'method'", "methods", "tasks", "metrics", "meters"))


def test_check_says_what_it_has_understood(peftkit: Peftkit) -> None:
    assert peftkit("check", "x.toml") == (0, "x.toml: right (lora on wordnet_mcq, pocket-t5)\n", "")


def test_a_plugin_error_is_told_like_any_other(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit import plugins

    monkeypatch.undo()
    monkeypatch.setenv("PEFTKIT_PLUGINS", "none-such")
    code, out, err = peftkit("list")
    assert (code, out) == (2, "")
    assert err.startswith("peftkit: error: PEFTKIT_PLUGINS names what is not installed: 'none-such'; installed: ")
    assert plugins.load_registry("").entries


def test_schema_prints_json(peftkit: Peftkit) -> None:
    code, out, err = peftkit("schema")
    assert (code, err) == (0, "")
    assert "Lora" in json.loads(out)["$defs"]


def test_help_tells_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(
        f"\n    {verb} " in out
        for verb in ("run", "check", "compare", "advise", "report", "verify", "sweep", "list", "show", "schema")
    )
    assert "RECIPE" in out


LIGHT = """
import sys
from peftkit.cli import main
heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "evaluate", "wandb", "sklearn", "rich", "numpy"}
for words in (["--help"], ["list"], ["show", "lora"], ["schema"], ["check", sys.argv[1]], ["check", "none.toml"]):
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
    assert "quickstart.toml: right (lora on wordnet_mcq, pocket-t5)" in done.stdout


@pytest.mark.parametrize("verb", ["list", "schema"])  # less than a buffer, and more
def test_a_closed_pipe_is_no_error(verb: str) -> None:
    command = [sys.executable, "-m", "peftkit", verb]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
