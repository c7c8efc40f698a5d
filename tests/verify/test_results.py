"""Comparison of stored and recomputed values."""

from __future__ import annotations

from pathlib import Path

from peftkit.verify import Verification
from peftkit.verify.results import Check, check_value, check_values, run_checks


def test_values_are_compared_by_type_with_a_tolerance() -> None:
    assert check_value("x", "y", 1.0, 1.0 + 1e-10).status == "agrees"
    assert check_value("x", "y", 1.0, 1.0 + 1e-8).status == "differs"
    assert check_value("x", "y", 10**12, 10**12 + 1).status == "differs"
    assert check_value("x", "y", None, float("nan")).status == "agrees"
    assert check_value("x", "y", None, 1.0).status == "differs"
    assert check_value("x", "y", True, 1).status == "agrees"
    checks = list(check_values("x", {"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "d": 2}))
    assert [(check.name, check.status) for check in checks] == [("a b", "agrees"), ("c", "differs"), ("d", "differs")]


def test_an_exception_in_a_check_counts_as_a_difference() -> None:
    def broken() -> list[Check]:
        raise KeyError("dev")

    [check] = run_checks("curve", broken)
    assert (check.status, check.reason) == ("differs", "they cannot be used: KeyError: 'dev'")
    assert Verification(Path(), (check,)).verdict == "1 of 1 recomputed values differ: curve files"
