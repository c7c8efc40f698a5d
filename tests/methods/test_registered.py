"""What a user sees of the built-in methods before anything runs."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import subprocess
import sys
from typing import Any

import peft
import pytest
from pydantic import ValidationError

from peftkit import Method, Range
from peftkit.methods import register_methods
from peftkit.methods.peft_base import PeftMethod
from peftkit.methods.peft_factory import HIDDEN
from peftkit.methods.published_learning_rates import PEFT_LEARNING_RATES
from peftkit.recipe.config import TrainConfig
from peftkit.testing import check_published_rates

METHODS = register_methods()
OF_PEFT = [method for method in METHODS if issubclass(method, PeftMethod)]


def names(method: type[Method]) -> str:
    return str(method.model_fields["name"].default)


def test_all_of_peft_are_there_by_peft_s_names() -> None:
    theirs = {str(t.value).lower() for t in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING}
    assert {names(method) for method in OF_PEFT} == theirs
    assert len(theirs) >= 45


def test_importing_them_imports_nothing_heavy() -> None:
    code = """
import sys, peftkit.methods
from peftkit import RunSpec
spec = RunSpec("encoder", "classification", True, "no", {"model_type": "bert"})
for method in peftkit.methods.register_methods():
    method().incompatible_with(spec)
print(sorted({"torch", "peft", "transformers", "adapters", "datasets", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_every_option_is_described(method: type[Method]) -> None:
    without = [key for key, field in method.model_fields.items() if key != "name" and not field.description]
    assert without == []
    assert method.__doc__


@pytest.mark.parametrize("method", OF_PEFT, ids=names)
def test_the_options_are_those_of_peft(method: type[PeftMethod]) -> None:
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.peft_type)]
    fields = {field.name: field for field in dataclasses.fields(config)}
    base_fields = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    options = {key: value for key, value in method() if key not in ("name", "loraplus_lr_ratio")}  # no option of peft's
    assert options.keys() == fields.keys() - base_fields - HIDDEN - method.excluded_options
    theirs = {k: f.default for k, f in fields.items() if f.default is not dataclasses.MISSING}
    different = {k for k, v in options.items() if k in theirs and as_json(v) != as_json(theirs[k])}
    assert different == OURS.get(names(method), set())


OURS = {
    # A seed from the run, lengths where peft has none, and what the model decides.
    "adaption_prompt": {"adapter_len"},
    "cartridge": {"num_virtual_tokens"},
    "cpt": {"cpt_token_ids"},
    "multitask_prompt_tuning": {"num_virtual_tokens"},
    "p_tuning": {"num_virtual_tokens"},
    "prefix_tuning": {"num_virtual_tokens"},
    "prompt_tuning": {"num_virtual_tokens"},
    "vera": {"projection_prng_key"},
}


def as_json(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_what_it_does_not_know_is_refused(method: type[Method]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        method.model_validate_json('{"rank": 8}', strict=True)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_a_dump_gives_the_same_method_again(method: type[Method]) -> None:
    assert method.model_validate_json(method().model_dump_json(), strict=True) == method()


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_what_it_is_tuned_over_are_keys_of_a_recipe(method: type[Method]) -> None:
    assert method.search_space
    for key, of in method.search_space.items():
        table, option = key.split(".")
        fields = {"train": TrainConfig, "method": method}[table].model_fields
        assert option in fields
        for value in (of.low, of.high) if isinstance(of, Range) else of:
            getattr({"train": TrainConfig(**{option: value})}.get(table) or method(**{option: value}), option)


SOURCE = r"\S.* \((19|20)\d\d\b[^)]*\).*: \S.*"
"""Authors or library, the year in parentheses, and the place."""
BY_NAME = {names(method): method for method in METHODS}
FULL = ("full", "top_layers", "osf")
VECTORS = ("bitfit", "layer_norm", "ln_tuning", "beft", "ia3", "vera", "pvera", "road", "fourierft", "vblora")
PROMPTS = ("prompt_tuning", "trainable_tokens")


def learning_rates(method: type[Method]) -> Range:
    of = method.search_space["train.learning_rate"]
    assert isinstance(of, Range)
    return of


def middle(name: str) -> float:
    """The decimal logarithm of the middle of a method's range."""
    of = learning_rates(BY_NAME[name])
    return (math.log10(of.low) + math.log10(of.high)) / 2


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_it_is_tuned_over_decades_that_hold_its_published_learning_rates(method: type[Method]) -> None:
    of = learning_rates(method)
    assert of.log
    assert of.high / of.low >= 100
    assert method.published_rates
    check_published_rates(method)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_every_published_rate_has_a_source_with_its_year_and_place(method: type[Method]) -> None:
    for published in method.published_rates:
        assert re.fullmatch(SOURCE, published.source)
        assert published.optimizer in ("AdamW", "Adam", "Adafactor", "")


def test_equally_many_trials_have_the_same_resolution_for_every_method() -> None:
    assert {round(math.log10(learning_rates(m).high / learning_rates(m).low), 9) for m in METHODS} == {4}


@pytest.mark.parametrize("vectors", [*VECTORS, *PROMPTS])
@pytest.mark.parametrize("full", FULL)
def test_whole_weights_are_tuned_at_least_a_decade_below_vectors_and_prompts(full: str, vectors: str) -> None:
    assert middle(full) + 1 <= middle(vectors)
    assert learning_rates(BY_NAME[full]).high < learning_rates(BY_NAME[vectors]).high


@pytest.mark.parametrize("prompts", PROMPTS)
def test_low_rank_updates_are_tuned_between_whole_weights_and_prompts(prompts: str) -> None:
    assert middle("full") < middle("lora") < middle(prompts)


def test_the_published_rates_are_of_types_that_peft_has() -> None:
    assert PEFT_LEARNING_RATES.keys() == {names(method) for method in OF_PEFT}
