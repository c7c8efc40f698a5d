"""Numbers that do not fit end in an input error that names the option, or in a model: never in a library's error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from peftkit.errors import InputError
from peftkit.models.method_errors import explain_method_errors
from peftkit.plugins import load_registry
from peftkit.testing import apply_method, batch, run_spec

METHODS: dict[str, Any] = {name: entry.component for name, entry in load_registry().all("method").items()}
ABSURD = (0, -1, 97)
"""The last fits no width, and divides none."""


def numbers(method: Any) -> list[str]:
    """The options that are a number."""
    kinds = ("int", "float", "<class 'int'>", "<class 'float'>", "int | None", "float | None", "int | float | None")
    return [name for name, field in method.model_fields.items() if str(field.annotation) in kinds]


def usable(method: Any) -> bool:
    """Whether a method with its trial options takes a Llama."""
    return not method(**method.tiny_options).incompatible_with(run_spec("llama"))


CASES = [
    (name, option)
    for name, method in METHODS.items()
    if name != "adamss" and usable(method)  # whose clustering takes seconds
    for option in numbers(method)
]


def outcome(made: Any, option: str, value: float) -> str:
    """What is said of the option, empty where the model computes with it; anything but an input error goes on."""
    try:
        method = made(**{**made.tiny_options, option: value})
        if method.incompatible_with(run_spec("llama")):
            return f"{option} is refused before"
        model = apply_method(method, "llama")
        with explain_method_errors(method, "fails in its first pass"), torch.no_grad():
            model(**batch("llama"))
    except (ValidationError, InputError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_number_is_refused_in_words_or_works(name: str, option: str) -> None:
    made = METHODS[name]
    whole = "int" in str(made.model_fields[option].annotation)
    for value in ABSURD:
        said = outcome(made, option, value if whole else float(value))
        assert not said or option in said


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "r" in method.model_fields])
def test_no_rank_is_negative(name: str) -> None:
    with pytest.raises(ValidationError, match=r"\br\b"):
        METHODS[name](**{**METHODS[name].tiny_options, "r": -1})


def test_adalora_refuses_ranks_that_would_have_to_grow() -> None:
    with pytest.raises(ValidationError, match="init_r = 4 is below target_r = 8"):
        METHODS["adalora"](init_r=4, target_r=8)
