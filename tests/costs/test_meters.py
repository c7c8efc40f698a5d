"""Every installed meter reads what it says, and nothing before it was started."""

from __future__ import annotations

import math

import pytest
from torch import nn

from peftkit import Meter, StepRecord
from peftkit.costs.clock import Clock
from peftkit.costs.memory import PeakMemory, host_peak
from peftkit.plugins import load_registry

METERS = [entry.component for entry in load_registry().of("meter").values()]


@pytest.mark.parametrize("component", METERS, ids=lambda c: c.__name__)
def test_a_meter_reads_finite_numbers_at_any_time_and_two_do_not_share_their_state(component: type[Meter]) -> None:
    one, other = component(), component()  # type: ignore[call-arg]
    before = other.read()
    one.start(nn.Linear(2, 2))
    one.step(StepRecord(samples=8, input_tokens=64, target_tokens=16, seconds=0.5))
    assert all(math.isfinite(value) for value in one.read().values())
    assert before.keys() <= one.read().keys() | before.keys()
    assert one.read()
    assert {k for k in before if k == "train_seconds" and before[k] != 0.0} == set()


def test_the_clock_sums_the_steps() -> None:
    clock = Clock()
    for seconds in (0.25, 0.5):
        clock.step(StepRecord(samples=1, input_tokens=1, target_tokens=1, seconds=seconds))
    assert clock.read() == {"train_seconds": 0.75}
    assert Clock().read() == {"train_seconds": 0.0}


def test_peak_memory_sees_what_is_used() -> None:
    meter = PeakMemory()
    meter.start(nn.Linear(2, 2))
    before = host_peak()
    held = bytearray(200 * 2**20)
    held[::4096] = b"x" * len(held[::4096])  # touched: memory that is only reserved is not resident
    meter.step(StepRecord(samples=1, input_tokens=1, target_tokens=1, seconds=0.1))
    assert meter.read()["peak_host_bytes"] >= before
    assert meter.read()["peak_host_bytes"] >= 200 * 2**20
