from __future__ import annotations

import json
import math
from typing import Literal

from pydantic import PrivateAttr

from peftkit import Callback, EvaluationResult


class Counting(Callback):
    """Counts."""

    name: Literal["counting"] = "counting"
    _steps: int = 0
    _losses: list[float] = PrivateAttr(default_factory=list)


def test_private_attributes_are_the_state() -> None:
    callback, other = Counting(), Counting()
    callback._steps = 3
    callback._losses.append(0.5)
    assert callback.state_dict() == {"_steps": 3, "_losses": [0.5]}
    assert other.state_dict() == {"_steps": 0, "_losses": []}
    other.load_state_dict(json.loads(json.dumps(callback.state_dict())))
    assert other.state_dict() == callback.state_dict()


def test_the_score_is_the_selection_metric_on_dev() -> None:
    row = {"dev": {"loss": 0.5, "accuracy": 0.75, "f1": None}}
    for metric, expected in (("accuracy", 0.75), ("loss", 0.5)):
        assert EvaluationResult(row, metric, higher_is_better=True, is_best=False).score == expected
    assert math.isnan(EvaluationResult(row, "f1", higher_is_better=True, is_best=False).score)
