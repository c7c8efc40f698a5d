"""Options that peft's configurations reject are without_blank before a model is loaded."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from peftkit.methods.peft_base import PeftMethod
from peftkit.methods.peft_config import find_rejected_options
from peftkit.methods.peft_schema import read_sources
from peftkit.plugins import Registry

REJECTED: list[tuple[str, Mapping[str, Any], str, str]] = [
    ("prompt_tuning", {"prompt_tuning_init": "TEXT"}, "prompt_tuning_init", "prompt_tuning_init_text can't be None"),
    ("multitask_prompt_tuning", {"prompt_tuning_init": "TEXT"}, "prompt_tuning_init", "prompt_tuning_init_text"),
    ("prompt_tuning", {"tokenizer_kwargs": {"use_fast": True}}, "tokenizer_kwargs", "only valid when using"),
    ("lora", {"layers_pattern": ("h",)}, "layers_pattern", "`layers_to_transform` must also be specified"),
    ("oft", {"r": 8}, "r", "You can only specify either r"),
    ("boft", {"boft_block_num": 2}, "boft_block_num", "You can only specify either boft_block_size"),
    ("gralora", {"r": 30, "gralora_k": 4}, "r", "r should be divisible by gralora_k"),
    ("road", {"group_size": 3}, "group_size", "must be divisible by 2"),
    ("waveft", {"wavelet_family": "x"}, "wavelet_family", "Wavelet family x not supported"),
    (
        "ia3",
        {"target_modules": ("q",), "feedforward_modules": ("wo",)},
        "feedforward_modules",
        "be a subset of `target_",
    ),
]
ACCEPTED: list[tuple[str, Mapping[str, Any]]] = [
    ("prompt_tuning", {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "classify"}),
    ("adalora", {"tinit": 10, "tfinal": 10, "orth_reg_weight": 0.1}),
    ("lora", {"r": 4, "target_modules": ("q",), "loraplus_lr_ratio": 4.0}),
    ("lora", {"layers_pattern": ("h",), "layers_to_transform": (0,)}),
]


def _method(registry: Registry, name: str, options: Mapping[str, Any]) -> PeftMethod:
    method: Any = registry.find("method", name).component.model_validate({"name": name, **options})
    return method


@pytest.mark.parametrize(("name", "options", "option", "text"), REJECTED)
def test_rejected_options_are_named(
    name: str, options: Mapping[str, Any], option: str, text: str, registry: Registry
) -> None:
    [problem] = find_rejected_options(_method(registry, name, options), "decoder")
    assert problem.option == option
    assert problem.text.startswith("peft rejects it: ")
    assert text in problem.text


@pytest.mark.parametrize(("name", "options"), ACCEPTED)
def test_valid_options_are_accepted(name: str, options: Mapping[str, Any], registry: Registry) -> None:
    assert find_rejected_options(_method(registry, name, options), "encoder-decoder") == []


def test_several_rejected_options_are_all_named(registry: Registry) -> None:
    options = {"layers_pattern": ("h",), "boft_block_num": 2}
    problems = find_rejected_options(_method(registry, "boft", options), None)
    assert {problem.option for problem in problems} == {"layers_pattern", "boft_block_num"}


def test_defaults_of_every_method_are_accepted(registry: Registry) -> None:
    for entry in registry.all("method").values():
        if issubclass(entry.component, PeftMethod):
            assert find_rejected_options(_method(registry, entry.name, {}), "decoder") == []


def test_options_that_peft_does_not_check_import_no_peft() -> None:
    code = (
        "import sys; from peftkit.plugins import load_registry\n"
        "lora = load_registry().find('method', 'lora').component\n"
        "lora(r=4, target_modules=('q',), lora_dropout=0.1).find_option_problems('decoder')\n"
        "assert not {'peft', 'torch'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.one_line
def test_no_help_text_lacks_a_blank() -> None:
    words = "For|This|If|The|It|You|Only|With|However|But|Additionally|Suggested|Note|Default|Whether|Currently"
    missing = re.compile(rf"[\w)³$]['\"]?[.,;:!?]?(?:{words})\b")
    without_blank = {
        (name, option.name): match[0]
        for name, configuration in read_sources().items()
        for option in configuration.options
        if (match := missing.search(option.help))
    }
    assert without_blank == {}
