"""The regret curve: what the settings that tuning tried scored on dev, and how much worse than the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from peftkit.compare.baselines import mean_scores
from peftkit.compare.gather import Section
from peftkit.compare.notes import tuning_notes
from peftkit.compare.tables import Page, Row, rendered
from peftkit.compare.tuned import transfer, tuning_of
from peftkit.errors import InputError
from peftkit.runs import tuning_edges

RATE = "train.learning_rate"
OTHER_BUDGET = "transfer"
"""The stage whose runs have another budget than the trials, and no regret to these."""


@dataclass(frozen=True)
class Tried:
    """One trial of a method's tuning."""

    method: str
    learning_rate: float | None
    """None where a trial had none of its own."""
    settings: str
    """What else was tuned, as `key=value` pairs."""
    stage: str
    seed: int | None
    score: float | None
    """On dev; None where the run failed, diverged, or its score is no number."""
    loss: float | None
    """On dev."""
    regret: float | None
    """By how much the score is worse than the best of the method's trials; None at another budget."""
    chosen: bool
    """Whether the method's final runs have these settings."""
    gmacs: float | None
    at_edge: str
    """Where the method's tuning stopped at the edge of its range; empty if it did not."""
    transfer: str
    """What is to be said of trials at another budget than the final one; empty if there are none."""


@dataclass(frozen=True)
class Regret:
    """The trials of all methods of a section that were tuned, by method and learning rate."""

    task: str
    model: str
    metric: str
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    baselines: Mapping[str, float] = field(default_factory=dict)
    """The scores on dev of models that read nothing, as far as runs record them."""

    @property
    def methods(self) -> list[str]:
        """Those that were tuned."""
        return [*dict.fromkeys(trial.method for trial in self.tried)]


def regret(section: Section) -> Regret | None:
    """The regret curves of a section; None where nothing was tuned."""
    tunings = {label: tuning_of(runs) for label, runs in section.runs.items()}
    first = next(run for runs in section.runs.values() for run in runs.values())
    sign = 1.0 if first.summary["higher_is_better"] else -1.0
    tried: list[Tried] = []
    for label, tuning in tunings.items():
        if tuning:
            tried += _of_method(label, tuning, sign)
    if not tried:
        return None
    notes = tuning_notes(
        {label: tuning_edges(tuning) for label, tuning in tunings.items()},
        {label: transfer(tuning) for label, tuning in tunings.items()},
    )
    untuned = [label for label, tuning in tunings.items() if not tuning]
    if untuned:
        notes.append(f"left out, since they were not tuned: {', '.join(untuned)}")
    metric = str(first.summary["selects"])
    summaries = (run.summary for runs in section.runs.values() for run in runs.values())
    return Regret(
        section.task, section.model, metric, tuple(tried), tuple(notes), mean_scores(summaries, metric, "dev")
    )


def written(sections: Sequence[Section], form: str) -> bytes:
    """The regret curves in one of the forms of a comparison.

    Raises:
        InputError: no method was tuned.
    """
    found = [each for each in map(regret, sections) if each]
    if not found:
        raise InputError("no method of these runs was tuned by a sweep: there are no trials to show")
    return rendered([_page(each) for each in found], form, "regrets")


def rows_of(found: Regret) -> list[Row]:
    """The table with its heads."""
    heads = (
        "method",
        "learning rate",
        "settings",
        "stage",
        "seed",
        f"dev {found.metric}",
        "dev loss",
        "regret",
        "chosen",
    )
    rows = [
        (
            trial.method,
            _told(trial.learning_rate, "g"),
            trial.settings,
            trial.stage,
            "" if trial.seed is None else str(trial.seed),
            _told(trial.score, ".4f", "no number"),
            _told(trial.loss, ".4f"),
            _told(trial.regret, ".4f"),
            "yes" + ("; stopped at the edge of its range" if trial.at_edge else "") if trial.chosen else "",
        )
        for trial in found.tried
    ]
    rows += [(name, "", "", "", "", f"{score:.4f}", "", "", "") for name, score in found.baselines.items()]
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in kept) for row in (heads, *rows)]


def title(found: Regret) -> str:
    """What stands above the table."""
    return f"{found.task} with {found.model}: what tuning tried, by {found.metric} and loss on dev"


def _page(found: Regret) -> Page:
    records = [
        {"task": found.task, "model": found.model, "metric": found.metric, **asdict(each)} for each in found.tried
    ]
    return Page(title(found), rows_of(found), found.notes, asdict(found), records)


def _of_method(label: str, tuning: Any, sign: float) -> list[Tried]:
    of = tuning.get("tried", ())
    scores = [sign * each["score"] for each in of if each["score"] is not None and each.get("stage") != OTHER_BUDGET]
    best = max(scores, default=None)
    found = []
    for each in of:
        settings = dict(each["settings"])
        rate, score = settings.pop(RATE, None), each["score"]
        there = score is not None and best is not None and each.get("stage") != OTHER_BUDGET
        found.append(
            Tried(
                method=label,
                learning_rate=rate,
                settings=", ".join(f"{key}={value}" for key, value in settings.items()),
                stage=each.get("stage", ""),
                seed=each.get("seed"),
                score=score,
                loss=each.get("loss"),
                regret=best - sign * score if there else None,
                chosen=each["settings"] == tuning.get("settings"),
                gmacs=each.get("gmacs"),
                at_edge="; ".join(tuning_edges(tuning)),
                transfer=transfer(tuning) or "",
            )
        )
    return sorted(found, key=lambda trial: (trial.learning_rate or 0.0, trial.settings, trial.seed or 0))


def _told(number: float | None, form: str, otherwise: str = "") -> str:
    return otherwise if number is None else format(number, form)
