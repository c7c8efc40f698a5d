"""Retries with a smaller batch when a device runs out of memory.

``train.steps.train_step`` retries a step with smaller microbatches, and ``evaluate.evaluator`` an evaluation with fewer
rows at a time. With several processes, or with DeepSpeed, a step is not retried, since the other processes would wait
for this one: the run ends and prints settings that need less memory. In an evaluation each process retries by itself.
Others only check errors with ``is_oom``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size

from peftkit.errors import RunError

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def is_oom(error: Exception) -> bool:
    """Return whether an error says that the device is out of memory."""
    return bool(should_reduce_batch_size(error))


def retry_with_half_batch(function: Callable[[int], Result], batch_size: int) -> Result:
    """Call a function, halving its batch size each time it runs out of memory.

    Args:
        function: Takes the batch size; must be safe to call again after it failed.
        batch_size: The first batch size to try, in rows.

    Returns:
        What the function returns for the first batch size that fits.

    Raises:
        RunError: A single row does not fit.
    """

    def halve() -> int:
        nonlocal batch_size
        batch_size //= 2
        if batch_size:
            log.warning("out of memory; retrying with a batch size of %d", batch_size)
        return batch_size

    try:
        # Not through accelerate at first: it starts with emptying the caches, which takes time.
        return function(batch_size)
    except RuntimeError as error:
        if not is_oom(error):
            raise
    if halve():
        try:
            retry = find_executable_batch_size(function, starting_batch_size=batch_size, reduce_batch_size_fn=halve)
            result: Result = retry()
            return result
        except RuntimeError:
            if batch_size:
                raise
    raise RunError(
        "out of memory with a batch size of 1; reduce train.max_source_length, set "
        "train.gradient_checkpointing = true, or use a smaller model.dtype"
    )
