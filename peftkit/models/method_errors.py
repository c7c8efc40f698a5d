"""Errors of methods: those that libraries raise because of options, and those of modules that a method adds."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from peftkit.components import Method
from peftkit.components.model_parts.module_name_checks import format_changed_options
from peftkit.errors import InputError, PeftkitError, PluginError, StopRequested, summarize_error
from peftkit.oom import is_oom


@contextmanager
def explain_method_errors(
    method: Method, what: str, model: nn.Module | None = None, *, remedy: str = ""
) -> Iterator[None]:
    """Within the context, raise errors of a method whose options were set as an ``InputError`` that names them.

    With default options the cause lies elsewhere, so the error propagates unchanged unless there is a ``remedy``.

    Args:
        method: the method with its options.
        what: what fails, such as ``cannot be applied``.
        model: the model; errors of a model on ``meta`` propagate, since the missing weights may cause them.
        remedy: advice for the case that no option was set.

    Raises:
        InputError: the method fails.
    """
    try:
        yield
    except (PeftkitError, StopRequested, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        changed = format_changed_options(method)
        weightless = model is not None and any(parameter.is_meta for parameter in model.parameters())
        if not (changed or remedy) or weightless or (isinstance(error, RuntimeError) and is_oom(error)):
            raise
        hint = f"its options are {changed}" if changed else remedy
        raise InputError(f"method.name: {method.name!r} {what}: {summarize_error(error)}; {hint}") from error


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A module with a weight, such as a linear layer, before a method is applied.

    Attributes:
        name: its name in the model.
        parent: the module that it is an attribute of.
        dtype: the dtype of its weight.
        module: the module itself.
    """

    name: str
    parent: nn.Module
    dtype: torch.dtype
    module: nn.Module


def weighted_layers(model: nn.Module) -> list[WeightedLayer]:
    """Return the layers of a model that have a weight."""
    return [
        WeightedLayer(f"{name}.{attribute}".lstrip("."), parent, child.weight.dtype, child)
        for name, parent in model.named_modules()
        for attribute, child in parent.named_children()
        if isinstance(getattr(child, "weight", None), Tensor)
    ]


def check_weights(method: Method, layers: Iterable[WeightedLayer], *, reader: str = "") -> None:
    """Check that modules in place of layers have the weight of the layer, where the model reads it.

    T5's feed-forward casts its input to the dtype of ``wo.weight``.

    Args:
        method: the method, after it was applied.
        layers: the layers of the model before that.
        reader: the model that reads weights, to check all linear layers; by default those that their parent reads.

    Raises:
        PluginError: a module has no such weight.
    """
    for layer in layers:
        attribute = layer.name.rpartition(".")[2]
        replaced = getattr(layer.parent, attribute, layer.module)
        is_read = f"self.{attribute}.weight" in _forward_source(type(layer.parent))  # type: ignore[arg-type]
        if replaced is layer.module or not (is_read or (reader and isinstance(layer.module, nn.Linear))):
            continue
        weight = getattr(replaced, "weight", None)
        if not isinstance(weight, Tensor):
            problem = "without the attribute weight"
        elif weight.dtype != layer.dtype:
            problem = f"whose weight is {weight.dtype} instead of {layer.dtype}"
        else:
            continue
        raise PluginError(
            f"method.name: {method.name!r} replaces {layer.name} by a {type(replaced).__name__} {problem}, which "
            f"{reader or type(layer.parent).__name__} reads; return the weight of the wrapped layer from a property"
        )


@cache
def _forward_source(module: type[nn.Module]) -> str:
    try:
        return inspect.getsource(inspect.unwrap(module.forward))
    except (OSError, TypeError):  # no Python source
        return ""


def merge_problem(method: Method, merged: Iterable[str], base: Iterable[str]) -> str:
    """Return why a merged model is not one: its weights are not those of the base model.

    Args:
        method: the method.
        merged: names of the weights of the merged model.
        base: names of the weights of the base model.

    Returns:
        The reason; empty if the names are equal.
    """
    different = sorted({*merged} ^ {*base})
    if not different:
        return ""
    if type(method).merge is Method.merge:
        return (
            f"{method.name!r} cannot be merged, since {type(method).__name__} does not override merge: return the base "
            f"model without the modules that apply added, such as {different[0]}, or raise InputError with the reason"
        )
    return f"{method.name!r} cannot be merged: {len(different)} weights are extra or missing, such as {different[0]}"
