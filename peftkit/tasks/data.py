"""What all tasks on a user's or the hub's rows share: where the rows are, how they are split, what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from peftkit.components import Example, Task
from peftkit.errors import InputError, MissingFieldsError, did_you_mean, listed
from peftkit.tasks import sources, templates
from peftkit.tasks.labels import feature_names
from peftkit.tasks.rows import INTERNAL, filled, has, text

if TYPE_CHECKING:
    from datasets import DatasetDict


Place = str | dict[str, str | list[str]]
"""Where rows are: a hub id, a folder, a file, or files by split."""


class DataTask(Task):
    """A task on rows that lie in files, in a folder, or on the hub."""

    hub: ClassVar[str] = ""
    """The data set's name on the hub, for tasks that are made for one."""
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """The published number of rows of each split, by configuration; it must be met where the hub's data are read."""
    stratified: ClassVar[str] = ""
    """The option that names the column whose values a share of the training rows keeps in proportion."""
    span: ClassVar[str] = ""
    """The field of the prompt that may be shortened."""
    main: ClassVar[tuple[str, ...]] = ()
    """The fields of the prompt that are empty in no row."""
    secret: ClassVar[tuple[str, ...]] = ()
    """The options that name columns of which a prompt would tell the answer."""

    path: Place
    """A hub id, a local folder in the hub's form, one file, or a table of files by split: train, dev, test. Files
    are CSV, TSV, JSON, JSONL or Parquet; relative ones lie relative to the working folder."""
    config: str | None = None
    """The configuration of a hub data set, or the sub-folder of a local one."""
    revision: str | None = None
    """A branch, tag or commit of a hub data set."""
    train_split: str | None = None
    """What the data call the training split; unset for train."""
    dev_split: str | None = None
    """What they call the dev split; unset for dev, validation, valid or val."""
    test_split: str | None = None
    """What they call the test split; unset for test."""
    dev_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the training rows that becomes dev where there is no dev split."""
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """The share of the training rows that becomes test where there is no test split."""
    split_seed: int = Field(default=42, ge=0)
    """Seeds these shares and `max_rows`, apart from the run's seed, so that all runs have the same rows."""
    max_rows: int | None = Field(default=None, gt=0)
    """At most so many rows of each split, drawn by the seed: for trials."""
    streaming: bool = False
    """Reads the training rows as they are needed, for data that do not fit on the disk or are many."""
    prompt: str | None = None
    """What the model reads, with fields in braces; unset for the task's own."""
    group_column: str | None = None
    """The column that names what rows share, such as a passage's id: comparisons resample whole groups. Unset for the
    task's context, where it has one."""

    _sample: sources.Source | None = PrivateAttr(default=None)

    @field_validator("path")
    @classmethod
    def _splits_are_named(cls, path: Place) -> Place:
        if isinstance(path, str):
            if not path:
                raise ValueError("must not be empty")
            return path
        for split, files in path.items():
            if split not in sources.NAMES:
                raise ValueError(f"{split!r} is no split; allowed: train, dev, test")
            if not files:
                raise ValueError(f"there are no files for {split!r}")
        if "train" not in path:
            raise ValueError("there are no files for 'train'")
        return path

    @model_validator(mode="after")
    def _prompt_can_be_filled(self) -> DataTask:
        fields = templates.fields(self._prompt())
        if not fields:
            raise ValueError("prompt: it shows nothing of a row; put a field in braces, such as {text}")
        columns = [getattr(self, option) or () for option in self.secret]
        hidden = {c for column in columns for c in ((column,) if isinstance(column, str) else column)}
        for field in fields:
            if any(field == column or field.startswith(f"{column}.") for column in hidden):
                raise ValueError(f"prompt: {{{field}}} would tell the answer")
        if self.streaming and (self.dev_fraction or self.test_fraction):
            raise ValueError("streamed rows cannot be cut into shares; name splits with dev_split and test_split")
        return self

    @property
    def streams(self) -> bool:
        """Whether the training rows are read as they are needed."""
        return self.streaming

    def _prompt(self) -> str:
        """The prompt's text with its fields."""
        raise NotImplementedError

    def _columns(self) -> Iterator[tuple[str, str]]:
        """The options that name columns, and the columns."""
        if self.group_column:
            yield "group_column", self.group_column

    def _fields(self) -> Mapping[str, str]:
        """The fields of the prompt that have names of their own, and the column each one shows."""
        raise NotImplementedError

    def _question(self, row: Mapping[str, Any]) -> Example:
        """The row as an example without its answer, whose target is a placeholder (see ``unanswered``)."""
        raise NotImplementedError

    def _needed(self, row: Mapping[str, Any]) -> list[str]:
        """The columns that ``_question`` reads of the row: those that the prompt shows, and what a task adds."""
        named = self._fields()
        return list(dict.fromkeys(named.get(field, field) for field in templates.fields(self._prompt())))

    def _texts(self) -> list[str]:
        """The columns whose texts a model reads or writes."""
        return self._needed({})

    def _group(self, row: Mapping[str, Any]) -> str:
        return text(row, self.group_column) if self.group_column else ""

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """The example without its answer; the row needs no column that the prompt does not show.

        Raises:
            MissingFieldsError: the row lacks columns that are needed; it names all of them.
            RowError: a field is empty or wrong.
        """
        missing = [column for column in self._needed(row) if not has(row, column)]
        if missing:
            raise MissingFieldsError(missing)
        return self._question(row)

    def _config(self) -> str | None:
        return self.config

    def resolve_revision(self) -> str | None:
        """The commit of the hub data set that is read now; None for local rows, or where none is known."""
        return sources.resolve_revision(self._source())

    def at_revision(self, commit: str) -> DataTask:
        """The same task, which reads that commit of its hub data set."""
        return self.model_copy(update={"revision": commit})

    def sampled(self, rows: int) -> tuple[DataTask, int | None] | None:
        """Of a hub data set that was not fetched yet the first training rows; they are streamed.

        Raises:
            InputError: there is no such data set, or the hub cannot be reached.
        """
        builder = sources.absent(self._source())
        if builder is None:
            return None
        sample, number = sources.sampled(self._source(), builder, rows)
        task = self.model_copy()
        task._sample = sample
        return task, number

    def _source(self) -> sources.Source:
        if self._sample is not None:
            return self._sample
        files: Any = self.path
        if isinstance(files, dict):
            files = tuple((k, (v,) if isinstance(v, str) else tuple(v)) for k, v in files.items())
        config = self._config()
        published = self.sizes.get(config or "", {}) if files == self.hub and self.hub else {}
        return sources.Source(
            path=files,
            config=config,
            revision=self.revision,
            # A table of files names its splits itself.
            names=(None,) * 3 if isinstance(self.path, dict) else (self.train_split, self.dev_split, self.test_split),
            dev_fraction=self.dev_fraction,
            test_fraction=self.test_fraction,
            stratify=getattr(self, self.stratified) if self.stratified else None,
            seed=self.split_seed,
            max_rows=self.max_rows,
            streaming=self.streaming,
            sizes=() if self.streaming else tuple(published.items()),
        )

    def load(self) -> DatasetDict:
        """The splits ``train``, ``dev`` and ``test``.

        Raises:
            InputError: the data cannot be read, lack a split or a column, or are not those that were published.
        """
        splits = sources.read(self._source()).splits
        for split, rows in splits.items():
            there = rows.column_names or ()
            for option, column in self._columns():
                if there and column not in there and column.split(".")[0] not in there:
                    known = sorted(name for name in there if not name.startswith(INTERNAL))
                    place = self.where(split, 0).rsplit(", row", 1)[0]
                    raise InputError(
                        f"{place}: {option}: there is no column {column!r}{did_you_mean(column, known)}; "
                        f"it has {listed(known)}"
                    )
            for column in self._texts():
                if names := feature_names(rows.features, column):
                    place = self.where(split, 0).rsplit(", row", 1)[0]
                    raise InputError(
                        f"{place}: {column}: is read as a text and holds the numbers of names ({listed(names)}); write "
                        "the names into a column of texts"
                    )
        return splits

    def where(self, split: str, index: int) -> str:
        """The file and row, or the data set, split and row, counted from 1."""
        return sources.where(self._source(), split, index)

    def _rendered(self, row: Mapping[str, Any], **known: str) -> tuple[str, tuple[int, int] | None]:
        """The prompt, and where in it stands what may be shortened.

        Args:
            row: the row.
            known: the values of fields that are no column's.

        Raises:
            RowError: a field is neither known nor a column.
        """
        named = self._fields()

        def value(field: str) -> str:
            if field in known:
                return known[field]
            return (filled if field in self.main else text)(row, named.get(field, field))

        return templates.render(self._prompt(), value, self.span)
