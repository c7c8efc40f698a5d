"""How examples become tensors: one form for each kind of model.

A form is the only place that knows the difference between an encoder-decoder, a decoder and an encoder. All three
give the same things: encoded rows, a summed training loss, and the log-likelihood of each candidate.
"""

from __future__ import annotations

from collections.abc import Mapping

from peftkit.components import ModelKind
from peftkit.runner.forms.base import IGNORED, Form, Row, Scores
from peftkit.runner.forms.decoder import Decoder
from peftkit.runner.forms.encoder import Encoder
from peftkit.runner.forms.encoder_decoder import EncoderDecoder

__all__ = ["FORMS", "IGNORED", "Decoder", "Encoder", "EncoderDecoder", "Form", "Row", "Scores"]

FORMS: Mapping[ModelKind, type[Form]] = {"encoder-decoder": EncoderDecoder, "decoder": Decoder, "encoder": Encoder}
