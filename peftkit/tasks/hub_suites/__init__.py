"""Tasks on hub datasets, described by tables: generic tasks with columns, labels, prompts and published sizes."""

from __future__ import annotations

from functools import cache, partial

from peftkit.components.component import LazyComponent
from peftkit.tasks.hub_suites.commonsense_suites import COMMONSENSE_SUITES
from peftkit.tasks.hub_suites.glue import GLUE, SUPER_GLUE
from peftkit.tasks.hub_suites.hub_task import suite_task
from peftkit.tasks.hub_suites.label_suites import LABEL_SUITES
from peftkit.tasks.hub_suites.reasoning_suites import REASONING_SUITES
from peftkit.tasks.hub_suites.text_suites import TEXT_SUITES

SUITES = (GLUE, SUPER_GLUE, *LABEL_SUITES, *COMMONSENSE_SUITES, *TEXT_SUITES, *REASONING_SUITES)
"""All suites of hub datasets."""


@cache
def suite_tasks() -> tuple[LazyComponent, ...]:
    """Returns a task for each suite, whose class is built once, when it is used."""
    return tuple(
        LazyComponent(suite.name, f"{suite.summary} ({suite.paper}).", partial(suite_task, suite)) for suite in SUITES
    )
