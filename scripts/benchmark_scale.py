"""Seconds and memory that many rows, and many run directories, take.

    python scripts/benchmark_scale.py [--rows 1000000] [--runs 5000]

The rows are a JSONL file of short texts, read and tokenized by two processes in turn: the second finds what the first
has kept. Memory is the most that a process ever held, against one that reads a hundredth of the rows.
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
whole = false
[track]
wandb = "off"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peftkit-scale-") as name:
        folder = Path(name)
        (folder / "x.toml").write_text(RECIPE)
        few, _ = told(folder, "few", options.rows // 100)
        first = told(folder, "many", options.rows)
        second = told(folder, "many", options.rows)
        print(f"{options.rows // 100:,} rows: {few:.2f} GiB")
        for turn, (memory, seconds) in (("first", first), ("second", second)):
            print(f"{options.rows:,} rows, {turn} run: {memory:.2f} GiB, {seconds:.0f} s to the end of the first step")
        listed(folder / "runs", options.runs)


def told(folder: Path, name: str, rows: int) -> tuple[float, float]:
    """Runs a step on so many rows; returns the GiB it held at the most, and the seconds it took."""
    file = folder / f"{name}.jsonl"
    if not file.exists():
        with file.open("w") as out:
            for i in range(rows):
                words = [WORDS[(i * 7 + j * (1 + i % 11)) % len(WORDS)] for j in range(5 + i % 20)]
                out.write(json.dumps({"text": f"{i} {' '.join(words)}", "label": i % 2}) + "\n")
    variables = {"PEFTKIT_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    sets = (f"task.path={file}", f"run.output={folder / 'out'}")
    words = [sys.executable, "-m", "peftkit", "run", str(folder / "x.toml"), *(w for s in sets for w in ("--set", s))]
    began = time.perf_counter()
    done = subprocess.Popen(words, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)
    output = done.stdout.read() if done.stdout else ""
    _, status, usage = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(status)
    if done.returncode:
        raise SystemExit(output)
    return usage.ru_maxrss / 2**20, time.perf_counter() - began


def listed(folder: Path, number: int) -> None:
    """Makes so many run directories, and finds the one to resume among them."""
    from peftkit.plugins import load_registry
    from peftkit.recipe import dump_recipe, load_recipe
    from peftkit.runner.resume import find
    from peftkit.runs import RunDirectory

    registry = load_registry()
    file = folder.parent / "x.toml"
    recipe = load_recipe(file, registry, ["task.path=x", f"run.output={folder}"])
    text = dump_recipe(recipe)
    for i in range(number):
        path = folder / f"run-20260101-{i:06}-0000"
        path.mkdir(parents=True)
        (path / "recipe.toml").write_text(text.replace("\nseed = 42", f"\nseed = {i + 100}"))
        (path / "summary.json").write_text(json.dumps({"format": 1, "status": "done", "steps": i}))
    began = time.perf_counter()
    summaries = [RunDirectory(path).summary() for path in sorted(folder.iterdir())]
    print(f"{len(summaries):,} run directories listed: {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    other = load_recipe(file, registry, ["task.path=x", f"run.output={folder}", "run.seed=100"])
    assert find(other, registry, "") == folder / "run-20260101-000000-0000"
    print(f"the oldest of them found to be resumed: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
