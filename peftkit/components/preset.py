"""Presets: names for a method with options, such as ``dora`` for ``lora`` with ``use_dora = true``, or with none."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from peftkit.components.method import Method
from peftkit.components.search_space import PublishedRate, SearchSpace
from peftkit.errors import PluginError, comma_separated, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A name for a method with options; recipes, tables and curves show it like the name of any method.

    Without options, keys or a search space, it is another name for the method, whose published rates are its own.

    Attributes:
        name: The name in recipes.
        method: The name of the method that it stands for; not another preset.
        summary: What it is, in one line without a full stop.
        paper: Its publication, such as ``DoRA, Liu et al., 2024``.
        fixed: The options that define it; a recipe that sets one otherwise is rejected.
        defaults: Defaults that differ from those of the method; a recipe may override them.
        forbidden: The value of a default that would undo the preset; a recipe that sets it is rejected.
        recipe: Keys of other tables that belong to it, such as ``model.quantization``; fixed, too.
        search_space: The search space of ``[tune]``, if it is not the method's.
        published_rates: The learning rates that it was published with.
        also_called: Further names and descriptions, by which it is suggested for an unknown name.
    """

    name: str
    method: str
    summary: str
    paper: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    forbidden: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    search_space: SearchSpace | None = None
    published_rates: tuple[PublishedRate, ...] = ()
    also_called: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The method and options that it stands for: ``lora with use_dora = true``."""
        texts = [f"{key} = {format_toml(value)}" for key, value in self.settings.items()]
        return f"{self.method} with {comma_separated(texts)}" if texts else self.method

    @property
    def description(self) -> str:
        """What it is, with its publication."""
        return f"{self.summary} ({self.paper})."

    @property
    def settings(self) -> Mapping[str, Any]:
        """All options and keys that it sets."""
        return {**self.fixed, **self.defaults, **self.recipe}


def preset_class(preset: Preset, method: type[Method]) -> type[Method]:
    """Build the class of a preset: a subclass of its method with other defaults.

    Args:
        preset: The preset.
        method: The class of the method that it stands for.

    Returns:
        The class.

    Raises:
        PluginError: The method does not take an option or its value.
    """
    annotations: dict[str, Any] = {"name": Literal[preset.name]}
    fields: dict[str, Any] = {"name": preset.name}
    for key in dict.fromkeys((*preset.fixed, *preset.defaults, *preset.forbidden)):
        if key == "name" or key not in method.model_fields:
            raise PluginError(f"{preset.method} has no option {key!r}{did_you_mean(key, method.model_fields)}")
        if (key in preset.fixed) == (key in preset.defaults):
            raise PluginError(f"{key} must be in either fixed or defaults")
        annotations[key], fields[key] = _field(preset, method, key)
    what = "A preset" if preset.settings else "Another name"
    namespace = {
        "__module__": method.__module__,
        "__doc__": f"{preset.description}\n\n{what}: {preset}. All options of {preset.method} apply.",
        "__annotations__": annotations,
        **fields,
    }
    name = "".join(word.capitalize() for word in preset.name.split("_"))
    built = cast("type[Method]", types.new_class(name, (method,), exec_body=lambda body: body.update(namespace)))
    built.preset, built.overridable = preset, True
    built.recipe_keys = {**method.recipe_keys, **preset.recipe}
    built.published_rates = preset.published_rates or (() if preset.settings else method.published_rates)
    built.also_called = preset.also_called
    if preset.search_space is not None:
        built.search_space = preset.search_space
    return built


def _field(preset: Preset, method: type[Method], key: str) -> tuple[Any, Any]:
    """Return the annotation and the field of an option that the preset sets."""
    inherited, value = method.model_fields[key], preset.settings[key]

    def annotate(*rules: Any) -> Any:
        return Annotated[(inherited.annotation, *rules)] if rules else inherited.annotation

    try:
        default = TypeAdapter(annotate(*inherited.metadata)).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError) as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PluginError(f"{key} = {format_toml(value)} is not valid: {text}") from error

    def check(given: Any) -> Any:
        if (key in preset.fixed and given != default) or (key in preset.forbidden and given == preset.forbidden[key]):
            text = f"{preset.name!r} is {preset}; leave {key} out, or use {preset.method}"
            if key in preset.forbidden:
                plain = f"{key} = {format_toml(given)}"
                text = (
                    f"{preset.name!r} with {plain} is plain {preset.method}; set another value, or use {preset.method}"
                )
            raise PydanticCustomError("preset", "{text}", {"text": text})
        return given

    fixed: Any = {"json_schema_extra": {"const": value}} if key in preset.fixed else {}
    described = Field(default, description=inherited.description, validation_alias=inherited.validation_alias, **fixed)
    return annotate(*inherited.metadata, AfterValidator(check)), described


def format_toml(value: Any) -> str:
    """Format a value as in TOML: ``true``, ``"pissa"``, ``{rho = 2.0}``."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {format_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)
