"""Unsuitable numbers work or are an input error that names the option, never an error of a library."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peftkit.errors import InputError
from peftkit.models.method_errors import explain_method_errors
from peftkit.plugins import load_registry
from peftkit.testing import apply_method, batch, run_spec

METHODS: dict[str, Any] = {
    name: entry.component for name, entry in load_registry().all("method", presets=False).items()
}
ABSURD = (0, -1, 97)
"""97 exceeds and divides no dimension of the tiny models."""


def numbers(method: Any) -> list[str]:
    """Numeric options."""
    kinds = ("int", "float", "<class 'int'>", "<class 'float'>", "int | None", "float | None", "int | float | None")
    return [name for name, field in method.model_fields.items() if str(field.annotation) in kinds]


def supports_llama(method: Any) -> bool:
    """Whether the method with its tiny options supports Llama."""
    return not method(**method.tiny_options).incompatible_with(run_spec("llama"))


CASES = [
    (name, option)
    for name, method in METHODS.items()
    if name != "adamss" and supports_llama(method)  # its clustering takes seconds
    for option in numbers(method)
]


def outcome(component: Any, option: str, value: float) -> str:
    """The message of the input error, empty if the model works; other errors are raised."""
    try:
        method = component(**{**component.tiny_options, option: value})
        if method.incompatible_with(run_spec("llama")):
            return f"{option} is refused before"
        model = apply_method(method, "llama")
        with explain_method_errors(method, "fails in its first pass"), torch.no_grad():
            model(**batch("llama"))
        assert values_in_layers(model, option) <= {value} or not value
    except (ValidationError, InputError) as error:
        return str(error)
    return ""


def values_in_layers(model: Any, option: str) -> set[float]:
    """The values that peft's layers keep of an option, by the name of their only adapter."""
    kept = [getattr(layer, option, None) for layer in model.modules()]
    return {each["default"] for each in kept if isinstance(each, dict) and isinstance(each.get("default"), int | float)}


@pytest.mark.parametrize(("name", "option"), CASES)
def test_unsuitable_numbers_work_or_are_errors_that_name_the_option(name: str, option: str) -> None:
    component = METHODS[name]
    whole = "int" in str(component.model_fields[option].annotation)
    for value in ABSURD:
        message = outcome(component, option, value if whole else float(value))
        assert not message or option in message


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "r" in method.model_fields])
def test_negative_ranks_are_rejected(name: str) -> None:
    with pytest.raises(ValidationError, match=r"\br\b"):
        METHODS[name](**{**METHODS[name].tiny_options, "r": -1})


def test_adalora_rejects_an_initial_rank_below_the_target_rank() -> None:
    with pytest.raises(ValidationError, match="init_r = 4 is below target_r = 8"):
        METHODS["adalora"](init_r=4, target_r=8)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("oft", {"oft_block_size": 5}, "oft_block_size: 5 does not fit .*, where peft uses 4"),
        ("oft", {"r": 5, "oft_block_size": 0}, "r: 5 does not fit .*, where peft uses 4"),
        ("boft", {"boft_n_butterfly_factor": 2}, "boft_n_butterfly_factor: 2 does not fit .*, where peft uses 1"),
    ],
)
def test_values_that_peft_replaces_are_rejected(name: str, options: dict[str, Any], words: str) -> None:
    for _ in range(2):  # peft warns once
        with pytest.raises(InputError, match=f"method.{words}"):
            apply_method(METHODS[name](**{**METHODS[name].tiny_options, **options}), "llama")


WRONG = (
    *(0, -1, 97, 0.5, -0.5, "", "no_such", "all", True, False, [], [1], [-1], [99999], [0.5], ["no_such"], [[0, 99]]),
    *({}, {"no_such": 1}, {"no_such": "x"}, {"no_such": [1]}, {"q_proj": -1}, {"q_proj": 0.5}),
)
"""Values of every type, of which an option takes some; most do not suit it."""


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "t5", "bert"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "adamss"])
def test_values_of_every_type_train_or_are_errors_that_name_the_option(name: str, architecture: str) -> None:
    component = METHODS[name]
    tiny = json.loads(component(**component.tiny_options).model_dump_json(include={"name", *component.tiny_options}))
    if component(**component.tiny_options).incompatible_with(run_spec(architecture)):
        return
    for option, value in itertools.product(component.model_fields.keys() - {"name"}, WRONG):
        message = option
        try:
            method = component.model_validate_json(json.dumps({**tiny, option: value}), strict=True)
            if method.incompatible_with(run_spec(architecture)):
                continue
            model = apply_method(method, architecture)
            with explain_method_errors(method, "fails in its first pass"):
                model(**batch(architecture)).loss.backward()
        except (ValidationError, InputError) as error:
            message = str(error)
        assert option in message, (option, value)
