"""Where a task's rows come from: a hub data set, a local folder in the hub's form, or files for each split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.cache import use_writable_datasets_cache
from peftkit.commits import COMMIT, resolve_commit, snapshot
from peftkit.data_files import is_saved, plain_rows
from peftkit.errors import InputError, did_you_mean, listed, one_line
from peftkit.tasks import folders
from peftkit.tasks.files import count_rows, load_files
from peftkit.tasks.rows import INTERNAL
from peftkit.tasks.splitting import ORIGIN, draw, hold_out

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict

T = TypeVar("T")

NAMES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""What the splits are called where the recipe does not say."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """What is to be read, and how it is cut into splits; equal sources give equal rows."""

    path: str | folders.Files
    config: str | None = None
    revision: str | None = None
    names: tuple[str | None, ...] = (None, None, None)
    dev_fraction: float | None = None
    test_fraction: float | None = None
    stratify: str | None = None
    seed: int = 42
    max_rows: int | None = None
    streaming: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    sample: int | None = None
    """Fetches only so many training rows, and nothing else."""


@dataclass(frozen=True)
class Rows:
    """The three splits, and which split of the source each was taken from."""

    splits: DatasetDict
    origins: Mapping[str, str]


def read(source: Source) -> Rows:
    """The rows of a source; what was read before and has not changed since is not read again.

    Raises:
        InputError: there is no such thing, it cannot be read, or a split is missing or empty.
    """
    return _read(source, _stamp(source))


@lru_cache(maxsize=8)
def _read(source: Source, stamp: tuple[Any, ...]) -> Rows:
    from datasets import Dataset, DatasetDict

    use_writable_datasets_cache()
    found = _found(source)
    given = {split: _name(source, split, list(found)) for split in NAMES}
    _assert_sizes(source, found)
    splits: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for split, name in given.items():
        if name is not None:
            splits[split], origins[split] = found[name], name
    if "train" not in splits:
        raise InputError(f"{_words(source)} has no split 'train'; it has {listed(sorted(found))}")
    if source.sample:
        sample = _guarded(source, lambda: _held(splits["train"].take(source.sample)))
        return Rows(DatasetDict({"train": sample}), origins)
    train: Any = splits["train"]
    for split, fraction in (("test", source.test_fraction), ("dev", source.dev_fraction)):
        if split in splits:
            continue
        if fraction is None:
            raise InputError(
                f"{_words(source)} has no split for {split}; name one with {split}_split, or take a share of the "
                f"training rows with {split}_fraction"
            )
        if not isinstance(train, Dataset):
            raise InputError(f"{_words(source)} is streamed, so that no share of it can be taken for {split}")
        _refuse_too_few(train, source)
        splits["train"], splits[split] = hold_out(
            splits["train"], round(len(train) * fraction), source.seed, source.stratify
        )
        origins[split] = origins["train"]
    for split, rows in splits.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise InputError(f"{_words(source)} has no rows in its split {origins[split]!r}")
        if source.max_rows:
            splits[split] = draw(rows, source.max_rows, source.seed, split)
    return Rows(DatasetDict(splits), origins)


def absent(source: Source) -> DatasetBuilder | None:
    """What knows the hub's data set without its rows, if these were not fetched before.

    Raises:
        InputError: there is no such data set, or the hub cannot be reached.
    """
    if _files(source) or source.streaming or Path(str(source.path)).exists():
        return None
    from datasets import load_dataset_builder

    place = _place(source)
    builder = _guarded(source, lambda: load_dataset_builder(**place))
    return None if Path(builder.cache_dir).is_dir() else builder


def sampled(source: Source, builder: DatasetBuilder, rows: int) -> tuple[Source, int | None]:
    """The source with only so many training rows, and how many it has in all, if that is published anywhere."""
    told = {name: split.num_examples for name, split in (builder.info.splits or {}).items()} or dict(source.sizes)
    found = replace(source, sample=rows, streaming=True, sizes=())
    if not told:
        return found, None
    given = {split: _name(source, split, list(told)) for split in NAMES}
    if given["train"] is None:
        raise InputError(f"{_words(source)} has no split 'train'; it has {listed(sorted(told))}")
    whole = told[given["train"]]
    shares = (("dev", source.dev_fraction), ("test", source.test_fraction))
    number = whole - sum(max(1, round(whole * share)) for split, share in shares if share and given[split] is None)
    return found, min(number, source.max_rows or number)


def where(source: Source, split: str, index: int) -> str:
    """The file and row, or the data set, split and row, counted from 1, that a split's row was taken from."""
    rows = read(source)
    taken: Any = rows.splits[split]
    name, number = rows.origins[split], index
    if ORIGIN in (taken.column_names or ()):
        number = taken[index][ORIGIN]
    for file in dict(_files(source)).get(name, ()):
        if is_saved(Path(file)):
            return f"{file}, row {number + 1}"
        length = count_rows(file, _stamp(replace(source, path=file)))
        if number < length:
            return f"{file}, row {number + 1}"
        number -= length
    return f"{_words(source)}, split {name!r}, row {number + 1}"


