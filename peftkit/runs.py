"""The run directory: what a run leaves behind, written so that a crash damages nothing that was finished.

=====================  ==============================================================================
``recipe.toml``        the recipe with every key resolved; loads as an equal recipe
``environment.json``   versions, hardware, git commit, plugins
``evaluations.jsonl``  one line per evaluation, appended
``predictions/``       ``dev.jsonl`` and ``test.jsonl`` of the selected checkpoint, one line per example
``model/``             what the method trained, at the selected checkpoint, in its library's own format
``summary.json``       the outcome, written last
=====================  ==============================================================================
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from peftkit.errors import InputError, RunError

FORMAT = 1


class RunDirectory:
    """One run's folder; ``create`` makes a new one, the constructor takes one that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output: Path, name: str) -> RunDirectory:
        """A new folder ``<output>/<name>-<id>``; the id is the time and four random digits, so it sorts by time.

        Raises:
            RunError: the folder cannot be made.
        """
        try:
            output.mkdir(parents=True, exist_ok=True)
            while True:
                path = output / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
                try:
                    path.mkdir()  # fails if it exists: two runs never share a folder
                except FileExistsError:
                    continue
                return cls(path)
        except OSError as error:
            raise RunError(f"the run directory cannot be made in {str(output)!r}: {error.strerror}") from error

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON object with its ``format``; numbers that JSON cannot hold become null."""
        document = {"format": FORMAT, **_finite(value)}
        self.write_text(name, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON object a line, whole or not at all."""
        lines = [json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) for row in rows]
        self.write_text(name, "".join(f"{line}\n" for line in lines))

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Adds a line to ``evaluations.jsonl`` and waits until it is on the disk."""
        line = json.dumps({"format": FORMAT, **_finite(row)}, ensure_ascii=False, allow_nan=False) + "\n"
        with (self.path / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def replace_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """Has ``write`` fill a new folder, which then takes the place of the old one of that name."""
        temporary, old = self.path / f".{name}.tmp", self.path / f".{name}.old"
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        target = self.path / name
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def keep_evaluations(self, number: int) -> list[dict[str, Any]]:
        """Drops all lines of ``evaluations.jsonl`` but the first ones, and returns these.

        Raises:
            InputError: there are fewer, or they are damaged or of a newer format.
        """
        path = self.path / "evaluations.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if len(lines) < number:
            raise InputError(f"{path}: has {len(lines)} evaluations, and the checkpoint was written after {number}")
        self.write_text(path.name, "".join(lines[:number]))
        return self.evaluations()

    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of ``evaluations.jsonl``.

        Raises:
            InputError: the file is missing, damaged or of a newer format.
        """
        path = self.path / "evaluations.jsonl"
        try:
            rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        for row in rows:
            _known(path, row)
        return rows

    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``.

        Raises:
            InputError: the file is missing (the run did not finish), damaged or of a newer format.
        """
        path = self.path / "summary.json"
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        _known(path, document)
        return document


def _known(path: Path, document: object) -> None:
    if not isinstance(document, dict):
        raise InputError(f"{path}: does not hold JSON objects")
    version = document.get("format")
    if version != FORMAT:
        raise InputError(f"{path}: has format {version!r}, and this peftkit reads {FORMAT}; upgrade peftkit")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
