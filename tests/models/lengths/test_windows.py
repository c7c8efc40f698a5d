"""Long texts are read in windows."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from peftkit.errors import RowError
from peftkit.models.lengths.windows import tokenize_windows
from peftkit.objectives.window_offsets import assign_tokens
from peftkit.recipe.model_names import model_path

TEXT = "the big leaf of a tree is green and the rose is red but the sea is blue"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(model_path("pocket-encoder"))


@pytest.mark.parametrize("question", [None, "a sea"])
def test_windows_cover_the_text_and_overlap(tokenizer: Any, question: str | None) -> None:
    [whole] = tokenize_windows(tokenizer, TEXT, question, max_tokens=64, stride=2)
    windows = tokenize_windows(tokenizer, TEXT, question, max_tokens=10, stride=2)
    assert len(windows) > 2
    assert all(len(window.ids) <= 10 for window in windows)
    expected = [(ids, offsets) for ids, offsets in zip(whole.ids, whole.offsets, strict=True) if offsets is not None]
    for window in windows:
        tokens = [(i, o) for i, o in zip(window.ids, window.offsets, strict=True) if o is not None]
        assert tokens == expected[window.first_token : window.first_token + len(tokens)]
    places = assign_tokens(windows)
    assert [windows[n].ids[position] for n, position in places.values()] == [token for token, _ in expected]
    assert [*places] == [*range(len(expected))], "every token has one place"


def test_a_token_is_read_where_it_has_most_context(tokenizer: Any) -> None:
    windows = tokenize_windows(tokenizer, TEXT, None, max_tokens=10, stride=4)
    places = assign_tokens(windows)
    assert [places[token][0] for token in range(4, 8)] == [0, 0, 1, 1], "the shared tokens are halved"


def test_a_question_must_leave_room_for_the_text(tokenizer: Any) -> None:
    with pytest.raises(RowError, match="leaves no room for the text within the limit of 8 tokens"):
        tokenize_windows(tokenizer, TEXT, "the rose is red and the sea", max_tokens=8, stride=2)
    windows = tokenize_windows(tokenizer, TEXT, "a", max_tokens=5, stride=50)
    assert len(windows) > 10, "the stride is at most half of the room"
