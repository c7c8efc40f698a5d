"""A run whose batches are split by length: the plain run's results, for the work that it records."""

from __future__ import annotations

import pytest

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.data import microbatches
from peftkit.data.microbatches import PassCosts
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.verify import verify_run
from tests.tiny_runs import Make


def test_a_split_run_has_the_plain_scores_and_records_its_own_work(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microbatches, "pass_costs", lambda model, **_: PassCosts(0.0, {}))
    options = (
        "task.name=colour_text",
        "method.name=quiet",
        "train.gradient_accumulation_steps=2",
        "evaluate.every=6 steps",
    )
    plain = run(make("decoder", "run.name=plain", *options), registry)
    recipe = make("decoder", "run.name=split", *options, "train.split_batches=true")
    split = run(recipe, registry)
    assert plain is not None
    assert split is not None
    expected, summary = RunDirectory(plain).summary(), RunDirectory(split).summary()
    assert (expected["split_batches"], summary["split_batches"]) == (False, True)
    assert summary["final"]["train"]["loss"] == pytest.approx(expected["final"]["train"]["loss"], rel=1e-3)
    for name in ("samples", "input_tokens", "target_tokens"):
        assert summary["cost"][name] == expected["cost"][name]
    assert summary["cost"]["padding_tokens"] == 0 < expected["cost"]["padding_tokens"]
    assert summary["cost"]["gmacs"] < expected["cost"]["gmacs"]
    assert estimate_cost(recipe, registry).gmacs == pytest.approx(summary["cost"]["gmacs"], rel=1e-12)
    work = [check for check in verify_run(split, registry, load_model=False).checks if check.group == "work"]
    assert {check.status for check in work} == {"agrees"}
