"""Stages of CI: each runs once, failures and times are printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

STAGES = ["quickstart", "test", "lint", "matrix", "scaffold", "fuzz", "docs", "build"]


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with prepared environments."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import dev

    monkeypatch.setattr(dev.Environment, "prepare", lambda self: None)
    monkeypatch.setattr(dev, "chromium", lambda: "")
    monkeypatch.setattr(dev, "install_optional", lambda *packages: None)
    monkeypatch.setattr(dev, "SECONDS", {})
    return dev


def test_ci_runs_every_stage_but_the_long_ones(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def job(planned: tuple[Any, str]) -> str:
        ran.append((planned[1], planned[0].transformers))
        return ""

    monkeypatch.setitem(dev.STAGES, "quickstart", lambda environments: ran.append(("quickstart", "all")))
    monkeypatch.setattr(dev, "_job", job)
    dev.ci([dev.MAIN, dev.ADAPTERS])
    assert ran[0] == ("quickstart", "all")
    assert {stage for stage, _ in ran[-2:]} == {"docs", "build"}  # nothing runs while they write files
    assert len(ran) == len(set(ran))
    assert {stage for stage, _ in ran} == {*STAGES} == dev.STAGES.keys() - {"exhaustive", "results", "ci"}
    both = [stage for stage, line in ran if line == "4.57"]
    assert sorted(both) == ["docs", "fuzz", "matrix", "test"]
    assert {(stage, "5") for stage in both if stage != "docs"} < {*ran}
    ran.clear()
    dev.ci([dev.MAIN])
    assert {line for _, line in ran} == {"all", "5"}
    assert {stage for stage, _ in ran} == {*STAGES} - {"docs"}  # of the environment that has all plugins


def test_failing_jobs_fail_ci_and_their_output_is_printed(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = tmp_path / "dev.py"
    stand_in.write_text(
        "import os, sys\n"
        'print(sys.argv[1:], os.environ["PEFTKIT_PROCESSES"])\n'
        'sys.exit("lint" in sys.argv or sys.argv[1:] == ["fuzz", "--transformers", "4.57"])'
    )
    monkeypatch.setattr(dev, "__file__", str(stand_in))
    monkeypatch.setenv("PEFTKIT_PROCESSES", "4")
    monkeypatch.setitem(dev.STAGES, "quickstart", lambda environments: None)
    with pytest.raises(dev.StageError, match=r"^fuzz on transformers 4\.57; lint on transformers 5, see above$"):
        dev.ci([dev.MAIN, dev.ADAPTERS])
    printed = capsys.readouterr().out
    assert "['matrix', '--transformers', '5'] 2\n" in printed
    assert "build" not in printed
    assert {"test on transformers 5", "lint on transformers 5"} < dev.SECONDS.keys()
    with pytest.raises(dev.StageError, match=r"^lint on transformers 5, see above$"):
        dev.ci([dev.MAIN])


@pytest.mark.parametrize(
    ("platform", "version", "installed"),
    [
        ("linux", (3, 13), [("deepspeed", "atheris")]),
        ("linux", (3, 14), [("deepspeed",)]),
        ("darwin", (3, 13), []),
    ],
)
def test_optional_packages_are_installed_where_they_can_be(
    platform: str, version: tuple[int, int], installed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import dev

    packages: list[tuple[str, ...]] = []
    monkeypatch.setattr(dev.Environment, "install", lambda self, *names: packages.append(names))
    monkeypatch.setattr(dev, "sys", SimpleNamespace(platform=platform, version_info=version))
    dev.install_optional("deepspeed", "atheris")
    assert packages == installed


def test_the_times_of_stages_and_their_sum_are_printed(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(dev.STAGES, "lint", lambda environments: None)
    monkeypatch.setitem(dev.STAGES, "build", lambda environments: None)
    monkeypatch.setattr(sys, "argv", ["dev.py", "lint", "build"])
    dev.main()
    assert capsys.readouterr().out.splitlines()[-1] == "== lint 0 s, build 0 s; 0 s in all"


def test_temporary_files_are_deleted(dev: ModuleType) -> None:
    with dev.scratch() as folder:
        (Path(folder) / "x").touch()
    assert not Path(folder).exists()


def test_pre_commit_hooks_are_the_commands_of_lint(dev: ModuleType) -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    prefix = f"{dev.MAIN.name}/bin/"
    assert all(hook[0].startswith(prefix) for hook in hooks)
    commands = [tuple(w for w in (hook[0].removeprefix(prefix), *hook[1:]) if w != "--force-exclude") for hook in hooks]
    assert commands == [tuple(word for word in command if word != "--check") for command in dev.LINT]
