"""How long what is left of a sweep takes."""

from __future__ import annotations

import pytest

from peftkit.sweep.within.expected_time import RunTime, TimeDesign, Work, expected_seconds
from tests.sweep.within.conftest import TWO, work_of


@pytest.mark.parametrize(
    ("work", "design", "jobs", "seconds"),
    [
        (work_of(TWO), TimeDesign(5, 5), 1, 2 * (9 * 10 + 5 * 11)),
        (work_of(TWO), TimeDesign(5, 5), 2, 9 * 10 + 5 * 11),
        (work_of(TWO), TimeDesign(3, 2, 0.5), 1, 2 * (7 * 5.5 + 2 * 6.5)),
        (work_of(TWO, trials=0), TimeDesign(0, 5), 1, 2 * 5 * 11),
        (work_of(TWO, other_seconds=7.0, heads=((RunTime(1.0), 9),)), TimeDesign(5, 5), 2, 7 + 9 + 145),
        (work_of(TWO, transfers=2), TimeDesign(5, 0), 1, 2 * 9 * 10),  # these cost nothing here
        (work_of(TWO, trials_done={"0": 9}, finals_done={"1": 3}), TimeDesign(5, 5), 1, 90 + 5 * 11 + 2 * 11),
    ],
)
def test_expected_seconds(work: Work, design: TimeDesign, jobs: int, seconds: float) -> None:
    assert expected_seconds(work, design, jobs) == pytest.approx(seconds)
