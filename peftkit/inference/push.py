"""Push a finished run to the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from peftkit import __version__
from peftkit.errors import InputError, RunError, summarize_error
from peftkit.inference.export import export
from peftkit.plugins import Registry


def push(path: Path, registry: Registry, repository: str, *, private: bool = False) -> str:
    """Upload what ``export`` writes in one commit, creating the repository if it does not exist.

    Args:
        path: The run directory.
        registry: The installed components.
        repository: ``owner/name``, or ``name`` for the owner of the token.
        private: Whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        InputError: There is no token, the repository name is invalid, or the run is not finished.
        RunError: The hub rejects the upload or is not available.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"{repository!r} is not a valid repository (owner/name): {summarize_error(error)}") from error
    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set; unset it to push")
    token = get_token()
    if not token:
        raise InputError("no token found; log in with `hf auth login`, or set HF_TOKEN to a token with write access")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        export(path, registry, out)
        api = HfApi(token=token, library_name="peftkit", library_version=__version__)
        try:
            created = api.create_repo(repository, private=private or None, exist_ok=True)
            commit = api.upload_folder(
                repo_id=created.repo_id, folder_path=out, commit_message=f"{path.name}, by peftkit {__version__}"
            )
        except Exception as error:  # which exceptions the client raises depends on its version
            reason = summarize_error(error).replace(token, "***")
            raise RunError(f"{repository} on {api.endpoint}: {reason}; the run is unchanged, so push again") from error
    return str(commit.commit_url)
