"""The parser of the whole command line."""

from __future__ import annotations

import pytest

from peftkit.cli.parser import build_parser


@pytest.mark.parametrize(
    "words",
    [
        "sweep plan --no-trial SWEEP --jobs 2",
        "sweep plan SWEEP --no-trial --jobs 2",
        "sweep --no-trial --jobs 2 plan SWEEP",
        "sweep --jobs=2 plan --no-trial SWEEP",
    ],
)
def test_options_may_stand_between_positional_arguments(words: str) -> None:
    arguments = vars(build_parser().parse_args(words.split()))
    assert {"plan", "SWEEP", 2} <= {value for value in arguments.values() if isinstance(value, str | int)}
