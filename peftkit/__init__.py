"""Compares parameter-efficient fine-tuning methods by score and cost.

Public names are imported when they are first used, so that ``import peftkit`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftkit.api import load_model
    from peftkit.components import (
        ApplyContext,
        Callback,
        EvaluationResult,
        Example,
        Incompatibility,
        Meter,
        Method,
        Metric,
        RunSpec,
        StepResult,
        StepStats,
        Task,
        TrainContext,
    )
    from peftkit.components.search_space import PublishedRate, Range, SearchSpace
    from peftkit.errors import MissingFieldsError, RowError
    from peftkit.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "ApplyContext",
    "Callback",
    "EvaluationResult",
    "Example",
    "Incompatibility",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "PublishedRate",
    "Range",
    "RowError",
    "RunSpec",
    "SearchSpace",
    "StepResult",
    "StepStats",
    "Task",
    "TrainContext",
    "__version__",
    "hookimpl",
    "load_model",
]

_MODULES = {
    "api": ("load_model",),
    "components": (
        *("ApplyContext", "Callback", "EvaluationResult", "Example", "Incompatibility", "Meter", "Method", "Metric"),
        *("PublishedRate", "Range", "RunSpec", "SearchSpace", "StepResult", "StepStats", "Task", "TrainContext"),
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
