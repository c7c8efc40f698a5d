"""Each instruction of IFEval, with texts that follow it and texts that do not."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from peftkit.answer_texts.verifiable_instructions import INSTRUCTIONS, check_instruction, follows, loose_versions

CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "keywords:existence": ({"keywords": ["sun", "rain"]}, ("Rain, then sunshine.",), ("Only sun.",)),
    "keywords:frequency": (
        {"keyword": "dog ", "frequency": 2, "relation": "at least"},
        ("A dog and a DOG.",),
        ("One dog.",),
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, ("A category.",), ("A Cat!",)),
    "keywords:letter_frequency": (
        {"letter": "E", "let_frequency": 3, "let_relation": "less than"},
        ("ease",),
        ("eased Eve",),
    ),
    "language:response_language": ({"language": "de"}, ("de: Guten Tag",), ("en: Good day",)),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        ("It is Dr. Lee. She is here.", "One! Two?"),
        ("It is Dr. Lee.", "No end"),
    ),
    "length_constraints:number_paragraphs": (
        {"num_paragraphs": 2},
        ("a\n***\nb", "a *** b ***", "***a***b"),
        ("a\n\nb", "a***b***c", "a***  ***b"),
    ),
    "length_constraints:number_words": (
        {"num_words": 4, "relation": "less than"},
        ("one two three", "a-b c"),
        ("one two three four",),
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "However"},
        ("First.\n\nhowever, it rains", 'First.\n\n"However" it is.'),
        ("First.\n\nBut it rains", "However.", "However\n\nhowever\n\nthird"),
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, ("[name], [street]",), ("[name]",)),
    "detectable_content:postscript": (
        {"postscript_marker": "P.P.S"},
        ("Bye.\nP.P.S Remember!", "p. p. s: x"),
        ("P.S. Remember!",),
    ),
    "detectable_format:number_bullet_lists": (
        {"num_bullets": 2},
        ("* one\n* two", "- one\n  - two\nthree"),
        ("* one", "* one\n* two\n- three", "**one**\n**two**"),
    ),
    "detectable_format:constrained_response": ({}, ("My answer is maybe.",), ("Maybe.", "My answer is yes")),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ("*one* and *two*", "*one* and *two* and **three**"),
        ("*one* and two", "* * *"),
    ),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        ("Section 1\na\nSection 2\nb",),
        ("Section 1\na", "SECTION 1\nSECTION 2"),
    ),
    "detectable_format:json_format": ({}, ('{"a": [1]}', '```json\n{"a": 1}\n```'), ("{a: 1}", 'Here: {"a": 1}')),
    "detectable_format:title": ({}, ("<<A poem>>\ntext",), ("<<>> text", "<A poem>")),
    "combination:two_responses": (
        {},
        ("one\n******\ntwo", "******one******two"),
        ("one", "one******one", "a******b******c", "a************b"),
    ),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Why? "}, ("why? Because.",), ("Because. Why?",)),
    "startend:end_checker": ({"end_phrase": "The end."}, ('It is over. "the END."',), ("The end. Really.",)),
    "startend:quotation": ({}, ('"quoted"', ' "a" and "b" '), ('"half', '"')),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ("NASA and the U.S. won.", "WELL-KNOWN FACT"),
        ("NASA won.",),
    ),
    "change_case:english_capital": ({}, ("EN: HELLO",), ("En: hello", "DE: HALLO")),
    "change_case:english_lowercase": ({}, ("en: hello",), ("en: Hello", "de: hallo")),
    "punctuation:no_comma": ({}, ("No comma here.",), ("One, two.",)),
}


@pytest.fixture(autouse=True)
def detect_by_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts start with their language."""
    library = SimpleNamespace(
        detect=lambda text: text[:2].lower(), DetectorFactory=SimpleNamespace(), LangDetectException=RuntimeError
    )
    monkeypatch.setitem(sys.modules, "langdetect", library)


def test_every_instruction_has_cases() -> None:
    assert {*CASES} == {*INSTRUCTIONS}
    assert len(INSTRUCTIONS) == 25


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_texts_that_follow_an_instruction_and_texts_that_do_not(name: str) -> None:
    arguments, right, wrong = CASES[name]
    assert check_instruction(name, arguments) == ""
    assert [text for text in right if not follows(text, name, arguments)] == []
    assert [text for text in wrong if follows(text, name, arguments)] == []
    assert not follows(" \n", name, arguments)
    assert follows(right[0], name, {**arguments, "other": 1})


def test_arguments_are_checked() -> None:
    assert check_instruction("length_constraints:number_words", {"num_words": 3}) == "relation is missing"
    wrong = {"letter": "a", "let_frequency": 1, "let_relation": "at most"}
    problem = check_instruction("keywords:letter_frequency", wrong)
    assert problem == "let_relation must be 'less than' or 'at least', not 'at most'"


def test_a_text_without_a_language_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect(text: str) -> str:
        raise RuntimeError("no features")

    monkeypatch.setattr(sys.modules["langdetect"], "detect", detect)
    assert follows("123", "language:response_language", {"language": "de"})


def test_loose_versions_leave_out_lines_and_asterisks() -> None:
    assert loose_versions("Sure!\n*a*\nBye") == [
        *("Sure!\n*a*\nBye", "*a*\nBye", "Sure!\n*a*", "*a*"),
        *("Sure!\na\nBye", "a\nBye", "Sure!\na", "a"),
    ]
