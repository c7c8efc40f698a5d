"""Summarize which modules of a model a method trains, without the model's weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from peftkit.components import ApplyContext, Method, ModelKind, RunSpec
from peftkit.components.model_parts.head_parameters import unfreeze_head
from peftkit.components.model_parts.module_name_checks import check_names
from peftkit.errors import InputError, ModelError
from peftkit.models import FAMILIES
from peftkit.models.checkpoints.load_errors import explain_load_errors
from peftkit.models.checkpoints.text_models import text_model_config
from peftkit.models.heads.classification_head import parameters_not_in_checkpoint
from peftkit.models.parameter_counts import count_parameters
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.recipe.model_names import model_kind, model_path

STEPS = 100
"""The number of training steps that the method is applied with."""
MAX_RANDOM_PARAMETERS = 500_000_000
"""Largest model, in parameters, that is filled with random weights for a method that needs them."""
OUTSIDE_MODULES = "(beside the model's modules)"
"""The group of parameters outside the model's own modules."""


@dataclass(frozen=True)
class ModuleGroup:
    """Modules whose names differ in numbers only: how many there are, and how many parameters are trained in them."""

    modules: str
    number: int
    parameters: int


@dataclass(frozen=True)
class MethodSummary:
    """What a method trains in a model."""

    kind: ModelKind
    groups: tuple[ModuleGroup, ...]
    trainable: int
    total: int


def summarize_method(method: Method, name: str) -> MethodSummary:
    """Apply a method to a model without weights and count what it trains.

    Args:
        method: A method with its options.
        name: A hub id, a local folder, or a built-in model. Its config is read, and the names of its weights if they
            are on this machine.

    Returns:
        The summary.

    Raises:
        RunError: The hub is not available.
        ModelError: The config cannot be read, or names no architecture.
        InputError: The method is incompatible with the model, cannot be applied to it, or needs the weights of a large
            one.
    """
    quiet_libraries("warning")
    path = model_path(name)
    with explain_load_errors(name, path):
        config = AutoConfig.from_pretrained(path)
    kind = model_kind(config.to_dict())
    if kind is None:
        raise ModelError(f'the config of {name!r} names no architecture; add "architectures" to its config.json')
    config = text_model_config(name, kind, config, path)
    config_values: Mapping[str, Any] = config.to_dict()
    reasons = method.incompatible_with(RunSpec(kind, "classification", False, "no", config_values))
    if reasons:
        raise InputError(f"{method.name!r} is incompatible with {name!r}: {'; '.join(reasons)}")
    context = ApplyContext(kind, "classification", seed=0, steps=STEPS)
    auto_class = getattr(transformers, FAMILIES[kind].auto_class)

    def build(device: str) -> tuple[set[str], nn.Module]:
        with torch.device(device):
            base: nn.Module = auto_class.from_config(config)
            base_modules = {key for key, _ in base.named_modules() if key}
            head = tuple(parameters_not_in_checkpoint(base, config, path)) if kind == "encoder" else ()
            if device != "meta" and (size := sum(p.numel() for p in base.parameters())) > MAX_RANDOM_PARAMETERS:
                raise InputError(
                    f"{method.name!r} needs weights to be applied, and a model with {size:,} parameters is too large "
                    "to fill with random ones"
                )
            check_names(method, base)
            model = method.apply(base, replace(context, head_parameters=head))
            unfreeze_head(model, head)
            return base_modules, model

    try:
        base_modules, model = build("meta")
    except (NotImplementedError, RuntimeError):
        base_modules, model = build("cpu")  # the method needs weights; random ones will do
    trained: Counter[str] = Counter()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[_owning_module(key, base_modules)] += parameter.numel()
    groups: dict[str, list[int]] = {}
    for key, count in trained.items():
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", key), []).append(count)
    touched = tuple(ModuleGroup(key, len(counts), sum(counts)) for key, counts in groups.items())
    return MethodSummary(kind, touched, *count_parameters(model))


def _owning_module(parameter: str, base_modules: set[str]) -> str:
    """The innermost module of the base model that contains a parameter, whatever wrappers add to its name."""
    keys = parameter.split(".")
    for length in range(len(keys), 0, -1):
        for start in range(len(keys) - length + 1):
            name = ".".join(keys[start : start + length])
            if name in base_modules:
                return name
    return OUTSIDE_MODULES
