"""Resolves the model that a recipe names, without importing torch or transformers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftkit.components import ModelKind, Objective
from peftkit.errors import comma_separated, did_you_mean, summarize_error

BUILT_IN_MODELS = ("pocket-t5", "pocket-decoder", "pocket-encoder")
ASSETS = Path(__file__).parents[1] / "assets"
HUB_ID = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
"""The form of model ids on the Hugging Face Hub."""
GENERATES = ("ForConditionalGeneration", "ForCausalLM")
"""Suffixes of multimodal architectures that generate text."""
NOT_MODEL_CONFIGS = frozenset({"text_config", "quantization_config", "task_specific_params", "generation_config"})
"""Tables of a config that do not configure a part of the model beside its text model."""
ENCODER_CLASSES = ("mt5", "t5", "umt5")
"""The encoder-decoders of which transformers and sentence-transformers load the encoder alone."""
TEXT_MODEL_ARCHITECTURE = "TextModelForCausalLM"
"""The architecture name of a text model within a multimodal model."""


def model_path(name: str) -> str:
    """Return what ``from_pretrained`` takes: the folder of a built-in model, else the name itself."""
    return str(ASSETS / name) if name in BUILT_IN_MODELS else name


def is_local_model(name: str) -> bool:
    """Return whether a model is on this machine and not on the Hub."""
    return Path(model_path(name)).exists() or not HUB_ID.fullmatch(name)


def model_config(name: str) -> Mapping[str, Any]:
    """Read the ``config.json`` of a local or built-in model; empty for a Hub model."""
    try:
        config = json.loads((Path(model_path(name)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the text model of a multimodal model; other configs are returned as they are."""
    text = config.get("text_config")
    others = [key for key in config if key.endswith("_config") and key not in NOT_MODEL_CONFIGS and config[key]]
    if not isinstance(text, dict) or not others or config.get("is_encoder_decoder"):
        return config
    if not _architecture(config).endswith(GENERATES) or text.get("is_encoder_decoder"):
        return config
    return {
        "vocab_size": config.get("vocab_size"),
        **text,
        "model_type": text.get("model_type", config.get("model_type")),
        "architectures": [TEXT_MODEL_ARCHITECTURE],
    }


def model_kind(config: Mapping[str, Any]) -> ModelKind | None:
    """Determine whether a model is an encoder, a decoder or an encoder-decoder.

    Configs with ``is_encoder_decoder`` are encoder-decoders. The architectures ``…ForCausalLM`` and ``…LMHeadModel``
    and the text models of multimodal models are decoders, except XLM, FlauBERT and XLNet if their config lets them read
    both directions; all other architectures are encoders.

    Args:
        config: The model's ``config.json``.

    Returns:
        The kind; None if the config names no architecture.
    """
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    architecture = _architecture(text_config(config))
    if not architecture:
        return None
    is_decoder = architecture.endswith(("ForCausalLM", "LMHeadModel")) and not _reads_both_directions(config)
    return "decoder" if is_decoder else "encoder"


def trained_kind(config: Mapping[str, Any], objectives: Iterable[type[Objective]]) -> ModelKind | None:
    """Determine the kind of what is loaded of a model: of some encoder-decoders the encoder, for vectors of texts.

    Args:
        config: The model's ``config.json``.
        objectives: The objectives of a kind of task.

    Returns:
        The kind; None if the config names no architecture.
    """
    kind, classes = model_kind(config), [*objectives]
    if kind != "encoder-decoder" or not has_encoder_class(config):
        return kind
    encodes = any(each.encodes_texts for each in classes)
    return "encoder" if encodes and not any(kind in each.families for each in classes) else kind


def has_encoder_class(config: Mapping[str, Any]) -> bool:
    """Return whether transformers and sentence-transformers load the encoder of an encoder-decoder alone."""
    return config.get("model_type") in ENCODER_CLASSES


def _reads_both_directions(config: Mapping[str, Any]) -> bool:
    """Return whether an architecture ``…LMHeadModel`` is not a causal one, as in masked language models."""
    architecture = _architecture(config)
    if architecture == "XLNetLMHeadModel":
        return bool(config.get("attn_type", "bi") != "uni")
    return architecture.endswith("WithLMHeadModel") and not config.get("causal")


def _architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list | tuple) and architectures else ""


def architectures_problem(value: Any) -> str:
    """Return why a value cannot be the ``architectures`` of a config, or an empty text.

    Args:
        value: The value; None and an empty list name no architecture.
    """
    if value is None or (isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)):
        return ""
    remedy = f'; write ["{value}"]' if isinstance(value, str) and value else ""
    return f"architectures must be a list of class names, not {value!r}{remedy}"


def validate_model_name(name: str) -> str:
    """Return why a name cannot be a model, or an empty text; Hub ids are only checked for their form."""
    if name in BUILT_IN_MODELS:
        return ""
    try:
        return _name_problem(name, Path(name.replace("\0", "?")))
    except OSError as error:  # no permission, or a name that is too long
        return f"{name!r} cannot be read: {error.strerror or error}"


def _name_problem(name: str, path: Path) -> str:
    if path.is_dir():
        return _folder_problem(name, path)
    if path.is_file():
        return f"{name!r} is a file; use the folder that contains it and its config.json"
    guess = did_you_mean(name, BUILT_IN_MODELS) if "/" not in name else ""
    if HUB_ID.fullmatch(name) and not guess:
        return ""
    if not guess and path.parent.is_dir():
        guess = did_you_mean(path.name, sorted(p.name for p in path.parent.iterdir() if p.is_dir()))
    return f"{name!r} is not a folder, a Hub id or a built-in model ({comma_separated(BUILT_IN_MODELS)}){guess}"


def _folder_problem(name: str, folder: Path) -> str:
    """Return why a folder is not a model, or an empty text."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, LookupError, TypeError):
            base = None
        remedy = f"its base model, {base!r}" if base else "the model that it was trained on"
        return f"{name!r} is an adapter and not a model (adapter_config.json); use {remedy}, or merge them first"
    if (folder / "recipe.toml").is_file() and (folder / "summary.json").is_file():
        merge = shlex.join(["peftkit", "merge", name, f"{folder}-merged"])
        return f"{name!r} is a run and not a model; write its model into a folder first: {merge}"
    file = folder / "config.json"
    if not file.is_file():
        gguf = next((file.name for file in sorted(folder.glob("*.gguf"))), None)
        if gguf:
            return f"{name!r} contains GGUF weights only ({gguf}); use the model that they were converted from"
        return f"{name!r} is not a model: it has no config.json"
    text = file.read_bytes()
    if text.startswith(b"version https://git-lfs"):
        return f"the config.json of {name!r} is a Git LFS pointer; run: git lfs pull"
    try:
        config = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return f"the config.json of {name!r} cannot be read: {summarize_error(error)}"
    if not isinstance(config, dict) or not config:
        return f"the config.json of {name!r} is not a JSON object"
    problem = architectures_problem(config.get("architectures"))
    return f"the config.json of {name!r} is invalid: {problem}" if problem else ""
