from __future__ import annotations

import pytest
from pydantic_core import PydanticCustomError

from peftkit.recipe.tables.intervals import parse_interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100 steps", (100, "steps")),
        ("1 step", (1, "steps")),
        ("100steps", (100, "steps")),
        ("0.5 epochs", (0.5, "epochs")),
        ("2 epoch", (2, "epochs")),
        ("10%", (10, "%")),
        (" 2.5 % ", (2.5, "%")),
        ("100%", (100, "%")),
    ],
)
def test_parse_interval(text: str, expected: tuple[float, str]) -> None:
    assert parse_interval(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "steps",
        "0%",
        "0.0 epochs",
        "100.5%",
        "1.5 steps",
        "-1 steps",
        "1e3 steps",
        "nan%",
        "inf epochs",
        "1 stepss",
        "١٠ steps",
        "10 %%",
        "every 10 steps",
        "9" * 400 + " steps",
    ],
)
def test_invalid_intervals_are_rejected(text: str) -> None:
    with pytest.raises(PydanticCustomError, match=r"must be written as '100 steps', '0\.5 epochs', '10%'") as raised:
        parse_interval(text)
    assert raised.value.type == "interval"
