"""Branches and tags of hub repositories as commits: from the hub, or from its cache on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
import transformers  # noqa: F401 - it takes HfApi in annotations, and so must be imported before that is replaced
from huggingface_hub import constants

from peftkit import hub_commits
from peftkit.errors import PeftkitError
from peftkit.hub_commits import SECONDS, ask_hub, cached_commit, hub_is_unreachable, resolve_commit, snapshot
from peftkit.models import load_base_model
from tests.tiny_runs import Make

OLD, NEW = "a" * 40, "b" * 40


class Hub:
    """A fake hub that returns commits or fails."""

    def __init__(self) -> None:
        self.commits = {("model", "org/tiny", None): NEW, ("model", "org/tiny", "v1"): OLD}
        self.requests: list[dict[str, Any]] = []
        self.failure: Exception | None = None

    def repo_info(self, name: str, *, repo_type: str, revision: str | None = None, timeout: float) -> Any:
        self.requests.append({"name": name, "revision": revision, "timeout": timeout})
        if self.failure:
            raise self.failure
        return SimpleNamespace(sha=self.commits[repo_type, name, revision])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_commits, "_unreachable", [])
    monkeypatch.setattr(hub_commits, "_answered", [])
    return fake


def cache(folder: Path, ref: str, commit: str, kind: str = "models") -> None:
    file = folder / f"{kind}--org--tiny" / "refs" / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(commit)
    (folder / f"{kind}--org--tiny" / "snapshots" / commit).mkdir(parents=True, exist_ok=True)


def test_branches_and_tags_are_resolved_by_the_hub_with_a_timeout(hub: Hub) -> None:
    assert resolve_commit("model", "org/tiny", None) == NEW
    assert resolve_commit("model", "org/tiny", "v1") == OLD
    assert {each["timeout"] for each in hub.requests} == {SECONDS}
    assert SECONDS <= 15


def test_a_commit_is_returned_without_a_request(hub: Hub) -> None:
    hub.failure = AssertionError("a request was sent")
    assert resolve_commit("model", "org/tiny", OLD) == OLD
    assert hub.requests == []


@pytest.mark.parametrize("error", [OSError("no route"), TimeoutError("slow"), ValueError("404"), RuntimeError("gone")])
def test_an_unreachable_hub_falls_back_to_the_cached_commit(
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


def test_offline_mode_uses_the_cache_only(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_commit("dataset", "org/tiny", None) is None
    cache(tmp_path, "main", NEW, "datasets")
    cache(tmp_path, "refs/pr/1", OLD, "datasets")
    assert resolve_commit("dataset", "org/tiny", None) == NEW
    assert resolve_commit("dataset", "org/tiny", "refs/pr/1") == OLD
    assert resolve_commit("model", "org/tiny", None) is None
    assert hub.requests == []


def test_malformed_commits_of_the_cache_are_ignored(hub: Hub, tmp_path: Path) -> None:
    cache(tmp_path, "main", "not a commit")
    assert cached_commit("model", "org/tiny", None) is None
    assert snapshot("model", "org/tiny", NEW) is None
    cache(tmp_path, "main", NEW)
    assert snapshot("model", "org/tiny", NEW) == tmp_path / "models--org--tiny" / "snapshots" / NEW


@pytest.mark.parametrize("failure", [ConnectionError("refused"), TimeoutError("10 s"), OSError("no route to host")])
def test_an_unreachable_hub_is_not_tried_again_in_the_run(
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
    assert resolve_commit("model", "org/tiny", None) == NEW  # the next run tries again
    assert not hub_is_unreachable()
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_DATASETS_OFFLINE


@pytest.mark.parametrize("failure", [ValueError("no such name"), KeyError("sha")])
def test_other_errors_do_not_mark_the_hub_as_unreachable(failure: Exception, hub: Hub) -> None:
    hub.failure = failure
    assert resolve_commit("model", "org/tiny", None) is None
    assert not hub_is_unreachable()
    assert not constants.HF_HUB_OFFLINE


def patch_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores what going offline changes."""
    for module, name in (("datasets.config", "HF_HUB_OFFLINE"), ("datasets.config", "HF_DATASETS_OFFLINE")):
        monkeypatch.setattr(f"{module}.{name}", False)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)


def test_a_hub_that_does_not_answer_is_asked_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_libraries(monkeypatch)
    hub.failure = ConnectionError("no route")
    for _ in range(3):
        ask_hub("model", "org/tiny")
    assert hub_is_unreachable()
    assert len(hub.requests) == 1


@pytest.mark.parametrize("failure", [None, ValueError("404")])
def test_a_hub_that_answers_is_asked_once(failure: Exception | None, hub: Hub) -> None:
    hub.failure = failure
    for _ in range(3):
        ask_hub("model", "org/tiny")
    assert not hub_is_unreachable()
    assert len(hub.requests) == 1


LOADERS: dict[str, Any] = {
    "the config and tokenizer": lambda recipe: load_base_model.load_objective(recipe),
    "the model": lambda recipe: load_base_model.load_base(recipe),
    "the model without weights": lambda recipe: load_base_model.init_random_base(recipe, "meta"),
    "the rows": lambda recipe: recipe.task.load(),
}


@pytest.mark.parametrize("what", LOADERS)
def test_whatever_is_loaded_from_an_unreachable_hub_goes_offline_after_one_request(
    what: str, hub: Hub, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_libraries(monkeypatch)
    data = ("task.name=text_classification", "task.path=org/none", "task.text_column=text", "task.label_column=label")
    recipe = make("encoder", *data, "model.name=org/none")
    hub.failure = ConnectionError("no route")
    with pytest.raises(PeftkitError):
        LOADERS[what](recipe)
    assert constants.HF_HUB_OFFLINE
    assert len(hub.requests) == 1
