"""Special tokens, candidates and ids without an embedding, with any tokenizer."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftkit import Example, RowError
from peftkit.models import CausalLM, ModelFamily, Seq2SeqLM, SequenceClassifier, TokenizedRow
from peftkit.models.special_tokens import SpecialTokens, detect_special_tokens
from peftkit.testing.tokenizers import TEMPLATES, TOKENIZER_CASES, tokenizer
from tests.models.conftest import IDS, TEXTS, family_for


def tokenize(family: ModelFamily, example: Example, *, generated: bool = False) -> list[TokenizedRow]:
    """The row of a source alone, or with its target."""
    if family.can_generate:
        return family.tokenize_completions([example], ranked=False, generated=generated)
    return family.tokenize_sources([example])


@pytest.mark.parametrize(("make", "frame"), TOKENIZER_CASES, ids=IDS)
@settings(deadline=None, max_examples=10)
@given(source=TEXTS, room=st.integers(4, 12))
def test_truncated_sources_keep_their_special_tokens(make: str, frame: str, source: str, room: int) -> None:
    for cls in (SequenceClassifier, Seq2SeqLM, CausalLM):
        model = family_for(cls, make, frame, source=room)
        try:
            (row,) = tokenize(model, Example(source, "good", ("good",)))
        except RowError as error:
            refused = any(words in str(error) for words in ("no token", "leaves none of it", "cannot follow"))
            assert refused
            continue
        ids, before, after = row["source"], list(model.special_tokens.prefix), list(model.special_tokens.suffix)
        assert len(ids) <= room
        assert ids[: len(before)] == before
        if cls is not CausalLM:
            assert ids[len(ids) - len(after) :] == after


@pytest.mark.parametrize("frame", TEMPLATES)
def test_detected_special_tokens_are_those_of_the_template(frame: str) -> None:
    tok = tokenizer("byte-level", frame)
    single = TEMPLATES[frame][0].split()
    place = single.index("$A")
    assert detect_special_tokens(tok).prefix == tuple(tok.convert_tokens_to_ids(single[:place]))
    assert detect_special_tokens(tok).suffix == tuple(tok.convert_tokens_to_ids(single[place + 1 :]))


def bare_tokenizer(model: Any, normalizer: Any = None, **special: str) -> Any:
    """A tokenizer with the template ``<s> text </s>``."""
    tok = Tokenizer(model)
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        tok.normalizer = normalizer
    frame = [(token, tok.token_to_id(token)) for token in ("<s>", "</s>")]
    tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    return PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", **special)


CYRILLIC = {"<s>": 0, "</s>": 1, **{letter: i for i, letter in enumerate("домкт", 2)}}
NO_LATIN = normalizers.Replace(Regex("[a-zA-Z0-9.]"), "")


@pytest.mark.parametrize(
    "tok",
    [
        bare_tokenizer(models.BPE(CYRILLIC, [])),
        bare_tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "дом": 2, "кот": 3}, unk_token="[UNK]")),
        bare_tokenizer(models.BPE({**CYRILLIC, "a": 9}, []), NO_LATIN),
        bare_tokenizer(models.WordLevel({**CYRILLIC, "дом": 8, "кот": 9}, unk_token="</s>"), unk_token="</s>"),
        bare_tokenizer(models.WordLevel({**CYRILLIC, "дом": 8, "кот": 9}, unk_token="<s>"), unk_token="<s>"),
    ],
    ids=["letters", "words", "normalizer", "unknown-is-eos", "unknown-is-bos"],
)
def test_special_tokens_are_found_whatever_the_vocabulary(tok: Any) -> None:
    assert detect_special_tokens(tok) == SpecialTokens((0,), (1,))
    ids = tok("дом кот")["input_ids"]
    decoder = CausalLM(tok, SimpleNamespace(vocab_size=100, pad_token_id=0), 64, 64)
    (row,) = decoder.tokenize_completions([Example("дом", "кот")], ranked=False)
    assert [*row["source"], *row["candidates"][0]] == ids


def test_special_tokens_without_any_text_between_them_are_an_error() -> None:
    tok = bare_tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="[UNK]"))
    decoder = CausalLM(tok, SimpleNamespace(vocab_size=100, pad_token_id=0), 64, 64)
    (problem,) = decoder.special_token_problems()
    assert "adds the special tokens ['<s>', '</s>'], but encodes no word" in problem


REPEATED = ("bos", "bos+eos", "cls+sep", "lang+eos", "bos+lang+eos", "lang+bos")


def repetitions(frame: str) -> list[str]:
    """What a text may begin with: each special token of the template's prefix, all of them, and the first one twice."""
    tokens = TEMPLATES[frame][0].partition("$A")[0].split()
    return [*tokens, "".join(tokens), tokens[0] * 2, "".join(tokens) + tokens[0]]


