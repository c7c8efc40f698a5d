"""Measures the time of the pairwise tests and, with ``--errors``, their false positive rate for equal methods.

python scripts/benchmarks/benchmark_compare.py [--errors] [--tables 200]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from peftkit.compare.statistics.significance_tests import compare_scores

Scores = dict[str, dict[int, np.ndarray]]


def simulate(rng: np.random.Generator, methods: int, seeds: int, examples: int, unstable: bool) -> Scores:
    """Simulate equal methods, with random effects of examples, of method × example, of seeds, and of single runs.

    The expected accuracy is 0.5, with a standard deviation over seeds of one point, or ten for an unstable method.
    """
    latent = rng.normal(0, 1, examples) + rng.normal(0, 0.5, (methods, 1, examples))
    deviation = np.full((methods, 1, 1), 0.035)
    deviation[0] *= 10 if unstable else 1
    latent = latent + deviation * rng.normal(0, 1, (methods, seeds, 1)) + rng.normal(0, 0.7, (methods, seeds, examples))
    return {f"m{m}": {s: (latent[m, s] > 0).astype(float) for s in range(seeds)} for m in range(methods)}


def speed() -> None:
    """Time 20 runs × 10,000 examples × 10,000 draws."""
    rng = np.random.default_rng(0)
    scores = {f"m{i}": {s: (rng.random(10_000) < 0.6).astype(float) for s in range(2)} for i in range(10)}
    started = time.perf_counter()
    compare_scores(scores)
    print(f"20 runs × 10,000 examples × 10,000 draws: {time.perf_counter() - started:.2f} s")


def errors(tables: int) -> None:
    """Print the share of tables in which any two of the equal methods differ significantly."""
    rng = np.random.default_rng(0)
    print("| methods | seeds | equally stable | one unstable |\n|---:|---:|---:|---:|")
    for methods in (2, 5, 10, 50):
        for seeds in (1, 2, 3, 5):
            number = tables if methods < 50 else tables // 4
            shares = []
            for unstable in (False, True):
                verdicts = (
                    compare_scores(simulate(rng, methods, seeds, 500, unstable), draws=300, seed=i)
                    for i in range(number)
                )
                shares.append(
                    sum(any(d.p_adjusted < 0.05 for d in verdict.differences) for verdict in verdicts) / number
                )
            print(f"| {methods} | {seeds} | {shares[0]:.3f} | {shares[1]:.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", action="store_true", help="measure false positives")
    parser.add_argument("--tables", type=int, default=200, help="simulated tables per cell")
    options = parser.parse_args()
    errors(options.tables) if options.errors else speed()
