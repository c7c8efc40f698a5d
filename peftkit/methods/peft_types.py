"""Every method of the installed peft, from its own configurations: one class each, made when plugins are loaded."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from peftkit.methods._configs import Configuration, Expression, Option, configurations
from peftkit.methods._peft import Part, PeftMethod, PromptMethod
from peftkit.methods.allocating import AdaLora, Adamss
from peftkit.methods.lora import Lora
from peftkit.methods.particular import (
    AdaptionPrompt,
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
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.published import PEFT
from peftkit.methods.vera import Vera

M = TypeVar("M", bound=BaseModel)
HIDDEN = frozenset(
    {
        "fan_in_fan_out",  # peft sees it in the layers
        "progressbar",
        *("megatron_config", "megatron_core"),  # Megatron's models are none of transformers'
    }
)
"""What peft finds out by itself, or what is no choice of a recipe's."""
OWN: Mapping[str, type[PeftMethod]] = {
    str(own.model_fields["name"].default): own
    for own in (
        *(
            AdaLora,
            Adamss,
            AdaptionPrompt,
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
"""The methods of which peftkit knows more than peft's sources declare."""
LINEAR_ONLY = frozenset(
    {
        *("adamss", "boft", "c3a", "delora", "glora", "hra", "lily", "loha", "lokr", "miss", "oft", "osf", "peanut"),
        *("poly", "psoft", "road", "shira", "supertuning"),
    }
)
"""Those that cannot be put beside GPT-2's transposed layers: most raise, ``osf`` would train nothing."""
DRAWS: Mapping[str, str] = {
    "poly": "its router draws how updates are mixed while it trains, for each row anew",
    "pvera": "its updates are drawn at random while it trains, for each row anew",
}
TRIALS: Mapping[str, Mapping[str, Any]] = {
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
"""Options with which a method fits a model of width 32."""

SIMPLE: Mapping[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "any": Any, "none": None}


def peft_methods() -> list[type[PeftMethod]]:
    """A class for each method of the installed peft."""
    return [method_class(configuration) for configuration in configurations().values()]


def method_class(configuration: Configuration) -> type[PeftMethod]:
    """The method that a configuration declares; what a class of ours says of an option goes before."""
    name, options = configuration.name, {option.name: option for option in configuration.options}
    base = OWN.get(name) or (PromptMethod if "num_virtual_tokens" in options else PeftMethod)
    left_out = HIDDEN | base.without | base.model_fields.keys()
    fields = {key: _field(option) for key, option in options.items() if key not in left_out}
    fields["name"] = (Literal[name], name)
    text = base.__doc__ if name in OWN else configuration.text
    made = _model("".join(word.capitalize() for word in name.split("_")), base, text, fields)
    made.peft_type = name.upper()
    made.given = {"progressbar": False} if "progressbar" in options else {}
    made.takes_quantized = configuration.quantized or issubclass(base, PromptMethod)
    made.linear_only = name in LINEAR_ONLY
    made.draws = DRAWS.get(name, "")
    made.trial = base.trial or TRIALS.get(name, {})
    if name in PEFT:  # a later release of peft may have others, which keep the default
        made.search, made.published_rates = PEFT[name]
    return made


def _model(name: str, base: type[M], text: str | None, fields: Mapping[str, Any]) -> type[M]:
    """A model of these fields, as ``create_model`` makes it, which would look for their docstrings in this source."""
    namespace = {
        "__module__": __name__,
        "__doc__": text,
        "__annotations__": {key: kind for key, (kind, _) in fields.items()},
        "model_config": ConfigDict(use_attribute_docstrings=False),
        **{key: field for key, (_, field) in fields.items()},
    }
    return cast("type[M]", types.new_class(name, (base,), exec_body=lambda own: own.update(namespace)))


def _field(option: Option) -> Any:
    kind, default, bounds = _python(option.type), option.default, dict[str, Any]()
    if option.name == "r" and isinstance(default, int):
        bounds = {"gt": 0} if default else {"ge": 0}
    elif option.name.endswith("dropout") and isinstance(default, float):
        bounds = {"ge": 0, "lt": 1}
    if isinstance(default, list):
        default = tuple(default)
    return (kind if default is not None else kind | None, Field(default, description=option.help, **bounds))


def _python(expression: Expression) -> Any:
    """The type that an expression stands for."""
    head, inner = expression[0], expression[1:]
    match head:
        case "literal":
            return Literal[tuple(inner)]
        case "either":
            return reduce(or_, (_python(kind) for kind in inner))
        case "tuple":
            return tuple[_python(inner[0]), ...]  # type: ignore[misc]
        case "row":
            return tuple[tuple(_python(kind) for kind in inner)]  # type: ignore[misc]
        case "dict":
            return dict[_python(inner[0]), _python(inner[1])]  # type: ignore[misc]
        case "part":
            return _part(*inner)
    return SIMPLE[head]


def _part(module: str, name: str, options: list[dict[str, Any]]) -> type[Part]:
    """The options of a configuration that lies inside another."""
    fields = {option.name: _field(option) for option in (Option(**each) for each in options)}
    made = _model(name, Part, None, fields)
    made.made_by = (module, name)
    return made
