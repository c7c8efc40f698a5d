from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Peftkit


def test_push_prints_the_commit(peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    from peftkit.inference import push as push_module

    pushed: list[tuple[Path, str, bool]] = []

    def push(path: Path, registry: object, repository: str, *, private: bool) -> str:
        pushed.append((path, repository, private))
        return "https://hub/o/n/commit/1"

    monkeypatch.setattr(push_module, "push", push)
    assert peftkit("push", "runs/x", "o/n")[:2] == (0, "pushed: https://hub/o/n/commit/1\n")
    assert peftkit("push", "runs/x", "o/n", "--private", "-q")[:2] == (0, "https://hub/o/n/commit/1\n")
    assert pushed == [(Path("runs/x"), "o/n", False), (Path("runs/x"), "o/n", True)]
