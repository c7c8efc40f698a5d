"""Where memory runs out, fewer rows are passed at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size

from peftkit.errors import RunError

log = logging.getLogger(__name__)
Made = TypeVar("Made")


def ran_out(error: Exception) -> bool:
    """Whether the device has no memory left."""
    return bool(should_reduce_batch_size(error))


def halving(do: Callable[[int], Made], rows: int) -> Made:
    """Does it with so many rows at a time, or with half as many, again and again while memory runs out.

    Raises:
        RunError: there is not enough for a single row.
    """

    def half() -> int:
        nonlocal rows
        rows //= 2
        if rows:
            log.warning("out of memory: goes on with %d rows at a time", rows)
        return rows

    try:
        return do(rows)  # not by accelerate at once, which takes a while to clear what may be full
    except RuntimeError as error:
        if not ran_out(error):
            raise
    if half():
        try:
            made: Made = find_executable_batch_size(do, starting_batch_size=rows, reduce_batch_size_fn=half)()
            return made
        except RuntimeError:
            if rows:
                raise
    raise RunError(
        "out of memory with a single row at a time; shorten train.max_source_length, set "
        "train.gradient_checkpointing = true, or take a smaller model.dtype"
    )
