"""Losses and times that arrive from the device later, as on a GPU."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from peftkit import Callback, Meter, StepResult, StepStats, TrainContext
from peftkit.components.lazy_number import LateSum
from peftkit.errors import DivergedError
from peftkit.meters.train_time import TrainTime
from peftkit.models.batches.collated_batch import BatchCounts, CollatedBatch
from peftkit.models.batches.known_padding import KnownPadding, masking_utils
from peftkit.models.batches.padding import split_batch
from peftkit.plugins import Entry, Registry
from peftkit.train.budget import Progress
from peftkit.train.callbacks import MeterList
from peftkit.train.run import run
from peftkit.train.steps import step_losses, step_timer
from peftkit.train.steps.step_losses import MAX_PENDING, StepLoss, StepLosses
from peftkit.train.steps.step_timer import StepTimer
from tests.integration.test_failures import broken_at, only
from tests.tiny_runs import ONE_EVALUATION, Make

CPU = torch.device("cpu")


class Event:
    """An event of a device that finishes only if the host waits for it."""

    now: ClassVar[float] = 0.0
    waits: ClassVar[int] = 0

    def __init__(self) -> None:
        self.time, self.done = Event.now, False

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        Event.waits += not self.done
        self.done = True

    def elapsed_time(self, end: Event) -> float:
        return (end.time - self.time) * 1e3


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses arrive only if somebody waits for them."""
    monkeypatch.setattr(step_losses, "record_event", lambda device: Event())


def test_losses_are_read_in_their_order_and_the_first_bad_one_is_handed_over(late: None) -> None:
    bad: list[StepLoss] = []
    losses = StepLosses(CPU, bad.append)
    steps = [losses.push(torch.tensor(x), 2, [{}], Progress(step=i)) for i, x in enumerate([4.0, math.inf, 6.0])]
    losses.check(wait=False)
    assert [step.mean for step in steps] == [None, None, None]
    assert losses.read(steps[2]) == 3.0
    assert [step.mean for step in steps] == [2.0, math.inf, 3.0]
    assert [(step.before.step, step.skipped) for step in bad] == [(1, True)]
    assert all(step.batches == [] for step in steps)


def test_few_steps_are_pending(late: None) -> None:
    losses = StepLosses(CPU, lambda step: None)
    steps = [losses.push(torch.tensor(float(i)), 1, [], Progress()) for i in range(3 * MAX_PENDING)]
    assert [step.mean for step in steps[:-MAX_PENDING]] == [float(i) for i in range(2 * MAX_PENDING)]
    assert all(step.mean is None for step in steps[-MAX_PENDING:])
    losses.check(wait=True)
    assert [step.mean for step in steps] == [float(i) for i in range(3 * MAX_PENDING)]


class Curious(Callback):
    """Reads every loss."""

    name: Literal["curious"] = "curious"

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        assert math.isfinite(step.loss)


