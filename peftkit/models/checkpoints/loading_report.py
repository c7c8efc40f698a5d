"""Checks that a model was loaded completely, by the loading info of transformers."""

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
"""Name prefixes of training wrappers around a whole model, and the tool that adds each."""
INNER_WRAPPER = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""Name parts of wrappers that may surround a submodule."""
ADAPTER = re.compile(r"\.(lora_[ABE]|lora_embedding|modules_to_save|base_layer|original_module)\b")
"""Names of tensors that adapters add to a model."""
QUANTIZED = re.compile(
    r"\.(weight_(scale(_inv)?|packed|zero_point|shape)|input_scale|scales|qweight|qzeros|g_idx|SCB|(weight\.)?(absmax|quant_\w+))"
    r"(\.\w+)*$"
)
"""Names of tensors that accompany quantized weights."""
DERIVED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", "final_logits_bias", "embed_positions.weights")
"""Suffixes of buffers that are computed from the config."""
OUTPUT = "lm_head.weight"
MAX_NAMES = 3
"""Maximum number of names in a message."""


@dataclass(frozen=True)
class LoadingReport:
    """Differences between a model and its checkpoint.

    Attributes:
        missing: names of the model's weights that are not in the checkpoint.
        unexpected: names of the checkpoint's tensors that are not in the model.
        mismatched: names of weights whose shapes differ.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def record(self) -> dict[str, list[str]]:
        """Return the entries of ``loading.json``."""
        return {"missing": [*self.missing], "unexpected": [*self.unexpected], "mismatched": [*self.mismatched]}

    def notice(self, name: str) -> str:
        """Return a message about tensors that were not loaded; empty if there are none."""
        if not self.unexpected:
            return ""
        groups = Counter(key.split(".")[0] for key in self.unexpected)
        listed = groups.most_common(MAX_NAMES)
        modules = ", ".join(f"{module} ({number})" if number > 1 else module for module, number in listed)
        more = f" and {len(groups) - MAX_NAMES} more modules" if len(groups) > MAX_NAMES else ""
        return f"{len(self.unexpected)} tensors of {name} are not part of this model and were skipped: {modules}{more}"


def read_report(model: nn.Module, report: Mapping[str, Any]) -> LoadingReport:
    """Read the loading info of transformers, whose format differs between versions.

    Weights tied to one that was loaded do not count as missing, nor do buffers that are computed from the config.

    Args:
        model: the loaded model.
        report: the loading info that ``from_pretrained`` returned.
    """
    weights = _stored_weights(model)
    absent = {str(key) for key in report["missing_keys"]}
    mismatched = {key if isinstance(key, str) else str(key[0]) for key in report.get("mismatched_keys", ())}
    loaded = {id(tensor) for key, tensor in weights.items() if key not in absent | mismatched}
    missing = [key for key in weights if key in absent - mismatched and id(weights[key]) not in loaded]
    unexpected = [str(key) for key in report["unexpected_keys"] if not str(key).endswith(DERIVED)]
    return LoadingReport(tuple(missing), tuple(sorted(unexpected)), tuple(sorted(mismatched)))


def check_loading(
    name: str, model: nn.Module, loading: LoadingReport, report: Mapping[str, Any], new: Collection[str] = ()
) -> None:
    """Check that a model has all its weights from its checkpoint.

    Args:
        name: the model, as in the recipe.
        model: the loaded model.
        loading: the differences between model and checkpoint.
        report: the loading info that ``from_pretrained`` returned.
        new: names of parameters that need not be in the checkpoint, such as those of a new classification head.

    Raises:
        ModelError: weights are missing, have different shapes, or are not finite.
    """
    if errors := report.get("error_msgs"):
        raise ModelError(f"the model {name!r} cannot be loaded: {' '.join(str(errors[0]).split())}")
    if different := [key for key in loading.mismatched if key not in new]:
        weights = _stored_weights(model)
        shapes = {key: tuple(weights[key].shape) for key in different if key in weights}
        example = f"{different[0]!r}" + (f", which should be {shapes[different[0]]}" if shapes else "")
        raise ModelError(
            f"the model {name!r} cannot be loaded: the shapes of {len(different)} weights do not match its config, "
            f"such as {example}; check its config.json"
        )
    if missing := [key for key in loading.missing if key not in new]:
        description = describe_missing_weights(missing, loading.unexpected, len(_stored_weights(model)))
        raise ModelError(f"the checkpoint {name!r} {description}")
    if scales := [key for key in loading.unexpected if QUANTIZED.search(key)]:
        raise ModelError(
            f"the checkpoint {name!r} was saved quantized: it contains {_list_some(scales)}, but its config.json has "
            "no quantization_config; use the original checkpoint"
        )
    if blocks := extra_blocks(model, loading.unexpected):
        raise ModelError(
            f"the checkpoint {name!r} contains more layers than its config specifies, such as {_list_some(blocks)}; "
            "correct the number of layers in its config.json, or save the smaller model with save_pretrained"
        )
    _check_finite(name, model)


