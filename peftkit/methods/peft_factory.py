"""Build a component class for every method of the installed peft from its configuration class."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field

from peftkit.components.component import LazyComponent
from peftkit.components.model_parts.module_name_checks import PEFT_NAME_OPTIONS, ModulePatterns
from peftkit.components.options.library_options import Option, python_type
from peftkit.methods.adalora import AdaLora
from peftkit.methods.lora import Lora
from peftkit.methods.peft_base import PeftMethod, PromptMethod
from peftkit.methods.peft_config import SubConfig
from peftkit.methods.peft_overrides import (
    Adamss,
    AdaptionPrompt,
    Boft,
    Cartridge,
    Cpt,
    Lily,
    LnTuning,
    MultitaskPromptTuning,
    Osf,
    Poly,
    PTuning,
    Shadow,
    TrainableTokens,
    XLora,
)
from peftkit.methods.peft_schema import Configuration, configurations
from peftkit.methods.peft_summaries import summary
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.published_learning_rates import PEFT_LEARNING_RATES
from peftkit.methods.vera import Vera

M = TypeVar("M", bound=BaseModel)
HIDDEN = frozenset(
    {
        "fan_in_fan_out",  # peft infers it from the layers
        "progressbar",
        *("megatron_config", "megatron_core"),  # for models of Megatron, which are not transformers models
    }
)
"""Options that peft sets itself, or that have no use in a recipe."""
SPECIALIZED: Mapping[str, type[PeftMethod]] = {
    str(method.model_fields["name"].default): method
    for method in (
        *(
            AdaLora,
            Adamss,
            AdaptionPrompt,
            Boft,
            Cartridge,
            Cpt,
            Lily,
            LnTuning,
            Lora,
            MultitaskPromptTuning,
            Osf,
            PTuning,
            Poly,
        ),
        *(PrefixTuning, Shadow, TrainableTokens, Vera, XLora),
    )
}
"""Base classes of methods that need more than the options that peft declares."""
LINEAR_ONLY = frozenset(
    {
        *("adamss", "boft", "c3a", "delora", "glora", "hra", "lily", "loha", "lokr", "miss", "oft", "osf", "peanut"),
        *("poly", "psoft", "road", "shira", "supertuning"),
    }
)
"""Methods that do not support GPT-2's transposed layers: most raise an error, and ``osf`` would train nothing."""
STOCHASTIC: Mapping[str, str] = {
    "poly": "its router samples how updates are mixed for each row during training",
    "pvera": "its updates are sampled for each row during training",
}
"""Why methods are random even without dropout."""
PATTERNS: Mapping[str, str] = {
    **dict.fromkeys(("c3a", "fourierft"), r".*\.{key}$"),
    "osf": r".*{key}",
}
"""Regular expressions of methods that match the keys of pattern options differently from most of peft."""
DERIVABLE = frozenset({"oft_block_size", "boft_block_size"})
"""Sizes that follow from another option if they are 0."""
TINY_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "adamss": {"r": 8, "num_subspaces": 2},
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 100, "scaling": 10.0},
    "gralora": {"r": 8, "alpha": 16},
    "miss": {"r": 8},
    "oft": {"oft_block_size": 8},
    "psoft": {"r": 8},
    "road": {"group_size": 16},
    "shira": {"r": 8},
    "vblora": {"vector_length": 16},
    "waveft": {"n_frequency": 100},
}
"""Options with which a method fits a model with a hidden size of 32."""


@cache
def peft_methods() -> tuple[LazyComponent, ...]:
    """Return the methods of the installed peft; each class is built once, so that equal recipes have equal methods."""
    return tuple(
        LazyComponent(
            configuration.name,
            _text(configuration.name, SPECIALIZED.get(configuration.name)),
            partial(method_class, configuration),
        )
        for configuration in configurations().values()
    )


def _text(name: str, specialized: type[PeftMethod] | None) -> str:
    return inspect.getdoc(specialized) or "" if specialized else summary(name)


def method_class(configuration: Configuration) -> type[PeftMethod]:
    """Build the class of a method; options declared by its base class have precedence over peft's."""
    name, options = configuration.name, {option.name: option for option in configuration.options}
    base = SPECIALIZED.get(name) or (PromptMethod if "num_virtual_tokens" in options else PeftMethod)
    # An option of a later release of peft must not replace a method of the class, such as `merge`.
    excluded = HIDDEN | base.excluded_options | base.model_fields.keys() | set(dir(base))
    fields = {key: _field(option) for key, option in options.items() if key not in excluded}
    if name in PATTERNS:
        marker = ModulePatterns(PATTERNS[name])
        patterns = [key for key in fields if key.endswith("_pattern") and key not in PEFT_NAME_OPTIONS]
        fields |= {key: (Annotated[fields[key][0], marker], fields[key][1]) for key in patterns}
    fields["name"] = (Literal[name], name)
    text = _text(name, SPECIALIZED.get(name))
    method = _build_model("".join(word.capitalize() for word in name.split("_")), base, text, fields)
    method.peft_type = name.upper()
    method.fixed_options = {"progressbar": False} if "progressbar" in options else {}
    method.supports_quantized_base = configuration.supports_quantized_base or issubclass(base, PromptMethod)
    method.linear_only = name in LINEAR_ONLY
    method.stochastic_because = STOCHASTIC.get(name, "")
    method.tiny_options = base.tiny_options or TINY_OPTIONS.get(name, {})
    if name in PEFT_LEARNING_RATES:  # methods of later releases of peft keep the default
        method.search_space, method.published_rates = PEFT_LEARNING_RATES[name]
    return method


def _build_model(name: str, base: type[M], text: str | None, fields: Mapping[str, Any]) -> type[M]:
    """Build a model like ``create_model``, which would look for the docstrings of the fields in this file."""
    namespace = {
        "__module__": __name__,
        "__doc__": text,
        "__annotations__": {key: kind for key, (kind, _) in fields.items()},
        **{key: field for key, (_, field) in fields.items()},
    }
    return cast("type[M]", types.new_class(name, (base,), exec_body=lambda body: body.update(namespace)))


def _field(option: Option) -> Any:
    kind, default, bounds = python_type(option.type, _build_sub_config), option.default, _bounds(option)
    if isinstance(default, list):
        default = tuple(default)
    return (kind if default is not None else kind | None, Field(default, description=option.help, **bounds))


def _bounds(option: Option) -> dict[str, Any]:
    """Return the bounds of a number: counts, sizes and ranks are positive, or 0 if that is the default."""
    name, default = option.name, option.default
    flat = option.type[1:] if option.type[0] == "union" else [option.type]
    kinds = {kind[0] for kind in flat} - {"none"}
    if kinds == {"float"}:
        if name.endswith("dropout"):
            return {"ge": 0, "lt": 1}
        return {"gt": 0} if "alpha" in name and default != 0 else {}
    if not kinds or kinds - {"int", "float"}:
        return {}
    if name in DERIVABLE or "seed" in name or name.endswith(("prng_key", "_task")):
        return {"ge": 0}
    return {"gt": 0} if default is None or default > 0 else {"ge": default}


def _build_sub_config(module: str, name: str, options: list[dict[str, Any]]) -> type[SubConfig]:
    fields = {option["name"]: _field(Option(**option)) for option in options}
    sub_config = _build_model(name, SubConfig, None, fields)
    sub_config.peft_class = (module, name)
    return sub_config
