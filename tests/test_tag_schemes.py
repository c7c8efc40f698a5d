"""Tags of entities: which are valid, how they are repaired, and what they mark."""

from __future__ import annotations

from typing import cast

import pytest

from peftkit.tag_schemes import (
    SCHEMES,
    SchemeName,
    entities,
    guess_scheme,
    lenient_entities,
    repair_tags,
    strict_entities,
    tag_problem,
)

VALID = {
    "IOB2": "O B-PER I-PER B-PER O B-LOC",
    "IOB1": "O I-PER I-PER B-PER O I-LOC",
    "IOBES": "O B-PER E-PER S-PER O S-LOC",
    "BILOU": "O B-PER L-PER U-PER O U-LOC",
}
FOUND = [("PER", 1, 3), ("PER", 3, 4), ("LOC", 5, 6)]
REPAIRED = {
    "O I-PER I-LOC": ("IOB2", "O B-PER B-LOC"),
    "B-PER I-LOC I-LOC": ("IOB2", "B-PER B-LOC I-LOC"),
    "O B-PER O": ("IOB1", "O I-PER O"),
    "B-PER I-PER O": ("BILOU", "B-PER L-PER O"),
    "B-PER O I-PER": ("IOBES", "S-PER O S-PER"),
}


@pytest.mark.parametrize("scheme", VALID)
def test_valid_tags_stay_and_mark_the_same_entities(scheme: SchemeName) -> None:
    tags = VALID[scheme].split()
    assert not any(tag_problem(tag, scheme) for tag in tags)
    assert repair_tags(tags, scheme) == tags
    assert entities(tags, scheme) == strict_entities(tags, scheme) == FOUND


@pytest.mark.parametrize("tags", REPAIRED)
def test_tags_that_break_the_scheme_are_rewritten(tags: str) -> None:
    scheme, expected = REPAIRED[tags]
    repaired = repair_tags(tags.split(), cast("SchemeName", scheme))
    assert " ".join(repaired) == expected
    assert repair_tags(repaired, cast("SchemeName", scheme)) == repaired


def test_tags_of_other_schemes_are_named() -> None:
    assert "O, I-TYPE, B-TYPE" in tag_problem("NOUN", "IOB2")
    assert tag_problem("U-PER", "IOB2")
    assert tag_problem("B-", "IOB2")
    assert not tag_problem("NOUN", "none")
    assert {*SCHEMES} == {*VALID, "none"}


def test_without_a_scheme_each_tagged_word_is_an_entity() -> None:
    tags = ["NOUN", "O", "VERB", "VERB"]
    assert strict_entities(tags, "none") == [("NOUN", 0, 1), ("VERB", 2, 3), ("VERB", 3, 4)]
    assert repair_tags(tags, "none") == tags


def test_strict_mode_finds_only_what_the_scheme_allows() -> None:
    tags = ["I-PER", "O", "B-LOC", "I-PER"]
    assert lenient_entities(tags) == [("PER", 0, 1), ("LOC", 2, 3), ("PER", 3, 4)]
    assert strict_entities(tags, "IOB2") == [("LOC", 2, 3)]


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([["B-A", "I-A", "O"], ["O", "B-A", "B-A"]], ("IOB2", 0)),
        ([["I-A", "I-A", "O"], ["O", "I-B"]], ("IOB1", 0)),
        ([["I-A", "B-A", "O"]], ("IOB1", 0)),
        ([["B-A", "E-A", "S-A"], ["O"]], ("IOBES", 0)),
        ([["B-A", "L-A", "U-A"]], ("BILOU", 0)),
        ([["B-A", "I-A"], ["B-A", "O"], ["I-A", "O"]], ("IOB2", 1)),
        ([["NOUN", "VERB"], ["O"]], ("none", 0)),
        ([["O", "O"]], ("none", 0)),
    ],
)
def test_the_scheme_is_the_one_that_most_sentences_follow(
    sentences: list[list[str]], expected: tuple[str, int]
) -> None:
    assert guess_scheme(sentences) == expected
