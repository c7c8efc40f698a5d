"""Finds the files of each split in local folders and hub datasets."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from peftkit.data_files import file_format, is_saved_dataset, read_rows
from peftkit.errors import DataError, InputError, comma_separated
from peftkit.tasks.sources.files import load_files

if TYPE_CHECKING:
    from datasets import DatasetBuilder

log = logging.getLogger(__name__)
HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\.")
"""The name of a file of a split, which may have an underscore."""
SPLIT_FOLDER = re.compile(r"(train(ing)?|validation|valid|dev|val|test(ing)?|eval(uation)?)[-._ 0-9]*")
"""The name of a folder with the files of a split, as ``datasets`` knows them."""
Files = tuple[tuple[str, tuple[str, ...]], ...]
"""Files by split."""
NEUTRAL_FIELDS = {"name", "version", "data_dir", "data_files", "description", "features"}
"""Fields of a builder's configuration that do not change how files are parsed."""


def files_by_split(path: Path, config: str | None, known: Collection[str], extensions: Collection[str] = ()) -> Files:
    """Finds the files of each split by their names, or folders that ``Dataset.save_to_disk`` wrote.

    Args:
        path: A folder, or a file, which is used for train.
        config: Subfolder to prefer.
        known: Names of splits; a folder without any of them is skipped.
        extensions: Extensions of the files; if empty, those of ``FORMATS``.

    Returns:
        The files of each split; empty if the folder has another layout.
    """
    if path.is_file() or is_saved_dataset(path):
        return (("train", (str(path),)),)
    if not path.is_dir() or (path / "dataset_dict.json").is_file():
        return ()
    preferred = [path / config, path / "data" / config] if config else []
    for folder in (*preferred, path, path / "data"):
        contents = sorted(folder.iterdir()) if folder.is_dir() else ()
        entries = [file for file in contents if not file.name.startswith(".")]  # such as macOS' ._train.csv
        formats = {file: "saved" if is_saved_dataset(file) else _format(file, extensions) for file in entries}
        # A text file beside others is rarely data.
        for allowed in ({*formats.values()} - {None, "text"}, {"text"}):
            splits = group_by_split([str(file) for file in entries if formats[file] in allowed])
            if any(name in known for name, _ in splits):
                return splits
    return ()


def _format(file: Path, extensions: Collection[str]) -> str | None:
    if not file.is_file():
        return None
    return (file.suffix.lower() if file.suffix.lower() in extensions else None) if extensions else file_format(file)


def group_by_split(files: Iterable[str]) -> Files:
    """Groups files by the split that their names start with; folders by their whole name.

    Args:
        files: The paths.
    """
    splits: dict[str, list[str]] = defaultdict(list)
    for file in files:
        name = re.split(r"[/:]", file)[-1] if "::" in file else Path(file).name
        shard = SHARD.match(name)
        start = shard[1] if shard else re.split(r"[-_.]", name)[0]
        splits[name if Path(file).is_dir() else start].append(file)
    return tuple((name, tuple(names)) for name, names in splits.items())


def load_folder(path: str, config: str | None, max_rows: int | None = None) -> dict[str, Any]:
    """Loads a folder whose splits are defined by a README or by file patterns, as in hub datasets.

    Args:
        path: The folder.
        config: Name of the configuration, or of a subfolder.
        max_rows: Maximum number of rows of each file; None for all.

    Returns:
        A dataset for each split; empty if reading the folder requires a builder or options of ``datasets``.

    Raises:
        InputError: The name of the folder has glob characters, which ``datasets`` would expand, or the folder has
            several subsets.
    """
    from datasets import load_dataset_builder

    if has_magic(path):
        raise InputError(
            f"{path!r}: the name of the folder has *, ? or [, so its files must be named by their split, such as "
            "train.csv; otherwise set task.path = {train = …, dev = …, test = …}"
        )
    if _has_configurations(Path(path)):
        builder = load_dataset_builder(path, config)
    else:
        subfolders = (config, f"data/{config}") if config else ()
        subset = next((each for each in subfolders if (Path(path) / each).is_dir()), None)
        builder = load_dataset_builder(path, data_dir=subset) if subset else load_dataset_builder(path, config)
        _check_one_subset(Path(path) / (subset or ""), builder)
    return _load_builder_files(builder, max_rows)


