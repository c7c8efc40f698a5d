"""Checks the data of a task without a model, on the first rows of each file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from peftkit.components import OptionProblem, Task
from peftkit.data_files import (
    check_encoding,
    data_name,
    disk_file,
    file_format,
    is_saved_dataset,
    missing_column_hint,
    normalize_member,
)
from peftkit.errors import (
    DataError,
    InputError,
    RowError,
    comma_separated,
    did_you_mean,
    similar_file,
    summarize_error,
)
from peftkit.tasks import prompt_templates
from peftkit.tasks.columns import visible_columns
from peftkit.tasks.file_task import FileTask
from peftkit.tasks.labels import feature_names
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.bad_rows import most_bad_rows, parse_percentage, to_valid_example
from peftkit.tasks.sources.data_source import files_of, is_local
from peftkit.tasks.sources.row_groups import iterate

if TYPE_CHECKING:
    from peftkit.tasks.dataset_task import DatasetTask
    from peftkit.tasks.sources.data_source import DataSource

ROWS_PER_FILE = 10_000
"""Number of rows of each file that are checked; together they take less than a second."""
MOST_NAMES = 3
"""Number of files that the warning of unchecked rows names."""
ROWS_PER_SPLIT = 4 * ROWS_PER_FILE
"""Number of rows of each split that are checked, if it has several files."""
MOST_CHARACTERS = 1 << 26
"""Number of characters of each file whose encoding is checked."""
MOST_BAD = "20%"
"""Share of invalid rows from which the data are not those of the task."""
DEFAULT_MAX_BAD = "1%"
"""Share of invalid rows that may be skipped unless a recipe says otherwise."""
MOST_JSON_BYTES = 1 << 24
"""Size of the largest JSON file that is checked: such files cannot be read in part."""


def find_data_problems(task: DatasetTask, *, download: bool) -> list[OptionProblem]:
    """Finds what is wrong with the data of a task.

    Args:
        task: The task.
        download: Whether to load hub datasets; otherwise only local data are checked.

    Returns:
        The problems: at most one for each split and column, and that of the first row; and a warning if there are rows
        that are not checked.
    """
    try:
        source = task._data_source()
        large = _large_json(source)
    except InputError as error:  # no file matches a pattern, or an archive has none
        return [_problem(error)]
    local = is_local(source)
    if not local and not download:
        return list(_resembles_local_path(str(source.path)))
    if large:
        text = f"{large} is not checked, since JSON files of this size take long to read; JSON Lines files do not"
        return [OptionProblem("path", text, is_error=False)]
    if local:
        task = _sampled(task)
        source = task._data_source()
    try:
        loaded = split_loading.load_valid_splits(source)
    except InputError as error:
        return [_problem(error)]
    columns = list(column_problems(task, loaded.splits))
    invalid = {(error.location, error.column) for error in columns}
    problems = [*map(_problem, loaded.problems), *_merged(task, columns), *_encoding_problems(source, loaded)]
    if not download and (trained := task.trained_of(type(task))) and not is_local(trained._data_source()):
        text = "only columns are checked, because the training rows, whose labels it needs, are not on this machine"
        return [*problems, OptionProblem("path", text, is_error=False)]
    if "label_column" not in {error.option for error in columns}:
        problems += task._label_problems(loaded.splits)
        problems += _untrained_labels(task, loaded.splits)
    check_row = task._row_check()
    for split, rows in loaded.splits.items():
        if task.skips_bad_rows:
            problems += _skipped_problems(task, split, rows, check_row, whole=loaded.origins[split] not in loaded.cut)
        else:
            problems += _row_problems(task, split, rows, check_row, invalid)
    return [*dict.fromkeys(problems), *_without_effect(task, loaded), *_unchecked_rows(task, source, loaded)]


def _sampled(task: DatasetTask) -> DatasetTask:
    """Returns a copy of a task that loads the first rows of each file, and whose labels are of such rows."""
    sampled = task.model_copy()
    sampled._sample = replace(task._data_source(), rows_per_file=ROWS_PER_FILE, streaming=False)
    if isinstance(task._trained, FileTask) and is_local((trained := cast("DatasetTask", task._trained))._data_source()):
        sampled._trained = _sampled(trained)
    return sampled


def _untrained_labels(task: DatasetTask, splits: Mapping[str, Any]) -> Iterator[OptionProblem]:
    """Yields the first row of an evaluation set whose label the model is not trained on."""
    trained = task._trained
    if trained is None:
        return
    option = next((each for each in ("label_column", "tags_column") if each in type(task).model_fields), "path")
    try:
        if not _knows_labels(trained) or (labels := trained.labels) == task.labels or not labels:
            return
        for split, rows in splits.items():
            for index, row in enumerate(islice(iterate(rows), ROWS_PER_SPLIT)):
                example, _ = to_valid_example(task.to_example, row)
                if example is not None and not example.candidates:
                    order = f"the labels that the model is trained on, in their order: {comma_separated(labels)}"
                    yield OptionProblem(option, f"has the labels {comma_separated(task.labels)}, but needs {order}")
                    return
                if example is not None and example.target not in labels:
                    near = did_you_mean(example.target, labels)
                    text = f"the model is not trained on the label {example.target!r}{near}"
                    place = task.describe_source_row(split, index)
                    yield OptionProblem(option, f"{place}: {text}; labels: {comma_separated(labels)}")
                    return
    except InputError:  # reported with the labels
        return


def _knows_labels(trained: Task) -> bool:
    """Returns whether the labels of a task are not those of the first rows alone."""
    if not isinstance(trained, FileTask):
        return True
    source = cast("DatasetTask", trained)._data_source()
    if not is_local(source):
        return False
    loaded = split_loading.load_valid_splits(source)
    return trained.labels_of_data() is None or not {*loaded.origins.values()} & loaded.cut


def options_for_bad_rows(task: DatasetTask) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the options that skip the invalid rows of local data.

    Args:
        task: The task, which stops at invalid rows.

    Returns:
        The options, and comments on them; none if all rows are valid, or if they are not on this machine.

    Raises:
        InputError: The data are invalid as a whole, or most rows are.
    """
    if not is_local(task._data_source()) or task.is_streaming:
        return {}, {}
    skipping = task.model_copy(update={"on_bad_row": "skip", "max_bad": MOST_BAD})
    splits = skipping.load()
    skipped = Counter(row.split for row in skipping.skipped_rows())
    if not skipped:
        return {}, {}
    total = {split: len(rows) + skipped[split] for split, rows in splits.items()}
    share = max(skipped[split] / total[split] for split in total)
    first = next(iter(skipping.skipped_rows()))
    number, rows = sum(skipped.values()), sum(total.values())
    note = f"{number:,} of {rows:,} rows are invalid; the first: {first.file}, row {first.row}: {first.reason}"
    options: dict[str, Any] = {"on_bad_row": "skip"}
    if share > parse_percentage(DEFAULT_MAX_BAD):
        options["max_bad"] = f"{math.ceil(100 * share)}%"
    return options, {"on_bad_row": " ".join(note.split())}


