"""A process that keeps what runs of one model and task share, and forks for each run.

A run starts from the memory of a process that has loaded its inputs and never trained. So it computes the same as one
that loads them itself, and no run can affect another, however it ends.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from peftkit.evaluate.shared_inputs import SharedInputs

TERMINATING = (signal.SIGTERM, signal.SIGINT)


class Request(NamedTuple):
    """A run that is asked for."""

    recipe: str
    """The recipe's file."""
    resume: str | None
    """The run directory to resume; None for a new run."""
    log: str
    """The file for the output of the run."""
    variables: Mapping[str, str]
    """Environment variables to set."""


class WarmWorker:
    """The process, seen from the sweep.

    Args:
        context: The context of ``multiprocessing`` that starts it.
    """

    def __init__(self, context: Any) -> None:
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=serve, args=(far_end,))
        self._process.start()
        far_end.close()  # else the end of the process would not close the pipe
        # Before multiprocessing waits for its processes at exit.
        self._close = multiprocessing.util.Finalize(self, _close, (self._connection,), exitpriority=10)

    def run(self, request: Request) -> int | None:
        """Run a recipe to its end.

        Args:
            request: The run.

        Returns:
            Its exit code; None if the process has other inputs, or could not load those of the recipe, and ended.
        """
        try:
            self._connection.send(request)
            if (code := self._connection.recv()) is None:
                self.close()
        except (EOFError, OSError):  # it was killed
            self._process.join()
            code = self._process.exitcode or -signal.SIGKILL
        return None if code is None else int(code)

    @property
    def is_alive(self) -> bool:
        """Whether it can take another run."""
        return bool(self._process.is_alive()) and not self._connection.closed

    def terminate(self) -> None:
        """Ask the run to save its state and end; while inputs are being loaded, end the process."""
        self._process.terminate()

    def close(self) -> None:
        """End the process."""
        self._close()
        self._process.join()


def _close(connection: Connection) -> None:
    connection.close()


def serve(connection: Connection) -> None:
    """Load the inputs of the first recipe that is asked for, and fork for each run with these inputs.

    Args:
        connection: Gets a ``Request``, and sends the exit code of the run; or None, before this process ends, if the
            run needs other inputs, or they cannot be loaded.
    """
    from peftkit.evaluate.initial_evaluation import StartEvaluations
    from peftkit.evaluate.shared_inputs import SharedInputs
    from peftkit.sweep.worker_main import run_recipe

    fork = multiprocessing.get_context("fork")
    running: list[Any] = []

    def on_terminate(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.terminate()
        if not running:
            os._exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the run too
    signal.signal(signal.SIGTERM, on_terminate)
    shared, output = SharedInputs(), b""
    with suppress(EOFError), tempfile.TemporaryFile(buffering=0) as file:  # until the sweep has ended
        while True:
            request: Request = connection.recv()
            received = time.monotonic()
            with _recorded_output() as recorded:
                inputs = _in_thread(partial(_load, request.recipe, shared))
            if inputs is None or inputs.data is None:
                connection.send(None)
                return
            if inputs is not shared:
                shared, output = inputs, recorded[0]
                shared.start_evaluations = StartEvaluations(file)
                gc.collect()
                gc.freeze()  # runs need not look through it, nor copy its pages
            signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATING)  # until the run has its own handlers
            process = fork.Process(target=run_recipe, args=(*request, shared, output, received))
            process.start()
            running.append(process)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATING)
            process.join()
            running.clear()
            shared.start_evaluations.collect()
            connection.send(process.exitcode)


def _load(path: str, shared: SharedInputs) -> SharedInputs:
    """Return the inputs of a recipe's file, which are the shared ones if there are any; empty ones if others are."""
    from peftkit.evaluate.shared_inputs import load_shared_inputs, pin
    from peftkit.monitor.verbosity import quiet_libraries
    from peftkit.plugins import load_registry
    from peftkit.recipe import load_recipe

    quiet_libraries("warning")
    recipe = pin(load_recipe(path, load_registry()))
    inputs = shared.for_recipe(recipe) if shared.settings else load_shared_inputs(recipe)
    inputs.add_baselines(recipe)
    return inputs


def _in_thread(function: Callable[[], Any]) -> Any:
    """Call a function in a thread of its own; return None if it fails, since the run will report the same error.

    OpenMP's threads belong to the thread that used them first. A fork has none of them, and would wait for them forever
    if they belonged to the main thread.
    """
    results: list[Any] = []

    def call() -> None:
        with suppress(Exception):
            results.append(function())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return results[0] if results else None


@contextmanager
def _recorded_output() -> Iterator[list[bytes]]:
    """Record what is written to standard output and standard error; yields a list that gets it at the end."""
    recorded: list[bytes] = []
    kept = [os.dup(stream) for stream in (1, 2)]
    with tempfile.TemporaryFile() as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield recorded
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
            file.seek(0)
            recorded.append(file.read())
