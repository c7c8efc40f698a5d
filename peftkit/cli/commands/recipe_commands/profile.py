"""``peftkit profile``."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_recipe
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.analysis.step_profile import StepProfile

SHOWN_CHARACTERS = 70
"""Of an operation's name: those of GPU kernels are longer than a line."""


class ProfileCommand(SubCommand):
    """Profiles training steps."""

    name = "profile"
    help = "Profile 20 training steps of a recipe."
    examples = (
        ("Show where the time of a step goes", "peftkit profile recipes/quickstart.toml"),
        ("Save a trace for chrome://tracing", "peftkit profile recipes/quickstart.toml --trace trace.json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument("--trace", metavar="FILE", help="Write all events to a file for chrome://tracing.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler logs its start and end on standard error
        registry = plugins.load_registry()
        recipe = load_recipe(args.recipe, registry, args.overrides)
        if args.trace:
            try:
                Path(args.trace).touch()  # before the steps, which take a while
            except OSError as error:
                raise InputError(f"--trace: {args.trace} cannot be written: {error.strerror}") from error
        from peftkit.analysis.step_profile import profile_steps  # imports torch: only once the recipe is valid

        profile = profile_steps(recipe, registry, Path(args.trace) if args.trace else None)
        if profile is not None and args.json:  # None on all processes but the main one
            self.print_json(_document(profile), version=2)
        elif profile is not None:
            print(_page(profile, args.trace))
        return 0


def _document(profile: StepProfile) -> dict[str, Any]:
    operations = [
        {"name": name, "seconds_per_step": seconds, "calls_per_step": calls}
        for name, seconds, calls in profile.operations
    ]
    return {**asdict(profile), "operations": operations}


def _page(profile: StepProfile, trace: str | None) -> str:
    total = sum(profile.seconds_per_step.values())
    lines = [f"{profile.name}: {profile.method} with {profile.model}, {profile.steps} steps of {1000 * total:,.1f} ms"]
    lines.append(f"  on {profile.device}, {profile.threads} threads, {profile.processes} processes")
    lines += [_time(part, seconds, total) for part, seconds in profile.seconds_per_step.items()]
    if profile.processes > 1:
        lines.append(_time("collective", profile.collective_seconds_per_step, total) + " (included above)")
    share = profile.macs_per_second / profile.peak_macs_per_second
    peak = _rate(profile.peak_macs_per_second)
    lines.append(f"  {_rate(profile.macs_per_second)}, {share:.0%} of the {peak} of a large matrix product here")
    lines.append("  longest operations:")
    for name, seconds, calls in profile.operations:
        shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[: SHOWN_CHARACTERS - 1]}…"
        lines.append(f"{_time('', seconds, total, 4)}  {calls:>7,}×  {shown}")
    return "\n".join([*lines, f"  events: {trace}"] if trace else lines)


def _time(part: str, seconds: float, total: float, width: int = 34) -> str:
    return f"  {part:<{width}}{1000 * seconds:>10,.2f} ms {seconds / total:>5.0%}"


def _rate(macs: float) -> str:
    return f"{macs / 1e9:,.4g} GMAC/s"