def _without_effect(task: DatasetTask, loaded: split_loading.LoadedSplits) -> Iterator[OptionProblem]:
    """Yields a warning for each option on which nothing depends with these data or this prompt."""
    reasons: dict[str, str] = {}
    path = task.path if isinstance(task.path, str) else ""
    if path and (file := disk_file(normalize_member(path))).exists():
        reasons["revision"] = f"{path!r} is on this machine"
        if file.is_file() or is_saved_dataset(Path(path)) or (Path(path) / "dataset_dict.json").is_file():
            reasons["config"] = f"{path!r} has no configurations"
    for split in ("dev", "test"):
        if (name := loaded.origins.get(split)) and name != loaded.origins.get("train"):
            reasons[f"{split}_fraction"] = f"the data have a {split} split, {name!r}"
    fields = prompt_templates.fields(task.prompt_template())
    for field in task.field_columns().keys() - fields - {*task.used_fields}:
        reasons[f"{field}_column"] = f"the prompt has no field {{{field}}}"
    for option, reason in sorted(reasons.items()):
        if option in type(task).model_fields and task._is_changed(option):
            yield OptionProblem(option, f"has no effect, because {reason}", is_error=False)


def _unchecked_rows(
    task: DatasetTask, source: DataSource, loaded: split_loading.LoadedSplits
) -> Iterator[OptionProblem]:
    """Yields a warning that names the files of which some rows may not be checked."""
    files, partial = dict(files_of(source)), dict[str, None]()
    for split, rows in loaded.splits.items():
        if loaded.origins[split] in loaded.cut or not hasattr(rows, "__len__") or len(rows) > ROWS_PER_SPLIT:
            partial |= dict.fromkeys(files.get(loaded.origins[split]) or [task._describe_split(split)])
    if partial:
        names = [*map(data_name, partial)][:MOST_NAMES]
        more = f" and {len(partial) - MOST_NAMES:,} more" if len(partial) > MOST_NAMES else ""
        text = (
            f"{comma_separated(names)}{more}: checked in part, at most {ROWS_PER_FILE:,} rows of a file and "
            f"{ROWS_PER_SPLIT:,} of a split; a run checks all rows"
        )
        yield OptionProblem("path", text, is_error=False)


def _resembles_local_path(path: str) -> Iterator[OptionProblem]:
    """Yields a warning if a hub id looks like a path whose last part is misspelled."""
    folder = Path(path).parent
    if folder.is_dir() or file_format(Path(path)):
        near = similar_file(Path(path).name, [p.name for p in folder.iterdir()]) if folder.is_dir() else ""
        yield OptionProblem("path", f"{path!r} is not a file or folder here, so it is a hub id{near}", is_error=False)


def _large_json(source: DataSource) -> str | None:
    """Returns a JSON file that is too large to check; None if there is none."""
    for _, names in files_of(source):
        for name in names:
            file = disk_file(name)
            if file_format(Path(name)) == "json" and file.is_file() and file.stat().st_size > MOST_JSON_BYTES:
                return name
    return None


