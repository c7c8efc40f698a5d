"""Entry point of a sweep's worker process: run one recipe and write its output to a file.

The server process that workers are forked from imports this module, and with it everything that takes seconds to
import.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module

import peftkit.train.run
from peftkit.errors import PeftkitError
from peftkit.evaluate.shared_inputs import SharedInputs
from peftkit.monitor.collect_env import package_versions
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.train.wall_clock import process_start

for name in ("accelerate", "datasets", "evaluate", "peft", "transformers.models.auto.modeling_auto"):
    import_module(name)
package_versions()
with suppress(PeftkitError):  # each run reports it
    load_registry()


def run_recipe(
    recipe: str,
    resume: str | None,
    log: str,
    variables: Mapping[str, str],
    shared: SharedInputs | None = None,
    output_of_loading: bytes = b"",
    started: float | None = None,
) -> None:
    """Run a recipe's file; the exit code is that of ``peftkit run``.

    Args:
        recipe: The file.
        resume: The run directory to resume; None for a new run.
        log: The file for standard output and standard error.
        variables: Environment variables to set.
        shared: Inputs that this process has loaded already; None for none.
        output_of_loading: What was printed while they were loaded.
        started: When the run was asked for, on the clock of ``time.monotonic``; None for the start of this process.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, handler)  # a warm worker has others
    if hasattr(signal, "pthread_sigmask"):  # which it blocked while it forked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.write(output, output_of_loading)
    os.environ.update(variables)
    try:
        registry = load_registry()
        started = process_start() if started is None else started
        peftkit.train.run.run(load_recipe(recipe, registry), registry, resume=resume, shared=shared, started=started)
    except PeftkitError as error:
        print(f"peftkit: error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    finally:
        sys.stdout.flush()
