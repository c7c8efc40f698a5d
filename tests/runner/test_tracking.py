"""The curve reaches the trackers, without an account, and a tracker that fails ends nothing."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from accelerate import Accelerator

from peftkit.plugins import Registry
from peftkit.runner import run
from peftkit.runner.tracking import Tracking, flat
from peftkit.runs import RunDirectory
from tests.runner.conftest import Make


def test_flat_names_and_values() -> None:
    row = {"step": 2, "dev": {"loss": 0.5, "deep": {"x": 1}}, "none": None, "names": ["a", "b"], "on": True}
    assert flat(row) == {"step": 2, "dev/loss": 0.5, "dev/deep/x": 1, "names": "['a', 'b']", "on": True}


def test_wandb_runs_offline_into_the_run_directory(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    path = run(make("decoder", "track.wandb=offline", "train.budget.steps=2"), registry)
    assert path is not None
    assert os.environ["WANDB_MODE"] == "offline"
    assert list((path / "wandb").glob("offline-run-*/*.wandb"))
    assert RunDirectory(path).summary()["status"] == "done"


def test_tensorboard_writes_event_files_into_the_run_directory(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "track.tensorboard=true", "train.budget.steps=2"), registry)
    assert path is not None
    assert list(path.rglob("events.out.tfevents.*"))


class Failing(Accelerator):
    """An accelerator whose trackers do not answer."""

    def init_trackers(self, *arguments: object, **named: object) -> None:
        raise ConnectionError("no route to the tracker")


def test_a_tracker_that_fails_ends_nothing(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tracking = Tracking(Failing(cpu=True), make("decoder", "track.wandb=offline"), tmp_path)
        tracking.log({"step": 1, "dev": {"loss": 1.0}})
    assert not tracking.active
    assert "no route to the tracker" in caplog.text
