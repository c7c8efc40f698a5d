"""Whatever tokenizer: prompt and target together are the whole text, and every target has its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, T5Config

from peftkit import Example, RowError
from peftkit.runner.forms import Decoder, Encoder, EncoderDecoder
from peftkit.runner.forms.tokens import read, template, token_ids
from peftkit.testing.tokenizers import FORTY, TEMPLATES, tokenizer

WORDS = st.sampled_from(
    [
        *("the", "robin", "granite", "answer:", "good", "yes", "12", "7.5", "it's", "café", "Über", "x", "qz", "\n"),
        *("</s>", "<s>", "<extra>", "[SEP]", "<|im_end|>", "", " ", "?", ":", "(", "☃", "e\u0301", "\t", "\u3000"),
    ]
)
TEXTS = st.builds("".join, st.lists(st.one_of(WORDS, st.just(" ")), max_size=12)) | st.text(max_size=20)
IDS = [f"{make}/{template}" for make, template in FORTY]


def form(cls: Any, make: str, template: str, config: Any = None, **lengths: Any) -> Any:
    config = config or SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    task = "classification" if cls is Encoder else lengths.get("task", "multiple_choice")
    return cls(tokenizer(make, template), config, task, lengths.get("source", 512), lengths.get("target", 512))


@pytest.mark.parametrize(("make", "frame"), FORTY, ids=IDS)
@settings(deadline=None, max_examples=40)
@given(source=TEXTS, target=TEXTS)
def test_a_decoders_prompt_and_target_are_the_whole_text(make: str, frame: str, source: str, target: str) -> None:
    decoder = form(Decoder, make, frame)
    tok = decoder.tokenizer
    (prompt,) = (r["source"] for r in decoder.encode([Example(source, "")], ranked=False))
    try:
        (row,) = decoder.encode([Example(source, target)], ranked=False)
    except RowError as error:
        refused = "cannot follow" in str(error)
        assert refused or "</s>" in target or not _kept(tok, source, target)
        return
    (ids,) = row["candidates"]
    assert row["source"] == prompt  # what prediction sees
    assert ids[-1] == tok.eos_token_id
    assert tok.eos_token_id not in ids[:-1]
    assert tok.bos_token_id not in prompt[1:] or "<s>" in source
    if target:
        (whole,) = token_ids(tok, [f"{source} {target}"], special=False)
        if whole[-1:] == [tok.eos_token_id] and "</s>" in target:
            whole = whole[:-1]
        frame_ids = [*decoder.template.before, *decoder.template.bare(whole)]
        read_back, wanted = read(tok, [*prompt, *ids[:-1]]), read(tok, frame_ids)
        if not token_ids(tok, [source], special=False)[0]:  # nothing to see, but the token that begins a text
            wanted = read(tok, [*prompt[:1], *whole])
        assert read_back == wanted


def _kept(tok: Any, source: str, target: str) -> bool:
    """Whether encoding the whole keeps something of the target."""
    (both,), (alone,) = (token_ids(tok, [text], special=False) for text in (f"{source} {target}", source))
    return bool(target.strip()) and len(both) > len(alone) + 1


@pytest.mark.parametrize(("make", "frame"), FORTY, ids=IDS)
@settings(deadline=None, max_examples=15)
@given(source=TEXTS, target=TEXTS)
def test_an_encoder_decoders_sides_are_whole_texts(make: str, frame: str, source: str, target: str) -> None:
    both = form(EncoderDecoder, make, frame)
    tok = both.tokenizer
    (text,) = token_ids(tok, [target], special=False)
    try:
        (row,) = both.encode([Example(source, target)], ranked=False)
    except RowError:
        nothing = not both.template.around(token_ids(tok, [source], special=False)[0])
        own = any(token in target for token in ("<s>", "[CLS]", "<extra>"))  # what templates put before a text
        assert "</s>" in target or not read(tok, text).strip() or nothing or own
        return
    (ids,) = row["candidates"]
    assert ids[-1] == tok.eos_token_id
    assert tok.eos_token_id not in ids[:-1]
    assert ids[:-1] in ([*both.template.before, *t] for t in (text, text[:-1], both.template.bare(text)))
    assert row["source"] == both.template.around(token_ids(tok, [source], special=False)[0])


@pytest.mark.parametrize(("make", "frame"), FORTY, ids=IDS)
@settings(deadline=None, max_examples=10)
@given(source=TEXTS, room=st.integers(4, 12))
def test_what_is_cut_keeps_its_frame(make: str, frame: str, source: str, room: int) -> None:
    for cls in (Encoder, EncoderDecoder, Decoder):
        model = form(cls, make, frame, source=room)
        try:
            (row,) = model.encode([Example(source, "good", ("good",))], ranked=False)
        except RowError as error:
            refused = any(words in str(error) for words in ("no token", "cannot follow"))
            assert refused
            continue
        ids, before, after = row["source"], list(model.template.before), list(model.template.after)
        assert len(ids) <= room
        assert ids[: len(before)] == before
        if cls is not Decoder:
            assert ids[len(ids) - len(after) :] == after


@pytest.mark.parametrize("frame", TEMPLATES)
def test_the_template_is_what_the_tokenizer_adds(frame: str) -> None:
    tok = tokenizer("byte-level", frame)
    single = TEMPLATES[frame][0].split()
    place = single.index("$A")
    assert template(tok).before == tuple(tok.convert_tokens_to_ids(single[:place]))
    assert template(tok).after == tuple(tok.convert_tokens_to_ids(single[place + 1 :]))


@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_a_source_keeps_the_end_of_text_that_it_ends_with(cls: Any) -> None:
    model = form(cls, "byte-level", "eos")
    (row,) = model.encode([Example("is it good?</s>", "yes")], ranked=False)
    end = model.tokenizer.eos_token_id
    assert row["source"].count(end) == (1 if cls is Decoder else 2)
    assert model.tokenizer.decode(row["candidates"][0]).strip() == "yes</s>"


@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a", "yes</s> no", "'yes</s> no' has the end of text '</s>' within it, where a model would stop"),
        ("a", "yes</s></s>", "'yes</s></s>' has the end of text '</s>' within it"),
    ],
)
def test_the_end_of_text_within_a_target_is_refused(cls: Any, source: str, target: str, words: str) -> None:
    with pytest.raises(RowError, match=r"^target: ") as raised:
        form(cls, "byte-level", "bos").encode([Example(source, target)], ranked=False)
    assert words in str(raised.value)


@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_a_special_token_that_predictions_go_without_is_refused(cls: Any) -> None:
    example = Example("a", "good <extra> x")
    with pytest.raises(RowError, match="'good <extra> x' has the special token '<extra>' in it"):
        form(cls, "byte-level", "bos", task="generation").encode([example], ranked=False)
    form(cls, "byte-level", "bos").encode([example], ranked=False)


UNKNOWN = ("wordpiece", "words", "unigram, always", "bpe, never, over blanks", "llama without bytes")
"""Tokenizers that do not have all characters."""


@pytest.mark.parametrize("make", UNKNOWN)
@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_a_target_of_unknown_tokens_only_is_refused(cls: Any, make: str) -> None:
    model = form(cls, make, "none", task="generation")
    for target in ("☃", "☃ ☃☃"):
        with pytest.raises(RowError, match="has no token in the model's vocabulary"):
            model.encode([Example("the robin", target)], ranked=False)
    (partly,), (wholly,) = (model.encode([Example("the robin", t)], ranked=False) for t in ("good ☃", "good"))
    assert model.has_unknown(partly["candidates"][0])
    assert not model.has_unknown(wholly["candidates"][0])


@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_a_target_without_a_token_is_refused(cls: Any) -> None:
    with pytest.raises(RowError, match="target: '\u0301' has no token in the model's vocabulary"):
        form(cls, "unigram, no accents", "none").encode([Example("a", "\u0301")], ranked=False)


@pytest.mark.parametrize(
    ("make", "texts"),
    [
        ("wordpiece, lower", ("The Robin", "the robin")),
        ("words", ("zebra", "quagga")),
        ("unigram, nfkc, strip", ("ﬁsh", "fish")),
        ("unigram, lower", ("Granite", "granite")),
    ],
)
@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder, Encoder])
def test_candidates_of_the_same_tokens_are_refused(cls: Any, make: str, texts: tuple[str, str]) -> None:
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tokenizer(make, "none"), config, "multiple_choice", 64, 64)
    with pytest.raises(RowError) as raised:
        model.encode([Example("a bird", texts[0], ("stone", *texts))], ranked=True)
    assert f"candidates: {texts[0]!r} and {texts[1]!r} have the same token ids" in str(raised.value)


@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_candidates_that_differ_after_their_cut_only_are_refused(cls: Any) -> None:
    config = SimpleNamespace(vocab_size=10_000, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tokenizer("words", "none"), config, "multiple_choice", 64, 4)
    texts = ("a cat sat on the mat", "a cat sat on the stone")
    with pytest.raises(RowError, match="in the first 4, to which they are cut; raise"):
        model.encode([Example("a", texts[0], texts)], ranked=True)


@pytest.mark.parametrize(
    ("cls", "field"),
    [(Encoder, "source"), *((cls, field) for cls in (Decoder, EncoderDecoder) for field in ("source", "target"))],
)
def test_a_token_without_an_embedding_is_refused(cls: Any, field: str) -> None:
    tok = tokenizer("byte-level", "bos", mask_token="<new>")  # not in the vocabulary, so added to it
    config = SimpleNamespace(vocab_size=len(tok) - 1, pad_token_id=0, decoder_start_token_id=0)
    model = cls(tok, config, "classification" if cls is Encoder else "generation", 64, 64)
    assert model.token_problems() == []
    texts = {"source": "good", "target": "good", field: "<new> good"}
    with pytest.raises(RowError, match=f"{field}: the token '<new>' has the id {len(tok) - 1}, and the model has"):
        model.encode([Example(**texts, candidates=(texts["target"],))], ranked=False)


@pytest.mark.parametrize(
    ("cls", "missing", "config", "words"),
    [
        (Decoder, {"eos_token": None}, {}, "set eos_token in its tokenizer_config.json"),
        (EncoderDecoder, {"eos_token": None}, {}, "set eos_token in its tokenizer_config.json"),
        (EncoderDecoder, {}, {"decoder_start_token_id": None}, "T5 begins with its padding token, 0"),
        (EncoderDecoder, {}, {"decoder_start_token_id": 9999}, "has the id 9999, and the model has embeddings for"),
        (Decoder, {"eos_token": "<eot>"}, {}, "the token '<eot>' has the id"),
    ],
)
def test_special_tokens_that_are_missing_are_told(cls: Any, missing: Any, config: Any, words: str) -> None:
    plain = tokenizer("byte-level", "none")
    ids = {"vocab_size": len(plain), "pad_token_id": 0, "decoder_start_token_id": 0, **config}
    tok = tokenizer("byte-level", "none", **missing)
    problems = cls(tok, SimpleNamespace(**ids), "generation", 64, 64).token_problems()
    assert len(problems) == 1
    assert words in problems[0]


def test_the_configs_end_of_text_serves_where_the_tokenizer_names_none() -> None:
    tok = tokenizer("wordpiece", "cls+sep", eos_token=None, bos_token=None, cls_token="[CLS]", sep_token="[SEP]")
    config = SimpleNamespace(vocab_size=999, pad_token_id=0, decoder_start_token_id=0, eos_token_id=tok.sep_token_id)
    model = EncoderDecoder(tok, config, "generation", 64, 64)  # type: ignore[arg-type]
    assert model.token_problems() == []
    (row,) = model.encode([Example("the robin", "good")], ranked=False)
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
    model = Decoder(tokenizer("byte-level", "none", **named), SimpleNamespace(**config), "generation", 64, 64)
    assert model.pad == expected


@pytest.mark.parametrize("named", [{}, {"pad_token": "</s>"}, {"pad_token": None}], ids=["own", "eos", "none"])
@pytest.mark.parametrize("cls", [Decoder, EncoderDecoder])
def test_the_end_of_text_is_trained_though_it_pads(cls: Any, named: Any) -> None:
    config = (GPT2Config if cls is Decoder else T5Config)(vocab_size=999, pad_token_id=1, decoder_start_token_id=1)
    model = cls(tokenizer("byte-level", "none", **named), config, "generation", 64, 64)
    rows = model.encode([Example("a robin", "good"), Example("x", "a steam locomotive and water")], ranked=False)
    labels = model.batch(rows)["labels"]
    for row, line in zip(rows, labels.tolist(), strict=True):
        assert [i for i in line if i != -100] == row["candidates"][0]
