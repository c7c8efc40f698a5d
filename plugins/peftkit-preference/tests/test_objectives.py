"""Losses and predictions on tiny models, and whole runs: the base model's passes, steps of several batches, costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from peftkit import Objective, Recipe, RunError, Task
from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.cli import main
from peftkit.data.pipeline import prepare_data
from peftkit.methods.peft_base import PeftMethod
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.models.reference_model import DisabledAdapter
from peftkit.run_directory import RunDirectory
from peftkit.testing import check_objective
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import EVERY_STEP, check_equal_results, check_resume_after, registry_with
from peftkit.train.build_mac_counter import create_mac_counter
from peftkit.train.steps.reference_passes import DISABLED, STORED, ReferencePasses, count_reference_passes
from peftkit_preference import Dpo, Kto, PreferencePairs, SimPo, UnpairedPreference
from peftkit_preference.preference_losses import kto_loss

from .conftest import method, write_lines

OBJECTIVES = [Dpo(beta=0.5, label_smoothing=0.1), SimPo(), Kto(desirable_weight=1.3)]
Train = Callable[..., RunDirectory]


def task_of(objective: Objective, pairs: PreferencePairs, unpaired: UnpairedPreference) -> Task:
    return pairs if objective.task_kind == pairs.kind else unpaired


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_objectives_conform(
    objective: Objective, pairs: PreferencePairs, unpaired: UnpairedPreference, tmp_path: Path
) -> None:
    check_objective(objective, task_of(objective, pairs, unpaired), tmp_path, runs=False)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
@pytest.mark.parametrize(
    "architectures",
    [{"encoder-decoder": "bart", "decoder": "gpt2"}, *({"decoder": n} for n in ("qwen2", "gemma2", "phi"))],
)
def test_objectives_conform_on_further_architectures(
    objective: Objective, architectures: Any, pairs: PreferencePairs, unpaired: UnpairedPreference, tmp_path: Path
) -> None:
    task = task_of(objective, pairs, unpaired)
    check_objective(objective, task, tmp_path, runs=False, architectures=architectures)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [pytest.param(OBJECTIVES[0], marks=pytest.mark.exhaustive), OBJECTIVES[2]], ids=lambda each: each.name
)
def test_a_disabled_adapter_is_the_same_on_two_processes_and_resumed(
    objective: Objective, pairs: PreferencePairs, unpaired: UnpairedPreference, make: Any
) -> None:
    task = task_of(objective, pairs, unpaired)
    make_for_run, registry = make(method("lora"), "llama", objective, task), registry_with(objective, task)

    def make_recipe(*words: str) -> Recipe:
        recipe: Recipe = make_for_run(*words, "train.learning_rate=1.0")  # rewards that rounding gives no other sign
        return recipe

    check_equal_results(make_recipe, registry)
    recipe = make_recipe("resumed", *EVERY_STEP)
    run_processes(recipe, registry)
    check_resume_after(2, recipe, registry)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", OBJECTIVES[::2], ids=lambda each: each.name)
def test_whole_runs_conform(
    objective: Objective, pairs: PreferencePairs, unpaired: UnpairedPreference, tmp_path: Path
) -> None:
    task = task_of(objective, pairs, unpaired)
    check_objective(objective, task, tmp_path, architectures={"decoder": "llama"})


def known(values: dict[str, Any]) -> dict[str, float]:
    """Return the values that are numbers: before the first step there is no mean loss of steps."""
    return {name: value for name, value in values.items() if value is not None}


class Prepared:
    """A model with a method, as a run has it before training."""

    def __init__(self, recipe: Any) -> None:
        self.base = load_base(recipe)
        data = prepare_data(recipe, self.base.objective, Accelerator(cpu=True))
        self.passes = ReferencePasses(recipe, self.base, data, Accelerator(cpu=True))
        self.data, self.model = data, apply_method(recipe, self.base, 4)
        self.objective = self.passes.bind(self.model)

    def shake(self) -> None:
        """Change what is trained."""
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))


def loglikelihood(model: nn.Module, source: list[int], target: list[int], architecture: str) -> tuple[float, int]:
    """Sum the log-probabilities of a target's tokens, one row at a time, without padding."""
    ids = torch.tensor([source if architecture == "t5" else source + target])
    with torch.no_grad():
        if architecture == "t5":
            start: Any = model.config.decoder_start_token_id
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[start, *target[:-1]]])).logits[0]
        else:
            logits = model(input_ids=ids).logits[0, len(source) - 1 : -1]
    return logits.log_softmax(-1)[range(len(target)), target].sum().item(), len(target)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_losses_are_those_of_single_rows_without_padding(
    objective: Any, architecture: str, pairs: PreferencePairs, unpaired: UnpairedPreference, make: Any
) -> None:
    recipe = make(method("lora"), architecture, objective, task_of(objective, pairs, unpaired))("values")
    base, prepared = load_base(recipe).model.eval(), Prepared(recipe)
    prepared.shake()
    model, rows = prepared.model.eval(), [prepared.data.train[i] for i in range(5)]
    batch = prepared.objective.with_statistics(model, prepared.objective.collate(rows))
    expected, ratios = [], []
    for row in rows:
        texts = [(row["source"], target, architecture) for target in row["candidates"]]
        values = [loglikelihood(model, *text) for text in texts]
        references = [loglikelihood(base, *text)[0] for text in texts]
        if isinstance(objective, Kto):
            ratios.append([value - reference for (value, _), reference in zip(values, references, strict=True)])
            continue
        chosen, rejected = row["answer"], 1 - row["answer"]
        if isinstance(objective, SimPo):
            means = [value / tokens for value, tokens in values]
            margin = objective.beta * (means[chosen] - means[rejected] - objective.gamma_beta_ratio)
            expected.append(math.log1p(math.exp(-margin)))
        else:
            change = [value - reference for (value, _), reference in zip(values, references, strict=True)]
            margin = objective.beta * (change[chosen] - change[rejected])
            smoothed = 1 - objective.label_smoothing, objective.label_smoothing
            expected.append(smoothed[0] * math.log1p(math.exp(-margin)) + smoothed[1] * math.log1p(math.exp(margin)))
    if not isinstance(objective, Kto):
        assert prepared.objective.loss(model, batch).item() == pytest.approx(sum(expected), rel=1e-5)
        return
    assert batch["kl_rows"] == len(rows)
    assert batch["kl_sum"].item() == pytest.approx(sum(other for _, other in ratios), rel=1e-4, abs=1e-4)
    for estimate, kl in ((-0.7, 0.0), (1.3, 1.3)):
        expected = []
        for row, (ratio, _) in zip(rows, ratios, strict=True):
            difference = objective.beta * (ratio - kl if row["desirable"] else kl - ratio)
            weight = objective.desirable_weight if row["desirable"] else objective.undesirable_weight
            expected.append(weight * (1 - 1 / (1 + math.exp(-difference))))
        loss = prepared.objective.loss(model, {**batch, "kl_sum": torch.tensor(estimate * len(rows))})
        assert loss.item() == pytest.approx(sum(expected), rel=1e-5)


