from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from peftkit import Meter, StepStats
from peftkit.errors import InputError
from peftkit.macs import mac_counter as mac_counter
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.macs.mac_counter import MacCounter
from peftkit.methods.full import Full
from peftkit.models import load_base_model
from peftkit.plugins import Entry, Registry
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make


def test_auxiliary_losses_are_counted(make: Make, registry: Registry) -> None:
    options = ("method.name=lora", "train.batch_size=2", *ONE_EVALUATION)
    [with_loss] = costs(run(make("encoder-decoder", *options, "method.monteclora_config={}"), registry))
    [plain] = costs(run(make("encoder-decoder", *options), registry))
    assert with_loss["gmacs"] > plain["gmacs"]


def test_a_quantized_model_is_counted_on_an_unquantized_copy(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", "method.name=lora")
    expected = costs(run(recipe, registry))[-1]["gmacs"]
    quantised = recipe.model_copy(update={"model": recipe.model.model_copy(update={"quantization": "4bit"})})
    loaded = load_base_model.load_base(recipe)
    monkeypatch.setattr("peftkit.train.run.load_base", lambda _: loaded)  # bitsandbytes needs a GPU
    init, devices = MacCounter.__init__, []

    def note(self: MacCounter, model: nn.Module, *rest: Any, **options: Any) -> None:
        devices.append({parameter.device.type for parameter in model.parameters()})
        init(self, model, *rest, **options)

    monkeypatch.setattr(MacCounter, "__init__", note)
    assert costs(run(quantised, registry))[-1]["gmacs"] == expected
    assert devices == [{"meta"}]


class Kept(Meter):
    """Stores the records of all runs of a test."""

    name: Literal["kept"] = "kept"

    records: ClassVar[list[StepStats]] = []

    def update(self, record: StepStats) -> None:
        type(self).records.append(record)

    def totals(self) -> dict[str, float]:
        return {"kept": float(len(type(self).records))}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(24, 40),
    size=st.integers(1, 4),
    microbatches=st.integers(1, 3),
    steps=st.integers(1, 9),
    streaming=st.booleans(),
    kind=st.sampled_from(["encoder-decoder", "decoder", "encoder"]),
)
def test_a_runs_cost_is_the_sum_of_its_steps(
    make: Make, registry: Registry, rows: int, size: int, microbatches: int, steps: int, streaming: bool, kind: str
) -> None:
    Kept.records.clear()
    batch = size * microbatches
    recipe = make(
        kind,
        f"task.rows={rows}",
        f"task.streaming={str(streaming).lower()}",
        f"train.batch_size={size}",
        f"train.gradient_accumulation_steps={microbatches}",
        f"train.budget.samples={(steps - 1) * batch + 1}",
        "train.budget.steps=1000",
        *ONE_EVALUATION,
    )
    meter = Entry("meter", "kept", Kept, "tests", "0")
    watched = Registry((*registry.entries, meter), registry.failures, registry.distributions)
    path = run(recipe, watched)
    assert path is not None
    summary, records = RunDirectory(path).summary(), Kept.records
    # Epochs drop the last partial batch; a step that starts within the budget is counted as a whole.
    assert summary["steps"] == len(records) == steps
    assert summary["samples"] == summary["cost"]["samples"] == sum(r.samples for r in records) == steps * batch
    assert summary["tokens"] == {
        "input": sum(r.input_tokens for r in records),
        "target": sum(r.target_tokens for r in records),
    }
    assert summary["cost"]["padding_tokens"] == sum(r.padding_tokens for r in records)
    macs = [(r.forward_macs, r.backward_macs) for r in records]
    assert summary["cost"]["forward_gmacs"] == pytest.approx(sum(f for f, _ in macs) / 1e9, rel=1e-12)
    assert summary["cost"]["backward_gmacs"] == pytest.approx(sum(b for _, b in macs) / 1e9, rel=1e-12)
    assert all(forward > 0 and backward > 0 for forward, backward in macs)
    assert summary["cost"]["train_seconds"] == pytest.approx(sum(r.seconds for r in records))


