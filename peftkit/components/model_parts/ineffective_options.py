"""Find options of peft's methods that change nothing in a model, after peft has applied them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.components.model_parts.module_name_checks import ModulePatterns, is_named, matching, naming_options

if TYPE_CHECKING:
    from peftkit.methods.peft_base import PeftMethod


def find_ineffective_options(method: PeftMethod, tuner: Any) -> Iterator[str]:
    """Yield an error message for each entry that matches something in the model, but changes nothing.

    Args:
        method: The method.
        tuner: peft's tuner, which has replaced modules of the model.
    """
    yield from _replaced_values(method, tuner)
    if _option(method, "layers_pattern") and _option(method, "layers_to_transform") is None:
        yield "layers_pattern: has no effect without layers_to_transform; leave it out"
    targeted = [*getattr(tuner, "targeted_module_names", ()), *getattr(tuner, "targeted_parameter_names", ())]
    if not targeted:
        return
    for option in ("target_modules", "feedforward_modules", "target_parameters"):
        entries = _option(method, option)
        for entry in entries if isinstance(entries, tuple) else ():
            if not any(is_named(key, entry) for key in targeted):
                yield (
                    f"{option}: {entry!r} matches only modules that are excluded by exclude_modules, "
                    "modules_to_save or layers_to_transform, or the classification head; leave it out"
                )
    yield from _unneeded_exclusions(method, tuner)
    yield from _blocks_without_targets(method, targeted)
    for option, marker in naming_options(type(method)).items():
        if isinstance(marker, ModulePatterns):
            table = _option(method, option) or {}
            yield from (f"{option}: {text}" for text in marker.unused(table, targeted))
            for key, value in table.items():
                if isinstance(value, int | float) and value <= 0:
                    yield f"{option}: {key!r} is {value}, which disables training there; set it above 0"


def _unneeded_exclusions(method: PeftMethod, tuner: Any) -> Iterator[str]:
    """Yield an error message for each entry of ``exclude_modules`` that excludes none of the target modules."""
    excluded = _option(method, "exclude_modules")
    if not excluded:
        return
    without = copy.copy(tuner.peft_config["default"])
    without.exclude_modules = without.modules_to_save = None  # modules that are trained whole may have to be excluded
    names = [key for key, _ in tuner.model.named_modules() if key]
    targets = [key for key in names if tuner._check_target_module_exists(without, key)]
    for entry in [excluded] if isinstance(excluded, str) else excluded:
        if isinstance(excluded, str):
            excludes = bool(matching(entry, targets, re.fullmatch))
        else:
            excludes = any(is_named(key, entry) for key in targets)
        if not excludes:
            yield f"exclude_modules: {entry!r} excludes none of the target_modules; leave it out"


def _blocks_without_targets(method: PeftMethod, targeted: Sequence[str]) -> Iterator[str]:
    """Yield an error message for each block, and each list of blocks, none of whose modules is a target."""
    blocks = _option(method, "layers_to_transform")
    for index in [blocks] if isinstance(blocks, int) else blocks or ():
        if not any(index in map(int, re.findall(r"(?<=\.)\d+(?=\.)", f".{key}.")) for key in targeted):
            yield f"layers_to_transform: block {index} has none of the target_modules"
    lists = _option(method, "layers_pattern")
    for entry in [lists] if isinstance(lists, str) else lists or ():
        if blocks is not None and not matching(rf"(?:^|.*\.){entry}\.\d+\.", targeted, re.match):
            yield f"layers_pattern: {entry!r} has none of the target_modules; leave it out"


def _replaced_values(method: PeftMethod, tuner: Any) -> Iterator[str]:
    """Yield an error message for each number that peft has replaced by another one to fit the model."""
    patterns = [
        option.removesuffix("_pattern")
        for option, marker in naming_options(type(method)).items()
        if isinstance(marker, ModulePatterns) and _option(method, option)
    ]
    for option in type(method).model_fields:
        value = _option(method, option)
        by_pattern = any(name in option or (name, option) == ("rank", "r") for name in patterns)
        # Zero and None stand for a number that follows from other options.
        if isinstance(value, bool) or not isinstance(value, int | float) or not value or by_pattern:
            continue
        for name, layer in tuner.named_modules():
            used = method.value_in_layer(layer, option)
            if used is not None and used != value:
                yield f"{option}: {value} does not fit {name.removeprefix('model.')}, where peft uses {used}"
                break


def _option(method: PeftMethod, name: str) -> Any:
    return getattr(method, name, None)
