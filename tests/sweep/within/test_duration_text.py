"""Durations as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.errors import InputError
from peftkit.sweep.within.duration_text import parse_duration, write_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20min", 1200),
        ("2h", 7200),
        ("90s", 90),
        ("1h30min", 5400),
        (" 1 h 5 min ", 3900),
        ("1.5H", 5400),
        ("1min30s", 90),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "min", "0s", "-5min", "5m", "30min1h", "2 hours", "nan s", "1e3s", "1d"])
def test_other_durations_are_errors_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"must be a duration above zero in h, min and s, .* 20min, 2h, 1h30min"):
        parse_duration(text)


@given(st.floats(1, 1e6))
@settings(deadline=None)
def test_written_durations_are_read_again(seconds: float) -> None:
    read = parse_duration(write_duration(seconds))
    assert seconds <= read <= max(seconds + 1, 1.51 * seconds) + 1e-6
