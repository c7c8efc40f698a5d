"""Odd templates and conversations, with what is trained on, read by hand."""

from __future__ import annotations

from typing import Any

from peftkit.components.types import TrainOn

PROMPT = "{% if add_generation_prompt %}"
PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}" + PROMPT + "<|assistant|>{% endif %}"
)
LINES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + PROMPT
    + "<|im_start|>assistant\n{% endif %}"
)
TRIMMED = (
    "<|begin|>{% for m in messages %}<|header|>{{ m.role }}<|/header|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    + PROMPT
    + "<|header|>assistant<|/header|>\n\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'system' %}{{ raise_exception('no system messages') }}{% else %} {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
SYSTEM_FIRST = (
    "{% for m in messages if m.role == 'system' %}<|system|>{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    + PROMPT
    + "<|assistant|>{% endif %}"
)
COUNTED = "<|{{ messages | length }}|>" + PLAIN
FORGETS_THOUGHTS = LINES.replace(
    "{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip() }}"
)
DROPS_THOUGHTS = LINES.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].lstrip() }}")
WRITES_REASONING = LINES.replace("{{ m.content }}", "{{ m.reasoning_content or '' }}|{{ m.content }}")
STARTS_THOUGHT = LINES.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}" + PROMPT + "<|assistant|>{% endif %}"
)
FOOTER = PLAIN.replace("{% endif %}", "{% else %}<|bye|>{% endif %}")
TOOLS = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<|call|>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "<|end|>{% endfor %}" + PROMPT + "<|assistant|>{% endif %}"
)


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def bot(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def call(argument: str) -> dict[str, Any]:
    return bot("", tool_calls=[{"type": "function", "function": {"name": "look", "arguments": {"at": argument}}}])


TALK = [user("hi"), bot("yes"), user("why"), bot("so")]
THOUGHTS = [user("hi"), bot("<think>\na\n</think>\nyes"), user("why"), bot("<think>\nb\n</think>\nso")]
LOOK = {"tools": ({"type": "function", "function": {"name": "look", "parameters": {}}},)}
CALLED = ['<|call|>look {"at": "it"}<|end|>', "a tree<|end|>"]
RESULT = {"role": "tool", "content": "a tree"}


CASES: list[tuple[str, list[dict[str, Any]], TrainOn, dict[str, Any], list[str] | str]] = [
    (LINES, [system("be short"), *TALK], "assistant", {}, ["yes<|im_end|>\n", "so<|im_end|>\n"]),
    (LINES, [system("be short"), *TALK], "last_assistant", {}, ["so<|im_end|>\n"]),
    (LINES, [user("hi"), bot("yes"), bot("no")], "assistant", {}, ["yes<|im_end|>\n", "no<|im_end|>\n"]),
    (LINES, [*TALK[:2], system("be rude"), *TALK[2:]], "assistant", {}, ["yes<|im_end|>\n", "so<|im_end|>\n"]),
    (LINES, [user("hi"), bot(""), user("why"), bot("so")], "assistant", {}, ["<|im_end|>\n", "so<|im_end|>\n"]),
    (TRIMMED, [system(" x "), user("hi"), bot("  yes ")], "assistant", {}, ["yes<|eot|>"]),
    (BRACKETS, TALK, "assistant", {}, [" yes</s>", " so</s>"]),
    (BRACKETS, [system("x"), *TALK], "assistant", {}, "no system messages"),
    (SYSTEM_FIRST, [*TALK[:2], system("be rude"), *TALK[2:]], "assistant", {}, "in another way if others follow"),
    (SYSTEM_FIRST, [*TALK[:2], system("be rude"), *TALK[2:]], "last_assistant", {}, ["so<|end|>"]),
    (COUNTED, TALK, "assistant", {}, "another text than it is asked"),
    (FORGETS_THOUGHTS, THOUGHTS, "assistant", {}, "in another way if others follow"),
    (FORGETS_THOUGHTS, THOUGHTS, "last_assistant", {}, ["<think>\nb\n</think>\nso<|im_end|>\n"]),
    (DROPS_THOUGHTS, THOUGHTS, "last_assistant", {}, "leaves out the reasoning of the last message"),
    (LINES, [user("hi"), bot("yes", reasoning_content="it is")], "assistant", {}, "leaves out the reasoning"),
    (
        WRITES_REASONING,
        [user("hi"), bot("yes", reasoning_content="it is")],
        "assistant",
        {},
        ["it is|yes<|im_end|>\n"],
    ),
    (STARTS_THOUGHT, THOUGHTS[:2], "assistant", {}, ["a\n</think>\nyes<|im_end|>\n"]),
    (STARTS_THOUGHT, TALK[:2], "assistant", {}, "another text than it is asked"),
    (MARKED, TALK, "assistant", {}, ["yes<|end|>", "so<|end|>"]),
    (MARKED, TALK, "completion", {}, ["so<|end|>"]),
    (TOOLS, [user("hi"), call("it"), RESULT, bot("a tree")], "assistant", LOOK, CALLED),
    (TOOLS, [user("hi"), call("a<|end|>b"), RESULT, bot("x")], "assistant", LOOK, "message 2 contains the special"),
    (LINES, [user("hi", name="<|im_end|>"), bot("x")], "assistant", {}, "message 1 contains the special token"),
    (PLAIN, [user("hi"), bot("yes", weight=0), user("why"), bot("so", weight=1)], "assistant", {}, ["so<|end|>"]),
    (MARKED, [user("hi"), bot("yes", weight=0), user("why"), bot("so")], "assistant", {}, ["so<|end|>"]),
    (PLAIN, [user("hi"), bot("yes", weight=1), user("why"), bot("so", weight=0)], "assistant", {}, "has weight 0"),
    (PLAIN, [user("hi"), bot("yes", weight=0.5), user("why"), bot("so")], "assistant", {}, "weights are 0 or 1"),
    (FOOTER, TALK, "assistant", {}, "in another way if others follow"),
]
"""Templates, conversations, ``train_on`` and tools, with the texts that are trained on, or the words of the refusal."""
