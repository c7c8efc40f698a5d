"""The command line: ``peftkit VERB …`` or ``peftkit RECIPE``. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from peftkit import __version__
from peftkit.cli import actions
from peftkit.errors import InputError, PeftkitError, did_you_mean
from peftkit.output import Output, OutputClosed, OutputError, safe_streams

POOLED = ("hardware", "versions", "precision", "data", "evaluation", "cadence", "budget", "training", "tuning")
AXES = ("gmacs", "seconds", "samples", "tokens", "joules")
LASTING = ("run", "sweep", "merge", "export", "push", "import", "report", "new")
"""Verbs whose results are files: they do not end where nobody reads what they print."""
LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 done, 1 the run failed, 2 wrong input, 130/143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with safe_streams() as (output, errors):
        try:
            return _exit_code(words, output)
        finally:
            errors.flush()


def _exit_code(words: list[str], output: Output) -> int:
    try:
        try:
            return _main(words, output)
        finally:
            output.flush()  # here, where a closed pipe is no error
    except OutputClosed as closed:
        return closed.exit_code
    except PeftkitError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return 128 + signal.SIGINT


class Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like any other: in words, and by one process of a launch."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; see `{self.prog} --help`")


def parser() -> argparse.ArgumentParser:
    """The whole command line's parser."""
    top = Parser(
        prog="peftkit",
        description="Which parameter-efficient fine-tuning method learns most for a given amount of work?",
        epilog="A first argument that is a file is run: peftkit RECIPE means peftkit run RECIPE.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"peftkit {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, action: Callable[[argparse.Namespace], int], among: Any = verbs) -> Any:
        added = among.add_parser(name, help=action.__doc__, description=action.__doc__, allow_abbrev=False)
        added.set_defaults(action=action)
        added.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="how much is told on stderr")
        return added

    running = verb("run", actions.run)
    _takes_recipe(running)
    running.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const="",
        help="go on in a run directory, or without one in the latest of this recipe",
    )
    _takes_recipe(verb("check", actions.check))
    cost = verb("cost", actions.cost)
    cost.add_argument("recipes", metavar="RECIPE", nargs="+", help="TOML files")
    _takes_overrides(cost, "KEY.PATH=VALUE", "override a key in all of them; may be given often")
    cost.add_argument(
        "--trial", action="store_true", help="make a few steps on this machine, and say how long all take"
    )
    profile = verb("profile", actions.profile)
    _takes_recipe(profile)
    profile.add_argument("--trace", metavar="FILE", default="", help="a file for all events, for chrome://tracing")
    for table in (cost, profile):
        table.add_argument("--json", action="store_true", help="print JSON")
    comparing = verb("compare", actions.compare)
    _takes_runs(comparing)
    comparing.add_argument(
        "--share",
        type=_share,
        action="append",
        help="of the baseline's best that is asked for; may be given often (0.95)",
    )
    comparing.add_argument(
        "--budget", type=_cost_of, action="append", help="name the best method within it; may be given often (five)"
    )
    instead = comparing.add_mutually_exclusive_group()
    instead.add_argument("--regret", action="store_true", help="print what tuning tried, with scores and losses on dev")
    instead.add_argument(
        "--across", action="store_true", help="put tasks and models together, and say which method is best overall"
    )
    forms = ["table", "json", "csv", "parquet", "latex", "markdown"]
    comparing.add_argument("--wide", action="store_true", help="show all columns, and notes on pairwise tests")
    comparing.add_argument("--format", choices=forms, default="table", help="how it is told (table)")
    comparing.add_argument("-o", "--output", default="", help="a file for it, instead of standard output")
    advising = verb("advise", actions.advise)
    advising.add_argument("runs", metavar="RUNS", nargs="+", help="run directories, or folders of them")
    advising.add_argument("--budget", required=True, help="what may be spent: 5e5gmacs, 2h, 1e6tokens, 3e4samples")
    advising.add_argument("--memory", default="", help="the most that training may take at its peak: 8GiB")
    _takes_metric(advising)
    _takes_fairness(advising)
    advising.add_argument("--json", action="store_true", help="print JSON")
    reporting = verb("report", actions.report)
    _takes_runs(reporting)
    reporting.add_argument("-o", "--output", default="", help="the page (report.html, unless only --figures is given)")
    reporting.add_argument("--title", default="What learns most for the work", help="what stands above it")
    reporting.add_argument("--figures", metavar="DIR", default="", help="a folder for figures and LaTeX tables")
    reporting.add_argument(
        "--form", choices=["svg", "png", "pdf"], action="append", help="of the figures; may be given often (svg)"
    )
    reporting.add_argument("--verified", action="store_true", help="verify the runs, and show what came of it")
    verifying = verb("verify", actions.verify)
    verifying.add_argument("runs", metavar="RUNS", nargs="+", help="run directories, or folders of them")
    verifying.add_argument("--no-model", action="store_true", help="load no weights: leave the saved model unchecked")
    verifying.add_argument("--json", action="store_true", help="print JSON")
    watching = verb("watch", actions.watch)
    watching.add_argument("run", metavar="RUN", help="a run directory")
    watching.add_argument("--by", choices=AXES, default="gmacs", help="the cost (gmacs)")
    watching.add_argument("--metric", help="what is drawn (accuracy, or the first there is)")
    watching.add_argument("--once", action="store_true", help="draw it as it is, and end")
    importing = verb("import", actions.import_)
    importing.add_argument("system", choices=["peft-by-time", "peft-method-comparison"], help="whose results they are")
    importing.add_argument("files", metavar="FILE", nargs="+", help="result files")
    importing.add_argument("-o", "--output", default="runs/imported", help="where the folders are made (runs/imported)")
    sweep = verb("sweep", actions.sweep)
    sweep.add_argument(
        "what",
        nargs="?",
        choices=["run", "plan", "status"],
        default="run",
        help="run it, say what it will take, or say what is done (run)",
    )
    sweep.add_argument("file", metavar="SWEEP", help="a TOML file")
    _takes_overrides(sweep, "KEY.PATH=VALUE", "override a key of the base recipe; may be given often")
    sweep.add_argument(
        "--only", metavar="AXIS=VALUE", action="append", default=[], help="of an axis only this; may be given often"
    )
    sweep.add_argument("--jobs", type=_number, help="runs at a time (one on each GPU, or one)")
    sweep.add_argument("--executor", choices=["local", "slurm"], default="local", help="where it is run (local)")
    sweep.add_argument("--no-trial", action="store_true", help="plan: make no steps, and predict no time")
    sweep.add_argument("--json", action="store_true", help="plan, status: print JSON")
    listing = verb("list", actions.list_)
    listing.add_argument("kind", nargs="?", choices=["methods", "tasks", "metrics", "meters"], help="only these")
    show = verb("show", actions.show)
    show.add_argument("name", metavar="NAME", help="a component's name")
    show.add_argument("--model", metavar="MODEL", help="which modules of it a method touches; reads no weights")
    _takes_overrides(show, "KEY=VALUE", "an option of the method, such as r=16; with --model")
    for table in (listing, show):
        table.add_argument("--json", action="store_true", help="print JSON")
    predict = verb("predict", actions.predict)
    predict.add_argument("run", metavar="RUN", help="a run directory")
    predict.add_argument("--text", help="one text, instead of lines from standard input")
    predict.add_argument(
        "--file",
        help="a CSV, TSV, JSON, JSONL or Parquet file of rows, or any other file of lines: texts or JSON objects",
    )
    predict.add_argument("-o", "--output", help="a file for the predictions, instead of standard output")
    predict.add_argument("--batch", type=_number, help="lines that go through the model together (the run's)")
    predict.add_argument("--stream", action="store_true", help="predict batch by batch, instead of reading all first")
    for name, action in (("merge", actions.merge), ("export", actions.export)):
        added = verb(name, action)
        added.add_argument("run", metavar="RUN", help="a run directory")
        added.add_argument("out", metavar="OUT", help="a folder that is to be made")
    push = verb("push", actions.push)
    push.add_argument("run", metavar="RUN", help="a run directory")
    push.add_argument("repository", metavar="OWNER/NAME", help="a repository, which is made where there is none")
    push.add_argument("--private", action="store_true", help="make it a private one")
    new = verb("new", actions.new)
    new.add_argument("kind", choices=["method", "task", "metric"], help="what it is to hold")
    new.add_argument("name", metavar="NAME", help="the component's name")
    new.add_argument("--in", dest="parent", metavar="FOLDER", default=".", help="where its folder is to be made (.)")
    verb("schema", actions.schema)
    text = "Look at a task's data."
    task = verbs.add_parser("task", help=text, description=text, allow_abbrev=False)
    views = task.add_subparsers(dest="view", metavar="VIEW", required=True)
    preview = verb("preview", actions.preview, views)
    _takes_recipe(preview)
    preview.add_argument("-n", "--number", type=_number, default=5, help="rows to show (5)")
    preview.add_argument("--split", choices=["train", "dev", "test"], default="train", help="whose rows (train)")
    preview.add_argument("--json", action="store_true", help="print JSON")
    return top


