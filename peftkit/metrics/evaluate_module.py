"""Wrap a metric of peftkit as a metric of ``evaluate``.

This is a separate module because importing ``evaluate`` imports torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

from peftkit.components import Example, Metric


class EvaluateModule(evaluate.Metric):
    """A metric of peftkit as an in-memory metric of ``evaluate``.

    Its inputs are ``predictions``, which are texts, and ``references``, which are lists of texts. ``compute`` also
    takes ``examples``, for metrics that need them.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric  # set before super().__init__, which calls _info
        # evaluate creates a cache folder even for in-memory metrics, and never uses it.
        with TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)
        self.info.module_name = metric.name  # evaluate.combine distinguishes metrics by this name

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
        return self.metric.compute(predictions, references, examples)
