"""Small tokenizers with different models, whitespace handling, normalizers and templates."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "review: the robin is a small bird of the garden. answer: good",
    "question: what is granite? a stone, hard and grey: yes or no",
    "the steam locomotive runs on coal and water, and is seldom seen now",
    "a cat sat on the mat\nand the dog ate 12 of 345 bones; it's 7.5 kg",
    "Über die Brücke gehen, naïve café, Ünïcödé",
    "    def run(self):\n        return self.answer  # none",
] * 3
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "<|im_end|>", "<extra>"]
SPECIAL_BY_ROLE = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
UNKNOWN = {"unk_token": "<unk>"}
TEMPLATES: Mapping[str, tuple[str, str]] = {
    "none": ("$A", "$A $B"),
    "bos": ("<s> $A", "<s> $A $B"),
    "eos": ("$A </s>", "$A </s> $B </s>"),
    "bos+eos": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "cls+sep": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "im_end": ("$A <|im_end|>", "$A <|im_end|> $B <|im_end|>"),
    "eos+lang": ("$A </s> <extra>", "$A $B </s> <extra>"),
    "lang+eos": ("<extra> $A </s>", "<extra> $A $B </s>"),
    "bos+lang+eos": ("<s> <extra> $A </s>", "<s> <extra> $A $B </s>"),
    "lang+bos": ("<extra> <s> $A", "<extra> <s> $A $B"),
}


def _byte_level(*, prefix_space: bool, words: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def _metaspace(model: str, scheme: str, *, split: bool) -> Tokenizer:
    prefix = {"always": "▁", "first": "", "never": ""}[scheme]
    texts = [f"{prefix}{text}".replace(" ", "▁") for text in CORPUS]
    pieces = _pieces([piece for text in texts for piece in re.split("(?=▁)", text)] if split else texts)
    total = sum(pieces.values())
    scores = [(token, 0.0) for token in SPECIAL] + [(piece, math.log(n / total)) for piece, n in pieces.items()]
    unigram = models.Unigram(scores, SPECIAL.index("<unk>"), byte_fallback=False)
    tokenizer = Tokenizer(unigram if model == "unigram" else models.BPE(**UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    if model == "bpe":
        tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _pieces(texts: Sequence[str]) -> dict[str, int]:
    """Count the most frequent substrings of texts; the library's trainers break ties at random."""
    counts = Counter(text[i : i + n] for text in texts for n in range(1, 6) for i in range(len(text) - n + 1))
    characters = sorted(piece for piece in counts if len(piece) == 1)
    longer = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    return {piece: counts[piece] for piece in (*characters, *longer[:150])}


def _llama(*, fallback: bool) -> Tokenizer:
    """Build a tokenizer like converted sentencepiece BPE, with whitespace in the normalizer and byte fallback."""
    tokenizer = Tokenizer(models.BPE(**UNKNOWN, byte_fallback=fallback, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(byte_tokens)
    return tokenizer


def _wordpiece(*, lower: bool, cleanup: bool = True) -> Tokenizer:
    words = [word for text in CORPUS for word in re.findall(r"\w+|[^\w\s]", text.lower() if lower else text)]
    pieces = dict.fromkeys((*_pieces(words), *words))
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, *pieces, *(f"##{piece}" for piece in pieces)))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, **UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=cleanup)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _word_level(*, punctuation: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(**UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace() if punctuation else pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=300, special_tokens=SPECIAL))
    return tokenizer


def _with_normalizer(normalizer: Any) -> Tokenizer:
    tokenizer = _metaspace("unigram", "always", split=True)
    tokenizer.normalizer = normalizer
    return tokenizer


def _digits() -> Tokenizer:
    tokenizer = _byte_level(prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _with_added_tokens() -> Tokenizer:
    """Build a tokenizer with added tokens that absorb adjacent whitespace, like RoBERTa's ``<mask>``."""
    tokenizer = _byte_level(prefix_space=False)
    tokenizer.add_tokens([AddedToken("granite", lstrip=True), AddedToken("good", rstrip=True, single_word=True)])
    return tokenizer


TOKENIZER_BUILDERS: Mapping[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: _byte_level(prefix_space=False),
    "byte-level, leading blank": lambda: _byte_level(prefix_space=True),
    "byte-level over blanks": lambda: _byte_level(prefix_space=False, words=False),
    "byte-level over blanks, leading": lambda: _byte_level(prefix_space=True, words=False),
    "byte-level, digits": _digits,
    "byte-level, added": _with_added_tokens,
    "unigram, always": lambda: _metaspace("unigram", "always", split=True),
    "unigram, first": lambda: _metaspace("unigram", "first", split=True),
    "unigram, never": lambda: _metaspace("unigram", "never", split=True),
    "unigram over blanks": lambda: _metaspace("unigram", "always", split=False),
    "unigram over blanks, never": lambda: _metaspace("unigram", "never", split=False),
    "bpe, always": lambda: _metaspace("bpe", "always", split=True),
    "bpe, first, over blanks": lambda: _metaspace("bpe", "first", split=False),
    "bpe, never, over blanks": lambda: _metaspace("bpe", "never", split=False),
    "llama": lambda: _llama(fallback=True),
    "llama without bytes": lambda: _llama(fallback=False),
    "wordpiece": lambda: _wordpiece(lower=False),
    "wordpiece, lower": lambda: _wordpiece(lower=True),
    "wordpiece, no cleanup": lambda: _wordpiece(lower=False, cleanup=False),
    "words": lambda: _word_level(punctuation=True),
    "words between blanks": lambda: _word_level(punctuation=False),
    "unigram, lower": lambda: _with_normalizer(normalizers.Lowercase()),
    "unigram, nfkc, strip": lambda: _with_normalizer(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "unigram, no accents": lambda: _with_normalizer(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    ),
}
TOKENIZER_CASES: tuple[tuple[str, str], ...] = (
    *((make, list(TEMPLATES)[number % len(TEMPLATES)]) for number, make in enumerate(TOKENIZER_BUILDERS)),
    *(("byte-level over blanks", template) for template in TEMPLATES),
    *(("llama", template) for template in TEMPLATES),
)
"""Every tokenizer with one template, and two that merge tokens across whitespace with every template."""


@cache
def _serialized(make: str) -> str:
    return str(TOKENIZER_BUILDERS[make]().to_str())


@cache
def tokenizer(make: str, template: str, **named: str | None) -> PreTrainedTokenizerFast:
    """Build a tokenizer with a template of special tokens.

    Args:
        make: A key of ``TOKENIZER_BUILDERS``.
        template: A key of ``TEMPLATES``.
        **named: Special tokens that differ from ``SPECIAL_BY_ROLE``; None for no such token.
    """
    backend = Tokenizer.from_str(_serialized(make))
    single, pair = TEMPLATES[template]
    template_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(t, backend.token_to_id(t)) for t in SPECIAL]
    )
    byte_level = backend.decoder is not None and "ByteLevel" in str(type(backend.decoder))
    backend.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), template_processor])
        if byte_level
        else template_processor
    )
    tokens = {key: value for key, value in {**SPECIAL_BY_ROLE, **named}.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=["<extra>"], **tokens)
