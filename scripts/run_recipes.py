"""Runs recipes one after the other in one process: python scripts/run_recipes.py RECIPE... [--set KEY=VALUE]..."""

from __future__ import annotations

import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

from peftkit.cli import main


def run(recipe: str, overrides: list[str]) -> bool:
    """Whether the recipe runs to its end; what it says is printed only if not."""
    start, said = time.monotonic(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(["run", recipe, *overrides])
    if code:
        print(f"{recipe}: exit code {code}\n{said.getvalue()}", flush=True)
    else:
        print(f"   {recipe}: {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    words = sys.argv[1:]
    first = words.index("--set") if "--set" in words else len(words)
    outcomes = [run(recipe, words[first:]) for recipe in words[:first]]
    sys.exit(0 if all(outcomes) else 1)
