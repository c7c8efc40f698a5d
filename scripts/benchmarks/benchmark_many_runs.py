"""Measures time and memory for many rows, and for many run directories.

    python scripts/benchmarks/benchmark_many_runs.py [--rows 1000000] [--runs 5000]

The rows are a JSONL file of short texts, tokenized by two processes in turn; the second uses the cache of the first.
Memory is the peak of a process, compared with one that reads a hundredth of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "the red bird sings at dawn while rivers run and old stones sleep under a slow moon".split()  # noqa: SIM905
RECIPE = """
[model]
name = "pocket-t5"
[task]
name = "text_classification"
label_names = ["bad", "good"]
dev_fraction = 0.001
test_fraction = 0.001
[method]
name = "lora"
[train.budget]
steps = 1
[evaluate]
every = "1 steps"
at_start = false
train_examples = 8
dev_examples = 8
test_examples = 8
full_splits = false
[track]
to = []
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peftkit-scale-") as name:
        folder = Path(name)
        (folder / "x.toml").write_text(RECIPE)
        few, _ = run_step(folder, "few", options.rows // 100)
        first = run_step(folder, "many", options.rows)
        second = run_step(folder, "many", options.rows)
        print(f"{options.rows // 100:,} rows: {few:.2f} GiB")
        for turn, (memory, seconds) in (("first", first), ("second", second)):
            print(f"{options.rows:,} rows, {turn} run: {memory:.2f} GiB, {seconds:.0f} s to the end of the first step")
        list_runs(folder / "runs", options.runs)


def run_step(folder: Path, name: str, rows: int) -> tuple[float, float]:
    """Run one step on a number of rows; returns the peak memory in GiB, and the seconds."""
    file = folder / f"{name}.jsonl"
    if not file.exists():
        with file.open("w") as out:
            for i in range(rows):
                words = [WORDS[(i * 7 + j * (1 + i % 11)) % len(WORDS)] for j in range(5 + i % 20)]
                out.write(json.dumps({"text": f"{i} {' '.join(words)}", "label": i % 2}) + "\n")
    variables = {"PEFTKIT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    sets = (f"task.path={file}", f"run.output={folder / 'out'}")
    words = [sys.executable, "-m", "peftkit", "run", str(folder / "x.toml"), *(w for s in sets for w in ("--set", s))]
    started = time.perf_counter()
    process = subprocess.Popen(words, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(output)
    return usage.ru_maxrss / 2**20, time.perf_counter() - started


def list_runs(folder: Path, number: int) -> None:
    """Create a number of run directories, list them, and find the one to resume."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import dump_recipe, load_recipe
    from peftkit.run_directory import RunDirectory
    from peftkit.train.resume import find_run_to_resume

    registry = load_registry()
    file = folder.parent / "x.toml"
    recipe = load_recipe(file, registry, ["task.path=x", f"run.output={folder}"])
    text = dump_recipe(recipe)
    for i in range(number):
        path = folder / f"run-20260101-{i:06}-0000"
        path.mkdir(parents=True)
        (path / "recipe.toml").write_text(text.replace("\nseed = 42", f"\nseed = {i + 100}"))
        (path / "summary.json").write_text(json.dumps({"format": 1, "status": "done", "steps": i}))
    started = time.perf_counter()
    summaries = [RunDirectory(path).summary() for path in sorted(folder.iterdir())]
    print(f"{len(summaries):,} run directories listed: {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    other = load_recipe(file, registry, ["task.path=x", f"run.output={folder}", "run.seed=100"])
    assert find_run_to_resume(other, registry, "") == folder / "run-20260101-000000-0000"
    print(f"the oldest one found for --resume: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
