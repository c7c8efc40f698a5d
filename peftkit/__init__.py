"""peftkit: which parameter-efficient fine-tuning method learns most for a given amount of work?"""

from peftkit.components import (
    Between,
    Context,
    Example,
    Meter,
    Method,
    Metric,
    Refusal,
    Search,
    Situation,
    StepRecord,
    Task,
)
from peftkit.errors import MissingFieldsError, RowError
from peftkit.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "Between",
    "Context",
    "Example",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "Refusal",
    "RowError",
    "Search",
    "Situation",
    "StepRecord",
    "Task",
    "__version__",
    "hookimpl",
]
