"""Checks that decoders predict each token from those before it only, and that encoders read both directions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.components import ModelKind
from peftkit.errors import ModelError

log = logging.getLogger(__name__)
CAUSAL = ("is_decoder", "causal")
"""Settings of a config that make an encoder read earlier tokens only."""


def check_bidirectional(name: str, config: Any) -> None:
    """Reject an encoder whose config makes it a decoder, as it would read earlier tokens only.

    Args:
        name: the model, as in the recipe.
        config: its config.

    Raises:
        ModelError: the config makes it a decoder.
    """
    for setting in CAUSAL:
        if getattr(config, setting, False):
            raise ModelError(
                f"the config of {name!r} sets {setting} = true, with which its encoder reads earlier tokens only; set "
                f"{setting} to false in its config.json, or use a model with a language modeling head as a decoder"
            )


def check_causality(name: str, kind: ModelKind, model: nn.Module) -> None:
    """Reject a decoder whose prediction of a token depends on that token, or on later ones.

    Such a model would read the targets it is trained and scored on, so its loss would be too low.

    Args:
        name: the model, as in the recipe.
        kind: its architecture; encoders are not checked.
        model: the loaded model.

    Raises:
        ModelError: the model reads tokens that it has to predict.
    """
    if kind == "encoder" or any(parameter.is_meta or not parameter.numel() for parameter in model.parameters()):
        return
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            first, second = _logits_with_different_ends(kind, model).float()
    except Exception as error:  # a model that needs other inputs fails where they are missing
        log.info("whether %s is causal was not checked: %s", name, error)
        return
    finally:
        model.train(was_training)
    rounding = max(1e-5, *(4 * torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()))
    if (first - second).abs().max() > rounding * first.abs().max():
        raise ModelError(
            f"the model {name!r} cannot be trained as {'an' if kind == 'encoder-decoder' else 'a'} {kind}: it predicts "
            "tokens from later ones, so that it would read its targets; use a causal model, or correct is_decoder, "
            "is_causal or use_bidirectional_attention in its config.json"
        )


def _logits_with_different_ends(kind: ModelKind, model: Any) -> Tensor:
    """Return the logits before the last token of two texts that differ in that token only."""
    # Low ids have embeddings in every vocabulary.
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 9]], device=model.device)
    if kind == "decoder":
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    else:
        output = model(input_ids=ids[:1].expand(2, -1), decoder_input_ids=ids, use_cache=False)
    logits: Tensor = output.logits[:, :-1]
    return logits
