"""Which files of a local folder are rows of which split."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from peftkit.data_files import file_format, is_saved, read_rows
from peftkit.errors import InputError
from peftkit.tasks.files import load_files

if TYPE_CHECKING:
    from datasets import DatasetBuilder

log = logging.getLogger(__name__)
HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
Files = tuple[tuple[str, tuple[str, ...]], ...]
"""The files of each split."""
PLACE = {"name", "version", "data_dir", "data_files", "description", "features"}
"""The fields of a builder's configuration that do not change how a file is parsed."""


def files_by_split(path: Path, config: str | None, known: Collection[str]) -> Files:
    """Finds the files of each split by their names, or the folders that ``Dataset.save_to_disk`` wrote.

    Args:
        path: a file, which is the training split, or a folder.
        config: the sub-folder to prefer.
        known: the names of splits, one of which must be found.

    Returns:
        The files of each split; nothing where the folder is of another form.
    """
    if path.is_file() or is_saved(path):
        return (("train", (str(path),)),)
    if not path.is_dir() or (path / "dataset_dict.json").is_file():
        return ()
    preferred = [path / config, path / "data" / config] if config else []
    for folder in (*preferred, path, path / "data"):
        splits: dict[str, list[str]] = defaultdict(list)
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.name.startswith("."):  # such as macOS' ._train.csv
                continue
            if is_saved(file):
                splits[file.name].append(str(file))
            elif file_format(file) and file.is_file():
                splits[re.split(r"[-_.]", file.name)[0]].append(str(file))
        if any(name in known for name in splits):
            return tuple((name, tuple(files)) for name, files in splits.items())
    return ()


def load_folder(path: str, config: str | None) -> dict[str, Any]:
    """Loads a folder in the hub's form whose splits a README's configuration or file patterns name.

    Args:
        path: the folder.
        config: which of its configurations.

    Returns:
        A data set for each split; nothing where the folder needs a builder or options of ``datasets`` to be read.
    """
    from datasets import load_dataset_builder

    if has_magic(path):
        raise InputError(
            f"{path!r}: the files of a folder with *, ? or [ in its name are found only if they are called by their "
            "split, such as train.csv; name them with task.path = {train = …, dev = …, test = …}"
        )
    return _load_files_of(load_dataset_builder(path, config))


def load_hub_texts(place: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a hub data set whose files are CSV, TSV or JSON, which ``datasets`` would read by guessing types.

    Args:
        place: the arguments of ``load_dataset``.

    Returns:
        A data set for each split; nothing where files are of other forms, or need a builder or options to be read.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(**place)
    except Exception as error:  # the hub is away, or has no such data set: load_dataset says so, or has it in its cache
        log.info("the files of %s are not known: %s", place["path"], error)
        return {}
    names = [str(name) for each in (builder.config.data_files or {}).values() for name in each]
    if not names or not all(HUB_FILE.fullmatch(name) and file_format(Path(name)) != "parquet" for name in names):
        return {}
    return _load_files_of(builder)


def _load_files_of(builder: DatasetBuilder) -> dict[str, Any]:
    files = {str(split): [str(file) for file in names] for split, names in (builder.config.data_files or {}).items()}
    if not files or not all(file_format(Path(name)) for names in files.values() for name in names):
        return {}
    if not _reads_as_written(builder.config, files):
        return {}
    files = {split: [_local(name) for name in names] for split, names in files.items()}
    features = builder.config.features or builder.info.features
    if features is None:
        return load_files(files)
    return {split: _typed(names, features) for split, names in files.items()}


def _local(name: str) -> str:
    """The path of a file, which is fetched if it lies on the hub."""
    from huggingface_hub import hf_hub_download

    if not (found := HUB_FILE.fullmatch(name)):
        return name
    repository, revision, file = found.groups()
    return hf_hub_download(repository, file, repo_type="dataset", revision=unquote(revision))


def _reads_as_written(config: Any, files: Mapping[str, list[str]]) -> bool:
    """Whether the configuration leaves it to the files' extensions how they are parsed."""
    names = [name for each in files.values() for name in each]
    tabs = all(file_format(Path(name)) == "tsv" for name in names)
    for field in fields(config):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(config, field.name)
        if field.name in PLACE or value == default or (field.name in ("sep", "delimiter") and tabs and value == "\t"):
            continue
        return False
    return True


def _typed(names: list[str], features: Any) -> Any:
    """The rows with the types that the folder's README declares."""
    from datasets import Dataset

    if all(file_format(Path(name)) in ("json", "jsonl") for name in names):
        rows = [row for name in names for row in read_rows(name)]
        return Dataset.from_list([{column: row.get(column) for column in features} for row in rows], features=features)
    return load_files({"rows": names})["rows"].cast(features)
