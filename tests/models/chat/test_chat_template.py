"""Chat templates: token ids, and which of them are trained on, held against TRL's over its templates."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.components import Example
from peftkit.components.types import Conversation, TokenizedRow, TrainOn
from peftkit.errors import InputError, RowError
from peftkit.models.chat.chat_template import ConversationTemplate
from peftkit.testing.tokenizers import TOKENIZER_CASES, tokenizer
from tests.models.chat.odd_conversations import CASES
from tests.models.conftest import TEXTS

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8") for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")
}
TRAINING = sorted(name for name in TEMPLATES if name.endswith("_training") and name != "llava_next_training")
"""Those that mark what the assistant says; LLaVA's reads no texts without an image."""
CONTROL = re.compile(r"<\|[^|<>\s]+\|?>|<[a-z_]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_(?:turn|utterance)>|\[/?[A-Z_]+\]")
"""What templates write as special tokens."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL_ONLY = (
    "{% for m in messages %}{{ '[SEP]' if m.role == 'assistant' else '[CLS]' }}{{ m.content }}<|im_end|>{% endfor %}"
    "{{ '[SEP]' if add_generation_prompt }}"
)
"""A template for any vocabulary."""
ASKED = {"role": "user", "content": "what is the robin?"}
ANSWERED = {"role": "assistant", "content": "a good bird"}
MORE = {"role": "user", "content": "and the granite?"}
LAST = {"role": "assistant", "content": "a stone"}
CONTENT_AND_CALLS = (
    "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}"
    "{{ m.tool_calls[0].function.arguments | tojson }}{% endif %}"
)
CONVERSATIONS = {"one answer": [ASKED, ANSWERED], "two answers": [ASKED, ANSWERED, MORE, LAST]}


@cache
def tokenizer_for(template: str) -> Any:
    copied = copy.deepcopy(tokenizer("byte-level", "none"))
    copied.add_special_tokens(
        {"additional_special_tokens": sorted({*CONTROL.findall(template), "<|im_start|>", "<|im_end|>"})}
    )
    copied.bos_token = copied.bos_token or copied.eos_token
    return copied


def template_of(
    text: str, variables: dict[str, Any] | None = None, limits: tuple[int, int] = (9999, 9999)
) -> ConversationTemplate:
    return ConversationTemplate(tokenizer_for(text), text, variables or {}, limits, None)


def tokenize(
    template: ConversationTemplate, messages: list[dict[str, Any]], train_on: TrainOn = "assistant", **other: Any
) -> TokenizedRow:
    (row,) = template.tokenize([Example("", "", conversation=Conversation(tuple(messages), **other))], train_on)
    return row


def tokenize_or_refuse(template: ConversationTemplate, messages: list[dict[str, Any]]) -> TokenizedRow | str:
    """The row, or why there is none."""
    try:
        return tokenize(template, messages)
    except (InputError, RowError) as error:
        return str(error)


def trained_texts(template: ConversationTemplate, row: TokenizedRow) -> list[str]:
    ids = row["source"] + row["candidates"][0]
    return [template.tokenizer.decode(ids[start:end]) for start, end in row["trained_spans"]]


def mask(row: TokenizedRow) -> list[int]:
    trained = {i for start, end in row["trained_spans"] for i in range(start, end)}
    return [int(i in trained) for i in range(len(row["source"]) + len(row["candidates"][0]))]


def reference(template: ConversationTemplate, messages: list[dict[str, Any]], text: str) -> Any:
    """What TRL's trainer trains on: the tokens that a training template marks."""
    options: dict[str, Any] = {"return_assistant_tokens_mask": True, "return_dict": True, **template.variables}
    return template.tokenizer.apply_chat_template(messages, chat_template=text, tokenize=True, **options)


def variables_for(name: str) -> dict[str, Any]:
    """Variables with which templates of models that think start no thought."""
    return {} if name.startswith("deepseek_r1") else {"enable_thinking": False, "thinking": False}


def starts_as_asked(template: ConversationTemplate, messages: list[dict[str, Any]]) -> bool:
    """Whether a whole conversation starts with the prompt that its last message answers."""
    options: dict[str, Any] = {"chat_template": template.template, "return_dict": True, **template.variables}
    prompt = template.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)["input_ids"]
    return bool(template.tokenizer.apply_chat_template(messages, **options)["input_ids"][: len(prompt)] == prompt)


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TRAINING)
def test_marked_tokens_are_those_of_trl(name: str, messages: list[dict[str, Any]]) -> None:
    template = template_of(TEMPLATES[name], variables_for(name))
    expected = reference(template, messages, TEMPLATES[name])
    if not starts_as_asked(template, messages):
        with pytest.raises(RowError, match="trained on another text than it is asked"):
            tokenize(template, messages)
        return
    row = tokenize(template, messages)
    assert row["source"] + row["candidates"][0] == expected["input_ids"]
    assert mask(row) == expected["assistant_masks"]


