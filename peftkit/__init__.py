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
        ModelKind,
        RunSpec,
        Side,
        StepStats,
        Task,
        TaskKind,
    )
    from peftkit.components.search_space import PublishedRate, Range, SearchSpace
    from peftkit.errors import InputError, MissingFieldsError, RowError
    from peftkit.hookspecs import hookimpl
    from peftkit.tasks.columns import get_text, get_texts
    from peftkit.tasks.dataset_task import DataPath, DatasetTask
    from peftkit.tasks.generic import DistractorGeneration, MultipleChoice, TextGeneration
    from peftkit.tasks.text_classification import TextClassification

__version__ = "0.1.0"

__all__ = [
    "ApplyContext",
    "DataPath",
    "DatasetTask",
    "DistractorGeneration",
    "Example",
    "Incompatibility",
    "InputError",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "ModelKind",
    "MultipleChoice",
    "PublishedRate",
    "Range",
    "RowError",
    "RunSpec",
    "SearchSpace",
    "Side",
    "StepStats",
    "Task",
    "TaskKind",
    "TextClassification",
    "TextGeneration",
    "__version__",
    "get_text",
    "get_texts",
    "hookimpl",
    "load_model",
]

_MODULES = {
    "api": ("load_model",),
    "components": (
        *("ApplyContext", "Example", "Incompatibility", "Meter", "Method", "Metric", "ModelKind", "PublishedRate"),
        *("Range", "RunSpec", "SearchSpace", "Side", "StepStats", "Task", "TaskKind"),
    ),
    "errors": ("InputError", "MissingFieldsError", "RowError"),
    "hookspecs": ("hookimpl",),
    "tasks.columns": ("get_text", "get_texts"),
    "tasks.dataset_task": ("DataPath", "DatasetTask"),
    "tasks.generic": ("DistractorGeneration", "MultipleChoice", "TextGeneration"),
    "tasks.text_classification": ("TextClassification",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"peftkit.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
