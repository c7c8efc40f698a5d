"""Tasks on hub datasets, described by tables: generic tasks with columns, labels, prompts and published sizes."""

from __future__ import annotations

from functools import cache

from peftkit.tasks.hub_suites.choice_suites import CHOICE_SUITES
from peftkit.tasks.hub_suites.hub_task import HubTask, suite_task
from peftkit.tasks.hub_suites.label_suites import LABEL_SUITES
from peftkit.tasks.hub_suites.reasoning_suites import REASONING_SUITES
from peftkit.tasks.hub_suites.text_suites import TEXT_SUITES

SUITES = (*LABEL_SUITES, *CHOICE_SUITES, *TEXT_SUITES, *REASONING_SUITES)
"""All suites of hub datasets."""


@cache
def suite_tasks() -> tuple[type[HubTask], ...]:
    """Builds a task for each suite, once."""
    return tuple(suite_task(suite) for suite in SUITES)