def test_few_templates_of_trl_are_refused() -> None:
    refused = {
        n for n in TRAINING if not starts_as_asked(template_of(TEMPLATES[n], variables_for(n)), [ASKED, ANSWERED])
    }
    assert refused == {"deepseek_r1_distill_training", "deepseekv3_training"}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TRAINING)
def test_without_marks_the_same_answers_are_trained_on(name: str, messages: list[dict[str, Any]]) -> None:
    template = template_of(TEMPLATES[name.removesuffix("_training")], variables_for(name))
    expected = reference(template, messages, TEMPLATES[name])
    row = tokenize_or_refuse(template, messages)
    if isinstance(row, str):
        assert re.search("another way if others follow|another text than it is asked|puts no special token after", row)
        return
    if row["source"] + row["candidates"][0] == expected["input_ids"]:
        actual, start = mask(row), len(row["source"])
        assert actual[start:] == expected["assistant_masks"][start:]
        # TRL's marks may include what the prompt of an answer ends with, such as an empty thought.
        assert all(marked for trained, marked in zip(actual, expected["assistant_masks"], strict=True) if trained)


def test_most_templates_need_no_marks() -> None:
    names = {name.removesuffix("_training") for name in TRAINING}
    compared = [n for n in names if starts_as_asked(template_of(TEMPLATES[n], variables_for(n)), [ASKED, ANSWERED])]
    assert len(compared) > 0.9 * len(names)


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", ["a good bird<|im_end|>\n", "a stone<|im_end|>\n"]),
        ("last_assistant", ["a stone<|im_end|>\n"]),
        ("completion", ["a stone<|im_end|>\n"]),
    ],
)
def test_what_is_trained_on(train_on: TrainOn, expected: list[str]) -> None:
    template = template_of(CHATML)
    row = tokenize(template, CONVERSATIONS["two answers"], train_on)
    assert trained_texts(template, row) == expected
    assert template.tokenizer.decode(row["candidates"][0]) == "a stone<|im_end|>\n"
    assert template.tokenizer.decode(row["source"]).endswith("<|im_start|>assistant\n")


def test_all_is_everything_that_something_precedes() -> None:
    row = tokenize(template_of(CHATML), CONVERSATIONS["two answers"], "all")
    assert row["trained_spans"] == [[1, row["length"]]]


def test_a_completion_of_several_messages_is_trained_on_from_its_first_one() -> None:
    template = template_of(CHATML)
    row = tokenize(template, CONVERSATIONS["two answers"], "completion", prompt_messages=1)
    (text,) = trained_texts(template, row)
    assert text.startswith("a good bird<|im_end|>\n<|im_start|>user")
    assert text.endswith("a stone<|im_end|>\n")


def test_a_prompt_has_no_target_and_nothing_to_train_on() -> None:
    row = tokenize(template_of(CHATML), [ASKED])
    assert (row["candidates"], row["trained_spans"]) == ([[]], [])
    assert row["source"] == tokenize(template_of(CHATML), [ASKED, ANSWERED])["source"]


def test_the_end_of_the_template_stops() -> None:
    template = template_of(CHATML)
    assert template.tokenizer.convert_ids_to_tokens(list(template.stop_ids)) == ["<|im_end|>", "</s>"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", InputError, "no special token after"),
        (
            CHATML.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"),
            RowError,
            "'<|im_end|>', is not among the marked tokens",
        ),
        (CHATML.replace("{% for", "{{ raise_exception('no') }}{% for"), InputError, "cannot be applied to a question"),
        (CHATML + "<|im_start|>{{ messages|length }}<|im_end|>", RowError, "another text than it is asked"),
    ],
)
def test_templates_that_cannot_be_trained_on_are_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        tokenize(template_of(text), [ASKED, ANSWERED])


def test_earlier_answers_that_are_written_in_another_way_are_refused() -> None:
    text = CHATML.replace(
        "{{ m.content }}", "{% if loop.last and m.role == 'assistant' %}final: {% endif %}{{ m.content }}"
    )
    with pytest.raises(RowError, match="the first 2 messages in another way if others follow"):
        tokenize(template_of(text), CONVERSATIONS["two answers"])
    template = template_of(text)
    row = tokenize(template, CONVERSATIONS["two answers"], "last_assistant")
    assert trained_texts(template, row) == ["final: a stone<|im_end|>\n"]
    assert template.answer_start == "final:"


@pytest.mark.parametrize("index", [0, 1])
def test_special_tokens_as_text_are_refused(index: int) -> None:
    messages = [dict(ASKED), dict(ANSWERED)]
    messages[index]["content"] += "<|im_end|>"
    with pytest.raises(
        RowError, match=f"message {index + 1} contains the special token '<|im_end|>'".replace("|", r"\|")
    ):
        tokenize(template_of(CHATML), messages)


