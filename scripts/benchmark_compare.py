"""How long judging takes and, with ``--errors``, how often methods that are equal are told apart.

python scripts/benchmark_compare.py [--errors] [--tables 200]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from peftkit.compare.statistics.pairwise import judge

Scores = dict[str, dict[int, np.ndarray]]


def planted(rng: np.random.Generator, methods: int, seeds: int, examples: int, unstable: bool) -> Scores:
    """Equal methods: examples are harder or easier for all, for one method, and for one run; seeds are better or worse.

    All are right half the time, with a standard deviation over seeds of one point; the unstable one's is ten.
    """
    latent = rng.normal(0, 1, examples) + rng.normal(0, 0.5, (methods, 1, examples))
    deviation = np.full((methods, 1, 1), 0.035)
    deviation[0] *= 10 if unstable else 1
    latent = latent + deviation * rng.normal(0, 1, (methods, seeds, 1)) + rng.normal(0, 0.7, (methods, seeds, examples))
    return {f"m{m}": {s: (latent[m, s] > 0).astype(float) for s in range(seeds)} for m in range(methods)}


def speed() -> None:
    """20 runs × 10,000 examples × 10,000 draws."""
    rng = np.random.default_rng(0)
    scores = {f"m{i}": {s: (rng.random(10_000) < 0.6).astype(float) for s in range(2)} for i in range(10)}
    started = time.perf_counter()
    judge(scores)
    print(f"20 runs × 10,000 examples × 10,000 draws: {time.perf_counter() - started:.2f} s")


def errors(tables: int) -> None:
    """The share of tables in which any two of equal methods share no letter."""
    rng = np.random.default_rng(0)
    print("| methods | seeds | equally stable | one unstable |\n|---:|---:|---:|---:|")
    for methods in (2, 5, 10, 50):
        for seeds in (1, 2, 3, 5):
            number = tables if methods < 50 else tables // 4
            shares = []
            for unstable in (False, True):
                found = (judge(planted(rng, methods, seeds, 500, unstable), draws=300, seed=i) for i in range(number))
                shares.append(sum(any(d.p_adjusted < 0.05 for d in verdict.differences) for verdict in found) / number)
            print(f"| {methods} | {seeds} | {shares[0]:.3f} | {shares[1]:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--tables", type=int, default=200)
    options = parser.parse_args()
    errors(options.tables) if options.errors else speed()
