"""Loads the splits of a task from files, a local folder or a hub dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.cache_folder import use_writable_datasets_cache
from peftkit.data_files import data_name, first_rows, is_saved_dataset, to_plain_types
from peftkit.errors import DataError, InputError, comma_separated, did_you_mean
from peftkit.hub_commits import resolve_commit
from peftkit.tasks.columns import visible_columns
from peftkit.tasks.sources.data_source import (
    HUB_NAME,
    SPLIT_NAMES,
    DataSource,
    check_options,
    check_sizes,
    describe,
    files_of,
    stamp,
)
from peftkit.tasks.sources.files import count_rows, load_files
from peftkit.tasks.sources.hub_datasets import load_arguments, load_from_hub, with_load_errors
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
    held_out: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Numbers of rows and of their groups in each split that was held out of the training rows."""
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
        sample = with_load_errors(source, partial(_take, splits["train"], source.sample))
        return LoadedSplits(DatasetDict({"train": sample}), origins)
    train: Any = splits.get("train")
    named = [split for split, name in zip(SPLIT_NAMES, source.names, strict=True) if name is not None]
    groups: Sequence[int] | None = None
    held_out: dict[str, tuple[int, int]] = {}
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
            if groups is None:
                groups = source.groups.find(train) if source.groups else range(len(train))
            number, rows = round(len(train) * fraction), splits["train"]
            left = [groups[i] for i in rows[ORIGIN]] if ORIGIN in rows.column_names else groups
            splits["train"], splits[split] = hold_out(rows, number, source.seed, source.stratify, left)
            origins[split] = origins["train"]
            held_out[split] = len(splits[split]), len({groups[i] for i in splits[split][ORIGIN]})
            if not len(splits[split]):
                problems.append(_no_groups(source, split))
                break
        elif train is not None:
            problems.append(InputError(f"{describe(source)} is streamed, so no rows can be held out for {split}"))
    for split, rows in list(splits.items()):
        if isinstance(rows, Dataset) and not len(rows):
            problems.append(InputError(f"{describe(source)} has no rows in split {origins[split]!r}"))
            del splits[split]
        elif source.max_rows:
            splits[split] = draw_sample(rows, source.max_rows, source.seed, split, source.stratify)
    return LoadedSplits(DatasetDict(splits), origins, tuple(problems), held_out, cut)


def undownloaded_builder(source: DataSource) -> DatasetBuilder | None:
    """Returns the builder of a hub dataset that is not downloaded yet; None for other data sources.

    Raises:
        InputError: The dataset does not exist, or the hub is not reachable.
    """
    if files_of(source) or source.streaming or Path(str(source.path)).exists():
        return None
    from datasets import load_dataset_builder

    arguments = load_arguments(source)
    builder = with_load_errors(source, lambda: load_dataset_builder(**arguments))
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
            return data_name(file), number + 1
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

        splits = with_load_errors(source, lambda: dict(load_from_disk(source.path)))
    else:
        splits = with_load_errors(source, lambda: load_from_hub(source))
    for name, rows in splits.items():
        if isinstance(rows, Dataset):
            splits[name] = to_plain_types(first_rows(rows, source.rows_per_file))
        elif source.rows_per_file is not None:
            splits[name] = with_load_errors(source, partial(_take, rows, source.rows_per_file))
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


def _without_internal_columns(rows: Any) -> Any:
    """Removes columns that peftkit added before, as in rows of ``Task.load`` that were saved."""
    columns = rows.column_names or ()
    internal = [*{*columns} - {*visible_columns(columns)}]
    return rows.remove_columns(internal) if internal else rows


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


def _no_groups(source: DataSource, split: str) -> InputError:
    return InputError(
        f"{describe(source)}: no rows can be held out for {split}, because the training rows are one group: they have "
        f"{source.groups.rule if source.groups else 'one row'}; set {split}_split, or group_column to a column of "
        "smaller groups"
    )


def _check_enough_rows(rows: Dataset, source: DataSource) -> None:
    """Raises if there are fewer rows than splits, as in a JSON file with its rows at an unexpected key."""
    num_splits = 1 + (source.dev_fraction is not None) + (source.test_fraction is not None)
    if len(rows) < num_splits:
        columns = visible_columns(rows.column_names)
        raise InputError(
            f"{describe(source)} has {len(rows)} row{'s' if len(rows) != 1 else ''} (columns: "
            f"{comma_separated(columns)}), too few to hold out rows for dev and test"
        )
