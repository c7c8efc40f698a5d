"""Which modules a method touches in a model, and what it trains there, without the model's weights."""

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

from peftkit.components import Context, Method, ModelKind, Situation
from peftkit.errors import InputError, ModelError
from peftkit.head import train_head
from peftkit.model_names import check_names
from peftkit.recipe.names import model_kind, model_path
from peftkit.runner.forms import FORMS
from peftkit.runner.heads import new_parameters
from peftkit.runner.model_files import explain_load_errors
from peftkit.runner.models import parameters
from peftkit.runner.text_models import text_part
from peftkit.runner.world import quiet_libraries

STEPS = 100
"""What a method is told of the length of a run."""
MOST = 500_000_000
"""How many weights are made up for a method that cannot do without."""
BESIDE = "(beside the model's modules)"


@dataclass(frozen=True)
class Touched:
    """Modules whose names differ in numbers only: how many they are, and the parameters trained in them."""

    modules: str
    number: int
    parameters: int


@dataclass(frozen=True)
class Outline:
    """What a method makes of a model."""

    kind: ModelKind
    touched: tuple[Touched, ...]
    trainable: int
    total: int


def outline(method: Method, name: str) -> Outline:
    """Applies the method to a model that has shapes and no weights.

    Args:
        method: a method with its options.
        name: a hub id, a local folder, or a built-in model; its config is read, and the names of its weights if they
            are on this machine.

    Raises:
        RunError: the hub cannot be reached.
        ModelError: the config cannot be read, or names no architecture.
        InputError: the method refuses this model or cannot be applied to it, or draws on the weights of a large one.
    """
    quiet_libraries("warning")
    path = model_path(name)
    with explain_load_errors(name, path):
        config = AutoConfig.from_pretrained(path)
    kind = model_kind(config.to_dict())
    if kind is None:
        raise ModelError(f'the config of {name!r} names no architecture; add "architectures" to its config.json')
    config = text_part(name, kind, config, path)
    described: Mapping[str, Any] = config.to_dict()
    refused = method.refuses(Situation(kind, "classification", False, "no", described))
    if refused:
        raise InputError(f"{method.name!r} cannot be used so: {'; '.join(refused)}")
    context = Context(kind, "classification", seed=0, steps=STEPS)
    auto_class = getattr(transformers, FORMS[kind].auto_class)

    def made(device: str) -> tuple[set[str], nn.Module]:
        with torch.device(device):
            base: nn.Module = auto_class.from_config(config)
            own = {key for key, _ in base.named_modules() if key}
            head = tuple(new_parameters(base, config, path)) if kind == "encoder" else ()
            if device != "meta" and (number := sum(p.numel() for p in base.parameters())) > MOST:
                raise InputError(f"{method.name!r} needs weights to begin with, and {number:,} are too many to make up")
            check_names(method, base)
            model = method.apply(base, replace(context, head_parameters=head))
            train_head(model, head)
            return own, model

    try:
        own, model = made("meta")
    except (NotImplementedError, RuntimeError):
        own, model = made("cpu")  # it draws on the weights' values: any will do
    found: Counter[str] = Counter()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[_owner(key, own)] += parameter.numel()
    groups: dict[str, list[int]] = {}
    for key, count in found.items():
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", key), []).append(count)
    touched = tuple(Touched(key, len(counts), sum(counts)) for key, counts in groups.items())
    return Outline(kind, touched, *parameters(model))


def _owner(parameter: str, own: set[str]) -> str:
    """The model's own module that a parameter lies in, whatever wrappers put before and after its name."""
    parts = parameter.split(".")
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length + 1):
            name = ".".join(parts[start : start + length])
            if name in own:
                return name
    return BESIDE
