"""How long the statistics of a comparison take: 20 runs × 10,000 examples, 10,000 draws."""

from __future__ import annotations

import time

import numpy as np

from peftkit.compare.statistics import judge


def main() -> None:
    """Prints the seconds of five repetitions."""
    rng = np.random.default_rng(0)
    scores = {f"method {i}": {seed: (rng.random(10_000) < 0.7).astype(float) for seed in range(4)} for i in range(5)}
    for _ in range(5):
        start = time.perf_counter()
        judge(scores, draws=10_000)
        print(f"{time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