@pytest.mark.parametrize("frame", REPEATED)
@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM, SequenceClassifier])
def test_a_source_has_the_templates_prefix_once_even_if_it_contains_it(cls: Any, frame: str) -> None:
    model = family_for(cls, "byte-level", frame)
    (plain,) = tokenize(model, Example("is it?", "yes"))
    for start in repetitions(frame):
        (row,) = tokenize(model, Example(f"{start}is it?", "yes"))
        assert (start, row["source"], row["candidates"]) == (start, plain["source"], plain["candidates"])


@pytest.mark.parametrize("frame", REPEATED)
@pytest.mark.parametrize("kind", ["choices", "pair", "windows"])
def test_a_pair_has_the_templates_prefix_once_even_if_the_source_contains_it(kind: str, frame: str) -> None:
    model = family_for(SequenceClassifier, "byte-level", frame, source=16)

    def encode(text: str) -> Any:
        if kind == "choices":
            (row,) = model.tokenize_pairs([Example(text, "yes", ("yes", "no"))])
            return row["candidates"], row["segments"]
        if kind == "pair":
            (row,) = model.tokenize_sources([Example(text, "yes", ("yes", "no"), source_pair=(text, "yes"))])
            return row["source"], row["segments"]
        windows = model.tokenize_windows("yes no", text, stride=1)
        return [(window.ids, window.segments, window.offsets) for window in windows]

    for start in repetitions(frame):
        assert (start, encode(f"{start}is it?")) == (start, encode("is it?"))


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        ("wordpiece, lower", ("The Robin", "the robin")),
        ("words", ("zebra", "quagga")),
        ("unigram, nfkc, strip", ("ﬁsh", "fish")),
        ("unigram, lower", ("Granite", "granite")),
    ],
)
@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM, SequenceClassifier])
def test_candidates_with_equal_tokens_are_an_error(cls: Any, make: str, texts: tuple[str, str]) -> None:
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tokenizer(make, "none"), config, 64, 64)
    examples = [Example("a bird", texts[0], ("stone", *texts))]
    encodes = cls is SequenceClassifier
    tokenize_all = model.tokenize_pairs if encodes else partial(model.tokenize_completions, ranked=True)
    with pytest.raises(RowError) as raised:
        tokenize_all(examples)
    assert f"candidates: {texts[0]!r} and {texts[1]!r} have the same token ids" in str(raised.value)


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_candidates_that_are_equal_after_truncation_are_an_error(cls: Any) -> None:
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tokenizer("words", "none"), config, 64, 4)
    texts = ("a cat sat on the mat", "a cat sat on the stone")
    with pytest.raises(RowError, match="after truncation to 4 tokens; raise"):
        model.tokenize_completions([Example("a", texts[0], texts)], ranked=True)


