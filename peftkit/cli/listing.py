"""What is installed: the verbs ``list`` and ``show``."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from pydantic_core import to_jsonable_python

from peftkit.components import Between, Method, Metric, PublishedRate, Task
from peftkit.errors import InputError, did_you_mean
from peftkit.plugins import BASES, Entry, Registry, load_registry


def list_components(kind: str | None, *, as_json: bool) -> int:
    """Prints every component with its distribution; ``kind`` is a plural, such as ``methods``."""
    registry = load_registry()
    entries = [e for e in registry.entries if kind is None or f"{e.kind}s" == kind]
    if as_json:
        rows = [
            {"kind": e.kind, "name": e.name, "distribution": e.distribution, "version": e.version, "text": e.summary}
            for e in entries
        ]
        failures = [{"plugin": f.plugin, "error": f.error} for f in registry.failures]
        print(json.dumps({"format": 1, "components": rows, "failures": failures}, indent=2))
        return 0
    name_width = max((len(e.name) for e in entries), default=0)
    from_width = max((len(e.distribution) for e in entries), default=0)
    room = max(shutil.get_terminal_size().columns - name_width - from_width - 6, 30)
    for each in BASES:
        group = [e for e in entries if e.kind == each]
        if group:
            print(f"{each}s")
        for e in group:
            text = textwrap.shorten(e.summary, room, placeholder=" …")
            print(f"  {e.name:{name_width}}  {e.distribution:{from_width}}  {text}")
    for failure in registry.failures:
        print(f"not loaded: {failure.plugin}: {failure.error}")
    return 0


def show_component(name: str, *, as_json: bool) -> int:
    """Prints one component's text, options and refusals.

    Raises:
        InputError: nothing has that name.
    """
    registry = load_registry()
    entries = [e for e in registry.entries if e.name == name]
    if not entries:
        _unknown(name, registry)
    if as_json:
        print(json.dumps({"format": 1, "components": [_described(e) for e in entries]}, indent=2))
    else:
        print("\n\n".join(_page(e) for e in entries))
    return 0


def show_touched(name: str, model: str, overrides: Iterable[str], *, as_json: bool) -> int:
    """Prints which modules of a model a method touches, and how much of it learns.

    Raises:
        PeftkitError: nothing has that name, the options are wrong, or the method cannot be applied to the model.
    """
    from peftkit.recipe import load_recipe

    registry = load_registry()
    if name not in registry.of("method"):
        if any(entry.name == name for entry in registry.entries):
            raise InputError(f"{name!r} is no method, and only methods touch a model")
        _unknown(name, registry)
    named = [f"{key}={json.dumps(value)}" for key, value in (("method.name", name), ("model.name", model))]
    options = [f"method.{word}" for word in overrides]
    # Of an empty recipe: options are read, and refused, as anywhere.
    method = load_recipe(os.devnull, registry, [*named, "task.name=wordnet_topic", *options]).method
    from peftkit.runner.outline import outline  # transformers: only once the options are known to be right

    found = outline(method, model)
    if as_json:
        print(json.dumps({"format": 1, "method": name, "model": model, **asdict(found)}, indent=2))
        return 0
    print(f"{name} on {model} ({found.kind})\n")
    width = max(len(t.modules) for t in found.touched)
    for touched in found.touched:
        print(f"  {touched.modules:{width}}  {touched.number:4} x  {touched.parameters:,}")
    share = found.trainable / found.total
    print(f"\ntrainable {found.trainable:,} of {found.total:,} parameters ({share:.2%})")
    return 0


def _unknown(name: str, registry: Registry) -> NoReturn:
    names = [e.name for e in registry.entries]
    text = f"nothing is called {name!r}{did_you_mean(name, names)}; `peftkit list` shows what there is"
    raise InputError(text + registry.absent(name))


def _described(entry: Entry) -> dict[str, Any]:
    from peftkit.recipe.words import allowed, spellings  # the list, which is to be quick, needs no recipes

    component = entry.component
    options = []
    for key, field in component.model_fields.items():
        if key != "name":
            default = None if field.is_required() or field.default_factory else field.default
            if field.default_factory and not field.default_factory_takes_validated_data:
                default = field.get_default(call_default_factory=True)
            options.append(
                {
                    "name": key,
                    "also": spellings(key, field)[1:],
                    "type": allowed(field),
                    "required": field.is_required(),
                    "default": to_jsonable_python(default, fallback=str),
                    "text": " ".join((field.description or "").split()),
                }
            )
    described: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "text": inspect.getdoc(component) or "",
        "options": options,
        "refuses": [str(r) for r in component.refusals],
    }
    if issubclass(component, Task):
        described |= {"task_kind": component.kind, "metrics": component.metrics, "selects": component.selects}
        described |= {"source": component.source, "licence": component.licence}
    if issubclass(component, Method):
        search = {key: asdict(of) if isinstance(of, Between) else list(of) for key, of in component.search.items()}
        described |= {"loaded_by": component.loaded_by}
        described |= {"search": search, "published_rates": [asdict(each) for each in component.published_rates]}
    if issubclass(component, Metric):
        described |= {"task_kinds": component.kinds, "higher_is_better": component.higher_is_better}
    return described


def _page(entry: Entry) -> str:
    described = _described(entry)
    lines = [f"{entry.name} ({entry.kind}, from {entry.distribution} {entry.version})", "", described["text"]]
    for key, title in (
        ("task_kind", "Kind"),
        ("task_kinds", "Kinds of task"),
        ("metrics", "Metrics"),
        ("selects", "Selects by"),
        ("source", "Source"),
        ("licence", "Licence"),
        ("loaded_by", "Loaded by"),
    ):
        value = described.get(key)
        if value:
            lines += ["", f"{title}: {value if isinstance(value, str) else ', '.join(value)}"]
    lines += ["", "Options:" if described["options"] else "Options: none"]
    for option in described["options"]:
        keys = " or ".join([option["name"], *option["also"]])
        default = "not set" if option["default"] is None else f"default {_as_text(option['default'])}"
        lines.append(f"  {keys}: {option['type']}; {'required' if option['required'] else default}")
        lines += textwrap.wrap(option["text"], 100, initial_indent="      ", subsequent_indent="      ")
    if issubclass(entry.component, Method):
        lines += ["", "Tuned over:" if entry.component.search else "Tuned over: nothing declared"]
        lines += [f"  {key}: {_drawn_from(of)}" for key, of in entry.component.search.items()]
        published = entry.component.published_rates
        lines += ["", f"Published learning rates:{'' if published else ' none declared'}"]
        for text in map(_published, published):  # whose paths stay whole
            lines += textwrap.wrap(text, 100, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    lines += ["", "Refuses:" if described["refuses"] else "Refuses: nothing declared"]
    for text in described["refuses"]:
        lines += textwrap.wrap(text, 100, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _drawn_from(of: Between | Sequence[object]) -> str:
    if isinstance(of, Between):
        return f"{of.low:g} to {of.high:g}{', on a log scale' if of.log else ''}"
    return ", ".join(map(str, of))


def _published(published: PublishedRate) -> str:
    rates = ", ".join(f"{rate:g}" for rate in published.rates)
    return f"{rates}{published.optimizer and f' with {published.optimizer}'}; {published.source}"


def _as_text(default: object) -> str:
    return json.dumps(default, ensure_ascii=False)
