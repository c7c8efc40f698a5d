"""Measures how often the statistics of ``compare`` are right, on simulated scenarios with a known truth.

    python scripts/calibrate_statistics.py [--scenarios 4000] [--null 2000] [--shifted 0] [--seed 0] [--processes 1]

Scenarios are drawn from the distribution π (``PI``): one level of each factor, independently. Results are written to a
folder in chunks, and existing chunks are reused. They do not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
from calibration.assessment import assess
from calibration.criteria import CLAIM
from calibration.report import format_share, report, table
from calibration.scenarios import SHIFTED, draw_scenario

VERSION = 1
CHUNK = 50
"""The number of scenarios per file."""


def run(number: int, seed: int, folder: Path, name: str, processes: int = 1, **changed: Any) -> list[Any]:
    """Assess scenarios drawn from π, in chunks that are kept in a folder.

    Args:
        number: how many.
        seed: the random seed.
        folder: where the chunks are kept.
        name: the first part of the chunks' file names, which is a part of the random seed too.
        processes: the number of worker processes.
        changed: factors that are given, and not drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compute = partial(_run_chunk, seed=seed, folder=folder, name=name, changed=changed)
    chunks = range(-(-number // CHUNK))
    results: list[Any] = []
    with ProcessPoolExecutor(processes) if processes > 1 else nullcontext() as pool:
        for chunk in pool.map(compute, chunks) if pool else map(compute, chunks):
            results += chunk
            print(f"{name}: {len(results)} scenarios", file=sys.stderr, flush=True)
    return results[:number]


def _run_chunk(chunk: int, *, seed: int, folder: Path, name: str, changed: dict[str, Any]) -> list[Any]:
    path = folder / f"{name}-{VERSION}-{seed}-{chunk}.json"
    if not path.is_file():
        rng = np.random.default_rng([VERSION, seed, chunk, *name.encode()])
        results = [assess(draw_scenario(rng, **changed), rng) for _ in range(CHUNK)]
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(results))
        temporary.replace(path)
    stored: list[Any] = json.loads(path.read_text())
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=4000, help="number of scenarios in which methods differ")
    parser.add_argument("--null", type=int, default=2000, help="number of scenarios in which methods are equal")
    parser.add_argument("--shifted", type=int, default=0, help="number of scenarios of each kind outside π")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"), help="where results are kept")
    parser.add_argument("--processes", type=int, default=1, help="number of worker processes")
    options = parser.parse_args()
    common: Any = {"seed": options.seed, "folder": options.folder, "processes": options.processes}
    results = run(options.scenarios, name="worlds", **common)
    results += run(options.null, name="null", spread=0.0, **common)
    if results:
        print(report(results, VERSION))
    rows = []
    for number, (kind, changed) in enumerate(SHIFTED.items()) if options.shifted else ():
        shifted = run(options.shifted, name=f"shifted{number}", **common, **changed)
        claims = [r["claim_right"] for r in shifted if r["claim"] >= CLAIM]
        coverage = [format_share([r[key] for r in shifted]) for key in ("coverage", "pairs")]
        rows.append([kind, len(shifted), *coverage, f"{np.mean(claims):.3f} ({len(claims)})" if claims else "none"])
    if rows:
        header = ["shifted scenarios", "scenarios", "coverage of scores", "of differences", "correct claims"]
        print("\n" + table(header, rows))


if __name__ == "__main__":
    main()
