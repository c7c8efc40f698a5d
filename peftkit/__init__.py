"""Compares parameter-efficient fine-tuning methods by score and cost.

Public names are imported when they are first used, so that ``import peftkit`` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftkit.api.comparisons import RunComparison, compare_runs
    from peftkit.api.component_views import describe, list_methods, list_metrics, list_objectives, list_tasks
    from peftkit.api.recipes import estimate, load_recipe, method, metric, objective, plan_memory, task
    from peftkit.api.run_collections import Runs, load_runs
    from peftkit.api.runs import Run, load_model, load_run, run
    from peftkit.api.sweeps import SweepResult, run_sweep
    from peftkit.components import (
        ApplyContext,
        Callback,
        EvaluationResult,
        Example,
        Head,
        Incompatibility,
        Meter,
        Method,
        Metric,
        ModelKind,
        Objective,
        ObjectiveContext,
        OptionProblem,
        Preset,
        RunSpec,
        Side,
        StepResult,
        StepStats,
        Task,
        TaskKind,
        TrainContext,
    )
    from peftkit.components.search_space import PublishedRate, Range, SearchSpace
    from peftkit.errors import (
        DataError,
        InputError,
        LengthError,
        MissingFieldsError,
        PeftkitError,
        RecipeError,
        RowError,
        RunError,
        RunInterrupted,
    )
    from peftkit.hookspecs import hookimpl
    from peftkit.recipe import Recipe
    from peftkit.tasks.columns import get_text, get_texts
    from peftkit.tasks.dataset_task import DatasetTask
    from peftkit.tasks.file_task import DataPath
    from peftkit.tasks.multiple_choice import DistractorGeneration, MultipleChoice
    from peftkit.tasks.text_tasks.text_classification import TextClassification
    from peftkit.tasks.text_tasks.text_generation import TextGeneration

__version__ = "0.1.0"

__all__ = [
    "ApplyContext",
    "Callback",
    "DataError",
    "DataPath",
    "DatasetTask",
    "DistractorGeneration",
    "EvaluationResult",
    "Example",
    "Head",
    "Incompatibility",
    "InputError",
    "LengthError",
    "Meter",
    "Method",
    "Metric",
    "MissingFieldsError",
    "ModelKind",
    "MultipleChoice",
    "Objective",
    "ObjectiveContext",
    "OptionProblem",
    "PeftkitError",
    "Preset",
    "PublishedRate",
    "Range",
    "Recipe",
    "RecipeError",
    "RowError",
    "Run",
    "RunComparison",
    "RunError",
    "RunInterrupted",
    "RunSpec",
    "Runs",
    "SearchSpace",
    "Side",
    "StepResult",
    "StepStats",
    "SweepResult",
    "Task",
    "TaskKind",
    "TextClassification",
    "TextGeneration",
    "TrainContext",
    "__version__",
    "compare_runs",
    "describe",
    "estimate",
    "get_text",
    "get_texts",
    "hookimpl",
    "list_methods",
    "list_metrics",
    "list_objectives",
    "list_tasks",
    "load_model",
    "load_recipe",
    "load_run",
    "load_runs",
    "method",
    "metric",
    "objective",
    "plan_memory",
    "run",
    "run_sweep",
    "task",
]

_MODULES = {
    "api.comparisons": ("RunComparison", "compare_runs"),
    "api.component_views": ("describe", "list_methods", "list_metrics", "list_objectives", "list_tasks"),
    "api.recipes": ("estimate", "load_recipe", "method", "metric", "objective", "plan_memory", "task"),
    "api.run_collections": ("Runs", "load_runs"),
    "api.runs": ("Run", "load_model", "load_run", "run"),
    "api.sweeps": ("SweepResult", "run_sweep"),
    "components": (
        *("ApplyContext", "Callback", "EvaluationResult", "Example", "Head", "Incompatibility", "Meter"),
        *("Method", "Metric", "Objective", "ObjectiveContext"),
        *("ModelKind", "OptionProblem", "Preset", "PublishedRate", "Range", "RunSpec", "SearchSpace", "Side"),
        *("StepResult", "StepStats", "Task", "TaskKind", "TrainContext"),
    ),
    "errors": (
        *("DataError", "InputError", "LengthError", "MissingFieldsError", "PeftkitError", "RecipeError", "RowError"),
        *("RunError", "RunInterrupted"),
    ),
    "hookspecs": ("hookimpl",),
    "recipe": ("Recipe",),
    "tasks.columns": ("get_text", "get_texts"),
    "tasks.dataset_task": ("DatasetTask",),
    "tasks.file_task": ("DataPath",),
    "tasks.multiple_choice": ("DistractorGeneration", "MultipleChoice"),
    "tasks.text_tasks.text_generation": ("TextGeneration",),
    "tasks.text_tasks.text_classification": ("TextClassification",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"peftkit.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
