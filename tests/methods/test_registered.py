"""Names, options and learning rates of the built-in methods."""

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
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.methods.peft_base import PeftMethod
from peftkit.methods.peft_factory import HIDDEN
from peftkit.methods.published_learning_rates import PEFT_LEARNING_RATES
from peftkit.plugins import load_registry
from peftkit.recipe.tables.train_config import TrainConfig
from peftkit.testing import check_published_rates

METHODS: list[Any] = [e.component for e in load_registry("").all("method", presets=False).values()]
PEFT_METHODS = [method for method in METHODS if issubclass(method, PeftMethod)]


def names(method: type[Method]) -> str:
    return str(method.model_fields["name"].default)


def test_every_peft_type_is_a_method() -> None:
    peft_names = {str(t.value).lower() for t in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING}
    assert {names(method) for method in PEFT_METHODS} == peft_names
    assert len(peft_names) >= 45


def test_import_of_methods_is_light() -> None:
    code = """
import sys
from peftkit import RunSpec
from peftkit.plugins import load_registry
spec = RunSpec("encoder", "classification", True, "no", {"model_type": "bert"})
for entry in load_registry("").all("method").values():
    entry.component().incompatible_with(spec)
print(sorted({"torch", "peft", "transformers", "adapters", "datasets", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_every_option_is_described(method: type[Method]) -> None:
    without = [key for key, text in option_descriptions(method).items() if key != "name" and not text]
    assert without == []
    assert method.__doc__


@pytest.mark.parametrize("method", PEFT_METHODS, ids=names)
def test_options_and_defaults_are_those_of_peft(method: type[PeftMethod]) -> None:
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.peft_type)]
    fields = {field.name: field for field in dataclasses.fields(config)}
    base_fields = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    options = {key: value for key, value in method() if key not in ("name", *NOT_OF_CONFIGS)}
    assert options.keys() == fields.keys() - base_fields - HIDDEN - method.excluded_options
    defaults = {k: f.default for k, f in fields.items() if f.default is not dataclasses.MISSING}
    different = {k for k, v in options.items() if k in defaults and as_json(v) != as_json(defaults[k])}
    assert different == OTHER_DEFAULTS.get(names(method), set())


NOT_OF_CONFIGS = {"loraplus_lr_ratio", "use_lorafa", "riemannian_reg", "unsafe_batch_mixing", "init_kv_cache_prefix"}
"""Options that peft has outside its configs, as arguments of optimizers and functions, or that are peftkit's own."""
OTHER_DEFAULTS = {
    # The run's seed, lengths without a default in peft, and values that depend on the model.
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
def test_unknown_options_are_rejected(method: type[Method]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        method.model_validate_json('{"rank": 8}', strict=True)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_a_dumped_method_loads_equal(method: type[Method]) -> None:
    assert method.model_validate_json(method().model_dump_json(), strict=True) == method()


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_search_spaces_have_keys_and_values_of_recipes(method: type[Method]) -> None:
    assert method.search_space
    for key, values in method.search_space.items():
        table, option = key.split(".")
        fields = {"train": TrainConfig, "method": method}[table].model_fields
        assert option in fields
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            getattr({"train": TrainConfig(**{option: value})}.get(table) or method(**{option: value}), option)


SOURCE = r"\S.* \((19|20)\d\d\b[^)]*\).*: \S.*"
"""Authors or library, the year in parentheses, and the location."""
BY_NAME = {names(method): method for method in METHODS}
FULL = ("full", "top_layers", "osf")
VECTORS = ("bitfit", "layer_norm", "ln_tuning", "beft", "ia3", "vera", "pvera", "road", "fourierft", "vblora")
PROMPTS = ("prompt_tuning", "trainable_tokens")


def learning_rates(method: type[Method]) -> Range:
    rates = method.search_space["train.learning_rate"]
    assert isinstance(rates, Range)
    return rates


def middle(name: str) -> float:
    """The middle of a method's range, as a decimal logarithm."""
    rates = learning_rates(BY_NAME[name])
    return (math.log10(rates.low) + math.log10(rates.high)) / 2


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_search_spaces_include_the_published_learning_rates(method: type[Method]) -> None:
    rates = learning_rates(method)
    assert rates.log
    assert rates.high / rates.low >= 100
    assert method.published_rates
    check_published_rates(method)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_published_rates_have_a_source_with_year_and_location(method: type[Method]) -> None:
    for published in method.published_rates:
        assert re.fullmatch(SOURCE, published.source)
        assert published.optimizer in ("AdamW", "Adam", "Adafactor", "")


def test_all_learning_rate_ranges_span_four_decades() -> None:
    assert {round(math.log10(learning_rates(m).high / learning_rates(m).low), 9) for m in METHODS} == {4}


@pytest.mark.parametrize("vectors", [*VECTORS, *PROMPTS])
@pytest.mark.parametrize("full", FULL)
def test_full_weights_are_tuned_a_decade_below_vectors_and_prompts(full: str, vectors: str) -> None:
    assert middle(full) + 1 <= middle(vectors)
    assert learning_rates(BY_NAME[full]).high < learning_rates(BY_NAME[vectors]).high


@pytest.mark.parametrize("prompts", PROMPTS)
def test_lora_is_tuned_between_full_weights_and_prompts(prompts: str) -> None:
    assert middle("full") < middle("lora") < middle(prompts)


def test_every_peft_method_has_published_rates() -> None:
    assert PEFT_LEARNING_RATES.keys() == {names(method) for method in PEFT_METHODS}
