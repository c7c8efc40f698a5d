"""The built-in tasks, on the package's data, on hub datasets and on the user's own data."""

from __future__ import annotations

from peftkit.components import Task
from peftkit.components.component import LazyComponent
from peftkit.hookspecs import hookimpl
from peftkit.tasks.chat import Chat
from peftkit.tasks.hub import AgNews, CommonsenseQa, Race, RaceDistractors, TweetEval
from peftkit.tasks.hub_suites import suite_tasks
from peftkit.tasks.hub_suites.harness_task import HarnessChoice, HarnessText
from peftkit.tasks.hub_suites.metamath import MetaMathGsm8k
from peftkit.tasks.multiple_choice import DistractorGeneration, MultipleChoice
from peftkit.tasks.plain_text import PlainText
from peftkit.tasks.span_qa import SpanQa
from peftkit.tasks.text_tasks.text_classification import TextClassification
from peftkit.tasks.text_tasks.text_generation import TextGeneration
from peftkit.tasks.text_tasks.text_multi_label import TextMultiLabel
from peftkit.tasks.text_tasks.text_pairs import TextPairs
from peftkit.tasks.text_tasks.text_regression import TextRegression
from peftkit.tasks.text_tasks.text_similarity import TextSimilarity
from peftkit.tasks.token_tagging import TokenTagging
from peftkit.tasks.wordnet import WordNetDistractors, WordNetGlosses, WordNetMcq, WordNetTopic


@hookimpl
def register_tasks() -> list[type[Task] | LazyComponent]:
    """Registers the built-in tasks."""
    return [
        AgNews,
        Chat,
        CommonsenseQa,
        DistractorGeneration,
        HarnessChoice,
        HarnessText,
        MetaMathGsm8k,
        MultipleChoice,
        PlainText,
        Race,
        RaceDistractors,
        SpanQa,
        TextClassification,
        TextGeneration,
        TextMultiLabel,
        TextPairs,
        TextRegression,
        TextSimilarity,
        TokenTagging,
        TweetEval,
        WordNetDistractors,
        WordNetGlosses,
        WordNetMcq,
        WordNetTopic,
        *suite_tasks(),
    ]
