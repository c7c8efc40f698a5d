"""Tokenizers of every kind, made from a few sentences, the same each time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from fuzzing.data import SENTENCES, WORDS
from peftkit.components import ModelKind

SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
PAIRED = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
TOKENS = [*SPECIAL.values(), *PAIRED.values()]
SIZE = 160


def _byte_level(prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=400)


def _bpe(split: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    tokenizer.decoder = decoders.Metaspace()
    return _train(tokenizer, trainers.BpeTrainer)


def _unigram(scheme: str) -> Tokenizer:
    counts = _pieces("▁")
    total = sum(counts.values())
    scores = [(piece, math.log(count / total)) for piece, count in counts.items()]
    tokenizer = Tokenizer(models.Unigram([*((token, 0.0) for token in TOKENS), *scores], TOKENS.index("<unk>"), False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens(TOKENS)
    return tokenizer


def _word_piece() -> Tokenizer:
    pieces = [*TOKENS, *_pieces("", lower=True), *(f"##{piece}" for piece in _pieces("", lower=True))]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(TOKENS)
    return tokenizer


def _pieces(blank: str, *, lower: bool = False) -> dict[str, int]:
    """The commonest pieces of words and how often each occurs: those trainers break ties at random."""
    words = [blank + (word.lower() if lower else word) for word in WORDS]
    counts = Counter(word[i : i + n] for word in words for n in range(1, 5) for i in range(len(word) - n + 1))
    characters = {piece: count for piece, count in sorted(counts.items()) if len(piece) == 1}
    longer = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    return characters | {piece: counts[piece] for piece in longer[: SIZE - len(characters)]}


def _word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _train(tokenizer, trainers.WordLevelTrainer)


def _train(tokenizer: Tokenizer, trainer: Any, **options: Any) -> Tokenizer:
    settings = {"special_tokens": TOKENS, "show_progress": False, "vocab_size": SIZE} | options
    tokenizer.train_from_iterator(SENTENCES, trainer(**settings))
    return tokenizer


ALGORITHMS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: _byte_level(False),
    "byte-level, leading blank": lambda: _byte_level(True),
    "BPE, split at blanks": lambda: _bpe(True),
    "BPE, whole text": lambda: _bpe(False),
    "Unigram, always": lambda: _unigram("always"),
    "Unigram, first": lambda: _unigram("first"),
    "Unigram, never": lambda: _unigram("never"),
    "WordPiece": _word_piece,
    "WordLevel": _word_level,
}
TEMPLATES: dict[str, tuple[str, str]] = {
    "plain": ("$A", "$A $B"),
    "bos": ("<s> $A", "<s> $A $B"),
    "eos": ("$A </s>", "$A </s> $B </s>"),
    "bos and eos": ("<s> $A </s>", "<s> $A </s> $B </s>"),
    "BERT's": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "RoBERTa's": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
}
SUITING: dict[ModelKind, tuple[str, ...]] = {
    "decoder": ("plain", "bos", "eos", "bos and eos"),
    "encoder-decoder": ("eos", "bos and eos"),
    "encoder": ("BERT's", "RoBERTa's", "plain"),
}
"""The templates that models of each kind come with."""


def draw_tokenizer(rng: random.Random, kind: ModelKind) -> tuple[PreTrainedTokenizerFast, str]:
    """A tokenizer for models of that kind, and its description."""
    algorithm, template = rng.choice(list(ALGORITHMS)), rng.choice(SUITING[kind])
    tokenizer = ALGORITHMS[algorithm]()
    single, pair = TEMPLATES[template]
    known = [(token, tokenizer.token_to_id(token)) for token in TOKENS]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=known)
    named = SPECIAL | (PAIRED if template == "BERT's" else {})
    if kind == "decoder" and rng.random() < 0.3:
        named = {key: value for key, value in named.items() if key != "pad_token"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named), f"{algorithm} ({template})"
