"""What a process of a sweep does: one run, with what it says written to a file.

The process that all are forked from has imported this module, and with it all that takes seconds to import.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

import peftkit.runner
from peftkit.errors import PeftkitError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe

for name in ("accelerate", "datasets", "evaluate", "peft", "transformers.models.auto.modeling_auto"):
    import_module(name)
with suppress(PeftkitError):  # which each run tells by itself
    load_registry()


def work(recipe: str, resume: str | None, log: str, variables: dict[str, str]) -> None:
    """Runs a recipe's file; the exit code is that of ``peftkit run``."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(variables)
    try:
        registry = load_registry()
        peftkit.runner.run(load_recipe(recipe, registry), registry, resume=resume)
    except PeftkitError as error:
        print(f"peftkit: error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    finally:
        sys.stdout.flush()
