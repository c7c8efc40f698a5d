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


def test_likelihoods_may_differ_as_much_as_losses() -> None:
    for loss, expected in ((2.0001, {"nats": 2.0001}), (2.1, {"nats": 2.0})):
        rows: list[dict[str, Any]] = [{"loss": 2.0, "likelihood": {"nats": 2.0}}]
        reload._replace_equal_likelihoods(rows, [{"loss": loss, "likelihood": {"nats": loss}}], 1e-3)
        assert rows[0]["likelihood"] == expected
