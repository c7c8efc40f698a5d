"""Runs in copies of the test's process: the libraries are loaded already, so that they are at work at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState

from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner import run

LIMIT = 300.0
"""Seconds after which children are killed at any rate."""


def together(
    recipe: Recipe, registry: Registry, processes: int = 1, *, kill_at: int | None = None, resume: str | None = None
) -> bool:
    """Runs a recipe in several processes, with the environment that a launcher would set.

    Args:
        recipe: The recipe.
        registry: The installed components.
        processes: The number of processes.
        kill_at: Kill all processes at this change of a file below ``run.output``, counted from 1. What is left is the
            same for any kill between that change and the one before.
        resume: The value of ``peftkit run --resume``.

    Returns:
        Whether the processes were killed.

    Raises:
        AssertionError: A process failed, or did not end.
    """
    port = free_port()

    def work(rank: int) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if processes > 1:
            world = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ.update({k: str(v) for k, v in world.items()}, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true")
        if kill_at is not None and rank == 0:
            sys.addaudithook(partial(_kill_at, [kill_at], os.path.realpath(recipe.run.output)))
        run(recipe, registry, resume=resume)

    codes = in_children([partial(work, rank) for rank in range(processes)])
    killed = kill_at is not None and codes[0] == -signal.SIGKILL
    assert killed or codes == [0] * processes
    return killed


def _kill_at(left: list[int], folder: str, event: str, arguments: tuple[Any, ...]) -> None:
    """Kill the process at the change of a file that makes ``left`` zero."""
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    if changes and isinstance(arguments[0], str | Path) and os.path.realpath(arguments[0]).startswith(folder):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def in_children(work: list[Callable[[], None]]) -> list[int | None]:
    """Runs each function in a forked child process.

    Args:
        work: The functions.

    Returns:
        The exit code of each; None for children that ran longer than ``LIMIT`` or waited for a child that was killed.
    """

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
    deadline = time.monotonic() + LIMIT
    for child in children:
        child.start()
    while alive := [child.sentinel for child in children if child.exitcode is None]:
        wait(alive, timeout=max(0.0, deadline - time.monotonic()))
        if time.monotonic() > deadline or any((child.exitcode or 0) < 0 for child in children):
            break
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
        child.join()
    return codes


def free_port() -> int:
    """Returns a free TCP port of this machine.

    Returns:
        The port's number.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
