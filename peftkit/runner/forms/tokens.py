"""Texts as token ids: the template around a text, what continues a prompt, and what every target ends with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from peftkit.components import Side
from peftkit.errors import InputError, RowError, one_line

PROBES = ("a", "the", "0", "A", ".", "b c")
"""Ordinary texts, of which a tokenizer knows at least one."""


@dataclass(frozen=True)
class Template:
    """The special tokens that a tokenizer puts before and after a text."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def bare(self, ids: list[int]) -> list[int]:
        """The ids of a text without those that the template puts before it, should the text begin with them itself."""
        number = len(self.before)
        return ids[number:] if number and tuple(ids[:number]) == self.before else ids

    def around(self, ids: list[int]) -> list[int]:
        """The ids of a text with the template's."""
        return [*self.before, *self.bare(ids), *self.after]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, target: bool = False, special: bool = True
) -> list[list[int]]:
    """The token ids of texts.

    Args:
        tokenizer: the model's.
        texts: what to encode.
        target: whether they are an encoder-decoder's targets, for which some tokenizers have a vocabulary or a
            template of their own.
        special: whether to add the template's tokens.

    Raises:
        RowError: the tokenizer cannot encode one of them.
    """
    if not texts:
        return []
    try:
        given = {"text_target": list(texts)} if target else {"text": list(texts)}
        return [list(ids) for ids in tokenizer(**given, add_special_tokens=special)["input_ids"]]  # type: ignore[arg-type]
    except Exception as error:  # a vocabulary without an unknown token, in the words of the tokenizers library
        reason = f"the tokenizer cannot encode it ({one_line(error)}); set its unk_token, or change the text"
        raise RowError("target" if target else "source", reason) from error


