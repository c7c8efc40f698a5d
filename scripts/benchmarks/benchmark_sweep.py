"""Compares a sweep's runs that share model and data with runs that load their own.

    python scripts/benchmarks/benchmark_sweep.py [--runs N] [--seconds S] [--method NAME …] [--model NAME]

Each run is made twice, one after the other, so that a ratio compares neighbours in time. What is neither training nor
evaluation counts as the start of a run; it includes writing the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.sweep.process_executor import Workers
from peftkit.sweep.scheduler import find_run

METHODS = ("lora", "full", "layer_norm", "ia3")
RECIPE = """
[task]
name = "wordnet_topic"
[train]
batch_size = 16
learning_rate = 1e-3
checkpoint.every = "off"
[evaluate]
every = "50%"
full_splits = false
train_examples = 0
dev_examples = 50
test_examples = 100
[track]
to = []
"""


@dataclass(frozen=True)
class Times:
    """Seconds of one run."""

    total: float
    training: float
    evaluation: float

    @property
    def start(self) -> float:
        """What is neither training nor evaluation."""
        return self.total - self.training - self.evaluation


def make_recipes(folder: Path, args: argparse.Namespace, name: str) -> list[Recipe]:
    """Make the recipes of the sweep: the methods in turn, each with further seeds."""
    base, registry = folder / "base.toml", load_registry()
    base.write_text(RECIPE)
    methods = args.method or METHODS
    recipes = []
    for number in range(args.runs):
        overrides = {
            "model.name": args.model,
            "method.name": methods[number * len(methods) // args.runs],
            "run.seed": number,
            "run.output": str(folder / name / str(number)),
            "train.budget.seconds": args.seconds,
        }
        recipes.append(load_recipe(base, registry, [f"{key}={json.dumps(value)}" for key, value in overrides.items()]))
    return recipes


def time_run(workers: Workers, recipe: Recipe) -> Times:
    """Run a recipe; a run that fails ends the benchmark."""
    folder = Path(recipe.run.output)
    folder.mkdir(parents=True)
    (folder / "asked.toml").write_text(dump_recipe(recipe))
    outcome = workers.run(folder / "asked.toml", None, folder / "log.txt")
    run = find_run(recipe)
    if outcome.code or run is None:
        raise SystemExit("\n".join(outcome.last_lines))
    summary = run.summary()
    return Times(outcome.seconds, summary["cost"]["train_seconds"], summary["evaluation_seconds"])


def describe(name: str, times: list[Times]) -> str:
    """The sums of the runs, and the start of a run after the first."""
    total, training, evaluation = (sum(getattr(t, key) for t in times) for key in ("total", "training", "evaluation"))
    start = total - training - evaluation
    shares = ", ".join(
        f"{part} {seconds:.0f} s ({seconds / total:.0%})"
        for part, seconds in (("training", training), ("evaluation", evaluation), ("start", start))
    )
    later = median(each.start for each in times[1:] or times)
    return f"{name}: {total:.0f} s: {shares}; start of a run after the first {later:.2f} s (median)"


def main() -> None:
    """Run and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0, help="Training time of each run.")
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--model", default="pocket-t5")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared, apart = (make_recipes(Path(folder), args, name) for name in ("shared", "apart"))
        warm, cold = Workers(1), Workers(1, warm=False)
        times: dict[str, list[Times]] = {"shared": [], "apart": []}
        with warm.handle_signals():
            for sharing, other in zip(shared, apart, strict=True):
                times["shared"].append(time_run(warm, sharing))
                times["apart"].append(time_run(cold, other))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} threads, {versions}")
    for name, each in times.items():
        print(describe(name, each))
    shared_total, apart_total = (sum(t.total for t in each) for each in times.values())
    print(f"ratio of the totals {shared_total / apart_total:.2f}")


if __name__ == "__main__":
    main()
