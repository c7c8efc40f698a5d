"""Where rows come from: local files, a folder, a folder that ``datasets`` saved, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import InputError, did_you_mean, listed, one_line
from peftkit.tasks import files
from peftkit.tasks.folders import find_files, find_folder, saved

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, IterableDataset

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Source:
    """Splits by the names that they have there. Nothing is read before it is asked for."""

    splits: Sequence[str]
    """The names of the splits."""

    def title(self, split: str) -> str:
        """What a user calls the rows of a split."""
        raise NotImplementedError

    def schemas(self, split: str) -> Iterator[tuple[str, pa.Schema]]:
        """The columns of a split, of each of its files apart, with what a user calls it."""
        raise NotImplementedError

    def load(self, split: str, columns: Sequence[str]) -> Dataset:
        """The rows of a split, of which no other columns are wanted."""
        raise NotImplementedError

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The same rows, in the same order, read as they are needed."""
        raise NotImplementedError

    def where(self, split: str, index: int) -> str:
        """Where a user finds the row, which is counted from 0."""
        return f"{self.title(split)}, row {index + 1}"

    def stream(self, split: str, columns: Sequence[str], most: int | None) -> IterableDataset:
        """The first rows of a split, or all, in an order that no shuffling of shards changes."""
        from datasets import IterableDataset

        # As one shard: the numbers of rows, by which errors name them, hold whatever is shuffled behind it.
        read: Any = IterableDataset.from_generator
        return read(_first, gen_kwargs={"source": self, "split": split, "columns": tuple(columns), "most": most})


def _first(source: Source, split: str, columns: Sequence[str], most: int | None) -> Iterator[dict[str, Any]]:
    return islice(source.rows(split, columns), most)


class LocalFiles(Source):
    """Files of rows, one or more for each split."""

    def __init__(self, found: Mapping[str, Sequence[Path]]) -> None:
        self.files = {split: tuple(several) for split, several in found.items()}
        self.splits = tuple(self.files)

    def title(self, split: str) -> str:
        names = [str(file) for file in self.files[split]]
        return listed(names if len(names) < 4 else [*names[:2], f"… ({len(names)} files)"])

    def schemas(self, split: str) -> Iterator[tuple[str, pa.Schema]]:
        for file in self.files[split]:
            yield str(file), files.schema(file)

    def load(self, split: str, columns: Sequence[str]) -> Dataset:
        import pyarrow as pa
        from datasets import Dataset

        tables = [files.table(file, columns) for file in self.files[split]]
        try:
            return Dataset(pa.concat_tables(tables, promote_options="permissive"))
        except pa.ArrowException as error:
            raise InputError(f"{self.title(split)}: their columns differ: {one_line(error)}") from error

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for file in self.files[split]:
            yield from files.rows(file, columns)

    def where(self, split: str, index: int) -> str:
        *others, last = self.files[split]
        for file in others:
            if index < (size := files.count(file)):
                last = file
                break
            index -= size
        return f"{last}, row {index + 1}"


class _Datasets(Source):
    """What ``datasets`` itself loads."""

    @cached_property
    def _loaded(self) -> Mapping[str, Any]:
        raise NotImplementedError

    @property
    def splits(self) -> Sequence[str]:  # type: ignore[override]
        return tuple(self._loaded)

    def schemas(self, split: str) -> Iterator[tuple[str, pa.Schema]]:
        yield self.title(split), self._loaded[split].features.arrow_schema

    def load(self, split: str, columns: Sequence[str]) -> Dataset:
        return self._loaded[split].select_columns(list(columns))

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        yield from self._loaded[split].select_columns(list(columns))


