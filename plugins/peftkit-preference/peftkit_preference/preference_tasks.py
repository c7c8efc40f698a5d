"""Preference data of the user's own, in the columns of trl."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from peftkit import DatasetTask, Example, RowError, TaskKind
from peftkit.components.types import Conversation, TaskMatch
from peftkit.tasks.chat import messages_as_text, read_messages
from peftkit.tasks.columns import get_nonblank_text, get_value, short_repr
from peftkit.tasks.sources.data_sample import DataSample
from peftkit_preference.conversations import find_messages, read_completion, read_prompt, split_messages

DESIRABLE, UNDESIRABLE = "desirable", "undesirable"
"""The labels of completions."""
PROMPT_NAMES = ("prompt", "instruction", "question", "query", "input")
CHOSEN_NAMES, REJECTED_NAMES = ("chosen", "preferred", "winner"), ("rejected", "dispreferred", "loser")
LABEL_NAMES = ("label", "desirable", "is_good")
COMPLETION_NAMES = ("completion", "response", "output", "answer")
LABELS: Mapping[str, bool] = {"true": True, "1": True, DESIRABLE: True, "false": False, "0": False, UNDESIRABLE: False}


class PreferencePairs(DatasetTask):
    """Prompt, chosen and rejected completion, on your own data.

    They are texts, or lists of messages with ``role`` and ``content``, which the chat template of a decoder writes.
    Prompt fields: ``{prompt}`` and any column. Blanks around completions are left out.
    """

    name: Literal["preference_pairs"] = "preference_pairs"

    prompt_column: str = "prompt"
    """Column of the prompt; dots select nested fields."""
    chosen_column: str = "chosen"
    """Column of the better completion."""
    rejected_column: str = "rejected"
    """Column of the worse completion."""
    implicit_prompt: bool = False
    """Whether both completions start with the prompt, for data without a column of it: the prompt is what they have in
    common, up to its last whole word, or message."""

    kind: ClassVar[TaskKind] = "preference"
    metrics: ClassVar[tuple[str, ...]] = ("reward_accuracy", "reward_margin", "logps_accuracy")
    selection_metric: ClassVar[str] = "reward_accuracy"
    required_fields: ClassVar[tuple[str, ...]] = ("prompt",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("chosen_column", "rejected_column")

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognize a chosen and a rejected completion, with a prompt or with what they have in common."""
        chosen, rejected, prompt = (
            sample.find(names, "is_text") or sample.find(names, "is_list")
            for names in (CHOSEN_NAMES, REJECTED_NAMES, PROMPT_NAMES)
        )
        if not chosen or not rejected:
            return
        options: dict[str, Any] = {"chosen_column": chosen, "rejected_column": rejected}
        options |= {"prompt_column": prompt} if prompt else {"implicit_prompt": True}
        reason = f"{chosen!r} has what is better than {rejected!r}"
        yield TaskMatch(0.95, options, reason, objective="dpo")

    @model_validator(mode="after")
    def _check_implicit_prompt(self) -> PreferencePairs:
        if self.implicit_prompt and self._is_changed("prompt_column"):
            raise ValueError("prompt_column: has no effect, because implicit_prompt is set; remove it")
        return self

    def prompt_template(self) -> str:
        """Return the prompt template."""
        return self.prompt or "{prompt}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        """Yield the options with columns."""
        if not self.implicit_prompt:
            yield "prompt_column", self.prompt_column
        yield "chosen_column", self.chosen_column
        yield "rejected_column", self.rejected_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        """Return the column of the prompt."""
        return {"prompt": self.prompt_column}

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        """Return the columns of the prompt and of both completions."""
        shown = super().required_columns(row)
        if self.implicit_prompt and self.prompt_column in shown:
            shown.remove(self.prompt_column)
        return list(dict.fromkeys([*shown, self.chosen_column, self.rejected_column]))

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        """Convert a row to an example; the order of its completions says nothing about which is better."""
        if find_messages(row, self.chosen_column):
            return self._conversation(row)[0]
        prompt, chosen, rejected = self._texts(row)
        source, span = self.render_prompt(row, **({"prompt": prompt} if self.implicit_prompt else {}))
        candidates = tuple(sorted((chosen, rejected), key=lambda text: _digest(source, text)))
        return Example(source, candidates[0], candidates, truncatable_span=span, group=self.group_of(row) or source)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the chosen completion, one of two.

        Raises:
            RowError: A field is missing or empty, or both completions are the same.
        """
        if find_messages(row, self.chosen_column):
            prompt, chosen = self._conversation(row)
            return replace(prompt, target=chosen)
        return replace(self.make_prompt(row), target=self._texts(row)[1])

    def _conversation(self, row: Mapping[str, Any]) -> tuple[Example, str]:
        """Return the example of lists of messages without its answer, and the chosen completion."""
        _check_no_prompt(self.prompt)
        columns = (self.prompt_column, self.chosen_column, self.rejected_column)
        values = (get_value(row, self.chosen_column), get_value(row, self.rejected_column))
        explicit = None if self.implicit_prompt else find_messages(row, self.prompt_column)
        messages, chosen, rejected = split_messages(row, explicit, columns, values)
        if chosen == rejected:
            raise RowError(self.chosen_column, f"is the same as {self.rejected_column!r}: {short_repr(chosen)}")
        source = messages_as_text(messages)
        candidates = tuple(sorted((chosen, rejected), key=lambda text: _digest(source, text)))
        conversation = Conversation(tuple(messages), (), len(messages))
        group = self.group_of(row) or source
        return Example(source, candidates[0], candidates, conversation=conversation, group=group), chosen

    def _texts(self, row: Mapping[str, Any]) -> tuple[str, str, str]:
        """Return the implicit prompt, if there is one, and the completions."""
        chosen, rejected = get_nonblank_text(row, self.chosen_column), get_nonblank_text(row, self.rejected_column)
        if chosen.strip() == rejected.strip():
            raise RowError(self.chosen_column, f"is the same as {self.rejected_column!r}: {short_repr(chosen)}")
        if not self.implicit_prompt:
            return "", chosen.strip(), rejected.strip()
        start = _common_words(chosen, rejected)
        prompt, chosen, rejected = chosen[:start].strip(), chosen[start:].strip(), rejected[start:].strip()
        if not prompt:
            raise RowError(self.chosen_column, f"does not start with the same words as {self.rejected_column!r}")
        return prompt, chosen, rejected


