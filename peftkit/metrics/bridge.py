"""The one module here that imports ``evaluate``: kept apart because that takes seconds and loads torch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

from peftkit.components import Example

if TYPE_CHECKING:
    from peftkit.metrics.base import EvaluateMetric


class EvaluateModule(evaluate.Metric):
    """A component of peftkit as a metric of ``evaluate``, kept in memory.

    Its inputs are ``predictions``, texts, and ``references``, lists of texts; ``compute`` takes the ``examples``
    beside them, for the metrics that need them.
    """

    def __init__(self, metric: EvaluateMetric) -> None:
        self.metric = metric  # before the base's __init__, which calls _info
        # Even a module that is kept in memory makes its cache folder when it is made, and never uses it again.
        with TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)
        self.info.module_name = metric.name  # else evaluate.combine would tell modules apart by this class's name

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(type(self.metric)) or "",
            citation="",
            inputs_description="",
            features=Features({"predictions": Value("string"), "references": ListOf(Value("string"))}),
        )

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example] = ()
    ) -> dict[str, float]:
        if not predictions:
            raise ValueError(f"{self.metric.name}: there are no predictions to score")
        if not all(references):
            raise ValueError(f"{self.metric.name}: every example needs at least one reference")
        return self.metric.score(predictions, references, examples)
