"""The cache folder, and fallbacks for machines on which the home folder is not writable."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from peftkit.errors import InputError

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return ``PEFTKIT_CACHE``, or ``peftkit`` in the user's cache folder, or a temporary folder.

    Raises:
        InputError: ``PEFTKIT_CACHE`` is not writable, or no folder is.
    """
    return _cache_folder(os.environ.get("PEFTKIT_CACHE", ""), os.environ.get("XDG_CACHE_HOME", ""))


def use_writable_datasets_cache() -> None:
    """Move the cache of ``datasets`` into peftkit's if it is not writable, with a warning.

    Raises:
        InputError: Neither is writable.
    """
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    if problem := _write_problem(folder):
        replacement = cache_folder() / "datasets"
        log.warning(
            "the cache of datasets, %s, is not writable (%s); using %s; HF_HOME or HF_DATASETS_CACHE moves it",
            folder,
            problem,
            replacement,
        )
        config.HF_DATASETS_CACHE = replacement
        config.DOWNLOADED_DATASETS_PATH = replacement / "downloads"
        config.EXTRACTED_DATASETS_PATH = config.DOWNLOADED_DATASETS_PATH / "extracted"


@cache
def _cache_folder(configured: str, user_cache: str) -> Path:
    if configured:
        folder = Path(configured).expanduser()
        if problem := _write_problem(folder):
            raise InputError(f"PEFTKIT_CACHE: {str(folder)!r} is not writable ({problem}); use a folder that is")
        return folder
    try:
        folder = (Path(user_cache) if user_cache else Path.home() / ".cache") / "peftkit"
        problem = _write_problem(folder)
    except RuntimeError as error:  # the user has no home folder
        folder, problem = Path("~/.cache/peftkit"), str(error)
    if not problem:
        return folder
    replacement = _temporary_folder()
    log.warning(
        "the cache folder %s is not writable (%s); using %s; PEFTKIT_CACHE moves it", folder, problem, replacement
    )
    return replacement


@cache
def _write_problem(folder: Path) -> str:
    """Create a folder and return why no file can be written to it, or an empty text."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _temporary_folder() -> Path:
    """Create a temporary folder that belongs to this user.

    Raises:
        InputError: None can be created.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"peftkit-{os.getuid() if hasattr(os, 'getuid') else os.getpid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        owned = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not stat.S_ISDIR(status.st_mode) or not owned:
            folder = Path(tempfile.mkdtemp(prefix="peftkit-"))
    except OSError as error:
        raise InputError(
            f"no temporary folder is writable ({error.strerror or error}); set TMPDIR to one that is, and "
            "PEFTKIT_CACHE to one that is kept"
        ) from error
    return folder
