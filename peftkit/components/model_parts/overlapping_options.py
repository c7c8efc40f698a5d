"""Find options of a method that train the same module in different ways."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftkit.components.model_parts.module_name_checks import block_of, is_named, matching, num_rows, weight_of

if TYPE_CHECKING:
    from torch import nn


def find_overlaps(component: Any, model: nn.Module, default_targets: str | Collection[str] = ()) -> Iterator[str]:
    """Yield an error message for each pair of options that train the same module in different ways.

    Args:
        component: A method with peft's options.
        model: The model before the method is applied.
        default_targets: The ``target_modules`` if the option is not set.
    """
    modules = {key: module for key, module in model.named_modules(remove_duplicate=False) if key}
    saved = getattr(component, "modules_to_save", None) or ()
    parameters = getattr(component, "target_parameters", None) or ()
    named = [key for key, _ in model.named_parameters() if any(is_named(key, entry) for entry in parameters)]
    whole = {
        "modules_to_save": [key for key in modules if any(is_named(key, entry, ending=True) for entry in saved)],
        "trainable_token_indices": _token_embeddings(component, model, modules),
    }
    changed = {
        "target_modules": _target_modules(component, modules, default_targets),
        "target_parameters": [key.rpartition(".")[0] for key in named],
        "trainable_token_indices": whole["trainable_token_indices"],
    }
    for option, other in [(option, other) for option in whole for other in changed if option != other]:
        for key in changed[other]:
            weight = weight_of(modules.get(key))
            shared = [k for k in whole[option] if weight is not None and weight is weight_of(modules[k])]
            outer = (k for k in whole[option] if f"{key}.".startswith(f"{k}.") or k in shared)
            if owner := next(outer, None):
                within = "" if owner == key else f", and {option} {owner!r}"
                yield f"{option}: {other} selects {key!r}{within}; leave it out of one of them"
                break


def _target_modules(component: Any, modules: Iterable[str], default: str | Collection[str]) -> list[str]:
    """Return the modules that ``target_modules`` names; a keyword such as ``all-linear`` names none."""
    targets = getattr(component, "target_modules", None)
    excluded = getattr(component, "exclude_modules", None) or ()
    blocks = getattr(component, "layers_to_transform", None)
    numbers = {str(number) for number in ([blocks] if isinstance(blocks, int) else blocks or ())}

    def selects(entries: str | Collection[str], key: str) -> bool:
        if isinstance(entries, str):
            return bool(matching(entries, (key,), re.fullmatch))
        return any(is_named(key, entry) for entry in entries)

    selected = [key for key in modules if selects(default if targets is None else targets, key)]
    return [key for key in selected if not selects(excluded, key) and (not numbers or block_of(key) in numbers)]


def _token_embeddings(component: Any, model: Any, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the modules of whose rows ``trainable_token_indices`` selects some."""
    ids = getattr(component, "trainable_token_indices", None) or ()
    if isinstance(ids, Mapping):
        return [key for key, module in modules.items() if key.endswith(tuple(ids)) and num_rows(module)]
    return [key for key, module in modules.items() if ids and module is model.get_input_embeddings()]
