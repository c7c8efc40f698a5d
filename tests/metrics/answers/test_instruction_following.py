"""Accuracies of prompts and instructions."""

from __future__ import annotations

import json

import pytest

from peftkit import Example
from peftkit.answer_texts.verifiable_instructions import INSTRUCTIONS_KEY
from peftkit.components.types import RunSpec
from peftkit.metrics import InstructionFollowing

COMMA = {"name": "punctuation:no_comma", "kwargs": {}}
WORDS = {"name": "length_constraints:number_words", "kwargs": {"num_words": 3, "relation": "at least"}}
QUOTED = {"name": "startend:quotation", "kwargs": {}}


def example(*instructions: object) -> Example:
    return Example("prompt", "", has_answer=False, extra={INSTRUCTIONS_KEY: json.dumps(instructions)})


def test_prompts_and_instructions_are_counted_strictly_and_loosely() -> None:
    examples = [example(COMMA, WORDS), example(COMMA), example(QUOTED, COMMA, WORDS)]
    texts = ["one two three", "a, b", 'Sure, here it is:\n"one two three"']
    metric = InstructionFollowing()
    values = metric.compute(texts, [[""]] * 3, examples)
    assert values == pytest.approx(
        {"prompt_strict": 1 / 3, "instruction_strict": 3 / 6, "prompt_loose": 2 / 3, "instruction_loose": 5 / 6}
    )
    each = metric.compute_per_example(texts, [[""]] * 3, examples)
    assert [row["prompt_loose"] for row in each] == [1, 0, 1]
    for name, value in values.items():
        assert sum(row[name] for row in each) / 3 == pytest.approx(value)


def test_only_examples_with_instructions_are_scored() -> None:
    metric = InstructionFollowing()
    assert metric.applies_to([example(COMMA)])
    assert not metric.applies_to([Example("a", "b")])


def test_the_library_for_languages_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RunSpec("decoder", "chat", False, "no")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert InstructionFollowing().incompatible_with(spec) == ["it needs langdetect; install peftkit[ifeval]"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found")
    assert InstructionFollowing().incompatible_with(spec) == []
