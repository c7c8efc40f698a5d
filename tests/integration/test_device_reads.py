"""No step waits for the device, unless somebody asks for a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from peftkit import Callback, Method, StepResult, TrainContext
from peftkit.analysis.dry_run import dry_run
from peftkit.components import ModelKind
from peftkit.errors import PeftkitError
from peftkit.monitor.console import ConsoleLogger
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe
from peftkit.testing.run_checks import recipe_maker, registry_with
from peftkit.train.callbacks import LoopCallback, MeterList
from peftkit.train.run import run
from peftkit.train.trainer import Trainer
from tests.conftest import exhaustive_unless_quick
from tests.device_reads import DeviceReads, device_reads
from tests.tiny_runs import Make

FIRST = 2
"""The step after which steps are plain: after the second one it is checked once whether any weight has a gradient."""
METHODS = [*load_registry().all("method", presets=False)]
NOTHING_ELSE = ("evaluate.every=100%", "train.checkpoint.every=off")
READS_BY_PEFT = {
    "adalora": "its budget allocation compares importances to a threshold",
    "cpt": "its loss selects positions by a mask",
    "frod": "it reads the sizes of its sparse matrices",
    "loha": "it samples on the CPU whether to drop a module",
    "lokr": "it samples on the CPU whether to drop a module",
    "poly": "torch checks the parameters of the distribution that its router draws from",
    "vblora": "it checks its logits",
    "waveft": "it selects coefficients by a mask",
}
"""Methods for which peft reads values in a step, with the reason; some are counted on the model for it."""


PEFT_PLACES = ("tuners/", "torch/distributions/", "flop_counter.py")
"""The files that may read for these methods."""


class Plain(LoopCallback):
    """Records the reads of the steps after ``FIRST``."""

    def __init__(self, counter: DeviceReads) -> None:
        self.counter = counter

    def on_step_settled(self) -> None:
        self.counter.paused = self.trainer.progress.step < FIRST


def reads(recipe: Recipe, registry: Registry, monkeypatch: pytest.MonkeyPatch, *others: Any) -> list[str]:
    """The places that read a value in the plain steps of a recipe."""
    meters: list[Any] = [entry.component() for entry in registry.all("meter").values()]  # type: ignore[call-arg]
    with device_reads(monkeypatch) as counter:
        callbacks = [MeterList(meters), ConsoleLogger(recipe, quiet=True), *others, Plain(counter)]
        with dry_run(recipe, registry, FIRST + 3, callbacks) as trainer:
            last = FIRST + 3

            def check(*, wait: bool, original: Any = trainer.losses.check) -> None:
                if trainer.progress.step == last:  # training is over
                    counter.paused = True
                original(wait=wait)

            monkeypatch.setattr(trainer.losses, "check", check)
            trainer.train()
            assert trainer.progress.step == last
            known = trainer.train_step.known_padding
            assert len(known._confirmed) <= 4  # with and without padding, for at most two lengths of the mask
            assert not known._contradicted
    return sorted(set(counter.places))


@pytest.mark.parametrize(
    ("kind", "task", "optimizer"),
    [(k, t, "adamw") for k in ("encoder-decoder", "decoder") for t in ("colours", "colour_choice", "colour_text")]
    + [("encoder", "colours", "adamw"), ("encoder", "colour_choice", "adamw")]
    + [(kind, "colours", "adafactor") for kind in ("encoder-decoder", "decoder", "encoder")],
)
def test_a_plain_step_reads_nothing(
    kind: ModelKind, task: str, optimizer: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("train.batch_size=4", "train.gradient_accumulation_steps=2", f"train.optimizer={optimizer}")
    assert reads(make(kind, f"task.name={task}", *options), registry, monkeypatch) == []


@pytest.mark.one_line
@pytest.mark.parametrize("budget", ["{tokens = 100000}", "{gmacs = 1000, steps = 5}", "{samples = 40}"])
def test_steps_of_a_run_read_nothing(
    budget: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Trainer._settle
    recipe = make("decoder", f"train.budget={budget}", "train.budget.steps=6", *NOTHING_ELSE)
    with device_reads(monkeypatch) as counter:

        def settle_and_record(self: Trainer) -> None:
            counter.paused = self.progress.step < FIRST or self.state.ended
            settle(self)
            counter.paused = self.progress.step < FIRST or self.state.ended

        monkeypatch.setattr(Trainer, "_settle", settle_and_record)
        run(recipe, registry, quiet=True)
    assert sorted(set(counter.places)) == []


@pytest.mark.parametrize("name", [*map(exhaustive_unless_quick, METHODS)])
def test_methods_read_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    component = load_registry().find("method", name).component
    assert issubclass(component, Method)
    method = component.model_validate(dict(component.tiny_options))
    for architecture in ("llama", "t5", "bert"):
        make_recipe = recipe_maker(method, architecture, tmp_path / architecture)
        try:
            places = reads(make_recipe("run"), registry_with(method), monkeypatch)
            break
        except PeftkitError:  # not supported on this architecture
            continue
    else:
        pytest.skip("no tiny model supports the method")
    if name in READS_BY_PEFT:
        assert places
        places = [place for place in places if not any(part in place for part in PEFT_PLACES)]
    assert places == []


class Reading(Callback):
    """Reads what a step has in store."""

    name: Literal["reading"] = "reading"
    what: str

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        if self.what == "loss":
            assert step.loss > 0
        if self.what == "item":
            torch.ones(()).item()
        if self.what == "mask":
            torch.ones(3)[torch.ones(3) > 0]
        if self.what == "list":
            torch.ones(3).tolist()


@pytest.mark.parametrize(("what", "number"), [("loss", 0), ("item", 1), ("mask", 1), ("list", 1)])
def test_reads_are_found(
    what: str, number: int, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss has been copied to the host by then, where it is not a tensor."""
    places = reads(make("encoder"), registry, monkeypatch, Reading(what=what))
    assert len(places) == number
    assert all("test_device_reads.py" in place for place in places)
