"""Whether what was loaded is what the checkpoint holds, by the report that transformers makes of each load."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftkit.errors import ModelError

WRAPPERS = {
    "module": "DistributedDataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "base_model": "peft",
}
"""The modules that training puts around a model, by the first part of their names."""
INSIDE = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""Those that may lie around a part of the model."""
ADAPTER = re.compile(r"\.(lora_[ABE]|lora_embedding|modules_to_save|base_layer|original_module)\b")
"""Names of tensors that an adapter has put into a model."""
QUANTISED = re.compile(
    r"\.(weight_(scale(_inv)?|packed|zero_point|shape)|input_scale|scales|qweight|qzeros|g_idx|SCB|(weight\.)?(absmax|quant_\w+))"
    r"(\.\w+)*$"
)
"""Names of what is stored beside weights of few bits."""
DERIVED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "final_logits_bias", "embed_positions.weights")
"""How buffers end that follow from the config."""
OUTPUT = "lm_head.weight"
SHOWN = 3
"""How many names a message has."""


@dataclass(frozen=True)
class Loading:
    """What the report of a load says.

    Attributes:
        missing: the names of weights that the checkpoint does not hold.
        unexpected: the names of tensors that it holds and the model has no place for.
        mismatched: the names of weights that it holds in another shape.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def record(self) -> dict[str, list[str]]:
        """What ``loading.json`` has of it."""
        return {"missing": [*self.missing], "unexpected": [*self.unexpected], "mismatched": [*self.mismatched]}

    def notice(self, name: str) -> str:
        """What a user should know of tensors that were left out; may be empty."""
        if not self.unexpected:
            return ""
        groups = Counter(key.split(".")[0] for key in self.unexpected)
        parts = ", ".join(f"{part} ({number})" if number > 1 else part for part, number in groups.most_common(SHOWN))
        more = f" and {len(groups) - SHOWN} more parts" if len(groups) > SHOWN else ""
        return f"of {name}, {len(self.unexpected)} tensors are not part of this model and are left out: {parts}{more}"


def read_report(model: nn.Module, report: Mapping[str, Any]) -> Loading:
    """Reads transformers' report, whose form differs between its versions.

    A weight that is tied to one that was loaded is not missing, and neither is a buffer that follows from the config.
    """
    weights = _weights(model)
    absent = {str(key) for key in report["missing_keys"]}
    mismatched = {key if isinstance(key, str) else str(key[0]) for key in report.get("mismatched_keys", ())}
    loaded = {id(tensor) for key, tensor in weights.items() if key not in absent | mismatched}
    missing = [key for key in weights if key in absent - mismatched and id(weights[key]) not in loaded]
    unexpected = [str(key) for key in report["unexpected_keys"] if not str(key).endswith(DERIVED)]
    return Loading(tuple(missing), tuple(sorted(unexpected)), tuple(sorted(mismatched)))


def check_loading(
    name: str, model: nn.Module, loading: Loading, report: Mapping[str, Any], new: Collection[str] = ()
) -> None:
    """Refuses a model that is not what its checkpoint holds.

    Args:
        name: the model, as the recipe has it.
        model: the loaded model.
        loading: what the report says.
        report: transformers' report itself.
        new: the parameters that need not be in the checkpoint, such as a new classification head's.

    Raises:
        ModelError: weights are missing, have other shapes, or are no numbers.
    """
    if errors := report.get("error_msgs"):
        raise ModelError(f"the model {name!r} cannot be loaded: {' '.join(str(errors[0]).split())}")
    if different := [key for key in loading.mismatched if key not in new]:
        weights = _weights(model)
        shapes = {key: tuple(weights[key].shape) for key in different if key in weights}
        first = f"{different[0]!r}" + (f", which the config wants as {shapes[different[0]]}" if shapes else "")
        raise ModelError(
            f"the model {name!r} cannot be loaded: {len(different)} of its weights have other shapes than its config "
            f"says, such as {first}; check its config.json"
        )
    if missing := [key for key in loading.missing if key not in new]:
        raise ModelError(f"the checkpoint {name!r} {missing_words(missing, loading.unexpected, len(_weights(model)))}")
    if scales := [key for key in loading.unexpected if QUANTISED.search(key)]:
        raise ModelError(
            f"the checkpoint {name!r} was saved quantised: it holds {_some(scales)} beside its weights, which its "
            "config.json does not mention; name the checkpoint that it was made from"
        )
    if further := further_blocks(model, loading.unexpected):
        raise ModelError(
            f"the checkpoint {name!r} holds more blocks than its config says, such as {_some(further)}; correct the "
            "number of blocks in its config.json, or save the smaller model with save_pretrained"
        )
    _refuse_no_numbers(name, model)


def further_blocks(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """The blocks in a checkpoint that are like those of the model, but for their numbers.

    Blocks with other parts of their own, such as those that predict further tokens, are none of them.

    Args:
        model: the loaded model.
        unexpected: the names of tensors that it has no place for.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    known = {re.sub(r"\d+", "#", key) for key in _weights(model)}
    known |= {key.removeprefix(prefix) for key in known}
    blocks: dict[str, list[str]] = {}
    for key in unexpected:
        if match := re.match(r"(.*?\.\d+)\.", key):
            blocks.setdefault(match[1], []).append(re.sub(r"\d+", "#", key))
    return [block for block, keys in blocks.items() if known.issuperset(keys)]


