"""Runs one command and turns what happens into an exit code."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peftkit.argument_names import command_line
from peftkit.cli.error_output import print_error, print_interrupted
from peftkit.cli.keyboard_interrupt import SigintRecord
from peftkit.cli.parser import build_parser, commands_by_word
from peftkit.cli.subcommand import SubCommand
from peftkit.distributed.environment_variables import remove_framework_variables
from peftkit.distributed.parsed_variables import check_parsed_variables
from peftkit.errors import InputError, PeftkitError, RunInterrupted, did_you_mean
from peftkit.standard_streams import Output, OutputClosed, OutputError, safe_streams


def dispatch(arguments: Sequence[str], sigint: SigintRecord) -> int:
    """Runs the command that the arguments name.

    Args:
        arguments: The words after ``peftkit``.
        sigint: Records Ctrl-C.

    Returns:
        The exit code.

    Raises:
        KeyboardInterrupt: The command was interrupted.
    """
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        from peftkit.cli.completers import print_completions

        print_completions(build_parser())
    remove_framework_variables()
    with safe_streams() as (output, errors), command_line():
        try:
            return _exit_code(arguments, output, sigint)
        finally:
            errors.flush()


def _exit_code(arguments: Sequence[str], output: Output, sigint: SigintRecord) -> int:
    try:
        try:
            return _run(arguments, output)
        finally:
            output.flush()  # here, where a closed pipe is no error
    except OutputClosed as closed:
        return closed.exit_code
    except RunInterrupted as interrupted:
        print_interrupted(str(interrupted))
        return interrupted.exit_code
    except PeftkitError as error:
        if sigint.received:  # what Ctrl-C broke is no error
            raise KeyboardInterrupt from error
        print_error(str(error))
        return error.exit_code


def _run(arguments: Sequence[str], output: Output) -> int:
    if sys.flags.optimize > 1:
        raise InputError("Python runs with -OO or PYTHONOPTIMIZE=2; transformers needs docstrings, so use at most 1")
    output.required = True
    args = build_parser().parse_args(_with_command(arguments))
    args.command_line = shlex.join(["peftkit", *arguments])
    command: SubCommand = args.command
    check_parsed_variables()
    with _log_level(args):
        if not command.needs_stdout(args):
            output.required = False
        elif output.failure:
            raise OutputError(f"standard output cannot be written: {output.failure}")
        code = command.run(args)
    output.flush()
    if output.failure and not (output.required or output.closed):
        print(f"peftkit: standard output could not be written to its end: {output.failure}", file=sys.stderr)
    return code


def _with_command(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``run`` in front where the first one is a recipe.

    Raises:
        InputError: The first argument is neither a command nor a file.
    """
    words, known = list(arguments), commands_by_word()
    if not words or words[0] in known or (words[0].startswith("-") and not os.path.isfile(words[0])):
        return words
    if not _may_be_recipe(words[0]):
        near = did_you_mean(words[0], known)
        raise InputError(f"{words[0]!r} is neither a file nor a command{near}; commands: {', '.join(known)}")
    return ["run", *words]


def _may_be_recipe(word: str) -> bool:
    """Whether a word looks like a file, also one that does not exist: reading it reports what is wrong."""
    return word.endswith(".toml") or "/" in word or os.sep in word or os.path.exists(word)


@contextmanager
def _log_level(args: Namespace) -> Iterator[None]:
    """Sets the level of log messages; ``--quiet`` also silences Python's warnings and the banners of trackers."""
    args.log_level = args.log_level or ("error" if args.quiet else "warning")
    logging.basicConfig(level=args.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    with warnings.catch_warnings():
        if args.quiet:
            warnings.simplefilter("ignore")
            os.environ.setdefault("WANDB_SILENT", "true")
        yield
