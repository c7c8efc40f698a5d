"""Suggests methods for names that people use, by meaning and by spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from peftkit.components.other_methods import LEFT_OUT

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "adalora": ("adaptive lora", "adaptive low rank adaptation", "adaptive rank"),
    "adaption_prompt": ("zero init attention",),
    "bitfit": ("bias", "biases", "bias only", "bias tuning"),
    "boft": ("butterfly",),
    "bottleneck": ("bottleneck layers",),
    "compacter": ("phm adapter", "hypercomplex adapter"),
    "compacter_plus_plus": ("compacter++",),
    "cpt": ("context aware prompt",),
    "dora": ("weight decomposed", "weight decomposed low rank adaptation", "magnitude and direction"),
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
COMMON = ("lora", "adapters", "adapter", "tuning", "prompt", "prompting")
"""What names of different methods end with."""
SHORT = 4
"""The number of letters below which one wrong letter makes another name."""
LONG = 9
"""The number of letters from which a name may have two typos."""


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


def find_typo(word: str, known: Iterable[str]) -> str:
    """Find the method that a word misspells.

    Names of methods are short, and one letter makes another method of them. The same first letter and at most one
    wrong, missing, additional or swapped letter make a typo, or two from nine letters on. Of fewer than four letters,
    and where a word such as "lora" is common to both, only swapped and repeated letters do.

    Args:
        word: An unknown name.
        known: The names of methods.

    Returns:
        A name; empty if none is close.
    """
    typed = _squeeze(word)
    distances = [(distance, name) for name in known if (distance := _typos(typed, _squeeze(name)))]
    return min(distances)[1] if distances else ""


def find_left_out(word: str) -> tuple[str, str] | None:
    """Return the closest method to one that peftkit leaves out, and why; None for any other word.

    Args:
        word: A name as people write it.
    """
    return next((text for name, text in LEFT_OUT.items() if _squeeze(name) == _squeeze(word)), None)


def _normalize(phrase: str) -> str:
    """Write a phrase in lower case, in American spelling, with spaces between words: ``LoRA+`` → ``lora plus``."""
    text = unicodedata.normalize("NFKC", phrase).lower().replace("+", " plus ")  # ``IA³``
    text = re.sub(r"(?<=i)s(?=(ed|ation|ing)\b)", "z", text)
    text = re.sub(r"[^a-z0-9]+", " ", text)
    return " ".join(re.sub(r"\bfine ?(tun\w+)", r"fine \1", text).split())


def _squeeze(phrase: str) -> str:
    return _normalize(phrase).replace(" ", "")


def _typos(typed: str, name: str) -> int:
    """Return the number of typos that make a name of a method another word; 0 if it is another name."""
    for common in COMMON:
        if typed.endswith(common) and name.endswith(common):
            typed, name = typed.removesuffix(common), name.removesuffix(common)
            break
    if sorted(typed) == sorted(name):
        pairs = [(a, b) for a, b in zip(typed, name, strict=True) if a != b]
        if len(pairs) == 2 and any(
            typed[i : i + 2] == name[i : i + 2][::-1] != name[i : i + 2] for i in range(len(name))
        ):
            return 1
    if _without_repeats(typed) == _without_repeats(name) and abs(len(typed) - len(name)) == 1:
        return 1
    if min(len(typed), len(name)) < SHORT or typed[0] != name[0]:
        return 0
    distance = _edit_distance(typed, name)
    return distance if distance <= (2 if len(name) >= LONG else 1) else 0


def _without_repeats(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word)


def _edit_distance(first: str, second: str) -> int:
    """Return the number of letters to insert, delete, replace or swap with the next one."""
    earlier, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        following = [i]
        for j, b in enumerate(second, 1):
            cost = min(row[j] + 1, following[-1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and (a, first[i - 2]) == (second[j - 2], b):
                cost = min(cost, earlier[j - 2] + 1)
            following.append(cost)
        earlier, row = row, following
    return row[-1]
