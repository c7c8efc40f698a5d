"""Keeps the counts of models' operations on disk, by everything that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from peftkit.atomic_files import write_file
from peftkit.cache_folder import cache_folder
from peftkit.data.token_cache import source_code
from peftkit.errors import PeftkitError
from peftkit.macs.mac_counter import MacCounter
from peftkit.models import BoundObjective
from peftkit.recipe import Recipe
from peftkit.recipe.tables.train_config import WITHOUT_COST

LIBRARIES = ("torch", "transformers", "peft", "accelerate")
"""Libraries whose versions counts depend on, beside those of the classes of the model's modules."""


class CountCache(MutableMapping[str, list[int]]):
    """Counts by name, in a file.

    Args:
        file: The file; None to keep them in memory only.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.deferred = False
        """Whether only ``write`` writes the file, instead of every new count."""
        self._changed = False
        self._counts: dict[str, list[int]] = {}
        if file is not None:
            with suppress(OSError, ValueError):
                self._counts = json.loads(file.read_text(encoding="utf-8"))

    def __getitem__(self, name: str) -> list[int]:
        return self._counts[name]

    def __setitem__(self, name: str, count: list[int]) -> None:
        self._counts[name] = count
        self._changed = True
        if not self.deferred:
            self.write()

    def write(self) -> None:
        """Write the file if there are new counts."""
        if self.file is None or not self._changed:
            return
        self._changed = False
        text, folder = json.dumps(self._counts), self.file.parent
        with suppress(OSError, PeftkitError):  # it is faster, not necessary
            folder.mkdir(parents=True, exist_ok=True)
            write_file(self.file, lambda path: path.write_text(text, encoding="utf-8"))

    def __delitem__(self, name: str) -> None:
        del self._counts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)


def count_cache(recipe: Recipe, objective: BoundObjective, model: nn.Module) -> CountCache:
    """Return the counts of steps of a model that were counted before.

    Args:
        recipe: The recipe of the run.
        objective: The objective of the run.
        model: The model with the method applied.
    """
    names = {type(module).__module__.split(".")[0] for module in model.modules()} - {"peftkit"}
    method, family = recipe.method, objective.family
    classes: list[Any] = [MacCounter, type(family), type(objective.component), type(method)]
    inputs = {
        "versions": {name: _version(name) for name in sorted({*LIBRARIES, *names})},
        "code": [_code(each) for each in classes],
        "config": {k: v for k, v in family.config.to_dict().items() if k not in ("_name_or_path", "id2label")},
        "model": recipe.model.model_dump(mode="json", exclude={"name", "revision"}),
        "method": method.model_dump(mode="json"),
        "objective": objective.component.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json", exclude={*WITHOUT_COST, "truncate_targets"}),
        "modules": [(name, type(module).__qualname__) for name, module in model.named_modules()],
        "tensors": [
            (name, [*tensor.shape], str(tensor.dtype), tensor.requires_grad)
            for tensors in (model.named_parameters(), model.named_buffers())
            for name, tensor in tensors
        ],
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return CountCache(cache_folder() / "counts" / f"{key}.json")


@cache
def _code(component: Any) -> dict[str, str]:
    """Return the source code of a class, which stays as it was imported."""
    return source_code(component)


@cache
def _version(module: str) -> Any:
    """Return the version of a library, or the source of a module that is none, such as a model's own code."""
    with suppress(Exception):
        return version(module)
    with suppress(Exception):
        return hashlib.sha256(inspect.getsource(sys.modules[module]).encode()).hexdigest()
    return None
