"""The base classes of components, and the types that they are given.

Importing this package does not import torch, so recipes can be checked quickly.
"""

from peftkit.components.callback import Callback, EvaluationResult, StepResult, TrainContext
from peftkit.components.component import Component
from peftkit.components.meter import Meter
from peftkit.components.method import Method
from peftkit.components.metric import Metric
from peftkit.components.objective import Objective
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.preset import Preset
from peftkit.components.search_space import PublishedRate, Range, SearchSpace
from peftkit.components.task import Task
from peftkit.components.types import (
    ApplyContext,
    Example,
    Head,
    Incompatibility,
    ModelKind,
    OptionProblem,
    Prediction,
    RunSpec,
    Side,
    StepStats,
    TaskKind,
)

__all__ = [
    "ApplyContext",
    "Callback",
    "Component",
    "EvaluationResult",
    "Example",
    "Head",
    "Incompatibility",
    "Meter",
    "Method",
    "Metric",
    "ModelKind",
    "Objective",
    "ObjectiveContext",
    "OptionProblem",
    "Prediction",
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