def test_meters_stop_before_the_step_is_counted(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watching(Meter):
        name: Literal["watching"] = "watching"

        def on_step_start(self) -> None:
            seen.append("begin")

        def on_step_end(self) -> None:
            seen.append("end")

        def update(self, record: StepStats) -> None:
            seen.append("step")

        def totals(self) -> dict[str, float]:
            return {}

    counted = MacCounter.count
    monkeypatch.setattr(MacCounter, "count", lambda self, batch: (seen.append("count"), counted(self, batch))[1])
    entry = Entry("meter", "watching", Watching, "tests", "0")
    run(make("encoder"), Registry((*registry.entries, entry), registry.failures, registry.distributions))
    assert seen[:2] == ["count", "count"]  # the shortest and the longest batch, before training
    steps = len(seen) // 4
    assert seen[2:] == ["begin", "end", "count", "step"] * steps
    assert steps > 1


def costs(path: Path | None) -> list[dict[str, float]]:
    assert path is not None
    return [row["cost"] for row in RunDirectory(path).evaluations()]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_a_run_records_its_compute(kind: str, make: Make, registry: Registry) -> None:
    path = run(make(kind, "evaluate.every=1 steps"), registry)
    recorded = costs(path)
    assert recorded[0]["gmacs"] == 0
    assert all(later["gmacs"] > before["gmacs"] for before, later in pairwise(recorded))
    last = recorded[-1]
    assert last["elementwise_gops"] > 0
    assert last["optimizer_gops"] > 0
    assert last["gmacs"] == pytest.approx(last["forward_gmacs"] + last["backward_gmacs"])
    assert last["gflops"] == pytest.approx(2 * last["gmacs"])
    assert last["backward_gmacs"] > last["forward_gmacs"]
    assert path is not None
    assert RunDirectory(path).summary()["counting_seconds"] > 0


def test_a_run_counts_few_batches_besides_the_shortest_and_longest(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[int] = []
    counted: list[int] = []
    work, count = MacCounter.count, MacCounter._count

    def note(self: MacCounter, rows: dict[str, Tensor]) -> StepMacs:
        requested.append(rows["input_ids"].shape[1])
        return work(self, rows)

    def note_count(self: MacCounter, requires_grad: tuple[bool, ...], rows: dict[str, Tensor]) -> StepMacs:
        counted.append(rows["input_ids"].shape[1])
        return count(self, requires_grad, rows)

    monkeypatch.setattr(MacCounter, "count", note)
    monkeypatch.setattr(MacCounter, "_count", note_count)
    sizes = ("evaluate.dev_examples=8", "evaluate.test_examples=8", "evaluate.full_splits=false", *ONE_EVALUATION)
    options = ("task.name=wordnet_mcq", "train.batch_size=2", "train.budget.steps=150", *sizes)
    run(make("encoder-decoder", *options), registry)
    assert counted[:2] == requested[:2]
    assert counted[0] <= min(requested)
    assert counted[1] >= max(requested)
    # Six determine a polynomial in the lengths of sources and targets, two confirm it, and some verify it.
    assert len(counted) <= 14 < len({*requested})


def test_batches_too_large_to_count_before_training_are_counted_during_it(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = costs(run(make("decoder", "run.name=one"), registry))
    counted, lengths = MacCounter._count, []

    def without_memory(self: MacCounter, requires_grad: tuple[bool, ...], rows: dict[str, Tensor]) -> StepMacs:
        lengths.append(rows["input_ids"].shape[1])
        if len(lengths) <= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return counted(self, requires_grad, rows)

    monkeypatch.setattr(MacCounter, "_count", without_memory)
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "without_counts"))
    counted_later = costs(run(make("decoder", "run.name=two"), registry))
    assert len(lengths) > 2
    assert [row["gmacs"] for row in counted_later] == [row["gmacs"] for row in expected]


def test_gradient_accumulation_costs_as_much_as_one_large_batch(make: Make, registry: Registry) -> None:
    whole, parts = (
        costs(run(make("decoder", *options, f"run.name={name}"), registry))[-1]["gmacs"]
        for name, options in (
            ("whole", ("train.batch_size=8",)),
            ("parts", ("train.batch_size=4", "train.gradient_accumulation_steps=2")),
        )
    )
    assert parts == pytest.approx(whole, rel=1e-5)  # some models compute rotary angles once per pass


@pytest.mark.slow
def test_two_processes_compute_as_much_as_one(make: Make, registry: Registry) -> None:
    one = make("decoder", "run.name=one", "train.batch_size=8")
    two = make("decoder", "run.name=two", "train.batch_size=4")
    run_processes(one, registry)
    run_processes(two, registry, 2)
    gmacs = [
        costs(path)[-1]["gmacs"]
        for name in ("one", "two")
        for path in Path(one.run.output).iterdir()
        if path.name.startswith(name)
    ]
    assert len(gmacs) == 2
    assert gmacs[0] == pytest.approx(gmacs[1], rel=1e-5)


def test_a_budget_of_gmacs_is_met_within_one_step(make: Make, registry: Registry) -> None:
    step = costs(run(make("decoder", "train.budget.steps=4", "evaluate.every=1 steps", "run.name=try"), registry))
    budget = step[-1]["gmacs"] * 2.5
    largest = max(later["gmacs"] - before["gmacs"] for before, later in pairwise(step))
    for method in ("full", "lora"):
        recipe = make("decoder", f"method.name={method}", f"train.budget.gmacs={budget}", "train.budget.steps=1000")
        last = costs(run(recipe, registry))[-1]["gmacs"]
        assert budget <= last < budget + 1.3 * largest


def test_the_summary_has_the_cost_of_the_last_evaluation(make: Make, registry: Registry) -> None:
    path = run(make("encoder"), registry)
    assert path is not None
    summary = json.loads((path / "summary.json").read_text())
    assert summary["cost"]["gmacs"] == costs(path)[-1]["gmacs"]


class Broken(Full):
    """A method that fails in the forward pass."""

    name: Literal["broken"] = "broken"  # type: ignore[assignment]

    def apply(self, model: Any, context: Any) -> Any:
        model.register_forward_pre_hook(lambda *_: [][0])
        return model


def test_a_method_that_fails_in_the_first_forward_pass_is_an_input_error(make: Make, registry: Registry) -> None:
    known = Registry((*registry.entries, Entry("method", "broken", Broken, "tests", "0")), registry.failures)
    recipe = make("decoder").model_copy(update={"method": Broken()})
    with pytest.raises(InputError, match=r"'broken' fails in the first forward pass .*IndexError: list index"):
        run(recipe, known)
