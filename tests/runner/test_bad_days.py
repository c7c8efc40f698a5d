"""What goes wrong while a run is under way: it says what, keeps what was finished, and lets nothing be lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.runner import run
from peftkit.runner.forms import Form
from peftkit.runner.training import Training
from peftkit.runs import RunDirectory
from tests.runner.conftest import Make

KEYS = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")


def broken_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Makes the loss of these steps no number."""
    step, loss = Training._step, Form.loss

    def _step(self: Training, batches: Any) -> None:
        at = self.used.step + 1
        factor = float("nan") if at in steps else 1.0
        monkeypatch.setattr(Form, "loss", lambda form, model, batch: loss(form, model, batch) * factor)
        step(self, batches)

    monkeypatch.setattr(Training, "_step", _step)


def only(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_a_loss_that_is_no_number_ends_the_run_with_its_batch_and_before_it_does_harm(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 3)
    recipe = make("decoder", "train.checkpoint.every=1 steps", "train.checkpoint.keep=5")
    with pytest.raises(RunError, match=r"the loss is nan at step 3, and its batch is in nan_at_step_3\.safetensors"):
        run(recipe, registry)
    path = only(Path(recipe.run.output))
    batch = load_file(path / "nan_at_step_3.safetensors")
    assert batch["0.input_ids"].shape[0] == 8
    newest = load_file(max((path / "checkpoints").iterdir()) / "trainable.safetensors")
    assert max((path / "checkpoints").iterdir()).name == "step-00000002"
    assert all(tensor.isfinite().all() for tensor in newest.values())
    assert json.loads((path / "summary.json").read_text())["status"] == "failed"


def test_such_a_loss_is_skipped_and_counted_if_the_recipe_says_so(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 2, 4)
    path = run(make("encoder-decoder", 'train.on_nan="skip"'), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert (summary["status"], summary["steps"], summary["steps_skipped"]) == ("done", 6, 2)
    assert all(t.isfinite().all() for t in load_file(path / "model/model.safetensors").values())


@pytest.mark.parametrize("number", [1, 2, 4, 7, 9])
def test_a_full_disk_is_told_and_damages_nothing_that_was_there(
    number: int, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from a certain write on."""
    real, done = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal done
        done += 1
        if done > number:
            raise OSError(28, "No space left on device")
        real(handle)

    recipe = make("decoder", "method.name=lora", "train.checkpoint.every=1 steps")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunError, match=r"cannot be written.*No space left on device"):
        run(recipe, registry)
    monkeypatch.undo()
    path = only(Path(recipe.run.output))
    assert not [f for f in path.rglob("*") if f.name.endswith(".tmp")]
    if (path / "evaluations.jsonl").exists():
        RunDirectory(path).evaluations()
    for file in path.glob("checkpoints/*/state.json"):
        json.loads(file.read_text())


def test_no_secret_of_the_environment_is_written_or_said(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for key in KEYS:
        monkeypatch.setenv(key, f"planted-{key}-0123456789")
    path = run(make("decoder", "track.tensorboard=true", "train.budget.steps=2"), registry)
    assert path is not None
    said = "".join(capfd.readouterr())
    written = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    for key in KEYS:
        assert f"planted-{key}" not in said
        assert f"planted-{key}".encode() not in written


def test_plugins_are_told_before_a_run(make: Make, registry: Registry, capfd: pytest.CaptureFixture[str]) -> None:
    run(make("decoder", "train.budget.steps=1"), registry)
    assert "plugins " in capfd.readouterr().out
