"""Preferences in lists of messages, as a chat template writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from peftkit import Example, InputError, Objective, ObjectiveContext, RowError, Task
from peftkit.components.types import Conversation
from peftkit.objectives.chat_completion import TEMPLATE_FILE, read_template
from peftkit.tasks.chat import Message, is_messages, message_text, parse_json, read_messages
from peftkit.tasks.columns import get_value, short_repr

MESSAGES = "lists of messages"


class PreferenceObjective(Objective):
    """Base class of objectives whose rows may be texts or lists of messages."""

    chat_template: str = ""
    """For lists of messages: a Jinja template, or the path of a file with one; that of the tokenizer if empty."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the template, such as `{enable_thinking = false}`."""

    @field_validator("chat_template")
    @classmethod
    def _read_template(cls, template: str) -> str:
        return read_template(template)

    def tokenize_completions(
        self, examples: Sequence[Example], context: ObjectiveContext, *, ranked: bool
    ) -> list[dict[str, Any]]:
        """Tokenize prompts and completions: texts one after the other, and messages by the chat template.

        Args:
            examples: The examples, whose conversations are those of the prompts.
            context: The context.
            ranked: Whether rows have both candidates, or the target alone.

        Raises:
            InputError: The model has no chat template, or one is set for texts.
            RowError: The template does not support the messages, or they do not fit the length limits.
        """
        if not any(example.conversation for example in examples):
            if self.chat_template or self.chat_template_kwargs:
                option = "chat_template" if self.chat_template else "chat_template_kwargs"
                raise InputError(f"objective.{option}: has no effect, because rows have no {MESSAGES}; leave it out")
            return [dict(row) for row in context.family.tokenize_completions(examples, ranked=ranked)]
        return [self._tokenize_messages(example, context, ranked=ranked) for example in examples]

    def _tokenize_messages(self, example: Example, context: ObjectiveContext, *, ranked: bool) -> dict[str, Any]:
        prompt = example.conversation
        if prompt is None:
            raise RowError("prompt", f"is a text, but other rows have {MESSAGES}; use one form")
        texts = example.candidates if ranked else (example.target,)
        written = [replace(example, conversation=_answered(prompt, text)) for text in texts]
        rows = [dict(row) for row in self._template(context).tokenize(written, "completion")]
        row, candidates = rows[0], [each["candidates"][0] for each in rows]
        if len(candidates) > 1 and candidates[0] == candidates[1]:
            raise RowError("chosen", "has the same tokens as the other completion")
        del row["trained_spans"]
        length = len(row["source"]) + sum(map(len, candidates))
        answer = example.candidates.index(example.target) if ranked else 0
        return {**row, "candidates": candidates, "answer": answer, "length": length}

    def _template(self, context: ObjectiveContext) -> Any:
        """Return the template; one evaluation finds out once where answers end in it."""
        key = f"chat_template {self.chat_template} {self.chat_template_kwargs}"
        if key not in context.cache:
            if context.model_kind != "decoder":
                raise InputError(f"rows have {MESSAGES}, which need a decoder with a chat template")
            context.cache[key] = context.family.load_chat_template(self.chat_template, self.chat_template_kwargs)
        return context.cache[key]

    def describe_outputs(self, task: Task, calibration: Mapping[str, Any]) -> str:
        """Describe the template, if it is not that of the tokenizer."""
        if not self.chat_template:
            return ""
        return f"The model was trained with this chat template:\n\n```jinja\n{self.chat_template.strip()}\n```"

    def export(self, folder: Path, context: ObjectiveContext) -> None:
        """Write the template."""
        if self.chat_template:
            (folder / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")


def _answered(prompt: Conversation, text: str) -> Conversation:
    messages = (*prompt.messages, {"role": "assistant", "content": text})
    return Conversation(messages, prompt.tools, len(prompt.messages))


def find_messages(row: Mapping[str, Any], column: str) -> list[Any] | None:
    """Return the list of messages in a column, also as JSON; None if it has something else.

    Args:
        row: The row.
        column: The column; dots select nested fields.
    """
    try:
        value = parse_json(get_value(row, column), column)
    except RowError:  # reported if it is read as a text
        return None
    return value if is_messages(value) else None


def read_prompt(row: Mapping[str, Any], value: Any, column: str) -> list[Message]:
    """Return the messages of a prompt.

    Args:
        row: The row.
        value: A list of messages, or a text.
        column: The column, for error messages.

    Raises:
        RowError: A message is invalid, or there are functions to call.
    """
    if row.get("tools"):
        raise RowError("tools", "functions to call are not supported in preferences")
    return [*read_messages(value, column, "user")]


def read_completion(messages: Sequence[Message], column: str) -> str:
    """Return the text of a completion.

    Args:
        messages: The messages after the prompt.
        column: The column, for error messages.

    Raises:
        RowError: It is not one message of the assistant with a text.
    """
    if len(messages) != 1 or messages[0]["role"] != "assistant" or messages[0].get("tool_calls"):
        roles = ", ".join(str(message["role"]) for message in messages) or "none"
        raise RowError(column, f"must be one message of the assistant after the prompt, a text; there are: {roles}")
    text = message_text(messages[0]).strip()
    if not text:
        raise RowError(column, "is empty")
    return text


def split_messages(
    row: Mapping[str, Any], prompt: list[Any] | None, columns: tuple[str, str, str], values: tuple[Any, Any]
) -> tuple[list[Message], str, str]:
    """Return the messages of a prompt, and two completions.

    Args:
        row: The row.
        prompt: The messages of the prompt; None for those that both completions start with, as in trl.
        columns: The columns of the prompt and of the completions, for error messages.
        values: The completions: lists of messages, with or without the prompt.

    Raises:
        RowError: A message is invalid, or a completion is not one message of the assistant.
    """
    for value, column in zip(values, columns[1:], strict=True):
        if not is_messages(parse_json(value, column)):
            raise RowError(column, f"must be a list of messages, as in {columns[1]!r}, not {short_repr(value)}")
    both = [read_prompt(row, value, column) for value, column in zip(values, columns[1:], strict=True)]
    if prompt is not None:
        start = read_prompt(row, prompt, columns[0])
        both = [each[len(start) :] if each[: len(start)] == start else each for each in both]
    else:
        pairs = zip(*both, strict=False)
        common = next((i for i, (one, other) in enumerate(pairs) if one != other), min(map(len, both)))
        start, both = both[0][:common], [each[common:] for each in both]
        if not start:
            raise RowError(columns[1], f"has no message in common with {columns[2]!r}, so there is no prompt")
    chosen, rejected = (read_completion(each, column) for each, column in zip(both, columns[1:], strict=True))
    return start, chosen, rejected
