"""The public conformance kit: checks of components, on tiny models of many architectures."""

from peftkit.testing.component_checks import (
    check_meter,
    check_metric,
    check_published_rates,
    check_registered,
    check_round_trip,
    check_task,
)
from peftkit.testing.generation_check import check_generation_matches_scores
from peftkit.testing.method_checks import (
    METHOD_CHECKS,
    NotSupportedError,
    check_gradient_checkpointing,
    check_method,
)
from peftkit.testing.objective_checks import check_objective
from peftkit.testing.pytest_suite import conformance
from peftkit.testing.run_checks import check_callback
from peftkit.testing.tiny_models import architecture_kind, batch, context, run_spec, save_tiny_model, tiny_model
from peftkit.testing.tiny_training import apply_method, logits, train_on_batch, trained_tensors

__all__ = [
    "METHOD_CHECKS",
    "NotSupportedError",
    "apply_method",
    "architecture_kind",
    "batch",
    "check_callback",
    "check_generation_matches_scores",
    "check_gradient_checkpointing",
    "check_meter",
    "check_method",
    "check_metric",
    "check_objective",
    "check_published_rates",
    "check_registered",
    "check_round_trip",
    "check_task",
    "conformance",
    "context",
    "logits",
    "run_spec",
    "save_tiny_model",
    "tiny_model",
    "train_on_batch",
    "trained_tensors",
]
