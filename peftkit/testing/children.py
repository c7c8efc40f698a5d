"""Runs in copies of the test's process: the libraries are loaded already, so that they are at work at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from functools import partial

import torch
from accelerate.state import AcceleratorState, GradientState

from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner import run

LIMIT = 300.0
"""Seconds after which children are killed at any rate."""


def together(
    recipe: Recipe, registry: Registry, processes: int = 1, *, after: float | None = None, resume: str | None = None
) -> bool:
    """Runs the recipe in so many processes, which are a world as a launcher leaves it.

    With ``after`` they are killed after so many seconds; whether they were at work until then is returned. Without it
    they have to come to their end.
    """
    port = free_port()

    def work(rank: int) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if processes > 1:
            world = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ.update({k: str(v) for k, v in world.items()}, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
        run(recipe, registry, resume=resume)

    codes = in_children([partial(work, rank) for rank in range(processes)], LIMIT if after is None else after)
    if after is None:
        assert codes == [0] * processes
    return None in codes


def in_children(work: list[Callable[[], None]], seconds: float = LIMIT) -> list[int | None]:
    """Does each in a child; returns their exit codes, None for those that had to be killed after so many seconds."""

    def quietly(do: Callable[[], None]) -> None:
        # A fork has none of the threads that its parent has computed with, and waits for them for ever; accelerate
        # goes by the variable.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        # What an earlier test has left of a world of its own.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        do()

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=quietly, args=(do,)) for do in work]  # no daemons, which may have no children
    deadline = time.monotonic() + seconds
    for child in children:
        child.start()
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    return codes


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
