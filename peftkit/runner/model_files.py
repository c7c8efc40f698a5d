"""What is wrong with a checkpoint's files, found before they are loaded: each fault gets its own words and remedy."""

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

from peftkit.errors import ModelError, PeftkitError, RunError, did_you_mean, listed, one_line

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
OTHERS = (".h5", ".msgpack", ".onnx", ".ot")
"""How weights of other frameworks end."""
TOKENIZER = ("tokenizer", "vocab", "spiece", "sentencepiece", "source.spm", "merges", "bpe", "tekken", "special_tokens")
"""How the names of a tokenizer's files begin."""
POINTER = b"version https://git-lfs"
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
"""What safetensors calls the types of whole numbers."""
LONGEST_HEADER = 100_000_000
"""In bytes: the limit of safetensors."""
CONVERT = (
    "convert them once, if you trust their source: "
    "AutoModel.from_pretrained(name, use_safetensors=False) and save_pretrained(folder)"
)


def local_folder(path: str, revision: str | None = None) -> Path | None:
    """The folder on this machine that a model is loaded from; None while a hub's has not been fetched."""
    if Path(path).is_dir():
        return Path(path)
    cached = try_to_load_from_cache(path, CONFIG, revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def check_files(name: str, path: str, revision: str | None = None) -> None:
    """Refuses a checkpoint whose files cannot be loaded; a hub's that has not been fetched is not looked at.

    Args:
        name: the model, as the recipe has it.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub's model.

    Raises:
        ModelError: a file is missing, cut short, or no file of a model.
    """
    folder = local_folder(path, revision)
    if folder is None:
        return
    complete = Path(path).is_dir()  # a hub's files are fetched one by one
    for fault in _faults(folder, complete=complete):
        raise ModelError(f"the model {name!r} cannot be loaded: {fault}")


def _faults(folder: Path, *, complete: bool) -> Iterator[str]:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = _json(adapter).get("base_model_name_or_path") or "its base model"
        yield (
            f"it holds an adapter (adapter_config.json) of {base!r}, and transformers would load that under it; set "
            f"model.name to {base!r}, or merge the adapter into it first"
        )
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" or _is_of_a_tokenizer(file) or file.suffix == ".safetensors":
            yield from _broken(file)
    index = folder / INDEX
    if index.is_file():
        parts = sorted({*weight_map(index).values()})
        if complete and parts != [WEIGHTS] and (folder / WEIGHTS).is_file():
            yield (
                f"it holds {WEIGHTS} and {INDEX} with {listed(parts[:2])}, which may differ, and transformers would "
                f"read {WEIGHTS} alone; move one of the two away"
            )
        if not parts:
            yield f"{INDEX} names no file; {_fetch(index)}"
        lacking = [part for part in parts if not (folder / part).is_file()]
        if complete and lacking:
            yield f"{len(lacking)} of {len(parts)} files that {INDEX} names are missing, {lacking[0]}; fetch them"
        files = [folder / part for part in parts if part not in lacking]
    else:
        files = [file for file in (folder / WEIGHTS,) if file.is_file()]
        if complete and not files:
            yield _without_weights(folder)
    quantised = _json(folder / CONFIG).get("quantization_config")
    for file in files:
        yield from cut_short(file)
        if not quantised:
            yield from _packed(file)


def _broken(file: Path) -> Iterator[str]:
    """What any file can suffer from."""
    if not file.is_file():
        if file.is_symlink():
            yield f"{file.name} is a link to a file that is not there; fetch it"
        return
    with file.open("rb") as stream:
        start = stream.read(len(POINTER))
    if not start:
        yield f"{file.name} is empty; {_fetch(file)}"
    elif start == POINTER:
        yield f"{file.name} is the pointer that git leaves without LFS; run: git lfs pull"
    elif file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            yield f"{file.name} is not JSON ({one_line(error)}); {_fetch(file)}"


def cut_short(file: Path) -> Iterator[str]:
    """What is wrong with a file of safetensors, by its header and its length."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= LONGEST_HEADER:
            yield f"{file.name} is not in the safetensors format; {_fetch(file)}"
            return
        header = stream.read(length)
    if len(header) < length:
        yield f"{file.name} is cut short ({size:,} bytes); {_fetch(file)}"
        return
    try:
        tensors = {key: value for key, value in json.loads(header).items() if key != "__metadata__"}
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        yield f"{file.name} is not in the safetensors format: its header is broken; {_fetch(file)}"
        return
    if size != end:
        yield f"{file.name} has {size:,} bytes and its header says {end:,}; {_fetch(file)}"
    elif not tensors:
        yield f"{file.name} holds no tensors; {_fetch(file)}"


def _packed(file: Path) -> Iterator[str]:
    """Weights that are whole numbers: transformers would take these for the weights themselves."""
    with safe_open(file, "pt") as stored:
        packed = [
            key
            for key in stored.keys()  # noqa: SIM118 - no mapping
            if key.endswith(".weight") and stored.get_slice(key).get_dtype() in INTEGERS
        ]
    if packed:
        yield (
            f"{file.name} holds whole numbers for {len(packed)} weights, such as {packed[0]!r}, so that it was saved "
            f"quantised, and {CONFIG} has no quantization_config; name the checkpoint that it was made from"
        )


def checkpoint_keys(path: str, revision: str | None) -> set[str] | None:
    """Names of the tensors in a checkpoint's files, None where it is not on this machine."""
    file = _local(path, revision, INDEX)
    if file is not None:
        return {*weight_map(file)}
    file = _local(path, revision, WEIGHTS)
    if file is None:
        return None
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


def stored_tensors(path: str, revision: str | None, names: Collection[str]) -> dict[str, Tensor]:
    """Those of the named tensors that a checkpoint's files hold, where these are on this machine."""
    index = _local(path, revision, INDEX)
    folder = local_folder(path, revision)
    if folder is None:
        return {}
    place = dict.fromkeys(names, WEIGHTS) if index is None else weight_map(index)
    tensors: dict[str, Tensor] = {}
    for part in sorted({place[name] for name in names if name in place}):
        if (file := folder / part).is_file():
            with safe_open(file, "pt") as stored:
                there = set(stored.keys())
                tensors |= {name: stored.get_tensor(name) for name in names if name in there}
    return tensors


def _local(path: str, revision: str | None, name: str) -> Path | None:
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    found = try_to_load_from_cache(path, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _without_weights(folder: Path) -> str:
    """Why a folder without weights that can be loaded has none."""
    names = sorted(file.name for file in folder.iterdir())
    parts = [name for name in names if name.endswith(".safetensors")]
    pickled = [name for name in names if name.endswith(PICKLED) and not name.startswith("training_args")]
    gguf = [name for name in names if name.lower().endswith(".gguf")]
    others = [name for name in names if name.endswith(OTHERS)]
    if parts:
        return (
            f"its weights are neither in {WEIGHTS} nor in files that {INDEX} names; there are {listed(parts[:3])}; "
            "fetch the index, or save the model again with save_pretrained"
        )
    if pickled:
        return f"its weights are pickled ({pickled[0]}), and weights must be safetensors; {CONVERT}"
    if gguf:
        return (
            f"its weights are GGUF ({gguf[0]}), and weights must be safetensors; name the model that it was made from, "
            "or convert it: AutoModelForCausalLM.from_pretrained(folder, gguf_file=file) and save_pretrained(folder)"
        )
    if others:
        return f"its weights are of another framework ({others[0]}), and weights must be safetensors; {CONVERT}"
    return f"it has no weights: {WEIGHTS} is missing; fetch it"


def _is_of_a_tokenizer(file: Path) -> bool:
    return file.name.startswith(TOKENIZER) or file.suffix in (".model", ".spm")


def _json(file: Path) -> Mapping[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, by its name."""
    table = _json(index).get("weight_map")
    return {str(name): str(part) for name, part in table.items()} if isinstance(table, dict) else {}


def _fetch(file: Path) -> str:
    return f"fetch {file.name} again"


@contextmanager
def explain_load_errors(name: str, path: str, revision: str | None = None) -> Iterator[None]:
    """Raise what keeps a model from being loaded as an error that names the fault and its remedy.

    Args:
        name: the model, as the recipe has it.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub's model.

    Raises:
        ModelError: the model cannot be loaded.
        RunError: the hub cannot be reached.
    """
    try:
        yield
    except (PeftkitError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of any library that reads a file of the model
        raise unloadable(name, path, revision, error) from error


def unloadable(name: str, path: str, revision: str | None, error: Exception) -> PeftkitError:
    """Explain what keeps a model from being loaded, and what can be done about it.

    Args:
        name: the model, as the recipe has it.
        path: a local folder, or the name of a model on the hub.
        revision: the revision of a hub's model.
        error: what transformers raised.
    """
    folder = local_folder(path, revision)
    if not Path(path).is_dir() and (reason := _hub_reason(name, revision, error)):
        text, away = reason
        return (RunError if away else ModelError)(f"the model {name!r} cannot be loaded: {text}")
    return ModelError(f"the model {name!r} cannot be loaded: {_reason(folder, error)}")


def _hub_reason(name: str, revision: str | None, error: Exception) -> tuple[str, bool] | None:
    """Why a hub does not give a model, and whether it might another time."""
    chain = list(_chain(error))
    text = " ".join(str(each) for each in chain)
    at = f" at the revision {revision!r}" if revision else ""
    if any(isinstance(each, GatedRepoError) for each in chain) or "gated repo" in text:
        return "access to it is gated; ask for it on its page, and log in: hf auth login", False
    if any(isinstance(each, RevisionNotFoundError) for each in chain) or "not a valid git identifier" in text:
        return f"the hub has no revision {revision!r} of it; correct model.revision", False
    if any(isinstance(each, RepositoryNotFoundError) for each in chain) or "not a valid model identifier" in text:
        return "neither a local folder nor a model on the hub; check its name, or log in: hf auth login", False
    away = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if any(isinstance(each, away) for each in chain) or "connect" in text:
        return (
            f"the hub cannot be reached, and it is not in the cache{at}; fetch it where there is a network "
            f"(hf download {name}), or set model.name to a local folder",
            True,
        )
    if any(isinstance(each, EntryNotFoundError) for each in chain):
        return f"a file of it is not on the hub{at}: {_first_line(error)}", False
    if any(isinstance(each, HfHubHTTPError) for each in chain):
        return f"the hub answers {_first_line(error)}; try again later", True
    return None


def _reason(folder: Path | None, error: Exception) -> str:
    """Why a model whose files are here cannot be loaded."""
    config = {} if folder is None else _json(folder / CONFIG)
    text = " ".join(str(each) for each in _chain(error))
    kind = str(config.get("model_type", ""))
    if "trust_remote_code" in text or "contains custom code" in text:
        return "it needs code that comes with it; read that code, then set model.trust_remote_code = true"
    if kind and kind not in CONFIG_MAPPING and not config.get("auto_map"):
        saved = config.get("transformers_version")
        by = f" (it was saved with {saved})" if saved else ""
        return (
            f"the installed transformers {transformers_version} knows no model_type {kind!r}"
            f"{did_you_mean(kind, CONFIG_MAPPING.keys())}; correct {CONFIG}, or install a version that knows it{by}"
        )
    if not kind and ("model_type" in text or "model type" in text):
        return f'{CONFIG} names no architecture: it has no "model_type"; add it'
    if folder is not None and not any(_is_of_a_tokenizer(file) for file in folder.iterdir()) and _concerns(error):
        return (
            "it has no tokenizer; fetch tokenizer.json and tokenizer_config.json, or save it there: "
            "AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
        )
    if isinstance(error, ImportError) or "requires the following packages" in text or "pip install" in text:
        return f"it needs a package that is not there: {_first_line(error)}"
    if _concerns(error):
        return f"{_first_line(error)}; check its tokenizer files, or save them with the installed transformers"
    if "Unrecognized configuration class" in text:
        return f"transformers has no text model of the type {kind!r}; use a model that has one"
    return f"{one_line(error).rstrip('.')}; check its {CONFIG}"


def _concerns(error: Exception) -> bool:
    """Whether an error comes from a tokenizer."""
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return "okenizer" in str(error) or any("tokenization" in file for file in frames)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
