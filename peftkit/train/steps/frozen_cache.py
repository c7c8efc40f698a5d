"""Keeps the outputs of frozen layers on disk over epochs (``train.cache_frozen_outputs``)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftkit.errors import RunError
from peftkit.models.batches.collated_batch import with_tensors
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS, FrozenLayers

FOLDER = "frozen_outputs"
"""The folder in a run directory; it is removed when the run ends."""
log = logging.getLogger(__name__)


class StoredText(NamedTuple):
    """Where the outputs of a text are in the file."""

    offset: int
    tokens: int
    checksum: int


class FrozenCache:
    """The outputs of frozen layers for the texts that training has read.

    The first batch with a text computes its outputs and stores them. A batch whose texts are all stored reads them. So
    a run that is resumed must not know texts that it read after its checkpoint: they are forgotten.

    Args:
        layers: The frozen layers.
        limit: The largest size of the file in bytes; what does not fit is computed again.
        run: The run directory; None for a temporary folder.
        resumed_after: The step of the checkpoint that the run is resumed from; 0 for a new run.
    """

    def __init__(self, layers: FrozenLayers, limit: int, run: Path | None = None, resumed_after: int = 0) -> None:
        self.layers, self.limit, self._size = layers, limit, 0
        self._entries: dict[bytes, StoredText] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="peftkit-")) if run is None else run / FOLDER
        self._read_index(resumed_after)
        self.folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            os.truncate(self.folder / "outputs.bin", self._size)
        self._file = (self.folder / "outputs.bin").open("a+b")
        self._index = (self.folder / "index.jsonl").open("a", encoding="utf-8")

    def _read_index(self, resumed_after: int) -> None:
        """Read the index of an interrupted run, up to its checkpoint; without one, start with nothing."""
        path = self.folder / "index.jsonl"
        kept = []
        with suppress(OSError, ValueError, KeyError, TypeError):
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                if entry["step"] > resumed_after:
                    break
                self._entries[bytes.fromhex(entry["key"])] = StoredText(*entry["entry"])
                self._size = entry["entry"][0] + entry["entry"][1] * self.layers.bytes_per_token
                kept.append(line)
        stored = (self.folder / "outputs.bin").stat().st_size if kept else 0
        if resumed_after and (not kept or stored < self._size):
            log.warning("outputs of frozen layers are missing in %s; they are computed again", self.folder)
        if not kept or stored < self._size:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._entries, self._size = {}, 0
            return
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def attach(self, batch: dict[str, Tensor], keys: Sequence[bytes]) -> dict[str, Tensor]:
        """Return a batch with the outputs of its texts, if all of them are stored.

        Args:
            batch: The batch; its texts are tensors of shape (texts, length).
            keys: What identifies each text.

        Returns:
            The batch, with ``FROZEN_OUTPUTS`` of shape (texts, length, width) if they are stored.

        Raises:
            RunError: The file has changed.
        """
        if not keys or not all(key in self._entries for key in keys):
            return batch
        self._file.flush()
        width, dtype, ids = self.layers.width, self.layers.dtype, batch["input_ids"]
        outputs = torch.zeros((*ids.shape, width), dtype=dtype)
        mask = batch["attention_mask"].cpu().bool()
        for number, key in enumerate(keys):
            entry = self._entries[key]
            data = os.pread(self._file.fileno(), entry.tokens * self.layers.bytes_per_token, entry.offset)
            if zlib.crc32(data) != entry.checksum:
                raise RunError(
                    f"{self.folder / 'outputs.bin'} was changed during training; remove it and resume the run"
                )
            outputs[number, mask[number]] = torch.frombuffer(bytearray(data), dtype=dtype).view(-1, width)
        return with_tensors(batch, {FROZEN_OUTPUTS: outputs.to(ids.device)})

    @contextmanager
    def storing(
        self, model: nn.Module, batch: Mapping[str, Tensor], keys: Sequence[bytes], step: int
    ) -> Iterator[None]:
        """Store what the frozen layers return within this context, unless the batch has outputs.

        Args:
            model: The model.
            batch: A microbatch; its texts are tensors of shape (texts, length).
            keys: What identifies each text.
            step: The number of the step.

        Raises:
            RunError: The file cannot be written.
        """
        if FROZEN_OUTPUTS in batch:
            yield
            return
        with self.layers.capture(model) as captured:
            yield
        masks = batch["attention_mask"].bool()
        for key, hidden, mask in zip(keys, captured[0], masks, strict=True):
            if key not in self._entries:
                self._store(key, hidden[mask], step)

    def _store(self, key: bytes, hidden: Tensor, step: int) -> None:
        data = hidden.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        if self._size + len(data) > self.limit:
            return
        entry = StoredText(self._size, len(hidden), zlib.crc32(data))
        try:
            self._file.write(data)
            self._index.write(json.dumps({"step": step, "key": key.hex(), "entry": entry}) + "\n")
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written: {error}") from error
        self._entries[key] = entry
        self._size += len(data)

    def flush(self) -> None:
        """Write what is buffered, before a checkpoint refers to it."""
        try:
            for file in (self._file, self._index):
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"{self.folder} cannot be written: {error}") from error

    def close(self, *, remove: bool) -> None:
        """Close the files.

        Args:
            remove: Whether to remove them too, because no run will be resumed with them.
        """
        for file in (self._file, self._index):
            with suppress(OSError):
                file.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
