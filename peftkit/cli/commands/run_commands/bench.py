"""``peftkit bench``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peftkit import plugins
from peftkit.cli.arguments import add_request, add_run, count
from peftkit.cli.subcommand import SubCommand


class BenchCommand(SubCommand):
    """Times requests to the model of a finished run."""

    name = "bench"
    help = "Time a finished run as a served model, merged and not: first token, tokens per second, memory."
    examples = (
        ("Time requests of 128 tokens in and 32 out", "peftkit bench runs/quickstart-1"),
        (
            "Choose the request",
            "peftkit bench runs/quickstart-1 --prompt-tokens 256 --new-tokens 64 --batch 1 --batch 4",
        ),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        add_request(parser)
        text = "Prompts that are sent at once. Repeatable. [default: 1 and 8]"
        parser.add_argument("--batch", type=count, metavar="SIZE", action="append", help=text)
        text = "Timed requests of each size. [default: 10]"
        parser.add_argument("--rounds", type=count, metavar="N", default=10, help=text)

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.inference.finished_run import load_finished_run
        from peftkit.inference.serving_benchmark import ServingRequest, benchmark_serving
        from peftkit.monitor.verbosity import quiet_libraries

        quiet_libraries(args.log_level or "warning")
        registry = plugins.load_registry()
        sizes = tuple(dict.fromkeys(args.batch or (1, 8)))
        request = ServingRequest(args.prompt_tokens, args.new_tokens, sizes, args.rounds)
        result = benchmark_serving(load_finished_run(Path(args.run), registry), registry, request)
        if args.json:
            self.print_json({"run": args.run, **result})
            return 0
        _print(result)
        return 0


def _print(result: dict[str, Any]) -> None:
    """Prints a line for each measurement."""
    size = f"{result['prompt_tokens']} tokens in"
    out = f", {result['new_tokens']} out" if result["new_tokens"] else ""
    print(f"requests of {size}{out}; medians of {result['rounds']} with 95 % intervals")
    for each in result["measurements"]:
        latency = each.get("first_token_seconds") or each["seconds"]
        rate = each.get("tokens_per_second") or each["texts_per_second"]
        unit = "tokens/s" if "tokens_per_second" in each else "texts/s"
        low, middle, high = (1000 * latency[key] for key in ("low", "median", "high"))
        memory = (each["peak_device_bytes"] or each["peak_host_bytes"]) / 2**30
        print(
            f"  {'merged' if each['merged'] else 'unmerged':<9} batch {each['batch_size']:<4} "
            f"{middle:,.4g} ms ({low:,.4g} – {high:,.4g})"
            f"{' to the first token' if out else ''}, {rate['median']:,.4g} {unit} "
            f"({rate['low']:,.4g} – {rate['high']:,.4g}), peak memory {memory:.2f} GiB"
        )
    if result["why_not_merged"]:
        print(f"  not merged: {result['why_not_merged']}")
