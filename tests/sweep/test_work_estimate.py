"""Estimates of many runs, which share what they load and count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.errors import PeftkitError
from peftkit.macs.mac_counter import MacCounter
from peftkit.models.load_base_model import apply_method
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import Recipe
from peftkit.sweep.work_estimate import WorkEstimator
from peftkit.train.build_mac_counter import create_mac_counter
from tests.conftest import exhaustive_unless_quick
from tests.tiny_runs import Make, registry_with_test_components

TASKS = ("colours", "colour_text")


@pytest.fixture(scope="session")
def registry() -> Registry:
    return registry_with_test_components()


def gmacs_alone(recipe: Recipe, registry: Registry) -> tuple[float | None, float]:
    estimate = estimate_cost(recipe, registry)
    return estimate.gmacs, estimate.gmacs_per_step


def gmacs_together(estimator: WorkEstimator, recipe: Recipe) -> tuple[float | None, float]:
    estimate = estimator.estimate(recipe, trial=False)
    return estimate.gmacs, estimate.gmacs_per_step


@pytest.mark.parametrize("method", map(exhaustive_unless_quick, load_registry().all("method")))
def test_estimates_that_share_equal_those_that_do_not(method: str, make: Make, registry: Registry) -> None:
    estimator = WorkEstimator(registry)
    for task in TASKS:
        try:
            recipe = make("decoder", f"task.name={task}", f"method.name={method}", "train.batch_size=4")
            alone = gmacs_alone(recipe, registry)
        except PeftkitError as error:
            pytest.skip(f"needs options, or another model: {error}")
        assert gmacs_together(estimator, recipe) == alone


def test_models_tasks_and_batches_do_not_mix(make: Make, registry: Registry) -> None:
    estimator = WorkEstimator(registry)
    kinds = ("encoder", "encoder-decoder")
    recipes = [make(kind, f"task.name={task}") for kind in kinds for task in ("colours", "colour_choice")]
    recipes += [make("encoder", "method.name=prefix_tuning"), make("encoder", "train.batch_size=3")]
    recipes += [make("encoder", "train.budget={epochs=2}"), make("encoder", "train.max_source_length=4")]
    expected = [gmacs_alone(recipe, registry) for recipe in recipes]
    assert [gmacs_together(estimator, recipe) for recipe in recipes] == expected
    assert [gmacs_together(estimator, recipe) for recipe in reversed(recipes)] == expected[::-1]


def test_lengths_of_all_tasks_are_counted_at_once(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passes: list[Any] = []

    def note(self: MacCounter, *arguments: Any, count_on: Any = MacCounter._count_on, **options: Any) -> Any:
        passes.append(arguments)
        return count_on(self, *arguments, **options)

    monkeypatch.setattr(MacCounter, "_count_on", note)
    recipes = [make("encoder-decoder", f"task.name={task}") for task in TASKS]
    numbers, figures = [], []
    for ahead in (False, True):
        monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / str(ahead)))
        estimator = WorkEstimator(registry)
        passes.clear()
        if ahead:
            estimator.read_ahead(recipes)
            assert not passes
        figures.append([gmacs_together(estimator, recipe) for recipe in recipes])
        numbers.append(len(passes))
    assert figures[0] == figures[1]
    assert numbers[1] < numbers[0]


@pytest.mark.parametrize(("method", "option"), [("lora", "r=8"), ("waveft", "n_frequency=64")])
def test_a_method_is_counted_once_for_all_tasks_with_weights_too(
    method: str, option: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters: list[Any] = []

    def note(*arguments: Any, **options: Any) -> Any:
        counters.append(arguments)
        return create_mac_counter(*arguments, **options)

    monkeypatch.setattr("peftkit.sweep.work_estimate.create_mac_counter", note)
    estimator = WorkEstimator(registry)
    for task in TASKS:
        recipe = make("decoder", f"task.name={task}", f"method.name={method}", f"method.{option}")
        estimator.estimate(recipe, trial=False)
    assert len(counters) == 1


def test_a_method_is_applied_once_for_all_tasks_of_a_language_model(
    make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []

    def note(recipe: Recipe, *arguments: Any) -> Any:
        applied.append(f"{recipe.method.name} on {recipe.task.name}")
        return apply_method(recipe, *arguments)

    monkeypatch.setattr("peftkit.sweep.work_estimate.apply_method", note)
    estimator = WorkEstimator(registry)
    for method in ("lora", "full"):
        for kind in ("decoder", "encoder"):
            for task in ("colours", "colour_choice"):
                estimator.estimate(make(kind, f"task.name={task}", f"method.name={method}"), trial=False)
    for method in ("lora", "full"):
        assert [each for each in applied if method in each] == [
            f"{method} on colours",  # by the decoder, and the other two by the encoder, whose heads differ
            f"{method} on colours",
            f"{method} on colour_choice",
        ]
