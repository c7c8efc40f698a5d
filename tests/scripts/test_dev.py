"""Stages of CI: each runs once, failures and times are printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]

STAGES = ["quickstart", "test", "lint", "matrix", "scaffold", "fuzz", "build"]


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with prepared environments."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import dev

    monkeypatch.setattr(dev.Environment, "prepare", lambda self: None)
    monkeypatch.setattr(dev, "chromium", lambda: "")
    monkeypatch.setattr(dev, "SECONDS", {})
    return dev


def test_ci_runs_every_stage_but_results(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []

    def lane(environment: object, stages: tuple[str, ...]) -> str:
        ran.extend((stage, environment.transformers) for stage in stages)  # type: ignore[attr-defined]
        return ""

    for name in ("quickstart", "test"):
        monkeypatch.setitem(dev.STAGES, name, lambda environments, name=name: ran.append((name, "all")))
    monkeypatch.setattr(dev, "_lane", lane)
    dev.ci([dev.MAIN, dev.ADAPTERS])
    assert ran[:2] == [("quickstart", "all"), ("test", "all")]
    assert len(ran) == len(set(ran))
    assert {stage for stage, _ in ran} == {*STAGES} == dev.STAGES.keys() - {"results", "ci"}
    assert {line for stage, line in ran if stage == "fuzz"} == {line for stage, line in ran if stage == "matrix"}
    assert [line for stage, line in ran if stage == "fuzz"] == ["5", "4.57"]


def test_a_failing_lane_fails_ci_and_its_output_is_printed(
    dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = tmp_path / "dev.py"
    stand_in.write_text(
        'import os, sys\nprint(sys.argv[1:], os.environ["PEFTKIT_PROCESSES"])\nsys.exit("lint" in sys.argv)'
    )
    monkeypatch.setattr(dev, "__file__", str(stand_in))
    for name in ("quickstart", "test"):
        monkeypatch.setitem(dev.STAGES, name, lambda environments: None)
    with pytest.raises(dev.StageError, match=r"^matrix fuzz lint build on transformers 4\.57, see above$"):
        dev.ci([dev.MAIN, dev.ADAPTERS])
    assert "['matrix', 'fuzz', 'scaffold', '--transformers', '5'] 1\n" in capsys.readouterr().out
    with pytest.raises(dev.StageError, match=r"^lint build on"):
        dev.ci([dev.MAIN])


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
