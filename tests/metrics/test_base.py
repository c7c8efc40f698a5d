from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit import Example
from peftkit.metrics import EvaluateMetric
from peftkit.metrics.base import mean, normalize


class Seen(EvaluateMetric):
    """Returns its inputs."""

    name: Literal["seen"] = "seen"

    def _compute(self, predictions, references, examples):  # type: ignore[no-untyped-def]
        return {f"{predictions} {references} {[e.source for e in examples]}": 1.0}


def test_a_custom_metric_gets_unchanged_rows() -> None:
    values = Seen().compute(("a", "ä\n"), (("x", ""), ("y",)), [Example("s", "x"), Example("t", "y")])
    assert values == {"['a', 'ä\\n'] [['x', ''], ['y']] ['s', 't']": 1.0}


def test_a_module_has_the_name_and_docstring_of_its_metric() -> None:
    module = Seen().module()
    assert (module.name, module.description) == ("seen", "Returns its inputs.")


def test_a_metric_without_compute_raises_not_implemented() -> None:
    with pytest.raises(NotImplementedError):
        EvaluateMetric(name="bare").compute(["a"], [["a"]], [])


@pytest.mark.parametrize(
    ("text", "options", "right"),
    [
        ("  A\tdog \n", {}, "a dog"),
        ("Straße", {}, "strasse"),
        ("Cafe\u0301", {"ignore_case": False}, "Caf\u00e9"),
        ("¿“C++”, c'est\u2026 well-known?", {"ignore_punctuation": True}, "c cest wellknown"),
        ("C++", {}, "c++"),
        ("...", {"ignore_punctuation": True}, ""),
        ("C:\u0327", {"ignore_punctuation": True}, "\u00e7"),
    ],
)
def test_normalize(text: str, options: dict[str, bool], right: str) -> None:
    assert normalize(text, **options) == right


@given(st.text(), st.booleans())
def test_normalize_is_idempotent(text: str, ignore_punctuation: bool) -> None:
    once = normalize(text, ignore_punctuation=ignore_punctuation)
    assert normalize(once, ignore_punctuation=ignore_punctuation) == once


def test_mean() -> None:
    assert mean([1, 0, 0.5, 0.5]) == 0.5
