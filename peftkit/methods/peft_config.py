"""peft's configuration objects, and the options that they reject."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Collection, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from peftkit.components import ModelKind, OptionProblem
from peftkit.errors import summarize_error
from peftkit.methods.peft_schema import configurations

if TYPE_CHECKING:
    from peftkit.methods.peft_base import PeftMethod

TASK_TYPES: Mapping[ModelKind, str] = {
    "encoder-decoder": "SEQ_2_SEQ_LM",
    "decoder": "CAUSAL_LM",
    "encoder": "SEQ_CLS",
}
HEAD_TASK_TYPES: Mapping[str, str] = {
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
    "AutoModel": "FEATURE_EXTRACTION",
    "AutoModelForTextEncoding": "FEATURE_EXTRACTION",
}
"""peft's task types by the transformers class that loads the model, where they are not those of its kind."""


class SubConfig(BaseModel):
    """A nested configuration of peft."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    peft_class: ClassVar[tuple[str, str]]
    """The module and the name of peft's configuration class."""

    def build(self) -> Any:
        """Build peft's configuration object."""
        module, class_name = self.peft_class
        return getattr(import_module(module), class_name)(**self.model_dump(exclude_none=True))


def find_rejected_options(method: PeftMethod, model_kind: ModelKind | None) -> list[OptionProblem]:
    """Find options that peft's configuration of a method rejects, by building it.

    Args:
        method: The method.
        model_kind: The kind of model, or None if it is not known yet.

    Returns:
        A problem for each option without which peft accepts the others.
    """
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in type(method).model_fields.items()
        if name != "name"
    }
    changed = [name for name, default in defaults.items() if getattr(method, name) != default]
    known = configurations().get(method.peft_type.lower())
    checked = known.checked_options if known else ()
    if not any(name in checked or isinstance(getattr(method, name), SubConfig) for name in changed):
        return []  # do not import peft, which takes seconds

    def rejection(names: Collection[str]) -> str:
        others = {name: default for name, default in defaults.items() if name not in names}
        return _rejection(method.model_copy(update=others), model_kind)

    if rejection(()):
        return []  # what peft rejects does not depend on the options of the recipe
    problems: list[OptionProblem] = []
    while reason := rejection(changed):
        without = [name for name in changed if not rejection({*changed} - {name})]
        causes = without or changed
        option = min(causes, key=partial(_position, reason))
        problems.append(OptionProblem(option, f"peft rejects it: {reason}"))
        changed.remove(option)
    return problems


def _position(text: str, name: str) -> int:
    """Return where a text names an option; its length if it does not."""
    match = re.search(rf"\b{re.escape(name)}\b", text)
    return match.start() if match else len(text)


def _rejection(method: PeftMethod, model_kind: ModelKind | None) -> str:
    """Return why peft rejects the options of a method; empty if it accepts them."""
    import peft

    config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.peft_type)]
    options = {**method.placeholder_options, **method.model_dump(mode="json", exclude_none=True)}
    options |= method.fixed_options
    known = {field.name for field in dataclasses.fields(config_class)}
    try:
        options |= {key: value.build() for key, value in method if isinstance(value, SubConfig)}
        options = {key: value for key, value in options.items() if key in known}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config_class(task_type=TASK_TYPES[model_kind] if model_kind else None, **options)
    except Exception as error:  # peft raises exceptions of any type for invalid options
        return (str(error).split("\n")[0] if isinstance(error, ValueError) else summarize_error(error)).strip(" .")
    return ""
