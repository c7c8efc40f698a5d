from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftkit.recipe.names import (
    ASSETS,
    BUILT_IN_MODELS,
    model_config,
    model_kind,
    model_path,
    model_problem,
    optimizer_problem,
    torch_optimizers,
)


def test_the_built_in_models_are_there() -> None:
    kinds = {name: model_kind(model_config(name)) for name in BUILT_IN_MODELS}
    assert kinds == {"pocket-t5": "encoder-decoder", "pocket-decoder": "decoder", "pocket-encoder": "encoder"}
    assert [model_path(name) for name in BUILT_IN_MODELS] == [str(ASSETS / name) for name in BUILT_IN_MODELS]
    assert model_path("google-t5/t5-base") == "google-t5/t5-base"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"is_encoder_decoder": True, "architectures": ["X"]}, "encoder-decoder"),
        ({"architectures": ["LlamaForCausalLM"]}, "decoder"),
        ({"architectures": ["GPT2LMHeadModel"]}, "decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "encoder"),
        ({"architectures": []}, None),
        ({"architectures": None}, None),
        ({"architectures": 3}, None),
        ({}, None),
    ],
)
def test_the_kind_of_a_model(config: dict[str, Any], expected: str | None) -> None:
    assert model_kind(config) == expected


@pytest.mark.parametrize(
    "text", ["[1]", "{", "", "\xff", "[" * 100_000], ids=["list", "broken", "empty", "latin", "deep"]
)
def test_a_config_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert model_config(str(tmp_path)) == {}
    assert model_problem(str(tmp_path)).startswith(f"the config.json of {str(tmp_path)!r} ")


@pytest.mark.parametrize("name", [*BUILT_IN_MODELS, "gpt2", "google-t5/t5-base", "EleutherAI/pythia-70m", "a_b/c.d"])
def test_a_model_that_may_be_meant(name: str) -> None:
    assert model_problem(name) == ""


def test_a_local_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    assert model_problem(str(tmp_path)) == ""
    assert model_config(str(tmp_path)) == {"model_type": "t5"}


def test_the_optimizers_are_those_of_torch() -> None:
    theirs = {name for name, found in vars(torch.optim).items() if isinstance(found, type)} - {"Optimizer"}
    assert set(torch_optimizers()) == theirs


@pytest.mark.parametrize("name", ["adafactor", "adamw", "AdamW", "sgd", "RMSprop"])
def test_an_optimizer_in_any_case(name: str) -> None:
    assert optimizer_problem(name) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adam w", "no optimizer is called 'adam w'; known: adafactor, adamw, ASGD, "),
        ("adagard", "(did you mean 'Adagrad'?)"),
        ("sparseadam", "takes sparse gradients only"),
        ("Optimizer", "no optimizer is called 'Optimizer'"),
        ("", "no optimizer is called ''"),
    ],
)
def test_an_optimizer_that_cannot_be_had(name: str, words: str) -> None:
    assert words in optimizer_problem(name)
