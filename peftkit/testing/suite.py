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
    """Makes a class of tests for methods, which pytest collects from a test module.

    ``TestMine = conformance(Mine)`` is all there is to write.

    Args:
        methods: methods with their options; of a class, with the defaults or with its ``trial``.
        architectures: names of tiny models, one for each kind by default; see ``peftkit.testing.tiny.FAMILIES``.
        runs: whether to try whole runs too, with two processes and after a resume: some seconds each.

    Returns:
        The class. A check that a method refuses, with its reason, is passed.
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
