"""``peftkit show``."""

from __future__ import annotations

import argparse
import json
import os

from peftkit import plugins
from peftkit.cli.arguments import add_overrides
from peftkit.cli.completers import complete_with, component_names, method_options, model_names
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

FORMAT = 2
"""The version of the keys of the JSON documents."""


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
        from peftkit.analysis.component_description import component_page, describe_component, find_components

        entries = find_components(args.name, plugins.load_registry())
        if args.json:
            self.print_json({"components": [describe_component(entry) for entry in entries]}, version=FORMAT)
        else:
            print("\n\n".join(component_page(entry) for entry in entries))
        return 0

    def _show_modules(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        registry = plugins.load_registry()
        from peftkit.analysis.component_description import find_components

        entries = find_components(args.name, registry)
        if not any(entry.kind == "method" for entry in entries):
            raise InputError(f"{args.name!r} is not a method; --model applies to methods only")
        method_name = entries[0].name
        names = [
            f"{key}={json.dumps(name)}" for key, name in (("method.name", method_name), ("model.name", args.model))
        ]
        options = [f"method.{option}" for option in args.overrides]
        # An empty recipe with these overrides: options are parsed, and rejected, as in any recipe.
        method = load_recipe(os.devnull, registry, [*names, "task.name=wordnet_topic", *options]).method
        from peftkit.analysis.method_summary import summarize_method  # imports torch: only once the options are valid

        summary = summarize_method(method, args.model)
        if args.json:
            modules = [{"name": t.modules, "count": t.number, "parameters": t.parameters} for t in summary.groups]
            document = {"method": method_name, "model": args.model, "architecture": summary.kind, "modules": modules}
            parameters = {"trainable_parameters": summary.trainable, "total_parameters": summary.total}
            self.print_json({**document, **parameters}, version=FORMAT)
            return 0
        print(f"{method_name} on {args.model} ({summary.kind})\n")
        width = max(len(touched.modules) for touched in summary.groups)
        for touched in summary.groups:
            print(f"  {touched.modules:{width}}  {touched.number:4} x  {touched.parameters:,}")
        share = summary.trainable / summary.total
        print(f"\ntrainable {summary.trainable:,} of {summary.total:,} parameters ({share:.2%})")
        return 0
