"""Runs that cache the outputs of frozen layers: the plain run's results, for less work, which they record."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.data.cacheable_layers import with_frozen_layers
from peftkit.data.pipeline import prepare_data
from peftkit.distributed.accelerator import make_accelerator
from peftkit.errors import RunInterrupted, StopRequested
from peftkit.models.batches.collated_batch import with_tensors
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.train.trainer import Trainer
from peftkit.verify import verify_run
from tests.tiny_runs import ONE_EVALUATION, Make
from tests.train.test_trainer import assert_close

TOP = ("method.name=top_layers", "method.number=1", "train.optimizer=SGD", "train.budget={steps = 50, epochs = 2.5}")
WITHOUT_DROPOUT = "without dropout"
CACHED = 'train.cache_frozen_outputs="1MiB"'


def test_a_cached_run_has_the_plain_scores_and_records_its_own_work(make: Make, registry: Registry) -> None:
    options = (*TOP, "task.name=colour_text", "train.batch_size=10", *ONE_EVALUATION)
    plain, recipe = run(make("decoder", *options), registry), make("decoder", *options, CACHED)
    cached = run(recipe, registry)
    assert plain is not None
    assert cached is not None
    assert_close(plain, cached, 1e-5)
    expected, summary = RunDirectory(plain).summary(), RunDirectory(cached).summary()
    assert (expected["cached_layers"], summary["cached_layers"]) == (0, 1)
    assert summary["cost"]["gmacs"] < expected["cost"]["gmacs"]
    assert not (cached / "frozen_outputs").exists()
    assert estimate_cost(recipe, registry).gmacs == pytest.approx(summary["cost"]["gmacs"], rel=1e-12)
    checks = verify_run(cached, registry, load_model=False).checks
    assert {check.status for check in checks if check.group == "work"} == {"agrees"}


@pytest.mark.slow
def test_a_run_resumed_in_its_second_epoch_ends_bit_for_bit_as_without_interruption(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", *TOP, CACHED, "task.name=colour_text", "train.checkpoint.every=off", *ONE_EVALUATION)
    whole = run(recipe, registry)
    step = Trainer._step

    def stopped(self: Trainer, batches: Any) -> None:
        if self.progress.step == 8 and not self.state.resumed_after_steps:
            raise StopRequested(signal.SIGTERM)
        step(self, batches)

    monkeypatch.setattr(Trainer, "_step", stopped)
    with pytest.raises(RunInterrupted, match="saved after step 8"):
        run(recipe, registry)
    [interrupted] = {*Path(recipe.run.output).iterdir()} - {whole}
    assert (interrupted / "frozen_outputs" / "index.jsonl").stat().st_size
    assert run(recipe, registry, resume=str(interrupted)) == interrupted
    assert whole is not None
    rows = [RunDirectory(path).evaluations()[-1] for path in (whole, interrupted)]
    assert rows[0]["dev"] == rows[1]["dev"]
    assert rows[0]["cost"]["gmacs"] == rows[1]["cost"]["gmacs"]
    assert not (interrupted / "frozen_outputs").exists()


def count_replayed_layers(recipe: Recipe) -> tuple[int, object]:
    """The number of layers that a run would cache; after a check that they are replayed bit for bit."""
    base = load_base(recipe)
    data = prepare_data(recipe, base.objective, make_accelerator(cpu=True), only_train=True)
    model: nn.Module = apply_method(recipe, base, 10).train()
    objective = with_frozen_layers(recipe, base.objective, model, data.train)
    frozen = objective.frozen
    if frozen is None:
        return 0, None
    batch = objective.collate_and_count([data.train[i] for i in range(5)])
    with frozen.capture(model) as outputs:
        objective.loss(model, batch).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    calls: list[object] = []
    first = model.get_submodule(frozen.names[0])
    for module in first.modules():
        if module is not first:
            module.register_forward_hook(lambda *call: calls.append(call))
    objective.loss(model, with_tensors(batch, {FROZEN_OUTPUTS: outputs[0]})).backward()
    replayed = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(expected, replayed, strict=True))
    assert not calls
    assert "forward" not in vars(first)
    return len(frozen.names), frozen


@pytest.mark.parametrize(
    ("kind", "options", "number"),
    [
        ("decoder", ("method.name=lora", "method.layers_to_transform=[1]"), 1),
        ("decoder", ("method.name=top_layers", "method.number=1", "train.gradient_checkpointing=true"), 1),
        ("encoder-decoder", ("method.name=top_layers", "method.number=2", WITHOUT_DROPOUT), 2),  # all of T5's encoder
        ("encoder", ("method.name=head_only", WITHOUT_DROPOUT), 2),
        ("encoder", ("method.name=head_only", "task.name=colour_choice", WITHOUT_DROPOUT), 2),  # several texts in a row
    ],
)
def test_layers_below_what_is_trained_are_replayed_exactly(
    kind: str, options: tuple[str, ...], number: int, make: Make, models: dict[str, Path], tmp_path: Path
) -> None:
    if WITHOUT_DROPOUT in options:
        shutil.copytree(models[kind], tmp_path / "plain")
        file = tmp_path / "plain" / "config.json"
        config = {key: 0.0 if "dropout" in key else value for key, value in json.loads(file.read_text()).items()}
        file.write_text(json.dumps({**config, "classifier_dropout": 0.0}))
        options = (*options[:-1], f"model.name={file.parent.as_posix()}")
    assert count_replayed_layers(make(kind, *options, CACHED))[0] == number


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("decoder", ("method.name=full",), "something is trained in the first layer or below it"),
        ("decoder", ("method.name=prefix_tuning",), "something is trained in the first layer or below it"),
        ("encoder", ("method.name=head_only",), "the frozen layers have dropout, which is active in training"),
        ("decoder", (*TOP, "train.cache_frozen_outputs=1KiB"), "the outputs take "),
        ("decoder", (*TOP, "train.mixed_precision=bf16"), "it is not for mixed precision"),
        (
            "decoder",
            ("method.name=adalora", "method.layers_to_transform=[1]"),
            "'adalora' may change what is trained after a step",
        ),
    ],
)
def test_what_would_change_the_loss_has_no_effect(
    kind: str, options: tuple[str, ...], reason: str, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    assert count_replayed_layers(make(kind, CACHED, *options)) == (0, None)
    assert f"train.cache_frozen_outputs has no effect: {reason}" in caplog.text