@pytest.mark.parametrize("every", ["1 steps", "2 steps", "100%"])
@pytest.mark.parametrize("reads", [False, True])
def test_a_late_loss_ends_the_run_as_an_early_one_does(
    every: str, reads: bool, late: None, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing after the step is saved, whoever finds it: a checkpoint, a callback or the end."""
    broken_at(monkeypatch, 3)
    registry = Registry((*registry.entries, Entry("callback", "curious", Curious, "tests", "0")), registry.failures)
    recipe = make("decoder", f'train.checkpoint.every="{every}"', "train.checkpoint.keep=9", *ONE_EVALUATION)
    if reads:
        recipe = recipe.model_copy(update={"callback": (Curious(),)})
    seen: list[int] = []
    restore = Progress.restore
    monkeypatch.setattr(Progress, "restore", lambda self, before: (seen.append(self.step), restore(self, before)))
    with pytest.raises(DivergedError, match=r"the loss is nan at step 3 .its batch is saved in nan_at_step_3\."):
        run(recipe, registry, quiet=True)
    path = only(Path(recipe.run.output))
    assert seen == [3 if reads or every == "1 steps" else 4 if every == "2 steps" else 6]
    assert load_file(path / "nan_at_step_3.safetensors")["0.0.input_ids"].shape[0] == 8
    saved = [f"step-0000000{step}" for step in range(1, 3) if every != "100%" and step % int(every[0]) == 0]
    assert sorted(p.name for p in (path / "checkpoints").glob("step-*")) == saved
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], [*summary["cost"]]) == ("diverged", ["gmacs"])
    monkeypatch.undo()
    two = run(make("decoder", "train.budget.steps=2", "run.name=two", *ONE_EVALUATION), registry, quiet=True)
    assert two is not None
    assert summary["cost"]["gmacs"] == json.loads((two / "summary.json").read_text())["cost"]["gmacs"]


def test_on_nan_skip_reads_each_loss_before_the_update(
    late: None, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_at(monkeypatch, 2)
    path = run(make("decoder", 'train.on_nan="skip"'), registry, quiet=True)
    assert path is not None
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["steps"], summary["steps_skipped"]) == (6, 1)
    assert math.isfinite(summary["final"]["dev"]["loss"])


def test_events_give_the_time_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a batch is what the device was idle, if the host waited as long."""
    clock = iter([0.0, 0.0, 3.0, 3.0, 3.0, 4.0, 4.0])  # of the host, which waits three seconds, then one
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(step_timer, "_record", Event)
    monkeypatch.setattr(Event, "waits", 0)
    timer, times = StepTimer(CPU, by_events=True), []
    for start, end in ((10.0, 12.0), (12.25, 15.0)):
        timer.start_waiting()
        timer.stop_waiting()
        Event.now = start
        timer.start_step()
        Event.now = end
        times.append(timer.end_step())
    assert Event.waits == 0
    read: list[Any] = [value() for time in times for value in time if isinstance(value, Callable)]  # type: ignore[arg-type]
    assert read == [2.0, 3.0, 2.75, 0.25]
    assert Event.waits > 0


def test_seconds_are_read_when_they_are_needed() -> None:
    reads: list[float] = []

    def later(value: float) -> Any:
        return lambda: reads.append(value) or value

    progress, meter = Progress(), TrainTime()
    for value in (1.0, 2.0):
        stats = StepStats(8, 1, 1, later(value), wait_seconds=later(value / 2))
        progress.add(stats)
        meter.update(stats)
    before, late_seconds = progress.snapshot(), progress.late_seconds()
    progress.add(StepStats(8, 1, 1, later(4.0)))
    assert reads == []
    assert meter.totals() == {"train_seconds": 3.0, "data_wait_seconds": 1.5}
    assert reads == [1.0, 2.0, 0.5, 1.0]  # each once
    assert (late_seconds(), progress.seconds, before.seconds) == (3.0, 7.0, 3.0)
    progress.restore(before)
    assert (progress.step, progress.seconds) == (2, 3.0)
    resumed = TrainTime()
    resumed.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    assert resumed.totals() == meter.totals()


def test_a_sum_keeps_few_unread_numbers() -> None:
    total, reads = LateSum(1.0), []
    for _ in range(LateSum.MAX_UNREAD + 3):
        total.add(lambda: reads.append(1) or 1.0)  # type: ignore[func-returns-value]
    assert len(reads) == 3
    assert total.total == LateSum.MAX_UNREAD + 4


def test_only_meters_of_the_device_wait_for_it(registry: Registry) -> None:
    class Watts(Meter):
        name: Literal["watts"] = "watts"

        def on_step_end(self) -> None: ...

    built_in: list[Any] = [e.component() for e in registry.all("meter").values() if e.distribution == "peftkit"]  # type: ignore[call-arg]
    assert len(built_in) >= 5
    assert not MeterList(built_in).waits_for_device
    assert MeterList([*built_in, Watts()]).waits_for_device


def test_batches_keep_their_numbers() -> None:
    tensors = {"input_ids": torch.ones(5, 3), "choices": torch.tensor([2, 0, 2]), "labels": torch.ones(3)}
    batch = CollatedBatch(tensors, [3, 2, 1, 3, 3], [2, 0, 2], BatchCounts(3, 12, 12))
    for other in (pickle.loads(pickle.dumps(batch)), copy(batch), batch.to(CPU)):  # noqa: S301
        assert isinstance(other, CollatedBatch)
        assert (other.lengths, other.choices, other.counts) == ([3, 2, 1, 3, 3], [2, 0, 2], batch.counts)
    parts = [*split_batch(batch, 2)]
    assert [(p.lengths, p.choices) for p in parts if isinstance(p, CollatedBatch)] == [
        ([3, 2, 1], [2, 0]),
        ([3, 3], [2]),
    ]


@pytest.mark.parametrize("changes", [False, True])
def test_a_method_that_changes_the_mask_is_noticed(changes: bool) -> None:
    """The first answer is compared with the mask."""
    known, asked = KnownPadding(), []
    parameters = inspect.signature(masking_utils._ignore_causal_mask_sdpa).parameters
    offsets = [0 for name in parameters if name.endswith("_offset")]  # transformers 4 has one, 5 has two
    ids = torch.ones(2, 4)
    for padded in (True, True, False, False):
        mask = torch.ones(2, 4, dtype=torch.bool)
        mask[0, 3] = not padded
        batch = CollatedBatch({"input_ids": ids, "attention_mask": mask}, [4 - padded, 4])
        given = torch.ones_like(mask) if changes else mask
        with known.for_batch(batch):
            asked.append(bool(masking_utils._ignore_causal_mask_sdpa(given, 4, 4, *offsets)))
    assert asked == ([True] * 4 if changes else [False, False, True, True])
    assert len(known._confirmed) == (1 if changes else 2)
