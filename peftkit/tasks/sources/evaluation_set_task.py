"""Base class of tasks of which one split can be loaded, as an evaluation set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import PrivateAttr

from peftkit.components import Task
from peftkit.errors import comma_separated, did_you_mean

T = TypeVar("T", bound=Task)
WHERE = ("config", "revision", "train_split", "dev_split", "test_split", "dev_fraction", "test_fraction")
"""Options that say where the rows are in the data, and which are of no use with other data."""


class EvaluatedTask(Task):
    """A task on a path with splits, of which one can be an evaluation set of another version of the task."""

    _trained: Task | None = PrivateAttr(default=None)
    """Of an evaluation set, the task that the model is trained on."""

    @property
    def is_evaluation_set(self) -> bool:
        """Whether ``load`` returns one split alone, as ``test``."""
        return self._trained is not None

    def options_of_set(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Leaves out where the rows of this task are, if the set has another path; a set is never streamed."""
        left_out = {"streaming", *(WHERE if "path" in changes else ())}
        options = super().options_of_set(changes)
        return {key: value for key, value in options.items() if key in changes or key not in left_out}

    def as_evaluation_set(self, split: str | None, trained: Task) -> tuple[EvaluatedTask, str]:
        """Names the split of the set ``test``; labels are those of the training rows of the same task."""
        path: Any = getattr(self, "path", None)
        if split is None and path == getattr(trained, "path", None):
            split = getattr(self, "test_split", None)
        if isinstance(path, dict) and "glob" in path:
            if split is not None:
                raise ValueError("path is a pattern of files, which has no splits; leave it out")
        elif isinstance(path, dict):
            name = split or "test"
            if name not in path:
                raise ValueError(
                    f"path has no files for {name!r}{did_you_mean(name, path)}; it has {comma_separated([*path])}"
                )
            path, split = {"test": path[name]}, None
        unset = dict.fromkeys(("train_split", "dev_split", "dev_fraction", "test_fraction"))
        task = self.model_copy(update={**unset, "path": path, "test_split": split, "streaming": False})
        task._trained = trained
        return task, "test"

    def trained_of(self, kind: type[T]) -> T | None:
        """Returns the task that names the labels of an evaluation set; None if it names them itself.

        Args:
            kind: The class that has labels.
        """
        trained = self._trained
        return trained if isinstance(trained, kind) and trained.name == self.name else None
