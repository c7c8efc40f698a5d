"""Conversations with an assistant, on the user's own data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.types import Conversation, TaskMatch
from peftkit.errors import MissingFieldsError, RowError, comma_separated, did_you_mean
from peftkit.tasks import column_names
from peftkit.tasks.columns import get_nonblank_text, get_text, get_value, has_column, short_repr
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import DataSample

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""The role of each name that data have for it, those of ShareGPT included."""
FORMS = "a list of messages (messages, conversations), prompt and completion, or instruction and output"
Message = Mapping[str, Any]


class Chat(DatasetTask):
    """Conversations with an assistant, on your own data; decoders only.

    A row has a list of messages with ``role`` and ``content``, or ``from`` and ``value`` (ShareGPT), in ``messages`` or
    ``conversations``; or texts or messages in ``prompt`` and ``completion``; or texts in ``instruction``, ``input`` and
    ``output`` (Alpaca). The last message is the assistant's.
    """

    name: Literal["chat"] = "chat"

    messages_column: str | None = None
    """Column with the list of messages; messages or conversations if unset."""
    prompt_column: str | None = None
    """Column with a text or messages that precede the completion; prompt, or instruction and input, if unset."""
    completion_column: str | None = None
    """Column with the answer, a text or messages; completion or output if unset."""
    tools_column: str = "tools"
    """Column with the JSON schemas of the functions that the assistant may call, if there is one."""
    system: str | None = None
    """System message of conversations that have none."""

    kind: ClassVar[TaskKind] = "chat"
    metrics: ClassVar[tuple[str, ...]] = ("rouge", "chrf", "exact_match")
    selection_metric: ClassVar[str] = "loss"

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes lists of messages, and pairs of prompt and completion."""
        for name in column_names.MESSAGES_NAMES:
            column = sample.columns.get(name)
            if column is not None and column.values and all(map(is_messages, column.values)):
                yield TaskMatch(0.95, {"messages_column": name}, f"{name!r} has messages of a conversation")
                return
        for prompt, completion in (("prompt", "completion"), ("instruction", "output")):
            if prompt in sample.columns and completion in sample.columns and sample.columns[completion].is_complete:
                score = 0.55 if prompt == "prompt" else 0.7  # a task and its solution, mostly of a chat model
                yield TaskMatch(score, {}, f"{prompt!r} and {completion!r} are a question and its answer")
                return

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        yield "prompt", "the chat template of the model writes the messages"
        if self.messages_column is not None:
            for option in ("prompt_column", "completion_column"):
                yield option, "messages_column has the messages"

    def prompt_template(self) -> str:
        return "{messages}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        for option in ("messages_column", "prompt_column", "completion_column"):
            if column := getattr(self, option):
                yield option, column
        yield from super().column_options()

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        return [column for _, column in self.column_options() if column != self.completion_column]

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        """The conversation without the assistant's last message.

        Raises:
            RowError: There are no messages, or they are invalid.
        """
        prompt, completion = self._messages(row)
        messages = [*prompt, *completion]
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages:
            raise RowError(self._column_of(row), "there is no message to answer")
        conversation = Conversation(tuple(messages), self._tools(row), min(len(prompt), len(messages)))
        return Example(messages_as_text(messages), "", conversation=conversation)

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        missing = [column for column in self.required_columns(row) if not has_column(row, column)]
        if missing:
            raise MissingFieldsError(missing)
        if self._column_of(row) == "":
            raise MissingFieldsError(["messages"])
        return self.make_prompt(row)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The conversation, whose last message is to be predicted.

        Raises:
            RowError: A message is invalid, or the last one is not the assistant's.
        """
        prompt, completion = self._messages(row)
        messages, column = [*prompt, *completion], self._column_of(row)
        if len(messages) < 2:
            raise RowError(column, "there must be a message and an answer")
        last = messages[-1]
        if last["role"] != "assistant":
            raise RowError(
                column, f"the last message is by the role {last['role']!r}, but must be the assistant's answer"
            )
        if not str(last.get("content") or "").strip() and not last.get("tool_calls"):
            raise RowError(column, "the last message is empty")
        conversation = Conversation(tuple(messages), self._tools(row), len(prompt) if completion else len(messages) - 1)
        source = messages_as_text(messages[:-1])
        return Example(source, message_text(last), conversation=conversation, group=self.group_of(row))

    def _messages(self, row: Mapping[str, Any]) -> tuple[list[Message], list[Message]]:
        """Returns the messages of the prompt, and those of the completion; of a list of messages, all as the prompt."""
        column = self._column_of(row)
        if not column:
            raise RowError("messages", f"there are no messages; a row must have {FORMS}")
        prompt_column, completion_column = self._pair_of(row)
        if column != prompt_column:
            prompt, completion = read_messages(get_value(row, column), column, "user"), []
        else:
            prompt = read_messages(get_value(row, column), column, "user")
            if self.prompt_column is None and column == "instruction" and str(row.get("input") or "").strip():
                prompt = [{"role": "user", "content": f"{get_nonblank_text(row, column)}\n\n{get_text(row, 'input')}"}]
            answered = has_column(row, completion_column) and row.get(completion_column) is not None
            completion = read_messages(row[completion_column], completion_column, "assistant") if answered else []
        system = get_text(row, "system") if str(row.get("system") or "").strip() else self.system
        if system and prompt and prompt[0]["role"] not in ("system", "developer"):
            prompt = [{"role": "system", "content": system}, *prompt]
        return prompt, completion

    def _column_of(self, row: Mapping[str, Any]) -> str:
        """Returns the column of the messages, or of the prompt; empty if there is none."""
        if self.messages_column is not None:
            return self.messages_column
        candidates = () if self.prompt_column else column_names.MESSAGES_NAMES
        return next((name for name in (*candidates, self._pair_of(row)[0]) if row.get(name) is not None), "")

    def _pair_of(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Returns the columns of prompt and completion."""
        alpaca = self.prompt_column is None and row.get("prompt") is None
        return (
            self.prompt_column or ("instruction" if alpaca else "prompt"),
            self.completion_column or ("output" if alpaca else "completion"),
        )

    def _tools(self, row: Mapping[str, Any]) -> tuple[Message, ...]:
        """Returns the functions that the assistant may call."""
        value = parse_json(row.get(self.tools_column), self.tools_column)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            raise RowError(self.tools_column, f"must be a list of JSON schemas, not {short_repr(value)}")
        return tuple(_without_none(each) for each in value)


def is_messages(value: Any) -> bool:
    """Returns whether a value is a list of messages."""
    keys = ("role", "from")
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(e, Mapping) and any(k in e for k in keys) for e in value)
    )


def read_messages(value: Any, column: str, role: str) -> list[Message]:
    """Returns messages in one form.

    Args:
        value: A list of messages, also as JSON, or the text of one.
        column: The column, for error messages.
        role: The role of a text.

    Raises:
        RowError: The value or a message is invalid.
    """
    value = parse_json(value, column)
    if isinstance(value, str):
        if not value.strip():
            raise RowError(column, "is empty")
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise RowError(column, f"must be a list of messages, or a text, not {short_repr(value)}")
    return [_read_message(each, column, number) for number, each in enumerate(value, 1)]


def parse_json(value: Any, column: str) -> Any:
    """Return the list that a text is the JSON of, as cells of tables have them; other values as they are.

    Args:
        value: The value.
        column: Its column.

    Raises:
        RowError: The text looks like JSON and is not.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("[{"):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowError(column, f"looks like JSON, but is not: {error}") from error


def _read_message(message: Any, column: str, number: int) -> Message:
    """Returns a message with ``role`` and ``content``.

    Args:
        message: The message, with ``role`` and ``content`` or ``from`` and ``value``.
        column: The column, for error messages.
        number: Its number in the conversation, from 1.

    Raises:
        RowError: The message is invalid.
    """
    if not isinstance(message, Mapping):
        raise RowError(column, f"message {number} must be a table with role and content, not {short_repr(message)}")
    fields = _without_none(message)
    name, content = (
        fields.pop("role", None) or fields.pop("from", None),
        fields.pop("content", fields.pop("value", None)),
    )
    if name not in ROLES:
        near = did_you_mean(str(name), ROLES)
        raise RowError(
            column, f"message {number} has the unknown role {name!r}{near}; roles: {comma_separated([*ROLES])}"
        )
    if isinstance(content, list):
        content = _join_parts(content, column, number)
    if name == "function_call":
        call = _parse_call(content, column, number)
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    if content is None and not fields.get("tool_calls"):
        raise RowError(column, f"message {number} has no content")
    if content is not None and not isinstance(content, str):
        raise RowError(column, f"the content of message {number} must be a text, not {short_repr(content)}")
    return {"role": ROLES[name], "content": content or "", **fields}


def _join_parts(parts: Sequence[Any], column: str, number: int) -> str:
    """Returns the text of a content in parts, as in the format of OpenAI."""
    texts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise RowError(column, f"message {number} has parts that are no texts, such as images, which are not supported")
    return "".join(map(str, texts))


def _parse_call(content: Any, column: str, number: int) -> Any:
    """Returns the call of a function that ShareGPT writes as JSON."""
    try:
        call = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        call = None
    if not isinstance(call, Mapping) or "name" not in call:
        raise RowError(column, f"message {number} must be JSON with the name and the arguments of a function")
    return call


def _without_none(value: Any) -> Any:
    """Returns a value without the keys whose value is None, which Arrow adds where other rows have them."""
    if isinstance(value, Mapping):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value


def message_text(message: Message) -> str:
    """Returns the text of a message, with the functions that it calls as JSON."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([*filter(None, [str(message["content"])]), *calls])


def messages_as_text(messages: Iterable[Message]) -> str:
    """Returns messages as plain text, one after the other."""
    return "\n".join(f"{message['role']}: {message_text(message)}" for message in messages)
