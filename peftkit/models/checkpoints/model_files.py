"""Checks a checkpoint's files before loading, and explains errors of loading them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open
from torch import Tensor
from transformers import CONFIG_MAPPING
from transformers import __version__ as transformers_version

from peftkit.errors import ModelError, PeftkitError, RunError, comma_separated, did_you_mean, summarize_error

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of pickled weights."""
OTHER_FRAMEWORKS = (".h5", ".msgpack", ".onnx", ".ot")
"""Suffixes of weights of other frameworks."""
TOKENIZER = ("tokenizer", "vocab", "spiece", "sentencepiece", "source.spm", "merges", "bpe", "tekken", "special_tokens")
"""Prefixes of the names of tokenizer files."""
LFS_POINTER = b"version https://git-lfs"
INTEGER_DTYPES = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
"""Integer dtypes of the safetensors format."""
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format."""
CONVERT = (
    "if you trust their source, convert them once: "
    "AutoModel.from_pretrained(name, use_safetensors=False).save_pretrained(folder)"
)


def local_folder(path: str, revision: str | None = None) -> Path | None:
    """Return the local folder of a model; None for a hub model that is not in the cache.

    Args:
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
    """
    if Path(path).is_dir():
        return Path(path)
    cached = try_to_load_from_cache(path, CONFIG, revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def check_checkpoint_files(name: str, path: str, revision: str | None = None) -> None:
    """Check that a checkpoint's files can be loaded; a hub model that is not in the cache is skipped.

    Args:
        name: the model, as in the recipe.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.

    Raises:
        ModelError: a file is missing, truncated, unreadable, or not in the right format.
    """
    folder = local_folder(path, revision)
    if folder is None:
        return
    complete = Path(path).is_dir()  # files of a hub model are downloaded one by one
    try:
        problem = next(_find_problems(folder, complete=complete), None)
    except OSError as error:
        problem = f"{Path(error.filename or 'a file').name} cannot be read: {error.strerror or error}"
    if problem:
        raise ModelError(f"the model {name!r} cannot be loaded: {problem}")


def _find_problems(folder: Path, *, complete: bool) -> Iterator[str]:
    """Yield what is wrong with the files of a checkpoint.

    Args:
        folder: the folder of the checkpoint.
        complete: whether files that are missing will not be downloaded later.
    """
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = _read_json(adapter).get("base_model_name_or_path") or "its base model"
        yield (
            f"it is an adapter (adapter_config.json) of {base!r}, which transformers would load beneath it; set "
            f"model.name to {base!r}, or merge the adapter first"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" or _is_tokenizer_file(file) or file.suffix == ".safetensors":
            yield from _find_file_problem(file)
    index = folder / INDEX
    if index.is_file():
        shards = sorted({*weight_map(index).values()})
        if complete and shards != [WEIGHTS] and (folder / WEIGHTS).is_file():
            yield (
                f"it has both {WEIGHTS} and {INDEX} with {comma_separated(shards[:2])}, which may differ, and "
                f"transformers would read {WEIGHTS} only; move one of the two away"
            )
        if not shards:
            yield f"{INDEX} lists no files; {_download_again(index)}"
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if complete and missing:
            yield (
                f"{len(missing)} of {len(shards)} files listed in {INDEX} are missing, such as {missing[0]}; "
                "download them"
            )
        files = [folder / shard for shard in shards if shard not in missing]
    else:
        files = [file for file in (folder / WEIGHTS,) if file.is_file()]
        if complete and not files:
            yield _describe_missing_weights(folder)
    quantized = _read_json(folder / CONFIG).get("quantization_config")
    for file in files:
        yield from _find_safetensors_problem(file)
        if not quantized:
            yield from _find_integer_weights(file)


def _find_file_problem(file: Path) -> Iterator[str]:
    """Yield what is wrong with a file of any type."""
    if not file.is_file():
        if file.is_symlink():
            yield f"{file.name} is a broken link; download the file"
        return
    with file.open("rb") as stream:
        start = stream.read(len(LFS_POINTER))
    if not start:
        yield f"{file.name} is empty; {_download_again(file)}"
    elif start == LFS_POINTER:
        yield f"{file.name} is a Git LFS pointer; run: git lfs pull"
    elif file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            yield f"{file.name} is not valid JSON ({summarize_error(error)}); {_download_again(file)}"


def _find_safetensors_problem(file: Path) -> Iterator[str]:
    """Yield what is wrong with a safetensors file, by its header and size."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= MAX_HEADER_BYTES:
            yield f"{file.name} is not a safetensors file; {_download_again(file)}"
            return
        header = stream.read(length)
    if len(header) < length:
        yield f"{file.name} is truncated ({size:,} bytes); {_download_again(file)}"
        return
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        expected_size = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        yield f"{file.name} is not a valid safetensors file: its header is broken; {_download_again(file)}"
        return
    if size != expected_size:
        yield f"{file.name} has {size:,} bytes instead of {expected_size:,}; {_download_again(file)}"
    elif not tensors:
        yield f"{file.name} has no tensors; {_download_again(file)}"


