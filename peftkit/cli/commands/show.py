"""``peftkit show``."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from pydantic_core import to_jsonable_python

from peftkit import plugins
from peftkit.cli.arguments import add_overrides
from peftkit.cli.completion import complete_with, component_names, method_options, model_names
from peftkit.cli.subcommand import SubCommand
from peftkit.components import Method, Metric, PublishedRate, Range, Task
from peftkit.errors import InputError
from peftkit.plugins import Entry, Registry

FORMAT = 2
"""The version of the keys of the JSON documents."""
TITLES = {
    "task_kind": "Kind",
    "task_kinds": "Task kinds",
    "metrics": "Metrics",
    "selection_metric": "Selection metric",
    "source": "Source",
    "licence": "Licence",
    "loaded_by": "Loaded by",
}


class ShowCommand(SubCommand):
    """Shows a component, or the modules that a method trains."""

    name = "show"
    help = "Show a component: its description, options and incompatibilities."
    examples = (
        ("Show the options of LoRA", "peftkit show lora"),
        ("Show which modules it trains in a model", "peftkit show lora --model pocket-t5 --set r=4"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        name = parser.add_argument("name", metavar="NAME", help="Name of a component.")
        complete_with(name, component_names())
        model = parser.add_argument(
            "--model", metavar="MODEL", help="Show the modules that a method trains in this model; loads no weights."
        )
        complete_with(model, model_names)
        options = add_overrides(parser, "Set an option of the method, such as r=16; with --model. Repeatable.")
        complete_with(options, method_options)

    def run(self, args: argparse.Namespace) -> int:
        if args.model:
            return self._show_modules(args)
        if args.overrides:
            raise InputError("--set needs --model: it sets an option of the method that is applied to the model")
        registry = plugins.load_registry()
        entries = [entry for entry in registry.entries if entry.name == args.name]
        if not entries:
            _unknown(args.name, registry)
        if args.json:
            self.print_json({"components": [_describe(entry) for entry in entries]}, version=FORMAT)
        else:
            print("\n\n".join(_page(entry) for entry in entries))
        return 0

    def _show_modules(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        registry = plugins.load_registry()
        if args.name not in registry.all("method"):
            if any(entry.name == args.name for entry in registry.entries):
                raise InputError(f"{args.name!r} is not a method; --model applies to methods only")
            _unknown(args.name, registry)
        names = [f"{key}={json.dumps(name)}" for key, name in (("method.name", args.name), ("model.name", args.model))]
        options = [f"method.{option}" for option in args.overrides]
        # An empty recipe with these overrides: options are parsed, and rejected, as in any recipe.
        method = load_recipe(os.devnull, registry, [*names, "task.name=wordnet_topic", *options]).method
        from peftkit.analysis.method_summary import summarize_method  # imports torch: only once the options are valid

        summary = summarize_method(method, args.model)
        if args.json:
            modules = [{"name": t.modules, "count": t.number, "parameters": t.parameters} for t in summary.groups]
            document = {"method": args.name, "model": args.model, "architecture": summary.kind, "modules": modules}
            parameters = {"trainable_parameters": summary.trainable, "total_parameters": summary.total}
            self.print_json({**document, **parameters}, version=FORMAT)
            return 0
        print(f"{args.name} on {args.model} ({summary.kind})\n")
        width = max(len(touched.modules) for touched in summary.groups)
        for touched in summary.groups:
            print(f"  {touched.modules:{width}}  {touched.number:4} x  {touched.parameters:,}")
        share = summary.trainable / summary.total
        print(f"\ntrainable {summary.trainable:,} of {summary.total:,} parameters ({share:.2%})")
        return 0


def _unknown(name: str, registry: Registry) -> NoReturn:
    text = f"no component is called {name!r}{registry.suggest(name)}; to list all, run: peftkit list"
    raise InputError(text + registry.why_missing(name))


def _describe(entry: Entry) -> dict[str, Any]:
    from peftkit.recipe.type_names import aliases, describe_field

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
                    "aliases": aliases(key, field)[1:],
                    "type": describe_field(field),
                    "required": field.is_required(),
                    "default": to_jsonable_python(default, fallback=str),
                    "description": " ".join((field.description or "").split()),
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
    if issubclass(component, Metric):
        described |= {"task_kinds": component.kinds, "higher_is_better": component.higher_is_better}
    return described


def _page(entry: Entry) -> str:
    described = _describe(entry)
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
