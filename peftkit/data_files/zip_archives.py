"""Finds the data files inside zip archives.

A file inside an archive is named ``reviews.zip::train.csv``, or as in fsspec ``zip://train.csv::reviews.zip``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from peftkit.errors import InputError, comma_separated, did_you_mean, summarize_error

SEPARATOR = "::"
SCHEME = "zip://"
IGNORED_FOLDERS = ("__MACOSX",)
"""Folders that programs add to archives, without data."""


def normalize_member(name: str) -> str:
    """Returns the path of a file inside an archive with the archive first; other paths as they are."""
    member, separator, archive = name.removeprefix(SCHEME).partition(SEPARATOR)
    return f"{archive}{SEPARATOR}{member}" if separator and name.startswith(SCHEME) else name


def split_member(name: str) -> tuple[str, str | None]:
    """Returns the file on disk that holds a data file, and the name inside it; None if it is no archive."""
    archive, separator, member = name.partition(SEPARATOR)
    if separator and archive.lower().endswith(".zip"):
        return archive, member
    return name, None


def disk_file(name: str) -> Path:
    """Returns the file on disk that holds a data file: its archive, or the file itself."""
    return Path(split_member(name)[0])


def is_archive(name: str) -> bool:
    """Returns whether a path is that of a zip archive, without the name of a file inside."""
    return name.lower().endswith(".zip") and split_member(name)[1] is None and Path(name).is_file()


def members(archive: str) -> list[str]:
    """Returns the names of the files in an archive, without hidden ones.

    Raises:
        InputError: It is no readable archive.
    """
    with _open_archive(archive) as opened:
        names = [info.filename for info in opened.infolist() if not info.is_dir()]
    return sorted(name for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    parts = Path(name).parts
    return any(part in IGNORED_FOLDERS or part.startswith(".") for part in parts)


@contextmanager
def open_member(archive: str, member: str) -> Iterator[IO[bytes]]:
    """Opens a file inside an archive.

    Args:
        archive: Path of the archive.
        member: Name of the file inside.

    Raises:
        InputError: There is no such file, or the archive is damaged or encrypted.
    """
    with _open_archive(archive) as opened:
        try:
            stream = opened.open(member)
        except KeyError:
            names = members(archive)
            hint = f"{did_you_mean(member, names)}; files: {comma_separated(names[:20])}"
            raise InputError(f"{archive}: has no file {member!r}{hint}") from None
        with stream:
            yield stream


@contextmanager
def _open_archive(archive: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except OSError as error:
        raise InputError(f"{archive!r}: {error.strerror or summarize_error(error)}") from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{archive}: is not a readable zip archive ({summarize_error(error)})") from error
    except RuntimeError as error:
        if "encrypted" not in str(error) and "password" not in str(error).lower():
            raise
        raise InputError(f"{archive}: is encrypted; unpack it first") from error
