"""Resampled training rows, and the seeds of initialization and order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from peftkit.data.dataloader import first_batches
from peftkit.data.pipeline import PreparedData, prepare_data
from peftkit.data.row_subsets import resample_indices, stratified_sample
from peftkit.errors import RecipeError, RunError
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.run_directory import RunDirectory
from peftkit.testing.processes import run_processes
from peftkit.train.run import run
from tests.tiny_runs import Make
from tests.train.test_resume import OPTIONS, outcome
from tests.train.test_trainer import rows_of

BOTH = ("bootstrap", "subset")


def prepared(recipe: Recipe) -> PreparedData:
    return prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True))


@given(st.integers(1, 500), st.integers(0, 50), st.floats(0.01, 0.99))
def test_a_sample_depends_only_on_the_seed_and_the_number_of_rows(rows: int, seed: int, fraction: float) -> None:
    assert resample_indices(RunConfig(seed=seed), rows) is None
    drawn = resample_indices(RunConfig(seed=seed, resample_train="bootstrap"), rows)
    chosen = resample_indices(RunConfig(seed=seed, resample_train="subset", subset_fraction=fraction), rows)
    half = resample_indices(RunConfig(seed=seed, resample_train="subset"), rows)
    assert drawn is not None
    assert chosen is not None
    assert half is not None
    assert len(drawn) == rows
    assert len(set(chosen)) == len(chosen) == max(1, round(rows * fraction))
    assert len(half) == max(1, round(rows / 2))
    assert all(0 <= row < rows for row in (*drawn, *chosen))
    other = RunConfig(seed=seed, init_seed=7, order_seed=8, name="x", output="y", resample_train="bootstrap")
    assert resample_indices(other, rows) == drawn


def test_a_bootstrap_leaves_out_about_a_third_of_the_rows() -> None:
    drawn = resample_indices(RunConfig(seed=1, resample_train="bootstrap"), 10_000)
    assert drawn is not None
    assert len(set(drawn)) == pytest.approx(10_000 * (1 - 1 / 2.718), rel=0.02)


@pytest.mark.parametrize("resampling", BOTH)
def test_samples_are_equal_for_methods_and_differ_for_seeds(resampling: str, make: Make) -> None:
    samples = {
        (seed, method): prepared(
            make("decoder", f"run.resample_train={resampling}", f"run.seed={seed}", f"method.name={method}")
        ).digests["train"]
        for seed in (1, 2)
        for method in ("full", "lora")
    }
    assert samples[1, "full"] == samples[1, "lora"] != samples[2, "full"] == samples[2, "lora"]


@pytest.mark.parametrize("resampling", BOTH)
def test_sizes_and_answer_counts_are_those_of_the_sample(resampling: str, make: Make) -> None:
    recipe = make("decoder", f"run.resample_train={resampling}", "task.rows=40", "evaluate.train_examples=12")
    data = prepared(recipe)
    drawn = resample_indices(recipe.run, 40)
    assert drawn is not None
    assert isinstance(data.train, Dataset)
    rows = recipe.task.load()["train"]
    assert data.split_sizes["train"] == len(data.train) == len(drawn)
    assert data.steps_per_epoch(8) == len(drawn) // 8
    assert data.answer_counts == Counter(rows[i]["colour"] for i in drawn)
    [evaluated] = [split for split in data.curve_splits if split.name == "train"]
    assert len(evaluated.indices) == 12
    assert set(evaluated.indices) <= set(drawn)
    trained = {rows[i]["thing"] for i in drawn}
    test = recipe.task.load()["test"]
    assert data.train_overlap["test"] == sum(row["thing"] in trained for row in test)


def test_resampling_a_stream_and_a_fraction_without_a_subset_are_errors(make: Make) -> None:
    with pytest.raises(RecipeError) as caught:
        make("decoder", "task.streaming=true", "run.resample_train=bootstrap", "run.subset_fraction=0.3")
    problems = {problem.key: problem.text for problem in caught.value.problems}
    assert problems.keys() == {"run.resample_train", "run.subset_fraction"}
    assert "are streamed" in problems["run.resample_train"]
    assert 'run.resample_train = "subset"' in problems["run.subset_fraction"]


@pytest.mark.parametrize("resampling", BOTH)
def test_a_resumed_run_keeps_its_sample(
    resampling: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peftkit.train.trainer import Trainer

    recipe = make("decoder", *OPTIONS, "method.name=lora", f"run.resample_train={resampling}", "train.budget.steps=12")
    whole = run(recipe, registry)
    assert whole is not None
    account = Trainer._record_step

    def failing(self: Trainer, *arguments: Any) -> None:
        if self.progress.step == 9 and not self.state.resumed_after_steps:
            raise RunError("power failure")
        account(self, *arguments)

    monkeypatch.setattr(Trainer, "_record_step", failing)
    with pytest.raises(RunError, match="power failure"):
        run(recipe, registry)
    path = max(Path(recipe.run.output).iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert run(recipe, registry, resume=str(path)) == path
    assert RunDirectory(path).summary()["resumed_after_steps"] == [8]
    assert outcome(path) == outcome(whole)
    assert RunDirectory(path).summary()["rows_digests"] == RunDirectory(whole).summary()["rows_digests"]


@pytest.mark.slow
def test_two_processes_train_on_the_sample_of_one(built_in: Callable[..., Recipe], registry: Registry) -> None:
    short = ("run.resample_train=bootstrap", "train.optimizer=SGD", "train.budget.steps=3", "evaluate.every=100%")
    short += ("evaluate.dev_examples=8", "evaluate.test_examples=8", "evaluate.train_examples=8", "method.name=lora")
    short += ("task.name=colours",)
    results: list[Mapping[str, Any]] = []
    for processes, batch in ((1, 8), (2, 4)):
        recipe = built_in(f"of-{processes}", *short, f"train.batch_size={batch}")
        run_processes(recipe, registry, processes)
        [path] = Path(recipe.run.output).iterdir()
        results.append({"loss": rows_of(path)[-1]["dev"]["loss"], **RunDirectory(path).summary()})
    assert results[0]["rows_digests"] == results[1]["rows_digests"]
    assert results[0]["rows"] == results[1]["rows"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-4)


def weights_and_order(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """The initial trainable parameters, and the rows of the first step."""
    base = load_base(recipe)
    data = prepare_data(recipe, base.objective, Accelerator(cpu=True))
    model = apply_method(recipe, base, 6)
    new = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    return new, first_batches(recipe, data.train, base.objective, base.model, 8, 1)[0]["input_ids"]


def test_init_and_order_seeds_default_to_the_seed(make: Make) -> None:
    def initial(**seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
        return weights_and_order(make("decoder", "method.name=lora", *(f"run.{k}={v}" for k, v in seeds.items())))

    def same(one: torch.Tensor, other: torch.Tensor) -> bool:
        return one.shape == other.shape and bool((one == other).all())

    weights, order = initial(seed=1)
    for seeds, keeps_weights, keeps_order in (
        ({"seed": 1}, True, True),
        ({"seed": 2}, False, False),
        ({"seed": 1, "init_seed": 2}, False, True),
        ({"seed": 1, "order_seed": 2}, True, False),
        ({"seed": 2, "init_seed": 1, "order_seed": 1}, True, True),
    ):
        initial_weights, rows = initial(**seeds)
        assert (same(weights, initial_weights), same(order, rows)) == (keeps_weights, keeps_order), seeds


def test_resolved_seeds_are_recorded(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "run.seed=3", "run.order_seed=4", "train.budget.steps=1"), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert (summary["seed"], summary["init_seed"], summary["order_seed"]) == (3, 3, 4)
    assert "init_seed" not in RunDirectory(path).recipe()["run"], "unset seeds follow the seed"


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=200), st.integers(1, 220))
def test_a_sample_keeps_the_proportions_of_every_answer(strata: list[str], limit: int) -> None:
    chosen = stratified_sample(strata, limit, "dev")
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(limit, len(strata))
    assert chosen == stratified_sample(strata, limit, "dev")
    counts = Counter(strata[i] for i in chosen)
    for stratum, number in Counter(strata).items():
        assert abs(counts[stratum] - number * len(chosen) / len(strata)) < 1


def test_a_sample_is_drawn_within_strata() -> None:
    assert stratified_sample(["a"] * 100, 10, "dev") != stratified_sample(["a"] * 100, 10, "test")
