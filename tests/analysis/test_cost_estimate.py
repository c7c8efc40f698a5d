from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, SplitInfo, load_dataset_builder
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, T5Config

from peftkit.analysis import simulated_steps
from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.components import ApplyContext
from peftkit.errors import InputError
from peftkit.macs.mac_counter import MacCounter
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.tasks.sources import split_loading
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make

KINDS = ["encoder-decoder", "decoder", "encoder"]


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the memory of a step, which takes most of an estimate's time."""
    monkeypatch.setattr(MacCounter, "step_bytes", lambda self, microbatches: 0)


def run_summary(recipe: Recipe, registry: Registry) -> Any:
    path = run(recipe, registry)
    assert path is not None
    return RunDirectory(path).summary()


@pytest.mark.usefixtures("without_memory")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_estimate_equals_the_recorded_costs(kind: str, method: str, make: Make, registry: Registry) -> None:
    epoch = ("train.budget.epochs=1", "train.budget.steps=999")
    recipe = make(kind, f"method.name={method}", "train.batch_size=4", *epoch, *ONE_EVALUATION)
    estimate, summary = estimate_cost(recipe, registry), run_summary(recipe, registry)
    assert estimate.gmacs == pytest.approx(summary["cost"]["gmacs"], rel=0.01)
    assert estimate.gmacs_per_epoch == pytest.approx(estimate.gmacs)
    assert estimate.steps == estimate.steps_per_epoch == summary["steps"]
    assert estimate.trainable_parameters == summary["parameters"]["trainable"]
    assert estimate.total_parameters == summary["parameters"]["total"]
    assert estimate.checkpoint_bytes == summary["cost"]["checkpoint_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["method.name=loha"],
        ["method.name=lora", "method.init_lora_weights=eva"],  # from the activations of the first rows
        ["method.name=lora", "method.monteclora_config={}"],  # samples weights and checks the distribution
    ],
)
def test_methods_that_need_values_are_estimated(options: list[str], make: Make, registry: Registry) -> None:
    recipe = make("decoder", *options, "train.budget.epochs=1", *ONE_EVALUATION)
    estimate, summary = estimate_cost(recipe, registry), run_summary(recipe, registry)
    assert estimate.gmacs == pytest.approx(summary["cost"]["gmacs"], rel=0.01)


def test_large_models_get_no_random_weights(make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_steps, "MAX_RANDOM_PARAMETERS", 1000)

    def simulate(device: str) -> None:
        raise NotImplementedError(f"no values on {device}")

    with pytest.raises(InputError, match=r"'lora' needs weights to be counted, and a model with .* too large"):
        simulated_steps.on_random_weights(make("decoder", "method.name=lora"), simulate)


def test_no_weights_are_loaded(make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(AutoModelForSeq2SeqLM, "from_pretrained", refuse)
    estimate = estimate_cost(make("encoder-decoder", "method.name=lora"), registry, trial=True)
    assert estimate.gmacs_per_step > 0
    assert estimate.seconds_per_step is not None
    assert estimate.seconds_per_step > 0


@pytest.mark.usefixtures("without_memory")
@pytest.mark.parametrize(
    ("budget", "steps"),
    [("steps=7", 7), ("samples=20", 3), ("epochs=2", 12), ("seconds=5", None), ("wall_seconds=5", None)],
)
def test_the_budget_sets_the_number_of_steps(budget: str, steps: int | None, make: Make, registry: Registry) -> None:
    recipe = make("decoder", "train.batch_size=8", f"train.budget.{budget}")
    only = recipe.train.budget.model_copy(
        update={key: None for key, _ in recipe.train.budget if key != budget.split("=")[0]}
    )
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"budget": only})})
    estimate = estimate_cost(recipe, registry)
    if budget.startswith("epochs"):
        assert estimate.steps == 2 * (estimate.steps_per_epoch or 0)
    else:
        assert estimate.steps == steps


@pytest.mark.usefixtures("without_memory")
def test_a_gmacs_budget_is_converted_to_steps(make: Make, registry: Registry) -> None:
    step = estimate_cost(make("decoder"), registry).gmacs_per_step
    estimate = estimate_cost(make("decoder", f"train.budget.gmacs={2.5 * step}", "train.budget.steps=100"), registry)
    assert estimate.steps == 3