def _find_integer_weights(file: Path) -> Iterator[str]:
    """Yield a problem if weights are integers: transformers would use these as the weights themselves."""
    with safe_open(file, "pt") as stored:
        integers = [
            key
            for key in stored.keys()  # noqa: SIM118 - no mapping
            if key.endswith(".weight") and stored.get_slice(key).get_dtype() in INTEGER_DTYPES
        ]
    if integers:
        yield (
            f"{file.name} was saved quantized: it has integers for {len(integers)} weights, such as {integers[0]!r}, "
            f"but {CONFIG} has no quantization_config; use the original checkpoint"
        )


def checkpoint_keys(path: str, revision: str | None) -> set[str] | None:
    """Return the names of the tensors in a checkpoint's files; None for a hub model that is not in the cache.

    Args:
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
    """
    file = _local_file(path, revision, INDEX)
    if file is not None:
        return {*weight_map(file)}
    file = _local_file(path, revision, WEIGHTS)
    if file is None:
        return None
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


def stored_tensors(path: str, revision: str | None, names: Collection[str]) -> dict[str, Tensor]:
    """Return those of the named tensors that are in a checkpoint's files on this machine.

    Args:
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
        names: names of tensors.

    Returns:
        The tensors in the shapes in which they were saved, by name.
    """
    index = _local_file(path, revision, INDEX)
    folder = local_folder(path, revision)
    if folder is None:
        return {}
    shard_of = dict.fromkeys(names, WEIGHTS) if index is None else weight_map(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted({shard_of[name] for name in names if name in shard_of}):
        if (file := folder / shard).is_file():
            with safe_open(file, "pt") as stored:
                keys = set(stored.keys())
                tensors |= {name: stored.get_tensor(name) for name in names if name in keys}
    return tensors


def _local_file(path: str, revision: str | None, name: str) -> Path | None:
    """Return a file of a model in its local folder or in the cache; None if it is not there."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(path, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def _describe_missing_weights(folder: Path) -> str:
    """Describe why a folder has no weights that can be loaded."""
    names = sorted(file.name for file in folder.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    pickled = [name for name in names if name.endswith(PICKLED) and not name.startswith("training_args")]
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    others = [name for name in names if name.endswith(OTHER_FRAMEWORKS)]
    if shards:
        return (
            f"it has neither {WEIGHTS} nor {INDEX}, but {comma_separated(shards[:3])}; download the index, or save the "
            "model again with save_pretrained"
        )
    if pickled:
        return f"its weights are pickled ({pickled[0]}), but weights must be safetensors; {CONVERT}"
    if gguf:
        return (
            f"its weights are GGUF ({gguf[0]}), but weights must be safetensors; use the original model, or convert "
            "it: AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).save_pretrained(folder)"
        )
    if others:
        return f"its weights are for another framework ({others[0]}), but weights must be safetensors; {CONVERT}"
    return f"it has no weights: {WEIGHTS} is missing; download it"


def _is_tokenizer_file(file: Path) -> bool:
    return file.name.startswith(TOKENIZER) or file.suffix in (".model", ".spm")


def _read_json(file: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def weight_map(index: Path) -> dict[str, str]:
    """Read the file name of each tensor from the index of a sharded checkpoint; empty if there is none."""
    table = _read_json(index).get("weight_map")
    return {str(name): str(shard) for name, shard in table.items()} if isinstance(table, dict) else {}


def _download_again(file: Path) -> str:
    return f"download {file.name} again"


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
    config = {} if folder is None else _read_json(folder / CONFIG)
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
    has_tokenizer = folder is None or any(_is_tokenizer_file(file) for file in folder.iterdir())
    if not has_tokenizer and _is_tokenizer_error(error):
        return (
            "it has no tokenizer; download tokenizer.json and tokenizer_config.json, or save one in its folder: "
            "AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
        )
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
