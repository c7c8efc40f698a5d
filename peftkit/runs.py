"""The run directory: what a run leaves behind, written so that a crash damages nothing that was finished.

=====================  ==============================================================================
``recipe.toml``        the recipe with every key resolved; loads as an equal recipe
``environment.json``   versions, hardware, git commit, plugins
``loading.json``       what the checkpoint lacked, what of it was left out, its head's labels and its config
``baselines.json``     the scores of the baselines, written before training; the summary has them too
``evaluations.jsonl``  one line per evaluation, appended
``examples.parquet``   dev's and test's loss, score and group per example, of every evaluation (``example_tables``);
                       until the run ends a file for each evaluation in ``examples/``
``predictions/``       ``dev.jsonl`` and ``test.jsonl`` of the selected checkpoint, one line per example
``model/``             what the method trained, at the selected checkpoint, in its library's own format
``summary.json``       the outcome, written last
=====================  ==============================================================================
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
import tomllib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import InputError, RunError
from peftkit.example_tables import (
    along_the_curve,
    evaluations_of,
    example_table,
    part_name,
    read_table,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

FORMAT = 2
"""The version of the files: from 2 on there are scores of single examples for every evaluation."""
READABLE = (1, 2)


class RunDirectory:
    """One run's folder; ``create`` makes a new one, the constructor takes one that exists."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, output: Path, name: str) -> RunDirectory:
        """A new folder ``<output>/<name>-<id>``; the id is the time and four random digits, so it sorts by time.

        Raises:
            InputError: the folder cannot be made there.
            RunError: the disk is full.
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
            text = f"the run directory cannot be made in {str(output)!r}: {error.strerror}"
            if error.errno == errno.ENOSPC:
                raise RunError(f"{text}; make room there") from error
            raise InputError(f"{text}; set run.output to a folder that can be written") from error

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        try:
            return bool(self.summary()["status"] == "done")
        except (InputError, KeyError):
            return False

    @property
    def diverged(self) -> bool:
        """Whether the run has ended because its loss was no number."""
        try:
            return bool(self.summary()["status"] == "diverged")
        except (InputError, KeyError):
            return False

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole or not at all.

        Raises:
            RunError: it cannot be written; what was there before is untouched.
        """
        self._write(name, lambda path: path.write_bytes(text.encode("utf-8", "backslashreplace")))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        """Has ``write`` fill a temporary file, which takes the name once it is on the disk."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        with _told(target, temporary):
            target.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes tensors as safetensors, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        from safetensors.torch import save_file

        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        self._write(name, lambda path: save_file(whole, path))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON object with its ``format``; numbers that JSON cannot hold become null."""
        document = {"format": FORMAT, **_finite(value)}
        self.write_text(name, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON object a line, whole or not at all."""
        lines = [json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) for row in rows]
        self.write_text(name, "".join(f"{line}\n" for line in lines))

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Adds a line to ``evaluations.jsonl`` and waits until it is on the disk.

        Raises:
            RunError: it cannot be written; the lines before stay whole.
        """
        line = json.dumps({"format": FORMAT, **_finite(row)}, ensure_ascii=False, allow_nan=False) + "\n"
        path = self.path / "evaluations.jsonl"
        with _told(path):
            size = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)
                raise

    def add_examples(self, step: int, predictions: Mapping[str, Sequence[Mapping[str, Any]]], *, whole: bool) -> None:
        """Stores an evaluation's results per example.

        Args:
            step: optimizer steps before the evaluation.
            predictions: by split.
            whole: whether it is the evaluation of whole splits at the end, of which there is one.

        Raises:
            RunError: they cannot be written.
        """
        tables = [example_table(step, split, each, whole=whole) for split, each in predictions.items()]
        self._write(f"examples/{part_name(step, whole=whole)}", lambda path: write_table(tables, path))

    def merge_examples(self) -> None:
        """Makes one file of the results per example: at the end of a run.

        Raises:
            RunError: it cannot be written; nothing is lost.
        """
        tables = self._example_tables()
        if tables:
            self._write("examples.parquet", lambda path: write_table(tables, path))
            shutil.rmtree(self.path / "examples", ignore_errors=True)

    def keep_examples(self, steps: Sequence[int]) -> None:
        """Drops the results per example of all evaluations along the curve but these, and of the one at the end.

        Raises:
            InputError: there are none of one of these evaluations.
            RunError: what is kept cannot be written.
        """
        tables = [along_the_curve(table, steps) for table in self._example_tables()]
        there = set[str]().union(*map(evaluations_of, tables))
        missing = [step for step in steps if part_name(step, whole=False) not in there]
        if missing:
            raise InputError(
                f"{self.path}: there are no results per example of the evaluation at step {missing[0]}; bring "
                "examples.parquet or examples/ back, or run the recipe anew without --resume"
            )
        if steps:
            self._write("examples.parquet", lambda path: write_table(tables, path))
        else:
            (self.path / "examples.parquet").unlink(missing_ok=True)
        shutil.rmtree(self.path / "examples", ignore_errors=True)

    def examples(self) -> pa.Table | None:
        """The results per example of all evaluations, as ``example_tables`` describes them.

        Returns:
            The table; None where the run has none, since it is of format 1 or was imported.

        Raises:
            InputError: a file cannot be read.
        """
        import pyarrow as pa

        tables = self._example_tables()
        return pa.concat_tables(tables) if tables else None

    def _example_tables(self) -> list[pa.Table]:
        """The merged file's table, and those of evaluations that are not in it."""
        tables: list[pa.Table] = []
        merged: set[str] = set()
        for path in (self.path / "examples.parquet", *sorted((self.path / "examples").glob("[0-9]*.parquet"))):
            if path.name in merged or not path.exists():
                continue
            try:
                table = read_table(path)
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: cannot be read: {error}") from error
            if tables and not table.schema.equals(tables[0].schema):
                raise InputError(f"{path}: has other columns than the evaluations before it")
            tables.append(table)
            if len(tables) == 1 and path.parent == self.path:
                merged = evaluations_of(tables[0])
        return tables

    def replace_folder(self, name: str, write: Callable[[Path], None]) -> None:
        """Has ``write`` fill a new folder, which then takes the place of the old one of that name.

        Raises:
            RunError: it cannot be written; the old one stays.
        """
        target, temporary, old = (self.path / each for each in (name, f".{name}.tmp", f".{name}.old"))
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        with _told(target, temporary):
            temporary.mkdir()
            write(temporary)
            if target.exists():
                target.rename(old)
            temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def file_digests(self) -> dict[str, str]:
        """The SHA-256 of the recipe and of each file of the model, by their paths in the run directory."""
        found = {}
        for path in (self.path / "recipe.toml", *sorted((self.path / "model").rglob("*"))):
            if path.is_file():
                with path.open("rb") as file:
                    found[path.relative_to(self.path).as_posix()] = file_digest(file, "sha256").hexdigest()
        return found

    def evaluations_digest(self, number: int) -> str:
        """The SHA-256 of the first lines of ``evaluations.jsonl``."""
        path = self.path / "evaluations.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return sha256(b"".join(lines[:number])).hexdigest()

    def keep_evaluations(self, number: int, digest: str) -> list[dict[str, Any]]:
        """Drops all lines of ``evaluations.jsonl`` but the first ones, and returns these.

        Raises:
            InputError: they are not those that ``evaluations_digest`` was taken of, or of a newer format.
        """
        path = self.path / "evaluations.jsonl"
        if self.evaluations_digest(number) != digest:
            raise InputError(
                f"{path}: its first {number} lines are not what they were when the checkpoint was written; bring them "
                "back, or run the recipe anew without --resume"
            )
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self.write_text(path.name, b"".join(lines[:number]).decode())
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
        return self.document("summary.json")

    def baselines(self) -> dict[str, Any]:
        """The scores of the baselines by name and split, also while the run goes on; empty where there are none."""
        for name in ("baselines.json", "summary.json"):
            with suppress(InputError):
                if found := self.document(name).get("baselines"):
                    return dict(found)
        return {}

    def environment(self) -> dict[str, Any]:
        """The content of ``environment.json``.

        Raises:
            InputError: the file is missing, damaged or of a newer format.
        """
        return self.document("environment.json")

    def recipe(self) -> dict[str, Any]:
        """The tables of ``recipe.toml``, as they are: the components they name need not be installed.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / "recipe.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """The lines of ``predictions/<split>.jsonl``.

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self.path / "predictions" / f"{split}.jsonl"
        try:
            rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        if not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: does not hold JSON objects")
        return rows

    def document(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of the folder.

        Raises:
            InputError: it is missing, damaged or of a newer format.
        """
        path = self.path / name
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        _known(path, document)
        return document


def tuning_edges(tuning: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Where a tuning stopped at the edge of its range, from the ``tuning.json`` beside a run; a new head's included.

    Returns:
        A text for each key, with the end and the value; nothing where the best settings lie between others.
    """
    record = tuning or {}
    found = [*record.get("at_edge", ()), *(record.get("head") or {}).get("at_edge", ())]
    return tuple(f"{each['key']} at its {each['end']} end ({each['value']:g})" for each in found)


def device_name(device: str, devices: Sequence[str] = ()) -> str:
    """The name of a device by which machines are compared: ``cpu:0`` and ``CPU`` are ``cpu``.

    The index of a GPU counts only on a machine whose GPUs differ.

    Args:
        device: as torch writes it.
        devices: the names of all GPUs of that machine.
    """
    kind, _, index = device.strip().lower().partition(":")
    return f"{kind}:{index or 0}" if kind != "cpu" and len(set(devices)) > 1 else kind


@contextmanager
def _told(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Says in words what could not be written, such as for a full disk, and leaves nothing half written behind."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if temporary is not None and temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary is not None:
            temporary.unlink(missing_ok=True)
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"{target} cannot be written: {words}") from error


def _known(path: Path, document: object) -> None:
    if not isinstance(document, dict):
        raise InputError(f"{path}: does not hold JSON objects")
    version = document.get("format")
    if version not in READABLE or isinstance(version, bool):
        raise InputError(f"{path}: has format {version!r}, and this peftkit reads up to {FORMAT}; upgrade peftkit")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
