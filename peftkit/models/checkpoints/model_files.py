"""Checks a checkpoint's files before loading."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor

from peftkit.errors import ModelError, comma_separated, summarize_error

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
QUANTIZED_DTYPES = ("I", "U", "BOOL", "F4", "F6", "F8")
"""Prefixes of the dtypes of the safetensors format that hold no weights as such."""
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format."""


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
        base = read_json(adapter).get("base_model_name_or_path") or "its base model"
        yield (
            f"it is an adapter (adapter_config.json) of {base!r}, which transformers would load beneath it; set "
            f"model.name to {base!r}, or merge the adapter first"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" or is_tokenizer_file(file) or file.suffix == ".safetensors":
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
    quantized = read_json(folder / CONFIG).get("quantization_config")
    for file in files:
        yield from _find_safetensors_problem(file)
        if not quantized:
            yield from _find_quantized_weights(file)


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


def _find_quantized_weights(file: Path) -> Iterator[str]:
    """Yield a problem if weights are integers or 8-bit floats: transformers would use these as the weights."""
    with safe_open(file, "pt") as stored:
        dtypes = {key: stored.get_slice(key).get_dtype() for key in stored.keys() if key.endswith(".weight")}  # noqa: SIM118
    quantized = [key for key, dtype in dtypes.items() if dtype.startswith(QUANTIZED_DTYPES)]
    if quantized:
        kind = dtypes[quantized[0]]
        numbers = f"{kind} numbers" if kind.startswith("F") else "integers"
        yield (
            f"{file.name} was saved quantized: it has {numbers} for {len(quantized)} weights, such as "
            f"{quantized[0]!r}, but {CONFIG} has no quantization_config; use the original checkpoint"
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
        return (
            f"its weights are pickled ({pickled[0]}), but weights must be safetensors; if you trust their source, "
            f"convert them once: {_whole_model_class(folder)}.from_pretrained(folder, use_safetensors=False)"
            ".save_pretrained(folder)"
        )
    if gguf:
        return (
            f"its weights are GGUF ({gguf[0]}), but weights must be safetensors; use the original model, or convert "
            "it: AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).save_pretrained(folder)"
        )
    if others:
        return (
            f"its weights are for another framework ({others[0]}), but weights must be safetensors; use the original "
            "model, or convert them with that framework"
        )
    return f"it has no weights: {WEIGHTS} is missing; download it"


def _whole_model_class(folder: Path) -> str:
    """Return the class that loads a checkpoint with its head, which ``AutoModel`` leaves out."""
    architectures = read_json(folder / CONFIG).get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return name if hasattr(transformers, name) else "AutoModelForCausalLM"


def is_tokenizer_file(file: Path) -> bool:
    """Whether a file belongs to a tokenizer, by its name.

    Args:
        file: the file.
    """
    return file.name.startswith(TOKENIZER) or file.suffix in (".model", ".spm")


def read_json(file: Path) -> Mapping[str, Any]:
    """Read a JSON object; empty if there is none.

    Args:
        file: the file.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_model_file(path: str, revision: str | None, name: str) -> Any:
    """Read a JSON file of a model; a hub model's file is downloaded if it is not in the cache.

    Args:
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub model.
        name: the name of the file, such as ``1_Pooling/config.json``.

    Returns:
        The content; None if the model has no such file.

    Raises:
        ModelError: the file is not valid JSON.
    """
    file = Path(path) / name
    if not Path(path).is_dir():
        try:
            file = Path(hf_hub_download(path, name, revision=revision))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name} of the model {path!r} is not valid JSON ({summarize_error(error)})") from error


def weight_map(index: Path) -> dict[str, str]:
    """Read the file name of each tensor from the index of a sharded checkpoint; empty if there is none."""
    table = read_json(index).get("weight_map")
    return {str(name): str(shard) for name, shard in table.items()} if isinstance(table, dict) else {}


def _download_again(file: Path) -> str:
    return f"download {file.name} again"
