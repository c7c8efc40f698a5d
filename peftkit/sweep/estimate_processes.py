"""Estimates the work of many runs in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
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


def start_server() -> Any:
    """Start the process that others are forked from, if the system has one: it imports the libraries meanwhile.

    Returns:
        The context of ``multiprocessing`` that starts processes.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first process: torch reads it at import
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        from multiprocessing import forkserver  # which not every system has

        context.set_forkserver_preload(["peftkit.sweep.work_estimate"])
        forkserver.ensure_running()
    return context


def estimate_in_processes(recipes: Mapping[str, Recipe], processes: int) -> Iterator[Outcome]:
    """Estimate the work of runs, without trials.

    Runs of a model and method share most of the work, so that one process estimates them together. Each process starts
    with models of its own and takes over groups of others when it has none left.

    Args:
        recipes: The recipes, by the keys of their estimates.
        processes: The number of processes.

    Yields:
        Each outcome when it arrives. Those of a process that was killed are missing.
    """

    def group_of(key: str) -> tuple[str, str]:
        return recipes[key].model.name, recipes[key].method.name

    groups = [[*keys] for _, keys in groupby(sorted(recipes, key=group_of), key=group_of)]
    size = -(-len(groups) // processes)
    queues = [groups[start : start + size] for start in range(0, len(groups), size)]
    context = start_server()
    own_queues: dict[Connection, list[list[str]]] = {}
    workers = []
    for queue in queues:
        connection, far_end = context.Pipe()
        workers.append(context.Process(target=_estimate, args=(far_end,), daemon=True))
        workers[-1].start()
        far_end.close()
        own_queues[connection] = queue
    try:
        while own_queues:
            ready: Any = wait([*own_queues])
            for connection in ready:
                try:
                    outcome = connection.recv()
                    if outcome is None:
                        group = _next_group(own_queues[connection], queues)
                        connection.send([(key, dump_recipe(recipes[key])) for key in group])
                        continue
                except (EOFError, OSError):  # it has ended
                    del own_queues[connection]
                    continue
                yield outcome
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _next_group(queue: list[list[str]], queues: Sequence[list[list[str]]]) -> list[str]:
    """Take the next group of a process, or else the last one of the process with most; empty if there are none."""
    if queue:
        return queue.pop(0)
    longest = max(queues, key=len)
    return longest.pop() if longest else []


def _estimate(connection: Connection) -> None:
    """Estimate runs, as many as there are, and send each outcome."""
    from peftkit.plugins import load_registry
    from peftkit.recipe.load_recipe import validate_recipe
    from peftkit.recipe.recipe_file import raw_from_tables
    from peftkit.sweep.work_estimate import WorkEstimator

    registry = load_registry()
    estimator = WorkEstimator(registry)
    gc.freeze()  # the libraries have a million objects, which each collection would go through

    def next_jobs() -> Sequence[Job]:
        connection.send(None)
        jobs: Sequence[Job] = connection.recv()
        return jobs

    while jobs := next_jobs():
        recipes: dict[str, Recipe] = {}
        errors: dict[str, str] = {}
        for key, text in jobs:
            try:
                recipes[key] = validate_recipe(raw_from_tables(tomllib.loads(text)), registry)
            except PeftkitError as error:
                errors[key] = str(error)
        estimator.read_ahead(recipes.values())
        for key, _ in jobs:
            outcome: Outcome = key, None, errors.get(key, "")
            if key in recipes:
                try:
                    outcome = key, asdict(estimator.estimate(recipes[key], trial=False)), ""
                except PeftkitError as error:
                    outcome = key, None, str(error)
            connection.send(outcome)
    connection.close()
