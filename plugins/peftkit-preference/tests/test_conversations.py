"""Preferences in lists of messages, in all forms of trl, are what the chat template writes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftkit import InputError, RowError
from peftkit.models.load_base_model import load_base
from peftkit.run_directory import RunDirectory
from peftkit.testing import check_task
from peftkit_preference import Dpo, Kto, PreferencePairs, SimPo, UnpairedPreference

from .conftest import make_pairs, method, write_lines

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
    "{{ 'assistant:' if add_generation_prompt }}"
)
USER = {"role": "user", "content": "What colour is the sky?"}
CHOSEN, REJECTED = ({"role": "assistant", "content": f"It is {colour}."} for colour in ("blue", "green"))
EXPLICIT = {"prompt": [USER], "chosen": [CHOSEN], "rejected": [REJECTED]}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "explicit": ({}, EXPLICIT),
    "implicit": ({"implicit_prompt": True}, {"chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}),
    "repeated": ({}, {"prompt": [USER], "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}),
    "prompt as text": ({}, {"prompt": USER["content"], "chosen": [USER, CHOSEN], "rejected": [USER, REJECTED]}),
    "json": ({}, {key: json.dumps(value) for key, value in EXPLICIT.items()}),
    "sharegpt": (
        {"implicit_prompt": True},
        {
            key: [{"from": "human", "value": USER["content"]}, {"from": "gpt", "value": message["content"]}]
            for key, message in (("chosen", CHOSEN), ("rejected", REJECTED))
        },
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_example(form: str) -> None:
    options, row = FORMS[form]
    task = PreferencePairs(path="x", **options)
    example = task.to_example(row)
    assert example.source == "user: What colour is the sky?"
    assert example.target == "It is blue."
    assert sorted(example.candidates) == ["It is blue.", "It is green."]
    assert example.conversation is not None
    assert example.conversation.messages == (USER,)
    assert task.to_prompt(row).candidates == example.candidates
    assert example == PreferencePairs(path="x").to_example(EXPLICIT)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"chosen": [REJECTED]}, "chosen: is the same as"),
        ({}, {"chosen": [CHOSEN, USER]}, "chosen: must be one message of the assistant .* there are: assistant, user"),
        ({}, {"chosen": [USER]}, "chosen: must be one message .* there are: none"),
        ({"implicit_prompt": True}, {}, "chosen: has no message in common with 'rejected'"),
        ({}, {"chosen": [{"role": "robot", "content": "x"}]}, "chosen: message 1 has the unknown role 'robot'"),
        ({"prompt": "Say {prompt}"}, {}, "prompt: has no effect on lists of messages"),
        ({}, {"tools": [{"name": "f"}]}, "tools: functions to call are not supported"),
        ({}, {"rejected": "It is green."}, "rejected: must be a list of messages, as in 'chosen', not"),
    ],
)
def test_other_messages_are_refused(options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        PreferencePairs(path="x", **options).to_example({**EXPLICIT, **changes})


def test_a_text_that_looks_like_a_list_is_a_text() -> None:
    row = {"prompt": "JSON?", "chosen": '[{"a": 1}]', "rejected": "[{"}
    assert PreferencePairs(path="x").to_example(row).target == '[{"a": 1}]'


def test_unpaired_completions_are_messages_too() -> None:
    row = {"prompt": [USER], "completion": [CHOSEN], "label": True}
    task = UnpairedPreference(path="x")
    example = task.to_example(row)
    assert example.source_pair == ("user: What colour is the sky?", "It is blue.")
    assert example.conversation is not None
    assert example.conversation.messages == (USER,)
    assert task.to_example({**row, "completion": "It is blue."}) == example


def conversations(folder: Path) -> PreferencePairs:
    """The rows of the other tests, as lists of messages."""
    for split, number in (("train", 24), ("dev", 12), ("test", 12)):
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
            }
            for row in make_pairs(number, split)
        ]
        write_lines(folder / f"{split}.jsonl", rows)
    return PreferencePairs(path={split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")})


def test_the_chat_template_writes_prompts_and_completions(tmp_path: Path, make: Callable[..., Any]) -> None:
    task = conversations(tmp_path)
    check_task(task)
    objective = Dpo(chat_template=TEMPLATE)
    base = load_base(make(method("lora"), "llama", objective, task)("x"))
    example = task.to_example(task.load()["train"][0])
    [row] = objective.tokenize([example], base.objective.context, training=True)
    for candidate, ids in zip(example.candidates, row["candidates"], strict=True):
        messages = [*(example.conversation or ()).messages, {"role": "assistant", "content": candidate}]  # type: ignore[union-attr]
        whole = base.family.tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, return_dict=True)
        assert [*row["source"], *ids] == list(whole["input_ids"])
    assert row["answer"] == example.candidates.index(example.target)
    context = base.objective.context
    with pytest.raises(InputError, match="chat_template: the tokenizer has no chat template"):
        SimPo().tokenize([example], context, training=True)
    text = PreferencePairs(path="x").to_example({"prompt": "a", "chosen": "b", "rejected": "c"})
    with pytest.raises(InputError, match="chat_template: has no effect, because rows have no lists of messages"):
        objective.tokenize([text], context, training=True)
    with pytest.raises(RowError, match="is a text, but other rows have lists of messages"):
        objective.tokenize([example, text], context, training=True)


def test_models_without_chat_template_are_refused(tmp_path: Path, make: Callable[..., Any]) -> None:
    task, objective = conversations(tmp_path), SimPo(chat_template=TEMPLATE)
    base = load_base(make(method("lora"), "t5", objective, task)("x"))
    example = task.to_example(task.load()["train"][0])
    with pytest.raises(InputError, match="lists of messages, which need a decoder with a chat template"):
        objective.tokenize([example], base.objective.context, training=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [Dpo(chat_template=TEMPLATE), SimPo(chat_template=TEMPLATE)], ids=lambda o: o.name
)
def test_runs_on_conversations(objective: Any, tmp_path: Path, make: Callable[..., Any], train: Any) -> None:
    task = conversations(tmp_path)
    run: RunDirectory = train(make(method("lora"), "llama", objective, task)("x"), objective, task)
    assert 0 <= run.summary()["selected"]["test"]["reward_accuracy"] <= 1


@pytest.mark.slow
def test_kto_runs_on_conversations(tmp_path: Path, make: Callable[..., Any], train: Any) -> None:
    for split in ("train", "dev", "test"):
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["chosen" if i % 2 else "rejected"]}],
                "label": bool(i % 2),
            }
            for i, row in enumerate(make_pairs(12, split))
        ]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    task = UnpairedPreference(path={split: str(tmp_path / f"{split}.jsonl") for split in ("train", "dev", "test")})
    objective = Kto(chat_template=TEMPLATE)
    run: RunDirectory = train(make(method("lora"), "llama", objective, task)("x"), objective, task)
    assert torch.isfinite(torch.tensor(run.summary()["selected"]["test"]["loss"]))
