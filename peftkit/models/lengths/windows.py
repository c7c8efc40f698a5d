"""Tokenizes long texts into overlapping windows that keep the position of each token in the text."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.components.types import TextWindow
from peftkit.errors import InputError, LengthError, RowError, summarize_error
from peftkit.models.lengths import LONGER_SOURCES


def tokenize_windows(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    question: str | None,
    *,
    max_tokens: int,
    stride: int,
    remedy: str = LONGER_SOURCES,
) -> list[TextWindow]:
    """Tokenize a text, or a pair of a question and a text, into as many windows as it needs.

    Args:
        tokenizer: the tokenizer.
        text: the text.
        question: what every window starts with; None for single texts.
        max_tokens: maximum number of tokens of a window, including special tokens.
        stride: number of the text's tokens that a window shares with the one before, at most half of them.
        remedy: what to do about a question that is too long.

    Raises:
        InputError: the tokenizer does not know where tokens are in a text.
        RowError: the question leaves no room for the text, or the tokenizer cannot encode one of them.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {type(tokenizer).__name__!r} does not say where in a text its tokens are, which words and "
            "spans need; use a model whose tokenizer is a tokenizer.json"
        )
    texts = [[text]] if question is None else [[question], [text]]
    options: dict[str, Any] = {"return_offsets_mapping": True, "return_token_type_ids": True}
    try:
        encoded: Any = tokenizer(*texts, **options)
        room = max_tokens
        if len(encoded["input_ids"][0]) > max_tokens:
            bare: Any = tokenizer(*texts[:-1], [""])
            room -= len(bare["input_ids"][0])
            if room < 1:
                raise LengthError(
                    "source",
                    f"what every window starts with has {max_tokens - room} tokens, which leaves no room for the text "
                    f"within the limit of {max_tokens} tokens; {remedy}",
                )
            stride = min(stride, room // 2)
            tokenizer.truncation_side = "right"
            options |= {"truncation": "only_first" if question is None else "only_second", "max_length": max_tokens}
            encoded = tokenizer(*texts, **options, stride=stride, return_overflowing_tokens=True)
    except RowError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exceptions
        reason = f"the tokenizer cannot encode it ({summarize_error(error)}); change the text"
        raise RowError("source", reason) from error
    sequence_of_text, windows = int(question is not None), []
    for i, ids in enumerate(encoded["input_ids"]):
        sequences, offsets = encoded.sequence_ids(i), encoded["offset_mapping"][i]
        windows.append(
            TextWindow(
                list(ids),
                list(encoded["token_type_ids"][i]),
                tuple(
                    (*pair,) if sequence == sequence_of_text else None
                    for sequence, pair in zip(sequences, offsets, strict=True)
                ),
                i * (room - stride),
            )
        )
    return windows
