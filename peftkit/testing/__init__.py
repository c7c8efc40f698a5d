"""The public conformance kit: what must hold for every method, tried on tiny models of many architectures."""

from peftkit.testing.checks import (
    CHECKS,
    RefusedError,
    applied,
    check_method,
    checkpointing,
    generates_what_it_scores,
    learn,
    logits,
    trained,
)
from peftkit.testing.components import check_metric, check_task, round_trip, searches_published_rates
from peftkit.testing.suite import conformance
from peftkit.testing.tiny import batch, context, kind_of, saved, situation, tiny

__all__ = [
    "CHECKS",
    "RefusedError",
    "applied",
    "batch",
    "check_method",
    "check_metric",
    "check_task",
    "checkpointing",
    "conformance",
    "context",
    "generates_what_it_scores",
    "kind_of",
    "learn",
    "logits",
    "round_trip",
    "saved",
    "searches_published_rates",
    "situation",
    "tiny",
    "trained",
]
