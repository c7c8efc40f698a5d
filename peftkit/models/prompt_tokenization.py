"""Splits prompts from targets: the ids of a target that follows a prompt, up to the end of text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.errors import RowError
from peftkit.models.special_tokens import SpecialTokens, decode_exactly, token_ids


@dataclass(frozen=True)
class Prompt:
    """A source as a decoder reads it.

    Attributes:
        text: the source.
        source_ids: its token ids, without special tokens.
        ids: its token ids as the model reads them: truncated, with special tokens.
        join: the text between source and target.
    """

    text: str
    source_ids: list[int]
    ids: list[int]
    join: str = " "


def ids_after_prompt(
    tokenizer: PreTrainedTokenizerBase, template: SpecialTokens, prompt: Prompt, target: str, whole_ids: list[int]
) -> list[int]:
    """Return the ids of a target that continues a prompt, without the end of text.

    The whole text is tokenized and split, since most vocabularies have words with their leading space.

    Args:
        tokenizer: the model's tokenizer.
        template: its special tokens.
        prompt: the prompt.
        target: the text of the target.
        whole_ids: token ids of source and target as one text, without special tokens.

    Raises:
        RowError: no ids after the prompt decode to the target.
    """
    length = len(prompt.source_ids)
    if whole_ids[:length] == prompt.source_ids:
        return whole_ids[length:]
    return continuation_ids(tokenizer, template, prompt, target)


def continuation_ids(
    tokenizer: PreTrainedTokenizerBase, template: SpecialTokens, prompt: Prompt, target: str
) -> list[int]:
    """Find target ids that, appended to the prompt's ids, decode to the whole text.

    Needed where the ids of the whole text do not start with those of the source, because the tokenizer merges the end
    of the source with the start of the target, or splits the source differently.

    Args:
        tokenizer: the model's tokenizer.
        template: its special tokens.
        prompt: the prompt.
        target: the text that follows the source.

    Raises:
        RowError: there are no such ids.
    """
    text = f"{prompt.text}{prompt.join}{target}"
    (ids,) = token_ids(tokenizer, [text], special=False)
    repeated = min(map(template.count_repeated, (ids, prompt.source_ids)))  # what the target begins with is kept
    expected = decode_exactly(tokenizer, [*template.prefix, *ids[repeated:]])
    for continuation in _possible_continuations(tokenizer, ids, text, prompt, target):
        if decode_exactly(tokenizer, prompt.ids + continuation) == expected:
            return continuation
    raise RowError(
        "target",
        f"{target!r} cannot follow {prompt.text[-20:]!r}: the tokenizer merges the two, so the model would read a "
        "different text; end the source with another character",
    )


def append_eos(ids: list[int], eos_id: int, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a target with the end of text at the end, and nowhere else.

    Args:
        ids: token ids of the target, with or without the end of text.
        eos_id: id of the end of text.
        text: the text of the target, for error messages.
        tokenizer: the model's tokenizer.

    Raises:
        RowError: the end of text occurs within the target, or the target has no tokens.
    """
    inner = ids[:-1] if ids and ids[-1] == eos_id else ids
    if eos_id in inner:
        token = tokenizer.convert_ids_to_tokens(eos_id)
        raise RowError("target", f"{text!r} contains the end-of-text token {token!r}, where a model would stop")
    if len(inner) < 2 and eos_id not in ids and text.strip() and not decode_exactly(tokenizer, inner).strip():
        raise RowError("target", f"{text!r} has no token in the model's vocabulary")
    return [*inner, eos_id]


def _possible_continuations(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], text: str, prompt: Prompt, target: str
) -> Iterator[list[int]]:
    """Yield ids that may represent the target, the most likely first."""
    source, join = prompt.text, prompt.join

    def encode(part: str) -> list[int]:
        return token_ids(tokenizer, [part], special=False)[0]

    if tokenizer.is_fast:
        encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets, border = encoded["offset_mapping"], len(source)
        first = next((i for i, (_, last) in enumerate(offsets) if last > border), len(ids))
        yield ids[first:]
        if first < len(ids):
            yield encode(text[border : offsets[first][1]]) + ids[first + 1 :]
            yield encode(text[border + len(join) : offsets[first][1]]) + ids[first + 1 :]
    yield encode(f"{join}{target}")
    yield encode(target)
    for anchor in (source[-1:], source.split("\n")[-1], "a", ".", "\n"):
        before, both = encode(anchor), encode(f"{anchor}{join}{target}")
        if anchor and both[: len(before)] == before:
            yield both[len(before) :]
    yield [i for character in f"{join}{target}" for i in encode(character)]
