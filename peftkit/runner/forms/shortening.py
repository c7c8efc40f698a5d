"""Sources that are too long lose tokens of their context, never of the rest: a question, choices, an answer."""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.components import Example
from peftkit.errors import RowError


def shortened(example: Example, room: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The source with its context cut at the end until it is at most ``room`` tokens, special ones counted.

    Raises:
        RowError: what must not be cut has more tokens than that by itself.
    """
    if example.context is None:
        raise ValueError("the example does not say what may be shortened")
    text, (start, end) = example.source, example.context
    while (over := len(tokenizer(text)["input_ids"]) - room) > 0:
        pieces = [first for first in _pieces(text, tokenizer) if start <= first < end]
        if not pieces:
            raise RowError(
                "source",
                f"what may not be shortened in it is {over} tokens too long for the {room} there is room for; raise "
                "train.max_source_length",
            )
        cut = pieces[-min(over, len(pieces))]
        text, end = text[:cut].rstrip() + text[end:], max(start, len(text[:cut].rstrip()))
    return text


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where the tokens of a text begin, or its words if the tokenizer cannot say."""
    if not tokenizer.is_fast:
        return [word.start() for word in re.finditer(r"\S+", text)]
    encoded: Any = tokenizer(text, return_offsets_mapping=True)
    return [first for first, last in encoded["offset_mapping"] if last > first]
