"""Families with small tokenizers, and texts for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from peftkit.testing.tokenizers import TOKENIZER_CASES, tokenizer

WORDS = st.sampled_from(
    [
        *("the", "robin", "granite", "answer:", "good", "yes", "12", "7.5", "it's", "café", "Über", "x", "qz", "\n"),
        *("</s>", "<s>", "<extra>", "[SEP]", "<|im_end|>", "", " ", "?", ":", "(", "☃", "e\u0301", "\t", "\u3000"),
    ]
)
TEXTS = st.builds("".join, st.lists(st.one_of(WORDS, st.just(" ")), max_size=12)) | st.text(max_size=20)
IDS = [f"{make}/{template}" for make, template in TOKENIZER_CASES]


def family_for(cls: Any, make: str, template: str, config: Any = None, **lengths: Any) -> Any:
    config = config or SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    return cls(tokenizer(make, template), config, lengths.get("source", 512), lengths.get("target", 512))
