"""The file of frozen layers' outputs: what it keeps, its limit, damage and resumed runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from peftkit.errors import RunError
from peftkit.models.frozen_outputs import FROZEN_OUTPUTS, FrozenLayers
from peftkit.train.steps.frozen_cache import FOLDER, FrozenCache

LAYERS = FrozenLayers(("0",), width=4, dtype=torch.float32, further_outputs=None)
IDS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
KEYS = (b"first", b"second")
MODEL = nn.Sequential(nn.Embedding(8, 4))


def store(cache: FrozenCache, step: int, keys: tuple[bytes, ...] = KEYS) -> None:
    with cache.storing(MODEL, BATCH, keys, step):
        MODEL(IDS)


def test_texts_are_read_as_they_were_stored_with_any_padding(tmp_path: Path) -> None:
    cache = FrozenCache(LAYERS, 1000, tmp_path)
    assert cache.attach(BATCH, KEYS) is BATCH
    store(cache, 1)
    longer = {key: nn.functional.pad(value, (0, 2)) for key, value in BATCH.items()}
    outputs = cache.attach(longer, KEYS)[FROZEN_OUTPUTS]
    assert torch.equal(outputs[:, :4], MODEL(IDS).where(BATCH["attention_mask"][..., None] > 0, 0))
    assert not outputs[:, 4:].any()
    assert cache.attach(BATCH, (b"first", b"third")) is BATCH
    cache.close(remove=True)
    assert not any(tmp_path.iterdir())


def test_the_file_stays_within_its_limit(tmp_path: Path) -> None:
    cache = FrozenCache(LAYERS, 3 * 16, tmp_path)
    store(cache, 1)
    cache.flush()
    assert (tmp_path / FOLDER / "outputs.bin").stat().st_size == 3 * 16
    assert FROZEN_OUTPUTS in cache.attach({k: v[:1] for k, v in BATCH.items()}, KEYS[:1])
    assert cache.attach(BATCH, KEYS) is BATCH
    cache.close(remove=True)


def test_a_resumed_run_knows_the_texts_before_its_checkpoint_only(tmp_path: Path) -> None:
    cache = FrozenCache(LAYERS, 1000, tmp_path)
    store(cache, 1)
    store(cache, 2, (b"third", b"fourth"))
    cache.close(remove=False)
    resumed = FrozenCache(LAYERS, 1000, tmp_path, resumed_after=1)
    assert FROZEN_OUTPUTS in resumed.attach(BATCH, KEYS)
    assert resumed.attach(BATCH, (b"third", b"fourth")) is BATCH
    store(resumed, 2, (b"third", b"fourth"))
    assert FROZEN_OUTPUTS in resumed.attach(BATCH, (b"third", b"fourth"))
    resumed.close(remove=False)
    assert FrozenCache(LAYERS, 1000, tmp_path).attach(BATCH, KEYS) is BATCH


def test_a_file_that_is_cut_is_made_anew_and_one_that_changes_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FrozenCache(LAYERS, 1000, tmp_path)
    store(cache, 1)
    cache.flush()
    file = tmp_path / FOLDER / "outputs.bin"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(RunError, match="was changed during training"):
        cache.attach(BATCH, KEYS)
    cache.close(remove=False)
    file.write_bytes(b"x")
    assert FrozenCache(LAYERS, 1000, tmp_path, resumed_after=1).attach(BATCH, KEYS) is BATCH
    assert "they are computed again" in caplog.text
