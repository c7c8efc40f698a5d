"""Measures how time and memory grow with length, batch, vocabulary, candidates and processes, and draws it.

    python scripts/benchmarks/benchmark_scaling.py [--axis NAME …] [--out docs/scaling.svg]

LoRA of rank 8 trains a random decoder of six layers (Qwen3, 256 wide) on rows of equal length. Around one base point,
a single property changes at a time. The time is the median of the steps of an epoch, the memory the peak of another.
Candidates are ranked by the built-in decoder, and processes are those of `accelerate launch`, a thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import benchmark_ranking as ranking
import benchmark_training as training
import matplotlib as mpl
import torch
import transformers as tf

from peftkit.analysis.dry_run import dry_run
from peftkit.components import Example
from peftkit.monitor.verbosity import quiet_libraries
from peftkit.plugins import load_registry
from peftkit.recipe import dump_recipe

LENGTH, BATCH, VOCABULARY = 64, 8, 32_000
STEPS = 6
VALUES: Mapping[str, Sequence[int]] = {
    "length": (16, 32, 64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16, 32),
    "vocabulary": (8_192, 32_000, 65_536, 131_072, 262_144),
    "candidates": (2, 4, 8, 16),
    "processes": (1, 2),
}
UNITS = {
    "length": "tokens of a row, about",
    "batch": "rows of a batch",
    "vocabulary": "tokens of the vocabulary",
    "candidates": "candidates of 12 tokens",
    "processes": "processes",
}


@dataclass(frozen=True)
class Point:
    """One measurement."""

    value: int
    seconds: float
    """Of a step; of ranking a batch; of a step of all processes."""
    mebibytes: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--out", type=Path, help="draw the figure into this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries("error")
    print(
        f"torch {torch.__version__}, transformers {tf.__version__}, {platform.processor() or platform.machine()}, one "
        f"thread; base: {LENGTH} tokens, {BATCH} rows, a vocabulary of {VOCABULARY:,}\n"
    )
    print("| axis | value | seconds | MiB | seconds grow as value to the power of |\n|---|---|---|---|---|")
    curves: dict[str, list[Point]] = {}
    for axis in arguments.axis:
        curves[axis] = [MEASURES[axis](value) for value in VALUES[axis]]
        for before, point in zip((None, *curves[axis]), curves[axis], strict=False):
            power = f"{growth(before, point):.2f}" if before else ""
            memory = "" if point.mebibytes is None else f"{point.mebibytes:,.0f}"
            print(f"| {axis} | {point.value:,} | {point.seconds:.4f} | {memory} | {power} |", flush=True)
    if arguments.out:
        draw(curves, arguments.out)


def growth(before: Point, point: Point) -> float:
    """Return the exponent with which the seconds grow between two points."""
    return math.log(point.seconds / before.seconds) / math.log(point.value / before.value)


def train(length: int = LENGTH, batch: int = BATCH, vocabulary: int = VOCABULARY) -> tuple[float, float]:
    """Return the median seconds of a step, and the peak of memory in MiB."""
    words = max(1, length // 2 - 2)  # of one or two tokens each
    training.LENGTHS["scaled"] = (words, words, max(1, words // 4))
    config = {"model_type": "qwen3", "vocab_size": vocabulary, **training.LLAMA}
    training.MODELS["scaled"] = ("pocket-decoder", config)
    registry = load_registry()
    with tempfile.TemporaryDirectory() as folder:
        cell = training.Cell("scaled", "lora", "scaled")
        recipe = training.make_recipe(cell, Path(folder), STEPS, registry, batch)
        with dry_run(recipe, registry, 2 * STEPS, ()) as trainer:
            seconds = []
            batches = trainer._step_batches()
            for _ in range(STEPS):
                started = time.perf_counter()
                trainer._train_on(next(batches))
                seconds.append(time.perf_counter() - started)
            peak = training.measure_peak(lambda: [trainer._train_on(next(batches)) for _ in range(2)], trainer.module)
    return median(seconds[1:]), peak / 2**20


def rank(candidates: int) -> Point:
    """Measure the ranking of a batch."""
    model = ranking.load("pocket-decoder", torch.device("cpu"))
    words = "red blue green old new cold warm small large deep dark light soft hard thin wide".split()  # noqa: SIM905
    texts = [" ".join(words[(i + j) % len(words)] for j in range(8)) for i in range(candidates)]
    examples = [Example(f"question {i}: which of these?", texts[0], tuple(texts)) for i in range(BATCH)]
    rows = model.family.tokenize_completions(examples, ranked=True)
    seconds = []
    with torch.inference_mode():
        score = model.family.candidate_scorer(model.model)
        for _ in range(STEPS):
            started = time.perf_counter()
            score(rows, torch.device("cpu"))
            seconds.append(time.perf_counter() - started)
    return Point(candidates, median(seconds[1:]))


def launch(processes: int) -> Point:
    """Measure a step of several processes, with as many rows each."""
    registry = load_registry()
    training.LENGTHS["scaled"] = (LENGTH // 2, LENGTH // 2, 8)
    training.MODELS["scaled"] = ("pocket-decoder", {"model_type": "qwen3", "vocab_size": VOCABULARY, **training.LLAMA})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        cell = training.Cell("scaled", "lora", "scaled")
        recipe = training.make_recipe(cell, path, 4 * STEPS, registry)
        (path / "recipe.toml").write_text(dump_recipe(recipe), encoding="utf-8")
        settings = (f"run.output={path / 'runs'}", f"train.budget.steps={2 * STEPS}", "track.to=[]")
        settings += ("evaluate.at_start=false", "evaluate.every=100%", "evaluate.full_splits=false")
        settings += tuple(f"evaluate.{split}_examples=2" for split in ("train", "dev", "test"))
        command = ["accelerate", "launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"]
        command += [
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            "0",
            "-m",
            "peftkit",
            str(path / "recipe.toml"),
        ]
        command += [word for setting in settings for word in ("--set", setting)]
        if processes == 1:
            command = [sys.executable, *command[command.index("-m") :]]
        else:
            command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        [file] = path.glob("runs/*/summary.json")
        summary = json.loads(file.read_text(encoding="utf-8"))
        assert summary["processes"] == processes
        return Point(processes, summary["cost"]["train_seconds"] / summary["steps"])


MEASURES: Mapping[str, Callable[[int], Point]] = {
    "length": lambda value: Point(value, *train(length=value)),
    "batch": lambda value: Point(value, *train(batch=value)),
    "vocabulary": lambda value: Point(value, *train(vocabulary=value)),
    "candidates": rank,
    "processes": launch,
}


def draw(curves: Mapping[str, Sequence[Point]], file: Path) -> None:
    """Draw a panel for each axis: seconds, and memory where it was measured."""
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "peftkit"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3.2), squeeze=False, layout="constrained")
    for panel, (axis, points) in zip(panels[0], curves.items(), strict=True):
        values = [point.value for point in points]
        panel.loglog(values, [point.seconds for point in points], "o-", label="seconds")
        panel.set(xlabel=UNITS[axis], ylabel="seconds")
        panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        if points[0].mebibytes is not None:
            memory = panel.twinx()
            memory.loglog(values, [point.mebibytes for point in points], "s--", color="tab:orange")
            memory.set_ylabel("MiB", color="tab:orange")
            memory.minorticks_off()
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
