"""Truncates sources and targets that are too long.

The context of a source is truncated first, so that its question and choices are kept. A source without a context loses
its end, or its start in front of a decoder. ``positions.fit_lengths`` says how many tokens there is room for.
"""

from __future__ import annotations

import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.components import Example
from peftkit.errors import LengthError
from peftkit.models.lengths import LONGER_SOURCES
from peftkit.models.special_tokens import SpecialTokens


def truncate_context(
    example: Example, max_tokens: int, tokenizer: PreTrainedTokenizerBase, remedy: str = LONGER_SOURCES
) -> str:
    """Truncate the context of an example's source at its end until the source fits.

    Args:
        example: an example with a ``truncatable_span``.
        max_tokens: maximum number of tokens of the source, including special tokens.
        tokenizer: the model's tokenizer.
        remedy: what to do about a source that is too long.

    Returns:
        The text of the source.

    Raises:
        LengthError: the rest of the source is too long without any context.
    """
    if example.truncatable_span is None:
        raise ValueError("the example has no truncatable_span")
    text, (start, end) = example.source, example.truncatable_span
    while (excess := len(tokenizer(text)["input_ids"]) - max_tokens) > 0:
        token_starts = [position for position in _token_starts(text, tokenizer) if start <= position < end]
        if not token_starts:
            raise LengthError(
                "source",
                f"the part of it that must not be truncated exceeds the limit of {max_tokens} tokens by {excess}; "
                f"{remedy}",
            )
        cut = token_starts[-min(excess, len(token_starts))]
        text, end = text[:cut].rstrip() + text[end:], max(start, len(text[:cut].rstrip()))
    return text


def truncate_end(
    ids: list[int], max_tokens: int, special_tokens: SpecialTokens, remedy: str = LONGER_SOURCES
) -> list[int]:
    """Truncate a source at its end, keeping the special tokens of the template.

    Args:
        ids: token ids of the source, including special tokens.
        max_tokens: maximum number of tokens.
        special_tokens: the special tokens of the template.
        remedy: what to do if there is no room.

    Raises:
        LengthError: the template leaves no room for any token of the source.
    """
    prefix_length, suffix_length = len(special_tokens.prefix), len(special_tokens.suffix)
    if max_tokens <= prefix_length + suffix_length < len(ids):
        raise _no_room_error(max_tokens, remedy)
    if len(ids) <= max_tokens:
        return ids
    return [*ids[: max_tokens - suffix_length], *ids[len(ids) - suffix_length :]]


def truncate_start(
    ids: list[int], max_tokens: int, special_tokens: SpecialTokens, remedy: str = LONGER_SOURCES
) -> list[int]:
    """Truncate a decoder's prompt at its start, keeping the prefix of the template; the target follows its end.

    Args:
        ids: token ids of the prompt, including the prefix.
        max_tokens: maximum number of tokens.
        special_tokens: the special tokens of the template.
        remedy: what to do if there is no room.

    Raises:
        LengthError: the prefix leaves no room for any other token of the prompt.
    """
    if len(ids) <= max_tokens:
        return ids
    prefix_length = len(special_tokens.prefix)
    if max_tokens <= prefix_length:
        raise _no_room_error(max_tokens, remedy)
    return [*ids[:prefix_length], *ids[len(ids) - max_tokens + prefix_length :]]


def truncate_pairs(
    source: str, choices: list[str], max_tokens: int, tokenizer: PreTrainedTokenizerBase, remedy: str = LONGER_SOURCES
) -> Any:
    """Tokenize pairs of a source and a choice with the source truncated at its end.

    Args:
        source: the text of the source.
        choices: the texts of the choices.
        max_tokens: maximum number of tokens of a pair, including special tokens.
        tokenizer: the model's tokenizer.
        remedy: what to do about a choice that is too long.

    Returns:
        The output of the tokenizer, with token type ids.

    Raises:
        LengthError: a choice leaves no room for the source.
    """
    longest = max(len(pair) for pair in tokenizer([""] * len(choices), choices)["input_ids"])
    if longest >= max_tokens:
        raise LengthError(
            "candidates",
            f"one of them has {longest} tokens, which leaves no room for the source within the limit of "
            f"{max_tokens} tokens; {remedy}",
        )
    tokenizer.truncation_side = "right"
    options: dict[str, Any] = {"truncation": "only_first", "max_length": max_tokens, "return_token_type_ids": True}
    return tokenizer([source] * len(choices), choices, **options)


def truncate_target(ids: list[int], max_tokens: int) -> list[int]:
    """Truncate a target, keeping the end of text.

    Args:
        ids: token ids of the target, the end of text last.
        max_tokens: maximum number of tokens, including the end of text.
    """
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def _no_room_error(max_tokens: int, remedy: str) -> LengthError:
    return LengthError("source", f"truncation to {max_tokens} tokens leaves none of it; {remedy}")


def _token_starts(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return where the tokens of a text start, or its words if the tokenizer has no offsets."""
    if not tokenizer.is_fast:
        return [word.start() for word in re.finditer(r"\S+", text)]
    encoded: Any = tokenizer(text, return_offsets_mapping=True)
    return [first for first, last in encoded["offset_mapping"] if last > first]
