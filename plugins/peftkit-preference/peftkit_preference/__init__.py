"""Preference data for peftkit: objectives, tasks and metrics."""

from __future__ import annotations

from peftkit import Metric, Objective, Task, hookimpl
from peftkit_preference.kto import Kto
from peftkit_preference.pair_objectives import Dpo, SimPo
from peftkit_preference.preference_tasks import PreferencePairs, UnpairedPreference
from peftkit_preference.reward_metrics import LogpsAccuracy, RewardAccuracy, RewardAuc, RewardMargin

__all__ = [
    "Dpo",
    "Kto",
    "LogpsAccuracy",
    "PreferencePairs",
    "RewardAccuracy",
    "RewardAuc",
    "RewardMargin",
    "SimPo",
    "UnpairedPreference",
    "register_metrics",
    "register_objectives",
    "register_tasks",
]


@hookimpl
def register_objectives() -> list[type[Objective]]:
    """Register the objectives."""
    return [Dpo, SimPo, Kto]


@hookimpl
def register_tasks() -> list[type[Task]]:
    """Register the tasks."""
    return [PreferencePairs, UnpairedPreference]


@hookimpl
def register_metrics() -> list[type[Metric]]:
    """Register the metrics."""
    return [LogpsAccuracy, RewardAccuracy, RewardAuc, RewardMargin]
