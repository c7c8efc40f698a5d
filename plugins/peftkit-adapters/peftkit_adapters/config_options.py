"""Options of the configuration classes of the adapters library, read from its sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from peftkit.components.options.library_options import Option, SourceClass, SourceLibrary, argument_descriptions

ADAPTERS = SourceLibrary("adapters", ignored_bases=("AdapterConfig",))
HIDDEN = frozenset({"architecture", "configs", "dtype", "init_weights_seed"})
"""Fields that define a configuration, or that the recipe sets elsewhere: the precision and the seed."""


@cache
def config_options(config: str) -> Mapping[str, Option]:
    """Return the options of a configuration class by name; empty if the library is not installed."""
    try:
        module = ADAPTERS.module(ADAPTERS.folder / "configuration" / "adapter_config.py")
    except ImportError:
        return {}
    declared = None if config in ADAPTERS.ignored_bases else module.find_class(config)
    if declared is None:
        return {}
    help_by_name = _option_help(declared)
    return {
        name: replace(option, help=help_by_name.get(name, ""))
        for name, option in declared.options().items()
        if name not in HIDDEN
    }


def _option_help(declared: SourceClass) -> dict[str, str]:
    """Return the descriptions of options in the docstrings of a class and its bases."""
    descriptions: dict[str, str] = {}
    for base in declared.bases():
        descriptions |= _option_help(base)
    return descriptions | argument_descriptions(declared.docstring)