class SavedFolder(_Datasets):
    """What ``save_to_disk`` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _loaded(self) -> Mapping[str, Any]:
        from datasets import DatasetDict, load_from_disk

        try:
            found = load_from_disk(str(self.folder))
        except Exception as error:  # whatever a damaged folder makes of it
            raise InputError(f"{self.folder}: cannot be loaded: {one_line(error)}") from error
        return found if isinstance(found, DatasetDict) else {"train": found}

    def title(self, split: str) -> str:
        return f"{self.folder} (split {split!r})"


class HubDataSet(_Datasets):
    """A data set of the hub, or of what was fetched from there before. Code that comes with one is never run."""

    def __init__(self, path: str, subset: str | None, revision: str | None, *, streaming: bool) -> None:
        self.path, self.subset, self.revision, self.streaming = path, subset, revision, streaming

    @cached_property
    def _loaded(self) -> Mapping[str, Any]:
        import datasets

        try:
            found: Mapping[str, Any] = datasets.load_dataset(
                self.path, self.subset, revision=self.revision, streaming=self.streaming
            )
        except Exception as error:  # of the network, the hub, a library below: none of it is the caller's
            raise InputError(self._unloadable(error)) from error
        return found

    def _unloadable(self, error: Exception) -> str:
        subset = f" (subset {self.subset!r})" if self.subset else ""
        text = f"the hub data set {self.path!r}{subset}"
        if isinstance(error, ConnectionError):
            text += " is not in the cache and cannot be reached"
        else:
            text += " cannot be loaded"
        return (
            f"{text}: {one_line(error)}; {_no_such_path(self.path)}; set task.path to a local folder or files with the "
            "same columns, or fetch it once where there is a network and keep HF_HOME"
        )

    def title(self, split: str) -> str:
        return f"{self.path} on the hub ({f'subset {self.subset!r}, ' if self.subset else ''}split {split!r})"

    def load(self, split: str, columns: Sequence[str]) -> Dataset:
        from datasets import Dataset

        found = super().load(split, columns)
        if not self.streaming:
            return found
        features = found.features and {name: found.features[name] for name in columns}
        return Dataset.from_list(list(found), features=features)


def open_source(
    path: str | Mapping[str, Sequence[str]], subset: str | None = None, revision: str | None = None, *, streaming: bool
) -> Source:
    """The source that a path means: what lies there if it is local, else what the hub calls so.

    Args:
        path: a folder, a file, a data set of the hub as ``owner/name``, or the files of each split.
        subset: the sub-folder or configuration.
        revision: of a hub data set.
        streaming: whether a hub data set is read as it is needed, and not fetched.

    Raises:
        InputError: there is nothing of that name, or nothing in it.
    """
    if not isinstance(path, str):
        return LocalFiles({split: [each for name in names for each in _files(name)] for split, names in path.items()})
    local = Path(path).expanduser()
    if local.is_dir():
        folder = find_folder(local, subset)
        return SavedFolder(folder) if saved(folder) else LocalFiles(find_files(local, subset))
    if local.exists():
        return LocalFiles({"train": _files(path)})
    if _HUB_ID.fullmatch(path) and files.form(local) is None:
        return HubDataSet(path, subset, revision, streaming=streaming)
    raise InputError(f"task.path: {_no_such_path(path)}, and the names of hub data sets are owner/name")


def _files(name: str) -> list[Path]:
    """The file of that name, or, where it has a ``*`` in it, the files that it matches."""
    local = Path(name).expanduser()
    if not local.exists() and "*" in local.name:
        found = sorted(file for file in local.parent.glob(local.name) if files.form(file))
    else:
        found = [local] if local.is_file() else []
    if not found:
        raise InputError(f"task.path: {_no_such_path(name)}")
    if wrong := [file for file in found if files.form(file) is None]:
        raise InputError(f"{wrong[0]}: rows are read from files that end in {listed(files.SUFFIXES)}")
    return found


def _no_such_path(name: str) -> str:
    """That nothing local has the name, and what near it has one like it."""
    missing = Path(name).expanduser()
    while not missing.parent.exists():
        missing = missing.parent
    near = sorted(str(path) for path in missing.parent.iterdir()) if missing.parent.is_dir() else []
    return f"there is no file or folder {name!r}{did_you_mean(str(missing), near)}, seen from {str(Path.cwd())!r}"