def tied_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has several."""
    groups: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(key)
    return [names for names in groups.values() if len(names) > 1]


def check_tied(name: str, model: nn.Module, stored: Callable[[Collection[str]], Mapping[str, torch.Tensor]]) -> None:
    """Refuses a model that has one weight for what the checkpoint holds different values of.

    Args:
        name: the model, as the recipe has it.
        model: the loaded model.
        stored: gives those of the named tensors that the checkpoint holds.

    Raises:
        ModelError: only one of the values was loaded.
    """
    for names in tied_names(model):
        values = [*stored(names).items()]
        for other, value in values[1:]:
            if not value.equal(values[0][1]):
                raise ModelError(
                    f"the checkpoint {name!r} holds other values for {other!r} than for {values[0][0]!r}, and its "
                    "config makes one weight of them; set tie_word_embeddings = false in its config.json"
                )


def missing_words(missing: Sequence[str], unexpected: Sequence[str], total: int | None = None) -> str:
    """What is missing, and what can be done about it.

    Args:
        missing: the names of weights that the checkpoint does not hold.
        unexpected: the names of tensors that it holds beside those of the model.
        total: how many weights the model has.
    """
    of = f" of {total}" if total else ""
    lacks = f"lacks {len(missing)}{of} weights of the model, such as {_some(missing)}"
    if any(ADAPTER.search(key) for key in unexpected):
        return (
            f"{lacks}; it holds an adapter beside its layers, such as {_some(unexpected[:1])}: merge the adapter "
            "(model.merge_and_unload()) and save the model with save_pretrained"
        )
    if (prefix := wrapper_prefix(missing, unexpected)) is not None:
        wrapper = next((text for part, text in WRAPPERS.items() if part in prefix.split(".")), "")
        by = f", which {wrapper} puts there" if wrapper else ""
        return (
            f"{lacks}; its names have {prefix!r} too much{by}, as in {_some(unexpected[:1])}: save it again without, "
            f'as save_file({{k.replace("{prefix}", "", 1): v for k, v in load_file(file).items()}}, file, '
            'metadata={"format": "pt"}) with safetensors.torch does'
        )
    if list(missing) == [OUTPUT]:
        return (
            f"{lacks}, its output layer; if that is its input embedding too, set tie_word_embeddings = true in its "
            "config.json, else fetch the checkpoint again"
        )
    others = f"; names of it that the model does not know are {_some(unexpected)}" if unexpected else ""
    return f"{lacks}{others}; check that it is whole, and was saved by save_pretrained from this architecture"


def wrapper_prefix(missing: Iterable[str], unexpected: Iterable[str]) -> str | None:
    """What the names in a checkpoint have too much, if without it they are those of missing weights."""
    wanted = {_core(key) for key in missing}
    # The model's own prefix may be left out; of a name such as lm_head.weight too little would be left.
    wanted |= {key.split(".", 1)[1] for key in wanted if key.count(".") > 1}
    prefixes: Counter[str] = Counter()
    for key in unexpected:
        parts = key.split(".")
        rests = [".".join(parts[start:]) for start in range(1, len(parts))]
        whole = next((rest for rest in rests if rest in wanted), None)
        if whole is not None:
            prefixes[key.removesuffix(whole)] += 1
        elif (inner := INSIDE.search(key)) and any(_core(rest) in wanted for rest in (key, *rests)):
            prefixes[f"{inner[0].removeprefix('.')}."] += 1
    return max(prefixes, key=lambda prefix: prefixes[prefix]) if prefixes else None


def _core(key: str) -> str:
    return INSIDE.sub("", key).removeprefix(".")


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that a checkpoint has to hold, each name of a tied one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    kept = model.state_dict(keep_vars=True)
    buffers = {
        key: value
        for key, value in kept.items()
        if key not in parameters and isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {**parameters, **{key: value for key, value in buffers.items() if not key.endswith(DERIVED)}}


def _refuse_no_numbers(name: str, model: nn.Module) -> None:
    for key, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        if not torch.isfinite(parameter.detach().sum(dtype=torch.float64)) and not torch.isfinite(parameter).all():
            raise ModelError(
                f"the checkpoint {name!r} holds weights that are no numbers (NaN or infinite) in "
                f"{str(parameter.dtype).removeprefix('torch.')}, in {key!r}; take another checkpoint, or, if it was "
                'saved in a wider type, set model.dtype = "float32" or "bfloat16"'
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown
