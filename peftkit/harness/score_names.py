"""Names and numbers of the scores that tasks of lm-evaluation-harness give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NO_FILTER = "none"
"""The filter of tasks that score answers as they are generated."""


def value_name(metric: str, filter_name: str) -> str:
    """Name a value: the metric, and the filter of the answers if there is one.

    Args:
        metric: The metric.
        filter_name: The filter.
    """
    return metric if filter_name == NO_FILTER else f"{metric}.{filter_name}"


def numbers_among(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the metrics that are numbers; others, such as pairs for a corpus, are no means over examples.

    Args:
        scores: What a task gives for an example, by metric.
    """
    for metric, value in scores.items():
        if isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "size", 1) == 1):
            yield metric, float(value)