def test_conversations_that_do_not_fit_are_refused_and_not_cut() -> None:
    length = len(tokenize(template_of(CHATML), [ASKED, ANSWERED])["source"])
    with pytest.raises(RowError, match=f"the prompt has {length} tokens, but train.max_source_length is {length - 1}"):
        tokenize(template_of(CHATML, limits=(length - 1, 99)), [ASKED, ANSWERED])
    with pytest.raises(RowError, match=r"the last message has \d+ tokens, but train.max_target_length is 2"):
        tokenize(template_of(CHATML, limits=(length, 2)), [ASKED, ANSWERED])


def test_a_tokenizer_without_template_is_refused_with_the_remedy() -> None:
    template = ConversationTemplate(tokenizer("byte-level", "none"), "", {}, (99, 99), None)
    with pytest.raises(InputError, match=r"objective\.chat_template: the tokenizer has no chat template"):
        tokenize(template, [ASKED, ANSWERED])


def test_a_template_that_the_tokenizer_has_no_tokens_for_is_refused() -> None:
    template = ConversationTemplate(tokenizer("words", "none"), CHATML, {}, (99, 99), None)
    with pytest.raises(InputError, match=r"objective\.chat_template: the tokenizer has no tokens for a part of it"):
        tokenize(template, [ASKED, ANSWERED])


def test_an_unknown_token_may_be_the_end_of_text() -> None:
    """As that of GPT-2."""
    copied = copy.deepcopy(tokenizer("byte-level", "none"))
    copied.unk_token = copied.eos_token
    template = ConversationTemplate(copied, CHATML.replace("<|im_end|>", "</s>"), {}, (99, 99), None)
    assert tokenize(template, [ASKED, ANSWERED])["candidates"][0]


def test_a_template_that_fails_is_refused_with_its_error() -> None:
    with pytest.raises(InputError, match=r"cannot be applied to a question and an answer: .* has no attribute"):
        tokenize(template_of("{{ messages[0].nothing.x }}"), [ASKED, ANSWERED])


def test_a_template_that_leaves_out_functions_or_their_calls_is_refused() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look_up", "arguments": {}}}]}
    with pytest.raises(RowError, match="does not write the call of the function 'look_up'"):
        tokenize(template_of(CHATML), [ASKED, call])
    tool = {"type": "function", "function": {"name": "look_up"}}
    with pytest.raises(RowError, match="does not write the function 'look_up'"):
        tokenize(template_of(CHATML), [ASKED, ANSWERED], tools=(tool,))
    text = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML.replace("{{ m.content }}", CONTENT_AND_CALLS)
    assert tokenize(template_of(text), [ASKED, call], tools=(tool,))["candidates"][0]


def test_arguments_of_calls_are_written_as_json_once() -> None:
    text = CHATML.replace(
        "{{ m.content }}",
        CONTENT_AND_CALLS,
    )
    template = template_of(text)
    for arguments in ('{"city": "Rome"}', {"city": "Rome"}):
        call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        row = tokenize(template, [ASKED, call])
        assert template.tokenizer.decode(row["candidates"][0]) == 'f{"city": "Rome"}<|im_end|>\n'
    call["tool_calls"] = [{"function": {"name": "f", "arguments": "{city"}}]
    with pytest.raises(RowError, match="the arguments of a call are not JSON"):
        tokenize(template, [ASKED, call])


@pytest.mark.parametrize(("make", "scheme"), TOKENIZER_CASES, ids=[f"{m}/{t}" for m, t in TOKENIZER_CASES])
@settings(max_examples=15)
@given(contents=st.lists(TEXTS.filter(str.strip), min_size=2, max_size=5))
def test_every_tokenizer_trains_on_all_that_the_assistant_says(make: str, scheme: str, contents: list[str]) -> None:
    template = ConversationTemplate(tokenizer(make, scheme), CONTROL_ONLY, {}, (9999, 9999), None)
    roles = ["user", "assistant"] * 3
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents[: len(contents) // 2 * 2], strict=False)]
    row = tokenize_or_refuse(template, messages)
    if isinstance(row, str):
        assert re.search("contains the special token|another way if others follow|another text than", row)
        return
    ids = row["source"] + row["candidates"][0]
    options: dict[str, Any] = {"chat_template": CONTROL_ONLY, "return_dict": True}
    assert ids == template.tokenizer.apply_chat_template(messages, **options)["input_ids"]
    assert len(row["trained_spans"]) == len(messages) // 2
    end = template.stop_ids[0]
    for start, stop in row["trained_spans"]:
        assert ids[start:stop].count(end) == 1
        assert ids[:start].count(end) % 2 == 1  # after the user's message
    assert ids.count(template.tokenizer.bos_token_id) == 0


@pytest.mark.parametrize(("text", "messages", "train_on", "tools", "expected"), CASES)
def test_odd_conversations_are_trained_on_as_read_by_hand(
    text: str, messages: list[dict[str, Any]], train_on: TrainOn, tools: dict[str, Any], expected: list[str] | str
) -> None:
    template = template_of(text)
    if isinstance(expected, str):
        with pytest.raises(RowError, match=expected):
            tokenize(template, messages, train_on, **tools)
    else:
        assert trained_texts(template, tokenize(template, messages, train_on, **tools)) == expected
