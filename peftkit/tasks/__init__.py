"""The built-in tasks."""

from __future__ import annotations

from peftkit.components import Task
from peftkit.hookspecs import hookimpl
from peftkit.tasks.wordnet import WordNetDistractors, WordNetMcq, WordNetTopic


@hookimpl
def register_tasks() -> list[type[Task]]:
    """The tasks that come with peftkit."""
    return [WordNetTopic, WordNetMcq, WordNetDistractors]
