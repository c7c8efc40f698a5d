"""Tolerances for predictions of a reloaded model."""

from __future__ import annotations

from typing import Any

from peftkit.verify import reload


def test_only_near_ties_may_differ() -> None:
    row: dict[str, Any] = {"prediction": "a", "candidates": ["a", "b", "c"], "log_likelihoods": [-1.0, -1.001, -1.1]}
    row |= {"candidate_tokens": [1, 1, 1], "loss": 1.0}
    recipe: Any = type("Recipe", (), {})()
    recipe.evaluate = type("Evaluate", (), {"scoring": "sum"})()
    for text, counts in (("a", (0, 0)), ("b", (1, 0)), ("c", (0, 1))):
        near, excused, wrong = reload._compare_predictions([row], [{**row, "prediction": text}], recipe, 1e-3, 0.0)
        assert (excused, wrong) == counts
        assert near[0]["prediction"] == (text if excused else "a")
    rows: list[dict[str, Any]] = [{"prediction": str(i)} for i in range(100)]
    for changed, counts in ((2, (2, 0)), (3, (0, 3))):
        new = [{"prediction": "x"}] * changed + rows[changed:]
        assert reload._compare_predictions(rows, new, recipe, 1e-3, 0.02)[1:] == counts


def test_nan_differs_from_numbers() -> None:
    nan = float("nan")
    assert (
        reload._largest_distance({"loss": 2.0, "log_likelihoods": [-4.0]}, {"loss": 2.0, "log_likelihoods": [-3.0]})
        == 0.25
    )
    assert reload._largest_distance({"loss": nan}, {"loss": float("inf")}) == 0
    assert reload._largest_distance({"loss": nan}, {"loss": 2.0}) == float("inf")


def test_numbers_may_differ_in_their_last_digits() -> None:
    stored = [
        {"prediction": "3.28412", "values": [3.284121]},
        {"prediction": "a", "probabilities": {"a": 0.7}},
        {"prediction": "", "likelihood": {"nats": 200.0, "tokens": 40}},
    ]
    new: list[dict[str, Any]] = [
        {"prediction": "3.28413", "values": [3.284129]},
        {"prediction": "a", "probabilities": {"a": 0.70001}},
        {"prediction": "", "likelihood": {"nats": 200.001, "tokens": 40}},
    ]
    recipe: Any = None
    near, excused, wrong = reload._compare_predictions(stored, new, recipe, 1e-4, 0.0)
    assert (near, excused, wrong) == (new, 1, 0)
    assert reload._compare_predictions(stored, new, recipe, 1e-7, 0.0)[1:] == (0, 1)
