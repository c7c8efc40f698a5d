"""Locks a run directory, so that no two processes train the same run."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from peftkit.errors import RunError


def lock_run_directory(path: Path) -> FileLock:
    """Lock a run directory against other processes, until the lock is released or this process ends.

    Raises:
        RunError: Another process holds the lock.
    """
    run_lock = FileLock(path / ".lock")
    try:
        run_lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"{path} is in use by another process; wait until it ends, or stop it") from error
    return run_lock
