"""Reads and writes the files of a run directory."""

from __future__ import annotations

import errno
import shlex
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.argument_names import format_argument, on_command_line
from peftkit.atomic_files import append_line, replace_folder
from peftkit.errors import InputError, RunError
from peftkit.file_formats import RUN_FORMAT, migrate_recipe, migrate_run_file
from peftkit.json_files import read_json, read_json_lines, to_json
from peftkit.run_directory.stored_examples import StoredExamples

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = RUN_FORMAT


class RunDirectory(StoredExamples):
    """The files of one run.

    Args:
        path: An existing folder; ``create`` makes a new one.
    """

    @property
    def resume_command(self) -> str:
        """The shell command that resumes the run, or the call where the caller is Python code."""
        if not on_command_line():
            return f"peftkit.run({str(self.path / 'recipe.toml')!r}, resume={str(self.path)!r})"
        return shlex.join(["peftkit", "run", str(self.path / "recipe.toml"), "--resume", str(self.path)])

    @classmethod
    def create(cls, output: Path, name: str) -> RunDirectory:
        """Create the folder ``<output>/<name>-<time>-<id>``; such names sort by time.

        Args:
            output: The folder of the run directories.
            name: The run's name.

        Returns:
            The run directory.

        Raises:
            InputError: The folder cannot be created.
            RunError: The disk is full.
        """
        try:
            output.mkdir(parents=True, exist_ok=True)
            while True:
                path = output / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
                try:
                    path.mkdir()  # fails if it exists: no two runs share a folder
                except FileExistsError:
                    continue
                return cls(path)
        except OSError as error:
            text = f"the run directory cannot be created in {str(output)!r}: {error.strerror}"
            if error.errno == errno.ENOSPC:
                raise RunError(f"{text}; free some disk space") from error
            raise InputError(f"{text}; set run.output to a writable folder") from error

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``interrupted`` or ``diverged``; ``running`` if there is no summary yet."""
        try:
            return str(self.summary().get("status", "running"))
        except InputError:
            return "running"

    @property
    def finished(self) -> bool:
        """Whether the run has ended successfully."""
        return self._has_status("done")

    @property
    def diverged(self) -> bool:
        """Whether the run has ended because its loss was NaN or infinite."""
        return self._has_status("diverged")

    def _has_status(self, status: str) -> bool:
        try:
            return bool(self.summary()["status"] == status)
        except (InputError, KeyError):
            return False

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically.

        Args:
            name: The file's path in the run directory.
            text: Its content.

        Raises:
            RunError: The file cannot be written; an old one is unchanged.
        """
        self._write(name, lambda path: path.write_bytes(text.encode("utf-8", "backslashreplace")))

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a safetensors file, atomically.

        Args:
            name: The file's path in the run directory.
            tensors: The tensors by name, of any shape.

        Raises:
            RunError: The file cannot be written; an old one is unchanged.
        """
        from safetensors.torch import save_file

        contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        self._write(name, lambda path: save_file(contiguous, path))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object with its ``format``, atomically; NaN and infinity become null.

        Args:
            name: The file's path in the run directory.
            value: The object.

        Raises:
            RunError: The file cannot be written; an old one is unchanged.
        """
        self.write_text(name, to_json({"format": FORMAT, **value}, indent=2) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON lines, atomically.

        Args:
            name: The file's path in the run directory.
            rows: One object per line.

        Raises:
            RunError: The file cannot be written; an old one is unchanged.
        """
        self.write_text(name, "".join(f"{to_json(row)}\n" for row in rows))

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Append a line to ``evaluations.jsonl`` and sync it.

        Raises:
            RunError: The line cannot be written; the file is unchanged.
        """
        append_line(self.path / "evaluations.jsonl", to_json({"format": FORMAT, **row}))

    def replace_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """Replace a folder by a new one, atomically.

        Args:
            name: The folder's name.
            write: Fills the new, empty folder that it gets.

        Raises:
            RunError: The folder cannot be written; an old one is unchanged.
        """
        replace_folder(self.path / name, write)

    def file_digests(self) -> dict[str, str]:
        """Compute the SHA-256 of the recipe and of the files in ``model/``, by path in the run directory."""
        digests = {}
        for path in (self.path / "recipe.toml", *sorted((self.path / "model").rglob("*"))):
            if path.is_file():
                with path.open("rb") as file:
                    digests[path.relative_to(self.path).as_posix()] = file_digest(file, "sha256").hexdigest()
        return digests

    def evaluations_digest(self, number: int) -> str:
        """Compute the SHA-256 of the first lines of ``evaluations.jsonl``."""
        return sha256(b"".join(self._evaluation_lines()[:number])).hexdigest()

    def _evaluation_lines(self) -> list[bytes]:
        path = self.path / "evaluations.jsonl"
        return path.read_bytes().splitlines(keepends=True) if path.exists() else []

    def truncate_evaluations(self, number: int, digest: str) -> list[dict[str, Any]]:
        """Truncate ``evaluations.jsonl`` to its first lines.

        Args:
            number: The number of lines to keep.
            digest: Their SHA-256, from ``evaluations_digest``.

        Returns:
            The evaluations in these lines.

        Raises:
            InputError: The lines have another digest or a newer format.
        """
        path = self.path / "evaluations.jsonl"
        if self.evaluations_digest(number) != digest:
            raise InputError(
                f"{path}: its first {number} lines have changed since the checkpoint; restore them, or start a new run "
                f"without {format_argument('resume')}"
            )
        self.write_text(path.name, b"".join(self._evaluation_lines()[:number]).decode())
        return self.evaluations()

    def evaluations(self) -> list[dict[str, Any]]:
        """Read ``evaluations.jsonl``.

        Raises:
            InputError: The file is missing, damaged or of a newer format.
        """
        path = self.path / "evaluations.jsonl"
        rows = read_json_lines(path)
        for row in rows:
            _check_format(path, row)
        return [migrate_run_file(path.name, row) for row in rows]

    def summary(self) -> dict[str, Any]:
        """Read ``summary.json``.

        Raises:
            InputError: The file is missing (the run has not ended), damaged or of a newer format.
        """
        return self.read_json("summary.json")

    def baselines(self) -> dict[str, Any]:
        """Read the scores of the baselines by name and split; empty if there are none."""
        for name in ("baselines.json", "summary.json"):
            with suppress(InputError):
                if scores := self.read_json(name).get("baselines"):
                    return dict(scores)
        return {}

    def environment(self) -> dict[str, Any]:
        """Read ``environment.json``.

        Raises:
            InputError: The file is missing, damaged or of a newer format.
        """
        return self.read_json("environment.json")

    def recipe(self) -> dict[str, Any]:
        """Read the tables of ``recipe.toml`` without validation: its components need not be installed.

        Raises:
            InputError: The file is missing or damaged.
        """
        path = self.path / "recipe.toml"
        try:
            return migrate_recipe(tomllib.loads(path.read_text(encoding="utf-8")))[0]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """Read ``predictions/<split>.jsonl``.

        Raises:
            InputError: The file is missing or damaged.
        """
        path = self.path / "predictions" / f"{split}.jsonl"
        rows = read_json_lines(path)
        if not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: is not JSON objects, one per line")
        return rows

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run; keys of older formats are renamed.

        Args:
            name: The file's path in the run directory.

        Raises:
            InputError: The file is missing, damaged or of a newer format.
        """
        path = self.path / name
        document = read_json(path)
        _check_format(path, document)
        return migrate_run_file(path.name, document)


def tuning_edges(tuning: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Describe the keys whose best value is at an end of the searched range, new heads included.

    Args:
        tuning: The ``tuning.json`` of a run; None for an untuned run.

    Returns:
        A text for each key, with the end and the value.
    """
    record = tuning or {}
    edges = [*record.get("at_edge", ()), *(record.get("head") or {}).get("at_edge", ())]
    return tuple(f"{edge['key']} at its {edge['end']} end ({edge['value']:g})" for edge in edges)


def device_name(device: str, devices: Sequence[str] = ()) -> str:
    """Normalize a device for the comparison of machines: ``cpu:0`` and ``CPU`` become ``cpu``.

    The index of a GPU is kept only if the GPUs of the machine differ.

    Args:
        device: A torch device.
        devices: The names of all GPUs of the machine.

    Returns:
        The normalized name.
    """
    kind, _, index = device.strip().lower().partition(":")
    return f"{kind}:{index or 0}" if kind != "cpu" and len(set(devices)) > 1 else kind


def _check_format(path: Path, document: object) -> None:
    if not isinstance(document, dict):
        raise InputError(f"{path}: is not a JSON object")
    version = document.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT:
        raise InputError(f"{path}: has format {version!r}, and this peftkit reads up to {FORMAT}; upgrade peftkit")