class UnpairedPreference(DatasetTask):
    """Prompt, completion, and whether it is desirable, on your own data.

    They are texts, or lists of messages with ``role`` and ``content``, which the chat template of a decoder writes.
    Prompt fields: ``{prompt}`` and any column. Blanks around completions are left out.
    """

    name: Literal["unpaired_preference"] = "unpaired_preference"

    prompt_column: str = "prompt"
    """Column of the prompt; dots select nested fields."""
    completion_column: str = "completion"
    """Column of the completion."""
    label_column: str = "label"
    """Column that says whether the completion is desirable: true or false, 1 or 0, `desirable` or `undesirable`."""

    kind: ClassVar[TaskKind] = "unpaired_preference"
    metrics: ClassVar[tuple[str, ...]] = ("reward_auc", "reward_accuracy")
    selection_metric: ClassVar[str] = "reward_auc"
    required_fields: ClassVar[tuple[str, ...]] = ("prompt",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("completion_column", "label_column")

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognize prompts and completions with labels that are true or false."""
        prompt, completion = (
            sample.find(names, "is_text") or sample.find(names, "is_list") for names in (PROMPT_NAMES, COMPLETION_NAMES)
        )
        label = sample.find(LABEL_NAMES, "is_scalar")
        if not prompt or not completion or not label or prompt == completion:
            return
        if not {str(value).strip().lower() for value in sample.columns[label].values} <= LABELS.keys():
            return
        options = {"prompt_column": prompt, "completion_column": completion, "label_column": label}
        yield TaskMatch(0.92, options, f"{label!r} says whether {completion!r} is desirable")

    def prompt_template(self) -> str:
        """Return the prompt template."""
        return self.prompt or "{prompt}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        """Yield the options with columns."""
        yield "prompt_column", self.prompt_column
        yield "completion_column", self.completion_column
        yield "label_column", self.label_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        """Return the column of the prompt."""
        return {"prompt": self.prompt_column}

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        """Return the columns of the prompt and of the completion."""
        return list(dict.fromkeys([*super().required_columns(row), self.completion_column]))

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        """Convert a row to an example without its label."""
        conversation = None
        if find_messages(row, self.completion_column) or find_messages(row, self.prompt_column):
            _check_no_prompt(self.prompt)
            messages = read_prompt(row, get_value(row, self.prompt_column), self.prompt_column)
            given = read_messages(get_value(row, self.completion_column), self.completion_column, "assistant")
            completion = read_completion(given, self.completion_column)
            source, conversation = messages_as_text(messages), Conversation(tuple(messages), (), len(messages))
        else:
            source, _ = self.render_prompt(row)
            completion = get_nonblank_text(row, self.completion_column).strip()
        pair, group = (source, completion), self.group_of(row) or source
        return Example(f"{source} {completion}", "", source_pair=pair, conversation=conversation, group=group)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt and the completion → whether it is desirable.

        Raises:
            RowError: A field is missing or empty, or the label is neither true nor false.
        """
        value = get_value(row, self.label_column)
        word = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
        if word not in LABELS:
            reason = f"must be true or false, 1 or 0, {DESIRABLE!r} or {UNDESIRABLE!r}, not {short_repr(value)}"
            raise RowError(self.label_column, reason)
        return replace(self.make_prompt(row), target=DESIRABLE if LABELS[word] else UNDESIRABLE)


def _check_no_prompt(template: str | None) -> None:
    if template:
        raise RowError("prompt", "has no effect on lists of messages, which the chat template writes; leave it out")


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\x1f".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _common_words(first: str, second: str) -> int:
    """Return the length of the whole words that two texts start with, without those that one of them ends with."""
    texts = (first, second)
    common = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    for length in range(common, 0, -1):
        ends_word = first[length - 1].isspace() or all(text[length : length + 1].isspace() for text in texts)
        if ends_word and all(text[length:].strip() for text in texts):
            return length
    return 0
