from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Peftkit


@pytest.fixture
def log_levels(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The log level of each call of a runner that prints progress and returns a finished run."""
    levels: list[str] = []

    def run(recipe: Any, registry: Any, *, log_level: str, resume: str | None, started: float | None) -> Path:
        levels.append(log_level)
        print("progress")
        return finished_run

    runner = types.ModuleType("peftkit.train.run")
    vars(runner)["run"] = run
    monkeypatch.setitem(sys.modules, "peftkit.train.run", runner)
    return levels


def test_run_quiet_prints_only_the_run_directory(peftkit: Peftkit, log_levels: list[str], finished_run: Path) -> None:
    assert peftkit("run", "x.toml") == (0, "progress\n", "")
    assert peftkit("run", "x.toml", "--quiet") == (0, f"{finished_run}\n", "")
    assert peftkit("run", "x.toml", "-q", "--log-level", "info") == (0, f"{finished_run}\n", "")
    assert log_levels == ["warning", "error", "info"]


def test_run_json_holds_the_scores(peftkit: Peftkit, log_levels: list[str], finished_run: Path) -> None:
    code, out, err = peftkit("run", "x.toml", "--json")
    document = json.loads(out)
    assert (code, err, document["status"], document["steps"]) == (0, "progress\n", "done", 1)
    assert document["run"] == str(finished_run)
    assert document["selected"]["dev"]["accuracy"] >= 0
    assert document["cost"]["gmacs"] > 0
    assert peftkit("run", "x.toml", "--json", "-q") == (0, out, "")
