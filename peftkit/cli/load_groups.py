"""Loads the runs that a command compares, in groups of one task and model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.compare.input.groups import RunGroup


def load_groups(args: argparse.Namespace) -> list[RunGroup]:
    """Loads the runs below RUNS, grouped by task and model; what is skipped is named on standard error.

    Args:
        args: The parsed arguments: ``runs``, ``pool``, ``match`` and ``quiet``.

    Returns:
        The groups, at least one.

    Raises:
        InputError: There are no runs, they are not comparable, or none is of the size that ``--match`` asks for.
    """
    from peftkit.compare.input.groups import group_runs
    from peftkit.compare.input.load_runs import find_runs
    from peftkit.compare.matching import match_runs, parse_match

    wanted = None if args.match is None else parse_match(args.match)
    runs, problems = find_runs(map(Path, args.runs))
    groups: list[RunGroup] = []
    unmatched: list[str] = []
    for group in group_runs(runs, args.pool):
        try:
            groups.append(match_runs(group, wanted) if wanted else group)
        except InputError as error:
            unmatched.append(str(error))
    if not groups:
        raise InputError("\n".join(unmatched))
    for problem in (*problems, *unmatched):
        SubCommand.notice(args, f"skipped: {problem}")
    return groups
