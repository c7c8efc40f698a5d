"""Conflicts between valid values; ``test_error_messages.py`` tests the messages."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w

from peftkit import Incompatibility, Meter
from peftkit.errors import RecipeError
from peftkit.objectives import ChoiceRanking
from peftkit.plugins import Entry, Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.conflicts.find_conflicts import find_conflicts, run_spec, unmeasured_budgets
from peftkit.recipe.model_names import model_config, model_kind
from peftkit.recipe.tables.train_config import BudgetConfig, DeepSpeedConfig
from tests.recipe.conftest import CheckErrors

KINDS = {
    "encoder-decoder": {"is_encoder_decoder": True, "model_type": "t5"},
    "decoder": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    "encoder": {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
}


@pytest.fixture
def recipe(valid_recipe: str, folder: Path, registry: Registry) -> Recipe:
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")
    return load_recipe("x.toml", registry, ["model.name=some/hub-model", "task.name=wordnet_distractors"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_model_is_checked_once_its_config_is_known(kind: str, recipe: Recipe) -> None:
    assert find_conflicts(recipe, {}) == []
    conflicts = find_conflicts(recipe, KINDS[kind])
    assert [path for path, _ in conflicts] == ([("task", "name")] if kind == "encoder" else [])


def test_run_spec_describes_the_recipe(recipe: Recipe) -> None:
    spec = run_spec(recipe, KINDS["decoder"])
    assert (spec.model_kind, spec.task_kind, spec.model_type) == ("decoder", "generation", "gpt2")
    assert (spec.gradient_checkpointing, spec.mixed_precision) == (False, "no")
    assert run_spec(recipe, {}).model_kind is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.mixed_precision=fp16"], []),
        (["train.mixed_precision=fp16", "model.dtype=bfloat16"], ["train.mixed_precision"]),
        (["train.mixed_precision=bf16", "model.dtype=bfloat16"], []),
        (["evaluate.candidate_end=false"], ["evaluate.candidate_end"]),
        (["evaluate.candidate_end=false", "task.name=wordnet_mcq", "metric=[]"], ["metric"]),
        (['metric=[{name = "rouge"}, {name = "rouge"}]'], ["metric", "metric[1].name"]),
        (['metric=[{name = "distractor_match"}, {name = "bleu"}]'], []),
        (['metric=[{name = "accuracy"}, {name = "distractor_match"}]'], ["metric[0].name"]),
        (["metric=[]"], ["metric"]),
        (["method.name=prefix_tuning", "train.gradient_checkpointing=true"], ["method.name"]),
        (["train.gradient_checkpointing=true"], []),
    ],
)
@pytest.mark.usefixtures("recipe")
def test_conflicting_values_are_reported_at_their_keys(
    overrides: list[str], expected: list[str], registry: Registry
) -> None:
    keys: list[str] = []
    try:
        load_recipe("x.toml", registry, ["task.name=wordnet_distractors", *overrides])
    except RecipeError as error:
        keys = sorted(problem.key for problem in error.problems)
    assert keys == expected


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
def test_every_rule_reports_its_keys(
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
    keys: list[str] = []
    try:
        load_recipe("x.toml", registry, overrides)
    except RecipeError as error:
        keys = sorted(problem.key for problem in error.problems)
    assert keys == expected


class LongRanking(ChoiceRanking):
    """Another objective for multiple choice, for decoders only."""

    name: Literal["long_ranking"] = "long_ranking"  # type: ignore[assignment]
    families = ("decoder",)
    incompatibilities = (Incompatibility(lambda s: s.mixed_precision == "fp16", "half is too short", "use bf16"),)


@pytest.mark.parametrize(
    ("model", "overrides", "expected"),
    [
        ("pocket-t5", [], {}),
        ("pocket-decoder", [], {}),
        ("pocket-decoder", ["objective.name=choice_ranking"], {}),
        ("pocket-decoder", ["objective.name=long_ranking"], {}),
        (
            "pocket-t5",
            ["objective.name=long_ranking"],
            {"objective.name": "'long_ranking' is not for models of kind 'encoder-decoder'; use one of kind decoder"},
        ),
        (
            "pocket-decoder",
            ["objective.name=label_ranking"],
            {"objective.name": "'label_ranking' is for classification tasks, and 'wordnet_mcq' is multiple_choice"},
        ),
        (
            "pocket-decoder",
            ["objective.name=long_ranking", "train.mixed_precision=fp16"],
            {"objective.name": "'long_ranking' is incompatible with this recipe: half is too short; use bf16"},
        ),
        ("pocket-decoder", ["objective.name=choice_ranking", "train.mixed_precision=fp16"], {}),
    ],
)
def test_a_named_objective_suits_the_task_and_the_model(
    model: str,
    overrides: list[str],
    expected: dict[str, str],
    valid_recipe: str,
    folder: Path,
    registry: Registry,
) -> None:
    (folder / "x.toml").write_text(valid_recipe.replace("pocket-t5", model), encoding="utf-8")
    entry = Entry("objective", "long_ranking", LongRanking, "x", "1")
    problems = {}
    try:
        load_recipe("x.toml", replace(registry, entries=(*registry.entries, entry)), overrides)
    except RecipeError as error:
        problems = {problem.key: problem.text for problem in error.problems}
    assert problems.keys() == expected.keys()
    for key, words in expected.items():
        assert words in problems[key]


def test_the_objective_is_that_of_the_model_unless_the_recipe_names_one(
    valid_recipe: str, folder: Path, registry: Registry
) -> None:
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")
    recipe = load_recipe("x.toml", registry)
    assert recipe.objective is None
    assert {each.__name__ for each in recipe.objectives} == {"ChoiceRanking", "MultipleChoiceHead"}
    names = {kind: recipe.objective_for(kind).name for kind in ("encoder-decoder", "decoder", "encoder")}  # type: ignore[arg-type]
    ranking = "choice_ranking"
    assert names == {"encoder-decoder": ranking, "decoder": ranking, "encoder": "multiple_choice_head"}
    named = load_recipe("x.toml", registry, ["objective.name=choice_ranking"])
    assert named.objectives == (ChoiceRanking,)
    assert named.objective_for("decoder") is named.objective
    generating = load_recipe("x.toml", registry, ["task.name=wordnet_distractors"])
    with pytest.raises(LookupError, match="no objective for the task 'wordnet_distractors' and a model of kind 'enc"):
        generating.objective_for("encoder")


class Plain(ChoiceRanking):
    """An objective for multiple choice and all models."""

    name: Literal["plain"] = "plain"  # type: ignore[assignment]
    families = ("encoder-decoder", "decoder", "encoder")


class Marks(Plain):
    """Another one."""

    name: Literal["marks"] = "marks"  # type: ignore[assignment]


@pytest.mark.parametrize("model", ["pocket-t5", "pocket-decoder", "pocket-encoder"])
def test_an_objective_of_a_plugin_is_the_default_only_where_no_built_in_one_fits(
    model: str, valid_recipe: str, folder: Path, registry: Registry
) -> None:
    (folder / "x.toml").write_text(valid_recipe.replace("pocket-t5", model), encoding="utf-8")
    kind: Any = model_kind(model_config(model))
    built_in = load_recipe("x.toml", registry)
    additional = tuple(
        Entry("objective", name, each, "plugin", "1") for name, each in (("plain", Plain), ("marks", Marks))
    )
    both = replace(registry, entries=(*additional, *registry.entries))
    assert load_recipe("x.toml", both).objective_for(kind) == built_in.objective_for(kind)
    assert load_recipe("x.toml", both, ["objective.name=marks"]).objective_for(kind).name == "marks"

    others = tuple(entry for entry in registry.entries if entry.kind != "objective")
    alone = load_recipe("x.toml", replace(registry, entries=(*others, additional[0])))
    assert alone.objective_for(kind).name == "plain"
    with pytest.raises(RecipeError, match="several objectives are for multiple_choice tasks and this model; choose"):
        load_recipe("x.toml", replace(registry, entries=(*others, *additional)))


def test_a_budget_of_joules_needs_a_meter(recipe: Recipe, registry: Registry) -> None:
    limited = recipe.model_copy(update={"train": recipe.train.model_copy(update={"budget": BudgetConfig(joules=5.0)})})
    reading = type("Reading", (Meter,), {"budgets": ("joules",)})
    assert [path for path, _ in unmeasured_budgets(limited, registry)] == [("train", "budget", "joules")]
    assert unmeasured_budgets(recipe, registry) == []
    assert unmeasured_budgets(limited, replace(registry, entries=(Entry("meter", "reading", reading, "x", "1"),))) == []


def test_run_spec_has_sharding_and_quantization(recipe: Recipe) -> None:
    assert (run_spec(recipe, {}).quantization, run_spec(recipe, {}).sharded) == ("", False)
    train, model = recipe.train, recipe.model
    for update in ({"fsdp": True}, {"deepspeed": DeepSpeedConfig(stage=1)}):
        assert run_spec(recipe.model_copy(update={"train": train.model_copy(update=update)}), {}).sharded
    quantised = recipe.model_copy(update={"model": model.model_copy(update={"quantization": "4bit"})})
    assert run_spec(quantised, {}).quantization == "4bit"


def test_a_revision_of_a_built_in_model_is_an_error(valid_recipe: str, check_errors: CheckErrors) -> None:
    (error,) = check_errors({"x.toml": valid_recipe.replace('t5"', 't5"\nrevision = "main"')})
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
def test_invalid_optimizer_options_are_errors(
    optimizer: str, options: str, expected: list[str], valid_recipe: str, check_errors: CheckErrors
) -> None:
    text = f'{valid_recipe}[train]\noptimizer = "{optimizer}"\n{OPTIONS}{options}\n'
    (error,) = check_errors({"x.toml": text})
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
def test_valid_optimizer_options_are_accepted(
    optimizer: str, options: str, valid_recipe: str, folder: Path, registry: Registry
) -> None:
    text = f'{valid_recipe}[train]\noptimizer = "{optimizer}"\n{OPTIONS}{options}\n'
    (folder / "x.toml").write_text(text, encoding="utf-8")
    assert len(load_recipe("x.toml", registry).train.optimizer_options) == options.count("=")


def test_an_optimizer_option_that_a_recipe_key_sets_is_an_error(valid_recipe: str, check_errors: CheckErrors) -> None:
    text = f"{valid_recipe}[train]\nweight_decay = 0.1\n{OPTIONS}weight_decay = 0.0\n"
    assert check_errors({"x.toml": text}) == [
        "x.toml:12: train.optimizer_options.weight_decay: is set by train.weight_decay; leave it out"
    ]


def test_weight_decay_with_an_optimizer_without_it_is_an_error(valid_recipe: str, check_errors: CheckErrors) -> None:
    text = f'{valid_recipe}[train]\noptimizer = "Rprop"\nweight_decay = 0.1\n'
    assert check_errors({"x.toml": text}) == ["x.toml:11: train.weight_decay: Rprop has no weight decay; set it to 0"]


def test_options_of_an_unknown_optimizer_are_not_checked(valid_recipe: str, check_errors: CheckErrors) -> None:
    text = f'{valid_recipe}[train]\noptimizer = "SGDD"\n{OPTIONS}momentum = 0.9\n'
    (error,) = check_errors({"x.toml": text})
    assert error.startswith("x.toml:10: train.optimizer: ")


@pytest.mark.parametrize("model", ["pocket-t5", "pocket-decoder", "pocket-encoder"])
def test_a_metric_of_probabilities_needs_an_objective_that_has_them(
    model: str, folder: Path, registry: Registry
) -> None:
    (folder / "rows.jsonl").write_text('{"text": "t", "labels": ["a", "b"]}\n' * 9, encoding="utf-8")
    metrics = '[{name="multi_label_f1"},{name="mean_average_precision"}]'
    tables: dict[str, Any] = {
        "model": {"name": model},
        "task": {"name": "text_multi_label", "path": str(folder / "rows.jsonl"), "label_names": ["a", "b"]},
        "method": {"name": "lora"},
        "train": {"budget": {"steps": 1}},
    }
    (folder / "x.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    words = (
        r"metric\[1\]\.name: 'mean_average_precision' scores probabilities, which predictions of "
        "'multi_label_generation' do not have; it needs a model of kind encoder"
    )
    refused = pytest.raises(RecipeError, match=words) if model != "pocket-encoder" else nullcontext()
    with refused:
        load_recipe("x.toml", registry, [f"metric={metrics}"])


def test_every_built_in_objective_declares_what_metrics_may_score(registry: Registry) -> None:
    entries = registry.all("objective").values()
    built_in: list[Any] = [entry.component for entry in entries if entry.distribution == "peftkit"]
    assert [each.__name__ for each in built_in if each.scored_values is None] == []
