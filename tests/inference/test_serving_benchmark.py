"""Measurements of served runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.inference.finished_run import load_finished_run
from peftkit.inference.serving_benchmark import FILE, ServingRequest, benchmark_serving, median_interval
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make

REQUEST = ServingRequest(prompt_tokens=4, new_tokens=3, batch_sizes=(1, 2), rounds=2)


def trained(make: Make, registry: Registry, kind: str, *options: str) -> Path:
    path = run(make(kind, *ONE_EVALUATION, "train.budget.steps=1", *options), registry)
    assert path is not None
    return path


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_requests_are_measured_merged_and_not(kind: str, make: Make, registry: Registry) -> None:
    path = trained(make, registry, kind, "method.name=lora")
    result = benchmark_serving(load_finished_run(path, registry), registry, REQUEST)
    rows: list[dict[str, Any]] = result["measurements"]
    assert [(row["merged"], row["batch_size"]) for row in rows] == [(False, 1), (False, 2), (True, 1), (True, 2)]
    keys = ("seconds", "texts_per_second") if kind == "encoder" else ("first_token_seconds", "tokens_per_second")
    for row in rows:
        for key in keys:
            assert 0 < row[key]["low"] <= row[key]["median"] <= row[key]["high"]
        assert row["peak_host_bytes"] > 0
    stored = RunDirectory(path).read_json(FILE)
    assert stored["measurements"] == rows
    assert {"packages", "hardware", "python"} <= stored.keys()
    assert stored["new_tokens"] == (0 if kind == "encoder" else 3)


def test_a_method_without_merging_is_measured_as_it_is(make: Make, registry: Registry) -> None:
    path = trained(make, registry, "decoder", 'method={name="prompt_tuning", num_virtual_tokens=2}')
    result = benchmark_serving(load_finished_run(path, registry), registry, REQUEST)
    assert [row["merged"] for row in result["measurements"]] == [False, False]
    assert "cannot be merged" in result["why_not_merged"]
    with pytest.raises(InputError, match="positions for 254 tokens"):
        benchmark_serving(load_finished_run(path, registry), registry, ServingRequest(prompt_tokens=300))


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    values = [float(i) for i in range(1, 11)]
    interval = median_interval(values)
    assert (interval.median, interval.low, interval.high) == (5.5, 2.0, 9.0)  # covers 97.9 %; the next one 89.1 %
    assert (median_interval([2.0, 1.0]).low, median_interval([2.0, 1.0]).high) == (1.0, 2.0)
