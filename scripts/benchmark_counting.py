"""What counting multiply-accumulates costs a run, as a share of its time, on this machine.

    python scripts/benchmark_counting.py recipes/quickstart.toml [RECIPE …] [--set KEY=VALUE …]

Each recipe is run as a user runs it, in a process of its own.
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


def measured(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """The summary of a run of the recipe, and the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "peftkit", "run", recipe]
        for override in (*overrides, f"run.output={json.dumps(folder)}", "track.wandb=off"):
            words += ["--set", override]
        began = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        [summary] = Path(folder).glob("*/summary.json")
        found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return found | {"seconds": seconds}


def main() -> None:
    """Prints a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    libraries = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {libraries}")
    titles = ("steps", "GMACs", "training", "evaluation", "command", "counting", "of all", "of training")
    print(f"{'recipe':<32}" + "".join(f"{title:>12}" for title in titles))
    for recipe in options.recipes:
        found = measured(recipe, options.set)
        counting, training = found["counting_seconds"], found["cost"]["train_seconds"]
        cells = [f"{found['steps']:,}", f"{found['cost']['gmacs']:,.5g}"]
        cells += [f"{s:.2f} s" for s in (training, found["evaluation_seconds"], found["seconds"], counting)]
        cells += [f"{counting / found['seconds']:.2%}", f"{counting / training:.2%}"]
        print(f"{found['name']:<32}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
