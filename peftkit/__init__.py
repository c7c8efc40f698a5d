"""Compares parameter-efficient fine-tuning methods by score and cost.

Public names are imported when they are first used, so that ``import peftkit`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftkit.api import load_model
    from peftkit.components import (
        ApplyContext,
        Example,
        Incompatibility,
        Meter,
        Method,
        Metric,
        Preset,
        RunSpec,
        StepStats,
        Task,
    )
    from peftkit.components.search_space import PublishedRate, Range, SearchSpace
    from peftkit.errors import MissingFieldsError, RowError
    from peftkit.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "ApplyContext",
    "Example",
    "Incompatibility",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "Preset",
    "PublishedRate",
    "Range",
    "RowError",
    "RunSpec",
    "SearchSpace",
    "StepStats",
    "Task",
    "__version__",
    "hookimpl",
    "load_model",
]

_MODULES = {
    "api": ("load_model",),
    "components": (
        *("ApplyContext", "Example", "Incompatibility", "Meter", "Method", "Metric", "Preset", "PublishedRate"),
        *("Range", "RunSpec", "SearchSpace", "StepStats", "Task"),
    ),
    "errors": ("MissingFieldsError", "RowError"),
    "hookspecs": ("hookimpl",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"peftkit.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