def _has_configurations(folder: Path) -> bool:
    """Returns whether the README of a folder says which files belong to which subset and split."""
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    return readme.is_file() and bool((metadata_load(readme) or {}).get("configs"))


def _check_one_subset(folder: Path, builder: DatasetBuilder) -> None:
    """Raises if files of a split are in several subfolders, whose rows ``datasets`` joins.

    Args:
        folder: The folder.
        builder: Its builder.

    Raises:
        DataError: They are subsets.
    """
    for names in (builder.config.data_files or {}).values():
        subsets: dict[str, str] = {}
        for name in map(str, names):
            parents = Path(os.path.relpath(name, folder)).parent.parts
            # Such as data/en/train/1.csv.
            parts = [each for each in parents if each != "data" and not SPLIT_FOLDER.fullmatch(each)]
            subsets.setdefault("/".join(parts), name)
        if len(subsets) > 1:
            names_of_subsets = comma_separated([each or "." for each in sorted(subsets)])
            pattern = folder / "**" / f"*{Path(next(iter(subsets.values()))).suffix}"
            raise DataError(
                "config",
                f"{str(folder)!r} has files of a split in several subfolders: {names_of_subsets}; set config to the "
                f'subfolder of one subset, or read the files of all by path = {{ glob = "{pattern}" }}',
            )


def load_hub_texts(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Loads a hub dataset of CSV, TSV or JSON files without the type inference of ``datasets``.

    Args:
        arguments: Arguments of ``load_dataset``.

    Returns:
        A dataset for each split; empty if the dataset has other files, or reading them requires a builder or options.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(**arguments)
    except Exception as error:  # load_dataset may have it in its cache, or reports the error
        log.info("cannot list the files of %s: %s", arguments["path"], error)
        return {}
    names = [str(name) for each in (builder.config.data_files or {}).values() for name in each]
    if not names or not all(HUB_FILE.fullmatch(name) and file_format(Path(name)) != "parquet" for name in names):
        return {}
    return _load_builder_files(builder)


def _load_builder_files(builder: DatasetBuilder, max_rows: int | None = None) -> dict[str, Any]:
    files = {str(split): [str(file) for file in names] for split, names in (builder.config.data_files or {}).items()}
    if not files or not all(file_format(Path(name)) for names in files.values() for name in names):
        return {}
    if not _uses_default_parsing(builder.config, files):
        return {}
    files = {split: [_download(name) for name in names] for split, names in files.items()}
    features = builder.config.features or builder.info.features
    if features is None:
        return load_files(files, max_rows=max_rows)
    return {split: _load_with_features(names, features, max_rows) for split, names in files.items()}


def _download(name: str) -> str:
    """Returns the path of a file; downloads it if it is on the hub."""
    from huggingface_hub import hf_hub_download

    if not (match := HUB_FILE.fullmatch(name)):
        return name
    repository, revision, file = match.groups()
    return hf_hub_download(repository, file, repo_type="dataset", revision=unquote(revision))


def _uses_default_parsing(config: Any, files: Mapping[str, list[str]]) -> bool:
    """Returns whether the configuration has no options that change how files are parsed."""
    names = [name for each in files.values() for name in each]
    tabs = all(file_format(Path(name)) == "tsv" for name in names)
    for field in fields(config):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(config, field.name)
        if (
            field.name in NEUTRAL_FIELDS
            or value == default
            or (field.name in ("sep", "delimiter") and tabs and value == "\t")
        ):
            continue
        return False
    return True


def _load_with_features(names: list[str], features: Any, max_rows: int | None) -> Any:
    """Loads files with the types that the dataset's README declares."""
    from datasets import Dataset

    if all(file_format(Path(name)) in ("json", "jsonl") for name in names):
        rows = [row for name in names for row in islice(read_rows(name), max_rows)]
        return Dataset.from_list([{column: row.get(column) for column in features} for row in rows], features=features)
    return load_files({"rows": names}, max_rows=max_rows)["rows"].cast(features)
