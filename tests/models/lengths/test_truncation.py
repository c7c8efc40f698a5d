"""Only the context of a source is truncated."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from peftkit import Example, RowError
from peftkit.models.lengths.truncation import truncate_context
from peftkit.recipe.model_names import model_path
from tests.models.test_family import setting

HEAD, TAIL = "question: what does it eat? article: ", " choices: grass, fish, stones"
ARTICLE = "the animal lives in the mountains where it sleeps all day and goes out at night " * 6
TOKENIZERS = {name: AutoTokenizer.from_pretrained(model_path(name)) for name in ("pocket-t5", "pocket-encoder")}


def example_with(article: str) -> Example:
    return Example(
        HEAD + article + TAIL, "grass", ("grass", "fish"), truncatable_span=(len(HEAD), len(HEAD) + len(article))
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("room", [30, 41, 64])
def test_the_context_is_truncated_at_its_end(name: str, room: int) -> None:
    text = truncate_context(example_with(ARTICLE), room, TOKENIZERS[name])
    assert text.startswith(HEAD)
    assert text.endswith(TAIL)
    kept = text[len(HEAD) : -len(TAIL)]
    assert ARTICLE.startswith(kept)
    length = len(TOKENIZERS[name](text)["input_ids"])
    assert room - 4 <= length <= room


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=400), st.integers(26, 80))
def test_any_context_is_truncated_to_fit(article: str, room: int) -> None:
    text = truncate_context(example_with(article), room, TOKENIZERS["pocket-t5"])
    assert text.startswith(HEAD.rstrip())
    assert text.endswith(TAIL)
    assert len(TOKENIZERS["pocket-t5"](text)["input_ids"]) <= room


def test_a_short_source_is_unchanged() -> None:
    example = example_with("short")
    assert truncate_context(example, 64, TOKENIZERS["pocket-t5"]) == example.source


def test_too_little_room_without_the_context_is_an_error() -> None:
    with pytest.raises(RowError, match=r"must not be truncated exceeds the limit of 12 tokens by \d+; raise"):
        truncate_context(example_with(ARTICLE), 12, TOKENIZERS["pocket-t5"])


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
@pytest.mark.parametrize("task_kind", ["multiple_choice", "classification"])
def test_every_kind_of_model_keeps_the_question_and_the_choices(kind: str, task_kind: str) -> None:
    _, objective = setting(kind, task_kind, source=48)  # type: ignore[arg-type]
    row = objective.tokenize([example_with(ARTICLE)], training=False)[0]
    assert row["source_tokens"] > 48
    texts = row["candidates"] if kind == "encoder" and task_kind == "multiple_choice" else [row["source"]]
    for ids in texts:
        assert len(ids) <= 48
        text = objective.family.tokenizer.decode(ids, skip_special_tokens=True)
        assert text.startswith("question: what does it eat? article: the animal lives")
        assert "choices: grass, fish, stones" in text
