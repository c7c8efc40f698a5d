"""The built-in tasks: on the data inside the package, on data sets of the hub, and on anybody's data."""

from __future__ import annotations

from peftkit.components import Task
from peftkit.hookspecs import hookimpl
from peftkit.tasks.generic import DistractorGeneration, MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.hub import AgNews, CommonsenseQa, Race, RaceDistractors, TweetEval
from peftkit.tasks.wordnet import WordNetDistractors, WordNetMcq, WordNetTopic


@hookimpl
def register_tasks() -> list[type[Task]]:
    """The tasks that come with peftkit."""
    return [
        AgNews,
        CommonsenseQa,
        DistractorGeneration,
        MultipleChoice,
        Race,
        RaceDistractors,
        TextClassification,
        TextGeneration,
        TweetEval,
        WordNetDistractors,
        WordNetMcq,
        WordNetTopic,
    ]
