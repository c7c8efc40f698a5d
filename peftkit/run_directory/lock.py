"""Locks a run directory, so that no two processes train the same run."""

from __future__ import annotations

import sys
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


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of a folder; nothing is written.

    Args:
        path: A run directory, or the folder of a sweep.

    Returns:
        None if that cannot be known: on Windows, without a lock file, and on file systems without locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        with (path / ".lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
            except BlockingIOError:
                return True
    except OSError:
        return None
    return False
