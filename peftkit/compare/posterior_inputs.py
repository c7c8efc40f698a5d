"""Fits the posterior of methods' scores from a group of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun, read_run
from peftkit.compare.input.tuning_records import TRANSFER_STAGE, tuning_record
from peftkit.compare.learning_curves import lower_is_better, selected_score
from peftkit.compare.per_example_scores import ScoredExamples, read_example_scores, read_group_scores
from peftkit.compare.statistics import Posterior, TrialScores, Tuning, fit
from peftkit.compare.statistics.observations import Array
from peftkit.errors import InputError
from peftkit.example_tables import PREDICTION_KEYS

NOT_PROPORTIONS = ("bleu", "chrf", "matthews_correlation")
"""Prefixes of metrics that are not proportions although their values may lie within [0, 1]."""

Scores = Mapping[str, Mapping[int, float]]
"""Scores of runs, by method and seed."""


def scores_by_seed(run_group: RunGroup, metric: str) -> Scores:
    """The test scores of the selected checkpoints.

    Args:
        run_group: The runs.
        metric: The metric on test.

    Raises:
        InputError: A run has no such metric.
    """
    return {
        label: {seed: selected_score(run, metric) for seed, run in runs.items()}
        for label, runs in run_group.runs.items()
    }


def fit_posterior(
    run_group: RunGroup,
    metric: str,
    scored: ScoredExamples | None = None,
    reached: Scores | None = None,
    tunings: Mapping[str, Tuning] | None = None,
) -> Posterior:
    """Fit the posterior of a group's methods.

    Args:
        run_group: The runs.
        metric: The metric on test.
        scored: Scores per example; None to read them.
        reached: The score of each run; None for those of the selected checkpoints.
        tunings: Tuning trials by method; None to read them.

    Raises:
        InputError: A run has no such metric, or runs have different test examples.
    """
    scored = scored or read_group_scores(run_group, metric)
    reached = reached or scores_by_seed(run_group, metric)
    first = next(run for runs in run_group.runs.values() for run in runs.values())
    return fit(
        scored.runs,
        share=is_proportion(first, metric, reached),
        higher_is_better=not lower_is_better(first, metric),
        groups=scored.groups,
        means=reached,
        rows=0 if scored.num_examples else recorded_num_examples(first, metric),
        tunings=read_tunings(run_group, metric) if tunings is None else tunings,
    )


def is_proportion(run: LoadedRun, metric: str, scores: Scores) -> bool:
    """Whether a metric is a proportion: higher is better, and all scores are within [0, 1].

    Args:
        run: A run that records which metrics are better when lower.
        metric: The metric.
        scores: The scores of all runs.
    """
    if lower_is_better(run, metric) or metric.startswith(NOT_PROPORTIONS):
        return False
    return all(0 <= value <= 1 for by_seed in scores.values() for value in by_seed.values())


def default_margin(share: bool, scores: Sequence[float]) -> float:
    """The default of the largest difference that does not matter: 0.01 for proportions, else 1 % of the lowest score.

    Args:
        share: Whether scores are proportions.
        scores: The scores of all runs.
    """
    return 0.01 if share else 0.01 * float(np.abs(scores).min())


def recorded_num_examples(run: LoadedRun, metric: str) -> int:
    """The recorded number of test examples, for runs whose predictions are gone; 0 if unknown or not an accuracy.

    Args:
        run: The run.
        metric: The metric on test.
    """
    evaluated = run.summary.get("rows_evaluated", {}).get("selected", {}).get("test")
    limit = run.recipe.get("evaluate", {}).get("test_examples")  # runs of format 1 are reported on these
    number = evaluated or limit or run.summary.get("rows", {}).get("test")
    return int(number) if metric in PREDICTION_KEYS and number else 0


def read_tunings(run_group: RunGroup, metric: str) -> Mapping[str, Tuning]:
    """Read the tuning trials of each method.

    Args:
        run_group: The runs.
        metric: The metric. Methods tuned by another one are left out.
    """
    tunings = {label: _read_tuning(runs, metric) for label, runs in run_group.runs.items()}
    return {label: tuning for label, tuning in tunings.items() if tuning}


def _read_tuning(runs: Mapping[int, LoadedRun], metric: str) -> Tuning | None:
    record = tuning_record(runs)
    first = next(iter(runs.values()))
    if record is None or metric != first.summary["selection_metric"]:
        return None
    tried = [
        each for each in record.get("tried", ()) if each["score"] is not None and each.get("stage") != TRANSFER_STAGE
    ]
    settings: list[Any] = []
    for each in tried:
        if each["settings"] not in settings:
            settings.append(each["settings"])
    if record.get("settings") not in settings:
        return None
    numbers = [settings.index(each["settings"]) for each in tried]
    chosen = settings.index(record["settings"])
    folders = _find_trials(first.path, [each["run"] for each in tried])
    splits = {split: _trial_scores(folders, metric, split) for split in ("dev", first.test_split)}
    dev = splits["dev"] or [np.array([float(each["score"])]) for each in tried]
    # Test scores at another budget say nothing about the final runs' scores.
    test = None if record.get("transfer") else splits[first.test_split]
    tests: Sequence[Array | None] = test or [None] * len(tried)
    trials = [TrialScores(*each) for each in zip(numbers, dev, tests, strict=True)]
    return Tuning(trials, chosen)


def _find_trials(path: Path, names: Sequence[str]) -> list[Path]:
    """The folders of the trials in the sweep that a run belongs to; empty unless all exist."""
    sweep = next((each for each in path.resolve().parents if (each / "sweep.json").is_file()), None)
    known = {folder.name: folder for folder in sweep.glob("trials/*/*/*")} if sweep else {}
    return [known[name] for name in names] if known.keys() >= {*names} else []


def _trial_scores(folders: Sequence[Path], metric: str, split: str) -> list[Array] | None:
    """The scores of each trial, of shape (examples,); None unless all trials have them, on the same examples."""
    try:
        results = [read_example_scores(read_run(folder), metric, split) for folder in folders]
    except InputError:
        return None
    scores = [each for each in results if each is not None]
    same = bool(folders) and len(scores) == len(folders) and len({each.index for each in scores}) == 1
    return [each.values for each in scores] if same else None
