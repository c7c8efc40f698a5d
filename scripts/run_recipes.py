"""Runs several recipes in one process: python scripts/run_recipes.py RECIPE... [--set KEY=VALUE]..."""

from __future__ import annotations

import gc
import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from peftkit.cli import main


def run(recipe: str, overrides: list[str]) -> bool:
    """Run a recipe, and print its output only if it fails; returns whether it succeeded."""
    start, output = time.monotonic(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main(["run", recipe, *overrides])
    if code:
        print(f"{recipe}: exit code {code}\n{output.getvalue()}", flush=True)
    else:
        print(f"   {recipe}: {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    words = sys.argv[1:]
    first = words.index("--set") if "--set" in words else len(words)
    outcomes = []
    for recipe in words[:first]:
        outcomes.append(run(recipe, words[first:]))
        if len(outcomes) == 1:  # all libraries are imported
            gc.collect()
            gc.freeze()  # each run collects garbage, and need not look through the libraries
    sys.exit(0 if all(outcomes) else 1)
