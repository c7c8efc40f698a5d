"""Chat: conversations as a chat template writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from peftkit.components import Example, ModelKind, Objective, Prediction, Task
from peftkit.components.family_services import ChatTemplate
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import GENERATION_TAG, Row, TrainOn
from peftkit.errors import InputError
from peftkit.objectives.completions import count_unknown_targets, rewrite_texts, score_trained_tokens

if TYPE_CHECKING:
    from torch import nn

PLAIN_TEMPLATE = """\
{{- 'tools: ' + (tools | tojson) + '\\n' if tools }}
{%- for message in messages %}
{{- message.role }}: {{ message.content or '' }}
{{- message.tool_calls | tojson if message.tool_calls }}
{{- eos_token if message.role == 'assistant' }}{{ '\\n' }}
{%- endfor %}
{{- 'assistant:' if add_generation_prompt }}"""
"""A template for tokenizers without one; it needs no special token beside the end of text."""
WORDS_TEMPLATE = """\
{%- for message in messages %}
{{- message.role }}: {{ message.content }}{{ eos_token if message.role == 'assistant' else ' ' }}
{%- endfor %}
{{- 'assistant:' if add_generation_prompt }}"""
"""The same for tokenizers without line breaks and brackets, hence without tools."""
TEMPLATE_FILE = "chat_template.jinja"
"""The file that tokenizers of transformers read their chat template from."""


def _fits(template: str, context: ObjectiveContext) -> bool:
    """Return whether the tokenizer has tokens for what a template writes."""
    try:
        return bool(context.family.load_chat_template(template, {}).stop_ids)
    except InputError:
        return False


def _check_syntax(template: str) -> None:
    """Raise a ValueError if a template is not valid Jinja; transformers adds the tag that marks answers."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION_TAG.sub("", template))  # noqa: S701
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} of the template: {error.message}") from error


def read_template(template: str) -> str:
    """Return the text of a template, so that a run does not depend on a file that may change.

    Args:
        template: The template, or the path of a file with one; empty for that of the tokenizer.

    Raises:
        ValueError: There is no such file, or the template is invalid.
    """
    if not template:
        return template
    text = template
    if "{" not in template:
        try:
            text = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = "is neither a template, which has braces, nor a file that can be read"
            raise ValueError(f"{problem}: {error}") from error
        if "{" not in text:
            raise ValueError(f"the file {template!r} has no template")
    _check_syntax(text)
    return text


class ChatCompletion(Objective):
    """Conversations of a decoder: the assistant's messages are trained on, and its last one is generated."""

    name: Literal["chat_completion"] = "chat_completion"

    train_on: TrainOn = "assistant"
    """What is trained on: all messages of the `assistant`, its last one (`last_assistant`), what follows the prompt
    (`completion`), or `all` of the conversation."""
    chat_template: str = ""
    """Jinja template, or the path of a file with one; that of the tokenizer if empty."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the template, such as `{enable_thinking = false}`."""

    task_kind = "chat"
    scored_values = ("samples",)
    families: ClassVar[tuple[ModelKind, ...]] = ("decoder",)
    generates = True
    used_settings = ("max_new_tokens", "num_beams", "stop", "temperature")
    refuses_long_rows = True

    @field_validator("chat_template")
    @classmethod
    def _read_template(cls, template: str) -> str:
        return read_template(template)

    def suggest_options(self, context: ObjectiveContext) -> Mapping[str, tuple[Any, str]]:
        """Suggest a template if the tokenizer has none."""
        if self.chat_template or getattr(context.tokenizer, "chat_template", None):
            return {}
        note = "the tokenizer has none, as those of base models; a chat model of the same tokenizer has a better one"
        template = WORDS_TEMPLATE if _fits(WORDS_TEMPLATE, context) > _fits(PLAIN_TEMPLATE, context) else PLAIN_TEMPLATE
        return {"chat_template": (template, note)}

    def describe_outputs(self, task: Task, calibration: Mapping[str, Any]) -> str:
        """Describe the template, if it is not that of the tokenizer."""
        if not self.chat_template:
            return ""
        return f"The model was trained with this chat template:\n\n```jinja\n{self.chat_template.strip()}\n```"

    def export(self, folder: Path, context: ObjectiveContext) -> None:
        """Write the template, and the tokens that stop generation."""
        if self.chat_template:
            (folder / TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")
        file = folder / "generation_config.json"
        if file.is_file():  # of a whole model
            settings = {
                **json.loads(file.read_text(encoding="utf-8")),
                "eos_token_id": [*self._load_template(context).stop_ids],
            }
            file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize conversations."""
        return self._load_template(context).tokenize(examples, self.train_on)

    def _load_template(self, context: ObjectiveContext) -> ChatTemplate:
        """Return the template; one evaluation finds out once where answers end in it."""
        key = f"chat_template {self.chat_template} {self.chat_template_kwargs}"
        if key not in context.cache:
            context.cache[key] = context.family.load_chat_template(self.chat_template, self.chat_template_kwargs)
        template: ChatTemplate = context.cache[key]
        return template

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Generate the last message; the loss is that of everything that is trained on."""
        predictions = score_trained_tokens(model, rows, context) if has_targets else [{} for _ in rows]
        template = self._load_template(context)
        generated = context.generate(model, rows, stop_ids=template.stop_ids)
        pairs = zip(predictions, generated, strict=True)
        return [
            {**prediction, **rewrite_texts(each, lambda text: text.removeprefix(template.answer_start).strip())}
            for prediction, each in pairs
        ]

    def count_unknown_targets(self, rows: Sequence[Row], context: ObjectiveContext) -> int:
        """Return how many answers have the unknown token."""
        return count_unknown_targets(rows, context)