@pytest.mark.parametrize(
    ("cls", "field"),
    [
        (SequenceClassifier, "source"),
        *((cls, field) for cls in (CausalLM, Seq2SeqLM) for field in ("source", "target")),
    ],
)
def test_a_token_without_an_embedding_is_an_error(cls: Any, field: str) -> None:
    tok = tokenizer("byte-level", "bos", mask_token="<new>")  # not in the vocabulary, so added to it
    config = SimpleNamespace(vocab_size=len(tok) - 1, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tok, config, 64, 64)
    assert model.special_token_problems() == []
    texts = {"source": "good", "target": "good", field: "<new> good"}
    with pytest.raises(RowError, match=f"{field}: the token '<new>' has the id {len(tok) - 1}, but the model has"):
        tokenize(model, Example(**texts, candidates=(texts["target"],)), generated=True)


@pytest.mark.parametrize(
    ("cls", "missing", "config", "words"),
    [
        (CausalLM, {"eos_token": None}, {}, "set eos_token in its tokenizer_config.json"),
        (Seq2SeqLM, {"eos_token": None}, {}, "set eos_token in its tokenizer_config.json"),
        (Seq2SeqLM, {}, {"decoder_start_token_id": None}, "T5 starts with its padding token, 0"),
        (Seq2SeqLM, {}, {"decoder_start_token_id": 9999}, "has no token of the id 9999, but the model has"),
        (CausalLM, {"eos_token": "<eot>"}, {}, "the token '<eot>' has the id"),
    ],
)
def test_missing_special_tokens_are_reported(cls: Any, missing: Any, config: Any, words: str) -> None:
    plain = tokenizer("byte-level", "none")
    ids = {"vocab_size": len(plain), "pad_token_id": 0, "decoder_start_token_id": 0, **config}
    tok = tokenizer("byte-level", "none", **missing)
    problems = cls(tok, SimpleNamespace(**ids), 64, 64).special_token_problems()
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_a_special_token_without_a_role_is_an_error_in_a_generated_target(cls: Any) -> None:
    """Decoding removes it, although it is none of ``all_special_ids``."""
    tok = tokenizer("byte-level", "none", bos_token=None)
    bos = tok.convert_tokens_to_ids("<s>")
    assert bos not in tok.all_special_ids
    assert tok.decode([bos], skip_special_tokens=True) == ""
    model = cls(tok, SimpleNamespace(vocab_size=len(tok), pad_token_id=0, decoder_start_token_id=0), 64, 64)
    with pytest.raises(RowError, match="contains the special token '<s>', which is removed from predictions"):
        model.tokenize_completions([Example("a", "<s>good")], ranked=False, generated=True)


def test_the_configs_end_of_text_is_used_if_the_tokenizer_has_none() -> None:
    tok = tokenizer("wordpiece", "cls+sep", eos_token=None, bos_token=None, cls_token="[CLS]", sep_token="[SEP]")
    config = SimpleNamespace(vocab_size=999, pad_token_id=0, decoder_start_token_id=0, eos_token_id=tok.sep_token_id)
    model = Seq2SeqLM(tok, config, 64, 64)  # type: ignore[arg-type]
    assert model.special_token_problems() == []
    (row,) = model.tokenize_completions([Example("the robin", "good")], ranked=False, generated=True)
    assert tok.convert_ids_to_tokens(row["candidates"][0]) == ["[CLS]", "good", "[SEP]"]


@pytest.mark.parametrize(
    ("named", "config", "expected"),
    [
        ({}, {"pad_token_id": 3, "vocab_size": 50}, 3),
        ({}, {"pad_token_id": None, "vocab_size": 50}, 0),
        ({"pad_token": None}, {"pad_token_id": None, "vocab_size": 50}, 1),
        ({}, {"pad_token_id": -1, "vocab_size": 50}, 0),
        ({"pad_token": "<new>"}, {"pad_token_id": None, "vocab_size": 50}, 1),
        ({"pad_token": None, "eos_token": None}, {"pad_token_id": 60, "vocab_size": 50}, 0),
    ],
)
def test_rows_are_padded_with_an_id_that_has_an_embedding(named: Any, config: Any, expected: int) -> None:
    model = CausalLM(tokenizer("byte-level", "none", **named), SimpleNamespace(**config), 64, 64)
    assert model.pad_id == expected
