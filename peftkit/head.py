"""The parameters of a classification head, under the names that they have once a method has wrapped the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftkit.errors import InputError

if TYPE_CHECKING:
    from torch import nn

MARK = "is_classification_head"
"""An attribute of head parameters: names change with each wrapper, the parameters themselves do not."""


def head_tensors(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Finds the parameters that the forward pass uses as the classification head.

    Args:
        model: the model, after a method was applied to it.
        names: the parameters' names in the base model.

    Returns:
        The parameters by these names. Where peft trains a copy of a module (``modules_to_save``), it is the copy's.

    Raises:
        InputError: the model no longer has one of them.
    """
    used = {_plain(key): parameter for key, parameter in model.named_parameters() if ".original_module." not in key}
    found = {}
    for name in names:
        keys = [key for key in used if key == name or key.endswith(f".{name}")]
        if not keys:
            raise InputError(f"the method removes {name!r} from the model, which is a parameter of the new head")
        found[name] = used[min(keys, key=len)]
    return found


def train_head(model: nn.Module, names: Iterable[str]) -> None:
    """Makes the classification head trainable and marks its parameters.

    Args:
        model: the model, after a method was applied to it.
        names: the parameters' names in the base model.
    """
    for parameter in head_tensors(model, names).values():
        parameter.requires_grad = True
        setattr(parameter, MARK, True)


def is_head(parameter: nn.Parameter) -> bool:
    """Whether ``train_head`` has marked the parameter."""
    return bool(getattr(parameter, MARK, False))


def covering_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The largest modules that hold the named parameters and no others.

    A parameter whose module holds others too is covered by that module.
    """
    wanted = set(names)
    owned = {
        key: {f"{key}.{name}" for name, _ in module.named_parameters()} for key, module in model.named_modules() if key
    }
    whole = [key for key, own in owned.items() if own and own <= wanted]
    largest = [key for key in whole if not any(key.startswith(f"{other}.") for other in whole)]
    covered = {name for key in largest for name in owned[key]}
    return sorted({*largest, *(name.rpartition(".")[0] for name in wanted - covered)})


def _plain(key: str) -> str:
    """A parameter's name without peft's wrapper of trained copies."""
    before, wrapper, after = key.partition(".modules_to_save.")
    return f"{before}.{after.partition('.')[2]}" if wrapper else key