def template(tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> Template:
    """The tokenizer's template, read off a text that it encodes with and without.

    Args:
        tokenizer: the model's.
        target: whether to read that of an encoder-decoder's targets.
    """
    for probe in PROBES:
        try:
            (bare,) = token_ids(tokenizer, [probe], target=target, special=False)
            (full,) = token_ids(tokenizer, [probe], target=target)
        except RowError:
            continue
        if bare:
            places = (i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
            if (place := next(places, None)) is not None:
                return Template(tuple(full[:place]), tuple(full[place + len(bare) :]))
    return Template()


def end_token(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """The id that targets end with and that ends generation.

    That is the tokenizer's eos token, or the config's where the tokenizer names none but has it as a special token.

    Raises:
        InputError: there is none.
    """
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    for part in (config, side_config(config, "decoder")):
        end = getattr(part, "eos_token_id", None)
        if isinstance(end, int) and end in tokenizer.all_special_ids:
            return end
    raise InputError(
        "the tokenizer has no eos token, with which targets end and generation stops; set eos_token in its "
        "tokenizer_config.json to a token that the model knows as the end of a text"
    )


def start_token(config: Any) -> int:
    """The id that an encoder-decoder's decoder begins with.

    Raises:
        InputError: the config has none.
    """
    start = getattr(config, "decoder_start_token_id", None)
    if isinstance(start, int):
        return start
    pad = getattr(config, "pad_token_id", None)
    hint = f" (T5 begins with its padding token, {pad})" if pad is not None else " (BERT models begin with [CLS])"
    raise InputError(
        "the config has no decoder_start_token_id, with which the decoder begins; set decoder_start_token_id in "
        f"config.json to the id that the model was trained with{hint}"
    )


def side_config(config: Any, side: Side) -> Any:
    """The config of the encoder or of the decoder, which is mostly that of the whole model."""
    part = getattr(config, side, None)
    if isinstance(part, PretrainedConfig):
        return part
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def embedded_tokens(config: Any, side: Side) -> int | None:
    """How many ids that side of the model has embeddings for; None where the config does not say."""
    size = getattr(side_config(config, side), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def unembedded(ids: Sequence[int], size: int | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """What is wrong with the first id that the model has no embedding for, or nothing."""
    if size is None or not ids or max(ids) < size:
        return ""
    wrong = next(i for i in ids if i >= size)
    return (
        f"the token {tokenizer.convert_ids_to_tokens(wrong)!r} has the id {wrong}, and the model has embeddings for "
        f"{size} tokens; save the model with its embeddings resized to the tokenizer, or leave the token out"
    )


def ended(ids: list[int], end: int, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of a target with the end of text at the end, and nowhere else.

    Raises:
        RowError: the end of text stands within the target, or no token is left of it.
    """
    inner = ids[:-1] if ids and ids[-1] == end else ids
    if end in inner:
        token = tokenizer.convert_ids_to_tokens(end)
        raise RowError("target", f"{text!r} has the end of text {token!r} within it, where a model would stop")
    if len(inner) < 2 and end not in ids and text.strip() and not read(tokenizer, inner).strip():
        raise RowError("target", f"{text!r} has no token in the model's vocabulary")
    return [*inner, end]


def cut(ids: list[int], longest: int) -> list[int]:
    """At most ``longest`` ids of a target, of which the last stays the end of text."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def refuse_equal(texts: Sequence[str], candidates: Sequence[list[int]], cut_to: int | None = None) -> None:
    """Refuses candidates that a model could not tell apart.

    Args:
        texts: the candidates.
        candidates: their ids.
        cut_to: the length they were cut to.

    Raises:
        RowError: two of them have the same ids.
    """
    seen: dict[tuple[int, ...], str] = {}
    for text, ids in zip(texts, candidates, strict=True):
        if seen.get(key := tuple(ids), text) != text:
            where = "" if cut_to is None else f" in the first {cut_to}, to which they are cut; raise the length limit"
            remedy = where or "; the tokenizer writes them alike, so reword one"
            raise RowError("candidates", f"{seen[key]!r} and {text!r} have the same token ids{remedy}")
        seen[key] = text


def continuation(
    tokenizer: PreTrainedTokenizerBase, frame: Template, prompt: list[int], source: str, target: str
) -> list[int]:
    """The ids that continue a prompt's so that they read as the whole text, where the whole text has other ids.

    Tokenizers may join the end of the source with the beginning of the target, or divide the source otherwise.

    Args:
        tokenizer: the model's.
        frame: its template.
        prompt: the ids of the source as the model sees them.
        source: the text of the prompt.
        target: the text that follows it, after a blank.

    Raises:
        RowError: no ids read so.
    """
    whole = f"{source} {target}"
    (ids,) = token_ids(tokenizer, [whole], special=False)
    wanted = read(tokenizer, [*frame.before, *frame.bare(ids)])
    for rest in _continuations(tokenizer, ids, whole, source, target):
        if read(tokenizer, prompt + rest) == wanted:
            return rest
    raise RowError(
        "target",
        f"{target!r} cannot follow {source[-20:]!r}: the tokenizer joins the two, and what the model would read is "
        "not the text; end the source with another character",
    )


def read(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids, special tokens and blanks as they are."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _continuations(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], whole: str, source: str, target: str
) -> Iterator[list[int]]:
    """What may stand for the target, the likeliest first."""

    def encode(text: str) -> list[int]:
        return token_ids(tokenizer, [text], special=False)[0]

    if tokenizer.is_fast:
        encoded: Any = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        offsets, border = encoded["offset_mapping"], len(source)
        first = next((i for i, (_, last) in enumerate(offsets) if last > border), len(ids))
        yield ids[first:]
        if first < len(ids):
            yield encode(whole[border : offsets[first][1]]) + ids[first + 1 :]
            yield encode(whole[border + 1 : offsets[first][1]]) + ids[first + 1 :]
    yield encode(f" {target}")
    yield encode(target)
    for anchor in (source[-1:], source.split("\n")[-1], "a", ".", "\n"):
        before, both = encode(anchor), encode(f"{anchor} {target}")
        if anchor and both[: len(before)] == before:
            yield both[len(before) :]
    yield [i for character in f" {target}" for i in encode(character)]
