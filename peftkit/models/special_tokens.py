"""Converts texts to token ids: special tokens, the ids of start and end, and ids without an embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from peftkit.components import Side
from peftkit.components.types import GeneratedText
from peftkit.errors import InputError, RowError, summarize_error

PROBES = ("a", "the", "0", "A", ".", "b c")
"""Ordinary texts; most tokenizers can encode at least one."""
MAX_VOCABULARY_PROBES = 1000
"""Tokens of the vocabulary to try as probes if the tokenizer encodes none of ``PROBES``."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a tokenizer adds before and after a text.

    Attributes:
        prefix: ids added before a text, such as [CLS].
        suffix: ids added after it, such as [SEP].
        special: those of the prefix that stand for no text.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    special: frozenset[int] = field(default=frozenset(), compare=False)

    def count_repeated(self, ids: Sequence[int]) -> int:
        """Return how many ids at the start of a text repeat the prefix, as a whole or some of its special tokens."""
        length = len(self.prefix)
        repeated = length if tuple(ids[:length]) == self.prefix else 0
        return next((i for i in range(repeated, len(ids)) if ids[i] not in self.special), len(ids))

    def strip_prefix(self, ids: list[int]) -> list[int]:
        """Remove what repeats the prefix from the start of a text's ids."""
        return ids[self.count_repeated(ids) :]

    def wrap(self, ids: list[int]) -> list[int]:
        """Add prefix and suffix to the ids of a text, without repeating a prefix that the text starts with."""
        return [*self.prefix, *self.strip_prefix(ids), *self.suffix]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, target: bool = False, special: bool = True
) -> list[list[int]]:
    """Tokenize texts.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts.
        target: whether they are targets of an encoder-decoder; some tokenizers have a separate vocabulary or template
            for these.
        special: whether to add special tokens.

    Raises:
        RowError: the tokenizer cannot encode one of the texts.
    """
    if not texts:
        return []
    try:
        inputs = {"text_target": list(texts)} if target else {"text": list(texts)}
        return [list(ids) for ids in tokenizer(**inputs, add_special_tokens=special)["input_ids"]]  # type: ignore[arg-type]
    except Exception as error:  # the tokenizers library raises plain Exceptions, for example without an unknown token
        reason = f"the tokenizer cannot encode it ({summarize_error(error)}); set its unk_token, or change the text"
        raise RowError("target" if target else "source", reason) from error


