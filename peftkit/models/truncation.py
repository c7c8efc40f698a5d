"""Truncates the context of sources that are too long; questions, choices and answers are kept."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.components import Example
from peftkit.errors import RowError


def truncate_context(example: Example, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """Truncate the context of an example's source at its end until the source fits.

    Args:
        example: an example with a ``truncatable_span``.
        max_tokens: maximum number of tokens of the source, including special tokens.
        tokenizer: the model's tokenizer.

    Returns:
        The text of the source.

    Raises:
        RowError: the rest of the source is too long without any context.
    """
    if example.truncatable_span is None:
        raise ValueError("the example has no truncatable_span")
    text, (start, end) = example.source, example.truncatable_span
    while (excess := len(tokenizer(text)["input_ids"]) - max_tokens) > 0:
        token_starts = [position for position in _token_starts(text, tokenizer) if start <= position < end]
        if not token_starts:
            raise RowError(
                "source",
                f"the part of it that must not be truncated exceeds the limit of {max_tokens} tokens by {excess}; "
                "raise train.max_source_length",
            )
        cut = token_starts[-min(excess, len(token_starts))]
        text, end = text[:cut].rstrip() + text[end:], max(start, len(text[:cut].rstrip()))
    return text


def _token_starts(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return where the tokens of a text start, or its words if the tokenizer has no offsets."""
    if not tokenizer.is_fast:
        return [word.start() for word in re.finditer(r"\S+", text)]
    encoded: Any = tokenizer(text, return_offsets_mapping=True)
    return [first for first, last in encoded["offset_mapping"] if last > first]
