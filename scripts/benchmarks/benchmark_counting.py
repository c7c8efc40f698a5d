"""Measures the time that counting multiply-accumulates takes, as a share of a run's time.

    python scripts/benchmarks/benchmark_counting.py recipes/quickstart.toml [RECIPE …] [--set KEY=VALUE …]

Each recipe is run in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def run(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Run a recipe; returns its summary, with the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "peftkit", "run", recipe]
        for override in (*overrides, f"run.output={json.dumps(folder)}", "track.to=[]"):
            words += ["--set", override]
        started = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        [summary] = Path(folder).glob("*/summary.json")
        result: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return result | {"seconds": seconds}


def main() -> None:
    """Print a line per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {libraries}")
    titles = ("steps", "GMACs", "training", "evaluation", "command", "counting", "of all", "of training")
    print(f"{'recipe':<32}" + "".join(f"{title:>12}" for title in titles))
    for recipe in options.recipes:
        result = run(recipe, options.set)
        counting, training = result["counting_seconds"], result["cost"]["train_seconds"]
        cells = [f"{result['steps']:,}", f"{result['cost']['gmacs']:,.5g}"]
        cells += [f"{s:.2f} s" for s in (training, result["evaluation_seconds"], result["seconds"], counting)]
        cells += [f"{counting / result['seconds']:.2%}", f"{counting / training:.2%}"]
        print(f"{result['name']:<32}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
