"""What sweeps within a time ask for."""

from __future__ import annotations

from typing import Any

from peftkit.sweep.within.expected_time import RunTime, StudyTime, Work


def work_of(times: Any, **options: Any) -> Work:
    studies = {str(i): StudyTime(RunTime(*trial), RunTime(*final)) for i, (trial, final) in enumerate(times)}
    return Work(studies, **({"trials": 5, "further_trials": 4, "seeds": 5} | options))


TWO = [((1.0, 9.0), (2.0, 9.0))] * 2
"""Two studies with trials of 10 s and final runs of 11 s, with the whole budget."""
