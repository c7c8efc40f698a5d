"""Describes a component: what it is, its options, and what it is incompatible with."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_jsonable_python

from peftkit.components import Method, Metric, Objective, PublishedRate, Range, Task
from peftkit.components.method_suggestions import find_spelling
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.errors import InputError
from peftkit.plugins import Entry, Registry
from peftkit.recipe.messages.type_names import aliases, describe_field

TITLES = {
    "task_kind": "Kind",
    "task_kinds": "Task kinds",
    "model_kinds": "Kinds of model",
    "metrics": "Metrics",
    "selection_metric": "Selection metric",
    "source": "Source",
    "licence": "Licence",
    "loaded_by": "Loaded by",
}


def find_components(name: str, registry: Registry) -> list[Entry]:
    """Find the components of a name, of any kind.

    Args:
        name: The name in a recipe; of a method in any spelling that a recipe may have, such as ``LoRA+``.
        registry: The installed components.

    Returns:
        The entries, at least one.

    Raises:
        InputError: There is none.
    """
    names = {entry.name for entry in registry.entries}
    name = name if name in names else find_spelling(name, registry.all("method")) or name
    entries = [entry for entry in registry.entries if entry.name == name]
    if not entries:
        near, missing = registry.suggest(name), registry.why_missing(name)
        raise InputError(f"no component is called {name!r}{near}; to list all, run: peftkit list{missing}")
    return entries


def describe_component(entry: Entry) -> dict[str, Any]:
    """Describe a component: its text, options and incompatibilities, and what its kind adds, as JSON values."""
    component = entry.component
    options, texts = [], option_descriptions(component)
    for key, field in component.model_fields.items():
        if key != "name":
            default = None if field.is_required() or field.default_factory else field.default
            if field.default_factory and not field.default_factory_takes_validated_data:
                default = field.get_default(call_default_factory=True)
            options.append(
                {
                    "name": key,
                    "aliases": aliases(key, field)[1:],
                    "type": describe_field(field),
                    "required": field.is_required(),
                    "default": to_jsonable_python(default, fallback=str),
                    "description": " ".join(texts[key].split()),
                }
            )
    described: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "description": inspect.getdoc(component) or "",
        "options": options,
        "incompatibilities": [str(refusal) for refusal in component.incompatibilities],
    }
    if issubclass(component, Task):
        described |= {"task_kind": component.kind, "metrics": component.metrics}
        described |= {
            "selection_metric": component.selection_metric,
            "source": component.source,
            "licence": component.licence,
        }
    if issubclass(component, Method):
        space = {
            key: asdict(values) if isinstance(values, Range) else list(values)
            for key, values in component.search_space.items()
        }
        rates = [
            {"learning_rates": each.rates, "optimizer": each.optimizer, "source": each.source}
            for each in component.published_rates
        ]
        if preset := component.preset:
            described |= {
                "preset_of": preset.method,
                "fixed": preset.fixed,
                "recipe_keys": component.recipe_keys,
            }
        described |= {"loaded_by": component.loaded_by, "search_space": space, "published_learning_rates": rates}
    if issubclass(component, Objective):
        described |= {"task_kind": component.task_kind, "model_kinds": component.families}
    if issubclass(component, Metric):
        described |= {"task_kinds": component.kinds, "higher_is_better": component.higher_is_better}
    return described


def component_page(entry: Entry) -> str:
    """Write the description of a component as text."""
    described = describe_component(entry)
    kind = f"preset of {entry.preset.method}" if entry.preset else entry.kind
    lines = [f"{entry.name} ({kind}, from {entry.distribution} {entry.version})", "", described["description"]]
    for key, title in TITLES.items():
        value = described.get(key)
        if value:
            lines += ["", f"{title}: {value if isinstance(value, str) else ', '.join(value)}"]
    lines += ["", "Options:" if described["options"] else "Options: none"]
    for option in described["options"]:
        keys = " or ".join([option["name"], *option["aliases"]])
        default = "not set" if option["default"] is None else f"default {_as_text(option['default'])}"
        if option["name"] in described.get("fixed", {}):
            lines.append(f"  {keys}: always {_as_text(option['default'])}")
        else:
            lines.append(f"  {keys}: {option['type']}; {'required' if option['required'] else default}")
        lines += textwrap.wrap(option["description"], 100, initial_indent="      ", subsequent_indent="      ")
    if issubclass(entry.component, Method):
        lines += ["", "Search space:" if entry.component.search_space else "Search space: none declared"]
        lines += [f"  {key}: {_write_range(values)}" for key, values in entry.component.search_space.items()]
        published = entry.component.published_rates
        lines += ["", f"Published learning rates:{'' if published else ' none declared'}"]
        for text in map(_write_published, published):  # without breaking paths
            lines += textwrap.wrap(text, 100, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    reasons = described["incompatibilities"]
    lines += ["", "Incompatibilities:" if reasons else "Incompatibilities: none declared"]
    for text in reasons:
        lines += textwrap.wrap(text, 100, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _write_range(space: Range | Sequence[object]) -> str:
    if isinstance(space, Range):
        return f"{space.low:g} to {space.high:g}{', on a log scale' if space.log else ''}"
    return ", ".join(map(str, space))


def _write_published(published: PublishedRate) -> str:
    rates = ", ".join(f"{rate:g}" for rate in published.rates)
    return f"{rates}{published.optimizer and f' with {published.optimizer}'}; {published.source}"


def _as_text(default: object) -> str:
    return json.dumps(default, ensure_ascii=False)
