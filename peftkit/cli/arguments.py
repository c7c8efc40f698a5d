"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math

from peftkit.cli.completers import complete_with, component_names, metric_names, recipe_overrides

POOLED = ("hardware", "versions", "precision", "data", "evaluation", "cadence", "budget", "training", "tuning")
"""What may differ between runs that are compared, if it is named; the keys of the comparison's fairness checks."""
COST_AXES = ("gmacs", "seconds", "wall_seconds", "samples", "tokens", "joules")
DERIVED_AXES = ("gmacs_with_tuning", "peak_memory", "trainable_parameters")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds RECIPE and ``--set``."""
    parser.add_argument("recipe", metavar="RECIPE", help="A recipe: a TOML file.")
    add_overrides(parser, "Override a key of the recipe, such as train.batch_size=4. Repeatable.")


def add_overrides(parser: argparse.ArgumentParser, text: str, metavar: str = "KEY=VALUE") -> argparse.Action:
    """Adds ``--set``.

    Args:
        parser: The command's parser.
        text: The help.
        metavar: The form of a value.
    """
    action = parser.add_argument("--set", dest="overrides", metavar=metavar, action="append", default=[], help=text)
    return complete_with(action, recipe_overrides)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds RUN, one run directory."""
    parser.add_argument("run", metavar="RUN", help="A run directory.")


def add_request(parser: argparse.ArgumentParser) -> None:
    """Adds ``--prompt-tokens`` and ``--new-tokens``, the size of a request to a served model."""
    text = "Tokens of a request's prompt. [default: 128]"
    parser.add_argument("--prompt-tokens", type=_tokens, metavar="N", default=128, help=text)
    text = "Generated tokens of a request, at least 2; none by encoders. [default: 32]"
    parser.add_argument("--new-tokens", type=_new_tokens, metavar="N", default=32, help=text)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds RUNS, one run directory or more."""
    parser.add_argument("runs", metavar="RUNS", nargs="+", help="Run directories, or folders that contain them.")


def add_cost_axis(parser: argparse.ArgumentParser, *, derived: bool = True) -> None:
    """Adds ``--by``.

    Args:
        parser: The command's parser.
        derived: Whether costs that are not measured along the curve are allowed.
    """
    axes = (*COST_AXES, *DERIVED_AXES) if derived else COST_AXES
    parser.add_argument("--by", choices=axes, default="gmacs", help="Cost. [default: gmacs]")


def add_metric(parser: argparse.ArgumentParser) -> None:
    """Adds ``--metric``, ``--eval-set``, ``--baseline`` and ``--margin``."""
    metric = parser.add_argument("--metric", help="Test metric. [default: the selection metric]")
    complete_with(metric, metric_names)
    parser.add_argument("--eval-set", metavar="NAME", help="Evaluation set to compare by. [default: test]")
    baseline = parser.add_argument("--baseline", default="full", help="Reference method. [default: full]")
    complete_with(baseline, component_names("method"))
    parser.add_argument(
        "--margin",
        type=positive,
        help="Score difference that does not matter. [default: 0.01 for shares, 1%% of other scores]",
    )


def add_fairness(parser: argparse.ArgumentParser) -> None:
    """Adds ``--pool`` and ``--match``."""
    parser.add_argument(
        "--pool", choices=POOLED, action="append", default=[], help="Compare runs although this differs. Repeatable."
    )
    parser.add_argument(
        "--match",
        metavar="SIZE",
        help="Compare the variant of each method nearest to this size: parameters=1e5±20%%, memory=2GiB±10%%.",
    )


def share(text: str) -> float:
    """Parses a share above 0 and at most 1.

    Raises:
        ArgumentTypeError: It is none.
    """
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text!r}")
    return value


def positive(text: str) -> float:
    """Parses a finite number above 0.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _tokens(text: str) -> int:
    return _whole_number(text, 1)


def _new_tokens(text: str) -> int:
    return _whole_number(text, 2)


def documents(text: str) -> int:
    """Parses a whole number from 1 on.

    Raises:
        ArgumentTypeError: It is none.
    """
    return _whole_number(text, 1)


def _whole_number(text: str, smallest: int) -> int:
    if not text.isdigit() or not smallest <= int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {smallest}, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """Parses a whole number from 1 to 1000.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 1000, not {text!r}")
    return int(text)
