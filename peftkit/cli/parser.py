"""The parser of the whole command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

from peftkit import __version__
from peftkit.cli.commands import COMMANDS
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

GROUPS: Mapping[str, str] = {"task": "Inspect a task's data."}
"""The help of each word that has commands of its own below it."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are reported like any other, and whose options may stand anywhere."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses arguments; argparse alone fills an optional positional argument with nothing before an option.

        Args:
            args: The words of the command line.
            namespace: The namespace to fill.
        """
        positional = [action for action in self._actions if not action.option_strings]
        if args and any(action.nargs == "?" for action in positional[:-1]):
            args = self._move_options_last(args)
        return super().parse_known_args(args, namespace)

    def _move_options_last(self, args: Sequence[str]) -> list[str]:
        positional: list[str] = []
        options: list[str] = []
        words = iter(args)
        for word in words:
            action = self._option_string_actions.get(word.partition("=")[0])
            if word == "--" or (action is None and word.startswith("-")):
                return [*args]  # an error, or words that only look like options
            (positional if action is None else options).append(word)
            if action is not None and action.nargs is None and "=" not in word:
                options += [*islice(words, 1)]
        return [*positional, *options]

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
