"""The DeepSpeed configuration, and recipes that DeepSpeed does not support."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from peftkit.errors import RecipeError
from peftkit.methods.full import Full
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, deepspeed, load_recipe
from peftkit.recipe.check_recipe import check_recipe
from peftkit.recipe.deepspeed import deepspeed_config, sharding_conflicts
from peftkit.recipe.tables.train_config import DeepSpeedConfig


@pytest.fixture(autouse=True)
def recipe_file(valid_recipe: str, folder: Path) -> None:
    (folder / "x.toml").write_text(valid_recipe, encoding="utf-8")


def load(registry: Registry, *overrides: str) -> Recipe:
    return load_recipe("x.toml", registry, ["train.optimizer=adamw", "train.deepspeed.stage=2", *overrides])


def test_recipe_values_precede_those_of_the_file(registry: Registry, folder: Path) -> None:
    given = {"zero_optimization": {"overlap_comm": False, "stage": 2}, "wall_clock_breakdown": True, "bf16": {"x": 1}}
    (folder / "ds.json").write_text(json.dumps({**given, "gradient_clipping": "auto"}), encoding="utf-8")
    config = deepspeed_config(
        load(registry, "train.deepspeed.config=ds.json", "train.batch_size=3", "train.max_grad_norm=0.5")
    )
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["wall_clock_breakdown"] is True
    assert config["bf16"] == {"x": 1, "enabled": False}
    assert (config["gradient_clipping"], config["train_micro_batch_size_per_gpu"]) == (0.5, 3)


def test_a_file_may_set_the_stage(registry: Registry, folder: Path) -> None:
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    recipe = load_recipe("x.toml", registry, ["train.optimizer=adamw", "train.deepspeed.config=ds.json"])
    assert deepspeed_config(recipe)["zero_optimization"]["stage"] == 3


def test_without_a_stage_nothing_is_sharded(registry: Registry, folder: Path) -> None:
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": {"overlap_comm": True}}), encoding="utf-8")
    recipe = load_recipe("x.toml", registry, ["train.deepspeed.config=ds.json"])
    assert deepspeed_config(recipe)["zero_optimization"]["stage"] == 0


def test_offload_options_are_passed_to_deepspeed(registry: Registry) -> None:
    config = deepspeed_config(load(registry, "train.deepspeed.offload_optimizer=cpu"))
    assert config["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert "offload_param" not in config["zero_optimization"]
    config = deepspeed_config(load(registry, "train.deepspeed.stage=3", "train.deepspeed.offload_parameters=cpu"))
    assert config["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert "offload_optimizer" not in config["zero_optimization"]


def test_offload_options_of_the_file_are_kept(registry: Registry, folder: Path) -> None:
    given = {"zero_optimization": {"offload_optimizer": {"pin_memory": True, "device": "nvme"}}}
    (folder / "ds.json").write_text(json.dumps(given), encoding="utf-8")
    recipe = load(registry, "train.deepspeed.config=ds.json", "train.deepspeed.offload_optimizer=cpu")
    assert deepspeed_config(recipe)["zero_optimization"]["offload_optimizer"] == {"pin_memory": True, "device": "cpu"}


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_deepspeed_config_without_a_file(precision: str, registry: Registry) -> None:
    keys = ("train.batch_size=3", "train.gradient_accumulation_steps=5", "train.max_grad_norm=0.5")
    assert deepspeed_config(load(registry, *keys, f"train.mixed_precision={precision}")) == {
        "zero_optimization": {"stage": 2, "stage3_gather_16bit_weights_on_model_save": True},
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 5,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["train.optimizer=adafactor"],
            "train.optimizer: ZeRO flattens parameters, which changes the updates of adafactor",
        ),
        (["train.fsdp=true"], "train.fsdp: FSDP and DeepSpeed cannot be combined"),
        (["train.on_nan=skip"], "train.on_nan: DeepSpeed cannot discard the gradients of a step"),
        (["train.deepspeed.stage=4"], "train.deepspeed.stage: must be one of 0, 1, 2, 3"),
        (["train.deepspeed.offload_parameters=cpu"], "train.deepspeed.offload_parameters: offloads weights at stage 3"),
        (
            ["train.deepspeed.stage=0", "train.deepspeed.offload_optimizer=cpu"],
            "train.deepspeed.offload_optimizer: offloads from stage 1 on",
        ),
        (["train.deepspeed.config=none.json"], "train.deepspeed.config: cannot be read: .*No such file"),
    ],
)
def test_unsupported_recipes_are_errors(overrides: list[str], words: str, registry: Registry) -> None:
    with pytest.raises(RecipeError, match=words):
        load(registry, *overrides)


@pytest.mark.parametrize(
    ("invalid", "others"),
    [
        ("train.deepspeed.stage=4", ["train.deepspeed.config", "train.fsdp", "train.on_nan"]),
        ("train.deepspeed.config=1", ["train.deepspeed.offload_parameters", "train.fsdp", "train.on_nan"]),
        ("train.deepspeed=1", ["train.fsdp", "train.on_nan"]),
    ],
)
def test_an_invalid_key_of_deepspeed_hides_no_conflict_of_others(
    invalid: str, others: list[str], registry: Registry, folder: Path
) -> None:
    (folder / "ds.json").write_text('{"gradient_clipping": 2}', encoding="utf-8")
    given = ["train.optimizer=adamw", "train.fsdp=true", "train.on_nan=skip"]
    if invalid != "train.deepspeed=1":
        given += ["train.deepspeed.stage=2", "train.deepspeed.config=ds.json", "train.deepspeed.offload_parameters=cpu"]
    report = check_recipe("x.toml", registry, [*given, invalid])
    assert sorted(problem.key for problem in report.errors) == sorted([invalid.partition("=")[0], *others])


@pytest.mark.parametrize("key", ["offload_optimizer", "offload_parameters"])
def test_offloading_without_deepspeed_is_an_error(key: str, registry: Registry) -> None:
    with pytest.raises(RecipeError, match=f"train.deepspeed.{key}: is used only with DeepSpeed"):
        load_recipe("x.toml", registry, [f"train.deepspeed.{key}=cpu"])


def test_stage_0_shards_nothing_and_takes_any_optimizer(registry: Registry) -> None:
    assert load(registry, "train.deepspeed.stage=0", "train.optimizer=adafactor").train.optimizer == "adafactor"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"gradient_clipping": 2},
            "train.deepspeed.config: gradient_clipping is 2 in the file, and train.max_grad_norm is 1.0; make them",
        ),
        ({"train_micro_batch_size_per_gpu": 99}, "train_micro_batch_size_per_gpu is 99 in the file, and train.batch"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2 in the file"),
        ({"optimizer": {"type": "Adam"}}, "the recipe sets the optimizer; remove 'optimizer' from the file"),
        ({"train_batch_size": 8}, "the recipe sets the train batch size; remove 'train_batch_size' from"),
        ({"scheduler": {}}, "the recipe sets the scheduler; remove 'scheduler' from the file"),
        ({"fp16": {"enabled": True}}, "fp16.enabled is true in the file, and train.mixed_precision is 'no'"),
        (
            {"bf16": {"enabled": True}},
            "train.deepspeed.config: bf16.enabled is true in the file, and train.mixed_precision is 'no'",
        ),
        ({"zero_optimization": {"stage": 3}}, "train.deepspeed.stage: is 2, and 3 in the file; make them equal"),
        ([], "cannot be read: ds.json is not a JSON object"),
        (
            {"zero_optimization": 3},
            "train.deepspeed.config: cannot be read: zero_optimization must be an object, not 3",
        ),
        ({"bf16": True}, "cannot be read: bf16 must be an object, not true"),
        (
            {"zero_optimization": {"offload_param": "cpu"}},
            r'cannot be read: zero_optimization\.offload_param must be an object, not "cpu"',
        ),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage must be one of 0, 1, 2, 3, not 7"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage must be one of 0, 1, 2, 3, not true"),
    ],
)
def test_a_file_that_contradicts_the_recipe_is_an_error(
    given: Any, words: str, registry: Registry, folder: Path
) -> None:
    (folder / "ds.json").write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(RecipeError, match=words):
        load(registry, "train.deepspeed.config=ds.json")


def test_a_file_that_agrees_with_the_recipe_is_accepted(registry: Registry, folder: Path) -> None:
    auto = dict.fromkeys(("gradient_clipping", "train_batch_size", "optimizer", "scheduler"), "auto")
    agreeing = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1, "fp16": {"enabled": False}}
    precision = {"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2}}
    (folder / "ds.json").write_text(json.dumps({**auto, **agreeing, **precision}), encoding="utf-8")
    assert [*sharding_conflicts(load(registry, "train.deepspeed.config=ds.json"))] == []


def test_unknown_zero_keys_are_errors_if_deepspeed_is_installed(
    registry: Registry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"overlap_com": True, "stage3_max_live_parameters": 1, "max_live_parameters": 1}
    (folder / "ds.json").write_text(json.dumps({"zero_optimization": given}), encoding="utf-8")
    source = tmp_path / "runtime/zero/config.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "class DeepSpeedZeroConfig(Base):\n    overlap_comm: bool = False\n"
        "    max_live_parameters: int = Field(1, alias='stage3_max_live_parameters')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(deepspeed.SourceLibrary, "folder", tmp_path)
    monkeypatch.setattr(deepspeed, "_zero_keys", deepspeed._zero_keys.__wrapped__)
    text = (
        "zero_optimization has no key 'overlap_com' (did you mean 'overlap_comm'?); DeepSpeed takes "
        "overlap_comm, max_live_parameters, stage3_max_live_parameters"
    )
    with pytest.raises(RecipeError, match=re.escape(text) + "$"):
        load(registry, "train.deepspeed.config=ds.json")
    source.unlink()
    assert load(registry, "train.deepspeed.config=ds.json").train.deepspeed.config == "ds.json"


class Reading(Full):
    """Reads gradients before the step."""

    name: Literal["reading"] = "reading"  # type: ignore[assignment]

    def after_backward(self, model: Any, step: int) -> None:
        pass


def test_methods_that_read_gradients_reject_deepspeed(registry: Registry) -> None:
    sharded = load(registry).model_copy(update={"method": Reading()})
    [(path, text)] = sharding_conflicts(sharded)
    assert path == ("train", "deepspeed", "stage")
    assert text == (
        "'reading' reads gradients before the step, which DeepSpeed does not expose; train without DeepSpeed"
    )
    train = sharded.train.model_copy(update={"deepspeed": DeepSpeedConfig()})
    assert [*sharding_conflicts(sharded.model_copy(update={"train": train}))] == []


@pytest.mark.parametrize(("optimizer", "refused"), [("adafactor", True), ("adamw", False), ("AdamW", False)])
def test_fsdp_accepts_elementwise_optimizers_only(optimizer: str, refused: bool, registry: Registry) -> None:
    recipe = load(registry)
    train = recipe.train.model_copy(update={"deepspeed": DeepSpeedConfig(), "fsdp": True, "optimizer": optimizer})
    conflicts = [*sharding_conflicts(recipe.model_copy(update={"train": train}))]
    assert [path for path, _ in conflicts] == ([("train", "optimizer")] if refused else [])
    assert all(text.startswith("adafactor is not supported on sharded weights; use one of ") for _, text in conflicts)
