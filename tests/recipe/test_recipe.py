from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from peftkit.recipe.probes.probe_config import ProbeConfig
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.tables.evaluate_config import EvaluateConfig, EvaluationSet
from peftkit.recipe.tables.model_config import ModelConfig
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.recipe.tables.track_config import TrackConfig, WandbConfig
from peftkit.recipe.tables.train_config import (
    BudgetConfig,
    CheckpointConfig,
    DeepSpeedConfig,
    EarlyStoppingConfig,
    TrainConfig,
)


def tables(model: type[BaseModel]) -> set[type[BaseModel]]:
    inner = {part for f in model.model_fields.values() for part in (f.annotation, *get_args(f.annotation))}
    return {model}.union(*(tables(t) for t in inner if isinstance(t, type) and issubclass(t, ConfigTable)))


def test_every_table_is_strict_frozen_and_documented() -> None:
    config_tables = tables(Recipe)
    train = {TrainConfig, BudgetConfig, CheckpointConfig, EarlyStoppingConfig, DeepSpeedConfig}
    assert config_tables == {
        Recipe,
        RunConfig,
        ModelConfig,
        *train,
        EvaluateConfig,
        EvaluationSet,
        ProbeConfig,
        TrackConfig,
        WandbConfig,
    }
    for table in config_tables:
        config: dict[str, Any] = dict(table.model_config)
        assert (config["extra"], config["frozen"], config["strict"]) == ("forbid", True, True)
        if table is not Recipe:
            undocumented = [key for key, text in option_descriptions(table).items() if not text]
            assert undocumented == []


def test_public_tables_and_keys_exist() -> None:
    assert set(Recipe.model_fields) >= {"run", "model", "task", "method", "train", "evaluate", "metric", "track"}
    keys = {table: set(table.model_fields) for table in tables(Recipe)}
    assert keys[RunConfig] >= {"name", "seed", "output"}
    assert keys[ModelConfig] >= {"name", "dtype"}
    assert keys[TrainConfig] >= {"batch_size", "learning_rate", "optimizer", "budget"}
    assert keys[BudgetConfig] >= {"steps", "samples", "tokens", "epochs", "seconds"}
    assert keys[EvaluateConfig] >= {"every"}
    assert keys[TrackConfig] >= {"to", "wandb"}


DEFAULTS: dict[type[BaseModel], dict[str, Any]] = {
    RunConfig: {
        "name": "run",
        "seed": 42,
        "init_seed": None,
        "order_seed": None,
        "resample_train": None,
        "subset_fraction": None,
        "output": "runs",
    },
    ModelConfig: {
        "name": "m",
        "dtype": "float32",
        "revision": None,
        "attention": None,
        "quantization": None,
        "trust_remote_code": False,
        "keep_head": False,
    },
    BudgetConfig: {
        "steps": None,
        "samples": None,
        "tokens": None,
        "epochs": 1.0,
        "seconds": None,
        "wall_seconds": None,
        "gmacs": None,
        "joules": None,
    },
    CheckpointConfig: {"every": "10%", "keep": 1},
    EarlyStoppingConfig: {"patience": 1, "min_delta": 0.0},
    DeepSpeedConfig: {"stage": None, "offload_optimizer": "none", "offload_parameters": "none", "config": None},
    TrainConfig: {
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "tokens_per_batch": None,
        "learning_rate": 0.001,
        "head_learning_rate": None,
        "optimizer": "adafactor",
        "optimizer_options": {},
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "on_nan": "stop",
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "activation_offloading": False,
        "fast_dropout": True,
        "fast_embedding_gradients": True,
        "pad_to_multiple_of": 1,
        "split_batches": False,
        "cache_frozen_outputs": None,
        "keep_memory": False,
        "compile": False,
        "all_logits": False,
        "max_source_length": 512,
        "max_target_length": 128,
        "truncate_targets": 0.01,
        "workers": 0,
        "early_stopping": None,
        "fsdp": False,
    },
    EvaluationSet: {
        "name": "x",
        "split": "test",
        "path": None,
        "task": {},
        "examples": None,
        "at_end_only": False,
    },
    EvaluateConfig: {
        "every": "10%",
        "at_start": True,
        "batch_size": 32,
        "train_examples": 256,
        "dev_examples": None,
        "test_examples": None,
        "full_splits": True,
        "selection_metric": None,
        "scoring": "sum",
        "candidate_end": True,
        "max_new_tokens": 48,
        "num_beams": 1,
        "stop": (),
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_return_sequences": 1,
        "set": (),
    },
    ProbeConfig: {
        "name": "x",
        "split": None,
        "path": "x.csv",
        "task": {},
        "metric": None,
        "examples": None,
        "max_source_length": None,
        "max_target_length": None,
    },
    TrackConfig: {"to": ("wandb",), "project": "peftkit", "tags": ()},
    WandbConfig: {"mode": "offline"},
}
"""Defaults of keys; changing one changes what existing recipes measure."""