def detect_special_tokens(tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> SpecialTokens:
    """Find the special tokens of a tokenizer by encoding a text with and without them.

    Args:
        tokenizer: the model's tokenizer.
        target: whether to use the template for targets of an encoder-decoder.

    Raises:
        InputError: the tokenizer adds special tokens, but encodes no text that separates them.
    """
    for probe in _probes(tokenizer):
        try:
            (bare,) = token_ids(tokenizer, [probe], target=target, special=False)
            (full,) = token_ids(tokenizer, [probe], target=target)
        except RowError:
            continue
        starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
        if bare and len(starts) == 1:  # an unknown token may equal a special one
            prefix, suffix = tuple(full[: starts[0]]), tuple(full[starts[0] + len(bare) :])
            special = special_ids(tokenizer) - {tokenizer.unk_token_id}
            return SpecialTokens(prefix, suffix, frozenset(special.intersection(prefix)))
    if added := token_ids(tokenizer, [""], target=target)[0]:
        raise InputError(
            f"the tokenizer adds the special tokens {tokenizer.convert_ids_to_tokens(added)!r}, but encodes no word of "
            "its vocabulary alone, so which of them precede a text is unknown; set its unk_token"
        )
    return SpecialTokens()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that are removed from decoded text: also those of special tokens without a role.

    Args:
        tokenizer: the model's tokenizer.
    """
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset({*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)})


def _probes(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield texts that the tokenizer may encode, at last those of its own tokens: it may lack the Latin alphabet."""
    yield from PROBES
    ids = sorted({*tokenizer.get_vocab().values()} - special_ids(tokenizer))
    yield from (decode_exactly(tokenizer, [i]) for i in islice(ids, MAX_VOCABULARY_PROBES))


def find_eos_id(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """Return the id that ends targets and stops generation.

    It is the tokenizer's eos token. If the tokenizer has none, it is the config's, provided that it is one of the
    tokenizer's special tokens.

    Args:
        tokenizer: the model's tokenizer.
        config: the model's config.

    Raises:
        InputError: there is none.
    """
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    for part in (config, side_config(config, "decoder")):
        eos_id = getattr(part, "eos_token_id", None)
        if isinstance(eos_id, int) and eos_id in tokenizer.all_special_ids:
            return eos_id
    raise InputError(
        "the tokenizer has no eos token, which ends targets and stops generation; set eos_token in its "
        "tokenizer_config.json to the token that the model was trained with as the end of text"
    )


def find_decoder_start_id(config: Any) -> int:
    """Return the id that the decoder of an encoder-decoder starts with.

    Raises:
        InputError: the config has none.
    """
    start_id = getattr(config, "decoder_start_token_id", None)
    if isinstance(start_id, int):
        return start_id
    pad_id = getattr(config, "pad_token_id", None)
    hint = f" (T5 starts with its padding token, {pad_id})" if pad_id is not None else " (BERT models use [CLS])"
    raise InputError(
        "the config has no decoder_start_token_id, which the decoder starts with; set it in config.json to the id that "
        f"the model was trained with{hint}"
    )


def side_config(config: Any, side: Side) -> Any:
    """Return the config of the encoder or decoder; for most models that is the config of the whole model.

    Args:
        config: the model's config.
        side: the encoder or the decoder.
    """
    part = getattr(config, side, None)
    if isinstance(part, PretrainedConfig):
        return part
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def embedding_size(config: Any, side: Side) -> int | None:
    """Return the number of ids that one side of the model has embeddings for; None if the config has no such number.

    Args:
        config: the model's config.
        side: the encoder or the decoder.
    """
    size = getattr(side_config(config, side), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def describe_ids_without_embedding(ids: Sequence[int], size: int | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """Describe the first id that has no embedding; empty if all have one.

    Args:
        ids: token ids.
        size: number of ids that have an embedding; None if unknown.
        tokenizer: the model's tokenizer.
    """
    if size is None or not ids or max(ids) < size:
        return ""
    wrong = next(i for i in ids if i >= size)
    reason = f"but the model has embeddings for {size} tokens only"
    if (token := tokenizer.convert_ids_to_tokens(wrong)) is None:
        return f"the tokenizer has no token of the id {wrong}, {reason}; correct the ids in the model's config.json"
    return (
        f"the token {token!r} has the id {wrong}, {reason}; save the model with its embeddings resized to the "
        "tokenizer, or leave the token out"
    )


def check_candidates_differ(
    texts: Sequence[str], candidates: Sequence[list[int]], cut_to: int | None = None, remedy: str = ""
) -> None:
    """Check that different candidates have different token ids.

    Args:
        texts: the candidates.
        candidates: their token ids.
        cut_to: the number of tokens to which they were truncated; None if they are whole.
        remedy: what to do about candidates that are too long.

    Raises:
        RowError: two of them have the same ids.
    """
    seen: dict[tuple[int, ...], str] = {}
    for text, ids in zip(texts, candidates, strict=True):
        if seen.get(key := tuple(ids), text) != text:
            after_cut = "" if cut_to is None else f" after truncation to {cut_to} tokens; {remedy}"
            remedy = after_cut or "; reword one of them"
            raise RowError("candidates", f"{seen[key]!r} and {text!r} have the same token ids{remedy}")
        seen[key] = text


def decode_exactly(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode ids with special tokens and whitespace unchanged.

    Args:
        tokenizer: the model's tokenizer.
        ids: token ids.
    """
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def decode_generated(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_ids: Sequence[int]) -> str:
    """Decode generated ids up to the first one that ends a text, without special tokens.

    Args:
        tokenizer: the model's tokenizer.
        ids: the generated ids.
        stop_ids: the ids that end a text.
    """
    kept = [*takewhile(lambda each: each not in stop_ids, ids)]
    return str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def read_generated(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_ids: Sequence[int]) -> GeneratedText:
    """Return the text of generated ids, and how many of them there are, with the one that ends it.

    Args:
        tokenizer: the model's tokenizer.
        ids: the generated ids; those after a stop id have no meaning.
        stop_ids: the ids that end a text.
    """
    ends = (position for position, each in enumerate(ids, 1) if each in stop_ids)
    return GeneratedText(decode_generated(tokenizer, ids, stop_ids), next(ends, len(ids)))


def describe_problems(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, side: Side, *id_getters: Callable[[], Sequence[int]]
) -> list[str]:
    """Describe ids that one side of a model needs but that cannot be determined or have no embedding.

    Args:
        tokenizer: The tokenizer.
        config: The model's config.
        side: The side.
        id_getters: Each returns ids, or raises an InputError.
    """
    problems = []
    for get_ids in id_getters:
        try:
            problems.append(describe_ids_without_embedding(get_ids(), embedding_size(config, side), tokenizer))
        except InputError as error:
            problems.append(str(error))
    return [*dict.fromkeys(filter(None, problems))]
