"""Converts a task's rows to examples and tokenizes them, with a cache on disk."""

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
from peftkit.errors import InputError, RowError, RunError, summarize_error
from peftkit.models import ModelFamily, TokenizedRow
from peftkit.text_normalization import normalize

COLUMN_PREFIX = "\x1fpeftkit/"
"""Prefix of tokenized columns while the dataset has the original ones too; it cannot occur in a file's column."""
LOCATION_OPTIONS = ("name_or_path", "is_local", "local_files_only", "_commit_hash")
"""Tokenizer options that record where it was loaded from."""
ROW_COLUMNS: tuple[str, ...] = ("source", "candidates", "answer", "source_tokens", "target_tokens", "segments")
"""Keys of a tokenized row, as in ``peftkit.models.TokenizedRow``."""


def to_examples(task: Task, split: str, rows: Iterable[Mapping[str, Any]], indices: Iterable[int]) -> list[Example]:
    """Converts rows to examples.

    Args:
        task: The task.
        split: Name of the split, for error messages.
        rows: The rows.
        indices: Index of each row in the split, for error messages.

    Raises:
        InputError: A row is invalid; the message has its location.
        RunError: The task raised another error on a row.
    """
    examples = []
    for index, row in zip(indices, rows, strict=False):
        try:
            example = task.to_example(row)
            if example.candidates and example.target not in example.candidates:
                raise RowError("target", f"{example.target!r} is not one of the choices {list(example.candidates)}")
        except RowError as error:
            raise InputError(f"{_describe_row(task, split, index, row)}: {error}") from error
        except InputError:  # concerns the whole dataset
            raise
        except Exception as error:  # a plugin's task
            location = _describe_row(task, split, index, row)
            raise RunError(f"{location}: the task raised {summarize_error(error)}") from error
        examples.append(example)
    return examples


def _describe_row(task: Task, split: str, index: int, row: Mapping[str, Any]) -> str:
    """Describes where a row is, or its content if the index is -1 (streams of several files)."""
    if index >= 0:
        return task.describe_row(split, index)
    content = repr(dict(row))
    return f"task {task.name!r}, split {split!r}, row {content if len(content) <= 200 else content[:199] + '…'}"


def tokenize_examples(
    family: ModelFamily, task: Task, split: str, examples: Sequence[Example], indices: Sequence[int], *, ranked: bool
) -> list[TokenizedRow]:
    """Tokenizes examples.

    Args:
        family: The model family.
        task: The task, for error messages.
        split: Name of the split, for error messages.
        examples: The examples.
        indices: Index of each example in the split, for error messages.
        ranked: Whether all candidates are tokenized, instead of the target only.

    Raises:
        InputError: An example does not fit the maximum length; the message has its location.
    """
    try:
        return family.tokenize(examples, ranked=ranked)
    except RowError:
        for index, example in zip(indices, examples, strict=True):
            try:
                family.tokenize([example], ranked=ranked)
            except RowError as error:
                location = _describe_row(task, split, index, {"source": example.source})
                raise InputError(f"{location}: {error}") from error
        raise


def gold_answer(example: Example, task: Task) -> str:
    """Returns the answer that input-blind baselines count.

    Args:
        example: The example.
        task: Its task.

    Returns:
        The index of the right choice for multiple choice; the target (a label or text) for other kinds of tasks.
    """
    if task.kind == "multiple_choice":
        return str(example.candidates.index(example.target))
    return example.target


def text_hash(source: str) -> int:
    """Returns a 64-bit hash of the normalized text, to find equal sources."""
    digest = hashlib.blake2b(normalize(source).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def tokenize_columns(
    task: Task, family: ModelFamily, columns: Mapping[str, Sequence[Any]], indices: Sequence[int]
) -> dict[str, list[Any]]:
    """Tokenizes a batch of training rows.

    Args:
        task: The task.
        family: The model family.
        columns: The values of each column.
        indices: Index of each row in the split.

    Returns:
        The columns ``ROW_COLUMNS``, ``length`` (tokens of the source and the target), ``key`` (hash of the source) and
        ``gold`` (see ``gold_answer``).
    """
    names = list(columns)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))
    examples = to_examples(task, "train", rows, indices)
    tokenized: list[Any] = tokenize_examples(family, task, "train", examples, indices, ranked=False)
    result: dict[str, list[Any]] = {key: [row[key] for row in tokenized] for key in ROW_COLUMNS}
    result["length"] = [len(row["source"]) + sum(map(len, row["candidates"])) for row in tokenized]
    result["key"] = [text_hash(e.source) for e in examples]
    result["gold"] = [gold_answer(e, task) for e in examples]
    return result


def tokenize_split(task: Task, split: Dataset, family: ModelFamily) -> Dataset:
    """Tokenizes the training split, or loads it from the cache.

    Args:
        task: The task.
        split: The training rows.
        family: The model family.

    Returns:
        A dataset with the columns of ``tokenize_columns``.

    Raises:
        RunError: The cache cannot be written.
    """
    key = fingerprint(task, split, family)
    folder = cache_folder() / "encoded"

    def tokenize(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        # Without the prefix, datasets would cast them to the types of the original columns of the same names.
        return {
            f"{COLUMN_PREFIX}{key}": values for key, values in tokenize_columns(task, family, columns, indices).items()
        }

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenized = split.map(
            tokenize,
            batched=True,
            with_indices=True,
            remove_columns=split.column_names,
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            desc=None,
        )
    except OSError as error:
        raise RunError(
            f"cannot write the tokenized rows to {folder} ({error.strerror or error}); free some space, or set "
            "PEFTKIT_CACHE to another folder"
        ) from error
    return tokenized.rename_columns({name: name.removeprefix(COLUMN_PREFIX) for name in tokenized.column_names})


def fingerprint(task: Task, split: Dataset, family: ModelFamily) -> str:
    """Hashes everything that the tokenized rows depend on.

    Args:
        task: The task; its options and source code are hashed.
        split: The training rows.
        family: The model family; its source code, tokenizer, config and maximum lengths are hashed.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    inputs = {
        "versions": [__version__, transformers.__version__, tokenizers.__version__],
        "task": task.model_dump(mode="json"),
        "code": _code(type(task)),
        "family": [type(family).__name__, _code(type(family))],
        "kind": family.task_kind,
        "lengths": [family.max_source_length, family.max_target_length],
        "columns": [COLUMN_PREFIX, *ROW_COLUMNS, "length", "key", "gold"],
        "tokenizer": _tokenizer_state(family),
        "config": _config(family),
        "features": repr(split.features),  # has the label names
    }
    digest.update(json.dumps(inputs, sort_keys=True, default=str).encode())
    for table in split.with_format("arrow").iter(batch_size=1000):
        sink = pa.BufferOutputStream()
        combined = table.combine_chunks().replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, combined.schema) as writer:
            writer.write_table(combined)
        digest.update(sink.getvalue())
    return digest.hexdigest()[:32]


def _code(component: type) -> dict[str, str]:
    """Returns the source code of a class and its bases: their folders within peftkit, whole packages of plugins."""
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


def _tokenizer_state(family: ModelFamily) -> str:
    """Hashes the files that the tokenizer is saved as: vocabulary, rules, special tokens and templates."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        family.tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                if file.name == "tokenizer_config.json":
                    options = {key: value for key, value in json.loads(content).items() if key not in LOCATION_OPTIONS}
                    content = json.dumps(options, sort_keys=True).encode()
                digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


def _config(family: ModelFamily) -> dict[str, Any]:
    """Returns the model's config without its location and the version that saved it."""
    config: dict[str, Any] = family.config.to_dict()
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