def test_defaults_of_all_keys(valid_recipe: str, folder: Path, registry: Registry) -> None:
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")
    recipe = load_recipe("x.toml", registry)
    train = recipe.train
    read: list[BaseModel] = [recipe.run, recipe.evaluate, recipe.track, recipe.track.wandb, train]
    read += [train.budget, train.checkpoint, train.deepspeed, ModelConfig(name="m"), EarlyStoppingConfig(patience=1)]
    read += [EvaluationSet(name="x", split="test"), ProbeConfig(name="x", path="x.csv")]
    for table in read:
        values = {key: value for key, value in table if not isinstance(value, BaseModel)}
        assert values == DEFAULTS[type(table)]
    assert recipe.format == 2
    assert tables(Recipe) == {Recipe, *DEFAULTS}


LIMITS = [
    (RunConfig, ["seed", "init_seed", "order_seed"], [0, 2**32 - 1], [-1, 2**32, 0.5]),
    (RunConfig, ["subset_fraction"], [1e-9, 0.999], [0.0, 1.0]),
    (RunConfig, ["output"], ["r"], [""]),
    (RunConfig, ["name"], ["a", "0._-", "a" * 100], ["", "-a", "a" * 101, "a b", "a/b", "a\n"]),
    (ModelConfig, ["name"], ["m"], [""]),
    (TrackConfig, ["project"], ["p"], [""]),
    (BudgetConfig, ["steps", "samples", "tokens"], [1], [0, 1.5]),
    (BudgetConfig, ["epochs", "seconds", "wall_seconds", "gmacs", "joules"], [1e-6], [0.0, 9e-7, math.inf]),
    (CheckpointConfig, ["keep"], [1], [0]),
    (EarlyStoppingConfig, ["patience"], [1], [0]),
    (EarlyStoppingConfig, ["min_delta"], [0.0, 0.1], [-1e-9]),
    (TrainConfig, ["batch_size", "gradient_accumulation_steps", "max_source_length", "max_target_length"], [1], [0]),
    (TrainConfig, ["learning_rate", "head_learning_rate"], [1e-12], [0.0, -0.1, math.nan]),
    (TrainConfig, ["weight_decay", "max_grad_norm"], [0.0, 1e-9], [-1e-9]),
    (TrainConfig, ["warmup_ratio"], [0.0, 0.999], [-1e-9, 1.0]),
    (TrainConfig, ["truncate_targets"], [0.0, 1.0], [-1e-9, 1.001]),
    (TrainConfig, ["workers"], [0], [-1]),
    (EvaluateConfig, ["batch_size", "dev_examples", "test_examples", "max_new_tokens", "num_beams"], [1], [0]),
    (EvaluateConfig, ["train_examples"], [0], [-1]),
    (Recipe, ["format"], [1, 2], [0, 3]),
]


@pytest.mark.parametrize(("table", "keys", "accepted", "refused"), LIMITS)
def test_limits_of_keys(table: type[BaseModel], keys: list[str], accepted: list[Any], refused: list[Any]) -> None:
    for key in keys:
        for value in (*accepted, *refused):
            try:
                table.model_validate({key: value})
                wrong = False
            except ValidationError as error:
                wrong = any(problem["loc"][:1] == (key,) for problem in error.errors())
            assert wrong == (value in refused), f"{key} = {value!r}"


