"""Errors name parameters in Python, and options on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftkit
from peftkit.cli import main
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory
from tests.compare.conftest import Plant, plant

__all__ = ["plant"]  # the fixture

RECIPE = '[run]\nname = "n"\n[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n'
SWEEP = 'name = "s"\nrecipe = "x.toml"\n[axes]\nmethod = ["lora", "ia3"]\n'


@pytest.fixture
def folder(tmp_path: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a recipe, a sweep, runs that are not comparable, and an unfinished run."""
    (tmp_path / "x.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    for method, options in (("full", {}), ("lora", {"tables": {"train": {"max_source_length": 7}}})):
        runs = plant(method, 1, [0.1, 0.5], **options).parent
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "open" / "summary.json").write_text('{"format": 1, "status": "interrupted"}', encoding="utf-8")
    runs.rename(tmp_path / "runs") if runs != tmp_path / "runs" else None
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES: dict[str, tuple[Callable[[], Any], list[str], str, str]] = {
    "override": (
        lambda: peftkit.load_recipe("x.toml", ["method.rank=4"]),
        ["check", "x.toml", "--set", "method.rank=4"],
        "overrides: method.rank: unknown key",
        "--set: method.rank: unknown key",
    ),
    "form of an override": (
        lambda: peftkit.estimate("x.toml", ["rank"]),
        ["cost", "x.toml", "--set", "rank"],
        "overrides: 'rank' is not of the form",
        "--set: 'rank' is not of the form",
    ),
    "pool": (
        lambda: peftkit.compare_runs("runs"),
        ["compare", "runs"],
        'compare them anyway with pool=["data"]',
        "compare them anyway with --pool data",
    ),
    "match": (
        lambda: peftkit.compare_runs("runs", match="size=3"),
        ["compare", "runs", "--match", "size=3"],
        'match="size=3": cannot match by',
        "--match size=3: cannot match by",
    ),
    "only": (
        lambda: peftkit.run_sweep("sweep.toml", only=["methods=lora"]),
        ["sweep", "run", "sweep.toml", "--only", "methods=lora"],
        'only=["methods=lora"]: no axis',
        "--only methods=lora: no axis",
    ),
    "resume": (
        lambda: peftkit.run("x.toml", ["method.r=3"], resume="open"),
        ["run", "x.toml", "--set", "method.r=3", "--resume", "open"],
        "run: peftkit.run('open/recipe.toml', resume='open'); to start a new run, leave out resume",
        "run: peftkit run open/recipe.toml --resume open; to start a new run, leave out --resume",
    ),
    "unfinished": (
        lambda: peftkit.load_model("open"),
        ["merge", "open", "merged"],
        "finish it with: peftkit.run('open/recipe.toml', resume='open')",
        "finish it with: peftkit run open/recipe.toml --resume open",
    ),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("call", "command", "in_python", "on_command_line"), CASES.values(), ids=CASES)
def test_an_error_names_what_the_caller_writes(
    call: Callable[[], Any],
    command: list[str],
    in_python: str,
    on_command_line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert in_python in str(caught.value)
    assert not re.search(r"(?<![\w-])--[a-z]", str(caught.value))
    assert main(command) == 2
    assert on_command_line in capsys.readouterr().err
    with pytest.raises(InputError, match=re.escape(in_python)):  # also after a command in the same process
        call()


def test_the_call_that_resumes_a_run_is_python() -> None:
    assert RunDirectory(Path("it's")).resume_command == """peftkit.run("it's/recipe.toml", resume="it's")"""
