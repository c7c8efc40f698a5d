"""Loads hub datasets, and local folders in the layout of one, by ``datasets`` or from the hub's cache."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from peftkit.errors import DataError, InputError, comma_separated, did_you_mean, similar_file, summarize_error
from peftkit.hub_commits import COMMIT, ask_hub, snapshot
from peftkit.tasks.sources import folders
from peftkit.tasks.sources.data_source import HUB_NAME, DataSource, describe, files_of, is_missing_file
from peftkit.tasks.sources.files import check_readable, load_files

T = TypeVar("T")
SUBSETS = re.compile(r"(?:not found\. Available: |among the available configs: )(\[[^]]*\])")
"""How ``datasets`` lists the subsets of a dataset that lacks the requested one, or needs one."""


def load_from_hub(source: DataSource) -> dict[str, Any]:
    """Loads a hub dataset, or a local folder of the same layout.

    CSV, TSV and JSON files are read without type inference unless they are streamed. If ``datasets`` fails, files in
    the hub's cache are used.

    Raises:
        ValueError: The cache of ``datasets`` has another commit than the requested one.
    """
    from datasets import load_dataset

    arguments = load_arguments(source)
    if not Path(str(source.path)).exists():
        ask_hub("dataset", str(source.path))
    if Path(str(source.path)).is_dir() and (
        local := folders.load_folder(str(source.path), source.config, source.rows_per_file)
    ):
        return local
    try:
        if not source.streaming and (texts := folders.load_hub_texts(arguments)):
            return texts
        streaming = source.streaming or source.rows_per_file is not None
        splits: dict[str, Any] = dict(load_dataset(**arguments, streaming=streaming))
        commit = source.revision or ""
        if COMMIT.fullmatch(commit) and (others := _commits(splits) - {commit}):
            # Without network, datasets loads the latest commit in its cache.
            raise ValueError(f"commit {commit} was requested, but the cache has commit {others.pop()}")
        return splits
    except Exception:
        files = dict(_cached_files(source))
        if not files:
            raise
        return load_files(files, streaming=source.streaming)


def _commits(splits: Mapping[str, Any]) -> set[str]:
    """Returns the commits of cached rows, from the names of their folders."""
    files = (Path(file["filename"]) for rows in splits.values() for file in getattr(rows, "cache_files", ()))
    return {file.parent.name for file in files if COMMIT.fullmatch(file.parent.name)}


def _cached_files(source: DataSource) -> folders.Files:
    """Returns the files of a hub dataset in the hub's cache; empty if a shard is missing."""
    if not COMMIT.fullmatch(source.revision or ""):
        return ()
    folder = snapshot("dataset", str(source.path), str(source.revision))
    files = files_of(replace(source, path=str(folder))) if folder else ()
    for _, names in files:
        shards = [match for name in names if (match := re.search(r"-of-(\d{5})\.", name))]
        if shards and len(shards) != int(shards[0][1]):
            return ()
    return files


def load_arguments(source: DataSource) -> dict[str, Any]:
    """Returns the arguments of ``load_dataset`` for a folder or hub dataset."""
    path = str(source.path)
    local = Path(path).exists()
    if is_missing_file(path):
        check_readable(path)  # raises with a similar name
    if not local and not HUB_NAME.fullmatch(path):
        folder = Path(path).parent
        near = similar_file(Path(path).name, [p.name for p in folder.iterdir()] if folder.is_dir() else ())
        raise DataError("path", f"{path!r} is neither a file, a folder nor a hub id (owner/name){near}")
    return {"path": path, "name": source.config, "revision": None if local else source.revision} | (
        {"data_dir": source.data_dir} if source.data_dir and not local else {}
    )


def with_load_errors(source: DataSource, load: Callable[[], T]) -> T:
    """Calls a function that loads a data source, and describes what it raises.

    Args:
        source: The data source.
        load: The function.

    Raises:
        InputError: The function raises an error.
    """
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # hub clients, builders and parsers raise many types
        if match := SUBSETS.search(str(error)):
            raise _subset_error(source, match[1]) from error
        remedy = (
            "check its files"
            if Path(str(source.path)).exists()
            else "without network, download it elsewhere, or set path to local files with the same columns"
        )
        raise InputError(f"cannot load {describe(source)} ({summarize_error(error)}); {remedy}") from error


def _subset_error(source: DataSource, listed: str) -> DataError:
    """Returns the error for a subset that does not exist, or is not named.

    Args:
        source: The data source.
        listed: The subsets, as the error of ``datasets`` lists them.
    """
    names = [name for name in ast.literal_eval(listed) if name != "default"]
    folder = Path(str(source.path))
    if not names and folder.is_dir():  # subfolders are subsets too
        names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    subsets = f"subsets: {comma_separated(names)}" if names else "it has no subsets, so leave config out"
    if source.config is None:
        return DataError("config", f"{str(source.path)!r} has several subsets; set config to one of them; {subsets}")
    near = did_you_mean(source.config, names)
    return DataError("config", f"{str(source.path)!r} has no subset {source.config!r}{near}; {subsets}")
