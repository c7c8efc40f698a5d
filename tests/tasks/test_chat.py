"""Conversations in all forms that data have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.errors import MissingFieldsError, RowError
from peftkit.tasks import Chat
from tests.tasks.conftest import Write, write

__all__ = ["write"]  # the fixture

QUESTION, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
FORMS = {
    "messages": {"messages": [QUESTION, ANSWER]},
    "absent keys are None, as in Arrow": {"messages": [{**QUESTION, "tool_calls": None}, {**ANSWER, "name": None}]},
    "JSON in a cell": {"messages": json.dumps([QUESTION, ANSWER])},
    "parts of OpenAI": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, ANSWER]},
    "ShareGPT": {"conversations": SHAREGPT},
    "Alpaca": {"instruction": "Why?", "input": "", "output": "Because."},
    "prompt and completion": {"prompt": "Why?", "completion": "Because."},
    "prompt and completion of messages": {"prompt": [QUESTION], "completion": [ANSWER]},
}


def task(**options: Any) -> Chat:
    return Chat(path="x", **options)


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_conversation(row: dict[str, Any]) -> None:
    example = task().to_example(row)
    assert example.conversation is not None
    assert list(example.conversation.messages) == [QUESTION, ANSWER]
    assert example.conversation.prompt_messages == 1
    assert (example.source, example.target) == ("user: Why?", "Because.")
    prompt = task().to_prompt(row)
    assert prompt.conversation is not None
    assert list(prompt.conversation.messages) == [QUESTION]
    assert (prompt.source, prompt.target) == (example.source, "")


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_a_system_message_is_added_where_there_is_none(row: dict[str, Any]) -> None:
    messages = task(system="Be brief.").to_example(row).conversation
    assert messages is not None
    assert list(messages.messages) == [SYSTEM, QUESTION, ANSWER]
    kept = task(system="Be long.").to_example({"messages": [SYSTEM, QUESTION, ANSWER]}).conversation
    assert kept is not None
    assert list(kept.messages) == [SYSTEM, QUESTION, ANSWER]


def test_the_input_of_alpaca_follows_its_instruction() -> None:
    example = task().to_example({"instruction": "Translate.", "input": "Haus", "output": "house"})
    assert example.source == "user: Translate.\n\nHaus"


def test_columns_may_have_other_names() -> None:
    assert task(messages_column="chat").to_example({"chat": SHAREGPT}).target == "Because."
    assert task(prompt_column="q", completion_column="a").to_example({"q": "Why?", "a": "So."}).target == "So."


def test_a_completion_may_call_functions() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    result = {"role": "tool", "content": "2", "name": "f"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"x": None}}}]
    example = task().to_example(
        {"prompt": [QUESTION], "completion": [call, result, ANSWER], "tools": json.dumps(tools)}
    )
    assert example.conversation is not None
    assert example.conversation.prompt_messages == 1
    assert [m["role"] for m in example.conversation.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.conversation.tools == ({"type": "function", "function": {"name": "f", "parameters": {}}},)
    sharegpt = [SHAREGPT[0], {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}]
    called = task().to_example({"conversations": sharegpt})
    assert called.target == '{"name": "f", "arguments": {"x": 1}}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [QUESTION]}, "there must be a message and an answer"),
        (
            {"messages": [QUESTION, ANSWER, QUESTION]},
            "the last message is by the role 'user', but must be the assistant's",
        ),
        ({"messages": [QUESTION, {"role": "assistant", "content": " "}]}, "the last message is empty"),
        (
            {"messages": [QUESTION, {"role": "Assistant", "content": "x"}]},
            r"unknown role 'Assistant' \(did you mean 'assistant",
        ),
        ({"messages": [QUESTION, {"role": "assistant"}]}, "message 2 has no content"),
        ({"messages": [QUESTION, "Because."]}, "message 2 must be a table with role and content, not 'Because.'"),
        (
            {"messages": [QUESTION, {"role": "assistant", "content": 3}]},
            "the content of message 2 must be a text, not 3",
        ),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": "[{"}, "looks like JSON, but is not"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "such as images"),
        ({"conversations": [SHAREGPT[0], {"from": "function_call", "value": "f()"}]}, "JSON with the name"),
        ({"text": "x"}, "there are no messages; a row must have a list of messages"),
        ({"prompt": "Why?", "completion": " "}, "completion: is empty"),
        ({"messages": [QUESTION, ANSWER], "tools": "f"}, "must be a list of JSON schemas, not 'f'"),
    ],
)
def test_invalid_conversations_are_errors_of_the_row(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        task().to_example(row)


def test_a_prompt_needs_messages() -> None:
    with pytest.raises(MissingFieldsError, match="messages"):
        task().to_prompt({"text": "x"})
    with pytest.raises(RowError, match="there is no message to answer"):
        task().to_prompt({"messages": [ANSWER]})


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="the chat template of the model writes the messages"):
        task(prompt="{text}")
    with pytest.raises(ValidationError, match="messages_column has the messages"):
        task(messages_column="chat", prompt_column="q")


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_conversations_are_recognized(row: dict[str, Any], write: Write, tmp_path: Path) -> None:
    matches = Chat.recognize(str(write("chats.jsonl", [row] * 5)))
    assert len(matches) == (not isinstance(row.get("messages"), str))
    for match in matches:
        assert Chat.model_validate(match.options).to_example(row).target == "Because."
    assert not Chat.recognize(str(write("texts.jsonl", [{"text": "Why?", "label": "a"}] * 5)))
