"""Estimates the work of many runs in several processes."""

from __future__ import annotations

import multiprocessing
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from typing import Any

from peftkit.errors import PeftkitError
from peftkit.recipe import Recipe, dump_recipe

MIN_ESTIMATES = 16
"""Fewer estimates than these are not worth another process, which imports the libraries first."""
Job = tuple[str, str]
"""The key of an estimate, and its recipe as TOML."""
Outcome = tuple[str, Mapping[str, Any] | None, str]
"""The key of an estimate; the estimate, or None and why there is none."""


def processes_for(estimates: int) -> int:
    """Return how many processes to use.

    Args:
        estimates: The number of estimates.

    Returns:
        At most one per processor; 1 if they are made in this process.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, estimates // MIN_ESTIMATES))


def estimate_in_processes(recipes: Mapping[str, Recipe], processes: int) -> Iterator[Outcome]:
    """Estimate the work of runs, without trials.

    Each process gets runs of few models and methods, because runs of a model and method share most of the work.

    Args:
        recipes: The recipes, by the keys of their estimates.
        processes: The number of processes.

    Yields:
        Each outcome when it arrives. Those of a process that was killed are missing.
    """
    order = sorted(recipes, key=lambda key: (recipes[key].model.name, recipes[key].method.name))
    size = -(-len(order) // processes)
    # In the order of the sweep again, in which runs of a model and task follow each other.
    chunks = [[key for key in recipes if key in {*order[start : start + size]}] for start in range(0, len(order), size)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first process: torch reads it at import
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(["peftkit.analysis.work_estimate"])
    connections: list[Connection] = []
    workers = []
    for chunk in chunks:
        connection, far_end = context.Pipe(duplex=False)
        jobs = [(key, dump_recipe(recipes[key])) for key in chunk]
        workers.append(context.Process(target=_estimate, args=(far_end, jobs), daemon=True))
        workers[-1].start()
        far_end.close()
        connections.append(connection)
    try:
        while connections:
            ready: Any = wait(connections)
            for connection in ready:
                try:
                    yield connection.recv()
                except EOFError:
                    connections.remove(connection)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _estimate(connection: Connection, jobs: Sequence[Job]) -> None:
    """Estimate runs, and send each outcome."""
    from peftkit.analysis.work_estimate import WorkEstimator
    from peftkit.plugins import load_registry
    from peftkit.recipe.load_recipe import validate_recipe
    from peftkit.recipe.raw_recipe import raw_from_tables

    registry = load_registry()
    estimator = WorkEstimator(registry)
    for key, text in jobs:
        outcome: Outcome
        try:
            recipe = validate_recipe(raw_from_tables(tomllib.loads(text)), registry)
            outcome = key, asdict(estimator.estimate(recipe, trial=False)), ""
        except PeftkitError as error:
            outcome = key, None, str(error)
        connection.send(outcome)
    connection.close()