CHOICES: list[tuple[type[BaseModel], str, set[Any]]] = [
    (RunConfig, "resample_train", {None, "bootstrap", "subset"}),
    (ModelConfig, "dtype", {"float64", "float32", "bfloat16", "float16"}),
    (ModelConfig, "attention", {None, "eager", "sdpa", "flash_attention_2"}),
    (ModelConfig, "quantization", {None, "4bit", "8bit"}),
    (DeepSpeedConfig, "stage", {None, 0, 1, 2, 3}),
    (DeepSpeedConfig, "offload_optimizer", {"none", "cpu"}),
    (DeepSpeedConfig, "offload_parameters", {"none", "cpu"}),
    (
        TrainConfig,
        "schedule",
        {"constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"},
    ),
    (TrainConfig, "on_nan", {"stop", "skip"}),
    (TrainConfig, "mixed_precision", {"no", "bf16", "fp16"}),
    (EvaluateConfig, "scoring", {"sum", "norm"}),
    (TrackConfig, "to", {"wandb", "tensorboard"}),
    (WandbConfig, "mode", {"online", "offline"}),
]


def test_choices_of_keys() -> None:
    declared = {
        (table, key): choices(field.annotation)
        for table in DEFAULTS
        for key, field in table.model_fields.items()
        if choices(field.annotation) - {None}
    }
    assert declared == {(table, key): words for table, key, words in CHOICES}


def choices(annotation: Any) -> set[Any]:
    """The words of a Literal, and None where it is optional."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    arguments = [a for a in get_args(annotation) if a is type(None) or get_origin(a) is Literal]
    if all(a is type(None) for a in arguments):
        return set()
    return {word for a in arguments for word in ([None] if a is type(None) else get_args(a))}


def test_a_budget_needs_a_limit_and_row_limits_give_known_steps() -> None:
    with pytest.raises(ValidationError, match="needs at least one limit of: steps, samples, tokens, epochs, seconds"):
        BudgetConfig()
    for key in ("steps", "samples", "epochs"):
        assert BudgetConfig(**{key: 1}).has_known_steps
        for other in ("tokens", "seconds", "wall_seconds", "gmacs", "joules"):
            assert not BudgetConfig(**{key: 1, other: 1}).has_known_steps
            assert not BudgetConfig(**{other: 1}).has_known_steps


def test_unset_seeds_and_rates_have_effective_values() -> None:
    assert (RunConfig(seed=3).effective_init_seed, RunConfig(seed=3).effective_order_seed) == (3, 3)
    apart = RunConfig(seed=3, init_seed=0, order_seed=1)
    assert (apart.effective_init_seed, apart.effective_order_seed) == (0, 1)
    assert (
        TrainConfig().effective_head_learning_rate,
        TrainConfig(head_learning_rate=0.5).effective_head_learning_rate,
    ) == (1e-3, 0.5)
    assert not DeepSpeedConfig().used
    assert DeepSpeedConfig(stage=0).used
    assert DeepSpeedConfig(config="ds.json").used


def test_checkpoint_intervals_may_be_off() -> None:
    assert CheckpointConfig(every="off").every == "off"
    for table in (CheckpointConfig, EvaluateConfig):
        assert table(every="5 steps").every == "5 steps"
        with pytest.raises(ValidationError, match="must be written as"):
            table(every="5")
    with pytest.raises(ValidationError, match="must be written as"):
        EvaluateConfig(every="off")


def test_selection_metric_and_its_direction(valid_recipe: str, folder: Path, registry: Registry) -> None:
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")
    recipe = load_recipe("x.toml", registry)
    assert recipe.selection_metric == "accuracy"
    assert recipe.higher_is_better("accuracy")
    assert not recipe.higher_is_better("loss")
    by_loss = load_recipe("x.toml", registry, ["evaluate.selection_metric=loss"])
    assert by_loss.selection_metric == "loss"
    lower = type("Lower", (type(recipe.metric[0]),), {"higher_is_better": False})
    assert not recipe.model_copy(update={"metric": (lower(),)}).higher_is_better("accuracy")
