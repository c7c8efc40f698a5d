"""A tokenized example, and the label of the positions that the loss ignores."""

from __future__ import annotations

from typing import NotRequired, TypedDict

IGNORE_INDEX = -100
"""The label of positions that do not count towards the loss (the default ``ignore_index`` of torch)."""


class TokenizedRow(TypedDict):
    """One tokenized example.

    Attributes:
        source: token ids of the source, including special tokens; empty for an encoder that scores pairs.
        candidates: token ids of each candidate, or of the target alone where nothing is ranked. For an encoder, each
            is a whole input of source and choice; it is empty for fixed labels.
        answer: index of the target among the candidates.
        source_tokens: length of the source before truncation.
        target_tokens: length of the longest candidate before truncation.
        segments: token type ids of an encoder's pairs, if the tokenizer has them.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    source_tokens: int
    target_tokens: int
    segments: NotRequired[list[list[int]]]
