"""Every registered meter measures steps only."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftkit import Meter, StepStats
from peftkit.meters.macs import Macs
from peftkit.meters.memory import CLEAR_REFS, PeakMemory, host_peak
from peftkit.meters.parameters import ParameterCount
from peftkit.meters.tokens import Tokens
from peftkit.meters.train_time import TrainTime
from peftkit.plugins import load_registry


def resumed(meter: Meter) -> Meter:
    other: Meter = type(meter)()  # type: ignore[call-arg]
    other.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    return other


METERS = [entry.component for entry in load_registry().all("meter").values()]


@pytest.mark.parametrize("component", METERS, ids=lambda c: c.__name__)
def test_meters_have_finite_totals_and_separate_state(component: type[Meter]) -> None:
    one, other = component(), component()  # type: ignore[call-arg]
    before = other.totals()
    one.start(nn.Linear(2, 2))
    one.on_step_start()
    one.on_step_end()
    one.update(StepStats(samples=8, input_tokens=64, target_tokens=16, seconds=0.5))
    assert all(math.isfinite(value) for value in one.totals().values())
    assert before.keys() <= one.totals().keys() | before.keys()
    assert one.totals()
    assert {k for k in before if k == "train_seconds" and before[k] != 0.0} == set()


def test_train_time_sums_the_steps() -> None:
    clock = TrainTime()
    for seconds in (0.25, 0.5):
        clock.update(StepStats(samples=1, input_tokens=1, target_tokens=1, seconds=seconds, wait_seconds=2 * seconds))
    assert clock.totals() == {"train_seconds": 0.75, "data_wait_seconds": 1.5}
    assert TrainTime().totals() == {"train_seconds": 0.0, "data_wait_seconds": 0.0}


def test_parameter_count_and_checkpoint_bytes_of_trainable_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).half())
    model[0].weight.requires_grad = False
    meter = ParameterCount()
    meter.start(model)
    assert meter.totals() == {"trainable_parameters": 4.0 + 10.0, "checkpoint_bytes": 4 * 4.0 + 2 * 10.0}


@given(st.lists(st.tuples(*[st.integers(0, 10**15)] * 8), max_size=20), st.integers(0, 20))
def test_totals_are_sums_over_steps_and_resumes(steps: list[tuple[int, ...]], broken: int) -> None:
    records = [StepStats(*step[:3], 0.5, *step[3:4], 0.25, *step[4:]) for step in steps]
    meters: list[Meter] = [Tokens(), Macs(), TrainTime()]
    for number, record in enumerate(records):
        if number == broken:  # restored from a checkpoint in another process
            meters = [resumed(m) for m in meters]
        for meter in meters:
            meter.update(record)
    totals = meters[0].totals() | meters[1].totals() | meters[2].totals()

    def total(name: str) -> float:
        return float(sum(getattr(record, name) for record in records))

    assert {key: totals[key] for key in ("samples", "input_tokens", "target_tokens", "padding_tokens")} == {
        key: total(key) for key in ("samples", "input_tokens", "target_tokens", "padding_tokens")
    }
    assert totals["forward_gmacs"] == pytest.approx(total("forward_macs") / 1e9, rel=1e-12)
    assert totals["backward_gmacs"] == pytest.approx(total("backward_macs") / 1e9, rel=1e-12)
    assert totals["gflops"] == pytest.approx(2 * (total("forward_macs") + total("backward_macs")) / 1e9, rel=1e-12)
    assert totals["elementwise_gops"] == pytest.approx(total("elementwise") / 1e9, rel=1e-12)
    assert totals["optimizer_gops"] == pytest.approx(total("optimizer") / 1e9, rel=1e-12)
    assert (totals["train_seconds"], totals["data_wait_seconds"]) == (0.5 * len(steps), 0.25 * len(steps))


def touched(megabytes: int) -> bytearray:
    held = bytearray(megabytes * 2**20)
    held[::4096] = b"x" * len(held[::4096])  # writes to every page, as reserved memory is not resident
    return held


def test_peak_memory_includes_memory_of_a_step() -> None:
    meter = PeakMemory()
    meter.on_step_start()
    before = host_peak()
    held = touched(200)
    meter.on_step_end()
    meter.on_step_start()
    totals = meter.totals()
    assert totals["peak_host_bytes"] >= before + 190 * 2**20
    if CLEAR_REFS.exists():
        assert totals["host_bytes_before_training"] == before, "of the first step only"
    assert len(held) > 0


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs /proc/self/clear_refs, which resets the peak memory (Linux)")
def test_peak_memory_excludes_memory_between_steps() -> None:
    meter = PeakMemory()
    for _ in range(2):
        meter.on_step_start()
        resident = host_peak()
        meter.on_step_end()
        touched(400)  # like an evaluation
    assert meter.totals()["peak_host_bytes"] < resident + 200 * 2**20


def test_device_peak_memory_is_that_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [100]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: held.__setitem__(0, 100))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: held[0])
    meter = PeakMemory()
    for of_step in (300, 250):
        held[0] = 900  # memory of an evaluation before the step
        meter.on_step_start()
        held[0] = of_step
        meter.on_step_end()
        held[0] = 800  # memory of counting after the step
        meter.update(StepStats(samples=1, input_tokens=1, target_tokens=1, seconds=0.1))
    assert meter.totals()["peak_device_bytes"] == 300
