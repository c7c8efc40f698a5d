"""Commits of hub repositories: what a branch or tag stands for, from the hub, or from its cache on this machine."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Literal

from peftkit.errors import one_line

COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 10.0
"""How long the hub is waited for."""
RepositoryKind = Literal["model", "dataset"]

_away: list[bool] = []
_log = logging.getLogger(__name__)


def resolve_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag of a hub repository stands for now.

    Where the hub cannot be asked, it is the commit that the cache has for it, with a notice unless the libraries were
    set offline; until the hub is asked again they stay so.

    Args:
        kind: what the repository holds.
        name: its ``owner/name``.
        revision: a branch, tag or commit; None for the default branch.

    Returns:
        The commit's 40 digits; None where neither the hub nor the cache knows it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants

    if _away:
        set_offline(False)  # it may be back
    if constants.HF_HUB_OFFLINE:
        return cached_commit(kind, name, revision)
    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS).sha
    except Exception as error:  # of the network, of HTTP, or of a repository that is not there
        if _is_of_network(error):
            set_offline(True)
        found = cached_commit(kind, name, revision)
        if found:
            _log.warning(
                "the hub does not say which commit %s of %s is (%s): the cached one is used, %s",
                revision or "main",
                name,
                one_line(error),
                found,
            )
        return found


def hub_is_away() -> bool:
    """Whether the hub has not answered, so that the libraries take from its cache what they load."""
    return bool(_away)


def set_offline(offline: bool) -> None:
    """Set whether the libraries ask the hub, for which they would wait file by file while it is away.

    Args:
        offline: whether the hub is away.
    """
    import huggingface_hub

    _away[:] = [True] if offline else []
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    places = {
        "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
        "transformers.utils.hub": ("_is_offline_mode",),  # 4.57
    }
    for module, names in places.items():
        for name in names:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, offline)
    if reset := getattr(huggingface_hub.utils._http, "reset_sessions", None):  # before 1.0 a session knows it
        reset()


def _is_of_network(error: Exception) -> bool:
    """Whether nothing has answered; an answer of any kind says that the hub is there."""
    kind = type(error)
    if any(base.__name__ == "HfHubHTTPError" for base in kind.__mro__):
        return False
    return isinstance(error, OSError) or kind.__module__.split(".")[0] in ("httpx", "httpcore", "requests", "urllib3")


def cached_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag was when it was fetched last; None if it never was."""
    try:
        text = (_folder(kind, name) / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def snapshot(kind: RepositoryKind, name: str, commit: str) -> Path | None:
    """The folder of the files of a commit that lie in the hub's cache; None where there is none."""
    folder = _folder(kind, name) / "snapshots" / commit
    return folder if folder.is_dir() else None


def _folder(kind: RepositoryKind, name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