def test_a_time_budget_is_converted_to_steps_by_a_trial(make: Make, registry: Registry) -> None:
    recipe = make("decoder", "train.budget.seconds=1", "train.budget.steps=3000")
    unknown = estimate_cost(recipe, registry)
    assert (unknown.steps, unknown.gmacs) == (None, None)  # time may end it before
    estimate = estimate_cost(recipe, registry, trial=True)
    assert estimate.steps is not None
    assert estimate.seconds_per_step is not None
    # The last step exceeds the limit, as steps differ in length.
    assert estimate.steps * estimate.seconds_per_step == pytest.approx(1, rel=0.2)
    assert estimate.seconds == pytest.approx(estimate.steps * estimate.seconds_per_step)


@pytest.mark.usefixtures("without_memory")
def test_an_energy_budget_leaves_the_steps_unknown(make: Make, registry: Registry) -> None:
    recipe = make("decoder", "train.budget.steps=5")
    budget = recipe.train.budget.model_copy(
        update={"joules": 20.0}
    )  # not set by an override, as the check requires a meter of joules
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"budget": budget})})
    estimate = estimate_cost(recipe, registry)
    assert (estimate.steps, estimate.gmacs) == (None, None)
    assert estimate.gmacs_per_step > 0


@pytest.mark.usefixtures("without_memory")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["train.budget.epochs=1.6", "train.batch_size=2", "train.gradient_accumulation_steps=3", "run.seed=2"],
        ["train.budget.epochs=1.2", "train.batch_size=4"],
        ["task.streaming=true", "train.budget.tokens=900", "train.budget.steps=1000", "train.batch_size=5"],
    ],
)
def test_the_row_order_of_later_epochs_is_used(options: list[str], make: Make, registry: Registry) -> None:
    recipe = make("encoder", "train.budget.steps=999", *options, *ONE_EVALUATION)
    estimate, summary = estimate_cost(recipe, registry), run_summary(recipe, registry)
    assert estimate.steps == summary["steps"]
    assert estimate.gmacs == pytest.approx(summary["cost"]["gmacs"], rel=1e-9)
    assert summary["epoch"] > 1


