"""The built-in objectives: how kinds of tasks become tensors, losses and predictions."""

from __future__ import annotations

from peftkit.components import Objective
from peftkit.hookspecs import hookimpl
from peftkit.objectives.chat_completion import ChatCompletion
from peftkit.objectives.completions import ChoiceRanking, FreeGeneration, LabelRanking
from peftkit.objectives.contrastive import ContrastiveEmbedding
from peftkit.objectives.heads import ClassificationHead, MultipleChoiceHead
from peftkit.objectives.language_modeling import CausalLanguageModeling, ConditionalLanguageModeling
from peftkit.objectives.multi_label import MultiLabelGeneration, MultiLabelHead
from peftkit.objectives.question_answering import SpanQaGeneration, SpanQaHead
from peftkit.objectives.regression import NumberGeneration, RegressionHead
from peftkit.objectives.similarity import SimilarityEmbedding
from peftkit.objectives.token_classification import TokenTaggingHead

__all__ = [
    "CausalLanguageModeling",
    "ChatCompletion",
    "ChoiceRanking",
    "ClassificationHead",
    "ConditionalLanguageModeling",
    "ContrastiveEmbedding",
    "FreeGeneration",
    "LabelRanking",
    "MultiLabelGeneration",
    "MultiLabelHead",
    "MultipleChoiceHead",
    "NumberGeneration",
    "RegressionHead",
    "SimilarityEmbedding",
    "SpanQaGeneration",
    "SpanQaHead",
    "TokenTaggingHead",
    "register_objectives",
]


@hookimpl
def register_objectives() -> list[type[Objective]]:
    """Register the built-in objectives; of each kind of task, the one for the default model first."""
    return [
        CausalLanguageModeling,
        ChatCompletion,
        ChoiceRanking,
        ConditionalLanguageModeling,
        ContrastiveEmbedding,
        FreeGeneration,
        LabelRanking,
        ClassificationHead,
        MultiLabelGeneration,
        MultiLabelHead,
        MultipleChoiceHead,
        NumberGeneration,
        RegressionHead,
        SimilarityEmbedding,
        SpanQaGeneration,
        SpanQaHead,
        TokenTaggingHead,
    ]
