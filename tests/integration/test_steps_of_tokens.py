"""Runs whose steps have a number of tokens: what they record, estimate and verify, and what is rejected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.errors import RecipeError
from peftkit.models import BoundObjective
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import check_resume_after
from peftkit.train.run import run
from peftkit.verify import verify_run
from tests.tiny_runs import ONE_EVALUATION, Make, save_without_dropout
from tests.train.test_trainer import assert_close

TOKENS = ("task.name=colour_text", "method.name=quiet", "train.tokens_per_batch=60")
PLAIN = ("train.optimizer=SGD", "train.learning_rate=0.05", *ONE_EVALUATION)


def summary_of(path: Path | None) -> dict[str, Any]:
    assert path is not None
    return dict(RunDirectory(path).summary())


@pytest.mark.parametrize("budget", ["epochs=1.5", "samples=70"])
def test_a_run_records_its_steps_as_estimated_and_verified(
    budget: str, make: Make, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = budget.split("=")
    options = (*TOKENS, "train.gradient_accumulation_steps=2", *ONE_EVALUATION)
    recipe = make("decoder", *options, f"train.budget={{steps = 50, {key} = {value}}}", "train.schedule=linear")
    path = run(recipe, registry)
    assert path is not None
    summary = summary_of(path)
    rows = summary["rows_per_step"]
    assert summary["effective_batch"] is None
    assert rows["fewest"] < rows["mean"] < rows["most"]
    assert summary["rows_dropped_per_epoch"] == 0
    assert summary[{"epochs": "epoch"}.get(key, key)] >= float(value)
    assert "another optimization than a fixed train.batch_size" in capsys.readouterr().out
    estimate = estimate_cost(recipe, registry)
    assert estimate.steps == summary["steps"]
    assert estimate.gmacs == pytest.approx(summary["cost"]["gmacs"], rel=1e-12)
    checks = verify_run(path, registry, load_model=False).checks
    assert {check.status for check in checks if check.group in ("work", "recipe", "data")} == {"agrees"}


@pytest.mark.parametrize("task", ["colours", "colour_choice"])
def test_microbatches_and_memory_do_not_change_a_step(
    task: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "encoder" if task == "colour_choice" else "decoder"
    options = (*TOKENS, f"task.name={task}", "train.tokens_per_batch=200", "train.budget.steps=3", *PLAIN)
    whole = run(make(kind, *options), registry)
    parts = run(make(kind, *options, "train.gradient_accumulation_steps=3"), registry)
    loss, largest = BoundObjective.loss, 0

    def short(self: BoundObjective, model: Any, batch: Any) -> Any:
        nonlocal largest
        if model.training and batch["input_ids"].numel() > 100:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        largest = max(largest, batch["input_ids"].numel() if model.training else 0)
        return loss(self, model, batch)

    monkeypatch.setattr(BoundObjective, "loss", short)
    small = run(make(kind, *options), registry)
    assert whole is not None
    assert parts is not None
    assert small is not None
    assert_close(whole, parts, 1e-5)
    assert_close(whole, small, 1e-5)
    assert [summary_of(path)["microbatch_size"] for path in (whole, parts)] == [200, 200]
    assert 25 < largest <= 100 >= summary_of(small)["microbatch_size"]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_and_resume(
    make: Make, models: dict[str, Path], registry: Registry, tmp_path: Path
) -> None:
    folder = save_without_dropout(models, tmp_path / "plain")
    options = (f"model.name={folder.as_posix()}", *TOKENS, "train.budget.steps=4", *PLAIN)
    one = make("encoder-decoder", *options, "train.checkpoint={every = '1 steps', keep = 9}")
    path = run(one, registry)
    assert path is not None
    two = make("encoder-decoder", *options, f"run.output={(tmp_path / 'two').as_posix()}")
    run_processes(two, registry, 2)
    [other] = (tmp_path / "two").iterdir()
    assert_close(path, other, 1e-5)
    check_resume_after(2, one, registry)
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("train.batch_size=4",), "train.batch_size: has no effect with train.tokens_per_batch"),
        (
            ("task.name=colours", "task.streaming=true"),
            "train.tokens_per_batch: the training rows of 'colours' are str",
        ),
        (("train.deepspeed.stage=2",), "train.tokens_per_batch: DeepSpeed needs a number of rows"),
    ],
)
def test_what_cannot_be_combined_is_rejected(options: tuple[str, ...], message: str, make: Make) -> None:
    with pytest.raises(RecipeError, match=message):
        make("decoder", *TOKENS, *options)
