"""Forty small tokenizers of every make: how they divide words, write blanks, normalise and frame a text."""

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
NAMED = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
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
}


def _byte_level(*, blank: bool, words: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def _metaspace(model: str, scheme: str, *, split: bool) -> Tokenizer:
    blank = {"always": "▁", "first": "", "never": ""}[scheme]
    texts = [f"{blank}{text}".replace(" ", "▁") for text in CORPUS]
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
    """The commonest parts of texts, with how often each occurs: trainers break ties at random."""
    counts = Counter(text[i : i + n] for text in texts for n in range(1, 6) for i in range(len(text) - n + 1))
    characters = sorted(piece for piece in counts if len(piece) == 1)
    longer = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    return {piece: counts[piece] for piece in (*characters, *longer[:150])}


def _llama(*, fallback: bool) -> Tokenizer:
    """Blanks by a normaliser, as sentencepiece's BPE is converted; unknown characters as bytes."""
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


def _normalised(normaliser: Any) -> Tokenizer:
    tokenizer = _metaspace("unigram", "always", split=True)
    tokenizer.normalizer = normaliser
    return tokenizer


def _digits() -> Tokenizer:
    tokenizer = _byte_level(blank=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _added() -> Tokenizer:
    """With added tokens that take the blanks beside them, as ``<mask>`` of RoBERTa does."""
    tokenizer = _byte_level(blank=False)
    tokenizer.add_tokens([AddedToken("granite", lstrip=True), AddedToken("good", rstrip=True, single_word=True)])
    return tokenizer


MAKES: Mapping[str, Callable[[], Tokenizer]] = {
    "byte-level": lambda: _byte_level(blank=False),
    "byte-level, leading blank": lambda: _byte_level(blank=True),
    "byte-level over blanks": lambda: _byte_level(blank=False, words=False),
    "byte-level over blanks, leading": lambda: _byte_level(blank=True, words=False),
    "byte-level, digits": _digits,
    "byte-level, added": _added,
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
    "wordpiece, as it is": lambda: _wordpiece(lower=False, cleanup=False),
    "words": lambda: _word_level(punctuation=True),
    "words between blanks": lambda: _word_level(punctuation=False),
    "unigram, lower": lambda: _normalised(normalizers.Lowercase()),
    "unigram, nfkc, strip": lambda: _normalised(normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])),
    "unigram, no accents": lambda: _normalised(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
}
FORTY: tuple[tuple[str, str], ...] = (
    *((make, list(TEMPLATES)[number % len(TEMPLATES)]) for number, make in enumerate(MAKES)),
    *(("byte-level over blanks", template) for template in TEMPLATES),
    *(("llama", template) for template in TEMPLATES),
)
"""Every make with one template, and two that join words over blanks with every template."""


@cache
def _made(make: str) -> str:
    return str(MAKES[make]().to_str())


@cache
def tokenizer(make: str, template: str, **named: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of that make whose texts are framed so.

    Args:
        make: a key of ``MAKES``.
        template: a key of ``TEMPLATES``.
        named: special tokens by other names than ``NAMED``'s; None for none.
    """
    made = Tokenizer.from_str(_made(make))
    single, pair = TEMPLATES[template]
    framed = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(t, made.token_to_id(t)) for t in SPECIAL]
    )
    byte_level = made.decoder is not None and "ByteLevel" in str(type(made.decoder))
    made.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), framed]) if byte_level else framed
    )
    tokens = {key: value for key, value in {**NAMED, **named}.items() if value is not None}
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<extra>"], **tokens)
