"""Entry point of a sweep's worker process: run one recipe and write its output to a file.

The server process that workers are forked from imports this module, and with it everything that takes seconds to
import.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

import peftkit.train.run
from peftkit.errors import PeftkitError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe

for name in ("accelerate", "datasets", "evaluate", "peft", "transformers.models.auto.modeling_auto"):
    import_module(name)
with suppress(PeftkitError):  # each run reports it
    load_registry()


def run_recipe(recipe: str, resume: str | None, log: str, variables: dict[str, str]) -> None:
    """Run a recipe's file; the exit code is that of ``peftkit run``.

    Args:
        recipe: The file.
        resume: The run directory to resume; None for a new run.
        log: The file for standard output and standard error.
        variables: Environment variables to set.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(variables)
    try:
        registry = load_registry()
        peftkit.train.run.run(load_recipe(recipe, registry), registry, resume=resume)
    except PeftkitError as error:
        print(f"peftkit: error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    finally:
        sys.stdout.flush()
