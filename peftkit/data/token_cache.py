"""Keeps tokenized training rows on disk, by everything that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from datasets import Dataset

from peftkit import __version__
from peftkit.cache_folder import cache_folder
from peftkit.data_files import ipc_bytes
from peftkit.errors import RunError
from peftkit.models import BoundObjective, ModelFamily

COLUMN_PREFIX = "\x1fpeftkit/"
"""Prefix of tokenized columns while the dataset has the original ones too; it cannot occur in a file's column."""
STATISTICS_COLUMNS = ("statistics/source_hash", "statistics/answer")
"""Columns of a tokenized dataset that are not part of its rows."""
LOCATION_OPTIONS = ("name_or_path", "is_local", "local_files_only", "_commit_hash")
"""Tokenizer options that record where it was loaded from."""
Columns = Mapping[str, Sequence[Any]]


def cached_columns(
    objective: BoundObjective, split: Dataset, tokenize: Callable[[Columns, Sequence[int]], Columns]
) -> Dataset:
    """Tokenizes training rows, or loads them from the cache.

    Args:
        objective: The objective.
        split: The training rows.
        tokenize: Returns the tokenized columns of a batch of columns, given the index of each row.

    Returns:
        A dataset with the tokenized columns.

    Raises:
        RunError: The cache cannot be written.
    """
    key = fingerprint(objective, split)
    folder = cache_folder() / "encoded"

    def tokenize_batch(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, Sequence[Any]]:
        # Without the prefix, datasets would cast them to the types of the original columns of the same names.
        return {f"{COLUMN_PREFIX}{name}": values for name, values in tokenize(columns, indices).items()}

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenized = split.map(
            tokenize_batch,
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


def fingerprint(objective: BoundObjective, split: Dataset) -> str:
    """Hashes everything that the tokenized rows depend on.

    Args:
        objective: The objective; its options and source code are hashed, and those of its task, and the source code,
            tokenizer, config and maximum lengths of its model family.
        split: The training rows.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    component, task, family = objective.component, objective.task, objective.family
    inputs = {
        "versions": [__version__, transformers.__version__, tokenizers.__version__],
        "task": task.model_dump(mode="json"),
        "code": source_code(type(task)),
        "family": [type(family).__name__, source_code(type(family))],
        "objective": [component.model_dump(mode="json"), source_code(type(component))],
        "settings": component.model_settings(objective.context),
        "lengths": [family.max_source_length, family.max_target_length],
        "columns": [COLUMN_PREFIX, *STATISTICS_COLUMNS],
        "tokenizer": _tokenizer_state(family),
        "config": _config(family),
        "features": repr(split.features),  # has the label names
    }
    digest.update(json.dumps(inputs, sort_keys=True, default=str).encode())
    for table in split.with_format("arrow").iter(batch_size=1000):
        digest.update(ipc_bytes(table))
    return digest.hexdigest()[:32]


def source_code(component: type) -> dict[str, str]:
    """Returns the source code of a class and its bases: their folders within peftkit, whole packages of plugins."""
    names = {base.__module__ for base in component.__mro__} - {"builtins", "abc", "typing"}
    sources = {}
    for name in (name for name in names if not name.startswith("pydantic")):
        top, file = sys.modules.get(name.split(".")[0]), Path(inspect.getsourcefile(sys.modules[name]) or "")
        files: Iterable[Path] = [file]
        if name.startswith("peftkit."):
            files = file.parent.rglob("*.py")
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
