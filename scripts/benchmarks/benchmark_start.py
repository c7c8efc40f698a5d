"""Compares how long `peftkit list` and `peftkit check` take with importing pydantic and pluggy, in processor time.

    python scripts/benchmarks/benchmark_start.py [--rounds N]

The commands take turns, each in a process of its own, with warm caches; the table has medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "import": ("-c", "from pydantic import BaseModel; import pluggy"),
    "list": ("-m", "peftkit", "list"),
    "check": ("-m", "peftkit", "check", "recipes/quickstart.toml"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            seconds[name].append(processor_seconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print("| command | processor seconds | relative to the import |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / medians['import']:.2f} |")


def processor_seconds(arguments: tuple[str, ...]) -> float:
    """Run Python and return the processor time that it took."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
