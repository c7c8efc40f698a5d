"""Suggests methods for names that people use, by meaning and by spelling."""

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
        "sequential adapter",
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
_OPTIMIZERS = "peftkit has those of torch.optim and Adafactor only"
_OPTIMIZER = "{} is an optimizer of all weights, and " + _OPTIMIZERS
_NOT_A_METHOD = "{} is an optimizer and not a method, and " + _OPTIMIZERS
_CHANGES_BASE = "{} changes the frozen weights by data, so its adapter fits no other copy of the model"
_OBJECTIVE = "{} is an objective and not a method; a plugin can add it"
_QUANTIZATION = "{} quantizes a model and trains nothing; peftkit has the quantization of bitsandbytes only"
_LADDER = ("", "ladder side-tuning trains a small network beside the frozen model; a plugin can add it")
_UNTRAINED = (
    "",
    "every method trains; the evaluation at step 0 has the scores of the untrained model",
)

LEFT_OUT: Mapping[str, tuple[str, str]] = {
    "adam_mini": ("", _NOT_A_METHOD.format("Adam-mini")),
    "adalomo": ("full", _OPTIMIZER.format("AdaLomo")),
    "adapterdrop": (
        "houlsby",
        "AdapterDrop leaves out the adapters of the lowest layers in training; a plugin can add it",
    ),
    "adamix": ("houlsby", "AdaMix trains several adapters of each layer and averages them; a plugin can add it"),
    "apollo": ("full", _OPTIMIZER.format("APOLLO")),
    "awq": ("qlora", _QUANTIZATION.format("AWQ")),
    "badam": ("full", f"BAdam is an optimizer that updates one block of layers at a time, and {_OPTIMIZERS}"),
    "bitdelta": ("full", "BitDelta compresses the weights that full fine-tuning has changed, and trains no model"),
    "child_tuning": ("full", "Child-Tuning masks gradients of full fine-tuning; a plugin can add it"),
    "corda": ("eva", _CHANGES_BASE.format("CorDA")),
    "delta_lora": ("lora", "Delta-LoRA also changes the frozen weights, by the change of the low-rank update"),
    "diff_pruning": ("shira", "Diff pruning trains a sparse difference of all weights; a plugin can add it"),
    "dpo": ("", _OBJECTIVE.format("DPO")),
    "dylora": ("lora", _NO_LIBRARY.format("DyLoRA")),
    "fish_mask": ("shira", "FISH Mask trains the weights with the largest Fisher information; a plugin can add it"),
    "galore": ("full", _OPTIMIZER.format("GaLore")),
    "gptq": ("qlora", _QUANTIZATION.format("GPTQ")),
    "hyperformer": (
        "houlsby",
        "HyperFormer generates the adapters of several tasks by a shared network, and a recipe has one task",
    ),
    "hydralora": ("lora", "HydraLoRA has one first matrix and several second ones with a router; a plugin can add it"),
    **dict.fromkeys(("ladder_side_tuning", "lst"), _LADDER),
    "lion": ("", _NOT_A_METHOD.format("Lion")),
    "lisa": ("top_layers", "LISA trains other layers after every few steps; a plugin can add it"),
    "llama_pro": ("", "LLaMA Pro adds copies of layers to the model and trains these; a plugin can add it"),
    "lomo": ("full", _OPTIMIZER.format("LOMO")),
    "longlora": ("lora", "LongLoRA changes the model's attention"),
    "lora_ga": ("eva", _CHANGES_BASE.format("LoRA-GA")),
    "lora_pro": ("lora", "LoRA-Pro changes the gradients of LoRA to follow full fine-tuning; a plugin can add it"),
    "lorahub": ("lora", "LoraHub combines LoRA adapters of other tasks, and trains none"),
    "lt_sft": ("shira", "LT-SFT trains the weights that change most in full fine-tuning; a plugin can add it"),
    "mezo": ("full", _OPTIMIZER.format("MeZO")),
    "milora": ("pissa", _NO_LIBRARY.format("MiLoRA, LoRA that starts from the smallest singular values,")),
    "mixture_of_depths": ("", "mixture of depths lets tokens skip layers, which changes the model"),
    "mixlora": ("lora", _NO_LIBRARY.format("MixLoRA, a mixture of LoRA experts with a router,")),
    "mora": ("lora", _NO_LIBRARY.format("MoRA")),
    "mos": ("vblora", _NO_LIBRARY.format("MoS, LoRA whose matrices are made of shared shards,")),
    "muon": (
        "",
        'Muon is an optimizer and not a method: set train.optimizer = "Muon"; all trained weights must be matrices',
    ),
    "neftune": ("", "NEFTune adds noise to embeddings in training, with any method; peftkit does not have it"),
    "nola": ("vera", _NO_LIBRARY.format("NOLA, LoRA of random matrices with trained factors,")),
    "orpo": ("", _OBJECTIVE.format("ORPO")),
    "q_galore": ("full", _OPTIMIZER.format("Q-GaLore")),
    "qalora": ("qlora", "QA-LoRA needs weights quantized by GPTQ, and peftkit has bitsandbytes only"),
    "qdora": ("dora", 'QDoRA is DoRA on quantized weights: set model.quantization = "4bit" too'),
    "relora": ("lora", "ReLoRA merges its updates into the weights during training; a plugin can add it"),
    "s4": (
        "",
        "S4 is a design that assigns several methods to groups of layers; to combine methods, use unipelt or mam of "
        "peftkit-adapters, or write a plugin",
    ),
    "s_lora": ("lora", "S-LoRA serves LoRA adapters, and trains none"),
    "side_tuning": (
        "",
        "side-tuning adds the output of a small network to that of the frozen model; a plugin can add it",
    ),
    "sophia": ("", _NOT_A_METHOD.format("Sophia")),
    "spectrum": (
        "top_layers",
        "Spectrum trains the layers with the highest signal-to-noise ratio; a plugin can add it",
    ),
    "spot": ("prompt_tuning", "SPoT is prompt tuning that starts from the prompt of another task"),
    "ssf": ("ia3", "SSF scales and shifts the outputs of layers; a plugin can add it"),
    "tied_lora": ("vera", _NO_LIBRARY.format("Tied-LoRA, whose matrices are shared by layers,")),
    "unsloth": ("", "Unsloth is a library that trains known methods faster, and not a method"),
    **dict.fromkeys(("none", "no_training", "frozen_baseline", "in_context_learning", "few_shot"), _UNTRAINED),
    **dict.fromkeys(("zero_shot", "zero_shot_baseline"), _UNTRAINED),
}
"""What peftkit leaves out: the closest method that it has, or an empty text, and why."""
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
