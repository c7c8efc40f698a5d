"""Loads the splits of a task from files, a local folder or a hub dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.cache import use_writable_datasets_cache
from peftkit.data_files import is_saved_dataset, to_plain_types
from peftkit.errors import InputError, comma_separated, did_you_mean, summarize_error
from peftkit.hub_commits import COMMIT, resolve_commit, snapshot
from peftkit.tasks.columns import visible_columns
from peftkit.tasks.sources import folders
from peftkit.tasks.sources.files import count_rows, load_files
from peftkit.tasks.sources.splitting import ORIGIN, draw_sample, hold_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict

T = TypeVar("T")

SPLIT_NAMES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Default names of the splits in a data source."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class DataSource:
    """Where to load rows from and how to split them; equal data sources yield equal rows."""

    path: str | folders.Files
    """Hub id, file or folder; or the files of each split."""
    config: str | None = None
    revision: str | None = None
    names: tuple[str | None, ...] = (None, None, None)
    """Names of the splits for train, dev and test; None for the default names."""
    dev_fraction: float | None = None
    test_fraction: float | None = None
    stratify: str | None = None
    """Column that held-out rows are stratified by."""
    seed: int = 42
    max_rows: int | None = None
    streaming: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    """Expected number of rows by split."""
    sample: int | None = None
    """Number of training rows to load, without other splits; None to load all splits."""


@dataclass(frozen=True)
class LoadedSplits:
    """The three splits."""

    splits: DatasetDict
    origins: Mapping[str, str]
    """Name of the split in the data source that each split was taken from."""


def load_splits(source: DataSource) -> LoadedSplits:
    """Loads the splits of a data source; cached until its files change.

    Raises:
        InputError: The data source does not exist or cannot be read, or a split is missing or empty.
    """
    return _load_splits(source, _stamp(source))


@lru_cache(maxsize=8)
def _load_splits(source: DataSource, stamp: tuple[Any, ...]) -> LoadedSplits:
    from datasets import Dataset, DatasetDict

    use_writable_datasets_cache()
    loaded = _load_source_splits(source)
    names = {split: _split_name(source, split, list(loaded)) for split in SPLIT_NAMES}
    _check_sizes(source, loaded)
    splits: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for split, name in names.items():
        if name is not None:
            splits[split], origins[split] = loaded[name], name
    if "train" not in splits:
        raise _no_train_split(source, loaded)
    if source.sample:
        sample = _with_load_errors(source, lambda: _to_dataset(splits["train"].take(source.sample)))
        return LoadedSplits(DatasetDict({"train": sample}), origins)
    train: Any = splits["train"]
    for split, fraction in (("test", source.test_fraction), ("dev", source.dev_fraction)):
        if split in splits:
            continue
        if fraction is None:
            raise InputError(
                f"{_describe(source)} has no {split} split; set {split}_split to its name, or {split}_fraction to "
                "hold out training rows"
            )
        if not isinstance(train, Dataset):
            raise InputError(f"{_describe(source)} is streamed, so no rows can be held out for {split}")
        _check_enough_rows(train, source)
        splits["train"], splits[split] = hold_out(
            splits["train"], round(len(train) * fraction), source.seed, source.stratify
        )
        origins[split] = origins["train"]
    for split, rows in splits.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise InputError(f"{_describe(source)} has no rows in split {origins[split]!r}")
        if source.max_rows:
            splits[split] = draw_sample(rows, source.max_rows, source.seed, split)
    return LoadedSplits(DatasetDict(splits), origins)


def undownloaded_builder(source: DataSource) -> DatasetBuilder | None:
    """Returns the builder of a hub dataset that is not downloaded yet; None for other data sources.

    Raises:
        InputError: The dataset does not exist, or the hub is not reachable.
    """
    if _files(source) or source.streaming or Path(str(source.path)).exists():
        return None
    from datasets import load_dataset_builder

    arguments = _load_arguments(source)
    builder = _with_load_errors(source, lambda: load_dataset_builder(**arguments))
    return None if Path(builder.cache_dir).is_dir() else builder


def limit_train_rows(source: DataSource, builder: DatasetBuilder, rows: int) -> tuple[DataSource, int | None]:
    """Limits a hub dataset to its first training rows.

    Args:
        source: The data source.
        builder: Its builder.
        rows: Number of training rows.

    Returns:
        The limited data source, and the total number of training rows, or None if it is not published.

    Raises:
        InputError: There is no training split.
    """
    sizes = {name: split.num_examples for name, split in (builder.info.splits or {}).items()} or dict(source.sizes)
    sample = replace(source, sample=rows, streaming=True, sizes=())
    if not sizes:
        return sample, None
    names = {split: _split_name(source, split, list(sizes)) for split in SPLIT_NAMES}
    if names["train"] is None:
        raise _no_train_split(source, sizes)
    published = sizes[names["train"]]
    fractions = (("dev", source.dev_fraction), ("test", source.test_fraction))
    held_out = sum(max(1, round(published * f)) for split, f in fractions if f and names[split] is None)
    total = published - held_out
    return sample, min(total, source.max_rows or total)


def row_location(source: DataSource, split: str, index: int) -> str:
    """Describes where a row comes from: its file, or dataset and split, and its number from 1.

    Args:
        source: The data source.
        split: Name of the split.
        index: Index of the row in the split.
    """
    loaded = load_splits(source)
    rows: Any = loaded.splits[split]
    name, number = loaded.origins[split], index
    if ORIGIN in (rows.column_names or ()):
        number = rows[index][ORIGIN]
    for file in dict(_files(source)).get(name, ()):
        if is_saved_dataset(Path(file)):
            return f"{file}, row {number + 1}"
        length = count_rows(file, _stamp(replace(source, path=file)))
        if number < length:
            return f"{file}, row {number + 1}"
        number -= length
    return f"{_describe(source)}, split {name!r}, row {number + 1}"


def _load_source_splits(source: DataSource) -> dict[str, Any]:
    """Loads the splits of a data source under their original names."""
    from datasets import Dataset

    files = dict(_files(source))
    if files:  # skip files of other names, which may be unreadable
        used = {_split_name(source, split, list(files)) for split in SPLIT_NAMES}
        if _split_name(source, "train", list(files)) is None:
            raise _no_train_split(source, files)
        files = {name: names for name, names in files.items() if name in used}
    if files and source.streaming:  # only the training split is streamed
        train = _split_name(source, "train", list(files))
        streamed = {name: names for name, names in files.items() if name == train}
        splits = load_files(streamed, streaming=True)
        splits |= load_files({name: names for name, names in files.items() if name not in streamed})
        return {name: splits[name] for name in files}
    if files:
        return load_files(files)
    if not isinstance(source.path, str):
        raise InputError("path: has no files")
    if (Path(source.path) / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        splits = _with_load_errors(source, lambda: dict(load_from_disk(source.path)))
    else:
        splits = _with_load_errors(source, lambda: _load_from_hub(source))
    splits = {name: to_plain_types(rows) if isinstance(rows, Dataset) else rows for name, rows in splits.items()}
    if source.streaming and not source.sample:
        train = _split_name(source, "train", list(splits))
        splits = {name: rows if name == train else _to_dataset(rows) for name, rows in splits.items()}
    return splits


def resolve_revision(source: DataSource) -> str | None:
    """Returns the current commit of a hub dataset; None for local data, or if it is unknown."""
    if not isinstance(source.path, str) or Path(source.path).exists() or not HUB_NAME.fullmatch(source.path):
        return None
    return resolve_commit("dataset", source.path, source.revision)


def _load_from_hub(source: DataSource) -> dict[str, Any]:
    """Loads a hub dataset, or a local folder of the same layout.

    CSV, TSV and JSON files are read without type inference unless they are streamed. If ``datasets`` fails, files in
    the hub's cache are used.

    Raises:
        ValueError: The cache of ``datasets`` has another commit than the requested one.
    """
    from datasets import load_dataset

    arguments = _load_arguments(source)
    if Path(str(source.path)).is_dir() and (local := folders.load_folder(str(source.path), source.config)):
        return local
    try:
        if not source.streaming and (texts := folders.load_hub_texts(arguments)):
            return texts
        splits: dict[str, Any] = dict(load_dataset(**arguments, streaming=source.streaming))
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
    files = _files(replace(source, path=str(folder))) if folder else ()
    for _, names in files:
        shards = [match for name in names if (match := re.search(r"-of-(\d{5})\.", name))]
        if shards and len(shards) != int(shards[0][1]):
            return ()
    return files


def _load_arguments(source: DataSource) -> dict[str, Any]:
    """Returns the arguments of ``load_dataset`` for a folder or hub dataset."""
    path = str(source.path)
    local = Path(path).exists()
    if not local and not HUB_NAME.fullmatch(path):
        raise InputError(f"{path!r} is neither a file, a folder nor a hub id (owner/name)")
    return {"path": path, "name": source.config, "revision": None if local else source.revision}


def _with_load_errors(source: DataSource, load: Callable[[], T]) -> T:
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # hub clients, builders and parsers raise many types
        remedy = (
            "check its files"
            if Path(str(source.path)).exists()
            else "without network, download it elsewhere, or set path to local files with the same columns"
        )
        raise InputError(f"cannot load {_describe(source)} ({summarize_error(error)}); {remedy}") from error


def _to_dataset(rows: Any) -> Dataset:
    """Reads all rows of a stream."""
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    from peftkit.tasks.sources.arrow_columns import make_dataset  # imports pyarrow, which checking a recipe must not

    return Dataset.from_list(list(rows), features=rows.features) if rows.features else make_dataset(rows)


def _files(source: DataSource) -> folders.Files:
    """Returns the files of each split; empty if they are not known by their names."""
    if not isinstance(source.path, str):
        return source.path
    return folders.files_by_split(
        Path(source.path), source.config, {name for names in SPLIT_NAMES.values() for name in names}
    )


def _split_name(source: DataSource, split: str, available: Sequence[str]) -> str | None:
    """Returns the name of a split in the data source; None if it has none."""
    name = dict(zip(SPLIT_NAMES, source.names, strict=True))[split]
    if name is None:  # default names that the recipe uses for another split do not count
        return next((name for name in SPLIT_NAMES[split] if name in available and name not in source.names), None)
    if name not in available:
        hint = f"{did_you_mean(name, available)}; splits: {comma_separated(sorted(available))}"
        raise InputError(f"{split}_split: {_describe(source)} has no split {name!r}{hint}")
    return name


def _no_train_split(source: DataSource, available: Iterable[str]) -> InputError:
    return InputError(f"{_describe(source)} has no split 'train'; splits: {comma_separated(sorted(available))}")


def _check_enough_rows(rows: Dataset, source: DataSource) -> None:
    """Raises if there are fewer rows than splits, as in a JSON file with its rows at an unexpected key."""
    num_splits = 1 + (source.dev_fraction is not None) + (source.test_fraction is not None)
    if len(rows) < num_splits:
        columns = visible_columns(rows.column_names)
        raise InputError(
            f"{_describe(source)} has {len(rows)} row{'s' if len(rows) != 1 else ''} (columns: "
            f"{comma_separated(columns)}), too few to hold out rows for dev and test"
        )


def _check_sizes(source: DataSource, splits: Mapping[str, Any]) -> None:
    """Raises if splits differ from their published sizes."""
    from datasets import Dataset

    for name, size in source.sizes:
        rows = splits.get(name)
        if isinstance(rows, Dataset) and len(rows) != size:
            raise InputError(
                f"{_describe(source)} has {len(rows):,} rows in split {name!r}, but {size:,} were published; clear the "
                "cache of the dataset, or set path to other files"
            )
        if rows is None:
            raise InputError(f"{_describe(source)} has no split {name!r}, which was published with {size:,} rows")


def _describe(source: DataSource) -> str:
    if isinstance(source.path, str):
        return f"{source.path!r}" + (f" ({source.config})" if source.config else "")
    return ", ".join(file for _, files in source.path for file in files)


def _stamp(source: DataSource) -> tuple[Any, ...]:
    """Returns a cache key of the source's files, which changes when a file changes.

    It includes ``st_ctime``, which copying with preserved modification times does not keep.
    """
    if isinstance(source.path, str):
        path = Path(source.path)
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    else:
        paths = [Path(name) for _, names in source.path for name in names]
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_size) for name, s in stats)