def _problem(error: InputError) -> OptionProblem:
    if isinstance(error, DataError):
        return OptionProblem(error.option, ": ".join(filter(None, [error.location, error.text])))
    return OptionProblem("path", str(error))


def column_problems(task: DatasetTask, splits: Mapping[str, Any]) -> Iterator[DataError]:
    """Yields an error for each column of each split that does not exist, or has no text.

    Args:
        task: The task.
        splits: The rows of each split.
    """
    for split, rows in splits.items():
        columns = rows.column_names or ()
        for option, column in task.column_options():
            if columns and column not in columns and column.split(".")[0] not in columns:
                known = sorted(visible_columns(columns))
                place = task._describe_split(split)
                hint = missing_column_hint(known, place)
                near = "" if hint else did_you_mean(column, known)
                text = f"there is no column {column!r}{near}; columns: {comma_separated(known)}{hint}"
                yield DataError(option, text, place, column)
        for column in task.text_columns():
            if names := feature_names(rows.features, column):
                text = (
                    f"is used as text, but has label numbers (of {comma_separated(names)}); write the label names "
                    "to a text column"
                )
                yield DataError(column, text, task._describe_split(split), column)


def _merged(task: DatasetTask, errors: Iterable[DataError]) -> Iterator[OptionProblem]:
    """Yields one problem for the same error in several splits."""
    locations: dict[tuple[str, str], list[str]] = {}
    for error in errors:
        known = error.option in type(task).model_fields
        option, text = (error.option, "") if known else (option_of_column(task, error.column), f"{error.column}: ")
        locations.setdefault((option, f"{text}{error.text}"), []).append(error.location)
    for (option, text), names in locations.items():
        yield OptionProblem(option, f"{' and '.join(dict.fromkeys(names))}: {text}")


def _encoding_problems(source: DataSource, loaded: split_loading.LoadedSplits) -> Iterator[OptionProblem]:
    """Yields a problem for each file with an invalid byte after the rows that are checked."""
    files = dict(files_of(source))
    for split in loaded.splits:
        for name in files.get(loaded.origins[split], ()) if loaded.origins[split] in loaded.cut else ():
            if not is_saved_dataset(Path(name)) and file_format(Path(name)) != "parquet":
                try:
                    check_encoding(name, MOST_CHARACTERS, source.options.encoding)
                except InputError as error:
                    yield _problem(error)


def _row_problems(
    task: DatasetTask,
    split: str,
    rows: Any,
    check_row: Callable[[Mapping[str, Any]], object],
    reported: Iterable[tuple[str, str]],
) -> Iterator[OptionProblem]:
    """Yields a problem for the first invalid row of each column that is not reported yet."""
    invalid = {column for location, column in reported if location == task._describe_split(split)}
    for index, row in enumerate(islice(iterate(rows), ROWS_PER_SPLIT)):
        if task.is_ignored(row):
            continue
        try:
            check_row(row)
        except RowError as error:
            if error.field not in invalid:
                invalid.add(error.field)
                option = option_of_column(task, error.field)
                yield OptionProblem(option, f"{task.describe_source_row(split, index)}: {error}")
        except InputError as error:  # concerns the whole dataset
            yield _problem(error)
            return
        except Exception as error:  # a plugin's task
            text = f"{task.describe_source_row(split, index)}: the task raised {summarize_error(error)}"
            yield OptionProblem("name", text)
            return


def _skipped_problems(
    task: DatasetTask, split: str, rows: Any, check_row: Callable[[Mapping[str, Any]], object], *, whole: bool
) -> Iterator[OptionProblem]:
    """Yields how many rows a run would skip; an error if they are too many, which only all rows can show."""
    skipped, read, first = 0, 0, ""
    for index, row in enumerate(islice(iterate(rows), ROWS_PER_SPLIT)):
        read = index + 1
        if task.is_ignored(row):
            continue
        try:
            check_row(row)
        except RowError as error:
            first = first or f"{task.describe_source_row(split, index)}: {error}"
            skipped += 1
        except InputError as error:  # concerns the whole dataset
            yield _problem(error)
            return
        except Exception as error:  # a plugin's task
            text = f"{task.describe_source_row(split, index)}: the task raised {summarize_error(error)}"
            yield OptionProblem("name", text)
            return
    if not skipped:
        return
    many = skipped > most_bad_rows(task.max_bad, read)
    text = f"{skipped:,} of {read:,} rows of {split} are skipped, the first is {first}"
    if many:
        text += f"; max_bad allows {task.max_bad}"
    yield OptionProblem("max_bad" if many else "on_bad_row", text, is_error=many and whole and read == len(rows))


def option_of_column(task: DatasetTask, column: str) -> str:
    """Returns the option of a task that names a column; the prompt or path if none does.

    Args:
        task: The task.
        column: Name of the column.
    """
    for option, name in task.column_options():
        if name == column:
            return option
    shown = "prompt" in task.model_fields_set and column in prompt_templates.fields(task.prompt_template())
    return "prompt" if shown else "path"
