"""Tokenizes conversations with the chat template of a tokenizer, and finds which tokens are trained on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from peftkit.components.types import GENERATION_TAG, Conversation, Example, TokenizedRow, TrainOn
from peftkit.errors import InputError, LengthError, RowError, summarize_error
from peftkit.models.chat.messages import FIELD, reasoning_of, texts_within, weight_of, with_parsed_arguments
from peftkit.models.special_tokens import decode_generated, describe_ids_without_embedding

ASSISTANT = "assistant"
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ConversationTemplate:
    """A chat template and the tokenizer that it belongs to.

    Attributes:
        tokenizer: the model's tokenizer.
        template: a Jinja template; that of the tokenizer if empty.
        variables: further variables of the template, such as ``enable_thinking``.
        max_lengths: the largest numbers of tokens of a prompt and of an answer.
        num_embeddings: number of ids that the model has embeddings for; None if unknown.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    variables: Mapping[str, Any]
    max_lengths: tuple[int, int]
    num_embeddings: int | None

    @cached_property
    def _template(self) -> str:
        """The template in use.

        Raises:
            InputError: There is none.
        """
        if self.template:
            return self.template
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            raise InputError(
                "objective.chat_template: the tokenizer has no chat template, as those of base models; set one, or the "
                "path of a file with one, such as the chat_template.jinja of a chat model of the same tokenizer"
            ) from error

    @cached_property
    def _marks_answers(self) -> bool:
        """Whether the template marks what the assistant says, and the tokenizer knows where tokens are in a text."""
        return bool(GENERATION_TAG.search(self._template)) and self.tokenizer.is_fast

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end what the assistant says: the template's, and the end of text.

        Raises:
            InputError: The template puts no token of its own after what the assistant says.
        """
        question, answer = ({"role": role, "content": "a"} for role in ("user", "assistant"))
        call = {**answer, "tool_calls": [{"type": "function", "function": {"name": "a", "arguments": {}}}]}
        system = {"role": "system", "content": "a"}
        refused: list[str] = []
        conversations: list[Messages] = [[question, answer], [system, question, answer], [question, call]]
        unknown, ends = {self.tokenizer.unk_token_id} - {self.tokenizer.eos_token_id, self.tokenizer.bos_token_id}, []
        for conversation in conversations:
            try:
                ids = self._render(conversation)
            except RowError as error:  # such as a template without a system message, or without tools
                refused.append(error.text)
                continue
            if unknown.intersection(ids):
                raise InputError(
                    "objective.chat_template: the tokenizer has no tokens for a part of it: "
                    f"{self.tokenizer.decode(ids)!r}; write it with characters that the tokenizer knows"
                )
            if (end := self._find_end(ids)) is not None:
                ends.append(ids[end])
        if len(refused) == len(conversations):
            raise InputError(f"objective.chat_template: it cannot be applied to a question and an answer: {refused[0]}")
        if not ends:
            raise InputError(
                "objective.chat_template: it puts no special token after the last message of the assistant, so a model "
                "would not learn to stop; add one, such as the tokenizer's eos_token"
            )
        eos = self.tokenizer.eos_token_id
        return tuple(dict.fromkeys([*ends, *([eos] if eos is not None else [])]))

    @cached_property
    def answer_start(self) -> str:
        """What the template writes before every answer, such as an empty thought; it is no part of the answer."""
        question, answer = ({"role": role, "content": "a"} for role in ("user", ASSISTANT))
        try:
            prompt, whole = self._render([question], prompt=True), self._render([question, answer])
        except RowError:
            return ""
        if not _starts_with(whole, prompt):
            return ""
        before, _, _ = decode_generated(self.tokenizer, whole[len(prompt) :], self.stop_ids).rpartition("a")
        return before.strip()

    def tokenize(self, examples: Sequence[Example], train_on: TrainOn) -> list[TokenizedRow]:
        """Tokenize conversations.

        Args:
            examples: the examples, with conversations.
            train_on: what is trained on.

        Returns:
            Rows whose target is the last message of the assistant, with its end; that of prompts is empty.

        Raises:
            RowError: the template does not support a conversation, or it does not fit the length limits.
        """
        return [self._tokenize(example.conversation, train_on) for example in examples if example.conversation]

    def _tokenize(self, conversation: Conversation, train_on: TrainOn) -> TokenizedRow:
        messages = [with_parsed_arguments(message) for message in conversation.messages]
        self._check_texts(messages, conversation.tools)
        answered = bool(messages) and messages[-1]["role"] == ASSISTANT
        prompt = self._render(messages[:-1] if answered else messages, conversation.tools, prompt=True)
        self._check_calls(messages, conversation.tools)
        target: list[int] = []
        spans: list[list[int]] = []
        if answered:
            applied = self._apply(messages, conversation.tools, return_assistant_tokens_mask=self._marks_answers)
            whole = list(applied["input_ids"])
            if not _starts_with(whole, prompt):
                raise RowError(FIELD, self._describe_difference(whole, prompt))
            target = whole[len(prompt) :]
            marks = applied["assistant_masks"] if self._marks_answers else None
            spans = self._find_trained_spans(conversation, messages, whole, prompt, marks, train_on)
            spans = self._without_weightless(spans, messages, conversation.tools, whole)
            self._check_end(whole, target, spans)
            self._check_reasoning(messages, conversation.tools)
        self._check_lengths(prompt, target)
        return {
            "source": prompt,
            "candidates": [target],
            "answer": 0,
            "length": len(prompt) + len(target),
            "source_tokens": len(prompt),
            "target_tokens": len(target),
            "segments": [],
            "trained_spans": spans,
        }

    def _find_trained_spans(
        self,
        conversation: Conversation,
        messages: Messages,
        whole: Sequence[int],
        prompt: Sequence[int],
        marks: Sequence[int] | None,
        train_on: TrainOn,
    ) -> list[list[int]]:
        """Return the starts and ends of what is trained on.

        Args:
            conversation: the conversation.
            messages: its messages.
            whole: token ids of all messages.
            prompt: token ids of all but the last one, and of what announces the last one.
            marks: for each token, 1 if the template marks it as what the assistant says; None if it marks none.
            train_on: what is trained on.
        """
        if train_on == "all":
            return [[1, len(whole)]]  # nothing precedes the first token
        if train_on == "completion":
            if conversation.prompt_messages in (0, len(messages) - 1):
                return [[len(prompt), len(whole)]]
            first = messages[: conversation.prompt_messages]
            start = self._length_within(whole, first, conversation.tools, prompt=True)
            return [[start, len(whole)]]
        if marks is None:
            spans = list(self._answer_spans(messages, conversation.tools, whole, train_on))
        else:
            spans = list(_marked_spans(marks))
        if train_on == "last_assistant":
            spans = [[max(start, len(prompt)), end] for start, end in spans if end > len(prompt)]
        return spans

    def _answer_spans(
        self, messages: Messages, tools: Messages, whole: Sequence[int], train_on: TrainOn
    ) -> Iterator[list[int]]:
        """Yield the span of each message of the assistant, up to the start of the next message.

        Raises:
            RowError: The template writes a message in another way if others follow it.
        """
        for index, message in enumerate(messages):
            if message["role"] == ASSISTANT and (index == len(messages) - 1 or train_on == "assistant"):
                yield self._answer_span(index, messages, tools, whole)

    def _answer_span(self, index: int, messages: Messages, tools: Messages, whole: Sequence[int]) -> list[int]:
        """Return the span of one message of the assistant."""
        start = self._length_within(whole, messages[:index], tools, prompt=True)
        is_last = index == len(messages) - 1
        return [start, len(whole) if is_last else self._length_within(whole, messages[: index + 1], tools)]

    def _without_weightless(
        self, spans: list[list[int]], messages: Messages, tools: Messages, whole: Sequence[int]
    ) -> list[list[int]]:
        """Leave out the messages of the assistant with ``weight`` 0, as in the format of OpenAI.

        Raises:
            RowError: That of the last message is 0, or one is neither 0 nor 1.
        """
        for index, message in enumerate(messages):
            if weight_of(message) or message["role"] != ASSISTANT:
                continue
            if index == len(messages) - 1:
                raise RowError(FIELD, "the last message has weight 0, so that it would not be trained on; remove it")
            start, end = self._answer_span(index, messages, tools, whole)
            parts = [part for first, last in spans for part in ([first, min(last, start)], [max(first, end), last])]
            spans = [[first, last] for first, last in parts if first < last]
        return spans

    def _length_within(self, whole: Sequence[int], messages: Messages, tools: Messages, *, prompt: bool = False) -> int:
        """Return how many tokens of a conversation are those of its first messages.

        Args:
            whole: token ids of the conversation.
            messages: the first messages.
            tools: the functions that the assistant may call.
            prompt: whether to add what announces a message of the assistant.

        Raises:
            RowError: The conversation does not start with the tokens of its first messages.
        """
        ids = self._render(messages, tools, prompt=prompt)
        if not _starts_with(whole, ids):
            raise RowError(
                FIELD,
                f"the chat template writes the first {len(messages)} messages in another way if others follow, so it "
                "is not known which tokens are the assistant's; set objective.train_on to last_assistant, or "
                "objective.chat_template to a template that marks them with {% generation %}",
            )
        return len(ids)

    def _render(self, messages: Messages, tools: Messages = (), *, prompt: bool = False) -> list[int]:
        """Return the token ids of messages.

        Args:
            messages: the messages.
            tools: the functions that the assistant may call.
            prompt: whether to add what announces a message of the assistant.
        """
        return list(self._apply(messages, tools, add_generation_prompt=prompt)["input_ids"])

    def _apply(self, messages: Messages, tools: Messages, **options: Any) -> Mapping[str, Any]:
        """Apply the template.

        Raises:
            RowError: The template or the tokenizer does not support the messages.
        """
        arguments = {**self.variables, "tools": [*tools] or None, "chat_template": self._template, **options}
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                [dict(message) for message in messages], tokenize=True, return_dict=True, **arguments
            )
        except Exception as error:  # templates raise errors of any class, and the tokenizers library plain Exceptions
            raise RowError(FIELD, f"the chat template does not support them: {summarize_error(error)}") from error

    @cached_property
    def _special_ids(self) -> set[int]:
        """The ids of special tokens, and of others that are no part of ordinary texts."""
        return {*self.tokenizer.get_added_vocab().values(), *self.tokenizer.all_special_ids}

    def _find_end(self, ids: Sequence[int]) -> int | None:
        """Return the position of the token that ends a conversation; None if an ordinary token does."""
        for position in reversed(range(len(ids))):
            if ids[position] in self._special_ids:
                return position
            if str(self.tokenizer.decode([ids[position]])).strip():
                return None
        return None

    def _check_end(self, whole: Sequence[int], target: Sequence[int], spans: Sequence[Sequence[int]]) -> None:
        """Check that the last message has an end that is trained on.

        Args:
            whole: token ids of the conversation.
            target: those of the last message.
            spans: what is trained on.
        """
        end = self._find_end(whole)
        if end is None or end < len(whole) - len(target) or whole[end] not in self.stop_ids:
            raise RowError(
                FIELD,
                f"the chat template ends the last message with {self.tokenizer.decode(list(target[-3:]))!r}, where a "
                "model would not stop; set objective.chat_template to one that ends it with a special token",
            )
        if not any(first <= end < last for first, last in spans):
            token = self.tokenizer.convert_ids_to_tokens(whole[end])
            raise RowError(
                FIELD,
                f"the end of the last message, {token!r}, is not among the marked tokens, so the model would not learn "
                "to stop; put it before {% endgeneration %} in objective.chat_template, or set objective.train_on to "
                "completion",
            )

    def _check_texts(self, messages: Messages, tools: Messages) -> None:
        """Check that nothing contains a special token as text, which the model would read as the token."""
        parts = {**{f"message {number}": each for number, each in enumerate(messages, 1)}, "a function": tools}
        for part, value in parts.items():
            for text in texts_within(value):
                if match := self._special_texts.search(text):
                    raise RowError(FIELD, f"{part} contains the special token {match[0]!r} as text; remove it")

    @cached_property
    def _special_texts(self) -> re.Pattern[str]:
        """Matches the special tokens that a text may contain."""
        tokens = {each.content for each in self.tokenizer.added_tokens_decoder.values() if each.special}
        tokens |= {str(self.tokenizer.convert_ids_to_tokens(i)) for i in self.stop_ids} | {
            *self.tokenizer.all_special_tokens
        }
        return re.compile("|".join(sorted(map(re.escape, tokens), key=len, reverse=True)))

    def _check_reasoning(self, messages: Messages, tools: Messages) -> None:
        """Check that the template writes the reasoning of the last message, which templates leave out of earlier ones.

        Raises:
            RowError: It does not.
        """
        thoughts = reasoning_of(messages[-1])
        text = self._write(messages, tools) if thoughts else ""
        if any(thought not in text for thought in thoughts):
            raise RowError(
                FIELD,
                "the chat template leaves out the reasoning of the last message, so it would not be trained on; set "
                "objective.chat_template to one that writes it, or remove it from the data",
            )

    def _write(self, messages: Messages, tools: Messages) -> str:
        """Return messages as a text."""
        options: dict[str, Any] = {"tools": [*tools] or None, "chat_template": self._template, **self.variables}
        return str(self.tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, **options))

    def _check_calls(self, messages: Messages, tools: Messages) -> None:
        """Check that the template writes the functions and their calls, since some templates leave them out."""
        called = [
            call.get("function", call).get("name") for message in messages for call in message.get("tool_calls") or ()
        ]
        offered = [tool.get("function", tool).get("name") for tool in tools]
        if not called and not offered:
            return
        text = self._write(messages, tools)
        for what, names in (("call of the function", called), ("function", offered)):
            if missing := next((name for name in names if name and str(name) not in text), None):
                raise RowError(
                    FIELD,
                    f"the chat template does not write the {what} {missing!r}; set objective.chat_template to one that "
                    "supports tools, or leave them out",
                )

    def _check_lengths(self, prompt: Sequence[int], target: Sequence[int]) -> None:
        """Check ids and lengths; a conversation that is cut would lose its beginning or its end."""
        if problem := describe_ids_without_embedding([*prompt, *target], self.num_embeddings, self.tokenizer):
            raise RowError(FIELD, problem)
        names = ("the prompt", "the last message"), ("train.max_source_length", "train.max_target_length")
        for ids, part, option, most in zip((prompt, target), *names, self.max_lengths, strict=True):
            if len(ids) > most:
                raise LengthError(
                    FIELD, f"{part} has {len(ids)} tokens, but {option} is {most}; conversations are not cut"
                )

    def _describe_difference(self, whole: Sequence[int], prompt: Sequence[int]) -> str:
        """Describe that the prompt of an answer is not how the conversation starts."""
        common = next((i for i, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b), len(whole))
        rest = self.tokenizer.decode(list(prompt[common : common + 10]))
        other = self.tokenizer.decode(list(whole[common : common + 10]))
        return (
            f"the chat template ends the prompt of the last message with {rest!r}, where the whole conversation has "
            f"{other!r}, so the model would be trained on another text than it is asked; set "
            "objective.chat_template to one that writes both in the same way, or objective.chat_template_kwargs"
        )


def _marked_spans(marks: Sequence[int]) -> Iterator[list[int]]:
    """Yield the start and end of each run of marked tokens."""
    position = 0
    for marked, run in itertools.groupby(marks):
        start, position = position, position + len([*run])
        if marked:
            yield [start, position]


def _starts_with(ids: Sequence[int], start: Sequence[int]) -> bool:
    return list(ids[: len(start)]) == list(start)
