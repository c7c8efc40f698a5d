"""Resolves branches and tags of Hugging Face Hub repositories to commits, from the Hub or from its local cache."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Literal

from peftkit.errors import summarize_error

COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS = 10.0
"""Timeout of requests to the Hub."""
RepositoryKind = Literal["model", "dataset"]

_unreachable: list[bool] = []
_answered: list[bool] = []
_log = logging.getLogger(__name__)


def resolve_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """Resolve a branch or tag to its current commit.

    If the Hub cannot be reached, the cached commit is used, with a warning unless the libraries are offline by
    configuration. The libraries then stay offline until the Hub is asked again.

    Args:
        kind: The kind of repository.
        name: ``owner/name``.
        revision: A branch, tag or commit; None for the default branch.

    Returns:
        The commit, as 40 hexadecimal digits; None if neither the Hub nor the cache has it.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants

    if _unreachable:
        set_offline(False)  # it may be reachable again
    if constants.HF_HUB_OFFLINE:
        return cached_commit(kind, name, revision)
    try:
        return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS).sha
    except Exception as error:  # a network error, an HTTP error, or a missing repository
        if _is_network_error(error):
            set_offline(True)
        commit = cached_commit(kind, name, revision)
        if commit:
            _log.warning(
                "the commit of %s of %s cannot be resolved (%s); using the cached one, %s",
                revision or "main",
                name,
                summarize_error(error),
                commit,
            )
        return commit


def ask_hub(kind: RepositoryKind, name: str) -> None:
    """Switch the libraries offline if the Hub does not answer; it is asked until it has answered once.

    The libraries would ask several times for each file of a repository, and wait for each answer.

    Args:
        kind: The kind of repository.
        name: ``owner/name``.
    """
    from huggingface_hub import HfApi, constants

    if _answered or constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=SECONDS)
    except Exception as error:  # a network error, an HTTP error, or a missing repository
        if _is_network_error(error):
            set_offline(True)
            return
    _answered.append(True)


def hub_is_unreachable() -> bool:
    """Whether the Hub was unreachable, so that the libraries read its cache only."""
    return bool(_unreachable)


def set_offline(offline: bool) -> None:
    """Switch the libraries offline, so that they do not wait for a timeout with each file, or online.

    Args:
        offline: Whether the Hub is unreachable.
    """
    import huggingface_hub

    _unreachable[:] = [True] if offline else []
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    flags = {
        "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
        "transformers.utils.hub": ("_is_offline_mode",),  # 4.57
    }
    for module, names in flags.items():
        for name in names:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, offline)
    if reset := getattr(huggingface_hub.utils._http, "reset_sessions", None):  # before 1.0, sessions store the flag
        reset()


def _is_network_error(error: Exception) -> bool:
    """Whether the Hub did not answer; HTTP errors are answers."""
    kind = type(error)
    if any(base.__name__ == "HfHubHTTPError" for base in kind.__mro__):
        return False
    return isinstance(error, OSError) or kind.__module__.split(".")[0] in ("httpx", "httpcore", "requests", "urllib3")


def cached_commit(kind: RepositoryKind, name: str, revision: str | None) -> str | None:
    """Look up the commit that a branch or tag had when it was last downloaded.

    Args:
        kind: The kind of repository.
        name: ``owner/name``.
        revision: A branch or tag; None for the default branch.

    Returns:
        The commit; None if the cache does not have it.
    """
    try:
        text = (_folder(kind, name) / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def snapshot(kind: RepositoryKind, name: str, commit: str) -> Path | None:
    """Find the folder of a commit in the Hub's cache.

    Args:
        kind: The kind of repository.
        name: ``owner/name``.
        commit: The commit.

    Returns:
        The folder; None if it is not cached.
    """
    folder = _folder(kind, name) / "snapshots" / commit
    return folder if folder.is_dir() else None


def _folder(kind: RepositoryKind, name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