@pytest.mark.usefixtures("without_memory")
def test_long_runs_are_extrapolated_from_their_first_steps(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", "train.batch_size=2", "train.budget.epochs=3", "train.budget.steps=999")
    whole = estimate_cost(recipe, registry)
    monkeypatch.setattr(simulated_steps, "MIN_STEPS", 8)
    monkeypatch.setattr(simulated_steps, "MAX_STEPS", 16)
    estimate = estimate_cost(recipe, registry)
    assert estimate.steps == whole.steps
    assert estimate.gmacs != whole.gmacs
    assert estimate.gmacs == pytest.approx(whole.gmacs, rel=0.2)


@pytest.mark.usefixtures("without_memory")
@pytest.mark.parametrize("limit", ["gmacs", "tokens"])
def test_the_estimate_ends_at_the_limit(limit: str, make: Make, registry: Registry) -> None:
    whole = estimate_cost(make("decoder", "train.batch_size=2", "train.budget.epochs=1"), registry)
    amount = 0.3 * (whole.gmacs_per_epoch or 0) if limit == "gmacs" else 150
    limits = (f"train.budget.{limit}={amount}", "train.budget.steps=1000")
    recipe = make("decoder", "train.batch_size=2", *limits, *ONE_EVALUATION)
    estimate, summary = estimate_cost(recipe, registry), run_summary(recipe, registry)
    assert estimate.steps == summary["steps"] < (whole.steps_per_epoch or 0)
    assert estimate.gmacs == pytest.approx(summary["cost"]["gmacs"], rel=1e-9)


def test_frozen_weights_need_no_gradients_and_optimizer_state(make: Make, registry: Registry) -> None:
    full, lora = (
        estimate_cost(make("encoder-decoder", f"method.name={name}", "train.optimizer=AdamW"), registry)
        for name in ("full", "lora")
    )
    trained = 4 * full.trainable_parameters
    assert full.gradient_bytes == trained
    assert 2 * trained <= full.optimizer_bytes < 2.01 * trained
    assert lora.optimizer_bytes < 0.3 * full.optimizer_bytes
    assert lora.memory_bytes < full.memory_bytes
    assert full.weight_bytes >= trained


def test_gradient_checkpointing_reduces_activation_bytes(make: Make, registry: Registry) -> None:
    kept, recomputed = (
        estimate_cost(make("decoder", "method.name=lora", f"train.gradient_checkpointing={word}"), registry)
        for word in ("false", "true")
    )
    assert recomputed.activation_bytes < kept.activation_bytes
    assert recomputed.gmacs_per_step > kept.gmacs_per_step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "ratio"),
    [
        ("lora", {}, 0.67),
        ("prefix_tuning", {"num_virtual_tokens": 100, "prefix_projection": True}, 0.51),
        ("prefix_tuning", {"num_virtual_tokens": 100}, 0.40),
        ("parallel_adapters", {}, 0.67),
    ],
)
def test_macs_of_t5_base_relative_to_full_fine_tuning(
    name: str, options: dict[str, Any], ratio: float, registry: Registry
) -> None:
    methods = registry.all("method")
    if name not in methods:  # tested where its distribution is installed
        assert registry.distributions.keys() == {"peftkit"} | {d for d in registry.distributions if "adapters" not in d}
        return
    rows = {
        "input_ids": torch.ones(2, 109, dtype=torch.long),
        "attention_mask": torch.ones(2, 109, dtype=torch.long),
        "decoder_input_ids": torch.ones(2, 22, dtype=torch.long),
        "labels": torch.ones(2, 22, dtype=torch.long),
    }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        value: Tensor = model(**batch).loss
        return value

    def macs(method: str, options: dict[str, Any]) -> int:
        config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0)
        with torch.device("meta"):
            model = AutoModelForSeq2SeqLM.from_config(config)
            component: Any = methods[method].component
            adapted = component.model_validate(options).apply(
                model, ApplyContext("encoder-decoder", "generation", seed=0, steps=9)
            )
        count = MacCounter(adapted, loss).count(rows)
        return count.forward_macs + count.backward_macs

    assert macs(name, options) / macs("full", {}) == pytest.approx(ratio, abs=0.015)


@pytest.mark.usefixtures("without_memory")
@pytest.mark.slow
def test_a_sample_of_hub_data_is_read(
    make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"{'a long story of ' * (i % 7)}tweet {i}", "label": i % 2} for i in range(60)]
    for split in ("train", "validation", "test"):
        Dataset.from_list(rows).to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    task = ["task.name=text_classification", f"task.path={tmp_path / 'data'}", 'task.label_names=["no", "yes"]']
    budget = ("train.budget.epochs=2", "train.budget.steps=999")
    recipe = make("decoder", *task, "train.batch_size=4", *budget, *ONE_EVALUATION)
    recorded_gmacs = run_summary(recipe, registry)["cost"]["gmacs"]
    builder = load_dataset_builder(str(tmp_path / "data"))
    builder.info.splits = {s: SplitInfo(s, num_examples=60) for s in ("train", "validation", "test")}
    for split in ("validation", "test"):
        Dataset.from_list([{"other": "column"}]).to_parquet(tmp_path / f"data/{split}-00000-of-00001.parquet")
    monkeypatch.setattr(split_loading, "undownloaded_builder", lambda source: builder)
    monkeypatch.setattr(simulated_steps, "SAMPLE_ROWS", 40)
    estimate = estimate_cost(recipe, registry, trial=True)
    assert estimate.steps_per_epoch == 15
    assert estimate.steps == 30
    assert estimate.gmacs == pytest.approx(recorded_gmacs, rel=0.1)  # estimated from 40 of 60 rows
    assert estimate.seconds_per_step
    builder.info.splits = None  # the number of rows is not published
    estimate = estimate_cost(recipe, registry)
    assert (estimate.steps_per_epoch, estimate.steps, estimate.gmacs) == (None, None, None)
