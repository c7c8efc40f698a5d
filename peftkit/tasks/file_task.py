"""Where the rows of a task are, and how their files are written: the options of tasks on files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from peftkit.data_files import (
    FileLayout,
    FileOptions,
    Quoting,
    SampleBy,
    check_delimiter,
    check_encoding_name,
    disk_file,
    file_format,
    is_archive,
    normalize_member,
    only_data_file,
)
from peftkit.errors import DataError, InputError
from peftkit.tasks.sources.data_source import SPLIT_NAMES, DataSource, files_of
from peftkit.tasks.sources.evaluation_set_task import EvaluatedTask
from peftkit.tasks.sources.folders import Files

GLOB = "glob"
"""Key of a table whose value is a pattern of file names."""
DataPath = str | dict[str, str | list[str] | dict[str, str]]
"""A hub id, a folder, a file, files by split, or a pattern (``{glob = "reviews/*.csv"}``), also of a split."""


class FileTask(EvaluatedTask):
    """A task on rows of files, a folder or a hub dataset."""

    path: DataPath
    """Hub id, local folder in the layout of a hub dataset, file, or table of files by split (train, dev, test).
    Files are CSV, TSV, JSON, JSONL, Parquet or text, also compressed or in zip archives (`reviews.zip::train.csv`);
    paths are relative to the working directory. `{ glob = "reviews/*.csv" }` stands for the files that match."""
    delimiter: str | None = None
    """Character between the cells of CSV and TSV files; a comma, or a tab in TSV files, if unset."""
    quoting: Quoting | None = None
    """Whether cells of CSV and TSV files that have delimiters, quotes or line breaks are quoted (`minimal`), or quotes
    have no special meaning (`none`); `minimal`, or `none` in TSV files, if unset."""
    encoding: str | None = None
    """Encoding of text files, named as in Python, such as `cp1252` or `utf-16`; UTF-8 if unset."""
    field: str | None = Field(default=None, min_length=1)
    """Key of the rows in JSON files, named as in `datasets`; dots select nested keys. If unset, the only list of rows
    is found."""

    _recorded: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    """What a finished run recorded of the data (see ``data_state``)."""

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: DataPath) -> DataPath:
        if isinstance(path, str):
            if not path:
                raise ValueError("must not be empty")
            return path
        if GLOB in path:
            _check_pattern(path)
            return path
        for split, files in path.items():
            if split not in SPLIT_NAMES:
                raise ValueError(f"unknown split {split!r}; allowed: train, dev, test, or glob alone")
            if not files:
                raise ValueError(f"no files for split {split!r}")
            if isinstance(files, dict):
                _check_pattern(files)
        if "train" not in path:
            raise ValueError("no files for split 'train'")
        return path

    @field_validator("delimiter", "encoding")
    @classmethod
    def _check_file_option(cls, value: str | None, info: ValidationInfo) -> str | None:
        check = check_delimiter if info.field_name == "delimiter" else check_encoding_name
        return None if value is None else check(value)

    @property
    def file_layout(self) -> FileLayout | None:
        """The form of the files if the task reads one of its own, whatever their extension; None by default."""
        return None

    @property
    def file_options(self) -> FileOptions:
        """How the files are written, where their extension does not say it."""
        sample_by: SampleBy | None = getattr(self, "sample_by", None)
        return FileOptions(
            self.delimiter, self.quoting, self.encoding, self.field, sample_by=sample_by, form=self.file_layout
        )

    def prediction_options(self, file: str) -> FileOptions:
        """Returns how a file of rows to predict is written: like the files of training, if it has the same format.

        Args:
            file: Path of the file, which needs no answers.
        """
        name, options = normalize_member(file), self.file_options
        form = options.form
        if is_archive(name):
            name = only_data_file(name, options)
        written = file_format(Path(name))
        if form is not None:
            extensions = Path(name).suffixes
            if written in (None, "text") or any(each.lower() in form.extensions for each in extensions):
                return FileOptions(encoding=self.encoding, form=form.without_answers())
            return FileOptions()
        trained = self._trained_formats()
        return options if not trained or written in trained else FileOptions()

    def _trained_formats(self) -> list[str | None]:
        """Returns the formats of the files of training; empty if they are unknown."""
        if "file_formats" in self._recorded:
            return list(self._recorded["file_formats"])
        return sorted({file_format(Path(each)) for _, names in self._source_files() for each in names}, key=str)

    def labels_of_data(self) -> tuple[tuple[str, ...], bool] | None:
        """Returns the labels that were found in the data, in their order, and whether numbers are indices of them.

        None, the default, stands for a task without labels, or with labels that its options name.
        """
        return None

    @property
    def recorded_labels(self) -> tuple[tuple[str, ...], bool] | None:
        """What ``labels_of_data`` returned in a finished run; None without one."""
        if "labels" not in self._recorded:
            return None
        return tuple(self._recorded["labels"]), self._recorded["numbered"]

    def data_state(self) -> dict[str, Any]:
        """Returns the labels that were found in the data, and the formats of its files."""
        state: dict[str, Any] = {"file_formats": self._trained_formats()}
        if (labels := self.labels_of_data()) is not None:
            state |= {"labels": [*labels[0]], "numbered": labels[1]}
        return state

    def with_data_state(self, state: Mapping[str, Any]) -> FileTask:
        """Returns a copy of the task that takes labels and formats from a finished run.

        Args:
            state: What ``data_state`` returned.
        """
        task = self.model_copy()
        task._recorded = state
        return task

    def _source_files(self) -> Files:
        """Returns the files of each split; empty if they are not on this machine."""
        try:
            return files_of(DataSource(path=self._paths(), options=self.file_options))
        except InputError:  # such as an archive or the files of a pattern that are not here any more
            return ()

    def _options_without_form(self) -> Iterator[tuple[str, str]]:
        """Yields the options of files on which nothing depends if the task reads files in a form of its own."""
        if (form := getattr(self, "file_format", None)) is not None:
            for option, _ in self.file_options.without_effect(set()):
                yield option, f"file_format is {form!r}"

    def _paths(self) -> str | Files:
        """Returns the path, or the files of each split.

        Raises:
            DataError: No file matches a pattern.
        """
        if isinstance(self.path, str):
            return normalize_member(self.path)
        path: dict[str, Any] = {"train": self.path} if GLOB in self.path else dict(self.path)
        return tuple((split, tuple(map(normalize_member, _files(each)))) for split, each in path.items())

    def data_files(self) -> list[Path]:
        """Returns the files on this machine that the path names, archives instead of the files inside."""
        paths = self._paths()
        names = [paths] if isinstance(paths, str) else [name for _, each in paths for name in each]
        return [disk_file(name) for name in names]


def _check_pattern(table: dict[str, Any]) -> None:
    if table.keys() != {GLOB} or not isinstance(table[GLOB], str) or not table[GLOB]:
        raise ValueError('a pattern is a table with one key, such as { glob = "reviews/*.csv" }')


def _files(value: str | list[str] | dict[str, str]) -> list[str]:
    """Returns the files that a value of the path names; those of a pattern are sorted."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return value
    matches = sorted(name for name in glob(value[GLOB], recursive=True) if Path(name).is_file())
    if not matches:
        raise DataError("path", f"no file matches {value[GLOB]!r}")
    return matches
