from __future__ import annotations

import pytest

from peftkit.distributed.accelerator import make_accelerator, shutdown


def test_the_end_of_a_single_process_collects_garbage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = make_accelerator(cpu=True)
    collections: list[int] = []
    monkeypatch.setattr("gc.collect", lambda *_: collections.append(1) or 0)
    shutdown(accelerator)
    assert len(collections) == 1
