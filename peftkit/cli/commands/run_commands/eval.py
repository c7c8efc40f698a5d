"""``peftkit eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit import plugins
from peftkit.cli.arguments import add_run, count, documents
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError


class EvalCommand(SubCommand):
    """Evaluates a finished run on tasks of lm-evaluation-harness."""

    name = "eval"
    help = "Evaluate a finished run with lm-evaluation-harness; compare --eval-set TASK compares the results."
    examples = (
        ("Evaluate on two tasks", "peftkit eval runs/quickstart-1 --harness arc_easy,piqa"),
        ("Evaluate on a task of your own", "peftkit eval runs/quickstart-1 --harness my_task --include-path tasks"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument(
            "--harness", metavar="TASKS", required=True, help="Tasks, groups or tags of the library, after commas."
        )
        parser.add_argument("--include-path", metavar="FOLDER", help="Folder of YAML files with further tasks.")
        parser.add_argument(
            "--num-fewshot", type=int, metavar="N", help="Examples in the prompt. [default: as the task says]"
        )
        parser.add_argument(
            "--limit", type=documents, metavar="N", help="Evaluate the first N documents of each task only."
        )
        parser.add_argument(
            "--batch", type=count, metavar="SIZE", help="Requests in a batch. [default: the run's evaluation batch]"
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.harness.load_tasks import check_installed
        from peftkit.inference.finished_run import load_finished_run
        from peftkit.inference.harness_evaluation import HarnessSettings, evaluate_with_harness
        from peftkit.monitor.verbosity import quiet_libraries

        names = [name for name in map(str.strip, args.harness.split(",")) if name]
        if not names:
            raise InputError("--harness: name at least one task")
        settings = HarnessSettings(args.include_path, args.num_fewshot, args.limit, args.batch)
        check_installed()
        quiet_libraries(args.log_level or "warning")
        finished = load_finished_run(Path(args.run), plugins.load_registry())
        results = evaluate_with_harness(finished, names, settings)
        if args.json:
            self.print_json({"run": args.run, "tasks": results})
            return 0
        for name, result in results.items():
            few = result["settings"]["num_fewshot"]
            print(f"{name}: {result['num_examples']} examples, {few} in the prompt")
            for value, score in result["values"].items():
                print(f"  {value:<24} {score:.4f}")
        return 0
