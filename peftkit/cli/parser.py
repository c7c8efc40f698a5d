"""The parser of the whole command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NoReturn

from peftkit import __version__
from peftkit.cli.commands import COMMANDS
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

GROUPS: Mapping[str, str] = {"task": "Inspect a task's data."}
"""The help of each word that has commands of its own below it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are reported like any other."""

    def error(self, message: str) -> NoReturn:
        """Reports wrong arguments; called by argparse.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{message}; for help, run: {self.prog} --help")


def build_parser() -> Parser:
    """Builds the parser; importing and building it loads no heavy library."""
    top = Parser(
        prog="peftkit",
        description="Compare parameter-efficient fine-tuning methods by score and cost.",
        epilog="`peftkit RECIPE` is short for `peftkit run RECIPE`.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"peftkit {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, title="commands")
    groups = {}
    for command in COMMANDS:
        group, _, word = command.name.rpartition(" ")
        if group and group not in groups:
            parser = commands.add_parser(group, help=GROUPS[group], description=GROUPS[group], allow_abbrev=False)
            groups[group] = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
        command().add_to(groups[group] if group else commands, word)
    return top


def commands_by_word() -> dict[str, type[SubCommand]]:
    """The first words that call commands, in the order of the help."""
    return {command.name.split()[0]: command for command in COMMANDS}
