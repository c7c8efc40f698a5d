"""Loads the splits of a task from files, a local folder or a hub dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.cache_folder import use_writable_datasets_cache
from peftkit.data_files import first_rows, is_saved_dataset, to_plain_types
from peftkit.errors import DataError, InputError, comma_separated, did_you_mean, similar_file, summarize_error
from peftkit.hub_commits import COMMIT, ask_hub, resolve_commit, snapshot
from peftkit.tasks.columns import visible_columns
from peftkit.tasks.sources import folders
from peftkit.tasks.sources.data_source import (
    HUB_NAME,
    SPLIT_NAMES,
    DataSource,
    check_options,
    check_sizes,
    describe,
    files_of,
    is_missing_file,
    stamp,
)
from peftkit.tasks.sources.files import check_readable, count_rows, load_files
from peftkit.tasks.sources.splitting import ORIGIN, draw_sample, hold_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedSplits:
    """The three splits."""

    splits: DatasetDict
    origins: Mapping[str, str]
    """Name of the split in the data source that each split was taken from."""
    problems: tuple[InputError, ...] = ()
    """Why splits are missing; empty if there are all three."""
    cut: frozenset[str] = frozenset()
    """Names of the splits in the data source that may have more rows than were loaded."""


def load_splits(source: DataSource) -> LoadedSplits:
    """Loads the splits of a data source; cached until its files change.

    Raises:
        InputError: The data source does not exist or cannot be read, or a split is missing or empty.
    """
    loaded = load_valid_splits(source)
    for problem in loaded.problems:
        raise problem.with_traceback(None)
    return loaded


def load_valid_splits(source: DataSource) -> LoadedSplits:
    """Loads the splits of a data source that can be loaded; cached until its files change.

    Raises:
        InputError: The data source does not exist, or none of its splits can be loaded.
    """
    return _load_splits(source, stamp(source))


@lru_cache(maxsize=8)
def _load_splits(source: DataSource, key: tuple[Any, ...]) -> LoadedSplits:
    from datasets import Dataset, DatasetDict

    use_writable_datasets_cache()
    loaded, origins, problems = _load_source_splits(source)
    if not problems:
        check_sizes(source, loaded)
    limit = source.rows_per_file
    cut = frozenset(name for name, rows in loaded.items() if limit is not None and len(rows) >= limit)
    loaded = {name: _without_internal_columns(rows) for name, rows in loaded.items()}
    splits: dict[str, Any] = {split: loaded[name] for split, name in origins.items() if name in loaded}
    if source.sample and not problems:
        sample = _with_load_errors(source, partial(_take, splits["train"], source.sample))
        return LoadedSplits(DatasetDict({"train": sample}), origins)
    train: Any = splits.get("train")
    named = [split for split, name in zip(SPLIT_NAMES, source.names, strict=True) if name is not None]
    for split, fraction in (("test", source.test_fraction), ("dev", source.dev_fraction)):
        if split in origins or split in named or "train" not in origins or source.only is not None:
            continue
        if fraction is None:
            text = (
                f"{describe(source)} has no {split} split; set {split}_split to its name, or {split}_fraction to "
                "hold out training rows"
            )
            problems.append(InputError(text))
        elif isinstance(train, Dataset):
            try:
                _check_enough_rows(train, source)
            except InputError as error:
                problems.append(error)
                break
            number = round(len(train) * fraction)
            splits["train"], splits[split] = hold_out(splits["train"], number, source.seed, source.stratify)
            origins[split] = origins["train"]
        elif train is not None:
            problems.append(InputError(f"{describe(source)} is streamed, so no rows can be held out for {split}"))
    for split, rows in list(splits.items()):
        if isinstance(rows, Dataset) and not len(rows):
            problems.append(InputError(f"{describe(source)} has no rows in split {origins[split]!r}"))
            del splits[split]
        elif source.max_rows:
            splits[split] = draw_sample(rows, source.max_rows, source.seed, split, source.stratify)
    return LoadedSplits(DatasetDict(splits), origins, tuple(problems), cut)


def undownloaded_builder(source: DataSource) -> DatasetBuilder | None:
    """Returns the builder of a hub dataset that is not downloaded yet; None for other data sources.

    Raises:
        InputError: The dataset does not exist, or the hub is not reachable.
    """
    if files_of(source) or source.streaming or Path(str(source.path)).exists():
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
        raise _no_split(source, "train", sizes)
    published = sizes[names["train"]]
    fractions = (("dev", source.dev_fraction), ("test", source.test_fraction))
    held_out = sum(max(1, round(published * f)) for split, f in fractions if f and names[split] is None)
    total = published - held_out
    return sample, min(total, source.max_rows or total)


def locate_row(source: DataSource, split: str, index: int) -> tuple[str, int]:
    """Returns where a row comes from: its file, or dataset and split, and its number from 1.

    Args:
        source: The data source.
        split: Name of the split.
        index: Index of the row in the split.
    """
    loaded = load_valid_splits(source)
    rows: Any = loaded.splits[split]
    name, number = loaded.origins[split], index
    if ORIGIN in (rows.column_names or ()):
        number = rows[index][ORIGIN]
    for file in dict(files_of(source)).get(name, ()):
        if is_saved_dataset(Path(file)):
            return file, number + 1
        length = count_rows(file, stamp(replace(source, path=file)), source.rows_per_file, source.options)
        if number < length:
            return file, number + 1
        number -= length
    return f"{describe(source)}, split {name!r}", number + 1


def row_location(source: DataSource, split: str, index: int) -> str:
    """Describes where a row comes from (see ``locate_row``).

    Args:
        source: The data source.
        split: Name of the split.
        index: Index of the row in the split.
    """
    place, number = locate_row(source, split, index)
    return f"{place}, row {number}"


def _load_source_splits(source: DataSource) -> tuple[dict[str, Any], dict[str, str], list[InputError]]:
    """Loads the splits of a data source.

    Returns:
        The rows of each split by its name in the data source, that name by train, dev or test, and why splits cannot
        be loaded.
    """
    from datasets import Dataset

    splits: dict[str, Any] = {}
    files = dict(files_of(source))
    check_options(source, files)
    if files:
        origins, problems = _split_names(source, list(files))
        for name in files:  # skip files of other names, which may be unreadable
            if name not in origins.values():
                continue
            streaming = source.streaming and name == origins.get("train")  # only the training split is streamed
            try:
                splits |= load_files(
                    {name: files[name]},
                    streaming=streaming,
                    max_rows=source.rows_per_file,
                    options=source.options,
                )
            except InputError as error:
                problems.append(error)
        return splits, origins, problems
    if not isinstance(source.path, str):
        raise DataError("path", "has no files")
    if (Path(source.path) / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        splits = _with_load_errors(source, lambda: dict(load_from_disk(source.path)))
    else:
        splits = _with_load_errors(source, lambda: _load_from_hub(source))
    for name, rows in splits.items():
        if isinstance(rows, Dataset):
            splits[name] = to_plain_types(first_rows(rows, source.rows_per_file))
        elif source.rows_per_file is not None:
            splits[name] = _with_load_errors(source, partial(_take, rows, source.rows_per_file))
    origins, problems = _split_names(source, list(splits))
    if source.streaming and not source.sample:
        train = origins.get("train")
        splits = {name: rows if name == train else _to_dataset(rows) for name, rows in splits.items()}
    return splits, origins, problems


def _split_names(source: DataSource, available: Sequence[str]) -> tuple[dict[str, str], list[InputError]]:
    """Returns the names of train, dev and test in the data source, and why it has no split of a name."""
    names: dict[str, str] = {}
    problems: list[InputError] = []
    for split in SPLIT_NAMES if source.only is None else (source.only,):
        try:
            if (name := _split_name(source, split, available)) is not None:
                names[split] = name
            elif split == source.only:
                if len(available) == 1:  # as of a file
                    names[split] = available[0]
                else:
                    problems.append(_no_split(source, split, available))
            elif split == "train":
                problems.append(_no_split(source, split, available))
        except InputError as error:
            problems.append(error)
    return names, problems


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


def _load_arguments(source: DataSource) -> dict[str, Any]:
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


def _without_internal_columns(rows: Any) -> Any:
    """Removes columns that peftkit added before, as in rows of ``Task.load`` that were saved."""
    columns = rows.column_names or ()
    internal = [*{*columns} - {*visible_columns(columns)}]
    return rows.remove_columns(internal) if internal else rows


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
        raise InputError(f"cannot load {describe(source)} ({summarize_error(error)}); {remedy}") from error


def _take(rows: Any, number: int) -> Dataset:
    """Reads the first rows of a stream."""
    return _to_dataset(rows.take(number))


def _to_dataset(rows: Any) -> Dataset:
    """Reads all rows of a stream."""
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    from peftkit.tasks.sources.arrow_columns import make_dataset  # imports pyarrow, which checking a recipe must not

    return Dataset.from_list(list(rows), features=rows.features) if rows.features else make_dataset(rows)


def _split_name(source: DataSource, split: str, available: Sequence[str]) -> str | None:
    """Returns the name of a split in the data source; None if it has none."""
    name = dict(zip(SPLIT_NAMES, source.names, strict=True))[split]
    if name is None:  # default names that the recipe uses for another split do not count
        return next((name for name in SPLIT_NAMES[split] if name in available and name not in source.names), None)
    if name not in available:
        hint = f"{did_you_mean(name, available)}; splits: {comma_separated(sorted(available))}"
        raise DataError(f"{split}_split", f"{describe(source)} has no split {name!r}{hint}")
    return name


def _no_split(source: DataSource, split: str, available: Iterable[str]) -> InputError:
    return InputError(f"{describe(source)} has no split {split!r}; splits: {comma_separated(sorted(available))}")


def _check_enough_rows(rows: Dataset, source: DataSource) -> None:
    """Raises if there are fewer rows than splits, as in a JSON file with its rows at an unexpected key."""
    num_splits = 1 + (source.dev_fraction is not None) + (source.test_fraction is not None)
    if len(rows) < num_splits:
        columns = visible_columns(rows.column_names)
        raise InputError(
            f"{describe(source)} has {len(rows)} row{'s' if len(rows) != 1 else ''} (columns: "
            f"{comma_separated(columns)}), too few to hold out rows for dev and test"
        )