def test_the_completion_of_another_prompt_is_that_of_the_nearest_row_before(
    unpaired: UnpairedPreference, make: Any
) -> None:
    recipe = make(method("lora"), "llama", Kto(), unpaired)("others")
    objective = load_base(recipe).objective
    rows = [("a", "one"), ("b", "two"), ("b", "three"), ("c", "four")]
    examples = [unpaired.to_prompt({"prompt": prompt, "completion": text}) for prompt, text in rows]
    candidates = [row["candidates"] for row in objective.tokenize(examples, training=True)]
    matching = [texts[0] for texts in candidates]
    assert [texts[1] for texts in candidates] == [matching[3], matching[0], matching[0], matching[2]]
    assert all(len(row["candidates"]) == 1 for row in objective.tokenize(examples, training=False))


@pytest.mark.parametrize("name", ["lora", "prefix_tuning", "ia3"])
def test_passes_without_the_adapter_are_the_base_model(name: str, pairs: PreferencePairs, make: Any) -> None:
    prepared = Prepared(make(method(name), "llama", Dpo(), pairs)("probe"))
    trained = [parameter.requires_grad for parameter in prepared.model.parameters()]
    prepared.shake()
    assert isinstance(prepared.objective.context.reference, DisabledAdapter)
    assert prepared.passes.record() == {"reference": {"from": DISABLED}}
    prepared.passes.check_end(prepared.model)
    assert [parameter.requires_grad for parameter in prepared.model.parameters()] == trained
    with torch.no_grad():
        next(p for p in prepared.model.parameters() if not p.requires_grad).mul_(1.5)
    with pytest.raises(RunError, match="changed the base model in training"):
        prepared.passes.check_end(prepared.model)


