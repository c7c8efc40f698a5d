"""Suggestions of methods by meaning."""

from __future__ import annotations

import re

import pytest

import peftkit
from peftkit import RecipeError
from peftkit.components.method_suggestions import (
    LEFT_OUT,
    OTHER_NAMES,
    find_left_out,
    find_spelling,
    find_typo,
    suggest_method,
)
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
        ("p-tuning-v2", "p_tuning_v2"),
        ("P-Tuning", "p_tuning"),
        ("llama_adapter", "llama_adapter"),
        ("(IA)^3", "ia3"),
        ("adapters", "houlsby"),
        ("bottleneck adapter", "houlsby"),
        ("sequential adapter", "houlsby"),
        ("AdapterFusion", "pfeiffer"),
        ("parallel", "parallel_adapters"),
        ("compacter++", "compacter_plus_plus"),
        ("reft", "loreft"),
        ("MAD-X", "invertible_bottleneck"),
        ("linear_probing", "linear_probe"),
        ("last layer", "head_only"),
        ("full_finetuning", "full"),
        ("fine-tuning", "full"),
        ("biases", "bitfit"),
        ("krona", "lokr"),
        ("bone", "miss"),
        ("galore", "full"),
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
    assert targets <= {*KNOWN, *FIRST_PARTY, ""}
    phrases = [phrase for others in OTHER_NAMES.values() for phrase in others]
    assert len(phrases) == len(set(phrases))
    for name, others in OTHER_NAMES.items():
        assert [suggest_method(phrase, KNOWN) for phrase in others] == [name] * len(others)


def test_installed_names_mean_themselves() -> None:
    assert [suggest_method(name.upper().replace("_", "-"), KNOWN) for name in KNOWN] == list(KNOWN)


def test_what_peftkit_leaves_out_has_a_reason() -> None:
    assert not LEFT_OUT.keys() & KNOWN.keys()
    closest, reason = find_left_out("GaLore") or ("", "")
    assert closest == "full"
    assert "peftkit has those of torch.optim and Adafactor only" in reason
    assert find_left_out("lora") is None
    squeezed = {re.sub("[^a-z0-9]", "", name) for name in (*KNOWN, *FIRST_PARTY)}
    assert not squeezed & {name.replace("_", "") for name in LEFT_OUT}


OTHERS = {
    "Q-GaLore": "full",
    "APOLLO": "full",
    "BAdam": "full",
    "LLaMA Pro": "",
    "HydraLoRA": "lora",
    "SSF": "ia3",
    "mos": "vblora",
    "QDoRA": "dora",
    "Spectrum": "top_layers",
    "NEFTune": "",
    "Muon": "",
    "Unsloth": "",
    "mixture of depths": "",
    "LISA": "top_layers",
    "ReLoRA": "lora",
    "LT-SFT": "shira",
    "BitDelta": "full",
    "AdapterDrop": "houlsby",
    "HyperFormer": "houlsby",
    "side-tuning": "",
    "LST": "",
    "S4": "",
    "none": "",
    "zero-shot": "",
}


@pytest.mark.parametrize(("word", "near"), OTHERS.items())
def test_what_peftkit_leaves_out_is_explained_and_not_guessed(word: str, near: str) -> None:
    with pytest.raises(RecipeError) as caught:
        peftkit.method(word)
    text = str(caught.value)
    assert re.findall(r"(?:did you mean|the closest is) '(\w+)'", text) == ([near] if near else [])
    assert LEFT_OUT[re.sub(r"\W", "_", word.lower())][1] in text
    assert "installed: " not in text


@pytest.mark.parametrize("word", ["weight-decomposed", "soft prompt", "sequential adapter", "lorra"])
def test_a_suggestion_is_not_lost_in_a_list_of_all_methods(word: str) -> None:
    with pytest.raises(RecipeError, match=r"; to list all, run: peftkit list methods$") as caught:
        peftkit.method(word)
    assert "did you mean" in str(caught.value)
    assert "installed: " not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lroa", "lora"),
        ("loraa", "lora"),
        ("lorra", "lora"),
        ("adalra", "adalora"),
        ("qlroa", "qlora"),
        ("offt", "oft"),
        ("otf", "oft"),
        ("prefix_tuningg", "prefix_tuning"),
        ("prefx_tunin", "prefix_tuning"),
        ("bitfitt", "bitfit"),
        ("vear", "vera"),
        ("housby", "houlsby"),
        ("randlroa", "randlora"),
    ],
)
def test_typos_of_names_are_recognized(word: str, expected: str) -> None:
    assert find_typo(word, [*KNOWN, *FIRST_PARTY]) == expected


