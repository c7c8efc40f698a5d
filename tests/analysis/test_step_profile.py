from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from peftkit.analysis import step_profile
from peftkit.analysis.step_profile import PARTS, matmul_peak, profile_steps
from peftkit.plugins import Registry
from tests.tiny_runs import Make

STEPS = 6


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "STEPS", STEPS)
    monkeypatch.setattr(step_profile, "PEAK_SIZES", (512,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder-decoder", "encoder"])
def test_profile_and_trace_have_the_parts_of_a_step(kind: str, make: Make, registry: Registry, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    profile = profile_steps(make(kind, "method.name=lora", "train.batch_size=2"), registry, trace)
    assert profile is not None
    assert tuple(profile.seconds_per_step) == PARTS
    assert all(profile.seconds_per_step[part] > 0 for part in ("data", "forward", "backward", "optimizer"))
    assert 0 < profile.macs_per_second < profile.peak_macs_per_second
    assert profile.collective_seconds_per_step == 0
    # The slowest operations of a tiny model vary between runs.
    assert len(profile.operations) == 10
    assert [seconds for _, seconds, _ in profile.operations] == sorted(
        (s for _, s, _ in profile.operations), reverse=True
    )
    assert any(key.startswith("aten::") for key, _, _ in profile.operations)
    whole = sum(seconds for part, seconds in profile.seconds_per_step.items() if part != "data")
    assert sum(seconds for _, seconds, _ in profile.operations) < 1.5 * whole
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"aten::mm", "aten::addmm"} & {event.get("name") for event in events if event.get("cat") == "cpu_op"}
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    assert names.count("forward") == names.count("backward") == names.count("optimizer") == STEPS


@pytest.mark.slow
def test_profiling_writes_no_run_directory(make: Make, registry: Registry, tmp_path: Path) -> None:
    recipe = make("decoder", "train.batch_size=2", f"run.output={tmp_path / 'runs'}")
    assert profile_steps(recipe, registry) is not None
    assert not (tmp_path / "runs").exists()


def test_matmul_peak_is_measured() -> None:
    assert matmul_peak(torch.device("cpu"), torch.float32) > 1e8
