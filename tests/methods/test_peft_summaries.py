"""Each method has a line of its own in ``peftkit list``."""

from __future__ import annotations

import re
from typing import Any

import peft

from peftkit.methods.peft_factory import SPECIALIZED
from peftkit.methods.peft_schema import Configuration, configurations
from peftkit.methods.peft_summaries import PEFT_SUMMARIES, summary
from peftkit.plugins import load_registry

METHODS = load_registry().all("method")
VERB = re.compile(
    "(Adapts?|Adds?|Applies|Apply|Computes?|Freezes?|Fine-tunes?|Inserts?|Learns?|Mix(es)?|Multiply|Multiplies|Replaces?"
    "|Rotates?|Selects?|Trains?|(Scales?|Updates?) (?!and shifts of|from|in|of|that))\\b"
)
"""A line that starts with a verb; scales and updates are nouns too."""
PAPER = re.compile(r"\([^()]*\b(19|20)\d\d[^()]*\)")


def test_every_line_is_one_short_sentence_of_its_own() -> None:
    lines = {name: entry.summary for name, entry in METHODS.items()}
    assert len(set(lines.values())) == len(lines)
    for name, line in lines.items():
        assert len(line) <= 125, name
        assert line.endswith("."), name
        assert "configuration" not in line.lower(), name
        assert line.count(". ") == 0, name


def test_no_line_is_from_a_docstring_of_peft() -> None:
    configs: list[Any] = list(peft.PEFT_TYPE_TO_CONFIG_MAPPING.values())
    docstrings = " ".join(" ".join((config.__doc__ or "").replace("`", "").split()) for config in configs)
    assert [name for name, entry in METHODS.items() if entry.summary.split(" (")[0].rstrip(".") in docstrings] == []


def test_every_method_of_peft_names_its_paper() -> None:
    without = {name for name, e in METHODS.items() if e.distribution == "peftkit" and not PAPER.search(e.summary)}
    assert {name for name in without if "no paper" not in METHODS[name].summary} == set()


def test_lines_have_no_markup() -> None:
    assert [entry.name for entry in load_registry().entries if "`" in entry.summary] == []


def test_every_line_is_a_noun_phrase() -> None:
    assert VERB.match("Trains the biases only.")
    assert VERB.match("Scales keys and values.")
    assert [entry.summary for entry in METHODS.values() if VERB.match(entry.summary)] == []


def test_every_method_of_the_installed_peft_has_a_line() -> None:
    assert PEFT_SUMMARIES.keys() == configurations().keys() - SPECIALIZED.keys()


def test_a_method_of_a_newer_peft_is_named_and_not_described() -> None:
    from peftkit.methods.peft_factory import method_class

    built = method_class(Configuration("novel", "This is the configuration class to store …", ()))
    assert (
        built.__doc__ == summary("novel") == "A method of the installed peft, NOVEL, which this peftkit does not know."
    )
