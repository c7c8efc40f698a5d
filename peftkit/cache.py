"""Where what can be made again is kept between runs, also on machines whose home folder cannot be written."""

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
    """The folder: ``PEFTKIT_CACHE``, else one of the user's cache folder, else a temporary one.

    Raises:
        InputError: ``PEFTKIT_CACHE`` cannot be written, or there is no temporary folder either.
    """
    asked = os.environ.get("PEFTKIT_CACHE", "")
    return _usable(asked, os.environ.get("XDG_CACHE_HOME", ""))


def use_writable_datasets_cache() -> None:
    """Moves the cache of ``datasets`` into peftkit's own where it cannot be written; says so once.

    Raises:
        InputError: neither can be written.
    """
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE)
    if problem := _problem(folder):
        place = cache_folder() / "datasets"
        log.warning(
            "the cache of datasets, %s, cannot be written (%s): %s is used; HF_HOME or HF_DATASETS_CACHE moves it",
            folder,
            problem,
            place,
        )
        config.HF_DATASETS_CACHE = place
        config.DOWNLOADED_DATASETS_PATH = place / "downloads"
        config.EXTRACTED_DATASETS_PATH = config.DOWNLOADED_DATASETS_PATH / "extracted"


@cache
def _usable(asked: str, user: str) -> Path:
    if asked:
        folder = Path(asked).expanduser()
        if problem := _problem(folder):
            raise InputError(f"PEFTKIT_CACHE: {str(folder)!r} cannot be written ({problem}); name a folder that can be")
        return folder
    try:
        folder = (Path(user) if user else Path.home() / ".cache") / "peftkit"
        problem = _problem(folder)
    except RuntimeError as error:  # nobody's home
        folder, problem = Path("~/.cache/peftkit"), str(error)
    if not problem:
        return folder
    place = _temporary()
    log.warning(
        "the cache folder %s cannot be written (%s): %s is used; PEFTKIT_CACHE moves it", folder, problem, place
    )
    return place


@cache
def _problem(folder: Path) -> str:
    """Why no file can be written into the folder, which is made if it is not there; empty if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _temporary() -> Path:
    """A folder for temporary files that is this user's alone.

    Raises:
        InputError: there is none.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"peftkit-{os.getuid() if hasattr(os, 'getuid') else os.getpid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        if not stat.S_ISDIR(found.st_mode) or not mine:
            folder = Path(tempfile.mkdtemp(prefix="peftkit-"))
    except OSError as error:
        raise InputError(
            f"no folder for temporary files can be written ({error.strerror or error}); set TMPDIR to one that can be, "
            "and PEFTKIT_CACHE to one that is kept"
        ) from error
    return folder