def test_dropout_is_off_in_passes_of_the_base_model(pairs: PreferencePairs, make: Any) -> None:
    prepared = Prepared(make(method("lora", lora_dropout=0.5), "llama", Dpo(), pairs)("dropout"))
    model, batch = prepared.model.train(), prepared.objective.collate([prepared.data.train[0]])
    reference = prepared.objective.context.reference
    values = [reference.loglikelihoods(model, batch).tolist() for _ in range(3)]
    assert values[0] == values[1] == values[2]
    assert model.training
    prepared.shake()
    assert prepared.objective.loss(model, batch) != prepared.objective.loss(model, batch)


@pytest.mark.parametrize(("objective", "architecture"), [(OBJECTIVES[0], "t5"), (OBJECTIVES[2], "llama")])
def test_a_disabled_adapter_and_stored_values_train_the_same(
    objective: Objective,
    architecture: str,
    pairs: PreferencePairs,
    unpaired: UnpairedPreference,
    make: Any,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = task_of(objective, pairs, unpaired)
    make_recipe = make(method("lora"), architecture, objective, task)
    disabled = train(make_recipe("disabled"), objective, task)
    monkeypatch.setattr(PeftMethod, "can_disable_adapter", False)
    monkeypatch.setattr("peftkit.methods.lora.Lora.can_disable_adapter", False)
    stored = train(make_recipe("stored"), objective, task)
    assert [run.summary()["reference"]["from"] for run in (disabled, stored)] == [DISABLED, STORED]
    for first, second in zip(disabled.evaluations(), stored.evaluations(), strict=True):
        for split in ("train", "dev", "test"):
            assert known(first[split]) == pytest.approx(known(second[split]), rel=1e-4, abs=1e-5)
    costs = [run.summary()["cost"] for run in (disabled, stored)]
    assert costs[0]["backward_gmacs"] == costs[1]["backward_gmacs"]
    assert stored.evaluations()[0]["cost"]["gmacs"] == stored.summary()["reference"]["gmacs"] > 0
    assert disabled.evaluations()[0]["cost"]["gmacs"] == 0


def test_passes_of_the_base_model_are_counted_without_backward(pairs: PreferencePairs, make: Any) -> None:
    counts = {}
    for objective in (Dpo(), SimPo()):
        recipe = make(method("lora"), "llama", objective, pairs)("counts")
        prepared = Prepared(recipe)
        batch = prepared.objective.collate([prepared.data.train[i] for i in range(4)])
        counter = create_mac_counter(recipe, prepared.objective, prepared.model, {}, optimizer=False)
        counts[objective.name] = counter.count(batch)
        if objective.name == "simpo":
            family = prepared.base.family

            def base_pass(model: nn.Module, batch: Any, family: Any = family) -> Any:
                return family.target_loglikelihoods(model, batch)[0].sum()

            base = type(counter)(load_base(recipe).model, base_pass).count(batch)
    assert counts["dpo"].forward_macs - counts["simpo"].forward_macs == base.forward_macs > 0
    assert counts["dpo"].backward_macs == counts["simpo"].backward_macs


def test_values_are_stored_once_for_equal_texts(pairs: PreferencePairs, make: Any) -> None:
    recipe = make(method("full"), "llama", Dpo(), pairs)("twice")
    rows = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True)).train
    import datasets

    once = count_reference_passes(recipe, rows)  # type: ignore[arg-type]
    assert once == count_reference_passes(recipe, datasets.concatenate_datasets([rows, rows]))  # type: ignore[list-item]


