"""The conformance kit as pytest tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.components import Method
from peftkit.testing.component_checks import check_published_rates, check_round_trip
from peftkit.testing.method_checks import METHOD_CHECKS, NotSupportedError
from peftkit.testing.run_checks import RUN_CHECKS

ARCHITECTURES = ("t5", "llama", "bert")


def conformance(
    *methods: Method | type[Method], architectures: tuple[str, ...] = ARCHITECTURES, runs: bool = True
) -> type:
    """Create a class of pytest tests for methods.

    Write ``TestMine = conformance(Mine)`` in a test module.

    Args:
        *methods: Methods with their options, or classes, which are tested with ``tiny_options``.
        architectures: Keys in ``peftkit.testing.tiny_models.FAMILIES``; by default one for each kind of model.
        runs: Whether to test whole runs too, with two processes and resumed. Each takes a few seconds.

    Returns:
        The class. A check that the method does not support passes if the method has a reason.
    """
    import pytest

    instances = [m if isinstance(m, Method) else m.model_validate(dict(m.tiny_options)) for m in methods]
    checks = {**METHOD_CHECKS, **(RUN_CHECKS if runs else {})}

    class Conformance:
        @pytest.mark.parametrize("method", instances, ids=lambda m: m.name)
        def test_options(self, method: Method) -> None:
            check_round_trip(method)
            check_published_rates(method)

        @pytest.mark.parametrize("check", checks)
        @pytest.mark.parametrize("architecture", architectures)
        @pytest.mark.parametrize("method", instances, ids=lambda m: m.name)
        def test_conforms(self, method: Method, architecture: str, check: str, tmp_path: Path) -> None:
            reason: Any = None
            try:
                checks[check](method, architecture, tmp_path / "model")
            except NotSupportedError as error:
                reason = str(error)
            assert reason is None or reason, "NotSupportedError has no reason"

    return Conformance
