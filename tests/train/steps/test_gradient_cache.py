"""Losses over all rows of a step: microbatches and processes have the gradients and the compute of one pass."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from peftkit.components import Objective
from peftkit.data.tokenized_split import tokenize_examples
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.methods.full import Full
from peftkit.methods.selective import TopLayers
from peftkit.models import BoundObjective
from peftkit.models.batches.in_batch_negatives import describe_processes
from peftkit.models.load_base_model import load_base
from peftkit.objectives import ContrastiveEmbedding, SimilarityEmbedding
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.testing.run_checks import only_run, recipe_maker, registry_with
from peftkit.train.build_mac_counter import create_mac_counter
from peftkit.train.steps.gradient_cache import GradientCache
from tests.tiny_runs import ColourDocuments, ColourSimilarity

CASES = {
    "contrastive": (ContrastiveEmbedding(), ColourDocuments()),
    "symmetric": (ContrastiveEmbedding(symmetric=True, scale=5), ColourDocuments()),
    "dot": (ContrastiveEmbedding(similarity="dot", scale=1, pooling="cls"), ColourDocuments()),
    "cosent": (SimilarityEmbedding(loss_function="cosent"), ColourSimilarity()),
}
Case = tuple[Recipe, BoundObjective, nn.Module, dict[str, Tensor]]


def make_case(name: str, folder: Path, architecture: str = "bert") -> Case:
    objective, task = CASES[name]
    changes = {"objective": objective.model_dump(), "task": task.model_dump()}
    make = recipe_maker(Full(), architecture, folder, objective, task, changes=changes)
    recipe = make("x", "model.dtype=float64")
    base = load_base(recipe)
    rows: Any = recipe.task.load()["train"]
    examples = [recipe.task.to_example(row) for row in islice(rows, 8)]
    split = tokenize_examples(base.objective, "train", examples, range(8), training=True)
    return recipe, base.objective, base.model.eval(), base.objective.collate(split.rows)


@pytest.fixture(scope="module", params=CASES)
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp("model"))


def gradients(model: nn.Module, losses: Iterable[Tensor]) -> tuple[float, list[Tensor]]:
    model.zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, [p.grad for p in model.parameters() if p.grad is not None]


def cached(case: Case, size: int) -> tuple[float, list[Tensor]]:
    _, objective, model, batch = case
    parts = list(objective.microbatches(batch, size))
    cache = GradientCache(objective, Accelerator(cpu=True))
    cache.fill(parts, lambda part, _: objective.outputs(model, part))
    return gradients(model, (cache.loss(model, part) for part in parts))


@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_microbatches_have_the_gradients_of_the_whole_batch(case: Case, size: int) -> None:
    _, objective, model, batch = case
    loss, expected = gradients(model, [objective.loss(model, batch)])
    total, actual = cached(case, size)
    assert total == pytest.approx(loss, rel=1e-12)
    assert len(actual) == len(expected) > 10
    assert max(each.abs().max().item() for each in expected) > 1e-3
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_rows_of_other_microbatches_matter(case: Case) -> None:
    _, objective, model, batch = case
    whole, _ = gradients(model, [objective.loss(model, batch)])
    apart, _ = gradients(model, (objective.loss(model, part) for part in objective.microbatches(batch, 4)))
    assert abs(apart - whole) > 1e-2


def test_both_passes_are_counted(case: Case) -> None:
    recipe, objective, model, batch = case
    counter = create_mac_counter(recipe, objective, model, {}, optimizer=False)

    def count(parts: Iterable[dict[str, Tensor]]) -> StepMacs:
        return StepMacs(*map(sum, zip(*map(counter.count, parts), strict=True)))

    whole = counter.count(batch)
    halves = list(objective.microbatches(batch, 4))
    two_processes = count(describe_processes(halves, 2))
    assert two_processes[:2] == whole[:2]
    accumulated = count(describe_processes(halves, 1))
    assert accumulated.backward_macs == whole.backward_macs
    encoded = create_mac_counter(recipe, _Encoded(objective), model, {}, optimizer=False).count(batch)  # type: ignore[arg-type]
    assert accumulated.forward_macs == whole.forward_macs + encoded.forward_macs
    assert encoded.forward_macs > 0


class _Encoded:
    """An objective whose loss is computed from the outputs of its rows alone."""

    def __init__(self, objective: BoundObjective) -> None:
        self.objective = objective

    def with_statistics(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch

    def loss_to_count(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.objective.outputs(model, batch).sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symmetric", "cosent"])
def test_processes_and_accumulation_train_the_same_weights(name: str, tmp_path: Path) -> None:
    objective, task = CASES[name]
    changes: dict[str, Any] = {"objective": objective.model_dump(), "task": task.model_dump()}
    make = recipe_maker(Full(), "bert", tmp_path, objective, task, changes=changes)
    registry = registry_with(objective, task)
    common = ("model.dtype=float64", "train.budget.steps=2", "train.learning_rate=1")
    sizes = {
        "one": (8, 1, 1),
        "accumulated": (4, 2, 1),
        "single rows": (1, 8, 1),
        "two": (4, 1, 2),
        "two, accumulated": (2, 2, 2),
    }
    weights, macs = dict[str, dict[str, Tensor]](), dict[str, float]()
    for key, (rows, steps, processes) in sizes.items():
        recipe = make(key, *common, f"train.batch_size={rows}", f"train.gradient_accumulation_steps={steps}")
        run_processes(recipe, registry, processes)
        run = only_run(recipe)
        weights[key] = load_file(next((run / "model").glob("*.safetensors")))
        macs[key] = RunDirectory(run).summary()["cost"]["gmacs"]
    assert macs["two"] == macs["one"] < macs["accumulated"]
    assert macs["accumulated"] == macs["single rows"] == macs["two, accumulated"]
    before = load_file(tmp_path / "model" / "model.safetensors")
    moved = [(value - before[f"bert.{tensor}"]).abs().max() for tensor, value in weights["one"].items()]
    assert max(moved) > 1e-3, "with a learning rate of 1, the differences of weights are gradients"
    for key in [*sizes][1:]:
        for tensor, value in weights["one"].items():
            torch.testing.assert_close(weights[key][tensor], value, rtol=0, atol=1e-10, msg=f"{key}: {tensor}")


@pytest.mark.slow
def test_cached_outputs_of_frozen_layers_change_nothing(tmp_path: Path) -> None:
    objective, task = CASES["contrastive"]
    changes: dict[str, Any] = {"objective": objective.model_dump(), "task": task.model_dump()}
    make = recipe_maker(TopLayers(number=1), "bert", tmp_path, objective, task, changes=changes)
    registry, losses, macs = registry_with(objective, task), [], []
    for name, cache in (("plain", ()), ("cached", ("train.cache_frozen_outputs=1GB",))):
        common = ("train.batch_size=4", "train.gradient_accumulation_steps=2", "train.budget.steps=12")
        recipe = make(name, *common, *cache)
        run_processes(recipe, registry)
        run = RunDirectory(only_run(recipe))
        losses.append([row["dev"]["loss"] for row in run.evaluations()])
        macs.append(run.summary()["cost"]["forward_gmacs"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert macs[1] < macs[0], "later epochs compute no frozen layers"


def test_objectives_that_compare_no_rows_have_no_cache() -> None:
    kinds: list[Objective] = [
        ContrastiveEmbedding(),
        SimilarityEmbedding(),
        SimilarityEmbedding(loss_function="cosent"),
    ]
    assert [each.compares_rows for each in kinds] == [True, False, True]
