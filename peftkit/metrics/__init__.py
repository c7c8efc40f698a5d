"""The built-in metrics: for labels, for numbers, for texts, and for distractors of multiple-choice questions."""

from __future__ import annotations

from peftkit.components import Metric
from peftkit.hookspecs import hookimpl
from peftkit.metrics.answers.extracted_answers import ExtractedMatch, MajorityAtK, PassAtK, Unextractable
from peftkit.metrics.answers.instruction_following import InstructionFollowing
from peftkit.metrics.answers.squad_metrics import Squad
from peftkit.metrics.base import EvaluateMetric
from peftkit.metrics.classification import (
    F1,
    Accuracy,
    BalancedAccuracy,
    F1Macro,
    MatthewsCorrelation,
    PrecisionMacro,
    RecallMacro,
)
from peftkit.metrics.distractors import (
    AnswerLeakage,
    DistractorAssignment,
    DistractorDistinctness,
    DistractorMatch,
    DistractorNovelty,
)
from peftkit.metrics.harness_scores import HarnessChoiceScore, HarnessTextScore
from peftkit.metrics.label_set_scores import ExactSet, MeanAveragePrecision, MultiLabelF1, UnknownLabels
from peftkit.metrics.number_scores import MeanAbsoluteError, MeanSquaredError, Pearson, Spearman, Unparsable
from peftkit.metrics.ranking_scores import MeanReciprocalRank, Ndcg, Recall
from peftkit.metrics.tag_scores import EntityF1, TokenAccuracy
from peftkit.metrics.teacher_forced import TeacherForcedMatch
from peftkit.metrics.text import Bleu, Chrf, Distinct, ExactMatch, Rouge
from peftkit.metrics.text_likelihood import BitsPerByte, Perplexity

__all__ = [
    "F1",
    "Accuracy",
    "AnswerLeakage",
    "BalancedAccuracy",
    "BitsPerByte",
    "Bleu",
    "Chrf",
    "Distinct",
    "DistractorAssignment",
    "DistractorDistinctness",
    "DistractorMatch",
    "DistractorNovelty",
    "EntityF1",
    "EvaluateMetric",
    "ExactMatch",
    "ExactSet",
    "ExtractedMatch",
    "F1Macro",
    "HarnessChoiceScore",
    "HarnessTextScore",
    "InstructionFollowing",
    "MajorityAtK",
    "MatthewsCorrelation",
    "MeanAbsoluteError",
    "MeanAveragePrecision",
    "MeanReciprocalRank",
    "MeanSquaredError",
    "MultiLabelF1",
    "Ndcg",
    "PassAtK",
    "Pearson",
    "Perplexity",
    "PrecisionMacro",
    "Recall",
    "RecallMacro",
    "Rouge",
    "Spearman",
    "Squad",
    "TeacherForcedMatch",
    "TokenAccuracy",
    "Unextractable",
    "UnknownLabels",
    "Unparsable",
    "register_metrics",
]


@hookimpl
def register_metrics() -> list[type[Metric]]:
    """Register the built-in metrics."""
    return [
        Accuracy,
        AnswerLeakage,
        BalancedAccuracy,
        BitsPerByte,
        Bleu,
        Chrf,
        Distinct,
        DistractorAssignment,
        DistractorDistinctness,
        DistractorMatch,
        DistractorNovelty,
        EntityF1,
        ExactMatch,
        ExactSet,
        ExtractedMatch,
        F1,
        F1Macro,
        HarnessChoiceScore,
        HarnessTextScore,
        InstructionFollowing,
        MajorityAtK,
        MatthewsCorrelation,
        MeanAbsoluteError,
        MeanAveragePrecision,
        MeanReciprocalRank,
        MeanSquaredError,
        MultiLabelF1,
        Ndcg,
        PassAtK,
        Pearson,
        Perplexity,
        PrecisionMacro,
        Recall,
        RecallMacro,
        Rouge,
        Squad,
        Spearman,
        TeacherForcedMatch,
        Unextractable,
        UnknownLabels,
        Unparsable,
        TokenAccuracy,
    ]
