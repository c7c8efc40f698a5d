"""The base class of every command."""

from __future__ import annotations

import argparse
import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from peftkit.standard_streams import shows_all_characters

LOG_LEVELS = ("debug", "info", "warning", "error")


class SubCommand(ABC):
    """One command: its arguments, its help, and what it does.

    Attributes:
        name: The word that calls it; ``task preview`` is ``preview`` in the group ``task``.
        help: One sentence for ``peftkit --help``.
        examples: Two or three pairs of a comment and a command that can be pasted.
        json_help: The help of ``--json``; None for a command that adds its own flag, or prints no data.
        writes_files: Whether its result is files: it then continues when nobody reads what it prints.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    examples: ClassVar[tuple[tuple[str, str], ...]]
    json_help: ClassVar[str | None] = "Print JSON."
    writes_files: ClassVar[bool] = False

    @abstractmethod
    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the arguments that only this command has.

        Args:
            parser: The command's parser.
        """

    @abstractmethod
    def run(self, args: argparse.Namespace) -> int:
        """Runs the command; heavy libraries are imported here.

        Args:
            args: The parsed arguments.

        Returns:
            The exit code.

        Raises:
            PeftkitError: The input is invalid, or the run failed.
        """

    def needs_stdout(self, args: argparse.Namespace) -> bool:
        """Whether the command ends when standard output cannot be written.

        Args:
            args: The parsed arguments.
        """
        return not self.writes_files

    def add_to(self, subparsers: Any, word: str) -> None:
        """Adds the command's parser.

        Args:
            subparsers: What ``add_subparsers`` returned.
            word: The word that calls the command among these.
        """
        examples = "\n".join(f"  # {comment}\n  {command}" for comment, command in self.examples)
        parser = subparsers.add_parser(
            word,
            help=self.help,
            description=self.help,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.set_defaults(command=self)
        self.add_arguments(parser)
        if self.json_help is not None:
            parser.add_argument("--json", action="store_true", help=self.json_help)
        parser.add_argument("-q", "--quiet", action="store_true", help="Print results and errors only.")
        parser.add_argument("--log-level", choices=LOG_LEVELS, help="Log level. [default: warning]")

    @staticmethod
    def notice(args: argparse.Namespace, text: str) -> None:
        """Prints a message that is no result on standard error, unless ``--quiet`` is given.

        Args:
            args: The parsed arguments.
            text: The message.
        """
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    @staticmethod
    def print_json(document: Mapping[str, Any], version: int = 1) -> None:
        """Prints a JSON document; numbers that JSON lacks (NaN, infinity) are null.

        Args:
            document: What it holds.
            version: The version of its keys, its ``format``.
        """
        escape = not shows_all_characters(sys.stdout)
        print(json.dumps(_finite({"format": version, **document}), indent=2, ensure_ascii=escape, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
