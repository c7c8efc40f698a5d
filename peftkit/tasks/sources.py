"""Where a task's rows come from: a hub data set, a local folder in the hub's form, or files for each split."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.cache import use_writable_datasets_cache
from peftkit.commits import COMMIT, resolve_commit, snapshot
from peftkit.errors import InputError, RowError, did_you_mean, listed, one_line
from peftkit.tasks.files import builder_of, load_files
from peftkit.tasks.rows import value

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict

T = TypeVar("T")

NAMES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""What the splits are called where the recipe does not say."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ORIGIN = "__row__"
"""The column that holds where a row stood, from 0, before splits were cut and rows chosen."""

Files = tuple[tuple[str, tuple[str, ...]], ...]
"""The files of each split."""


@dataclass(frozen=True)
class Source:
    """What is to be read, and how it is cut into splits; equal sources give equal rows."""

    path: str | Files
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
        splits["train"], splits[split] = _cut(splits["train"], round(len(train) * fraction), source)
        origins[split] = origins["train"]
    for split, rows in splits.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise InputError(f"{_words(source)} has no rows in its split {origins[split]!r}")
        if source.max_rows:
            splits[split] = _some(rows, source, split)
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
        length = len(load_files({name: (file,)})[name])
        if number < length:
            return f"{file}, row {number + 1}"
        number -= length
    return f"{_words(source)}, split {name!r}, row {number + 1}"


def _found(source: Source) -> dict[str, Any]:
    """Every split there is, under the name that it has there."""
    files = dict(_files(source))
    if files:
        found = load_files(files, streaming=source.streaming)
    elif not isinstance(source.path, str):
        raise InputError("path names no files")
    elif (Path(source.path) / "dataset_dict.json").is_file():
        from datasets import load_from_disk

        found = _guarded(source, lambda: dict(load_from_disk(source.path)))
    else:
        found = _guarded(source, lambda: _of_hub(source))
    if source.streaming and not source.sample:  # only the training rows are many; the others are held
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

    Raises:
        ValueError: ``datasets`` found another commit in its cache than the one that is asked for.
    """
    from datasets import load_dataset

    place = _place(source)
    try:
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


def _fetched(source: Source) -> Files:
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
    except Exception as error:  # what the hub's client, a builder or a parser raises
        remedy = (
            "look at its files"
            if Path(str(source.path)).exists()
            else "if there is no network, fetch it where there is one, or set path to local files in its columns"
        )
        raise InputError(f"{_words(source)} cannot be loaded ({one_line(error)}); {remedy}") from error


def _held(rows: Any) -> Dataset:
    from datasets import Dataset

    return rows if isinstance(rows, Dataset) else Dataset.from_list(list(rows), features=rows.features)


def _files(source: Source) -> Files:
    """The files of each split, where there are files."""
    if not isinstance(source.path, str):
        return source.path
    path = Path(source.path)
    if path.is_file():
        return (("train", (source.path,)),)
    if not path.is_dir() or (path / "dataset_dict.json").is_file():
        return ()
    folders = [path / source.config, path / "data" / source.config] if source.config else []
    for folder in (*folders, path, path / "data"):
        splits: dict[str, list[str]] = defaultdict(list)
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = re.split(r"[-_.]", file.name)[0]
            if builder_of(file) and file.is_file():
                splits[name].append(str(file))
        if any(name in names for names in NAMES.values() for name in splits):
            return tuple((name, tuple(files)) for name, files in splits.items())
    return ()


def _name(source: Source, split: str, there: Sequence[str]) -> str | None:
    """What the source calls the split; None if it has none."""
    asked = dict(zip(NAMES, source.names, strict=True))[split]
    if asked is None:  # a name that stands for another split is not taken for this one
        return next((name for name in NAMES[split] if name in there and name not in source.names), None)
    if asked not in there:
        known = f"{did_you_mean(asked, there)}; it has {listed(sorted(there))}"
        raise InputError(f"{split}_split: {_words(source)} has no split {asked!r}{known}")
    return asked


def _cut(rows: Dataset, wanted: int, source: Source) -> tuple[Dataset, Dataset]:
    """The rows without a seeded choice of them, and that; of every label the same share, as near as can be."""
    rng = random.Random(f"{source.seed}/{len(rows)}")  # noqa: S311 - a sample, no secret
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(_strata(rows, source.stratify)):
        groups[key].append(index)
    wanted = max(1, wanted)
    exact = {key: len(group) * wanted / len(rows) for key, group in groups.items()}
    share = {key: int(number) for key, number in exact.items()}
    rest = sorted(groups, key=lambda key: (share[key] - exact[key], key))
    for key in rest[: wanted - sum(share.values())]:
        share[key] += 1
    out = {index for key in sorted(groups) for index in rng.sample(groups[key], share[key])}
    rows = _numbered(rows)
    return rows.select([i for i in range(len(rows)) if i not in out]), rows.select(sorted(out))


def _strata(rows: Dataset, column: str | None) -> list[str]:
    """What of each row is kept in proportion; nothing where there is no such column, which is told later."""

    def key(found: Any, top: str) -> str:
        try:
            return repr(value({top: found}, column or ""))
        except RowError:
            return ""

    for top in rows.column_names:
        if top in (column, (column or "").split(".")[0]):
            batches = rows.select_columns([top]).iter(batch_size=10_000)
            return [key(found, top) for batch in batches for found in batch[top]]
    return [""] * len(rows)


def _some(rows: Any, source: Source, split: str) -> Any:
    """A seeded choice of ``max_rows`` rows, of a stream the first ones."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        return rows.take(source.max_rows)
    if len(rows) <= (source.max_rows or 0):
        return rows
    rng = random.Random(f"{source.seed}/{split}")  # noqa: S311 - a sample, no secret
    return _numbered(rows).select(sorted(rng.sample(range(len(rows)), source.max_rows or 0)))


def _numbered(rows: Dataset) -> Dataset:
    return rows if ORIGIN in rows.column_names else rows.add_column(ORIGIN, list(range(len(rows))))


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
    """When the source's files were changed last: what was read of older ones is out of date."""
    if isinstance(source.path, str):
        path = Path(source.path)
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    else:
        files = [Path(name) for _, names in source.path for name in names]
    return tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if f.is_file())
