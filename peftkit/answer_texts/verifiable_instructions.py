"""Verifies whether a text follows instructions, as IFEval (Zhou et al., 2023) defines them.

The functions give what those of lm-evaluation-harness give, but for the number of sentences: its tokenizer has to be
downloaded, and this one knows a list of English abbreviations.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

INSTRUCTIONS_KEY = "instructions"
"""Key of ``Example.extra``: the instructions of a prompt, as JSON."""
LESS_THAN, AT_LEAST = "less than", "at least"
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
"""The texts of which a constrained response must have one."""
ABBREVIATIONS = (
    *("mr", "mrs", "ms", "dr", "prof", "rev", "gen", "sen", "rep", "st", "jr", "sr", "inc", "ltd", "co", "corp"),
    *("e.g", "i.e", "etc", "vs", "no", "vol", "fig", "u.s", "u.k", "a.m", "p.m", "ph.d", "p.s", "p.p.s"),
)
"""Words whose full stop ends no sentence."""
Check = Callable[..., bool]
"""Gets a text and the arguments of an instruction; returns whether the text follows it."""


def detects_languages() -> bool:
    """Return whether the library that some instructions need is installed."""
    return importlib.util.find_spec("langdetect") is not None


def _compare(number: int, threshold: int, relation: str) -> bool:
    return number < threshold if relation == LESS_THAN else number >= threshold


def _is_language(text: str, language: str) -> bool:
    """Whether a text is in a language; true if it has nothing to detect a language by."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws random numbers
    try:
        return bool(langdetect.detect(text) == language)
    except langdetect.LangDetectException:
        return True


@cache
def _sentence_tokenizer() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = {*ABBREVIATIONS}
    return PunktSentenceTokenizer(parameters)


def _words(text: str) -> list[str]:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in _sentence_tokenizer().tokenize(text) for word in tokenizer.tokenize(sentence)]


def _keywords(text: str, keywords: list[str]) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in keywords)


def _keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(len(re.findall(keyword.strip(), text, re.IGNORECASE)), frequency, relation)


def _forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def _letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(Counter(text.lower())[letter.strip().lower()], let_frequency, let_relation)


def _number_of_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(len(_sentence_tokenizer().tokenize(text)), num_sentences, relation)


def _number_of_words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", text)), num_words, relation)


def _number_of_paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == num_paragraphs


def _first_word_of_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = re.split(r"\n\n", text)
    number = sum(bool(part.strip()) for part in parts)
    if nth_paragraph > number or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return number == num_paragraphs and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, marker.lower()), text.lower()))


def _bullet_lists(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def _constrained_response(text: str) -> bool:
    return any(option in text for option in OPTIONS)


def _highlighted_sections(text: str, num_highlights: int) -> bool:
    single = [each.strip("*") for each in re.findall(r"\*[^\n\*]*\*", text)]
    double = [each[2:-2] for each in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(bool(each.strip()) for each in (*single, *double)) >= num_highlights


def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections


def _json_format(text: str) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def _title(text: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    responses = [part.strip() for part in parts if part.strip()]
    return len(responses) == 2 and responses[0] != responses[1]


def _repeated_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(map(str.isupper, _words(text))), capital_frequency, capital_relation)


def _all_capital(text: str) -> bool:
    return text.isupper() and _is_language(text, "en")


def _all_lowercase(text: str) -> bool:
    return text.islower() and _is_language(text, "en")


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS: Mapping[str, tuple[Check, tuple[str, ...]]] = {
    "keywords:existence": (_keywords, ("keywords",)),
    "keywords:frequency": (_keyword_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (_forbidden_words, ("forbidden_words",)),
    "keywords:letter_frequency": (_letter_frequency, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (_is_language, ("language",)),
    "length_constraints:number_sentences": (_number_of_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (_number_of_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (_number_of_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (
        _first_word_of_paragraph,
        ("num_paragraphs", "nth_paragraph", "first_word"),
    ),
    "detectable_content:number_placeholders": (_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (_postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (_bullet_lists, ("num_bullets",)),
    "detectable_format:constrained_response": (_constrained_response, ()),
    "detectable_format:number_highlighted_sections": (_highlighted_sections, ("num_highlights",)),
    "detectable_format:multiple_sections": (_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (_json_format, ()),
    "detectable_format:title": (_title, ()),
    "combination:two_responses": (_two_responses, ()),
    "combination:repeat_prompt": (_repeated_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (_end, ("end_phrase",)),
    "startend:quotation": (_quotation, ()),
    "change_case:capital_word_frequency": (_capital_words, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (_all_capital, ()),
    "change_case:english_lowercase": (_all_lowercase, ()),
    "punctuation:no_comma": (_no_comma, ()),
}
"""What verifies each instruction of IFEval, by its id, and the arguments that it needs."""


def check_instruction(name: str, arguments: Mapping[str, Any]) -> str:
    """Return what is wrong with the arguments of an instruction; empty if nothing.

    Args:
        name: The id of the instruction.
        arguments: The arguments that have a value.
    """
    _, needed = INSTRUCTIONS[name]
    missing = [argument for argument in needed if argument not in arguments]
    if missing:
        return f"{missing[0]} is missing"
    for argument in needed:
        if argument.endswith("relation") and arguments[argument] not in (LESS_THAN, AT_LEAST):
            return f"{argument} must be {LESS_THAN!r} or {AT_LEAST!r}, not {arguments[argument]!r}"
    return ""


def follows(text: str, name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a text follows an instruction; an empty text follows none.

    Args:
        text: The text.
        name: The id of the instruction.
        arguments: Its arguments; those that the instruction does not need are ignored.
    """
    check, needed = INSTRUCTIONS[name]
    return bool(text.strip()) and check(text, **{argument: arguments[argument] for argument in needed})


def loose_versions(text: str) -> list[str]:
    """Return a text without what often surrounds an answer: its first or last line, and asterisks.

    Args:
        text: The text.

    Returns:
        Eight versions, the first of which is the text itself.
    """
    lines = text.split("\n")
    versions = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*versions, *(version.replace("*", "") for version in versions)]
