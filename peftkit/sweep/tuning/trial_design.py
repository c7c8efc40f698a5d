"""How many trials a study has, by stage."""

from __future__ import annotations

from dataclasses import dataclass

from peftkit.sweep.sweep_file import MODEL_BASED_FROM

FOLLOW_UPS = 2
"""Trials beyond the best end of a range, or around the best point inside."""
NUM_LEADERS = 2
"""Settings that are repeated with a second seed, and run with the final budget if trials have another one."""
MIN_EVENLY_SPACED = 5
"""The fewest evenly spaced trials of a model-based search, which otherwise has a third of them."""


@dataclass(frozen=True)
class TrialDesign:
    """The number of trials of a study by stage, which does not depend on their results."""

    trials: int
    """Trials before the follow-ups, including model-based ones."""
    transfer: int = 0
    """Runs with the final budget, if trials have another one."""
    searches: bool = True
    """Whether there is anything to search; there is not for a method that trains the encoder's head alone."""

    @property
    def evenly_spaced(self) -> int:
        """Evenly spaced trials."""
        return self.trials if self.trials < MODEL_BASED_FROM else max(MIN_EVENLY_SPACED, self.trials // 3)

    @property
    def total(self) -> int:
        """All runs of a study's tuning."""
        return self.trials + FOLLOW_UPS + NUM_LEADERS + self.transfer if self.searches else 0

    def to_json(self) -> dict[str, int]:
        """The design as in ``tuning.json``; methods are tuned equally if these are equal."""
        return {
            "trials": self.trials,
            "model_based": self.trials - self.evenly_spaced,
            "follow_ups": FOLLOW_UPS,
            "repeats": NUM_LEADERS,
            "transfer": self.transfer,
        }