def test_a_method_that_changes_the_base_model_after_all_gets_stored_values(
    pairs: PreferencePairs, make: Any, train: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("peftkit.methods.lora.Lora.can_disable_adapter", True)
    run = train(make(method("pissa"), "llama", Dpo(), pairs)("pissa"), Dpo(), pairs)
    assert run.summary()["reference"]["from"] == STORED
    assert "pissa without its adapter is not the base model" in caplog.text
    assert run.evaluations()[0]["dev"]["reward_margin"] == pytest.approx(0, abs=1e-5)


def test_stored_values_need_rows_that_are_not_streamed(pairs: PreferencePairs, make: Any, train: Train) -> None:
    task = pairs.model_copy(update={"streaming": True})
    with pytest.raises(RunError, match=r"impossible for streamed rows; set task\.streaming = false"):
        train(make(method("full"), "llama", Dpo(), task)("streamed"), Dpo(), task)
    run = train(make(method("lora"), "llama", Dpo(), task)("streamed"), Dpo(), task)
    assert run.summary()["reference"]["from"] == DISABLED


def test_the_kl_estimate_is_over_all_rows_of_a_step(
    unpaired: UnpairedPreference, make: Any, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates: list[float] = []

    def spy(rewards: Any, desirable: Any, reference_point: Any, weights: Any) -> Any:
        estimates.append(float(reference_point))
        return kto_loss(rewards, desirable, reference_point, weights)

    monkeypatch.setattr("peftkit_preference.kto.kto_loss", spy)
    objective = Kto(beta=1.0, undesirable_weight=0.1)
    make_recipe = make(method("lora"), "llama", objective, unpaired)
    whole = train(make_recipe("whole", "train.learning_rate=2.0"), objective, unpaired)
    assert max(estimates) > 0.01
    parts = {
        "accumulated": ("train.batch_size=4", "train.gradient_accumulation_steps=2"),
        "split": ("train.split_batches=true",),
    }
    for name, options in parts.items():
        other = train(make_recipe(name, "train.learning_rate=2.0", *options), objective, unpaired)
        for first, second in zip(whole.evaluations(), other.evaluations(), strict=True):
            assert known(first["train"]) == pytest.approx(known(second["train"]), rel=1e-5, abs=1e-5), name
            assert first["dev"] == pytest.approx(second["dev"], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("name", ["lora", "full"])
def test_estimates_verification_and_predictions(
    name: str, pairs: PreferencePairs, make: Any, train: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = make(method(name), "llama", Dpo(), pairs)("whole")
    run = train(recipe, Dpo(), pairs)
    summary = run.summary()
    assert estimate_cost(recipe, registry_with(Dpo(), pairs)).gmacs == pytest.approx(summary["cost"]["gmacs"])
    assert summary["baselines"]["random"]["dev"]["reward_accuracy"] == pytest.approx(0.5, abs=0.25)
    assert main(["verify", str(run.path)]) == 0, capsys.readouterr().out
    rows = [
        {"prompt": "(colour) ink", "chosen": "blue", "rejected": "red"},
        {"source": "x", "candidates": ["a b", "c"]},
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    capsys.readouterr()
    assert main(["predict", str(run.path), "--file", str(tmp_path / "rows.jsonl")]) == 0
    for line, row in zip(capsys.readouterr().out.splitlines(), rows, strict=True):
        predicted = json.loads(line)
        assert predicted["prediction"] in (*predicted["completions"], "")
        assert sum(predicted["preference_probabilities"]) == pytest.approx(1)
        assert sorted(predicted["completions"]) == sorted(row.get("candidates", ["blue", "red"]))


def test_equal_rewards_prefer_nothing(pairs: PreferencePairs, make: Any, train: Train) -> None:
    run = train(make(method("lora"), "llama", Dpo(), pairs)("start"), Dpo(), pairs)
    start = run.evaluations()[0]["dev"]
    assert (start["reward_accuracy"], start["reward_margin"]) == (0.5, 0.0)
    assert start["loss"] == pytest.approx(math.log(2))
