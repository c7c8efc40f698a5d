"""Estimates what serving a method takes, with its parameters apart and merged, without the model's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.analysis.cost_estimate import format_bytes, format_number, weight_bytes
from peftkit.analysis.simulated_steps import on_random_weights
from peftkit.errors import InputError, summarize_error
from peftkit.macs.eager_attention import eager_attention
from peftkit.macs.flop_counter import OpCounter
from peftkit.macs.shadow_models import VALUE_ERRORS
from peftkit.models.decoding.prefix_cache import CacheNotShareable, accepts_argument, base_for_cache, cache_row_bytes
from peftkit.models.load_base_model import apply_method, init_random_base
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.recipe import Recipe

PLANNED_STEPS = 1000
"""The steps of training for methods that plan by them; what is served does not depend on it."""


@dataclass(frozen=True)
class ServedModel:
    """What a request costs, of one prompt.

    Attributes:
        first_token_gmacs: Billions of multiply-accumulates of the prompt, up to the first new token.
        gmacs_per_token: Those of each further token, on average; 0 for an encoder.
        gmacs: Those of the whole request.
        weight_bytes: Size of the weights, those of the method included.
        cache_bytes: Size of the keys and values at the end of the request; 0 without a cache.
    """

    first_token_gmacs: float
    gmacs_per_token: float
    gmacs: float
    weight_bytes: int
    cache_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Weights and cache, without activations and the libraries' overhead."""
        return self.weight_bytes + self.cache_bytes


@dataclass(frozen=True, repr=False)
class ServingCost:
    """What serving a recipe's method costs.

    Attributes:
        name: Name of the run.
        method: The method.
        model: The model.
        prompt_tokens: Tokens of a prompt, without those that the method prepends.
        new_tokens: Generated tokens; 0 for an encoder.
        unmerged: The model with the method's parameters apart.
        merged: The model with the method merged into its weights; None where that is not possible.
        why_not_merged: Why it is not; empty where it is.
    """

    name: str
    method: str
    model: str
    prompt_tokens: int
    new_tokens: int
    unmerged: ServedModel
    merged: ServedModel | None
    why_not_merged: str

    def __repr__(self) -> str:
        request = f"{self.prompt_tokens} tokens" + (f" in, {self.new_tokens} out" if self.new_tokens else "")
        lines = [f"{self.name}: serving {self.method} with {self.model}, {request}"]
        for name, served in (("unmerged", self.unmerged), ("merged", self.merged)):
            if served is None:
                lines.append(f"  {name:<11}{self.why_not_merged}")
                continue
            macs = f"{format_number(served.first_token_gmacs)} GMACs"
            if self.new_tokens:
                macs += f" to the first token, {format_number(served.gmacs_per_token)} for each further one"
            sizes = f"weights {format_bytes(served.weight_bytes)}, cache {format_bytes(served.cache_bytes)}"
            lines.append(f"  {name:<11}{macs}; {format_bytes(served.memory_bytes)} ({sizes})")
        return "\n".join(lines)


def estimate_serving(recipe: Recipe, prompt_tokens: int, new_tokens: int) -> ServingCost:
    """Count the multiply-accumulates of a request and the memory of the served model.

    Tokens after the first are generated from a cache of keys and values, whose share grows with the length.

    Args:
        recipe: The recipe.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Generated tokens, at least 2; an encoder generates none.

    Returns:
        The cost.

    Raises:
        InputError: The model is too large for a method that needs weights.
        RunError: The method cannot be applied.
    """
    quiet_libraries("warning")

    def simulate(device: str) -> ServingCost:
        base = init_random_base(recipe, device)
        generates = base.kind != "encoder"
        model = apply_method(recipe, base, PLANNED_STEPS).eval()
        tokens = new_tokens if generates else 0
        unmerged = _count_request(recipe, model, base.kind, prompt_tokens, tokens)
        merged, reason = None, ""
        try:
            merged = _count_request(recipe, recipe.method.merge(model).eval(), base.kind, prompt_tokens, tokens)
        except InputError as error:
            reason = str(error)
        except VALUE_ERRORS as error:
            if device == "meta":
                raise
            reason = f"{recipe.method.name!r} cannot be merged: {summarize_error(error)}"
        return ServingCost(
            recipe.run.name,
            recipe.method.name,
            recipe.model.name,
            prompt_tokens,
            tokens,
            unmerged,
            merged,
            reason,
        )

    return on_random_weights(recipe, simulate)


def _count_request(recipe: Recipe, model: nn.Module, kind: str, prompt_tokens: int, new_tokens: int) -> ServedModel:
    """Count a request of one row."""
    weights = weight_bytes(recipe, model)
    if not new_tokens:
        macs = _count(model, _inputs(model, kind, prompt_tokens, 1))[0]
        return ServedModel(macs / 1e9, 0.0, macs / 1e9, weights, 0)
    inputs = _inputs(model, kind, prompt_tokens, 1)
    first, output = _count(model, {**inputs, "use_cache": True})
    # The work of a token is affine in the number of cached ones, so that its mean is that of the first and the last.
    second, _ = _count_next(model, kind, inputs, output)
    longer = _inputs(model, kind, prompt_tokens, new_tokens - 1)
    _, long_output = _count(model, {**longer, "use_cache": True})
    last, cache = _count_next(model, kind, longer, long_output)
    per_token = (second + last) / 2
    total = first + per_token * (new_tokens - 1)
    return ServedModel(first / 1e9, per_token / 1e9, total / 1e9, weights, cache)


def _inputs(model: nn.Module, kind: str, prompt_tokens: int, read: int) -> dict[str, Any]:
    """Return a request after a number of new tokens has been read, the first of which is the decoder's start.

    Decoders read the prompt, and new tokens but the first.
    """
    device = next(model.parameters()).device
    if kind != "encoder-decoder":
        ids = torch.ones(1, prompt_tokens + read - 1, dtype=torch.long, device=device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        last_only = kind == "decoder" and accepts_argument(model, "logits_to_keep")
        return inputs | ({"logits_to_keep": 1} if last_only else {})
    ids = torch.ones(1, prompt_tokens, dtype=torch.long, device=device)
    decoded = torch.ones(1, read, dtype=torch.long, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": decoded}


def _count_next(model: nn.Module, kind: str, inputs: dict[str, Any], output: Any) -> tuple[int, int]:
    """Count the token after a text; return its multiply-accumulates, and the bytes of the cache.

    Without a cache, the whole text is read again.
    """
    past: Any = getattr(output, "past_key_values", None)
    try:
        cache_row_bytes(past)
    except CacheNotShareable:
        return _count(model, {**inputs, "use_cache": False})[0], 0
    ids: Tensor = torch.ones_like(inputs["input_ids"][:, :1])
    if kind == "encoder-decoder":
        hidden = output.encoder_last_hidden_state
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        step = {"encoder_outputs": (hidden,), "attention_mask": mask, "decoder_input_ids": ids}
    else:
        mask = torch.ones(1, past.get_seq_length() + 1, dtype=torch.long, device=ids.device)
        step = {"input_ids": ids, "attention_mask": mask}
    macs, _ = _count(base_for_cache(model), {**step, "past_key_values": past, "use_cache": True})
    return macs, cache_row_bytes(past)


def _count(model: nn.Module, inputs: dict[str, Any]) -> tuple[int, Any]:
    """Run a forward pass; return its multiply-accumulates and its output."""
    with torch.no_grad(), eager_attention(model), OpCounter() as counter:
        output = model(**inputs)
    return counter.forward_flops // 2, output
