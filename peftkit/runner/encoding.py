"""A task's rows as examples and as token ids: encoded in batches, once, kept in a cache by their content."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import tokenizers
import transformers
from datasets import Dataset

from peftkit import __version__
from peftkit.cache import cache_folder
from peftkit.components import Example, Task
from peftkit.errors import InputError, RowError, RunError, one_line
from peftkit.runner.forms import Form, Row
from peftkit.texts import normalised

OURS = "\x1fpeftkit/"
"""Begins the names of encoded columns while they stand beside those of the data: no file can have such a column."""
PLACES = ("name_or_path", "is_local", "local_files_only", "_commit_hash")
"""Options of a tokenizer that say where it was found."""
KEPT: tuple[str, ...] = ("source", "candidates", "answer", "source_tokens", "target_tokens", "segments")


def examples_of(task: Task, split: str, rows: Iterable[Mapping[str, Any]], indices: Iterable[int]) -> list[Example]:
    """The rows as the task means them; ``indices`` say where in the split they stand.

    Raises:
        InputError: a row cannot be an example, with the place where a user finds it.
        RunError: the task fails on a row.
    """
    examples = []
    for index, row in zip(indices, rows, strict=False):
        try:
            example = task.encode(row)
            if example.candidates and example.target not in example.candidates:
                raise RowError("target", f"{example.target!r} is none of the choices {list(example.candidates)}")
        except RowError as error:
            raise InputError(f"{_place(task, split, index, row)}: {error}") from error
        except InputError:  # of the data as a whole
            raise
        except Exception as error:  # a plugin's task
            place = _place(task, split, index, row)
            raise RunError(f"{place}: the task fails on it: {one_line(error)}") from error
        examples.append(example)
    return examples


def _place(task: Task, split: str, index: int, row: Mapping[str, Any]) -> str:
    """Where a user finds the row; of a stream of several files, by what stands in it."""
    if index >= 0:
        return task.where(split, index)
    shown = repr(dict(row))
    return f"the task {task.name!r}, split {split!r}, the row {shown if len(shown) <= 200 else shown[:199] + '…'}"


def rows_of(
    form: Form, task: Task, split: str, examples: Sequence[Example], indices: Sequence[int], *, ranked: bool
) -> list[Row]:
    """The examples as token ids.

    Raises:
        InputError: one of them cannot be made to fit, with the place where a user finds it.
    """
    try:
        return form.encode(examples, ranked=ranked)
    except RowError:
        for index, example in zip(indices, examples, strict=True):
            try:
                form.encode([example], ranked=ranked)
            except RowError as error:
                place = _place(task, split, index, {"source": example.source})
                raise InputError(f"{place}: {error}") from error
        raise


def answer(example: Example, task: Task) -> str:
    """What a model that never reads could learn to say: a label or text, or the number of a choice."""
    if task.kind == "multiple_choice":
        return str(example.candidates.index(example.target))
    return example.target


def source_key(source: str) -> int:
    """A hash of 64 bits of the normalised text, by which equal sources are found."""
    digest = hashlib.blake2b(normalised(source).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def encode_columns(
    task: Task, form: Form, columns: Mapping[str, Sequence[Any]], indices: Sequence[int]
) -> dict[str, list[Any]]:
    """Columns of training rows → columns of encoded ones, with ``length``, and the ``key`` and ``gold`` of each."""
    names = list(columns)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))
    examples = examples_of(task, "train", rows, indices)
    encoded_rows: list[Any] = rows_of(form, task, "train", examples, indices, ranked=False)
    made: dict[str, list[Any]] = {key: [row[key] for row in encoded_rows] for key in KEPT}
    made["length"] = [len(row["source"]) + sum(map(len, row["candidates"])) for row in encoded_rows]
    made["key"] = [source_key(e.source) for e in examples]
    made["gold"] = [answer(e, task) for e in examples]
    return made


def encoded(task: Task, split: Dataset, form: Form) -> Dataset:
    """The training rows as ``encode_columns`` has them, from the cache if the same were encoded before.

    Raises:
        RunError: the cache cannot be written.
    """
    key = fingerprint(task, split, form)
    folder = cache_folder() / "encoded"

    def encode(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        # Under their own names datasets would cast them to the types of the data's columns of these names.
        return {f"{OURS}{key}": values for key, values in encode_columns(task, form, columns, indices).items()}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = split.map(
            encode,
            batched=True,
            with_indices=True,
            remove_columns=split.column_names,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            desc=None,
        )
    except OSError as error:
        raise RunError(
            f"the encoded rows cannot be written to {folder} ({error.strerror or error}); make room, or set "
            "PEFTKIT_CACHE to another folder"
        ) from error
    return found.rename_columns({name: name.removeprefix(OURS) for name in found.column_names})


def fingerprint(task: Task, split: Dataset, form: Form) -> str:
    """A hash of all that the encoded rows depend on: the data, the task and its code, the tokenizer, the form."""
    digest = hashlib.sha256()
    described = {
        "versions": [__version__, transformers.__version__, tokenizers.__version__],
        "task": task.model_dump(mode="json"),
        "code": _code(type(task)),
        "form": [type(form).__name__, _code(type(form))],
        "kind": form.task_kind,
        "lengths": [form.source_length, form.target_length],
        "columns": [OURS, *KEPT, "length", "key", "gold"],
        "tokenizer": _tokenizer_state(form),
        "config": _config(form),
        "features": repr(split.features),  # the names of labels, and how columns are decoded
    }
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    for table in split.with_format("arrow").iter(batch_size=1000):
        sink = pa.BufferOutputStream()
        combined = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, combined.schema) as writer:
            writer.write_table(combined)
        digest.update(sink.getvalue())
    return digest.hexdigest()[:32]


def _code(component: type) -> dict[str, str]:
    """The sources that the class and those above it come from: peftkit's packages, and the whole of anybody else's."""
    names = {base.__module__ for base in component.__mro__} - {"builtins", "abc", "typing"}
    sources = {}
    for name in (name for name in names if not name.startswith("pydantic")):
        top, file = sys.modules.get(name.split(".")[0]), Path(inspect.getsourcefile(sys.modules[name]) or "")
        files: Iterable[Path] = [file]
        if name.startswith("peftkit."):
            files = file.parent.glob("*.py")
        elif folders := getattr(top, "__path__", None):
            files = (each for folder in folders for each in Path(folder).rglob("*.py"))
        for each in sorted(files):
            sources[f"{name.split('.')[0]}/{each.parent.name}/{each.name}"] = each.read_text(encoding="utf-8")
    return sources


def _tokenizer_state(form: Form) -> str:
    """A hash of all files that the tokenizer would be saved as: vocabulary, rules, special tokens and templates."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        form.tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                if file.name == "tokenizer_config.json":
                    options = {key: value for key, value in json.loads(content).items() if key not in PLACES}
                    content = json.dumps(options, sort_keys=True).encode()
                digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def _config(form: Form) -> dict[str, Any]:
    """The model's configuration without where it lies and who wrote it."""
    described: dict[str, Any] = form.config.to_dict()
    return {key: value for key, value in described.items() if key not in ("_name_or_path", "transformers_version")}
