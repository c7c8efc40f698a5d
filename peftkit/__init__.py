"""peftkit: which parameter-efficient fine-tuning method learns most for a given amount of work?"""

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
from peftkit.errors import RowError
from peftkit.hookspecs import hookimpl
from peftkit.search_space import Between, PublishedRate, Search

__version__ = "0.1.0"

__all__ = [
    "Between",
    "Context",
    "Example",
    "Meter",
    "Method",
    "Metric",
    "PublishedRate",
    "Refusal",
    "RowError",
    "Search",
    "Situation",
    "StepRecord",
    "Task",
    "__version__",
    "hookimpl",
]
