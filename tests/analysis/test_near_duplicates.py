"""Texts that are almost equal are those of a brute-force search."""

from __future__ import annotations

import random

import pytest

from peftkit.analysis.near_duplicates import SIMILARITY, SketchedTexts, find_near_duplicates
from peftkit.answer_texts.text_normalization import normalize


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the sequences of three words."""

    def sequences(text: str) -> set[tuple[str, ...]]:
        words = normalize(text, ignore_punctuation=True).split()
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    a, b = sequences(one), sequences(other)
    return len(a & b) / len(a | b)


def test_texts_are_those_of_a_search_over_all_pairs() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(300)]
    others = [" ".join(rng.choices(words, k=rng.randint(20, 60))) for _ in range(120)]
    texts = []
    for other in others[:60]:
        changed = other.split()
        for _ in range(rng.randint(0, 4)):  # up to four changed words: similarities from 1 to about 0.5
            changed[rng.randrange(len(changed))] = rng.choice(words)
        texts.append(" ".join(changed))
    expected = {i: i for i, text in enumerate(texts) if similarity(text, others[i]) >= SIMILARITY}
    actual, compared = find_near_duplicates(SketchedTexts(texts), SketchedTexts(others))
    assert compared == len(texts)
    assert actual.items() <= expected.items()  # the exact similarity decides, so nothing is wrong
    assert len(actual) >= 0.95 * len(expected)  # MinHash misses few
    assert 20 < len(expected) < 60


@pytest.mark.parametrize(
    ("text", "other", "near"),
    [
        ("A cat, a dog!", "a cat a dog", True),
        ("hi", "Hi.", True),
        ("one two three four", "four three two one", False),
        ("", "something else", False),
    ],
)
def test_short_texts(text: str, other: str, near: bool) -> None:
    assert find_near_duplicates(SketchedTexts([text]), SketchedTexts([other, "not this one"])) == (
        {0: 0} if near else {},
        1,
    )


def test_texts_of_one_template_are_compared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = SketchedTexts([f"word{n} and some more text to fill the row with the same words" for n in range(40)])
    monkeypatch.setattr("peftkit.analysis.near_duplicates.MAX_PAIRS", 200)
    near, compared = find_near_duplicates(texts, texts)
    assert 0 < compared < 40
    assert sorted(near) == [*range(compared)]
