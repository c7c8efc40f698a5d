"""The kit as tests for pytest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.components import Method
from peftkit.testing.checks import CHECKS, RefusedError
from peftkit.testing.components import round_trip, searches_published_rates
from peftkit.testing.runs import RUN_CHECKS

ARCHITECTURES = ("t5", "llama", "bert")


def conformance(
    *methods: Method | type[Method], architectures: tuple[str, ...] = ARCHITECTURES, runs: bool = True
) -> type:
    """Makes a class of pytest tests for methods.

    Write ``TestMine = conformance(Mine)`` in a test module.

    Args:
        *methods: Methods with their options, or classes, which are tested with the defaults or their ``trial``.
        architectures: Names of tiny models, one for each kind by default; see ``peftkit.testing.tiny.FAMILIES``.
        runs: Whether to test whole runs too, with two processes and after a resume. Each takes some seconds.

    Returns:
        The class. A check that the method refuses with a reason passes.
    """
    import pytest

    made = [m if isinstance(m, Method) else m.model_validate(dict(m.trial)) for m in methods]
    checks = {**CHECKS, **(RUN_CHECKS if runs else {})}

    class Conformance:
        @pytest.mark.parametrize("method", made, ids=lambda m: m.name)
        def test_options(self, method: Method) -> None:
            round_trip(method)
            searches_published_rates(method)

        @pytest.mark.parametrize("check", checks)
        @pytest.mark.parametrize("architecture", architectures)
        @pytest.mark.parametrize("method", made, ids=lambda m: m.name)
        def test_conforms(self, method: Method, architecture: str, check: str, tmp_path: Path) -> None:
            reason: Any = None
            try:
                checks[check](method, architecture, tmp_path / "own")
            except RefusedError as error:
                reason = str(error)
            assert reason is None or reason, "a refusal has to say its reason"

    return Conformance