def _takes_recipe(added: argparse.ArgumentParser) -> None:
    added.add_argument("recipe", metavar="RECIPE", help="a TOML file")
    _takes_overrides(added, "KEY.PATH=VALUE", "override a key, such as train.batch_size=4; may be given often")


def _takes_overrides(added: argparse.ArgumentParser, form: str, text: str) -> None:
    added.add_argument("--set", dest="overrides", metavar=form, action="append", default=[], help=text)


def _takes_runs(added: argparse.ArgumentParser) -> None:
    added.add_argument("runs", metavar="RUNS", nargs="+", help="run directories, or folders of them")
    added.add_argument(
        "--by",
        choices=[*AXES, "gmacs_with_tuning", "peak_memory", "trainable_parameters"],
        default="gmacs",
        help="the cost (gmacs)",
    )
    _takes_metric(added)
    _takes_fairness(added)


def _takes_metric(added: argparse.ArgumentParser) -> None:
    added.add_argument("--metric", help="the metric on test (the one that selects on dev)")
    added.add_argument("--baseline", default="full", help="the method that others are measured by (full)")
    added.add_argument(
        "--margin",
        type=_cost_of,
        help="a difference in score that does not matter (0.01 of a share, 1%% of other scores)",
    )


def _takes_fairness(added: argparse.ArgumentParser) -> None:
    added.add_argument("--pool", choices=POOLED, action="append", default=[], help="compare although this differs")
    added.add_argument("--match", help="compare each method's nearest variant: parameters=1e5±20%%, memory=2GiB±10%%")


