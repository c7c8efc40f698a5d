"""``peftkit predict``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_run, count
from peftkit.cli.output_file import open_output
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError
from peftkit.json_files import to_json
from peftkit.standard_streams import shows_all_characters

if TYPE_CHECKING:
    from peftkit.data_files import FileOptions
    from peftkit.inference.finished_run import FinishedRun


class PredictCommand(SubCommand):
    """Predicts with a finished run."""

    name = "predict"
    help = "Predict with a finished run: lines of text or rows in, JSON lines out."
    examples = (
        ("Predict for one text", 'peftkit predict runs/quickstart-1 --text "a small bird"'),
        ("Predict for the rows of a file", "peftkit predict runs/quickstart-1 --file rows.csv -o predictions.jsonl"),
    )
    json_help = "Print one JSON document instead of JSON lines."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--text", help="Text to predict for. [default: lines of standard input]")
        source.add_argument(
            "--file",
            help="Rows, in a file like those of training or as CSV, TSV, JSON, JSONL or Parquet, or lines (any other "
            "file): texts or JSON objects.",
        )
        parser.add_argument("--delimiter", help="Character between the cells of FILE. [default: as in training]")
        parser.add_argument("--encoding", help="Encoding of FILE, such as cp1252. [default: as in training]")
        parser.add_argument("-o", "--output", metavar="FILE", help="Write to a file instead of standard output.")
        parser.add_argument(
            "--batch", type=count, metavar="SIZE", help="Examples in a batch. [default: the run's evaluation batch]"
        )
        parser.add_argument(
            "--stream", action="store_true", help="Predict batch by batch instead of reading all input first."
        )

    def needs_stdout(self, args: argparse.Namespace) -> bool:
        return args.output is None

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.data_files import read_prediction_inputs
        from peftkit.inference.finished_run import load_finished_run
        from peftkit.inference.predict import predict
        from peftkit.monitor.verbosity import quiet_libraries

        quiet_libraries(args.log_level)
        with open_output(args.output, args.file) as output:
            finished = load_finished_run(Path(args.run), plugins.load_registry())
            file, options = _file_and_options(args, finished)
            inputs = read_prediction_inputs(file, options) if args.text is None else [args.text]
            predictions = predict(finished, inputs, args.batch, stream=args.stream, name=args.file or "")
            escape = not shows_all_characters(output.stream)
            if args.json:
                document = {"format": 1, "predictions": list(predictions)}
                output.print_line(to_json(document, indent=2, escape=escape))
                return 0
            for prediction in predictions:
                output.print_line(to_json(prediction, escape=escape))
        return 0


def _file_and_options(args: argparse.Namespace, run: FinishedRun) -> tuple[str | None, FileOptions]:
    """Returns the file to predict, and how it is written."""
    from peftkit.data_files import (
        FileOptions,
        check_delimiter,
        check_encoding_name,
        check_inherited_encoding,
        is_archive,
    )

    changes: dict[str, Any] = {}
    for option, check in (("delimiter", check_delimiter), ("encoding", check_encoding_name)):
        if (value := getattr(args, option)) is not None:
            if args.file is None:
                raise InputError(f"--{option}: needs --file")
            try:
                changes[option] = check(value)
            except ValueError as error:
                raise InputError(f"--{option}: {error}") from error
    options = FileOptions() if args.file is None else run.recipe.task.prediction_options(args.file)
    if options.encoding and "encoding" not in changes and Path(args.file).is_file() and not is_archive(args.file):
        check_inherited_encoding(args.file, options.encoding)
    return args.file, replace(options, **changes)
