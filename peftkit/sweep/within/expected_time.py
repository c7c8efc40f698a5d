"""How long a sweep is expected to take: from how long its runs take, what it runs, and the number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

MIN_SHARE = 0.05
"""The least share of its budget that a run may get: shorter ones say little of it."""


@dataclass(frozen=True)
class RunTime:
    """How long a run takes, in seconds."""

    fixed: float
    """What does not depend on the budget: loading, evaluations and saving."""
    full: float = 0.0
    """What the whole budget adds."""

    def at(self, share: float) -> float:
        """Return the seconds with a share of the budget.

        Args:
            share: The share.
        """
        return self.fixed + share * self.full


@dataclass(frozen=True)
class StudyTime:
    """How long the runs of a study take."""

    trial: RunTime
    final: RunTime
    transfer: RunTime = RunTime(0.0)
    """A trial with the final budget."""
    searches: bool = True
    """Whether the study has trials."""


@dataclass(frozen=True)
class Work:
    """What a sweep asks for. Of a sweep that has started, ``trials_done`` and ``finals_done`` are what it has."""

    studies: Mapping[str, StudyTime]
    trials: int = 0
    """Trials of each study before the follow-ups; 0 for a sweep that is not tuned."""
    further_trials: int = 0
    """Follow-ups and repeats of each study."""
    transfers: int = 0
    """Trials of each study with the final budget, if the others have another one."""
    seeds: int = 1
    heads: tuple[tuple[RunTime, int], ...] = ()
    """New heads that are tuned first: how long a trial takes, and the number of trials."""
    other_seconds: float = 0.0
    """What else is waited for: inputs that runs share, and the comparison at the end."""
    least_share: float = MIN_SHARE
    trials_done: Mapping[str, int] = field(default_factory=dict)
    finals_done: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TimeDesign:
    """What a sweep runs: the same for all methods."""

    trials: int
    """Trials of each study before the follow-ups; 0 for a sweep that is not tuned."""
    seeds: int
    """Final runs of each study, with the first seeds of the sweep."""
    budget_share: float = 1.0
    """The share of its budget that each run gets."""


def expected_seconds(work: Work, design: TimeDesign, jobs: int) -> float:
    """Return how long what is left of a sweep takes: heads, then trials (one after the other in a study), then finals.

    Args:
        work: What the sweep asks for.
        design: What it runs.
        jobs: Runs at a time.
    """
    share, free = design.budget_share, [0.0] * jobs
    _assign(free, [time.at(share) * number for time, number in work.heads])
    free[:] = [max(free)] * jobs
    _assign(free, [_tuning_seconds(work, design, label) for label, time in work.studies.items() if time.searches])
    finals = [
        time.final.at(share)
        for label, time in work.studies.items()
        for _ in range(max(0, design.seeds - work.finals_done.get(label, 0)))
    ]
    _assign(free, finals)
    return max(free) + work.other_seconds


def _tuning_seconds(work: Work, design: TimeDesign, label: str) -> float:
    """How long the trials take that a study has left."""
    if not design.trials:
        return 0.0
    time, share = work.studies[label], design.budget_share
    left = design.trials + work.further_trials + work.transfers - work.trials_done.get(label, 0)
    return time.trial.at(share) * max(0, left - work.transfers) + time.transfer.at(share) * min(
        work.transfers, max(0, left)
    )


def _assign(free: list[float], durations: Sequence[float]) -> None:
    """Give each job to the worker that is free first, longest jobs first."""
    heapify(free)
    for duration in sorted(durations, reverse=True):
        heapreplace(free, free[0] + duration)
