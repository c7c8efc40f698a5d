"""Times the runs of a sweep, which share model, data and first evaluation, and a sample of them in fresh processes.

    python scripts/benchmarks/benchmark_sweep.py                                   # 24 runs of 5 s: about five minutes
    python scripts/benchmarks/benchmark_sweep.py --runs 6 --seconds 1 --fresh 2    # about a minute

Runs of the sample are made twice, one after the other, so that a ratio compares neighbours in time. What is neither
training nor evaluation counts as the start of a run; it includes writing the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
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
    reuses: bool
    """Whether the evaluation before training is that of another run."""

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
    cost, reused = summary["cost"], summary["reused_evaluation_seconds"]
    return Times(outcome.seconds, cost["train_seconds"], summary["evaluation_seconds"], reused > 0)


def sampled(runs: int, number: int) -> set[int]:
    """The numbers of the runs of the sample, evenly spaced, without the first, which loads what the others share."""
    return {runs - 1 - i * (runs - 1) // number for i in range(min(number, runs - 1))}


def describe(name: str, times: list[Times]) -> str:
    """The sums of the runs, and the start of a run after the first."""
    total, training, evaluation = (sum(getattr(t, key) for t in times) for key in ("total", "training", "evaluation"))
    start = total - training - evaluation
    shares = ", ".join(
        f"{part} {seconds:.0f} s ({seconds / total:.0%})"
        for part, seconds in (("training", training), ("evaluation", evaluation), ("start", start))
    )
    reused = sum(each.reuses for each in times)
    return f"{name}: {total:.0f} s: {shares}; {reused} of {len(times)} evaluations before training reused"


def main() -> None:
    """Run and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0, help="Training time of each run.")
    parser.add_argument("--fresh", type=int, default=4, help="Runs that are also made in fresh processes.")
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--model", default="pocket-t5")
    args = parser.parse_args()
    sample = sampled(args.runs, args.fresh)
    with tempfile.TemporaryDirectory() as folder:
        shared, fresh = (make_recipes(Path(folder), args, name) for name in ("shared", "fresh"))
        warm, cold = Workers(1), Workers(1, launch=[sys.executable])
        times: dict[int, Times] = {}
        fresh_times: dict[int, Times] = {}
        with warm.handle_signals():
            for number, recipe in enumerate(shared):
                times[number] = time_run(warm, recipe)
                if number in sample:
                    fresh_times[number] = time_run(cold, fresh[number])
                print(f"[{number + 1}/{args.runs}] {recipe.method.name} {times[number].total:.1f} s", file=sys.stderr)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} threads, {versions}")
    print(describe(f"{args.runs} runs of a sweep", [*times.values()]))
    print(f"start of a run after the first: {median(each.start for each in [*times.values()][1:]):.2f} s (median)")
    if sample:
        print(describe(f"{len(sample)} of them in fresh processes", [*fresh_times.values()]))
        ratio = sum(times[n].total for n in sample) / sum(each.total for each in fresh_times.values())
        print(f"ratio of the totals of these {len(sample)} runs: {ratio:.2f}")


if __name__ == "__main__":
    main()
