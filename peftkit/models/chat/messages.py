"""What messages of a conversation contain."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from peftkit.errors import RowError

FIELD = "messages"
"""The field that errors of conversations are about."""
REASONING = re.compile(r"<(think|thinking|thought|reasoning)>(.*?)</\1>", re.DOTALL)
"""What the assistant thinks before it answers, in tags."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of messages for it."""


def reasoning_of(message: Mapping[str, Any]) -> list[str]:
    """Return what the assistant thinks in a message, in tags or under keys of its own; without space around.

    Args:
        message: The message.
    """
    thoughts = [thought for _, thought in REASONING.findall(str(message.get("content") or ""))]
    thoughts += [str(message.get(key) or "") for key in REASONING_KEYS]
    return [*filter(None, map(str.strip, thoughts))]


def weight_of(message: Mapping[str, Any]) -> int:
    """Return the ``weight`` of a message in the format of OpenAI: 0 if it is not trained on, else 1.

    Args:
        message: The message.

    Raises:
        RowError: It is neither 0 nor 1.
    """
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise RowError(FIELD, f"a message has the weight {weight!r}, but weights are 0 or 1")
    return int(weight)


def texts_within(value: Any) -> Iterator[str]:
    """Yield the texts within a value, also those of the keys of tables."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts_within([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_within(each)


def with_parsed_arguments(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message whose calls of functions have their arguments as a table, which templates write as JSON."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_with_parsed_call(call) for call in calls]}


def _with_parsed_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _with_parsed_call(function)}
    if not isinstance(arguments := call.get("arguments"), str):
        return call
    try:
        return {**call, "arguments": json.loads(arguments)}
    except ValueError as error:
        raise RowError(FIELD, f"the arguments of a call are not JSON: {arguments!r}") from error
