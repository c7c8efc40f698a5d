"""Loads the runs that a command compares, in groups of one task and model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.cli.subcommand import SubCommand

if TYPE_CHECKING:
    from peftkit.compare.input.groups import RunGroup


def load_compared_runs(args: argparse.Namespace) -> list[RunGroup]:
    """Loads the runs below RUNS, grouped by task and model; what is skipped is named on standard error.

    Args:
        args: The parsed arguments: ``runs``, ``pool``, ``match``, ``eval_set`` and ``quiet``.

    Returns:
        The groups, at least one.

    Raises:
        InputError: There are no runs, they are not comparable, or none is of the size that ``--match`` asks for.
    """
    from peftkit.compare import matched_methods

    groups, skipped = matched_methods.load_groups(map(Path, args.runs), args.pool, args.match, args.eval_set)
    for problem in skipped:
        SubCommand.notice(args, f"skipped: {problem}")
    return groups
