"""Generates text without a cache where the cache of a model does not give what its forward pass predicts.

Whether it does depends on the model, the method around it and library versions, so the first generation of each model
is compared with a forward pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from peftkit.models.heads.token_losses import tolerance
from peftkit.oom import is_oom

log = logging.getLogger(__name__)
STEPS = 3
"""Number of tokens that are generated for the comparison; the first needs no cache."""
WITHOUT_CACHE: Mapping[str, Any] = {"use_cache": False}
_OPTIONS: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()
"""The further arguments of ``generate`` for each model that has been compared."""


def generate(model: nn.Module, continued: Literal["input_ids", "decoder_input_ids"], **inputs: Any) -> Any:
    """Generate text as ``model.generate`` does, with a cache only if that gives what the forward pass predicts.

    Args:
        model: the model, in evaluation mode.
        continued: the argument of ``forward`` that the generated ids continue.
        inputs: arguments of ``generate``; ``input_ids`` and ``attention_mask`` have the shape (rows, length).

    Returns:
        The result of ``model.generate``.
    """
    if model not in _OPTIONS:
        _OPTIONS[model] = _find_options(model, continued, inputs)
    return model.generate(**inputs, **_OPTIONS[model])  # type: ignore[operator]


def _find_options(model: nn.Module, continued: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of ``generate`` with which a model generates what it predicts."""
    problem = _find_difference(model, continued, inputs, {})
    if not problem:
        return {}
    name = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__  # type: ignore[operator]
    if not _find_difference(model, continued, inputs, WITHOUT_CACHE):
        log.warning("text is generated more slowly, since the cache of %s cannot be used: %s", name, problem)
        return WITHOUT_CACHE
    log.warning("the generated text may not be what %s predicts: %s", name, problem)
    return {}


def _find_difference(model: nn.Module, continued: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Compare the logits of generated tokens with those of forward passes; empty if they agree."""
    row = int(inputs["attention_mask"].sum(1).argmax())  # the longest, which has no padding in front
    one = {key: value[row : row + 1] if isinstance(value, Tensor) else value for key, value in inputs.items()}
    number = min(STEPS, inputs["max_new_tokens"])
    one |= {"max_new_tokens": number, "min_new_tokens": number, "num_beams": 1}  # logits are read before processors
    one |= {"output_logits": True, "return_dict_in_generate": True, "stopping_criteria": None, **options}
    one["logits_processor"] = None  # samples need a seed for each row
    try:
        generated = model.generate(**one)  # type: ignore[operator]
        texts = {key: one[key] for key in ("input_ids", "attention_mask")}
        steps = [_next_logits(model, texts, continued, generated.sequences[:, :last]) for last in range(-number, 0)]
    except (
        Exception
    ) as error:  # models that do not support a cache, or cannot do without one, raise all kinds of errors
        if is_oom(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0]
    logits, expected = torch.stack(generated.logits, 1).float(), torch.cat(steps, 1).float()
    difference = float((logits - expected).abs().max())
    close = difference <= 10 * tolerance(model, logits.device) * max(1.0, float(expected.abs().max()))
    return "" if close or math.isnan(difference) else f"logits differ by {difference:.3g} from the forward pass"


def _next_logits(model: nn.Module, texts: Mapping[str, Tensor], continued: str, ids: Tensor) -> Tensor:
    """Return the logits of the token after a text, of shape (1, 1, vocabulary)."""
    inputs = {**texts, continued: ids}
    if continued == "input_ids":
        inputs["attention_mask"] = torch.ones_like(ids)
    logits: Tensor = model(**inputs, use_cache=False).logits[:, -1:]
    return logits
