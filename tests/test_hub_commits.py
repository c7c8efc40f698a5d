"""Branches and tags of hub repositories as commits: from the hub, or from its cache on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from peftkit.hub_commits import SECONDS, cached_commit, hub_is_unreachable, resolve_commit, snapshot

OLD, NEW = "a" * 40, "b" * 40


class Hub:
    """Stands for the hub: knows commits, or fails."""

    def __init__(self) -> None:
        self.commits = {("model", "org/tiny", None): NEW, ("model", "org/tiny", "v1"): OLD}
        self.asked: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def repo_info(self, name: str, *, repo_type: str, revision: str | None, timeout: float) -> Any:
        self.asked.append({"name": name, "revision": revision, "timeout": timeout})
        if self.failure:
            raise self.failure
        return SimpleNamespace(sha=self.commits[repo_type, name, revision])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    found = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return found


def cache(folder: Path, ref: str, commit: str, kind: str = "models") -> None:
    file = folder / f"{kind}--org--tiny" / "refs" / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(commit)
    (folder / f"{kind}--org--tiny" / "snapshots" / commit).mkdir(parents=True, exist_ok=True)


def test_a_branch_or_tag_is_what_the_hub_says_within_seconds(hub: Hub) -> None:
    assert resolve_commit("model", "org/tiny", None) == NEW
    assert resolve_commit("model", "org/tiny", "v1") == OLD
    assert {each["timeout"] for each in hub.asked} == {SECONDS}
    assert SECONDS <= 15


def test_a_commit_is_itself_and_nobody_is_asked(hub: Hub) -> None:
    hub.failure = AssertionError("was asked")
    assert resolve_commit("model", "org/tiny", OLD) == OLD
    assert hub.asked == []


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError("slow"), ValueError("404"), RuntimeError("gone")])
def test_a_hub_that_does_not_answer_leaves_the_cached_commit_with_a_notice(
    error: Exception, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failure = error
    assert resolve_commit("model", "org/tiny", None) is None
    assert caplog.records == []
    cache(tmp_path, "main", OLD)
    assert resolve_commit("model", "org/tiny", None) == OLD
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert OLD in record.getMessage()
    assert str(error) in record.getMessage()


def test_offline_the_cache_is_asked_alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_commit("dataset", "org/tiny", None) is None
    cache(tmp_path, "main", NEW, "datasets")
    cache(tmp_path, "refs/pr/1", OLD, "datasets")
    assert resolve_commit("dataset", "org/tiny", None) == NEW
    assert resolve_commit("dataset", "org/tiny", "refs/pr/1") == OLD
    assert resolve_commit("model", "org/tiny", None) is None
    assert hub.asked == []


def test_what_the_cache_holds_is_no_commit_unless_it_looks_like_one(hub: Hub, tmp_path: Path) -> None:
    cache(tmp_path, "main", "not a commit")
    assert cached_commit("model", "org/tiny", None) is None
    assert snapshot("model", "org/tiny", NEW) is None
    cache(tmp_path, "main", NEW)
    assert snapshot("model", "org/tiny", NEW) == tmp_path / "models--org--tiny" / "snapshots" / NEW


@pytest.mark.parametrize("failure", [ConnectionError("refused"), TimeoutError("10 s"), OSError("no route to host")])
def test_a_hub_that_does_not_answer_is_asked_no_more_in_this_run(
    failure: Exception, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (("datasets.config", "HF_HUB_OFFLINE"), ("datasets.config", "HF_DATASETS_OFFLINE")):
        monkeypatch.setattr(f"{module}.{name}", False)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)
    cache(tmp_path, "main", OLD)
    hub.failure = failure
    assert resolve_commit("model", "org/tiny", None) == OLD
    assert hub_is_unreachable()
    assert constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE
    hub.failure = None
    assert resolve_commit("model", "org/tiny", None) == NEW  # the next run asks again
    assert not hub_is_unreachable()
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_DATASETS_OFFLINE


@pytest.mark.parametrize("failure", [ValueError("no such name"), KeyError("sha")])
def test_other_errors_do_not_mean_that_the_hub_is_away(failure: Exception, hub: Hub) -> None:
    hub.failure = failure
    assert resolve_commit("model", "org/tiny", None) is None
    assert not hub_is_unreachable()
    assert not constants.HF_HUB_OFFLINE
