"""Choose how many trials, how many seeds and how much of its budget a sweep can afford in a given time.

Pure functions of how long runs take, the time, and the number of workers. All methods get the same.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

from peftkit.errors import InputError
from peftkit.sweep.sweep_file import MIN_TRIALS
from peftkit.sweep.within.duration_text import write_duration
from peftkit.sweep.within.expected_time import TimeDesign, Work, expected_seconds

MIN_SEEDS = 2
"""The fewest seeds that say anything about a method."""
TOLERANCE = 0.07
"""By this share of the time the expected end may be late: seeds are whole, and runs vary."""
LATEST = 0.1
"""By this share of the time it may be late before trials are left out."""
DEVIATION = 0.24
"""The standard deviation of how long a run takes, relative to its estimate: both are off by up to 30 %."""


def choose_design(work: Work, seconds: float, jobs: int, *, spent: float = 0.0) -> TimeDesign:
    """Choose the design of a sweep that has not started.

    Of all designs that fit, the one whose most reduced part (trials, seeds, budget) is reduced least, relative to what
    the sweep asks for.

    Args:
        work: What the sweep asks for, and at most gets.
        seconds: The time that is left.
        jobs: Runs at a time.
        spent: What has been spent of the time.

    Returns:
        The design.

    Raises:
        InputError: The time is not enough for the least sensible design.
    """
    designs = [
        replace(design, budget_share=share)
        for design in _designs(work)
        if (share := _largest_share(work, design, seconds, jobs)) >= work.least_share
    ]
    if not designs:
        least = replace(_least(work), budget_share=work.least_share)
        needed = expected_seconds(work, least, jobs)
        trials = f"{least.trials} trials and " if least.trials else ""
        allowed = write_duration(spent + 1.05 * needed / planned_share(work, jobs))
        seeds = f"{least.seeds} {'seed' if least.seeds == 1 else 'seeds'}"
        raise InputError(
            f"{write_duration(seconds)} {'are left, which ' if spent else ''}is not enough: the least that separates "
            f"methods ({trials}{seeds} of each of {len(work.studies)} studies, with {least.budget_share:.2g} of "
            f"the budget) takes about {write_duration(needed)} here; allow {allowed}, "
            "run more at a time, run fewer methods, or evaluate fewer examples"
        )

    def reductions(design: TimeDesign) -> list[float]:
        trials = design.trials / work.trials if work.trials else 1.0
        return sorted((design.budget_share, design.seeds / work.seeds, trials))

    return max(designs, key=reductions)


def adapt_design(
    work: Work, design: TimeDesign, seconds: float, jobs: int, *, total: float, tuning: bool
) -> TimeDesign:
    """Choose seeds, and if need be fewer trials, for what is left of a sweep; the budget of the runs stays.

    Args:
        work: The sweep, with what is done, and how long runs have taken.
        design: The present design.
        seconds: The time left.
        jobs: Runs at a time.
        total: The whole time.
        tuning: Whether the number of trials can still be changed.

    Returns:
        The design; the least one if nothing fits.
    """
    started = max([MIN_SEEDS if work.seeds >= MIN_SEEDS else 1, *work.finals_done.values()])
    options = [each for each in _trial_options(work) if each <= design.trials] if tuning else [design.trials]
    for trials in options or [design.trials]:
        for seeds in range(max(started, work.seeds), started - 1, -1):
            late = (LATEST if seeds == started else TOLERANCE) * total
            if expected_seconds(work, replace(design, trials=trials, seeds=seeds), jobs) <= seconds + late:
                return replace(design, trials=trials, seeds=seeds)
    return replace(design, trials=(options or [design.trials])[-1], seeds=started)


def _designs(work: Work) -> Iterator[TimeDesign]:
    for trials in _trial_options(work):
        for seeds in range(min(MIN_SEEDS, work.seeds), work.seeds + 1):
            yield TimeDesign(trials, seeds)


def _least(work: Work) -> TimeDesign:
    return min(_designs(work), key=lambda each: (each.trials, each.seeds))


def planned_share(work: Work, jobs: int) -> float:
    """Return the share of the time in which the fewest trials and seeds must fit with the chosen budget.

    They then end within ``LATEST`` of the time even if runs take longer, by 2.5 standard deviations of their sum.

    Args:
        work: What the sweep asks for.
        jobs: Runs at a time.
    """
    least = _least(work)
    runs = len(work.studies) * (least.seeds + (least.trials + work.further_trials if least.trials else 0))
    return min(1.0, (1 + LATEST) / (1 + 2.5 * DEVIATION * math.sqrt(jobs / max(jobs, runs))))


def _trial_options(work: Work) -> list[int]:
    """The numbers of trials to choose from; of an odd number's evenly spaced settings, every other one remains."""
    options = [work.trials]
    while options[-1] > MIN_TRIALS:
        options.append(max(MIN_TRIALS, (options[-1] + 1) // 2))
    return options


def _largest_share(work: Work, design: TimeDesign, seconds: float, jobs: int) -> float:
    """The largest share of the budget, to three digits, with which a design fits; 0 if none does."""
    least, spare = _least(work), planned_share(work, jobs)

    def fits(share: float) -> bool:
        return (
            expected_seconds(work, replace(design, budget_share=share), jobs) <= seconds
            and expected_seconds(work, replace(least, budget_share=share), jobs) <= spare * seconds
        )

    if expected_seconds(work, replace(design, budget_share=1.0), jobs) <= seconds and design == TimeDesign(
        work.trials, work.seeds
    ):
        return 1.0
    thousandths = bisect_left(range(1, 1001), True, key=lambda each: not fits(each / 1000))
    return thousandths / 1000