def _found(source: Source) -> dict[str, Any]:
    """Every split there is, under the name that it has there."""
    from datasets import Dataset

    files = dict(_files(source))
    if files:  # others that lie beside them need not be readable
        wanted = {_name(source, split, list(files)) for split in NAMES}
        if _name(source, "train", list(files)) is None:
            raise InputError(f"{_words(source)} has no split 'train'; it has {listed(sorted(files))}")
        files = {name: names for name, names in files.items() if name in wanted}
    if files and source.streaming:  # only the training rows are many; the others are held
        train = _name(source, "train", list(files))
        many = {name: names for name, names in files.items() if name == train}
        found = load_files(many, streaming=True) | load_files({k: v for k, v in files.items() if k not in many})
        return {name: found[name] for name in files}
    if files:
        return load_files(files)
    if not isinstance(source.path, str):
        raise InputError("path names no files")
    if (Path(source.path) / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        found = _guarded(source, lambda: dict(load_from_disk(source.path)))
    else:
        found = _guarded(source, lambda: _of_hub(source))
    found = {name: plain_rows(rows) if isinstance(rows, Dataset) else rows for name, rows in found.items()}
    if source.streaming and not source.sample:
        train = _name(source, "train", list(found))
        found = {name: rows if name == train else _held(rows) for name, rows in found.items()}
    return found


def resolve_revision(source: Source) -> str | None:
    """The commit of the hub data set that is read now; None where rows are local, or no commit is known."""
    if not isinstance(source.path, str) or Path(source.path).exists() or not HUB_NAME.fullmatch(source.path):
        return None
    return resolve_commit("dataset", source.path, source.revision)


def _of_hub(source: Source) -> dict[str, Any]:
    """The hub data set as ``datasets`` loads it, or else as its files lie in the hub's cache.

    Files of texts are read as files of a user are, unless they are streamed.

    Raises:
        ValueError: ``datasets`` found another commit in its cache than the one that is asked for.
    """
    from datasets import load_dataset

    place = _place(source)
    if Path(str(source.path)).is_dir() and (local := folders.load_folder(str(source.path), source.config)):
        return local
    try:
        if not source.streaming and (texts := folders.load_hub_texts(place)):
            return texts
        found: dict[str, Any] = dict(load_dataset(**place, streaming=source.streaming))
        asked = source.revision or ""
        if COMMIT.fullmatch(asked) and (other := _commits(found) - {asked}):
            # Without a network datasets takes what was cached last, whatever commit it is of.
            raise ValueError(f"the cache has it at commit {other.pop()}, and commit {asked} is asked for")
        return found
    except Exception:
        files = dict(_fetched(source))
        if not files:
            raise
        return load_files(files, streaming=source.streaming)


def _commits(splits: Mapping[str, Any]) -> set[str]:
    """The commits that cached rows are of, as their folders are called."""
    files = (Path(file["filename"]) for rows in splits.values() for file in getattr(rows, "cache_files", ()))
    return {file.parent.name for file in files if COMMIT.fullmatch(file.parent.name)}


def _fetched(source: Source) -> folders.Files:
    """The files of a commit of a hub data set in the hub's cache, if all are there that their names speak of."""
    if not COMMIT.fullmatch(source.revision or ""):
        return ()
    folder = snapshot("dataset", str(source.path), str(source.revision))
    files = _files(replace(source, path=str(folder))) if folder else ()
    for _, names in files:
        parts = [found for name in names if (found := re.search(r"-of-(\d{5})\.", name))]
        if parts and len(parts) != int(parts[0][1]):
            return ()
    return files


def _place(source: Source) -> dict[str, Any]:
    """Where ``datasets`` finds the source: a folder, or the hub's data set of that revision."""
    path = str(source.path)
    local = Path(path).exists()
    if not local and not HUB_NAME.fullmatch(path):
        raise InputError(f"{path!r} is neither a file nor a folder, nor a hub's owner/name")
    return {"path": path, "name": source.config, "revision": None if local else source.revision}


def _guarded(source: Source, load: Callable[[], T]) -> T:
    try:
        return load()
    except InputError:
        raise
    except Exception as error:  # what the hub's client, a builder or a parser raises
        remedy = (
            "look at its files"
            if Path(str(source.path)).exists()
            else "if there is no network, fetch it where there is one, or set path to local files in its columns"
        )
        raise InputError(f"{_words(source)} cannot be loaded ({one_line(error)}); {remedy}") from error


def _held(rows: Any) -> Dataset:
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    from peftkit.tasks.columns import make_dataset  # it needs pyarrow, which checking a recipe must not import

    return Dataset.from_list(list(rows), features=rows.features) if rows.features else make_dataset(rows)


def _files(source: Source) -> folders.Files:
    """The files of each split, where there are files."""
    if not isinstance(source.path, str):
        return source.path
    return folders.files_by_split(
        Path(source.path), source.config, {name for names in NAMES.values() for name in names}
    )


def _name(source: Source, split: str, there: Sequence[str]) -> str | None:
    """What the source calls the split; None if it has none."""
    asked = dict(zip(NAMES, source.names, strict=True))[split]
    if asked is None:  # a name that stands for another split is not taken for this one
        return next((name for name in NAMES[split] if name in there and name not in source.names), None)
    if asked not in there:
        known = f"{did_you_mean(asked, there)}; it has {listed(sorted(there))}"
        raise InputError(f"{split}_split: {_words(source)} has no split {asked!r}{known}")
    return asked


def _refuse_too_few(rows: Dataset, source: Source) -> None:
    """Shares are taken of rows; a file that was read as one row most likely holds its rows deeper."""
    shares = 1 + (source.dev_fraction is not None) + (source.test_fraction is not None)
    if len(rows) < shares:
        columns = [name for name in rows.column_names if not name.startswith(INTERNAL)]
        raise InputError(
            f"{_words(source)} has {len(rows)} row{'s' if len(rows) != 1 else ''}, with the columns {listed(columns)}: "
            f"too few to take shares of it for dev and test"
        )


def _assert_sizes(source: Source, found: Mapping[str, Any]) -> None:
    from datasets import Dataset

    for name, rows in source.sizes:
        own = found.get(name)
        if isinstance(own, Dataset) and len(own) != rows:
            raise InputError(
                f"{_words(source)} has {len(own):,} rows in its split {name!r}, and {rows:,} were published; clear the "
                "cache of that data set, or set path to the rows that are meant"
            )
        if own is None:
            raise InputError(f"{_words(source)} has no split {name!r}, which was published with {rows:,} rows")


def _words(source: Source) -> str:
    if isinstance(source.path, str):
        return f"{source.path!r}" + (f" ({source.config})" if source.config else "")
    return ", ".join(file for _, files in source.path for file in files)


def _stamp(source: Source) -> tuple[Any, ...]:
    """When the source's files were changed last: what was read of older ones is out of date.

    The times of a change of the file itself are among it, which no copy that keeps modification times can set.
    """
    if isinstance(source.path, str):
        path = Path(source.path)
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    else:
        named = [Path(name) for _, names in source.path for name in names]
        files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    found = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_size) for name, s in found)
