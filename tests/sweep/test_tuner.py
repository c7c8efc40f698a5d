"""What trials score on test is stored for the final statistics, and nothing that tunes or selects reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import Grid
from peftkit.sweep.scheduler import Sweep

TUNED = """
[axes]
method = ["lora", "full"]
seed = [1]
[tune]
trials = 4
[tune.set]
train.budget.steps = 2
"""


class Sealed(dict[str, Any]):
    """The values of a selected checkpoint, of which test's may not be looked at."""

    def __getitem__(self, key: str) -> Any:
        assert key != "test", "tuning reads what a trial scores on test"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "test", "tuning reads what a trial scores on test"
        return super().get(key, default)


def test_tuning_never_looks_at_test(
    grid: Callable[..., Grid], planted: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = RunDirectory.summary

    def sealed(self: RunDirectory) -> dict[str, Any]:
        found = summary(self)
        if "selected" in found:
            found["selected"] = Sealed(found["selected"], test={"accuracy": 1.0})
        return found

    predictions = RunDirectory.predictions

    def of_dev(self: RunDirectory, split: str) -> list[dict[str, Any]]:
        assert split == "dev", "tuning reads what test examples score"
        return predictions(self, split)

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("tuning reads the table of dev's and test's examples")

    monkeypatch.setattr(RunDirectory, "summary", sealed)
    monkeypatch.setattr(RunDirectory, "predictions", of_dev)
    monkeypatch.setattr(RunDirectory, "examples", forbidden)
    workers = planted()
    assert Sweep(grid(TUNED), registry, workers, lambda line: None).run() == []
    assert len(workers.asked) >= 2 * 4 + 2
