"""``peftkit cost``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_overrides
from peftkit.cli.subcommand import SubCommand

if TYPE_CHECKING:
    from peftkit.analysis.cost_estimate import CostEstimate
    from peftkit.recipe import Recipe


class CostCommand(SubCommand):
    """Estimates what training takes."""

    name = "cost"
    help = "Estimate the MACs, memory and time of recipes; loads no weights."
    examples = (
        ("Estimate one recipe", "peftkit cost recipes/quickstart.toml"),
        (
            "Compare several, and time a few steps on this machine",
            "peftkit cost recipes/lora/dora.toml recipes/lora/olora.toml --trial",
        ),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="Recipes: TOML files.")
        add_overrides(parser, "Override a key of all recipes, such as train.batch_size=4. Repeatable.")
        parser.add_argument(
            "--trial", action="store_true", help="Make a few steps on this machine, and estimate the time of all."
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        registry = plugins.load_registry()
        recipes = [load_recipe(recipe, registry, args.overrides) for recipe in args.recipes]
        from peftkit.analysis.cost_estimate import estimate_cost  # imports torch: only once the recipes are valid

        estimates = (estimate_cost(recipe, registry, trial=args.trial) for recipe in recipes)
        if args.json:
            documents = [asdict(estimate) | {"memory_bytes": estimate.memory_bytes} for estimate in estimates]
            self.print_json({"recipes": documents})
        elif len(recipes) == 1:
            print(*map(_page, estimates))
        else:
            widths = _print_head(recipes, trial=args.trial)
            for estimate in estimates:
                print(_line(widths, _cells(estimate)), flush=True)
        return 0


def _page(estimate: CostEstimate) -> str:
    share = estimate.trainable_parameters / estimate.total_parameters
    memory = {
        "weights": estimate.weight_bytes,
        "gradients": estimate.gradient_bytes,
        "optimizer": estimate.optimizer_bytes,
        "activations": estimate.activation_bytes,
    }
    parts = ", ".join(f"{key} {_bytes(value)}" for key, value in memory.items())
    parameters = f"{estimate.trainable_parameters:,} of {estimate.total_parameters:,} parameters ({share:.2%})"
    rows = [
        ("trainable", parameters),
        ("per step", f"{_number(estimate.gmacs_per_step)} GMACs, {estimate.effective_batch} rows"),
        ("per epoch", _amount(estimate.steps_per_epoch, estimate.gmacs_per_epoch)),
        ("total", _amount(estimate.steps, estimate.gmacs)),
        ("memory", f"{_bytes(estimate.memory_bytes)} ({parts})"),
        ("checkpoint", _bytes(estimate.checkpoint_bytes)),
    ]
    if estimate.seconds_per_step is not None:
        times: dict[str, Any] = {"per step": estimate.seconds_per_step, "per epoch": estimate.seconds_per_epoch}
        times["total"] = estimate.seconds
        text = ", ".join(f"{key} {value:,.3g} s" for key, value in times.items() if value is not None)
        rows.append(("time here", text))
    head = f"{estimate.name}: {estimate.method} on {estimate.task} with {estimate.model}"
    return "\n".join([head, *(f"  {key:<11}{value}" for key, value in rows)])


def _print_head(recipes: Sequence[Recipe], *, trial: bool) -> tuple[int, int]:
    """Prints the heads of the table, and returns the widths of its first two columns."""
    widths = max(6, *(len(r.run.name) for r in recipes)), max(6, *(len(r.method.name) for r in recipes))
    titles = ("trainable", "GMACs/step", "/epoch", "total", "steps", "memory", "checkpoint")
    print(_line(widths, ["recipe", "method", *titles, *(("s/step", "s total") if trial else ())]))
    return widths


def _cells(estimate: CostEstimate) -> list[str]:
    seconds = (estimate.seconds_per_step, estimate.seconds) if estimate.seconds_per_step is not None else ()
    gmacs = (estimate.gmacs_per_step, estimate.gmacs_per_epoch, estimate.gmacs)
    return [
        estimate.name,
        estimate.method,
        f"{estimate.trainable_parameters:,}",
        *("?" if number is None else _number(number) for number in gmacs),
        "?" if estimate.steps is None else f"{estimate.steps:,}",
        _bytes(estimate.memory_bytes),
        _bytes(estimate.checkpoint_bytes),
        *("?" if number is None else f"{number:,.3g}" for number in seconds),
    ]


def _line(widths: tuple[int, int], cells: Sequence[str]) -> str:
    name, method, trainable, *rest = cells
    return f"{name:<{widths[0]}}  {method:<{widths[1]}}{trainable:>13}" + "".join(f"{cell:>11}" for cell in rest)


def _amount(steps: int | None, gmacs: float | None) -> str:
    if steps is None or gmacs is None:
        return "unknown before the run"
    return f"{_number(gmacs)} GMACs, {steps:,} steps"


def _number(value: float) -> str:
    """Five digits, without an exponent for large numbers."""
    return f"{float(f'{value:.5g}'):,.15g}"


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} GiB"