def _share(text: str) -> float:
    value = _cost_of(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text!r}")
    return value


def _cost_of(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 1000, not {text!r}")
    return int(text)


def _main(words: list[str], output: Output) -> int:
    output.required = True
    top = parser()
    verbs = next(a.choices for a in top._actions if isinstance(a, argparse._SubParsersAction))
    if words and (os.path.isfile(words[0]) or not (words[0].startswith("-") or words[0] in verbs)):
        if not _may_be_recipe(words[0]):
            text = f"{words[0]!r} is neither a file nor a verb{did_you_mean(words[0], verbs)}"
            raise InputError(f"{text}; verbs: {', '.join(verbs)}")
        words = ["run", *words]
    options = top.parse_args(words)
    logging.basicConfig(level=options.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    if options.verb in LASTING and getattr(options, "what", "run") == "run":
        output.required = False  # what they write is in folders
    elif output.failure:
        raise OutputError(f"standard output cannot be written: {output.failure}")
    result: int = options.action(options)
    output.flush()
    if output.failure and not (output.required or output.closed):
        print(f"peftkit: standard output could not be written to its end: {output.failure}", file=sys.stderr)
    return result


def _may_be_recipe(word: str) -> bool:
    """Whether a file is meant, even where there is none: then reading it says what is wrong."""
    return word.endswith(".toml") or "/" in word or os.sep in word or os.path.exists(word)


def _complain(text: str) -> None:
    """One voice for an error that every process of a launch meets."""
    if os.environ.get("RANK", "0") == "0":
        print(f"peftkit: error: {text}" if "\n" not in text else f"peftkit: errors:\n{text}", file=sys.stderr)
