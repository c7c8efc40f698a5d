"""Suggests methods for names that people use, by meaning and not by spelling only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "adalora": ("adaptive lora", "adaptive low rank adaptation", "adaptive rank"),
    "adaption_prompt": ("zero init attention",),
    "bitfit": ("bias", "biases", "bias only", "bias tuning"),
    "boft": ("butterfly",),
    "bottleneck": ("bottleneck layers",),
    "compacter": ("phm adapter", "hypercomplex adapter"),
    "compacter_plus_plus": ("compacter++",),
    "cpt": ("context aware prompt",),
    "dora": ("weight decomposed", "weight decomposed low rank adaptation", "magnitude and direction", "qdora"),
    "eva": ("explained variance", "data driven init"),
    "fourierft": ("fourier",),
    "full": ("all weights", "fft", "fine tune", "fine tuning", "ft", "full fine tuning", "full ft", "sft"),
    "head_only": ("classifier", "head", "last layer", "output layer"),
    "houlsby": (
        "adapter",
        "adapter h",
        "adapters",
        "bottleneck adapter",
        "double seq bn",
        "serial adapter",
        "series adapter",
    ),
    "ia3": ("infused adapter", "t few"),
    "invertible_bottleneck": ("invertible adapter", "mad x"),
    "kasa": ("knowledge aware", "singular value adaptation"),
    "layer_norm": ("layer norms", "norm", "normalization"),
    "ln_tuning": ("layer norm tuning",),
    "loha": ("hadamard", "lycoris"),
    "linear_probe": ("frozen", "frozen model", "linear probing", "probe", "probing"),
    "lokr": ("krona", "kronecker"),
    "lora": ("lora adapter", "lora adapters", "low rank", "low rank adaptation", "peft"),
    "lora_plus": ("lora+",),
    "lora_xs": ("lora extremely small",),
    "loreft": ("reft", "representation finetuning"),
    "mam": ("mix and match",),
    "miss": ("bone", "shard sharing"),
    "multitask_prompt_tuning": ("mpt",),
    "olora": ("orthonormal lora", "qr init"),
    "parallel_adapters": ("adaptformer", "par bn", "parallel", "parallel adapter", "scaled parallel"),
    "p_tuning_v2": ("ptuning v2",),
    "pfeiffer": ("adapter p", "adapterfusion", "adapterhub", "seq bn"),
    "pissa": ("principal singular", "svd init", "svd lora"),
    "poly": ("polytropon",),
    "prefix_tuning": ("deep prompt", "prefix", "prefix tuning v2"),
    "prompt_tuning": ("prompt", "soft prompt", "soft prompts"),
    "qlora": ("4bit lora", "nf4", "quantized lora", "quantized low rank adaptation"),
    "rslora": ("rank stabilized", "rank stabilized low rank adaptation"),
    "shira": ("sparse fine tuning", "sparse high rank"),
    "top_layers": ("freeze", "freezing", "last layers", "partial fine tuning"),
    "trainable_tokens": ("embedding", "embedding tuning", "embeddings", "token embeddings"),
    "unipelt": ("unified pelt",),
    "vera": ("vector based random matrix",),
    "waveft": ("wavelet",),
    "xlora": ("lora mixture", "mixture of lora", "moe lora", "mole"),
}
"""Other names and descriptions of the methods and presets of this repository, installed or not."""
_NO_LIBRARY = "{} is in neither peft nor AdapterHub's library; a plugin can add it"
LEFT_OUT: Mapping[str, tuple[str, str]] = {
    "corda": ("eva", "CorDA changes the frozen weights by data, so its adapter fits no other copy of the model"),
    "dylora": ("lora", _NO_LIBRARY.format("DyLoRA")),
    "galore": (
        "full",
        "GaLore is an optimizer of all weights, and peftkit has those of torch.optim and Adafactor only",
    ),
    "lisa": ("top_layers", "LISA trains other layers after every few steps; a plugin can add it"),
    "loftq": ("qlora", "LoftQ starts from a quantization of its own, and peftkit has that of bitsandbytes only"),
    "longlora": ("lora", "LongLoRA changes the model's attention"),
    "lora_fa": ("lora", "LoRA-FA is an optimizer of peft, and peftkit has those of torch.optim and Adafactor only"),
    "lora_ga": ("eva", "LoRA-GA changes the frozen weights by data, so its adapter fits no other copy of the model"),
    "mora": ("lora", _NO_LIBRARY.format("MoRA")),
    "qalora": ("qlora", "QA-LoRA needs weights quantized by GPTQ, and peftkit has bitsandbytes only"),
    "relora": ("lora", "ReLoRA merges its updates into the weights during training; a plugin can add it"),
}
"""Methods that peftkit leaves out: the closest one that it has, and why."""


def suggest_method(word: str, known: Mapping[str, Iterable[str]]) -> str:
    """Find the method that a word means.

    Args:
        word: An unknown name or a description, such as ``soft-prompt``.
        known: The installed methods, each with its further names.

    Returns:
        The name of a method or preset, which may belong to a plugin that is not installed; empty if there is none.
    """
    if not (squeezed := _squeeze(word)):
        return ""
    if left_out := find_left_out(word):
        return left_out[0]
    phrases: dict[str, str] = {}
    for name in (*known, *OTHER_NAMES):
        for phrase in (name, *OTHER_NAMES.get(name, ()), *known.get(name, ())):
            phrases.setdefault(_normalize(phrase), name)
    for phrase, name in phrases.items():
        if phrase.replace(" ", "") == squeezed:
            return name
    words = set(_normalize(word).split())
    names = {_normalize(name) for name in phrases.values()}
    contained = [p for p in phrases if set(p.split()) <= words and (" " in p or (p in names and len(p) > 2))]
    return phrases[max(contained, key=len)] if contained else ""


def find_spelling(word: str, known: Iterable[str]) -> str:
    """Find the name that a word spells in another way.

    Args:
        word: A name as papers and other tools spell it, such as ``LoRA+`` or ``prefix-tuning``.
        known: The installed methods.

    Returns:
        The installed method, such as ``lora_plus``; empty if there is none or more than one.
    """
    names = [name for name in known if _squeeze(name) == _squeeze(word)]
    return names[0] if len(names) == 1 else ""


def find_left_out(word: str) -> tuple[str, str] | None:
    """Return the closest method to one that peftkit leaves out, and why; None for any other word."""
    return next((text for name, text in LEFT_OUT.items() if _squeeze(name) == _squeeze(word)), None)


def _normalize(phrase: str) -> str:
    """Write a phrase in lower case, in American spelling, with spaces between words: ``LoRA+`` → ``lora plus``."""
    text = unicodedata.normalize("NFKC", phrase).lower().replace("+", " plus ")  # ``IA³``
    text = re.sub(r"(?<=i)s(?=(ed|ation|ing)\b)", "z", text)
    text = re.sub(r"[^a-z0-9]+", " ", text)
    return " ".join(re.sub(r"\bfine ?(tun\w+)", r"fine \1", text).split())


def _squeeze(phrase: str) -> str:
    return _normalize(phrase).replace(" ", "")
