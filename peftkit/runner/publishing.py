"""Puts what a finished run has saved on a hub of models."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from peftkit import __version__
from peftkit.errors import InputError, RunError, one_line
from peftkit.plugins import Registry
from peftkit.runner.opened import export


def push(path: Path, registry: Registry, repository: str, *, private: bool = False) -> str:
    """Uploads what ``export`` writes in one commit, and makes the repository where there is none.

    Args:
        path: the run directory.
        registry: the installed components.
        repository: ``owner/name``, or ``name`` for the token's owner.
        private: whether a repository that is made is to be private.

    Returns:
        The commit's address.

    Raises:
        InputError: there is no token, the name is none, or the run is not finished.
        RunError: the hub refuses, or is away.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository!r} is no repository's owner/name: {one_line(error)}") from error
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set, so that nothing is sent; unset it to push")
    token = get_token()
    if not token:
        raise InputError(
            "pushing needs a token that may write, and there is none; log in with `hf auth login`, or set HF_TOKEN"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        export(path, registry, out)
        api = HfApi(token=token, library_name="peftkit", library_version=__version__)
        try:
            made = api.create_repo(repository, private=private or None, exist_ok=True)
            done = api.upload_folder(
                repo_id=made.repo_id, folder_path=out, commit_message=f"{path.name}, by peftkit {__version__}"
            )
        except Exception as error:  # the client's own, its HTTP library's and the system's, by version
            reason = one_line(error).replace(token, "***")
            raise RunError(f"{repository} on {api.endpoint}: {reason}; nothing was lost, push once more") from error
    return str(done.commit_url)
