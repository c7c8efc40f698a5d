"""Suggestions of methods by meaning."""

from __future__ import annotations

import pytest

from peftkit.components.method_names import LEFT_OUT, OTHER_NAMES, find_left_out, suggest_method
from peftkit.plugins import FIRST_PARTY, load_registry

KNOWN: dict[str, tuple[str, ...]] = dict.fromkeys(load_registry("").all("method"), ())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("DoRA", "dora"),
        ("weight-decomposed", "dora"),
        ("weight_decomposed_low_rank_adaptation", "dora"),
        ("rs-lora", "rslora"),
        ("rank-stabilised", "rslora"),
        ("rank-stabilized lora", "rslora"),
        ("LoRA+", "lora_plus"),
        ("loraplus", "lora_plus"),
        ("Q-LoRA", "qlora"),
        ("4bit_lora", "qlora"),
        ("low-rank adaptation", "lora"),
        ("soft prompt", "prompt_tuning"),
        ("soft_prompt_tuning", "prompt_tuning"),
        ("prefix", "prefix_tuning"),
        ("p-tuning-v2", "prefix_tuning"),
        ("P-Tuning", "p_tuning"),
        ("llama_adapter", "adaption_prompt"),
        ("(IA)^3", "ia3"),
        ("adapters", "houlsby"),
        ("bottleneck adapter", "houlsby"),
        ("AdapterFusion", "pfeiffer"),
        ("parallel", "parallel_adapters"),
        ("compacter++", "compacter_plus_plus"),
        ("reft", "loreft"),
        ("MAD-X", "invertible_bottleneck"),
        ("linear_probe", "head_only"),
        ("last layer", "head_only"),
        ("full_finetuning", "full"),
        ("fine-tuning", "full"),
        ("biases", "bitfit"),
        ("krona", "lokr"),
        ("bone", "miss"),
        ("loftq", "qlora"),
        ("adalora_v2", "adalora"),
        ("", ""),
        ("+-", ""),
        ("no such thing", ""),
    ],
)
def test_names_that_people_use_are_suggested_by_meaning(word: str, expected: str) -> None:
    assert suggest_method(word, KNOWN) == expected


def test_other_names_are_of_methods_of_this_repository_and_mean_one_thing() -> None:
    targets = {*OTHER_NAMES, *(closest for closest, _ in LEFT_OUT.values())}
    assert targets <= {*KNOWN, *FIRST_PARTY}
    phrases = [phrase for others in OTHER_NAMES.values() for phrase in others]
    assert len(phrases) == len(set(phrases))
    for name, others in OTHER_NAMES.items():
        assert [suggest_method(phrase, KNOWN) for phrase in others] == [name] * len(others)


def test_installed_names_mean_themselves() -> None:
    assert [suggest_method(name.upper().replace("_", "-"), KNOWN) for name in KNOWN] == list(KNOWN)


def test_what_peftkit_leaves_out_has_a_reason() -> None:
    assert not LEFT_OUT.keys() & KNOWN.keys()
    closest, reason = find_left_out("LoRA-FA") or ("", "")
    assert closest == "lora"
    assert "is an optimizer of peft" in reason
    assert find_left_out("lora") is None
