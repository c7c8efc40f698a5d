"""Failures during a run are reported and damage no earlier results."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker
from safetensors.torch import load_file

from peftkit.distributed import accelerator
from peftkit.errors import PeftkitError, RunError
from peftkit.models import BoundObjective
from peftkit.models.causal_lm import CausalLM
from peftkit.monitor import trackers
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.trainer import Trainer
from tests.tiny_runs import Make
from tests.train.test_trainer import assert_close

KEYS = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")


def broken_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Makes the loss of these steps NaN."""
    step, loss = Trainer._step, BoundObjective.loss

    def _step(self: Trainer, batches: Any) -> None:
        at = self.progress.step + 1
        factor = float("nan") if at in steps else 1.0
        monkeypatch.setattr(BoundObjective, "loss", lambda *arguments: loss(*arguments) * factor)
        step(self, batches)

    monkeypatch.setattr(Trainer, "_step", _step)


def only(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_a_non_finite_loss_saves_its_batch_and_ends_the_run_before_the_update(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 3)
    recipe = make("decoder", "train.checkpoint.every=1 steps", "train.checkpoint.keep=5")
    with pytest.raises(RunError, match=r"the loss is nan at step 3 .its batch is saved in nan_at_step_3\.safetensors"):
        run(recipe, registry)
    path = only(Path(recipe.run.output))
    batch = load_file(path / "nan_at_step_3.safetensors")
    assert batch["0.0.input_ids"].shape[0] == 8
    newest = load_file(max((path / "checkpoints").iterdir()) / "trainable.safetensors")
    assert max((path / "checkpoints").iterdir()).name == "step-00000002"
    assert all(tensor.isfinite().all() for tensor in newest.values())
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert summary["cost"]["gmacs"] > 0


def test_on_nan_skip_skips_and_counts_non_finite_losses(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 2, 4)
    path = run(make("encoder-decoder", 'train.on_nan="skip"'), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert (summary["status"], summary["steps"], summary["steps_skipped"]) == ("done", 6, 2)
    monkeypatch.undo()
    whole = run(make("encoder-decoder", "train.budget.steps=2"), registry)
    assert whole is not None
    of_two = RunDirectory(whole).summary()["cost"]["optimizer_gops"]
    assert summary["cost"]["optimizer_gops"] == pytest.approx(2 * of_two)  # two of four steps
    assert all(t.isfinite().all() for t in load_file(path / "model/model.safetensors").values())


@pytest.mark.parametrize("number", [1, 2, 4, 7, 9])
def test_a_full_disk_is_an_error_and_damages_no_earlier_file(
    number: int, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write from a given one on fails."""
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


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_out_of_memory_repeats_the_step_with_smaller_microbatches(
    kind: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "colour_choice" if kind == "encoder" else "colours"
    options = ("method.name=quiet", f"task.name={task}", "train.optimizer=SGD", "train.budget.steps=3")
    whole = run(make(kind, *options), registry)
    loss = BoundObjective.loss

    def short(self: BoundObjective, model: Any, batch: Any) -> Any:
        if len(batch["labels"]) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return loss(self, model, batch)

    monkeypatch.setattr(BoundObjective, "loss", short)
    parts = run(make(kind, *options), registry)
    assert whole is not None
    assert parts is not None
    assert_close(whole, parts, 1e-5)
    assert RunDirectory(whole).summary()["microbatch_size"] == 8
    assert RunDirectory(parts).summary()["microbatch_size"] == 2
    assert RunDirectory(parts).summary()["effective_batch"] == 8


def test_out_of_memory_with_one_row_is_an_error(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: BoundObjective, model: Any, batch: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(BoundObjective, "loss", loss)
    with pytest.raises(RunError, match="out of memory with a batch size of 1; reduce train"):
        run(make("decoder"), registry)


def test_evaluation_out_of_memory_uses_smaller_batches(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(make("decoder", "train.budget.steps=1"), registry)
    alone, sizes = CausalLM.score_in_one_pass, list[int]()

    def score(self: CausalLM, model: Any, rows: Any, device: Any, **options: Any) -> Any:
        if len(rows) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        sizes.append(len(rows))
        return alone(self, model, rows, device, **options)

    monkeypatch.setattr(CausalLM, "score_in_one_pass", score)
    parts = run(make("decoder", "train.budget.steps=1"), registry)
    assert whole is not None
    assert parts is not None
    assert_close(whole, parts, 1e-5)
    assert sizes
    assert max(sizes) <= 4


class Hanging:
    """A tracker that never returns."""

    name = "hanging"

    def log(self, values: Any, step: int, **options: Any) -> None:
        threading.Event().wait()

    finish = store_init_configuration = log


@pytest.mark.parametrize("what", ["init_trackers", "log"])
def test_a_hanging_tracker_does_not_end_the_run(
    what: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "TIMEOUT", 0.2)
    monkeypatch.setattr(Accelerator, what, lambda self, *args, **options: threading.Event().wait())
    path = run(make("decoder", "track.to=['tensorboard']", "train.budget.steps=2"), registry)
    assert path is not None
    assert RunDirectory(path).summary()["status"] == "done"
    assert caplog.text.count("trackers are turned off for the rest of the run: no response within 0.2 s") == 1


def test_a_tracker_that_hangs_when_finishing_does_not_end_the_run(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "TIMEOUT", 0.2)
    monkeypatch.setattr(TensorBoardTracker, "finish", lambda self: threading.Event().wait())
    assert run(make("decoder", "track.to=['tensorboard']", "train.budget.steps=2"), registry) is not None
    assert "tracker tensorboard did not finish: no response within 0.2 s" in caplog.text


def test_processes_with_different_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, number = torch.nn.Linear(2, 2), SimpleNamespace(num_processes=3)
    monkeypatch.setattr(accelerator, "PartialState", lambda: number)
    monkeypatch.setattr(accelerator, "gather_object", lambda digest_list: digest_list * 3)
    accelerator.assert_same_weights(model)
    digests = list[str]()
    monkeypatch.setattr(
        accelerator, "gather_object", lambda digest_list: digests.extend(digest_list) or [digests[0], *digests]
    )
    accelerator.assert_same_weights(model)
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    with pytest.raises(RunError, match="process 2 starts from other weights than the main process"):
        accelerator.assert_same_weights(model)


@pytest.mark.slow
def test_secrets_of_the_environment_are_not_written_or_printed(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for key in KEYS:
        monkeypatch.setenv(key, f"planted-{key}-0123456789")
    path = run(make("decoder", "track.to=['wandb', 'tensorboard']", "train.budget.steps=2"), registry)
    assert path is not None
    assert list((path / "wandb").rglob("*.wandb"))
    said = "".join(capfd.readouterr())
    written = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    for key in KEYS:
        assert f"planted-{key}" not in said
        assert f"planted-{key}".encode() not in written


def test_changes_of_the_system_clock_do_not_affect_costs(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = iter(range(0, -10_000_000, -3600))  # each reading is an hour earlier than the last
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(hours))
    path = run(make("decoder", "evaluate.every=1 steps", "train.budget.steps=4"), registry)
    assert path is not None
    seconds = [row["cost"]["train_seconds"] for row in RunDirectory(path).evaluations()]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 60


def test_errors_print_no_secrets(
    make: Make, models: dict[str, Path], registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key in KEYS:
        monkeypatch.setenv(key, f"planted-{key}-0123456789")
    shutil.copytree(models["decoder"], tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    recipe = make("decoder", f"model.name={tmp_path / 'half'}")
    with pytest.raises(PeftkitError) as caught:
        run(recipe, registry)
    assert "planted" not in str(caught.value)


def test_plugins_are_printed_before_a_run(make: Make, registry: Registry, capfd: pytest.CaptureFixture[str]) -> None:
    run(make("decoder", "train.budget.steps=1"), registry)
    assert "plugins " in capfd.readouterr().out
