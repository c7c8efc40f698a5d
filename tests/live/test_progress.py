"""What is done, what is left, and the best so far of a folder of runs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from peftkit.errors import InputError
from peftkit.live.progress import read_progress
from peftkit.run_directory.lock import is_locked
from tests.compare.conftest import Plant, plant

__all__ = ["plant"]  # the fixture


def unfinished(path: Path, **budget: float) -> Path:
    """Takes a run's summary away, as while it trains."""
    (path / "summary.json").unlink()
    with (path / "recipe.toml").open("a") as file:
        file.write("\n[train.budget]\n" + "".join(f"{key} = {value}\n" for key, value in budget.items()))
    return path


@pytest.mark.parametrize(
    ("budget", "share"),
    [
        ({"steps": 4}, 0.5),
        ({"samples": 32}, 0.5),
        ({"tokens": 176}, 1.0),
        ({"gmacs": 8.0}, 0.25),
        ({"seconds": 16.0}, 0.25),
        ({"steps": 200, "gmacs": 4.0}, 0.5),
        ({"joules": 5.0}, 0.0),
    ],
)
def test_share_of_the_budget(plant: Plant, budget: dict[str, float], share: float) -> None:
    path = unfinished(plant("lora", 1, [0.1, 0.4, 0.3]), **budget)
    [run] = read_progress(path).runs
    assert (run.status, run.share, run.score, run.step) == ("running", share, 0.4, 1)


def test_time_left_of_a_run(plant: Plant) -> None:
    path = unfinished(plant("lora", 1, [0.1, 0.4, 0.3]), steps=8)
    for name in ("recipe.toml", "environment.json"):
        os.utime(path / name, (time.time() - 100,) * 2)
    left = read_progress(path).seconds_left
    assert left == pytest.approx(300, rel=0.05)


def test_sweep_counts_runs_that_have_not_begun_and_ends_with_its_lock(plant: Plant, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for seed in (1, 2):
        path = plant("lora", seed, [0.1, 0.4])
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps({**summary, "wall_seconds": 60.0}))
        (folder / f"study{seed}").mkdir()
        path.rename(folder / f"study{seed}" / path.name)
    studies = [{"label": "lora", "seeds": [1, 2]}, {"label": "full", "seeds": [1, 2]}]
    (folder / "sweep.json").write_text(json.dumps({"format": 3, "name": "small", "studies": studies}))
    with FileLock(folder / ".lock"):
        progress = read_progress(folder)
        assert (progress.name, progress.count("done"), progress.total) == ("small", 2, 4)
        assert progress.is_active
        assert progress.seconds_left == 120.0
    assert not read_progress(folder).is_active


def test_a_killed_run_is_stopped(plant: Plant) -> None:
    path = unfinished(plant("lora", 1, [0.1, 0.4]), steps=8)
    with FileLock(path / ".lock"):
        assert read_progress(path).count("running") == 1
        assert is_locked(path)
    assert is_locked(path) is False
    progress = read_progress(path)
    assert (progress.count("stopped"), progress.is_active) == (1, False)


def test_best_of_each_task_and_model(plant: Plant, tmp_path: Path) -> None:
    for method, score, task in (("lora", 0.4, "a"), ("full", 0.6, "a"), ("lora", 0.9, "b")):
        plant(method, 1, [score], task=task)
    best = read_progress(tmp_path / "runs").best()
    assert [(run.task, run.method, run.score) for run in best] == [("a", "full", 0.6), ("b", "lora", 0.9)]


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run in it"):
        read_progress(tmp_path)
