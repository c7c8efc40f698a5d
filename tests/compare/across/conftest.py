"""Runs and posteriors of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from peftkit.compare.across import (
    AcrossTasks,
    TaskPosterior,
)
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from tests.compare.conftest import Plant

TASKS = ("cola", "rte", "sst2")
BEST = {"full": 0.70, "lora": 0.85, "vera": 0.60}
"""Scores with which lora is far ahead."""


def runs(
    plant: Plant, shares: dict[str, float], tasks: Sequence[str] = TASKS, *, seeds: int = 3, **options: Any
) -> Path:
    """Runs of the methods with these final scores on every task, ± half a point by seed."""
    options = {"constant": 0.5, "model": "t5-base", **options}
    path = Path()
    for task in tasks:
        for method, share in shares.items():
            for seed in range(1, seeds + 1):
                shifted = share + 0.005 * (seed - 2)
                cost = 2.0 if method == "full" else 1.0
                path = plant(method, seed, [0.5, shifted], task=task, cost=cost, **options)
    return path.parent


def read(path: Path, *pool: str) -> list[RunGroup]:
    return group_runs(find_runs([path])[0], pool)


def part(
    task: str, means: Sequence[float], *, spread: float = 0.01, constant: float | None = 0.5, seed: int = 0
) -> TaskPosterior:
    """Posterior draws around these means, of methods a, b, c …"""
    names = tuple("abcdefgh"[: len(means)])
    draws = np.random.default_rng([seed, *task.encode()]).normal(means, spread, (1000, len(means)))
    return TaskPosterior(task, "m", "accuracy", names, draws, constant)


def numbers(found: AcrossTasks) -> dict[str, list[float | None]]:
    """All numbers of each method."""
    return {
        line.method: [line.best, line.cost]
        + [
            number
            for each in (line.score, line.iqm, line.rank, line.improvement, *line.profile)
            for number in ((each.mean, each.low, each.high) if each else (None,))
        ]
        for line in found.lines
    }


MEANS = st.lists(st.floats(0.55, 0.7), min_size=2, max_size=5)
