from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit import Example
from peftkit.metrics import EvaluateMetric
from peftkit.metrics.base import mean, normalize


class Seen(EvaluateMetric):
    """Says what it was given."""

    name: Literal["seen"] = "seen"

    def _compute(self, predictions, references, examples):  # type: ignore[no-untyped-def]
        return {f"{predictions} {references} {[e.source for e in examples]}": 1.0}


def test_a_metric_of_ones_own_is_given_the_rows_as_they_are() -> None:
    found = Seen().compute(("a", "ä\n"), (("x", ""), ("y",)), [Example("s", "x"), Example("t", "y")])
    assert found == {"['a', 'ä\\n'] [['x', ''], ['y']] ['s', 't']": 1.0}


def test_a_module_has_the_name_and_the_text_of_its_metric() -> None:
    module = Seen().module()
    assert (module.name, module.description) == ("seen", "Says what it was given.")


def test_a_metric_without_a_score_says_so() -> None:
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
def test_normalised(text: str, options: dict[str, bool], right: str) -> None:
    assert normalize(text, **options) == right


@given(st.text(), st.booleans())
def test_what_is_normalised_stays_as_it_is(text: str, ignore_punctuation: bool) -> None:
    once = normalize(text, ignore_punctuation=ignore_punctuation)
    assert normalize(once, ignore_punctuation=ignore_punctuation) == once


def test_mean() -> None:
    assert mean([1, 0, 0.5, 0.5]) == 0.5
