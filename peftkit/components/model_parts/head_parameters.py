"""Finds the parameters of a new classification head, which is trained whatever the method, and marks them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

MARK = "is_classification_head"
"""Attribute that marks head parameters, because their names change with each wrapper."""


def find_head_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Find the parameters that the forward pass uses as the classification head.

    Args:
        model: The model after a method was applied to it.
        names: The names of the parameters in the base model.

    Returns:
        The parameters by these names. Where peft trains a copy of a module (``modules_to_save``), those of the copy.

    Raises:
        InputError: The method has removed one of them.
    """
    used = {
        _strip_copy_wrapper(key): parameter
        for key, parameter in model.named_parameters()
        if ".original_module." not in key
    }
    tensors = {}
    for name in names:
        keys = [key for key in used if key == name or key.endswith(f".{name}")]
        if not keys:
            raise InputError(f"the method removes {name!r} from the model, a parameter of its new classification head")
        tensors[name] = used[min(keys, key=len)]
    return tensors


def unfreeze_head(model: nn.Module, names: Iterable[str]) -> None:
    """Unfreeze the classification head and mark its parameters.

    Args:
        model: The model after a method was applied to it.
        names: The names of the parameters in the base model.
    """
    for parameter in find_head_parameters(model, names).values():
        parameter.requires_grad = True
        setattr(parameter, MARK, True)


def is_head_parameter(parameter: nn.Parameter) -> bool:
    """Return whether ``unfreeze_head`` has marked the parameter."""
    return bool(getattr(parameter, MARK, False))


def covering_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Find the largest modules that hold the named parameters and no others.

    A parameter whose module also holds others is represented by that module.

    Args:
        model: The base model.
        names: The names of parameters.

    Returns:
        The names of the modules, sorted.
    """
    wanted = set(names)
    parameters = {
        key: {f"{key}.{name}" for name, _ in module.named_parameters()} for key, module in model.named_modules() if key
    }
    whole = [key for key, inside in parameters.items() if inside and inside <= wanted]
    largest = [key for key in whole if not any(key.startswith(f"{other}.") for other in whole)]
    covered = {name for key in largest for name in parameters[key]}
    return sorted({*largest, *(name.rpartition(".")[0] for name in wanted - covered)})


def _strip_copy_wrapper(key: str) -> str:
    """Remove peft's ``ModulesToSaveWrapper`` from the name of a parameter."""
    before, wrapper, after = key.partition(".modules_to_save.")
    return f"{before}.{after.partition('.')[2]}" if wrapper else key
