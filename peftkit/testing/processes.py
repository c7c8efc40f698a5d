"""Run recipes in forked processes, which start quickly because libraries are already imported."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
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
from peftkit.train.run import run

TIMEOUT = 300.0
"""Seconds after which child processes are killed."""


def run_processes(
    recipe: Recipe, registry: Registry, processes: int = 1, *, kill_at: int | None = None, resume: str | None = None
) -> bool:
    """Run a recipe in several processes, with the environment that a launcher would set.

    Args:
        recipe: The recipe.
        registry: The installed components.
        processes: The number of processes.
        kill_at: Kill all processes at this change of a file below ``run.output``, counted from 1. Killing them at any
            time between two changes leaves the same files.
        resume: The value of ``peftkit run --resume``.

    Returns:
        Whether the processes were killed.

    Raises:
        AssertionError: A process failed, or did not end.
    """
    port = free_port()

    def run_rank(rank: int) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if processes > 1:
            variables = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
            os.environ.update(
                {k: str(v) for k, v in variables.items()}, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true"
            )
        if kill_at is not None and rank == 0:
            sys.addaudithook(partial(_kill_at, [kill_at], os.path.realpath(recipe.run.output)))
        run(recipe, registry, resume=resume)

    codes = fork_all([partial(run_rank, rank) for rank in range(processes)])
    killed = kill_at is not None and codes[0] == -signal.SIGKILL
    assert killed or codes == [0] * processes
    return killed


def command(do: Callable[[], int], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run what a new process would run, such as the command line, in a child.

    Args:
        do: returns the exit code.
        variables: environment variables besides ours; those that a library reads when it is imported have no effect.

    Returns:
        The exit code, and what was written to the standard output and error.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:

        def work() -> None:
            os.environ.update(variables)
            for number, file in ((1, output), (2, errors)):
                os.dup2(file.fileno(), number)
            # A test's own streams may be captured.
            sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            sys.exit(do())

        [code] = fork_all([work])
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess([], -signal.SIGKILL if code is None else code, *texts)


def _kill_at(remaining: list[int], folder: str, event: str, arguments: tuple[Any, ...]) -> None:
    """Kill the process at the change of a file that makes ``remaining`` zero."""
    changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    if changes and isinstance(arguments[0], str | Path) and os.path.realpath(arguments[0]).startswith(folder):
        remaining[0] -= 1
        if remaining[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def fork_all(functions: list[Callable[[], None]]) -> list[int | None]:
    """Run each function in a forked child process.

    Args:
        functions: The functions.

    Returns:
        The exit code of each; None for children that ran longer than ``TIMEOUT`` or waited for a child that was killed.
    """

    def run_child(function: Callable[[], None]) -> None:
        gc.freeze()  # a collection need not look through the parent's objects, nor copy their pages
        # A fork has none of its parent's compute threads, and would wait for them forever; accelerate reads the
        # variable.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        # Reset the process group of an earlier test.
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        function()

    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=run_child, args=(function,)) for function in functions
    ]  # not daemons, which must not have children
    deadline = time.monotonic() + TIMEOUT
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
    """Return the number of a free TCP port of this machine."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port
