"""peftkit: which parameter-efficient fine-tuning method learns most for a given amount of work?"""

from typing import TYPE_CHECKING, Any

from peftkit.components import (
    Context,
    Example,
    Meter,
    Method,
    Metric,
    Refusal,
    Situation,
    StepRecord,
    Task,
)
from peftkit.errors import MissingFieldsError, RowError
from peftkit.hookspecs import hookimpl
from peftkit.search_space import Between, PublishedRate, Search

if TYPE_CHECKING:
    from peftkit.api import load_model

__version__ = "0.1.0"

__all__ = [
    "Between",
    "Context",
    "Example",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "PublishedRate",
    "Refusal",
    "RowError",
    "Search",
    "Situation",
    "StepRecord",
    "Task",
    "__version__",
    "hookimpl",
    "load_model",
]


def __getattr__(name: str) -> Any:
    """Imports the functions of ``peftkit.api`` when they are asked for."""
    if name in __all__:
        from peftkit import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
