"""Explains errors of loading a model's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version

from peftkit.errors import ModelError, PeftkitError, RunError, did_you_mean, summarize_error
from peftkit.models.checkpoints.model_files import CONFIG, is_tokenizer_file, local_folder, read_json

BLANK = "▁"
"""The token that transformers 5 puts into an empty vocabulary."""
NO_TOKENIZER = (
    "it has no tokenizer; download tokenizer.json and tokenizer_config.json, or save one in its folder: "
    "AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
)


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Reject a tokenizer without a vocabulary, which transformers 5 creates if the checkpoint has none.

    Args:
        name: the model, as in the recipe.
        tokenizer: the loaded tokenizer.

    Raises:
        ModelError: it can encode nothing, or has the unknown token for every word.
    """
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), BLANK}
    if special.issuperset(tokenizer.get_vocab()):
        raise ModelError(f"the model {name!r} cannot be loaded: {NO_TOKENIZER}")


@contextmanager
def explain_load_errors(name: str, path: str, revision: str | None = None) -> Iterator[None]:
    """Within the context, raise errors of loading a model as errors that name the cause and the remedy.

    Args:
        name: the model, as in the recipe.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.

    Raises:
        ModelError: the model cannot be loaded.
        RunError: the hub cannot be reached.
    """
    try:
        yield
    except (PeftkitError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # any library that reads a file of the model may raise it
        raise explain_load_error(name, path, revision, error) from error


def explain_load_error(name: str, path: str, revision: str | None, error: Exception) -> PeftkitError:
    """Convert an error of loading a model to one that names the cause and the remedy.

    Args:
        name: the model, as in the recipe.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
        error: the error that transformers raised.
    """
    folder = local_folder(path, revision)
    if not Path(path).is_dir() and (reason := _hub_reason(name, revision, error)):
        text, temporary = reason
        return (RunError if temporary else ModelError)(f"the model {name!r} cannot be loaded: {text}")
    return ModelError(f"the model {name!r} cannot be loaded: {_local_reason(folder, error)}")


def _hub_reason(name: str, revision: str | None, error: Exception) -> tuple[str, bool] | None:
    """Explain why a hub model cannot be downloaded, and whether the cause may be temporary."""
    chain = list(_error_chain(error))
    text = " ".join(str(each) for each in chain)
    at_revision = f" at revision {revision!r}" if revision else ""
    if any(isinstance(each, GatedRepoError) for each in chain) or "gated repo" in text:
        return "access to it is gated; request it on the model's page, and log in: hf auth login", False
    if any(isinstance(each, RevisionNotFoundError) for each in chain) or "not a valid git identifier" in text:
        return f"it has no revision {revision!r} on the hub; correct model.revision", False
    if any(isinstance(each, RepositoryNotFoundError) for each in chain) or "not a valid model identifier" in text:
        return "neither a local folder nor a model on the hub; check its name, or log in: hf auth login", False
    network_errors = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if any(isinstance(each, network_errors) for each in chain) or "connect" in text:
        return (
            f"the hub cannot be reached, and the model is not in the cache{at_revision}; download it with network "
            f"access (hf download {name}), or set model.name to a local folder",
            True,
        )
    if any(isinstance(each, EntryNotFoundError) for each in chain):
        return f"a file is missing on the hub{at_revision}: {_first_line(error)}", False
    if any(isinstance(each, HfHubHTTPError) for each in chain):
        return f"the hub responds {_first_line(error)}; try again later", True
    return None


def _local_reason(folder: Path | None, error: Exception) -> str:
    """Explain why a model whose files are on this machine cannot be loaded."""
    config = {} if folder is None else read_json(folder / CONFIG)
    text = " ".join(str(each) for each in _error_chain(error))
    model_type = str(config.get("model_type", ""))
    if "trust_remote_code" in text or "contains custom code" in text:
        return "it needs custom code that comes with it; review the code, then set model.trust_remote_code = true"
    if model_type and model_type not in CONFIG_MAPPING and not config.get("auto_map"):
        saved_version = config.get("transformers_version")
        saved_with = f" (it was saved with {saved_version})" if saved_version else ""
        return (
            f"the installed transformers {transformers_version} does not support the model_type {model_type!r}"
            f"{did_you_mean(model_type, CONFIG_MAPPING.keys())}; correct {CONFIG}, or install a version that "
            f"does{saved_with}"
        )
    if not model_type and ("model_type" in text or "model type" in text):
        return f'{CONFIG} has no "model_type"; add it'
    has_tokenizer = folder is None or any(is_tokenizer_file(file) for file in folder.iterdir())
    if not has_tokenizer and _is_tokenizer_error(error):
        return NO_TOKENIZER
    if isinstance(error, ImportError) or "requires the following packages" in text or "pip install" in text:
        return f"it needs a package that is not installed: {_first_line(error)}"
    if _is_tokenizer_error(error):
        return f"{_first_line(error)}; check its tokenizer files, or save them with the installed transformers"
    if "Unrecognized configuration class" in text:
        return f"transformers has no text model of the type {model_type!r}; use a model that has one"
    return f"{summarize_error(error).rstrip('.')}; check its {CONFIG}"


def _is_tokenizer_error(error: Exception) -> bool:
    """Whether an error comes from a tokenizer."""
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return "okenizer" in str(error) or any("tokenization" in file for file in frames)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
