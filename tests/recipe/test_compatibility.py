"""What is valid by itself and cannot work together; the words that a recipe's author reads are in test_problems.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from peftkit import Meter
from peftkit.errors import RecipeError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.compatibility import find_conflicts, run_spec, unmeasured_budgets
from peftkit.recipe.config import BudgetConfig, DeepSpeedConfig
from tests.recipe.conftest import Complaints

KINDS = {
    "encoder-decoder": {"is_encoder_decoder": True, "model_type": "t5"},
    "decoder": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    "encoder": {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
}


@pytest.fixture
def recipe(right: str, folder: Path, registry: Registry) -> Recipe:
    (folder / "x.toml").write_text(right, encoding="utf-8")
    return load_recipe("x.toml", registry, ["model.name=some/hub-model", "task.name=wordnet_distractors"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_model_is_judged_once_its_config_is_known(kind: str, recipe: Recipe) -> None:
    assert find_conflicts(recipe, {}) == []
    found = find_conflicts(recipe, KINDS[kind])
    assert [path for path, _ in found] == ([("task", "name")] if kind == "encoder" else [])


def test_the_situation_says_what_the_recipe_asks_for(recipe: Recipe) -> None:
    asked = run_spec(recipe, KINDS["decoder"])
    assert (asked.model_kind, asked.task_kind, asked.model_type) == ("decoder", "generation", "gpt2")
    assert (asked.gradient_checkpointing, asked.mixed_precision) == (False, "no")
    assert run_spec(recipe, {}).model_kind is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.mixed_precision=fp16"], []),
        (["train.mixed_precision=fp16", "model.dtype=bfloat16"], ["train.mixed_precision"]),
        (["train.mixed_precision=bf16", "model.dtype=bfloat16"], []),
        (['metric=[{name = "rouge"}, {name = "rouge"}]'], ["metric", "metric[1].name"]),
        (['metric=[{name = "distractor_match"}, {name = "bleu"}]'], []),
        (['metric=[{name = "accuracy"}, {name = "distractor_match"}]'], ["metric[0].name"]),
        (["metric=[]"], ["metric"]),
        (["method.name=prefix_tuning", "train.gradient_checkpointing=true"], ["method.name"]),
        (["train.gradient_checkpointing=true"], []),
    ],
)
@pytest.mark.usefixtures("recipe")
def test_what_cannot_work_together(overrides: list[str], expected: list[str], registry: Registry) -> None:
    found: list[str] = []
    try:
        load_recipe("x.toml", registry, ["task.name=wordnet_distractors", *overrides])
    except RecipeError as error:
        found = sorted(problem.key for problem in error.problems)
    assert found == expected


RULES = {
    "epochs of a stream": ("stream", ["train.budget={epochs=1}"], ["train.budget.epochs"]),
    "evaluations by epochs of a stream": ("stream", ["evaluate.every=1 epochs"], ["evaluate.every"]),
    "checkpoints by epochs of a stream": ("stream", ["train.checkpoint.every=1 epochs"], ["train.checkpoint.every"]),
    "a stream's rows drawn anew": ("stream", ["run.resample_train=bootstrap"], ["run.resample_train"]),
    "a stream and workers": ("stream", ["train.workers=1"], ["train.workers"]),
    "a stream otherwise": ("stream", ["train.checkpoint.every=off", "evaluate.every=5 steps"], []),
    "rows that are no stream": (
        "rows",
        ["train.budget={epochs=1}", "train.workers=1", "run.resample_train=bootstrap", "evaluate.every=1 epochs"],
        [],
    ),
    "a share that nothing draws": ("rows", ["run.subset_fraction=0.5"], ["run.subset_fraction"]),
    "a share of a bootstrap": (
        "rows",
        ["run.subset_fraction=0.5", "run.resample_train=bootstrap"],
        ["run.subset_fraction"],
    ),
    "a share of a subset": ("rows", ["run.subset_fraction=0.5", "run.resample_train=subset"], []),
    "a head's rate without a head": ("rows", ["train.head_learning_rate=0.1"], ["train.head_learning_rate"]),
    "a head kept without a head": ("rows", ["model.keep_head=true"], ["model.keep_head"]),
    "a decoder's head": (
        "rows",
        ["model.name=pocket-decoder", "model.keep_head=true", "train.head_learning_rate=0.1"],
        ["model.keep_head", "train.head_learning_rate"],
    ),
    "an encoder's head": ("rows", ["model.name=pocket-encoder", "train.head_learning_rate=0.1"], []),
    "double precision": ("rows", ["model.dtype=float64"], []),
    "double precision and autocast": (
        "rows",
        ["model.dtype=float64", "train.mixed_precision=bf16"],
        ["train.mixed_precision"],
    ),
    "double precision and quantised weights": (
        "rows",
        ["model.dtype=float64", "model.quantization=8bit"],
        ["model.quantization"],
    ),
    "teacher forcing of an encoder": (
        "rows",
        ["model.name=pocket-encoder", 'metric=[{name="accuracy"},{name="teacher_forced_match"}]'],
        ["metric[1].name"],
    ),
    "teacher forcing of a decoder": (
        "rows",
        ["model.name=pocket-decoder", 'metric=[{name="accuracy"},{name="teacher_forced_match"}]'],
        [],
    ),
    "only a metric that never selects": ("rows", ['metric=[{name="teacher_forced_match"}]'], ["metric"]),
    "a value that nothing gives": ("rows", ["evaluate.selection_metric=acuracy"], ["evaluate.selection_metric"]),
    "the loss selects": ("rows", ["evaluate.selection_metric=loss"], []),
    "joules that nothing reads": ("rows", ["train.budget={joules=5}"], ["train.budget.joules"]),
}


@pytest.mark.parametrize(("data", "overrides", "expected"), RULES.values(), ids=RULES)
def test_each_rule_names_its_keys(
    data: str, overrides: list[str], expected: list[str], folder: Path, registry: Registry
) -> None:
    rows = "".join(f'{{"text": "t{i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(8))
    paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    for path in paths.values():
        Path(path).write_text(rows, encoding="utf-8")
    tables: dict[str, dict[str, Any]] = {
        "model": {"name": "pocket-t5"},
        "task": {"name": "text_classification", "path": paths, "label_names": ["a", "b"]},
        "method": {"name": "lora"},
        "train": {"budget": {"steps": 1}},
    }
    if data == "stream":
        tables["task"]["streaming"] = True
    (folder / "x.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    found: list[str] = []
    try:
        load_recipe("x.toml", registry, overrides)
    except RecipeError as error:
        found = sorted(problem.key for problem in error.problems)
    assert found == expected


def test_a_budget_of_joules_needs_a_meter_of_them(recipe: Recipe, registry: Registry) -> None:
    limited = recipe.model_copy(update={"train": recipe.train.model_copy(update={"budget": BudgetConfig(joules=5.0)})})
    reading = type("Reading", (Meter,), {"budgets": ("joules",)})
    assert [path for path, _ in unmeasured_budgets(limited, registry)] == [("train", "budget", "joules")]
    assert unmeasured_budgets(recipe, registry) == []
    assert unmeasured_budgets(limited, replace(registry, entries=(Entry("meter", "reading", reading, "x", "1"),))) == []


def test_the_situation_of_a_recipe_that_shards_and_quantises(recipe: Recipe) -> None:
    assert (run_spec(recipe, {}).quantization, run_spec(recipe, {}).sharded) == ("", False)
    train, model = recipe.train, recipe.model
    for update in ({"fsdp": True}, {"deepspeed": DeepSpeedConfig(stage=1)}):
        assert run_spec(recipe.model_copy(update={"train": train.model_copy(update=update)}), {}).sharded
    quantised = recipe.model_copy(update={"model": model.model_copy(update={"quantization": "4bit"})})
    assert run_spec(quantised, {}).quantization == "4bit"


def test_a_revision_of_a_model_that_is_not_on_the_hub(right: str, complaints: Complaints) -> None:
    (error,) = complaints({"x.toml": right.replace('t5"', 't5"\nrevision = "main"')})
    assert error == "x.toml:3: model.revision: 'pocket-t5' is not on the Hub and has no revisions; leave it out"


OPTIONS = "[train.optimizer_options]\n"


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("adafactor", "no_such = 1", ["unknown option; adafactor takes eps, clip_threshold, decay_rate, beta1"]),
        ("AdamW", "beta = [0.9, 0.99]", ["unknown option; AdamW takes betas, eps, ", "(did you mean 'betas'?)"]),
        ("SGD", "momentums = 0.9", ["unknown option; SGD takes momentum, ", "(did you mean 'momentum'?)"]),
        ("sgd", "lr = 0.1", ["is set by train.learning_rate; leave it out"]),
        ("adamw", "params = []", ["is set by the run; leave it out"]),
        ("adamw", "betas = 0.9", ["must be a list of 2: a number, a number, not 0.9"]),
        ("adamw", "betas = [0.9]", ["must be a list of 2: a number, a number, not [0.9]"]),
        ("adamw", "amsgrad = 1", ["must be true or false, not 1"]),
        ("adamw", 'eps = "small"', ["must be a number, not 'small'"]),
        ("adafactor", "relative_step = true", ["must be false: the learning rate is train.learning_rate"]),
        ("adafactor", "clip_threshold = true", ["must be a number, not true"]),
    ],
)
def test_options_that_an_optimizer_does_not_take(
    optimizer: str, options: str, expected: list[str], right: str, complaints: Complaints
) -> None:
    text = f'{right}[train]\noptimizer = "{optimizer}"\n{OPTIONS}{options}\n'
    (error,) = complaints({"x.toml": text})
    assert error.startswith(f"x.toml:12: train.optimizer_options.{options.split(' ')[0]}: {expected[0]}")
    assert error.endswith(expected[-1]) or len(expected) == 1


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adafactor", "eps = [1e-30, 1e-3]\nscale_parameter = true\nrelative_step = false\nbeta1 = 0.9"),
        ("AdamW", "betas = [0.9, 1]\nfused = true\nweight_decay = 0"),
        ("Muon", 'ns_steps = 3\nadjust_lr_fn = "original"'),
    ],
)
def test_options_that_an_optimizer_takes(
    optimizer: str, options: str, right: str, folder: Path, registry: Registry
) -> None:
    text = f'{right}[train]\noptimizer = "{optimizer}"\n{OPTIONS}{options}\n'
    (folder / "x.toml").write_text(text, encoding="utf-8")
    assert len(load_recipe("x.toml", registry).train.optimizer_options) == options.count("=")


def test_an_option_that_a_key_of_its_own_sets(right: str, complaints: Complaints) -> None:
    text = f"{right}[train]\nweight_decay = 0.1\n{OPTIONS}weight_decay = 0.0\n"
    assert complaints({"x.toml": text}) == [
        "x.toml:12: train.optimizer_options.weight_decay: is set by train.weight_decay; leave it out"
    ]


def test_weight_decay_of_an_optimizer_that_has_none(right: str, complaints: Complaints) -> None:
    text = f'{right}[train]\noptimizer = "Rprop"\nweight_decay = 0.1\n'
    assert complaints({"x.toml": text}) == ["x.toml:11: train.weight_decay: Rprop has no weight decay; set it to 0"]


def test_options_of_an_optimizer_that_is_not_known_are_not_checked(right: str, complaints: Complaints) -> None:
    text = f'{right}[train]\noptimizer = "SGDD"\n{OPTIONS}momentum = 0.9\n'
    (error,) = complaints({"x.toml": text})
    assert error.startswith("x.toml:10: train.optimizer: ")
