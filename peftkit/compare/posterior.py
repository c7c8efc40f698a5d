"""The posterior of methods' scores from the runs of a section; every statement of certainty is taken from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.compare.curves import lower_is_better, score
from peftkit.compare.examples import TEXTS, Scored, example_scores, scores_of
from peftkit.compare.gather import Run, Section, read_run
from peftkit.compare.statistics import Posterior, Trial, Tuning, fit
from peftkit.compare.statistics.observations import Array
from peftkit.compare.tuned import tuning_of
from peftkit.errors import InputError

NOT_SHARES = ("bleu", "chrf", "matthews_correlation")
"""How metrics are called that may lie within [0, 1] and are no shares."""
TRANSFER = "transfer"
"""The stage of trials at another budget than the others."""

Scores = Mapping[str, Mapping[int, float]]


def scores_by_seed(section: Section, metric: str) -> Scores:
    """What each run's selected checkpoint scores on test.

    Raises:
        InputError: a run has no such metric.
    """
    return {label: {seed: score(run, metric) for seed, run in of.items()} for label, of in section.runs.items()}


def posterior_of(
    section: Section,
    metric: str,
    scored: Scored | None = None,
    reached: Scores | None = None,
    tunings: Mapping[str, Tuning] | None = None,
) -> Posterior:
    """The posterior of the methods of a section.

    Args:
        section: the runs.
        metric: what they are compared by, on test.
        scored: what they score on each test example; None to read it.
        reached: the score of each run by label and seed; None for those of the selected checkpoints.
        tunings: what tuning tried; None to read it.

    Raises:
        InputError: a run has no such metric, or runs are of different test examples.
    """
    scored = scored or scores_of(section, metric)
    reached = reached or scores_by_seed(section, metric)
    first = next(run for of in section.runs.values() for run in of.values())
    return fit(
        scored.runs,
        share=is_share(first, metric, reached),
        higher_is_better=not lower_is_better(first, metric),
        groups=scored.groups,
        means=reached,
        rows=0 if scored.examples else recorded_examples(first, metric),
        tunings=tunings_of(section, metric) if tunings is None else tunings,
    )


def is_share(run: Run, metric: str, scores: Scores) -> bool:
    """Whether a metric is a share in [0, 1]: more is better, and all runs score within it."""
    if lower_is_better(run, metric) or metric.startswith(NOT_SHARES):
        return False
    return all(0 <= each <= 1 for of in scores.values() for each in of.values())


def default_margin(share: bool, scores: Sequence[float]) -> float:
    """The difference that is small enough to be none: a point of a share, or 1 % of another score."""
    return 0.01 if share else 0.01 * float(np.abs(scores).min())


def recorded_examples(run: Run, metric: str) -> int:
    """Of how many examples a share is, as the run records, where their predictions are gone; else 0."""
    evaluated = run.summary.get("rows_evaluated", {}).get("selected", {}).get("test")
    limit = run.recipe.get("evaluate", {}).get("test_examples")  # what runs of format 1 are reported on
    number = evaluated or limit or run.summary.get("rows", {}).get("test")
    return int(number) if metric in TEXTS and number else 0


def tunings_of(section: Section, metric: str) -> Mapping[str, Tuning]:
    """What tuning tried for each method, where its trials are there and were chosen among by the metric."""
    found = {label: _tuning(of, metric) for label, of in section.runs.items()}
    return {label: tuning for label, tuning in found.items() if tuning}


def _tuning(runs: Mapping[int, Run], metric: str) -> Tuning | None:
    record = tuning_of(runs)
    first = next(iter(runs.values()))
    if record is None or metric != first.summary["selects"]:
        return None
    tried = [each for each in record.get("tried", ()) if each["score"] is not None and each.get("stage") != TRANSFER]
    settings: list[Any] = []
    for each in tried:
        if each["settings"] not in settings:
            settings.append(each["settings"])
    if record.get("settings") not in settings:
        return None
    numbers = [settings.index(each["settings"]) for each in tried]
    chosen = settings.index(record["settings"])
    folders = _folders_of_trials(first.path, [each["run"] for each in tried])
    splits = {split: _trial_scores(folders, metric, split) for split in ("dev", "test")}
    dev = splits["dev"] or [np.array([float(each["score"])]) for each in tried]
    # Scores at another budget are no evidence of what the final runs' settings score.
    test = None if record.get("transfer") else splits["test"]
    tests: Sequence[Array | None] = test or [None] * len(tried)
    trials = [Trial(*each) for each in zip(numbers, dev, tests, strict=True)]
    return Tuning(trials, chosen)


def _folders_of_trials(path: Path, names: Sequence[str]) -> list[Path]:
    """Where the trials lie that a sweep has run for the study of a run; empty unless all are there."""
    sweep = next((each for each in path.resolve().parents if (each / "sweep.json").is_file()), None)
    known = {folder.name: folder for folder in sweep.glob("trials/*/*/*")} if sweep else {}
    return [known[name] for name in names] if known.keys() >= {*names} else []


def _trial_scores(folders: Sequence[Path], metric: str, split: str) -> list[Array] | None:
    """What each trial scores on each example; None unless all have that, of the same examples."""
    try:
        found = [example_scores(read_run(folder), metric, split) for folder in folders]
    except InputError:
        return None
    known = [each for each in found if each is not None]
    same = bool(folders) and len(known) == len(folders) and len({each.index for each in known}) == 1
    return [each.values for each in known] if same else None
