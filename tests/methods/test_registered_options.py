"""Unsuitable numbers work or are an input error that names the option, never an error of a library."""

from __future__ import annotations

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
    except (ValidationError, InputError) as error:
        return str(error)
    return ""


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
