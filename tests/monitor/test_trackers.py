"""Trackers record the curve offline, and a failing tracker does not end the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from peftkit.components import EvaluationResult, TrainContext
from peftkit.monitor.trackers import RunTrackers, enabled_trackers, flatten
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import Make


def test_flatten() -> None:
    row = {"step": 2, "dev": {"loss": 0.5, "deep": {"x": 1}}, "none": None, "names": ["a", "b"], "on": True}
    assert flatten(row) == {"step": 2, "dev/loss": 0.5, "dev/deep/x": 1, "names": "['a', 'b']", "on": True}


def test_wandb_runs_offline_into_the_run_directory(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    path = run(make("decoder", "track.to=['wandb']", "train.budget.steps=2"), registry)
    assert path is not None
    assert os.environ["WANDB_MODE"] == "offline"
    assert list((path / "wandb").glob("offline-run-*/*.wandb"))
    assert RunDirectory(path).summary()["status"] == "done"


def test_tensorboard_writes_event_files_into_the_run_directory(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "track.to=['tensorboard']", "train.budget.steps=2"), registry)
    assert path is not None
    assert list(path.rglob("events.out.tfevents.*"))


class Failing(Accelerator):
    """An accelerator whose trackers do not answer."""

    def init_trackers(self, *arguments: object, **named: object) -> None:
        raise ConnectionError("no route to the tracker")


def test_a_failing_tracker_does_not_end_the_run(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tracking = RunTrackers(Failing(cpu=True), make("decoder", "track.to=['wandb']"), tmp_path)
        context = TrainContext(
            model=torch.nn.Linear(1, 1),
            folder=None,
            step=1,
            epoch=0.5,
            samples=8,
            tokens=16,
            seconds=0.1,
            budget_used=0.5,
            num_processes=1,
            stop=lambda reason: None,
        )
        row = {"step": 1, "dev": {"loss": 1.0}}
        tracking.on_evaluate(context, EvaluationResult(row, "loss", higher_is_better=False, is_best=True))
    assert not tracking.active
    assert "no route to the tracker" in caplog.text


def test_only_wandbs_variables_are_read_from_the_file(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_ENTITY", "WANDB_NOTES", "OTHER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_NOTES", "from the shell")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WANDB_ENTITY=us\nWANDB_NOTES=from the file\nOTHER_KEY=x\n", encoding="utf-8")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert enabled_trackers(make("decoder", "track.to=['wandb']")) == ["wandb"]
    assert (os.environ["WANDB_ENTITY"], os.environ["WANDB_NOTES"]) == ("us", "from the shell")
    assert "OTHER_KEY" not in os.environ


def test_wandb_can_be_disabled_from_the_file(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WANDB_MODE=disabled\n", encoding="utf-8")
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != "WANDB_MODE"})
    assert enabled_trackers(make("decoder", "track.to=['wandb']")) == []
