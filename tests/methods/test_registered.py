"""What a user sees of the built-in methods before anything runs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import peft
import pytest
from pydantic import ValidationError

from peftkit import Method
from peftkit.methods import register_methods
from peftkit.methods._peft import PeftMethod

METHODS = register_methods()
OF_PEFT = [method for method in METHODS if issubclass(method, PeftMethod)]


def names(method: type[Method]) -> str:
    return str(method.model_fields["name"].default)


def test_the_built_in_methods() -> None:
    assert [names(method) for method in METHODS] == ["full", "lora", "prefix_tuning", "vera"]


def test_importing_them_imports_nothing_heavy() -> None:
    code = """
import sys, peftkit.methods
from peftkit import Situation
asked = Situation("encoder", "classification", True, "no", {"model_type": "bert"})
for method in peftkit.methods.register_methods():
    method().refuses(asked)
print(sorted({"torch", "peft", "transformers", "adapters", "datasets", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_every_option_is_described_and_the_paper_is_named(method: type[Method]) -> None:
    assert [key for key, field in method.model_fields.items() if key != "name" and not field.description] == []
    assert re.search(r"\([A-Z].+, (19|20)\d\d\)", method.__doc__ or "")


@pytest.mark.parametrize("method", OF_PEFT, ids=names)
def test_the_options_are_those_of_peft(method: type[PeftMethod]) -> None:
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.peft_type)]
    fields = {field.name: field for field in dataclasses.fields(config)}
    options = {key: value for key, value in method() if key != "name"}
    assert options.keys() <= fields.keys()
    # The two that differ are peftkit's own choices: a seed from the run, and a length where peft has none.
    theirs = {k: f.default for k, f in fields.items() if f.default is not dataclasses.MISSING}
    different = {k for k, v in options.items() if k in theirs and v != theirs[k]}
    ours = {"lora": set(), "vera": {"projection_prng_key"}, "prefix_tuning": {"num_virtual_tokens"}}
    assert different == ours[names(method)]


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_what_it_does_not_know_is_refused(method: type[Method]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        method.model_validate_json('{"rank": 8}', strict=True)


@pytest.mark.parametrize("method", METHODS, ids=names)
def test_a_dump_gives_the_same_method_again(method: type[Method]) -> None:
    assert method.model_validate_json(method().model_dump_json(), strict=True) == method()
