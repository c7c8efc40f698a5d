"""Loads models, and turns examples into tensors, losses and scores: one family for each architecture.

A `ModelFamily` is the only place that knows the difference between encoder-decoder, decoder-only and encoder-only
models. All three offer the same interface: tokenized rows, a summed training loss, and candidate log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Mapping

from peftkit.components import ModelKind
from peftkit.models.causal_lm import CausalLM
from peftkit.models.encoder import SequenceClassifier
from peftkit.models.family import ModelFamily
from peftkit.models.scores import CandidateScores
from peftkit.models.seq2seq_lm import Seq2SeqLM
from peftkit.models.tokenized_row import IGNORE_INDEX, TokenizedRow

__all__ = [
    "FAMILIES",
    "IGNORE_INDEX",
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
