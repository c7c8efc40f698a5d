"""Suites of worked answers and of verifiable instructions: GSM8K, MATH-500 and IFEval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from peftkit.answer_texts.verifiable_instructions import INSTRUCTIONS, INSTRUCTIONS_KEY, check_instruction
from peftkit.components import Example
from peftkit.components.types import Conversation
from peftkit.errors import RowError, did_you_mean
from peftkit.tasks.chat import Chat
from peftkit.tasks.columns import get_value, short_repr
from peftkit.tasks.hub_suites.hub_task import HubSet, HubSuite
from peftkit.tasks.text_tasks.text_generation import TextGeneration

IDS, KWARGS = "instruction_id_list", "kwargs"


class WorkedAnswers(TextGeneration):
    """Questions and answers that explain their result."""

    metrics: ClassVar[tuple[str, ...]] = ("extracted_match",)
    selection_metric: ClassVar[str] = "extracted_match"


class InstructedText(TextGeneration):
    """Prompts with instructions whose following a program can verify; there are no answers."""

    metrics: ClassVar[tuple[str, ...]] = ("instruction_following",)
    selection_metric: ClassVar[str] = "prompt_strict"
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ()

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "source_column", self.source_column
        if self.group_column:
            yield "group_column", self.group_column

    def text_columns(self) -> list[str]:
        return self.required_columns({})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → an empty text, with the instructions.

        Raises:
            RowError: The prompt is empty, or an instruction is unknown.
        """
        return replace(self.make_prompt(row), has_answer=False, extra={INSTRUCTIONS_KEY: read_instructions(row)})


class InstructedChat(Chat):
    """The same prompts as messages of a user."""

    metrics: ClassVar[tuple[str, ...]] = InstructedText.metrics
    selection_metric: ClassVar[str] = InstructedText.selection_metric

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The message → an empty answer, with the instructions.

        Raises:
            RowError: The prompt is empty, or an instruction is unknown.
        """
        prompt = self.make_prompt(row)
        assert prompt.conversation is not None  # noqa: S101
        messages = prompt.conversation.messages
        conversation = Conversation((*messages, {"role": "assistant", "content": ""}), (), len(messages))
        extra = {INSTRUCTIONS_KEY: read_instructions(row)}
        return replace(prompt, conversation=conversation, has_answer=False, extra=extra)


def read_instructions(row: Mapping[str, Any]) -> str:
    """Returns the instructions of a row of IFEval as JSON.

    Args:
        row: The row.

    Raises:
        RowError: An instruction is unknown, or its arguments are missing.
    """
    names, arguments = get_value(row, IDS), get_value(row, KWARGS)
    if not isinstance(names, list) or not names:
        raise RowError(IDS, f"must be a list of instructions, not {short_repr(names)}")
    if not isinstance(arguments, list) or len(arguments) != len(names):
        raise RowError(KWARGS, f"must be a list with a table for each of the {len(names)} instructions")
    instructions = []
    for name, table in zip(names, arguments, strict=True):
        if name not in INSTRUCTIONS:
            raise RowError(IDS, f"unknown instruction {name!r}{did_you_mean(str(name), INSTRUCTIONS)}")
        given = {key: value for key, value in dict(table or {}).items() if value not in (None, [], "")}
        if problem := check_instruction(name, given):
            raise RowError(KWARGS, f"{name}: {problem}")
        instructions.append({"name": name, "kwargs": given})
    return json.dumps(instructions, ensure_ascii=False)


GSM8K = HubSuite(
    name="gsm8k",
    summary="Word problem of grade-school mathematics → worked answer",
    paper="GSM8K, Cobbe et al., 2021",
    licence="MIT",
    note="Test is the published one, and 5 % of the training rows are dev.",
    sets={
        "": HubSet(
            base=WorkedAnswers,
            path="openai/gsm8k",
            options={
                **{"config": "main", "source_column": "question", "target_column": "answer", "dev_fraction": 0.05},
            },
            template="Question: {source}\nAnswer:",
            metric="extracted_match",
            sizes={"train": 7473, "test": 1319},
        )
    },
)
MATH_500 = HubSuite(
    name="math500",
    summary="Competition problem → worked answer with its result in a box",
    paper="MATH, Hendrycks et al., 2021, and Lightman et al., 2023",
    licence="MIT",
    note="The 500 problems are an evaluation set (``[[evaluate.set]]``) of a task that is trained on other rows. "
    "Answers are compared by math-verify (``peftkit[math]``).",
    sets={
        "": HubSet(
            base=WorkedAnswers,
            path="HuggingFaceH4/MATH-500",
            options={"source_column": "problem", "target_column": "solution"},
            template="Question: {source}\nAnswer:",
            metric="extracted_match",
            metric_options={"extracted_match": {"extract": ["boxed", "answer_is"], "equality": "symbolic"}},
            sizes={"test": 500},
            evaluation_only=True,
        )
    },
)


def _ifeval(base: type[TextGeneration] | type[Chat], **options: Any) -> HubSet:
    return HubSet(
        base=base,
        path="google/IFEval",
        options={"test_split": "train", **options},
        metric="prompt_strict",
        sizes={"train": 541},
        evaluation_only=True,
    )


IFEVAL = HubSuite(
    name="ifeval",
    summary="Prompt with instructions that a program can verify → text that follows them",
    paper="IFEval, Zhou et al., 2023",
    licence="Apache 2.0",
    note="The 541 prompts are an evaluation set (``[[evaluate.set]]``): ``prompt`` of tasks that generate text, and "
    "``chat``, the default, of chat tasks. They have no answers, so the loss is that of an empty text.",
    sets={
        "chat": _ifeval(InstructedChat, prompt_column="prompt"),
        "prompt": _ifeval(InstructedText, source_column="prompt"),
    },
)

REASONING_SUITES = (GSM8K, MATH_500, IFEVAL)
