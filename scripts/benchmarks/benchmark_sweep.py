"""Times the runs of a sweep whose runs share what they load, and the same runs without (`[local] warm = false`).

    python scripts/benchmarks/benchmark_sweep.py                                            # 24 runs of 5 s, twice
    python scripts/benchmarks/benchmark_sweep.py --runs 6 --seconds 1 --state times.jsonl    # about a minute

Both kinds take turns, so that a ratio compares neighbours in time. What is neither training nor evaluation counts as
the start of a run; it includes writing the results. With `--state`, times are kept in a file, and the same command
continues where it was interrupted. Processor seconds are those of all processes of a run; other work on the machine
changes them less than the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.sweep.process_executor import Workers
from peftkit.sweep.scheduler import find_run

KINDS = {"shared": True, "apart": False}
"""The kinds of sweeps, and their ``[local] warm``."""
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

    kind: str
    number: int
    method: str
    first: bool
    """Whether it loads what later runs share."""
    total: float
    training: float
    evaluation: float
    processor: float
    """Of all processes."""
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


def time_run(workers: Workers, recipe: Recipe, kind: str, *, first: bool) -> Times:
    """Run a recipe; a run that fails ends the benchmark."""
    folder, before = Path(recipe.run.output), processor_seconds()
    folder.mkdir(parents=True)
    (folder / "asked.toml").write_text(dump_recipe(recipe))
    outcome = workers.run(folder / "asked.toml", None, folder / "log.txt")
    run = find_run(recipe)
    if outcome.code or run is None:
        raise SystemExit("\n".join(outcome.last_lines))
    summary = run.summary()
    return Times(
        kind,
        recipe.run.seed,
        recipe.method.name,
        first,
        outcome.seconds,
        summary["cost"]["train_seconds"],
        summary["evaluation_seconds"],
        processor_seconds() - before,
        summary["reused_evaluation_seconds"] > 0,
    )


def processor_seconds() -> float:
    """Processor time of this process and all that it started, also of those that have ended."""
    process = psutil.Process()
    return sum(sum(each.cpu_times()[:4]) for each in (process, *process.children(recursive=True)))


def describe(name: str, times: Sequence[Times]) -> str:
    """A row of the table."""
    parts = ("total", "training", "evaluation", "start", "processor")
    cells = [f"{sum(getattr(each, part) for each in times):.0f}" for part in parts]
    started = f"{median(each.start for each in times if not each.first):.2f}"
    reused = f"{sum(each.reuses for each in times)} of {len(times)}"
    return f"| {' | '.join((name, *cells, started, reused))} |"


def read_state(file: Path | None) -> list[Times]:
    """Read the times of an interrupted benchmark."""
    if file is None or not file.exists():
        return []
    return [Times(**json.loads(line)) for line in file.read_text().splitlines()]


def measure(args: argparse.Namespace, known: Iterable[Times]) -> Iterable[Times]:
    """Make the runs whose times are not known, and yield the times of each."""
    done = {(each.kind, each.number) for each in known}
    with tempfile.TemporaryDirectory() as folder:
        recipes = {kind: make_recipes(Path(folder), args, kind) for kind in KINDS}
        workers = {kind: Workers(1, warm=warm) for kind, warm in KINDS.items()}
        workers["shared"].prepare()
        has_run = dict.fromkeys(KINDS, False)
        with workers["shared"].handle_signals():
            for number in range(args.runs):
                for kind in KINDS:
                    if (kind, number) not in done:
                        yield time_run(workers[kind], recipes[kind][number], kind, first=not has_run[kind])
                        has_run[kind] = True


def main() -> None:
    """Run and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0, help="Training time of each run.")
    parser.add_argument("--method", nargs="+")
    parser.add_argument("--model", default="pocket-t5")
    parser.add_argument("--state", type=Path, help="A file that keeps the times of finished runs.")
    args = parser.parse_args()
    times = read_state(args.state)
    for each in measure(args, [*times]):
        times.append(each)
        if args.state:
            with args.state.open("a") as file:
                file.write(json.dumps(asdict(each)) + "\n")
        print(f"[{len(times)}/{2 * args.runs}] {each.kind} {each.method} {each.total:.1f} s", file=sys.stderr)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} threads, {versions}\n")
    print("| seconds of runs | total | training | evaluation | start | processor | start (median) | reused |")
    print("|---|---|---|---|---|---|---|---|")
    by_kind = {kind: [each for each in times if each.kind == kind] for kind in KINDS}
    for kind, runs in by_kind.items():
        print(describe(kind, runs))
    for what in ("total", "processor"):
        shared, apart = (sum(getattr(each, what) for each in by_kind[kind]) for kind in KINDS)
        print(f"\nratio of {what} seconds: {shared / apart:.2f}")


if __name__ == "__main__":
    main()