@pytest.mark.parametrize(
    "word",
    [
        *("ssf", "mos", "apollo", "badam", "hydralora", "galora", "tlora", "nlora", "mslora", "xpt", "os"),
        *(
            "spectrum",
            "neftune",
            "unsloth",
            "sora",
            "flora",
            "llama_pro",
            "dpo",
            "lst",
            "tuning",
            "prompt",
            "adapter",
            "",
        ),
    ],
)
def test_other_words_are_not_taken_for_typos(word: str) -> None:
    assert find_typo(word, [*KNOWN, *FIRST_PARTY]) == ""


ACCEPTED = {
    "(IA)^3": "ia3",
    "AdaLoRA": "adalora",
    "BitFit": "bitfit",
    "BOFT": "boft",
    "C3A": "c3a",
    "DoRA": "dora",
    "EVA": "eva",
    "FourierFT": "fourierft",
    "full": "full",
    "IA³": "ia3",
    "layer norm": "layer_norm",
    "linear probe": "linear_probe",
    "LLaMA-Adapter": "llama_adapter",
    "LN-tuning": "ln_tuning",
    "LoHa": "loha",
    "LoKr": "lokr",
    "LoRA": "lora",
    "LoftQ": "loftq",
    "LoRA+": "lora_plus",
    "LoRA-FA": "lora_fa",
    "OFT": "oft",
    "OLoRA": "olora",
    "P-tuning v2": "p_tuning_v2",
    "P-tuning": "p_tuning",
    "PiSSA": "pissa",
    "prefix-tuning": "prefix_tuning",
    "prompt tuning": "prompt_tuning",
    "QLoRA": "qlora",
    "RandLoRA": "randlora",
    "rsLoRA": "rslora",
    "VB-LoRA": "vblora",
    "VeLoRA": "velora",
    "VeRA": "vera",
    "X-LoRA": "xlora",
}
SUGGESTED = {
    "adapter": "houlsby",
    "AdapterFusion": "pfeiffer",
    "adapter_H": "houlsby",
    "adapter_P": "pfeiffer",
    "AdaptFormer": "parallel_adapters",
    "bias only": "bitfit",
    "Bone": "miss",
    "CorDA": "eva",
    "double_seq_bn": "houlsby",
    "finetune": "full",
    "full fine-tuning": "full",
    "GaLore": "full",
    "KronA": "lokr",
    "last_layer": "head_only",
    "LoRA adapters": "lora",
    "LoRA-XS": "lora_xs",
    "MAM adapter": "mam",
    "par_bn": "parallel_adapters",
    "parallel adapter": "parallel_adapters",
    "prefix": "prefix_tuning",
    "QDoRA": "dora",
    "ReFT": "loreft",
    "seq_bn": "pfeiffer",
    "SFT": "full",
    "soft prompts": "prompt_tuning",
    "sparse fine-tuning": "shira",
    "T-Few": "ia3",
}
OF_PLUGINS = ("compacter", "Compacter++", "DiReFT", "houlsby", "LoReFT", "MAM", "pfeiffer", "UniPELT")


@pytest.fixture
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTKIT_PLUGINS", "")


@pytest.mark.usefixtures("only_built_in")
@pytest.mark.parametrize(("word", "name"), ACCEPTED.items(), ids=ACCEPTED)
def test_a_name_that_people_use_is_a_name(word: str, name: str) -> None:
    assert peftkit.method(word) == {"name": word}  # else it raises
    assert find_spelling(word, KNOWN) == name


@pytest.mark.usefixtures("only_built_in")
@pytest.mark.parametrize(("word", "name"), SUGGESTED.items(), ids=SUGGESTED)
def test_a_name_that_people_use_gives_the_right_suggestion(word: str, name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        peftkit.method(word)
    text = str(caught.value)
    assert re.findall(rf"called {word!r} \((?:did you mean|the closest is) '(\w+)'", text) == [name]
    assert (f"'{name}' is in the distribution {FIRST_PARTY.get(name)}" in text) == (name in FIRST_PARTY)


@pytest.mark.usefixtures("only_built_in")
@pytest.mark.parametrize("word", OF_PLUGINS)
def test_a_name_of_a_plugin_that_is_not_installed_says_where_it_is(word: str) -> None:
    with pytest.raises(RecipeError, match=r"is in the distribution peftkit-adapters"):
        peftkit.method(word)


def test_the_names_of_plugins_that_are_not_installed_are_suggested_by_their_spelling() -> None:
    registry = load_registry("")
    for name in FIRST_PARTY:
        assert registry.suggest(name.upper().replace("_", "-")) == f" (did you mean {name!r}?)"
