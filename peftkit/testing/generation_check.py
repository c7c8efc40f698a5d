"""Checks that greedy search agrees with scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from peftkit.testing.tiny_models import architecture_kind, batch


def check_generation_matches_scores(model: Any, architecture: str, tokens: int = 6, *, cached: bool = True) -> None:
    """Check that the logits of greedy search equal those of one forward pass over the generated text.

    Args:
        model: A decoder or encoder-decoder.
        architecture: Its architecture.
        tokens: The number of tokens to generate.
        cached: Whether to generate with a KV cache.

    Raises:
        AssertionError: The logits differ.
    """
    model.eval()
    rows = batch(architecture)
    source, mask = rows["input_ids"], rows["attention_mask"]
    with torch.no_grad(), _without_eos(model):
        settings = {} if cached else {"use_cache": False}
        generated = model.generate(
            input_ids=source,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
        text = generated.sequences
        if architecture_kind(architecture) == "decoder":
            mask = torch.cat([mask, torch.ones(len(mask), tokens, dtype=mask.dtype)], 1)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            inputs = {"input_ids": text, "attention_mask": mask, "position_ids": positions}
            scored = model(**inputs, use_cache=False).logits[:, -tokens - 1 : -1]
        else:
            scored = model(input_ids=source, attention_mask=mask, decoder_input_ids=text, use_cache=False).logits
            scored = scored[:, :-1]
    assert scored.shape[1] == tokens
    torch.testing.assert_close(torch.stack(generated.logits, 1), scored, atol=1e-5, rtol=1e-5)
    assert torch.equal(text[:, -tokens:], scored.argmax(-1)), "generation and scoring choose different tokens"


@contextmanager
def _without_eos(model: Any) -> Iterator[None]:
    """Disable the end-of-sequence token, after which rows would be padded."""
    config = model.generation_config
    eos, config.eos_token_id = config.eos_token_id, None
    try:
        yield
    finally:
        config.eos_token_id = eos
