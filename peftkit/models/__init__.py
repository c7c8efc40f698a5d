"""Loads models, and knows their architectures: one family for each.

A `ModelFamily` is the only place that knows the difference between encoder-decoder, decoder-only and encoder-only
models. It offers services to objectives: tokenized rows, batches, logits, candidate log-likelihoods and generation. A
`BoundObjective` is the objective of a run with its family.
"""

from __future__ import annotations

from collections.abc import Mapping

from peftkit.components import ModelKind
from peftkit.components.types import IGNORE_INDEX, CandidateScores, TokenizedRow
from peftkit.models.bound_objective import BoundObjective
from peftkit.models.causal_lm import CausalLM
from peftkit.models.encoder import SequenceClassifier
from peftkit.models.family import ModelFamily
from peftkit.models.seq2seq_lm import Seq2SeqLM

__all__ = [
    "FAMILIES",
    "IGNORE_INDEX",
    "BoundObjective",
    "CandidateScores",
    "CausalLM",
    "ModelFamily",
    "Seq2SeqLM",
    "SequenceClassifier",
    "TokenizedRow",
]

FAMILIES: Mapping[ModelKind, type[ModelFamily]] = {
    "encoder-decoder": Seq2SeqLM,
    "decoder": CausalLM,
    "encoder": SequenceClassifier,
}
