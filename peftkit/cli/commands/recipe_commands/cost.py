"""``peftkit cost``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from peftkit import plugins
from peftkit.cli.arguments import add_overrides, add_request
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.analysis.cost_estimate import CostEstimate
    from peftkit.recipe import Recipe


class CostCommand(SubCommand):
    """Estimates what training takes."""

    name = "cost"
    help = "Estimate the MACs, memory and time of recipes; loads no weights."
    examples = (
        (
            "Compare several, and time a few steps on this machine",
            "peftkit cost recipes/lora/dora.toml recipes/lora/olora.toml --trial",
        ),
        ("Find out how it fits into the memory of a GPU", "peftkit cost recipes/quickstart.toml --fits 24GiB"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="Recipes: TOML files.")
        add_overrides(parser, "Override a key of all recipes, such as train.batch_size=4. Repeatable.")
        parser.add_argument(
            "--trial", action="store_true", help="Make a few steps on this machine, and estimate the time of all."
        )

        parser.add_argument(
            "--serving", action="store_true", help="Estimate what serving the method takes, merged and not, instead."
        )
        add_request(parser)
        text = "Find the microbatches, gradient checkpointing and 4-bit weights that fit into this memory: 24GiB."
        parser.add_argument("--fits", metavar="MEMORY", help=text)

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        if args.fits is not None:
            return self._fits(args)
        registry = plugins.load_registry()
        recipes = [load_recipe(recipe, registry, args.overrides) for recipe in args.recipes]
        if args.serving:
            return self._serving(args, recipes)
        from peftkit.analysis.cost_estimate import estimate_cost  # imports torch: only once the recipes are valid

        estimates = (estimate_cost(recipe, registry, trial=args.trial) for recipe in recipes)
        if args.json:
            documents = [asdict(estimate) | {"memory_bytes": estimate.memory_bytes} for estimate in estimates]
            self.print_json({"recipes": documents})
        elif len(recipes) == 1:
            print(*estimates)
        else:
            widths = _print_head(recipes, trial=args.trial)
            for estimate in estimates:
                print(_line(widths, _cells(estimate)), flush=True)
        return 0

    def _fits(self, args: argparse.Namespace) -> int:
        from peftkit.compare.units import parse_bytes

        if args.trial or args.serving:
            raise InputError(f"--fits estimates memory; leave out {'--trial' if args.trial else '--serving'}")
        try:
            limit = parse_bytes(args.fits)
        except InputError as error:
            raise InputError(f"--fits: {error}") from error
        from peftkit.recipe import load_recipe

        registry = plugins.load_registry()

        def maker(path: str) -> Callable[[Sequence[str]], Recipe]:
            return lambda overrides: load_recipe(path, registry, [*args.overrides, *overrides])

        makers = [maker(path) for path in args.recipes]
        for make_recipe in makers:  # all are valid before anything is estimated
            make_recipe(())
        from peftkit.analysis.memory_fit import plan_memory

        fits = (plan_memory(make_recipe, registry, limit) for make_recipe in makers)
        if args.json:
            remedies = ((fit, fit.remedy) for fit in fits)
            documents = [asdict(fit) | {"remedy": remedy and asdict(remedy)} for fit, remedy in remedies]
            self.print_json({"recipes": documents})
            return 0
        for fit in fits:
            print(fit, flush=True)
        return 0

    def _serving(self, args: argparse.Namespace, recipes: Sequence[Recipe]) -> int:
        if args.trial:
            raise InputError("--trial times training; peftkit bench RUN times serving")
        from peftkit.analysis.serving_cost import estimate_serving

        costs = [estimate_serving(recipe, args.prompt_tokens, args.new_tokens) for recipe in recipes]
        if args.json:
            self.print_json({"recipes": [asdict(cost) for cost in costs]})
        else:
            print(*costs, sep="\n")
        return 0


def _print_head(recipes: Sequence[Recipe], *, trial: bool) -> tuple[int, int]:
    """Prints the heads of the table, and returns the widths of its first two columns."""
    widths = max(6, *(len(r.run.name) for r in recipes)), max(6, *(len(r.method.name) for r in recipes))
    titles = ("trainable", "GMACs/step", "/epoch", "total", "steps", "memory", "checkpoint")
    print(_line(widths, ["recipe", "method", *titles, *(("s/step", "s total") if trial else ())]))
    return widths


def _cells(estimate: CostEstimate) -> list[str]:
    from peftkit.analysis.cost_estimate import format_bytes, format_number

    seconds = (estimate.seconds_per_step, estimate.seconds) if estimate.seconds_per_step is not None else ()
    gmacs = (estimate.gmacs_per_step, estimate.gmacs_per_epoch, estimate.gmacs)
    return [
        estimate.name,
        estimate.method,
        f"{estimate.trainable_parameters:,}",
        *("?" if number is None else format_number(number) for number in gmacs),
        "?" if estimate.steps is None else f"{estimate.steps:,}",
        format_bytes(estimate.memory_bytes),
        format_bytes(estimate.checkpoint_bytes),
        *("?" if number is None else f"{number:,.3g}" for number in seconds),
    ]


def _line(widths: tuple[int, int], cells: Sequence[str]) -> str:
    name, method, trainable, *rest = cells
    return f"{name:<{widths[0]}}  {method:<{widths[1]}}{trainable:>13}" + "".join(f"{cell:>11}" for cell in rest)
