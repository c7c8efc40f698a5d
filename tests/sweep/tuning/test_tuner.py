"""Test scores of trials are stored, but neither tuning nor selection reads them."""

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
    """Scores of a selected checkpoint; reading those of test is an error."""

    def __getitem__(self, key: str) -> Any:
        assert key != "test", "tuning reads a test score"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "test", "tuning reads a test score"
        return super().get(key, default)


def test_tuning_never_reads_test_scores(
    grid: Callable[..., Grid], planted: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = RunDirectory.summary

    def sealed_summary(self: RunDirectory) -> dict[str, Any]:
        document = summary(self)
        if "selected" in document:
            document["selected"] = Sealed(document["selected"], test={"accuracy": 1.0})
        return document

    predictions = RunDirectory.predictions

    def dev_predictions(self: RunDirectory, split: str) -> list[dict[str, Any]]:
        assert split == "dev", "tuning reads predictions on test"
        return predictions(self, split)

    def forbidden(*arguments: Any) -> Any:
        raise AssertionError("tuning reads the table of dev's and test's examples")

    monkeypatch.setattr(RunDirectory, "summary", sealed_summary)
    monkeypatch.setattr(RunDirectory, "predictions", dev_predictions)
    monkeypatch.setattr(RunDirectory, "examples", forbidden)
    workers = planted()
    assert Sweep(grid(TUNED), registry, workers, lambda line: None).run() == []
    assert len(workers.started) >= 2 * 4 + 2