def extra_blocks(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return the blocks in a checkpoint that have the same structure as those of the model, but higher numbers.

    Blocks of a different structure, such as those for multi-token prediction, are not among them.

    Args:
        model: the loaded model.
        unexpected: names of the checkpoint's tensors that are not in the model.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    known = {re.sub(r"\d+", "#", key) for key in _stored_weights(model)}
    known |= {key.removeprefix(prefix) for key in known}
    blocks: dict[str, list[str]] = {}
    for key in unexpected:
        if match := re.match(r"(.*?\.\d+)\.", key):
            blocks.setdefault(match[1], []).append(re.sub(r"\d+", "#", key))
    return [block for block, keys in blocks.items() if known.issuperset(keys)]


def tied_parameter_names(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has more than one."""
    groups: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(key)
    return [names for names in groups.values() if len(names) > 1]


def check_tied_weights(
    name: str, model: nn.Module, stored: Callable[[Collection[str]], Mapping[str, torch.Tensor]]
) -> None:
    """Check that the checkpoint has equal values for weights that the model ties.

    Args:
        name: the model, as in the recipe.
        model: the loaded model.
        stored: returns those of the named tensors that are in the checkpoint, in any shape.

    Raises:
        ModelError: values differ, so that only one of them was loaded.
    """
    for names in tied_parameter_names(model):
        values = [*stored(names).items()]
        for other, value in values[1:]:
            if not value.equal(values[0][1]):
                raise ModelError(
                    f"the checkpoint {name!r} has different values for {other!r} and {values[0][0]!r}, but its config "
                    "ties them; set tie_word_embeddings = false in its config.json"
                )


def describe_missing_weights(missing: Sequence[str], unexpected: Sequence[str], total: int | None = None) -> str:
    """Describe which weights are missing from a checkpoint, and the likely cause and remedy.

    Args:
        missing: names of the model's weights that are not in the checkpoint.
        unexpected: names of the checkpoint's tensors that are not in the model.
        total: number of the model's weights.
    """
    of_total = f" of {total}" if total else ""
    lacks = f"lacks {len(missing)}{of_total} weights of the model, such as {_list_some(missing)}"
    if any(ADAPTER.search(key) for key in unexpected):
        return (
            f"{lacks}; it contains an unmerged adapter, such as {_list_some(unexpected[:1])}: merge it "
            "(model.merge_and_unload()) and save the model with save_pretrained"
        )
    if (prefix := wrapper_prefix(missing, unexpected)) is not None:
        wrapper = next((tool for part, tool in WRAPPERS.items() if part in prefix.split(".")), "")
        by = f" added by {wrapper}" if wrapper else ""
        return (
            f"{lacks}; its names contain the prefix {prefix!r}{by}, as in {_list_some(unexpected[:1])}: remove it with "
            f'safetensors.torch: save_file({{k.replace("{prefix}", "", 1): v for k, v in load_file(file).items()}}, '
            'file, metadata={"format": "pt"})'
        )
    if list(missing) == [OUTPUT]:
        return (
            f"{lacks}, its output layer; if it shares weights with the input embedding, set tie_word_embeddings = true "
            "in its config.json, otherwise download the checkpoint again"
        )
    others = f"; its unexpected names are {_list_some(unexpected)}" if unexpected else ""
    return f"{lacks}{others}; check that it is complete and was saved from this architecture with save_pretrained"


def wrapper_prefix(missing: Iterable[str], unexpected: Iterable[str]) -> str | None:
    """Find the prefix without which names in a checkpoint are those of missing weights; None if there is none.

    Args:
        missing: names of the model's weights that are not in the checkpoint.
        unexpected: names of the checkpoint's tensors that are not in the model.
    """
    wanted = {_without_inner_wrappers(key) for key in missing}
    # The base_model_prefix may be absent; names such as lm_head.weight would become too short to be unambiguous.
    wanted |= {key.split(".", 1)[1] for key in wanted if key.count(".") > 1}
    prefixes: Counter[str] = Counter()
    for key in unexpected:
        parts = key.split(".")
        rests = [".".join(parts[start:]) for start in range(1, len(parts))]
        whole = next((rest for rest in rests if rest in wanted), None)
        if whole is not None:
            prefixes[key.removesuffix(whole)] += 1
        elif (inner := INNER_WRAPPER.search(key)) and any(
            _without_inner_wrappers(rest) in wanted for rest in (key, *rests)
        ):
            prefixes[f"{inner[0].removeprefix('.')}."] += 1
    return max(prefixes, key=lambda prefix: prefixes[prefix]) if prefixes else None


def _without_inner_wrappers(key: str) -> str:
    return INNER_WRAPPER.sub("", key).removeprefix(".")


def _stored_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers that a checkpoint has to contain, by each of their names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state_dict = model.state_dict(keep_vars=True)
    buffers = {
        key: value
        for key, value in state_dict.items()
        if key not in parameters and isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {**parameters, **{key: value for key, value in buffers.items() if not key.endswith(DERIVED)}}


def _check_finite(name: str, model: nn.Module) -> None:
    """Reject a model with NaN or infinite weights."""
    for key, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        if not torch.isfinite(parameter.detach().sum(dtype=torch.float64)) and not torch.isfinite(parameter).all():
            raise ModelError(
                f"the checkpoint {name!r} has weights that are NaN or infinite in "
                f"{str(parameter.dtype).removeprefix('torch.')}, such as {key!r}; use another checkpoint, or, if it "
                'was saved in a wider dtype, set model.dtype = "float32" or "bfloat16"'
            )


def _list_some(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:MAX_NAMES])
    return f"{listed} and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else listed
