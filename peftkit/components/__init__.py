"""The base classes of components, and the types that they are given.

Importing this package does not import torch, so recipes can be checked quickly.
"""

from peftkit.components.callback import Callback, EvaluationResult, StepResult, TrainContext
from peftkit.components.component import Component
from peftkit.components.inputs import (
    ApplyContext,
    Example,
    Incompatibility,
    ModelKind,
    OptionProblem,
    RunSpec,
    Side,
    StepStats,
    TaskKind,
)
from peftkit.components.meter import Meter
from peftkit.components.method import Method
from peftkit.components.metric import Metric
from peftkit.components.preset import Preset
from peftkit.components.search_space import PublishedRate, Range, SearchSpace
from peftkit.components.task import Task

__all__ = [
    "ApplyContext",
    "Callback",
    "Component",
    "EvaluationResult",
    "Example",
    "Incompatibility",
    "Meter",
    "Method",
    "Metric",
    "ModelKind",
    "OptionProblem",
    "Preset",
    "PublishedRate",
    "Range",
    "RunSpec",
    "SearchSpace",
    "Side",
    "StepResult",
    "StepStats",
    "Task",
    "TaskKind",
    "TrainContext",
]
