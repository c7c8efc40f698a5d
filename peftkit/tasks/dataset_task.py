"""Base class of tasks on local files, folders and hub datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from peftkit.components import Example, OptionProblem
from peftkit.components.task import ExampleCheck
from peftkit.components.types import SkippedRow, TaskMatch
from peftkit.errors import MissingFieldsError
from peftkit.tasks import prompt_templates
from peftkit.tasks.columns import get_nonblank_text, get_text, has_column
from peftkit.tasks.data_check import DEFAULT_MAX_BAD, column_problems, find_data_problems, options_for_bad_rows
from peftkit.tasks.file_task import GLOB, FileTask
from peftkit.tasks.sources import bad_rows, split_loading
from peftkit.tasks.sources.bad_rows import SkippedSplit, leave_out_bad_rows, locate_skipped, parse_percentage
from peftkit.tasks.sources.data_sample import DataSample, held_out_options, path_option, read_sample
from peftkit.tasks.sources.data_source import SPLIT_NAMES, DataSource
from peftkit.tasks.sources.row_groups import RowGroups

if TYPE_CHECKING:
    from datasets import DatasetDict


class DatasetTask(FileTask):
    """A task on rows of files, a folder or a hub dataset.

    Subclasses define ``prompt_template`` and ``to_example``; a task with candidates also ``make_prompt``.
    """

    hub_id: ClassVar[str] = ""
    """Hub id of the dataset, for tasks on a particular one."""
    published_sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """Published number of rows of each split, by configuration; checked when the hub dataset is loaded."""
    stratify_option: ClassVar[str] = ""
    """Option with the column that held-out rows are stratified by."""
    truncatable_field: ClassVar[str] = ""
    """Field of the prompt that may be truncated."""
    required_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of the prompt that must not be blank."""
    used_fields: ClassVar[tuple[str, ...]] = ()
    """Fields whose columns are used even if the prompt lacks them."""
    computed_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of the prompt that are no columns, but computed from them (see ``render_prompt``)."""
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ()
    """Options with columns that contain the answer, which a prompt must not show."""

    config: str | None = None
    """Configuration of a hub dataset, or subfolder of a local one."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    train_split: str | None = None
    """Name of the training split in the data; train if unset."""
    dev_split: str | None = None
    """Name of the dev split in the data; dev, validation, valid or val if unset."""
    test_split: str | None = None
    """Name of the test split in the data; test if unset."""
    dev_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the training rows to hold out for dev if there is no dev split. Rows with the same source, or of one
    group, are held out together."""
    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the training rows to hold out for test if there is no test split, like `dev_fraction`."""
    split_seed: int = Field(default=42, ge=0)
    """Seed of held-out splits and `max_rows`; independent of the run's seed, so that all runs have the same rows."""
    max_rows: int | None = Field(default=None, gt=0)
    """Maximum number of rows of each split, drawn by `split_seed`; for quick trials."""
    streaming: bool = False
    """Whether to stream the training rows, for datasets that are too large to load."""
    prompt: str | None = None
    """Prompt template with fields in braces; the task's default if unset."""
    group_column: str | None = None
    """Column that identifies groups of dependent rows, such as a passage id: whole groups are held out, and resampled
    by comparisons. The context column, if the task has one, if unset."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What to do with invalid rows: `stop`, or `skip` them in every split. They are counted, and listed with their
    reasons in `skipped.jsonl` of the run directory."""
    max_bad: int | str = DEFAULT_MAX_BAD
    """Number of rows of a split that may be skipped, or their share, such as `1%`."""

    _sample: DataSource | None = PrivateAttr(default=None)
    _skipped: dict[str, SkippedSplit] | None = PrivateAttr(default=None)
    _example_check: ExampleCheck | None = PrivateAttr(default=None)

    @field_validator("max_bad")
    @classmethod
    def _check_max_bad(cls, max_bad: int | str) -> int | str:
        if isinstance(max_bad, str):
            parse_percentage(max_bad)
        elif max_bad < 0:
            raise ValueError("must not be negative")
        return max_bad

    @model_validator(mode="after")
    def _check_prompt(self) -> DatasetTask:
        fields = prompt_templates.fields(self.prompt_template())
        if not fields:
            raise ValueError("prompt: has no fields; add one in braces, such as {text}")
        columns = [getattr(self, option) or () for option in self.hidden_from_prompt]
        hidden = {c for column in columns for c in ((column,) if isinstance(column, str) else column)}
        for field, shown in self._shown_columns().items():
            if any(shown == column or shown.startswith(f"{column}.") for column in hidden):
                origin = "" if shown == field else f" is the column {shown!r}, which"
                raise ValueError(f"prompt: the field {{{field}}}{origin} contains the answer")
        if self.streaming and (self.dev_fraction or self.test_fraction):
            raise ValueError(
                "dev_fraction and test_fraction are incompatible with streaming; set dev_split and test_split"
            )
        return self

    @model_validator(mode="after")
    def _check_effects(self) -> DatasetTask:
        for option, reason in self._without_effect():
            if self._is_changed(option):
                raise ValueError(f"{option}: has no effect, because {reason}; remove it")
        return self

    @classmethod
    def recognize(cls, path: str) -> list[TaskMatch]:
        """Looks for the task's columns in a user's data; tasks on a particular dataset recognize nothing."""
        if cls.hub_id:
            return []
        if match := cls.recognize_files(path):
            return [match]
        sample = read_sample(path)
        options = {"path": path_option(path), **sample.file_options}
        return [
            replace(match, options={**options, **match.options, **held_out_options(sample.splits)})
            for match in cls.recognize_columns(sample)
        ]

    @classmethod
    def recognize_files(cls, path: str) -> TaskMatch | None:
        """Returns how the task reads files in a form that is its own; None, the default, if the path has none."""
        return None

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterable[TaskMatch]:
        """Returns the columns that the task could use, as options."""
        return ()

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """Yields the options on which nothing depends, whatever the data are, with the reason."""
        yield from self._options_without_form()
        if not self.skips_bad_rows:
            yield "max_bad", "on_bad_row is 'stop'"
        if not (self.dev_fraction or self.test_fraction or self.max_rows or self.draws_by_split_seed):
            yield "split_seed", "no rows are held out or drawn"
        if isinstance(self.path, dict):
            for option in ("config", "revision"):
                yield option, "path has files by split"
        for split in SPLIT_NAMES:
            if isinstance(self.path, dict):
                keys = "path.glob is the training split" if GLOB in self.path else "the keys of path are the splits"
                yield f"{split}_split", keys
            if split != "train" and isinstance(self.path, dict) and split in self.path:
                yield f"{split}_fraction", f"path has files for {split}"
            elif split != "train" and not isinstance(self.path, dict) and getattr(self, f"{split}_split") is not None:
                yield f"{split}_fraction", f"{split}_split is the {split} split"

    def _is_changed(self, option: str) -> bool:
        """Returns whether an option differs from its default; a recipe that is read again may have all options."""
        return bool(getattr(self, option) != type(self).model_fields[option].default)

    @property
    def is_streaming(self) -> bool:
        """Whether the training rows are streamed."""
        return self.streaming

    @property
    def draws_by_split_seed(self) -> bool:
        """Whether ``split_seed`` decides more than which rows are held out and drawn; False by default."""
        return False

    @property
    def skips_bad_rows(self) -> bool:
        """Whether invalid rows are left out."""
        return self.on_bad_row == "skip"

    def most_skipped_rows(self, rows: int) -> int:
        """Returns how many rows to predict may be skipped by ``max_bad``, whose share is that of 1,000 at least."""
        return bad_rows.most_bad_rows(self.max_bad, max(rows, bad_rows.MIN_STREAMED_ROWS)) if self.skips_bad_rows else 0

    @property
    def ignores_rows(self) -> bool:
        """Whether some valid rows may be left out (see ``is_ignored``)."""
        return False

    def is_ignored(self, row: Mapping[str, Any]) -> bool:
        """Returns whether a row is left out though it is valid; False by default."""
        return False

    def prompt_template(self) -> str:
        """Returns the prompt template, such as ``self.prompt or "classify: {text}"``."""
        raise NotImplementedError

    def column_options(self) -> Iterator[tuple[str, str]]:
        """Yields the options that name columns, with the columns, which the data must have."""
        if self.group_column:
            yield "group_column", self.group_column

    def field_columns(self) -> Mapping[str, str]:
        """Returns the column of each prompt field that is not itself the name of a column; none by default."""
        return {}

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        """Converts a row to an example without its answer: its target is empty, or the first of its candidates."""
        source, span = self.render_prompt(row)
        return Example(source, "", truncatable_span=span)

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the columns that ``make_prompt`` reads of the row."""
        return list(dict.fromkeys(self._shown_columns().values()))

    def _shown_columns(self) -> dict[str, str]:
        """Returns the column of each field of the prompt, without computed fields."""
        columns = self.field_columns()
        fields = prompt_templates.fields(self.prompt_template())
        return {field: columns.get(field, field) for field in fields if field not in self.computed_fields}

    def text_columns(self) -> list[str]:
        """Returns the columns that are used as text, in prompts or targets."""
        return self.required_columns({})

    def grouping_column(self) -> str | None:
        """Returns the column whose equal texts make rows a group, by default ``group_column``."""
        return self.group_column

    def group_of(self, row: Mapping[str, Any]) -> str:
        """Returns the group of a row; empty without a column of groups."""
        return get_text(row, column) if (column := self.grouping_column()) else ""

    def source_of(self, row: Mapping[str, Any]) -> str:
        """Returns the source of a row, which must depend on no other rows; rows with the same one are together."""
        return self.make_prompt(row).source

    def held_out(self) -> Mapping[str, Mapping[str, Any]]:
        """Returns the number of rows and groups of each split that was held out of the training rows."""
        source = self._data_source()
        held_out = split_loading.load_valid_splits(source).held_out.items()
        rule = source.groups.rule if source.groups else ""
        return {split: {"rows": rows, "groups": n, "together": rule} for split, (rows, n) in held_out}

    def to_prompt(self, row: Mapping[str, Any]) -> Example:
        """Converts a row without answer to an example; columns that the prompt does not show may be missing.

        Raises:
            MissingFieldsError: The row lacks columns of the prompt.
            RowError: A field is empty or invalid.
        """
        missing = [column for column in self.required_columns(row) if not has_column(row, column)]
        if missing:
            raise MissingFieldsError(missing)
        return self.make_prompt(row)

    def config_name(self) -> str | None:
        """Returns the configuration of the hub dataset, or the subfolder of a local one."""
        return self.config

    def resolve_revision(self) -> str | None:
        """Returns the current commit of the hub dataset; None for local data, or if it is unknown."""
        return split_loading.resolve_revision(self._data_source())

    def at_revision(self, commit: str) -> DatasetTask:
        """Returns a copy of the task that loads this commit of its hub dataset."""
        return self.model_copy(update={"revision": commit})

    def subset_for_estimate(self, rows: int) -> tuple[DatasetTask, int | None] | None:
        """Returns a copy of the task that streams the first training rows of a hub dataset that is not downloaded.

        Raises:
            InputError: The dataset does not exist, or the hub is not reachable.
        """
        builder = split_loading.undownloaded_builder(self._data_source())
        if builder is None:
            return None
        sample, total = split_loading.limit_train_rows(self._data_source(), builder, rows)
        task = self.model_copy()
        task._sample = sample
        return task, total

    def _data_source(self) -> DataSource:
        if self._sample is not None:
            return self._sample
        files = self._paths()
        config = self.config_name()
        published = self.published_sizes.get(config or "", {}) if files == self.hub_id and self.hub_id else {}
        return DataSource(
            path=files,
            config=config,
            revision=self.revision,
            # The keys of a table of files are the splits.
            names=(None,) * 3 if isinstance(self.path, dict) else (self.train_split, self.dev_split, self.test_split),
            dev_fraction=self.dev_fraction,
            test_fraction=self.test_fraction,
            stratify=getattr(self, self.stratify_option) if self.stratify_option else None,
            seed=self.split_seed,
            groups=RowGroups(self) if self.dev_fraction or self.test_fraction else None,
            max_rows=self.max_rows,
            streaming=self.streaming,
            sizes=() if self.streaming else tuple(published.items()),
            options=self.file_options,
            only="test" if self.is_evaluation_set else None,
        )

    def load(self) -> DatasetDict:
        """Loads the splits ``train``, ``dev`` and ``test``.

        Raises:
            InputError: The data cannot be read, lack a split or a column, or differ from the published sizes.
        """
        splits = split_loading.load_splits(self._data_source()).splits
        for problem in column_problems(self, splits):
            raise problem
        if self.skips_bad_rows or self.ignores_rows:
            splits, self._skipped = leave_out_bad_rows(self, splits)
        return splits

    def with_example_check(self, check: ExampleCheck) -> DatasetTask:
        """Returns a copy of the task that also skips rows whose examples do not pass a check."""
        if not self.skips_bad_rows:
            return self
        task = self.model_copy()
        task._example_check, task._skipped = check, None
        return task

    def skipped_rows(self) -> list[SkippedRow]:
        """Returns the invalid rows that ``load`` left out; of a stream, those that were met so far."""
        return list(locate_skipped(self, self._skipped or {}))

    def num_ignored_rows(self) -> dict[str, int]:
        """Returns the number of rows of each split that ``load`` left out though they are valid."""
        return {split: len(skipped.ignored) for split, skipped in (self._skipped or {}).items()}

    def options_for_bad_rows(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Returns the options that skip invalid rows if local data have some, with their number as a comment."""
        return options_for_bad_rows(self)

    def find_data_problems(self, *, download: bool = False) -> list[OptionProblem]:
        """Finds what is wrong with local data, and with a hub dataset if it may be downloaded."""
        return find_data_problems(self, download=download)

    def _label_problems(self, splits: Mapping[str, Any]) -> Iterable[OptionProblem]:
        """Finds what is wrong with the labels of all splits together."""
        return ()

    def _row_check(self) -> Callable[[Mapping[str, Any]], object]:
        """Returns a function that raises RowError if a row is invalid."""
        return self.to_example

    def describe_row(self, split: str, index: int) -> str:
        """Describes a row by its file, or dataset and split, and its number from 1."""
        if self.skips_bad_rows or self.ignores_rows:
            if self._skipped is None:
                self.load()
            index = (self._skipped or {}).get(split, SkippedSplit()).original_index(index)
        return self.describe_source_row(split, index)

    def describe_source_row(self, split: str, index: int) -> str:
        """Describes a row like ``describe_row``, but by its index before rows were left out.

        Args:
            split: Name of the split.
            index: Index of the row in the split, from 0.
        """
        return split_loading.row_location(self._data_source(), split, index)

    def _describe_split(self, split: str) -> str:
        """Describes a split by its file, or by its dataset and name."""
        return self.describe_source_row(split, 0).rsplit(", row", 1)[0]

    def render_prompt(self, row: Mapping[str, Any], **computed: str) -> tuple[str, tuple[int, int] | None]:
        """Renders the prompt of a row.

        Args:
            row: The row.
            computed: Values of fields that are not columns.

        Returns:
            The prompt, and the start and end of the truncatable field in it.

        Raises:
            RowError: A field does not exist or is invalid.
        """
        columns = self.field_columns()

        def value(field: str) -> str:
            if field in computed:
                return computed[field]
            get = get_nonblank_text if field in self.required_fields else get_text
            return get(row, columns.get(field, field))

        return prompt_templates.render(self.prompt_template(), value, self.truncatable_field)
